//! Our side: a turnpike-bgpd that is asked over its control socket.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use turnpike_bgpd_api::config::{Config, PolicyChoice, RemoteAs};
use turnpike_bgpd_api::view::{PathView, PeerView, SessionView};
use turnpike_bgpd_api::{
    Asn, Client, DEFAULT_CONFIG, DEFAULT_SOCKET, Family, LargeCommunity, Network, Peer, Reply, Request,
    RibQuery, RouterId, Select, Table,
};
use turnpike_testbed::{Node, Process, binary, poll_result};

use crate::terms::{DEADLINE, OUR_V4, OUR_V6, Terms, is_v4};

/// The name of the peer under test.
pub(crate) const PEER: &str = "peer";

/// What our prefixes carry, `65001:3:4`.
pub(crate) fn our_large(terms: &Terms) -> LargeCommunity {
    LargeCommunity { global: terms.our_as, local1: 3, local2: 4 }
}

/// A network of ours.
pub(crate) fn network(prefix: &str, terms: &Terms) -> Result<Network> {
    let prefix = prefix.parse().with_context(|| format!("prefix {prefix}"))?;
    Ok(Network { large_communities: vec![our_large(terms)], ..Network::new(prefix) })
}

/// Our configuration under these terms; a proof changes what it is about.
pub(crate) fn config(terms: &Terms) -> Result<Config> {
    let mut peer = Peer::new(terms.theirs(), RemoteAs::Number(Asn(terms.their_as)));
    peer.name = Some(PEER.to_owned());
    peer.hold_time = terms.hold_time;
    peer.connect_retry = 1;
    peer.import = PolicyChoice::AcceptAll;
    peer.export = PolicyChoice::AcceptAll;
    peer.extended_next_hop = terms.next_hop_v6;
    peer.families = [(Family::Ipv4, terms.ipv4), (Family::Ipv6, terms.ipv6)]
        .into_iter()
        .filter_map(|(family, carried)| carried.then_some(family))
        .collect();
    let mut networks = Vec::new();
    for prefix in [OUR_V4, OUR_V6] {
        if if is_v4(prefix) { terms.ipv4 } else { terms.ipv6 } {
            networks.push(network(prefix, terms)?);
        }
    }
    let mut config = Config {
        asn: Some(Asn(terms.our_as)),
        router_id: Some(RouterId([10, 0, 0, 1].into())),
        peers: vec![peer],
        networks,
        ..Config::default()
    };
    config.kernel.enabled = false;
    Ok(config)
}

/// A running daemon, or one that was killed and can be started again.
pub(crate) struct Ours {
    node: Node,
    process: Process,
}

impl Ours {
    pub(crate) fn start(node: &Node, config: &Config) -> Result<Self> {
        node.write_file(DEFAULT_CONFIG, toml::to_string(config)?)?;
        let ours = Self { node: node.clone(), process: launch(node)? };
        ours.wait_answer()?;
        let program = binary("turnpike")?.display().to_string();
        node.on_failure("bgpd-peers.txt", &[program.as_str(), "bgp", "peers", "-o", "json"]);
        Ok(ours)
    }

    fn wait_answer(&self) -> Result<()> {
        poll_result(DEADLINE, &format!("turnpike-bgpd in {}", self.node.name()), || {
            match self.process.try_wait()? {
                Some(status) => Ok(Err(anyhow!("turnpike-bgpd ended, {status}:\n{}", self.process.log()))),
                None => self.client()?.status().map(|_| Ok(())).context("status"),
            }
        })?
    }

    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.node.path(DEFAULT_SOCKET)?, Duration::from_secs(10))?)
    }

    /// Reads another configuration without a restart.
    pub(crate) fn reload(&self, config: &Config) -> Result<()> {
        self.node.write_file(DEFAULT_CONFIG, toml::to_string(config)?)?;
        match self.client()?.request(&Request::Reload)? {
            Reply::Pushed { refused } => ensure!(refused.is_empty(), "refused: {refused:?}"),
            other => bail!("bgpd answers a reload with {other:?}"),
        }
        Ok(())
    }

    pub(crate) fn peer(&self) -> Result<PeerView> {
        self.client()?.peers(Some(PEER))?.pop().context("no peer")
    }

    pub(crate) fn wait_up(&self) -> Result<SessionView> {
        poll_result(DEADLINE, "our session to be established", || {
            let peer = self.peer()?;
            peer.session.with_context(|| format!("it is {}: {:?}", peer.state, peer.last_error))
        })
    }

    pub(crate) fn wait_down(&self) -> Result<PeerView> {
        poll_result(DEADLINE, "our session to end", || {
            let peer = self.peer()?;
            ensure!(peer.session.is_none(), "it is established");
            Ok(peer)
        })
    }

    /// Waits until the last NOTIFICATION, sent or received, holds these words.
    pub(crate) fn wait_notification(&self, words: &[&str]) -> Result<()> {
        poll_result(DEADLINE, &format!("{words:?} in our last NOTIFICATION"), || {
            let peer = self.peer()?;
            let said = format!("{:?} {:?}", peer.last_notification, peer.last_error);
            ensure!(words.iter().all(|word| said.contains(word)), "{said}");
            Ok(())
        })
    }

    /// The path of the peer for a prefix, whether it is used or not.
    pub(crate) fn path(&self, prefix: &str) -> Result<Option<PathView>> {
        Ok(self.paths(prefix)?.pop())
    }

    /// All paths of the peer for a prefix.
    pub(crate) fn paths(&self, prefix: &str) -> Result<Vec<PathView>> {
        self.rib(Table::In(PEER.to_owned()), prefix)
    }

    /// The path in use for a prefix, as import has made it.
    pub(crate) fn best(&self, prefix: &str) -> Result<Option<PathView>> {
        Ok(self.rib(Table::Loc, prefix)?.into_iter().find(|path| path.best))
    }

    fn rib(&self, table: Table, prefix: &str) -> Result<Vec<PathView>> {
        let query = RibQuery {
            table,
            select: Select::Exact(prefix.parse().with_context(|| format!("prefix {prefix}"))?),
            after: None,
            limit: 10,
        };
        Ok(self.client()?.rib(query)?)
    }

    pub(crate) fn wait_path(&self, prefix: &str) -> Result<PathView> {
        poll_result(DEADLINE, &format!("{prefix} to reach us"), || self.path(prefix)?.context("no such path"))
    }

    pub(crate) fn wait_no_path(&self, prefix: &str) -> Result<()> {
        poll_result(DEADLINE, &format!("{prefix} to leave us"), || {
            ensure!(self.path(prefix)?.is_none(), "it is there");
            Ok(())
        })
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.kill(signal)
    }

    /// Ends it with a signal.
    pub(crate) fn end(&self, signal: Signal) -> Result<()> {
        self.process.kill(signal)?;
        self.process.wait_exit(DEADLINE).map(drop)
    }

    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.process = launch(&self.node)?;
        self.wait_answer()
    }
}

fn launch(node: &Node) -> Result<Process> {
    let mut command = node.command(binary("turnpike-bgpd")?)?;
    command.args(["--config", DEFAULT_CONFIG]).env("RUST_LOG", "info,turnpike_bgpd=debug");
    node.spawn("turnpike-bgpd", command)
}
