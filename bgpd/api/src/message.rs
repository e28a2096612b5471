//! Requests and replies of the control socket: one request, one reply, as often as wanted on one connection.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::{Asn, Community, Family, LargeCommunity, Prefix};

use crate::config::{Network, Part};
use crate::view::{
    AuditEntry, Decision, DiffView, EventView, PathView, PeerView, PendingView, PolicyTrace, StatusView,
};

/// Version of everything in this module.
pub const FORMAT: u32 = 1;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The daemon as a whole: [`Reply::Status`].
    Status,
    /// All peers, or the one of this name or address: [`Reply::Peers`].
    Peers {
        /// Name or address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// Paths: [`Reply::Paths`].
    Rib(RibQuery),
    /// Why a destination is routed as it is: [`Reply::Why`].
    Why {
        /// What to explain.
        select: Select,
    },
    /// Take this part of the configuration in the place of the owner's former one, keep it over restarts, and
    /// answer [`Reply::Pushed`]. Sessions and announcements follow at once.
    Push {
        /// The part.
        part: Part,
    },
    /// Forget an owner's part: [`Reply::Pushed`].
    Drop {
        /// Whose.
        owner: String,
    },
    /// Read the configuration file again: [`Reply::Pushed`] or [`Reply::Error`].
    Reload,
    /// What a configuration file would change, without changing anything: [`Reply::Diff`].
    Diff {
        /// The file's text; absent: the daemon's own file as it stands on disk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// At most so many prefixes are named per table; all are counted.
        limit: usize,
    },
    /// Put this text in the place of the configuration file's and bring it into force: [`Reply::Applied`].
    Apply {
        /// The file's new text.
        text: String,
        /// Seconds until everything is rolled back unless [`Request::Confirm`] comes; absent: it stays. A restart
        /// of the daemon in between rolls back, too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm: Option<u32>,
    },
    /// What was applied stays: [`Reply::Applied`].
    Confirm,
    /// What was applied and not confirmed goes, now: [`Reply::Applied`].
    Rollback,
    /// The operators' last changes: [`Reply::Audit`].
    Audit {
        /// At most so many.
        limit: usize,
    },
    /// Ask a peer for everything again, or tell it everything again; the session stays: [`Reply::Done`].
    SoftReset {
        /// Name or address.
        peer: String,
        /// Ask it (route refresh, RFC 2918).
        inbound: bool,
        /// Tell it.
        outbound: bool,
    },
    /// Originate a prefix in the operator's part of the configuration, which survives restarts: [`Reply::Pushed`].
    Announce {
        /// Takes the place of what the operator announced for the same prefix.
        network: Network,
    },
    /// Stop what [`Request::Announce`] began: [`Reply::Pushed`].
    Withdraw {
        /// Which.
        prefix: Prefix,
    },
    /// Keep a peer down until further notice, or let it up again; survives restarts: [`Reply::Pushed`].
    Hold {
        /// Name or address.
        peer: String,
        /// Text for the peer's operator (RFC 9003, at most 255 octets) when it goes down; absent: let it up again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// Leave in order, so that traffic has gone elsewhere before the sessions end (RFC 8326): [`Reply::Draining`].
    Drain(Drain),
    /// Write everything that peers have announced to a file, in MRT format (RFC 6396): [`Reply::Dumped`].
    MrtDump,
    /// From now on this connection carries [`Reply::Event`]s, after one [`Reply::Done`].
    Watch,
    /// Which rule of a policy decides about a path: [`Reply::PolicyTrace`].
    PolicyTest(Box<PolicyTest>),
    /// End for good: peers are told (CEASE, Administrative Shutdown), kernel routes go. For an upgrade or a restart
    /// send SIGTERM instead. [`Reply::Ending`].
    Shutdown {
        /// Text for the peers' operators (RFC 9003); may be empty.
        #[serde(default)]
        message: String,
    },
}

/// How to leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Seconds between GRACEFUL_SHUTDOWN on everything and the first withdrawal.
    pub wait: u32,
    /// Text for the peers' operators (RFC 9003).
    #[serde(default)]
    pub message: String,
    /// Stop after withdrawing what is not another program's (VIPs): sessions and pod blocks stay, the least preferred.
    #[serde(default)]
    pub keep_blocks: bool,
    /// Even if we may be the last reflector of a client.
    #[serde(default)]
    pub force: bool,
    /// Take everything back that a drain has done so far; the other fields do not matter.
    #[serde(default)]
    pub cancel: bool,
}

