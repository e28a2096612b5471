//! Requests and replies of the control socket: one request, one reply, as often as wanted on one connection.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::{Family, Prefix};

use crate::config::Part;
use crate::view::{Decision, PathView, PeerView, StatusView};

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
    /// End for good: peers are told (CEASE, Administrative Shutdown), kernel routes go. For an upgrade or a restart
    /// send SIGTERM instead. [`Reply::Ending`].
    Shutdown {
        /// Text for the peers' operators (RFC 9003); may be empty.
        #[serde(default)]
        message: String,
    },
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
    /// To [`Request::Shutdown`]: the socket closes when all is done.
    Ending,
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
    /// Something failed inside.
    Internal,
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
