//! turnpike-bgpd: a TOML file, and the control socket for everything else.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use turnpike_bgpd_api::bfd::{BfdView, DEFAULT_BFD_SOCKET, show_bfd};
use turnpike_bgpd_api::config::{Bfd, Config, NextHop, PolicyChoice, RemoteAs};
use turnpike_bgpd_api::view::PathView;
use turnpike_bgpd_api::{
    Asn, Client, Community, DEFAULT_CONFIG, DEFAULT_SOCKET, Family, Network, Peer, Reply, Request, RibQuery,
    RouterId, Select, Table,
};

use super::config::{Announcement, GracefulRestart, PeerConfig, SpeakerConfig};
use super::rib::{Origin, RibEntry, as_path};
use super::{Kind, Session, Speaker};
use crate::node::Node;
use crate::place::binary;
use crate::poll::poll_result;
use crate::process::Process;

const START_DEADLINE: Duration = Duration::from_secs(20);
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// A turnpike-bgpd in a node, with everything in its file and no parts pushed.
pub struct Turnpike {
    node: Node,
    config: SpeakerConfig,
    process: Option<Process>,
    /// After bgpd, which it outlives; where a peer of the first configuration has BFD.
    bfdd: Option<Process>,
}

impl Turnpike {
    /// Starts bgpd and waits until it answers.
    ///
    /// # Errors
    /// When it is not built, refuses the configuration, or does not come up.
    pub fn start(node: &Node, config: &SpeakerConfig) -> Result<Self> {
        let bfdd = start_bfdd(node, config)?;
        let mut bgpd = Self { node: node.clone(), config: config.clone(), process: None, bfdd };
        bgpd.launch()?;
        for (file, what) in [("bgpd-peers.txt", "peers"), ("bgpd-routes.txt", "rib")] {
            let program = binary("turnpike")?.display().to_string();
            node.on_failure(file, &[program.as_str(), "bgp", what]);
        }
        Ok(bgpd)
    }

    fn launch(&mut self) -> Result<()> {
        self.node.write_file(DEFAULT_CONFIG, text(&self.config)?)?;
        let mut command = self.node.command(binary("turnpike-bgpd")?)?;
        command.args(["--config", DEFAULT_CONFIG]);
        let process = self.node.spawn("turnpike-bgpd", command)?;
        poll_result(START_DEADLINE, &format!("turnpike-bgpd in {}", self.node.name()), || {
            match process.try_wait()? {
                Some(status) => Ok(Err(anyhow!("turnpike-bgpd ended, {status}:\n{}", process.log()))),
                None => self.client()?.status().map(|_| Ok(())).context("status"),
            }
        })??;
        self.process = Some(process);
        Ok(())
    }

    /// A connection to its control socket.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.node.path(DEFAULT_SOCKET)?, ANSWER_DEADLINE)?)
    }
}

impl Turnpike {
    /// The BFD sessions, as turnpike-bfdd shows them.
    ///
    /// # Errors
    /// When it does not run or does not answer.
    pub fn bfd(&self) -> Result<Vec<BfdView>> {
        Ok(show_bfd(&self.node.path(DEFAULT_BFD_SOCKET)?, ANSWER_DEADLINE)?)
    }

    /// The process of turnpike-bfdd.
    #[must_use]
    pub fn bfdd(&self) -> Option<&Process> {
        self.bfdd.as_ref()
    }
}

fn start_bfdd(node: &Node, config: &SpeakerConfig) -> Result<Option<Process>> {
    if config.peers.iter().all(|peer| peer.bfd.is_none()) {
        return Ok(None);
    }
    let mut command = node.command(binary("turnpike-bfdd")?)?;
    command.env("RUST_LOG", "debug");
    let bfdd = node.spawn("turnpike-bfdd", command)?;
    let socket = node.path(DEFAULT_BFD_SOCKET)?;
    poll_result(START_DEADLINE, &format!("turnpike-bfdd in {}", node.name()), || {
        match bfdd.try_wait()? {
            Some(status) => Ok(Err(anyhow!("turnpike-bfdd ended, {status}:\n{}", bfdd.log()))),
            None => show_bfd(&socket, ANSWER_DEADLINE).map(|_| Ok(())).context("show"),
        }
    })??;
    Ok(Some(bfdd))
}

impl Speaker for Turnpike {
    fn kind(&self) -> Kind {
        Kind::Turnpike
    }

    fn node(&self) -> &Node {
        &self.node
    }

    fn config(&self) -> &SpeakerConfig {
        &self.config
    }

    fn session(&self, peer: IpAddr) -> Result<Session> {
        let peers = self.client()?.peers(Some(&peer.to_string()))?;
        let view = peers.first().with_context(|| format!("{} does not know {peer}", self.node.name()))?;
        let established = view.session.is_some();
        let error = view.last_error.as_deref().unwrap_or_default();
        Ok(Session { established, state: format!("{} {error}", view.state).trim_end().to_owned() })
    }

