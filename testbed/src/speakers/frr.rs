//! FRR: zebra and bgpd, configured by files at the start and by `vtysh` later.
//!
//! The daemons run as the user `frr` of Debian's package, with their sockets in the node's own `/run/frr`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::config::{Announcement, GracefulRestart, PeerConfig, SpeakerConfig};
use super::rib::RibEntry;
use super::{Kind, Session, Speaker, frr_dump};
use crate::node::Node;
use crate::poll::poll_result;
use crate::process::Process;

const ZEBRA_CONFIG: &str = "/run/frr/zebra.conf";
const BGPD_CONFIG: &str = "/run/frr/bgpd.conf";
const START_DEADLINE: Duration = Duration::from_secs(20);

/// An FRR in a node.
pub struct Frr {
    node: Node,
    config: SpeakerConfig,
    bgpd: Option<Process>,
    /// Where a peer of the first configuration has BFD.
    _bfdd: Option<Process>,
    /// After bgpd, so that it ends after it.
    _zebra: Process,
}

impl Frr {
    /// Starts zebra and bgpd and waits until both answer.
    ///
    /// # Errors
    /// When they are not installed or do not come up.
    pub fn start(node: &Node, config: &SpeakerConfig) -> Result<Self> {
        // Routes through the default route are as good as others in a lab.
        node.write_file(ZEBRA_CONFIG, "ip nht resolve-via-default\nipv6 nht resolve-via-default\n")?;
        node.run(&["chown", "-R", "frr:frr", "/run/frr"])?;
        let mut command = node.command("/usr/lib/frr/zebra")?;
        // Kernel routes of a bgpd that was killed stay for a while, whatever becomes of zebra.
        command.args(["-f", ZEBRA_CONFIG, "--log", "stdout", "--retain"]);
        let zebra = node.spawn("zebra", command)?;
        wait_for(node, "zebra", &zebra)?;
        let bfdd = start_bfdd(node, config)?;
        let mut frr =
            Self { node: node.clone(), config: config.clone(), bgpd: None, _bfdd: bfdd, _zebra: zebra };
        frr.launch()?;
        let shows =
            ["show bgp summary", "show bgp ipv4 unicast", "show bgp ipv6 unicast", "show running-config"];
        let argv: Vec<&str> =
            ["vtysh"].into_iter().chain(shows.iter().flat_map(|show| ["-c", *show])).collect();
        node.on_failure("frr.txt", &argv);
        Ok(frr)
    }

    fn launch(&mut self) -> Result<()> {
        self.node.write_file(BGPD_CONFIG, text(&self.config))?;
        let mut command = self.node.command("/usr/lib/frr/bgpd")?;
        command.args(["-f", BGPD_CONFIG, "--log", "stdout"]);
        if !self.config.kernel {
            command.arg("--no_kernel");
        }
        let bgpd = self.node.spawn("bgpd", command)?;
        wait_for(&self.node, "bgpd", &bgpd)?;
        self.bgpd = Some(bgpd);
        Ok(())
    }

    /// Runs `vtysh -c "show … json"`.
    fn show(&self, what: &str) -> Result<Value> {
        self.node.json(&["vtysh", "-c", &format!("show {what}")])
    }

    fn configure(&self, lines: &str) -> Result<()> {
        let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        let words = ["configure terminal"].into_iter().chain(lines).flat_map(|line| ["-c", line]);
        let argv: Vec<&str> = ["vtysh", "-d", "bgpd"].into_iter().chain(words).collect();
        let output = self.node.run(&argv)?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(!said.contains('%'), "FRR refuses: {said}");
        Ok(())
    }
}

fn start_bfdd(node: &Node, config: &SpeakerConfig) -> Result<Option<Process>> {
    if config.peers.iter().all(|peer| peer.bfd.is_none()) {
        return Ok(None);
    }
    let mut command = node.command("/usr/lib/frr/bfdd")?;
    command.args(["--log", "stdout"]);
    let bfdd = node.spawn("bfdd", command)?;
    wait_for(node, "bfdd", &bfdd)?;
    Ok(Some(bfdd))
}

