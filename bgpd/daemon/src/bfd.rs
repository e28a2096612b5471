//! BFD for peers: asks turnpike-bfdd for sessions, and turns what it says into [`PathState`]s for the speaker.
//!
//! bfdd is another process so that our restart is no path failure (RFC 5882 §4.3.2.2): its sessions, with the C bit,
//! go on while we are away. In the other direction the same holds: bfdd's end says nothing about any path.

mod gate;
mod line;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::{info, warn};
use turnpike_bgp_core::PathState;
use turnpike_bgpd_api::bfd::{BfdKey, BfdSpec};
use turnpike_bgpd_api::{Peer, Prefix};

use self::gate::Gate;
use self::line::{News, Wanted};

/// Our name at bfdd.
const OWNER: &str = "turnpike-bgpd";
/// A peer that is not strict may have a session again when BFD has not come back for so long: the peer may have
/// given BFD up, and TCP finds out for itself whether the path is good.
const LONGEST_HOLD: Duration = Duration::from_secs(60);
/// How long bfdd may take to let go of our sessions when we end for good.
const FAREWELL: Duration = Duration::from_secs(1);
/// News that may wait for the engine.
const QUEUE: usize = 64;

/// A BFD session that a peer wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    spec: BfdSpec,
    strict: bool,
}

impl Wish {
    /// `ttl`: of our BGP packets; 1 means that the peer is on the link.
    pub(crate) fn of(peer: &Peer, ttl: u8) -> Option<Self> {
        let bfd = peer.bfd.as_ref()?;
        let near = ttl == 1 || peer.ttl_security == Some(1);
        let interval = bfd.interval_ms.saturating_mul(1000);
        let key = BfdKey {
            peer: peer.address,
            local: peer.local_address,
            interface: peer.interface.clone(),
            multihop: bfd.multihop.unwrap_or(!near),
        };
        let name = peer.label();
        let spec =
            BfdSpec { key, name, min_tx_us: interval, min_rx_us: interval, multiplier: bfd.multiplier };
        Some(Self { spec, strict: bfd.strict })
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Bfd {
    wanted: watch::Sender<Option<Wanted>>,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    gates: BTreeMap<IpAddr, Gate>,
    /// Where peers may be that come back after our restart and have BFD with us all the time.
    keep: Vec<Prefix>,
    problem: Option<String>,
    task: AbortHandle,
}

impl Drop for Bfd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bfd {
    /// Keeps a line to bfdd from now on. Must be called within the runtime.
    pub(crate) fn start(socket: PathBuf) -> Self {
        let (wanted, follow) = watch::channel(None);
        let news = mpsc::channel(QUEUE);
        let task = tokio::spawn(line::keep(socket, follow, news.0.clone())).abort_handle();
        Self { wanted, news, gates: BTreeMap::new(), keep: Vec::new(), problem: None, task }
    }

    /// Sessions from before our restart with peers in these prefixes are let be for so long: nobody has named the peers,
    /// and each must come back first.
    pub(crate) fn keep(&mut self, prefixes: Vec<Prefix>, time: Duration) {
        if prefixes.is_empty() {
            return;
        }
        self.keep = prefixes;
        let later = self.news.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = later.send(News::KeptLongEnough).await;
        });
    }

    /// These sessions are wanted from now on; the state of each path that the speaker must know.
    pub(crate) fn want(&mut self, wishes: &BTreeMap<IpAddr, Wish>) -> Vec<(IpAddr, PathState)> {
        let gone: Vec<IpAddr> =
            self.gates.keys().filter(|peer| !wishes.contains_key(*peer)).copied().collect();
        for peer in &gone {
            self.gates.remove(peer);
        }
        for (peer, wish) in wishes {
            self.gates.entry(*peer).or_default().strict = wish.strict;
        }
        self.declare(wishes.values().map(|wish| wish.spec.clone()).collect());
        if wishes.is_empty() {
            self.problem = None;
        }
        let open = gone.into_iter().map(|peer| (peer, PathState::Open));
        open.chain(self.gates.iter().map(|(peer, gate)| (*peer, gate.present()))).collect()
    }

    fn declare(&self, sessions: Vec<BfdSpec>) {
        let new = Wanted { sessions, keep: self.keep.clone() };
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.as_ref() != Some(&new);
            *wanted = Some(new);
            changed
        });
    }

    /// The next news. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<News> {
        self.news.1.recv().await
    }

    /// What the speaker must know of news.
    pub(crate) fn take(&mut self, news: News) -> Vec<(IpAddr, PathState)> {
        let mut paths = Vec::new();
        match news {
            News::All(views) => {
                if self.problem.take().is_some() {
                    info!("turnpike-bfdd answers");
                }
                for view in views {
                    self.hear(&view, &mut paths);
                }
            }
            News::One(view) => self.hear(&view, &mut paths),
            News::Lost(problem) => {
                let missed = !self.gates.is_empty();
                if missed && self.problem.as_ref() != Some(&problem) {
                    warn!(problem, "no BFD: peers are watched by their hold timers alone");
                }
                self.problem = missed.then_some(problem);
                for (peer, gate) in &mut self.gates {
                    gate.lose();
                    paths.push((*peer, gate.present()));
                }
            }
            News::KeptLongEnough => {
                self.keep.clear();
                let sessions = self.wanted.borrow().as_ref().map(|wanted| wanted.sessions.clone());
                self.declare(sessions.unwrap_or_default());
            }
            News::HeldLongEnough { peer, failure } => {
                if let Some(gate) = self.gates.get_mut(&peer)
                    && gate.give_in(failure)
                {
                    info!(%peer, "BFD has not come back; a session is allowed again without it");
                    paths.push((peer, gate.present()));
                }
            }
        }
        paths
    }

    fn hear(&mut self, view: &turnpike_bgpd_api::bfd::BfdView, paths: &mut Vec<(IpAddr, PathState)>) {
        let peer = view.key.peer;
        let Some(gate) = self.gates.get_mut(&peer) else { return };
        for path in gate.hear(view) {
            paths.push((peer, path));
            let PathState::Failed { independent } = path else { continue };
            warn!(peer = view.name, independent, reason = view.diagnostic, "BFD: the path has failed");
            if gate.strict {
                continue;
            }
            let (failure, later) = (gate.failures, self.news.0.clone());
            tokio::spawn(async move {
                tokio::time::sleep(LONGEST_HOLD).await;
                let _ = later.send(News::HeldLongEnough { peer, failure }).await;
            });
        }
    }

    /// Why there is no BFD, where there should be.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    /// Lets go of all sessions: we end for good. Peers are told AdminDown.
    pub(crate) async fn end(mut self) {
        if self.gates.is_empty() || self.problem.is_some() {
            return;
        }
        self.keep.clear();
        self.want(&BTreeMap::new());
        let empty = async {
            while let Some(news) = self.news.1.recv().await {
                if matches!(&news, News::All(views) if views.is_empty()) {
                    return;
                }
            }
        };
        if timeout(FAREWELL, empty).await.is_err() {
            warn!("turnpike-bfdd keeps our sessions until its orphan time is over");
        }
    }
}