    fn rib(&self) -> Result<Vec<RibEntry>> {
        let mut client = self.client()?;
        let mut found = Vec::new();
        for family in Family::ALL {
            let query = RibQuery {
                table: Table::Loc,
                select: Select::Family(family),
                after: None,
                limit: usize::MAX,
            };
            for path in client.rib(query)? {
                let entry = entry(&path).with_context(|| format!("path {path:?}"))?;
                if !is_loop(&entry, &self.config) {
                    found.push(entry);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn reconfigure(&mut self, config: SpeakerConfig) -> Result<()> {
        self.node.write_file(DEFAULT_CONFIG, text(&config)?)?;
        match self.client()?.request(&Request::Reload)? {
            Reply::Pushed { refused } => ensure!(refused.is_empty(), "bgpd refuses: {refused:?}"),
            other => bail!("bgpd answers a reload with {other:?}"),
        }
        self.config = config;
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        // Dropping the guard kills and reaps.
        self.process.take().context("turnpike-bgpd does not run").map(drop)
    }

    fn stop(&mut self) -> Result<()> {
        let process = self.process.take().context("turnpike-bgpd does not run")?;
        // SIGTERM would mean a restart: peers would keep its paths.
        match self.client()?.request(&Request::Shutdown { message: String::new() })? {
            Reply::Ending => process.wait_exit(START_DEADLINE).map(drop),
            other => bail!("bgpd answers a shutdown with {other:?}"),
        }
    }

    fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "turnpike-bgpd runs already");
        self.launch()
    }

    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }
}

/// The configuration file.
fn text(config: &SpeakerConfig) -> Result<String> {
    let mut out = Config {
        asn: Some(Asn(config.asn)),
        router_id: Some(RouterId(config.router_id)),
        cluster_id: config.cluster_id.map(RouterId),
        peers: config.peers.iter().map(peer).collect(),
        networks: config.announce.iter().map(network).collect(),
        ..Config::default()
    };
    out.kernel.enabled = config.kernel;
    let times = config.peers.iter().filter_map(|peer| match peer.graceful_restart {
        GracefulRestart::Restarting(seconds) => Some(seconds),
        _ => None,
    });
    if let Some(seconds) = times.max() {
        out.graceful_restart.restart_time = seconds;
    }
    toml::to_string(&out).context("write the configuration as TOML")
}

/// bgpd knows no role between both sides of graceful restart and none: a peer that shall only be helped gets both.
fn peer(from: &PeerConfig) -> Peer {
    let mut peer = Peer::new(from.address, RemoteAs::Number(Asn(from.remote_asn)));
    peer.local_address = from.local_address;
    peer.hold_time = from.hold_time;
    peer.connect_retry = 1;
    peer.rr_client = from.rr_client;
    peer.graceful_restart = from.graceful_restart != GracefulRestart::Off;
    peer.import = PolicyChoice::AcceptAll;
    peer.export = PolicyChoice::AcceptAll;
    if from.next_hop_self {
        peer.next_hop = NextHop::SelfExternal;
    }
    if from.multihop {
        peer.ttl = Some(64);
    }
    peer.bfd = from.bfd.map(|bfd| Bfd {
        interval_ms: bfd.interval_ms,
        multiplier: bfd.multiplier,
        strict: bfd.strict,
        ..Bfd::default()
    });
    let carried = [(Family::Ipv4, from.families.ipv4), (Family::Ipv6, from.families.ipv6)];
    peer.families = carried.into_iter().filter_map(|(family, carried)| carried.then_some(family)).collect();
    peer
}

fn network(from: &Announcement) -> Network {
    let communities = from.communities.iter().map(|(high, low)| Community::new(*high, *low)).collect();
    Network { med: from.med, communities, ..Network::new(from.prefix.into()) }
}

/// A path that came back to where it has been (RFC 4271 §9.1.2, RFC 4456 §8): bgpd shows it with the reason why it is not
/// used, the others drop it.
fn is_loop(entry: &RibEntry, config: &SpeakerConfig) -> bool {
    let asn = config.asn.to_string();
    let mut ases = entry.as_path.split([' ', ',', '{', '}']);
    entry.originator_id == Some(config.router_id)
        || entry.cluster_list.contains(&config.cluster_id.unwrap_or(config.router_id))
        || ases.any(|other| other == asn)
}

fn entry(path: &PathView) -> Result<RibEntry> {
    let communities = path.communities.iter().map(|one| format!("{}:{}", one.0 >> 16, one.0 & 0xffff));
    let large = path.large_communities.iter().map(ToString::to_string);
    let entry = RibEntry {
        from_peer: path.from,
        best: path.best,
        next_hop: path.next_hop,
        as_path: as_path(&path.as_path),
        origin: Origin::parse(&path.origin).context("origin")?,
        local_pref: path.local_pref,
        med: path.med,
        communities: communities.chain(large).collect(),
        originator_id: path.originator_id.map(|id| id.0),
        cluster_list: path.cluster_list.iter().map(|id| id.0).collect(),
        ..RibEntry::new(path.prefix.into())
    };
    Ok(entry.normalise())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_file_is_one_that_bgpd_takes() {
        let config = SpeakerConfig::new(65001, Ipv4Addr::new(10, 0, 0, 1))
            .cluster_id(Ipv4Addr::new(10, 9, 9, 9))
            .peer(
                PeerConfig::new(Ipv4Addr::new(10, 1, 1, 1), 65001)
                    .rr_client()
                    .graceful_restart(GracefulRestart::Restarting(60)),
            )
            .peer(PeerConfig::new("fd00::2".parse::<IpAddr>().unwrap(), 65002).multihop().next_hop_self())
            .announce(Announcement::new("10.244.0.0/26").unwrap().community(65001, 7).med(3));
        let text = text(&config).unwrap();
        let read = turnpike_bgpd_api::config::parse(&text).unwrap();
        assert_eq!(read.peers.len(), 2);
        assert_eq!(read.peers[1].families, [Family::Ipv6]);
        assert_eq!(read.graceful_restart.restart_time, 60);
        assert_eq!(read.networks[0].communities, [Community::new(65001, 7)]);
        assert!(!read.kernel.enabled);
    }
}
