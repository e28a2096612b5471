//! What happened, for logs, counters and watchers. Nothing depends on anyone reading it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use turnpike_bgp_wire::{Families, Family, Prefix};

use crate::config::ConfigError;
use crate::input::CloseReason;
use crate::query::{PeerId, SessionState};

/// A notable happening. `Display` gives the sentence for people.
#[derive(Clone, PartialEq, Debug, Serialize, thiserror::Error)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Nothing of a new configuration was taken.
    #[error("configuration refused: {}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    ConfigRefused {
        /// Every mistake.
        #[serde(serialize_with = "as_texts")]
        errors: Vec<ConfigError>,
    },
    /// A connection from an address that is no peer's.
    #[error("connection from {remote} refused: no such peer, or not on this local address")]
    UnknownPeer {
        /// Who.
        remote: SocketAddr,
    },
    /// The peer's session state as shown changed.
    #[error("peer {name}: {from} to {to}")]
    State {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// Before.
        from: SessionState,
        /// Now.
        to: SessionState,
    },
    /// A session is Established.
    #[error("peer {name}: established")]
    Up {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// What both sides can do.
        families: Families,
        /// The peer says that it has restarted (R bit).
        restarted: bool,
    },
    /// An Established session ended.
    #[error("peer {name}: down: {reason}{}", if *kept { " (paths kept for its restart)" } else { "" })]
    Down {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// Why.
        reason: DownReason,
        /// Its paths are stale but stay in use.
        kept: bool,
    },
    /// A peer out of a listen range has gone, and its paths with it.
    #[error("peer {name}: gone, as nobody named it")]
    Left {
        /// Its name.
        name: String,
        /// Its address.
        remote: IpAddr,
    },
    /// A connection ended before it was Established.
    #[error("peer {name}: connection failed: {reason}")]
    ConnectionFailed {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// Why.
        reason: DownReason,
    },
    /// End-of-RIB came.
    #[error("peer {name}: End-of-RIB for {family}")]
    EndOfRib {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// For which family.
        family: Family,
    },
    /// Stale paths of a peer are gone.
    #[error("peer {name}: {count} stale {family} paths removed: {reason}")]
    StaleRemoved {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// Of which family.
        family: Family,
        /// How many.
        count: usize,
        /// Why now.
        reason: SweepReason,
    },
    /// A peer has been away for longer than its restart time: its paths stay as the last resort (RFC 9494 §4.2).
    #[error("peer {name}: {count} stale {family} paths kept as a last resort")]
    LongLived {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// Of which family.
        family: Family,
        /// How many.
        count: usize,
    },
    /// An UPDATE with a mistake that RFC 7606 does not answer with a reset.
    #[error("peer {name}: malformed UPDATE: {problem}: {outcome}")]
    MalformedUpdate {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// What was wrong.
        problem: String,
        /// What was done.
        outcome: &'static str,
    },
    /// The peer went over its prefix limit. Once per session and family.
    #[error("peer {name}: more than {limit} {family} prefixes")]
    PrefixLimit {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// Of which family.
        family: Family,
        /// The limit.
        limit: u32,
    },
    /// The peer has announced more paths of one prefix (RFC 7911) than are taken. Once per session.
    #[error("peer {name}: more than {limit} paths of {prefix}; further ones are dropped")]
    PathLimit {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// Of which prefix.
        prefix: Prefix,
        /// The limit.
        limit: usize,
    },
    /// A path is not announced: its attributes leave no room for a prefix in the peer's messages.
    #[error("peer {name}: {prefix} not announced: its attributes do not fit a message")]
    TooLarge {
        /// Which peer.
        peer: PeerId,
        /// Its name.
        name: String,
        /// One of the prefixes.
        prefix: Prefix,
    },
    /// A destination's best path may be another one now, or gone. Told while `Input::WatchBest` asks for it; several
    /// changes in a row may be told as one.
    #[error("{prefix}: best path changed")]
    Best {
        /// Which destination.
        prefix: Prefix,
    },
    /// The start is over: see `Output::RestartComplete`.
    #[error("initial route selection complete after {after:?}: {reason}")]
    SelectionComplete {
        /// Since the speaker's start.
        after: Duration,
        /// What ended the wait.
        reason: SelectionReason,
    },
}

fn as_texts<S: serde::Serializer>(errors: &[ConfigError], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(errors.iter().map(ToString::to_string))
}

/// Why a connection or session ended, in words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum DownReason {
    /// The transport ended.
    #[error("{0}")]
    Transport(CloseReason),
    /// We sent a NOTIFICATION; its words.
    #[error("sent {0}")]
    Sent(String),
    /// The peer sent one; its words.
    #[error("received {0}")]
    Received(String),
    /// The peer ended it for good: a hard reset (RFC 8538 §3).
    #[error("received {0}")]
    Ended(String),
    /// The peer opened a new connection for a session that was still up: it has restarted (RFC 4724 §4.2).
    #[error("replaced by another connection of the peer")]
    Replaced,
    /// Our own process is ending or being replaced.
    #[error("this speaker is restarting")]
    Restarting,
}

/// Why stale paths went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum SweepReason {
    /// The peer sent everything again.
    #[error("End-of-RIB")]
    EndOfRib,
    /// It was away for longer than its restart time.
    #[error("restart time over")]
    RestartTimer,
    /// It was away for longer than its long-lived stale time (RFC 9494 §4.2).
    #[error("long-lived stale time over")]
    LongLivedTimer,
    /// A path may not be kept for so long (RFC 9494 §3.3, NO_LLGR).
    #[error("marked no-llgr")]
    NoLongLived,
    /// It never reached End-of-RIB.
    #[error("stale time over")]
    StaleTimer,
    /// Its new OPEN does not promise that forwarding was preserved.
    #[error("forwarding state not preserved")]
    NotPreserved,
    /// The configuration, or a hard reset, ended it.
    #[error("session ended for good")]
    Ended,
}

/// What ended the wait after the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum SelectionReason {
    /// Not a restart: nothing to wait for but our own configuration.
    #[error("first start")]
    Fresh,
    /// Every peer that could tell us something has done so.
    #[error("all peers heard")]
    AllHeard,
    /// The deferral timer.
    #[error("deferral timer")]
    Timer,
}