/// Waits until `vtysh` gets an answer from a daemon, which must have taken every line of its file: FRR starts without those
/// that it does not understand.
fn wait_for(node: &Node, daemon: &str, process: &Process) -> Result<()> {
    poll_result(START_DEADLINE, &format!("{daemon} in {}", node.name()), || match process.try_wait()? {
        Some(status) => Ok(Err(anyhow!("{daemon} ended, {status}:\n{}", process.log()))),
        None => node.run(&["vtysh", "-d", daemon, "-c", "show version"]).map(|_| Ok(())),
    })??;
    let log = process.log();
    let refused: Vec<&str> = log.lines().filter(|line| line.contains("on config line")).collect();
    ensure!(refused.is_empty(), "{daemon} refuses {}", refused.join(", "));
    Ok(())
}

impl Speaker for Frr {
    fn kind(&self) -> Kind {
        Kind::Frr
    }

    fn node(&self) -> &Node {
        &self.node
    }

    fn config(&self) -> &SpeakerConfig {
        &self.config
    }

    fn session(&self, peer: IpAddr) -> Result<Session> {
        let answer = self.show(&format!("bgp neighbors {peer} json"))?;
        let found =
            answer.get(peer.to_string()).with_context(|| format!("FRR does not know {peer}: {answer}"))?;
        let text = |key: &str| found.get(key).and_then(Value::as_str).unwrap_or_default();
        let state = text("bgpState");
        Ok(Session {
            established: state == "Established",
            state: format!("{state} {}", text("lastResetDueTo")).trim_end().to_owned(),
        })
    }

    fn rib(&self) -> Result<Vec<RibEntry>> {
        let mut found = Vec::new();
        for family in ["ipv4", "ipv6"] {
            let dump = self.node.text(&["vtysh", "-c", &format!("show bgp {family} unicast json detail")])?;
            found.extend(frr_dump::parse(&dump).with_context(|| format!("FRR's {family} table:\n{dump}"))?);
        }
        found.sort();
        Ok(found)
    }

    fn reconfigure(&mut self, config: SpeakerConfig) -> Result<()> {
        let old = &self.config;
        let fixed = |config: &SpeakerConfig| (config.asn, config.router_id, config.cluster_id, config.kernel);
        ensure!(fixed(old) == fixed(&config), "FRR changes only peers and announcements while it runs");
        let mut lines = String::new();
        // A changed peer is removed with all that was said about it, and made anew.
        let gone = old.peers.iter().filter(|peer| !config.peers.contains(peer));
        gone.for_each(|peer| _ = writeln!(lines, "no neighbor {}", peer.address));
        let gone = old.announce.iter().filter(|one| !config.announce.contains(one));
        gone.for_each(|one| lines.push_str(&in_family(one, &format!("no network {}", one.prefix))));
        let new = config.peers.iter().filter(|peer| !old.peers.contains(peer));
        new.for_each(|peer| lines.push_str(&neighbor(peer)));
        let new: Vec<&Announcement> =
            config.announce.iter().filter(|one| !old.announce.contains(one)).collect();
        let maps: String = new.iter().filter_map(|one| route_map(one)).collect();
        new.iter().for_each(|one| lines.push_str(&network(one)));
        self.configure(&format!("{maps}router bgp {}\n{lines}", config.asn))?;
        self.config = config;
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        // Dropping the guard kills and reaps.
        self.bgpd.take().context("bgpd does not run").map(drop)
    }

    fn stop(&mut self) -> Result<()> {
        let bgpd = self.bgpd.take().context("bgpd does not run")?;
        bgpd.stop().map(drop)
    }

    fn start_again(&mut self) -> Result<()> {
        if self.bgpd.is_some() {
            bail!("bgpd runs already");
        }
        self.launch()
    }

    fn pid(&self) -> Option<u32> {
        self.bgpd.as_ref().map(Process::pid)
    }
}

