//! BGP daemons of several makers behind one trait: the same configuration in, the same kind of table out.
//!
//! A test names peers and prefixes once, starts any [`Kind`] with them, and compares tables as values. What only
//! one daemon can do stays in its driver.

mod bird;
mod bird_dump;
mod config;
mod frr;
mod frr_dump;
mod rib;
mod turnpike;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use ipnetwork::IpNetwork;

pub use self::bird::Bird;
pub use self::config::{Announcement, Bfd, Families, GracefulRestart, PeerConfig, SpeakerConfig};
pub use self::frr::Frr;
pub use self::rib::{Origin, RibEntry, describe};
pub use self::turnpike::Turnpike;
use crate::node::Node;
use crate::poll::poll_result;

/// How long a session may take to come up, and a table to become what a test waits for. Generous: connect retries and
/// minimum advertisement intervals of 30 s are within the standard.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// A running BGP daemon in a node. Dropping it kills it.
pub trait Speaker: Send {
    /// Which daemon it is.
    fn kind(&self) -> Kind;

    /// Where it runs.
    fn node(&self) -> &Node;

    /// What it was told last.
    fn config(&self) -> &SpeakerConfig;

    /// The state of the session with a peer, as the daemon tells it.
    ///
    /// # Errors
    /// When the daemon does not answer or does not know the peer.
    fn session(&self, peer: IpAddr) -> Result<Session>;

    /// Its table, sorted: every path, the best ones marked, its own announcements too.
    ///
    /// # Errors
    /// When the daemon does not answer, or in a way that is not understood.
    fn rib(&self) -> Result<Vec<RibEntry>>;

    /// Makes it follow a changed configuration without a restart; sessions that did not change stay up.
    ///
    /// # Errors
    /// When the daemon refuses, or cannot change this while running.
    fn reconfigure(&mut self, config: SpeakerConfig) -> Result<()>;

    /// Kills the BGP daemon with SIGKILL; what it gave to the kernel stays.
    ///
    /// # Errors
    /// When it does not end.
    fn kill(&mut self) -> Result<()>;

    /// Ends it as an administrator would: peers are told.
    ///
    /// # Errors
    /// When it does not end.
    fn stop(&mut self) -> Result<()>;

    /// Starts it again after [`Speaker::kill`] or [`Speaker::stop`], as a restart in the sense of RFC 4724 §4.1 where the
    /// configuration says so.
    ///
    /// # Errors
    /// When it does not come up.
    fn start_again(&mut self) -> Result<()>;

    /// The host pid of the BGP daemon, while it runs.
    fn pid(&self) -> Option<u32>;

    /// Announces one more prefix.
    ///
    /// # Errors
    /// As [`Speaker::reconfigure`].
    fn announce(&mut self, announcement: Announcement) -> Result<()> {
        let mut config = self.config().clone();
        config.announce.retain(|other| other.prefix != announcement.prefix);
        config.announce.push(announcement);
        self.reconfigure(config)
    }

    /// Announces a prefix no longer.
    ///
    /// # Errors
    /// As [`Speaker::reconfigure`], or when it was not announced.
    fn withdraw(&mut self, prefix: IpNetwork) -> Result<()> {
        let mut config = self.config().clone();
        let before = config.announce.len();
        config.announce.retain(|other| other.prefix != prefix);
        ensure!(config.announce.len() < before, "{prefix} is not announced");
        self.reconfigure(config)
    }

    /// Waits until the session with `peer` is established.
    ///
    /// # Errors
    /// After [`DEADLINE`]; the error says in which state the session is.
    fn wait_established(&self, peer: IpAddr) -> Result<()> {
        let what = format!("the session of {} ({}) with {peer}", self.node().name(), self.kind());
        poll_result(DEADLINE, &what, || {
            let session = self.session(peer)?;
            if session.established { Ok(()) } else { Err(anyhow!("it is {}", session.state)) }
        })
    }

    /// Waits for all sessions that are configured.
    ///
    /// # Errors
    /// As [`Speaker::wait_established`].
    fn wait_all_established(&self) -> Result<()> {
        self.config().peers.iter().try_for_each(|peer| self.wait_established(peer.address))
    }
}

/// Waits until the table of a speaker is as `wanted`, and returns it.
///
/// # Errors
/// After [`DEADLINE`]; the error holds the last table.
pub fn wait_rib(
    speaker: &dyn Speaker,
    what: &str,
    mut wanted: impl FnMut(&[RibEntry]) -> bool,
) -> Result<Vec<RibEntry>> {
    let what = format!("{what} in the table of {} ({})", speaker.node().name(), speaker.kind());
    poll_result(DEADLINE, &what, || {
        let rib = speaker.rib()?;
        if wanted(&rib) { Ok(rib) } else { Err(anyhow!("the table is\n{}", describe(&rib))) }
    })
}

/// Waits until a speaker has a best path for a prefix, and returns it.
///
/// # Errors
/// As [`wait_rib`].
pub fn wait_best(speaker: &dyn Speaker, prefix: IpNetwork) -> Result<RibEntry> {
    let best = |rib: &[RibEntry]| rib.iter().find(|entry| entry.best && entry.prefix == prefix).cloned();
    let rib = wait_rib(speaker, &format!("a best path for {prefix}"), |rib| best(rib).is_some())?;
    best(&rib).context("the path just seen")
}

/// Waits until a speaker has no path for a prefix.
///
/// # Errors
/// As [`wait_rib`].
pub fn wait_gone(speaker: &dyn Speaker, prefix: IpNetwork) -> Result<()> {
    let gone = |rib: &[RibEntry]| rib.iter().all(|entry| entry.prefix != prefix);
    wait_rib(speaker, &format!("no path for {prefix}"), gone).map(drop)
}

/// A BGP session as its daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Whether it is in the state Established.
    pub established: bool,
    /// The state and what is known about it, in the daemon's words.
    pub state: String,
}

/// The daemons that can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// BIRD 2.
    Bird,
    /// zebra and bgpd of FRR.
    Frr,
    /// Our own.
    Turnpike,
}

impl Kind {
    /// Starts a daemon of this kind.
    ///
    /// # Errors
    /// When it is not installed, refuses the configuration, or does not come up.
    pub fn start(self, node: &Node, config: &SpeakerConfig) -> Result<Box<dyn Speaker>> {
        Ok(match self {
            Self::Bird => Box::new(Bird::start(node, config)?),
            Self::Frr => Box::new(Frr::start(node, config)?),
            Self::Turnpike => Box::new(Turnpike::start(node, config)?),
        })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
            Self::Turnpike => "turnpike-bgpd",
        })
    }
}