/// A path to try a policy on. What is absent is taken from the path in the RIB, where `peer` (or ourselves, without
/// a peer) has one for the prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTest {
    /// Which policy; absent: the one that `peer` imports with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// A file whose policies to use, in the place of those in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Destination.
    pub prefix: Prefix,
    /// The peer (name or address) that the path came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// AS_PATH, the latest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_path: Option<Vec<Asn>>,
    /// COMMUNITIES.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<Vec<Community>>,
    /// LARGE_COMMUNITIES.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_communities: Option<Vec<LargeCommunity>>,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<IpAddr>,
    /// LOCAL_PREF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
}

impl PolicyTest {
    /// What becomes of a peer's path as it is.
    #[must_use]
    pub fn of_peer(prefix: Prefix, peer: IpAddr) -> Self {
        Self {
            policy: None,
            text: None,
            prefix,
            peer: Some(peer.to_string()),
            as_path: None,
            communities: None,
            large_communities: None,
            next_hop: None,
            local_pref: None,
            med: None,
        }
    }
}

/// Which paths to show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RibQuery {
    /// From which table.
    #[serde(default)]
    pub table: Table,
    /// For which prefixes.
    pub select: Select,
    /// Go on behind this prefix (the last one of an answer that had more).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Prefix>,
    /// At most so many paths.
    pub limit: usize,
}

/// A table of the speaker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Table {
    /// All paths that import policy accepted, the best first.
    #[default]
    Loc,
    /// What a peer (name or address) announced to us.
    In(String),
    /// What we announce to a peer (name or address).
    Out(String),
}

/// A choice of prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Select {
    /// Everything of a family.
    Family(Family),
    /// One prefix.
    Exact(Prefix),
    /// The prefix and everything inside.
    Within(Prefix),
    /// The most specific prefix that holds this address.
    Longest(IpAddr),
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<StatusView>),
    /// To [`Request::Peers`].
    Peers {
        /// In the order of their addresses.
        peers: Vec<PeerView>,
    },
    /// To [`Request::Rib`].
    Paths {
        /// In prefix order.
        paths: Vec<PathView>,
        /// There are more behind the last one.
        more: bool,
    },
    /// To [`Request::Why`].
    Why(Box<Decision>),
    /// To whatever changes the configuration: it is in force.
    Pushed {
        /// Pieces that were not taken, because the file or another owner has them already, in words.
        refused: Vec<String>,
    },
    /// To [`Request::MrtDump`].
    Dumped {
        /// The file, which the next dump replaces.
        path: PathBuf,
        /// Prefixes in it.
        prefixes: u64,
        /// Paths in it.
        paths: u64,
    },
    /// To [`Request::Shutdown`]: the socket closes when all is done.
    Ending,
    /// To [`Request::Diff`].
    Diff(Box<DiffView>),
    /// To [`Request::Apply`], [`Request::Confirm`] and [`Request::Rollback`].
    Applied {
        /// What still waits for a confirmation.
        pending: Option<PendingView>,
        /// What is worth knowing, in words.
        notes: Vec<String>,
    },
    /// To [`Request::Audit`].
    Audit {
        /// The oldest first.
        entries: Vec<AuditEntry>,
    },
    /// To whatever has nothing else to say.
    Done {
        /// What was done, in words.
        notes: Vec<String>,
    },
    /// To [`Request::Drain`]: begun (or called off); `turnpike bgp watch` and the status tell how it goes.
    Draining {
        /// What happens when, in words.
        steps: Vec<String>,
    },
    /// What happened, on a connection that asked to [`Request::Watch`].
    Event(Box<EventView>),
    /// To [`Request::PolicyTest`].
    PolicyTrace(Box<PolicyTrace>),
    /// No.
    Error(ErrorReply),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct ErrorReply {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request is not understood.
    BadRequest,
    /// No such peer, prefix or owner.
    NotFound,
    /// The configuration has mistakes; nothing of it was taken.
    Invalid,
    /// The daemon has no AS number yet: it waits for a part.
    NotConfigured,
    /// Possible, but not now; the message says what stands against it.
    Conflict,
    /// Something failed inside.
    Internal,
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