/// bgpd's configuration file.
fn text(config: &SpeakerConfig) -> String {
    let mut out: String = config.announce.iter().filter_map(route_map).collect();
    let _ = writeln!(
        out,
        "router bgp {}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         no bgp default ipv4-unicast\n coalesce-time 0",
        config.asn, config.router_id
    );
    if let Some(id) = config.cluster_id {
        let _ = writeln!(out, " bgp cluster-id {id}");
    }
    let restart_time = config.peers.iter().find_map(|peer| match peer.graceful_restart {
        GracefulRestart::Restarting(seconds) => Some(seconds),
        _ => None,
    });
    if let Some(seconds) = restart_time {
        let _ = writeln!(
            out,
            " bgp graceful-restart restart-time {seconds}\n bgp graceful-restart preserve-fw-state"
        );
    }
    for family in ["ipv4", "ipv6"] {
        let _ = writeln!(
            out,
            " address-family {family} unicast\n  maximum-paths 16\n  maximum-paths ibgp 16\n exit-address-family"
        );
    }
    config.peers.iter().for_each(|peer| out.push_str(&neighbor(peer)));
    config.announce.iter().for_each(|one| out.push_str(&network(one)));
    out
}

fn neighbor(peer: &PeerConfig) -> String {
    let name = format!(" neighbor {}", peer.address);
    let mut out = format!(
        "{name} remote-as {}\n{name} timers {} {}\n{name} timers connect 1\n{name} advertisement-interval 0\n",
        peer.remote_asn,
        peer.hold_time / 3,
        peer.hold_time
    );
    if let Some(address) = peer.local_address {
        let _ = writeln!(out, "{name} update-source {address}");
    }
    if peer.multihop {
        let _ = writeln!(out, "{name} ebgp-multihop");
    }
    if let Some(bfd) = peer.bfd {
        let _ = writeln!(out, "{name} bfd {} {} {}", bfd.multiplier, bfd.interval_ms, bfd.interval_ms);
    }
    out.push_str(&match peer.graceful_restart {
        GracefulRestart::Off => format!("{name} graceful-restart-disable\n"),
        GracefulRestart::Aware => format!("{name} graceful-restart-helper\n"),
        GracefulRestart::Restarting(_) => format!("{name} graceful-restart\n"),
    });
    for (family, carried) in [("ipv4", peer.families.ipv4), ("ipv6", peer.families.ipv6)] {
        if !carried {
            continue;
        }
        let _ = writeln!(out, " address-family {family} unicast\n {name} activate");
        if peer.rr_client {
            let _ = writeln!(out, " {name} route-reflector-client");
        }
        if peer.next_hop_self {
            let _ = writeln!(out, " {name} next-hop-self");
        }
        out.push_str(" exit-address-family\n");
    }
    out
}

fn network(one: &Announcement) -> String {
    let map = if has_attributes(one) { format!(" route-map {}", map_name(one)) } else { String::new() };
    in_family(one, &format!("network {}{map}", one.prefix))
}

fn in_family(one: &Announcement, line: &str) -> String {
    let family = if one.prefix.is_ipv4() { "ipv4" } else { "ipv6" };
    format!(" address-family {family} unicast\n  {line}\n exit-address-family\n")
}

fn has_attributes(one: &Announcement) -> bool {
    !one.communities.is_empty() || one.med.is_some()
}

fn map_name(one: &Announcement) -> String {
    format!("OWN-{}", one.prefix.to_string().replace(['/', ':', '.'], "-"))
}

fn route_map(one: &Announcement) -> Option<String> {
    has_attributes(one).then(|| {
        let mut out = format!("route-map {} permit 10\n", map_name(one));
        if !one.communities.is_empty() {
            let list: Vec<String> =
                one.communities.iter().map(|(high, low)| format!("{high}:{low}")).collect();
            let _ = writeln!(out, " set community {}", list.join(" "));
        }
        if let Some(med) = one.med {
            let _ = writeln!(out, " set metric {med}");
        }
        out.push_str("exit\n");
        out
    })
}
