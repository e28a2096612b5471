//! BIRD 2: configuration written whole, `birdc` for everything else.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ipnetwork::IpNetwork;

use super::config::{Announcement, GracefulRestart, PeerConfig, SpeakerConfig};
use super::rib::RibEntry;
use super::{Kind, Session, Speaker, bird_dump};
use crate::node::Node;
use crate::poll::poll_result;
use crate::process::Process;

const CONFIG: &str = "/run/bird/bird.conf";
const SOCKET: &str = "/run/bird/bird.ctl";
const START_DEADLINE: Duration = Duration::from_secs(20);

/// A BIRD 2 in a node.
pub struct Bird {
    node: Node,
    config: SpeakerConfig,
    process: Option<Process>,
}

impl Bird {
    /// Starts BIRD and waits until it answers.
    ///
    /// # Errors
    /// When it refuses the configuration or does not come up.
    pub fn start(node: &Node, config: &SpeakerConfig) -> Result<Self> {
        let mut bird = Self { node: node.clone(), config: config.clone(), process: None };
        bird.launch(false)?;
        for (file, what) in [("bird-protocols.txt", "protocols"), ("bird-routes.txt", "route")] {
            node.on_failure(file, &["birdc", "-s", SOCKET, "show", what, "all"]);
        }
        Ok(bird)
    }

    fn launch(&mut self, recover: bool) -> Result<()> {
        self.node.write_file(CONFIG, text(&self.config))?;
        let mut command = self.node.command("bird")?;
        command.args(["-f", "-c", CONFIG, "-s", SOCKET]);
        if recover {
            command.arg("-R");
        }
        let process = self.node.spawn("bird", command)?;
        poll_result(START_DEADLINE, &format!("BIRD in {}", self.node.name()), || {
            match process.try_wait()? {
                Some(status) => Ok(Err(anyhow::anyhow!("BIRD ended, {status}:\n{}", process.log()))),
                None => self.birdc(&["show", "status"]).map(Ok),
            }
        })??;
        self.process = Some(process);
        Ok(())
    }

    fn birdc(&self, words: &[&str]) -> Result<String> {
        self.node.text(&[&["birdc", "-s", SOCKET], words].concat())
    }

    /// The name of the protocol for a peer: its place in the configuration.
    fn protocol(&self, peer: IpAddr) -> Result<String> {
        let place = self.config.peers.iter().position(|other| other.address == peer);
        Ok(format!("peer{}", place.with_context(|| format!("{peer} is no peer of {}", self.node.name()))?))
    }
}

impl Speaker for Bird {
    fn kind(&self) -> Kind {
        Kind::Bird
    }

    fn node(&self) -> &Node {
        &self.node
    }

    fn config(&self) -> &SpeakerConfig {
        &self.config
    }

    fn session(&self, peer: IpAddr) -> Result<Session> {
        let name = self.protocol(peer)?;
        let answer = self.birdc(&["show", "protocols", &name])?;
        // Name, protocol, table, state, since (one or two words), then the BGP state and its reason.
        let line = answer.lines().find(|line| line.split_whitespace().next() == Some(&name));
        let state = line.with_context(|| format!("BIRD does not know {name}: {answer}"))?;
        let words: Vec<&str> = state.split_whitespace().skip(4).collect();
        Ok(Session { established: words.contains(&"Established"), state: words.join(" ") })
    }

    fn rib(&self) -> Result<Vec<RibEntry>> {
        let peers: Vec<IpAddr> = self.config.peers.iter().map(|peer| peer.address).collect();
        bird_dump::parse(&self.birdc(&["show", "route", "all"])?, &peers)
    }

    fn reconfigure(&mut self, config: SpeakerConfig) -> Result<()> {
        self.node.write_file(CONFIG, text(&config))?;
        let answer = self.birdc(&["configure"])?;
        ensure!(
            answer.contains("Reconfigured") || answer.contains("Reconfiguration in progress"),
            "{answer}"
        );
        self.config = config;
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        // Dropping the guard kills and reaps.
        self.process.take().context("BIRD does not run").map(drop)
    }

    fn stop(&mut self) -> Result<()> {
        let process = self.process.take().context("BIRD does not run")?;
        process.stop().map(drop)
    }

    fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("BIRD runs already");
        }
        let restarting = |peer: &PeerConfig| matches!(peer.graceful_restart, GracefulRestart::Restarting(_));
        self.launch(self.config.peers.iter().any(restarting))
    }

    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }
}

/// The configuration file.
fn text(config: &SpeakerConfig) -> String {
    let mut out = format!(
        "log stderr all;\nrouter id {};\nprotocol device {{ scan time 2; }}\nprotocol direct {{ ipv4; ipv6; }}\n",
        config.router_id
    );
    for (family, number) in [("ipv4", 4), ("ipv6", 6)] {
        let export = if config.kernel { "where source = RTS_BGP" } else { "none" };
        // Kernel routes are learned, so that next hops resolve as the node's own traffic does.
        let _ = writeln!(
            out,
            "protocol kernel kernel{number} {{ learn; persist; scan time 2; merge paths on limit 16; \
             graceful restart on; {family} {{ import all; export {export}; }}; }}"
        );
        let _ = writeln!(out, "protocol static announced{number} {{ {family};");
        let own = config.announce.iter().filter(|one| one.prefix.is_ipv4() == (number == 4));
        own.for_each(|one| out.push_str(&announcement(one)));
        out.push_str("}\n");
        // A MED goes to an eBGP peer only when the export filter itself sets it.
        let _ = writeln!(
            out,
            "filter out{number} {{\n  if source = RTS_BGP then accept;\n  if proto != \"announced{number}\" then reject;\n  \
             if defined(bgp_med) then bgp_med = bgp_med;\n  accept;\n}}"
        );
    }
    if config.peers.iter().any(|peer| peer.bfd.is_some()) {
        out.push_str("protocol bfd bfd0 {}\n");
    }
    for (place, peer) in config.peers.iter().enumerate() {
        out.push_str(&protocol(config, place, peer));
    }
    out
}

fn announcement(one: &Announcement) -> String {
    let mut out = format!("  route {} blackhole {{", prefix(one.prefix));
    for (high, low) in &one.communities {
        let _ = write!(out, " bgp_community.add(({high},{low}));");
    }
    if let Some(med) = one.med {
        let _ = write!(out, " bgp_med = {med};");
    }
    out.push_str(" };\n");
    out
}

/// BIRD refuses prefixes with bits of a host.
fn prefix(prefix: IpNetwork) -> String {
    format!("{}/{}", prefix.network(), prefix.prefix())
}

fn protocol(config: &SpeakerConfig, place: usize, peer: &PeerConfig) -> String {
    let local = peer.local_address.map(|address| format!("{address} ")).unwrap_or_default();
    let mut out = format!(
        "protocol bgp peer{place} {{\n  local {local}as {};\n  neighbor {} as {};\n  hold time {};\n",
        config.asn, peer.address, peer.remote_asn, peer.hold_time
    );
    // Tests break sessions on purpose; the defaults of a minute and five are for the wide world.
    out.push_str(
        "  connect delay time 1; connect retry time 2; error wait time 1, 4; error forget time 30;\n",
    );
    if peer.multihop {
        out.push_str("  multihop;\n");
    }
    if let Some(bfd) = peer.bfd {
        let _ = writeln!(out, "  bfd {{ interval {} ms; multiplier {}; }};", bfd.interval_ms, bfd.multiplier);
    }
    if peer.rr_client {
        let id = config.cluster_id.unwrap_or(config.router_id);
        let _ = writeln!(out, "  rr client; rr cluster id {id};");
    }
    match peer.graceful_restart {
        GracefulRestart::Off => out.push_str("  graceful restart off;\n"),
        GracefulRestart::Aware => out.push_str("  graceful restart aware;\n"),
        GracefulRestart::Restarting(seconds) => {
            let _ = writeln!(out, "  graceful restart on; graceful restart time {seconds};");
        }
    }
    let hop = if peer.next_hop_self { " next hop self ebgp;" } else { "" };
    for (family, number, carried) in [("ipv4", 4, peer.families.ipv4), ("ipv6", 6, peer.families.ipv6)] {
        if carried {
            let _ = writeln!(out, "  {family} {{ import all;{hop} export filter out{number}; }};");
        }
    }
    out.push_str("}\n");
    out
}
