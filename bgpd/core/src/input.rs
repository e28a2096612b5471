//! What the shell tells the core.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::output::Nexthop;

/// One TCP connection. Each side numbers its own: the core those it asked for, the shell those it accepted.
/// A number is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum ConnId {
    /// Asked for by `Output::Connect`, which carries the number.
    Outgoing(u64),
    /// Accepted by the shell, which chose the number.
    Incoming(u64),
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnId::Outgoing(number) => write!(f, "out#{number}"),
            ConnId::Incoming(number) => write!(f, "in#{number}"),
        }
    }
}

/// Something that happened outside.
///
/// After `Output::Close` for a connection the core has forgotten it: later inputs for it are ignored.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// The whole desired configuration. Refused (with an event, nothing changed) if `Config::check` finds mistakes.
    Configure(Box<Config>),
    /// A connection came in. The core answers with `Send` or with `Close`.
    Accepted {
        /// Its number, always `ConnId::Incoming`.
        conn: ConnId,
        /// Our end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// A connection that the core asked for is up.
    Connected {
        /// Its number.
        conn: ConnId,
        /// Our end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// A connection that the core asked for did not come up.
    ConnectFailed {
        /// Its number.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// Bytes came in, in any slicing.
    Received {
        /// From where.
        conn: ConnId,
        /// What.
        bytes: Bytes,
    },
    /// So many bytes of earlier `Output::Send`s have left for the kernel's socket buffer. The core holds UPDATEs
    /// back from a connection with too many bytes unsent, so each sent byte must be reported.
    Sent {
        /// To where.
        conn: ConnId,
        /// How many.
        bytes: usize,
    },
    /// The other end (or the kernel) ended the connection. The shell must first hand over all bytes received.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// What is known of the path to a peer from elsewhere, such as BFD (RFC 5882 §4). May repeat.
    Path {
        /// The peer's address.
        remote: IpAddr,
        /// What is known.
        path: PathState,
    },
    /// The present resolution of a next hop that `Output::TrackNexthop` asked about. May repeat.
    Nexthop {
        /// Which.
        nexthop: Nexthop,
        /// How it is reached.
        resolution: Resolution,
    },
    /// Ask a peer for everything again (route refresh, RFC 2918), or tell it everything again. The session stays.
    SoftReset {
        /// The peer's address.
        remote: IpAddr,
        /// Ask it; without effect on a peer that cannot be asked.
        inbound: bool,
        /// Tell it.
        outbound: bool,
    },
    /// Whether somebody wants to know of changes of best paths (`Event::Best`).
    WatchBest(bool),
    /// Whether somebody wants UPDATEs as they come (`Output::Received`).
    Monitor(bool),
    /// The process is about to end. Outputs end with a `Close` for every connection.
    Shutdown(Shutdown),
}

/// How a next hop is reached, as far as route selection is concerned. Gateways and links stay in the shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// No route to it: its paths cannot be used (RFC 4271 §9.1.2).
    Unreachable,
    /// A route that is not one of ours leads to it.
    Reachable {
        /// Interior cost to it (RFC 4271 §9.1.2.2 e); 0 where it is on-link or unknown.
        metric: u32,
    },
}

/// What is known of the path to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathState {
    /// Nothing speaks against a session.
    Open,
    /// No new session until it is open; one that is Established stays.
    Awaited,
    /// It has failed: the session ends at once, its paths are not kept, and no new one begins until it is open.
    Failed {
        /// Whoever says so does not share fate with the control plane of either side: the failure also ends a
        /// graceful restart under way (RFC 5882 §4.3.2.2), which it otherwise does not (§4.3.2.1).
        independent: bool,
    },
}

/// Why a connection ended or never began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum CloseReason {
    /// FIN from the other end.
    #[error("closed by the peer")]
    Eof,
    /// RST.
    #[error("connection reset")]
    Reset,
    /// RST in answer to SYN.
    #[error("connection refused")]
    Refused,
    /// No answer.
    #[error("timed out")]
    TimedOut,
    /// No route, or an ICMP error.
    #[error("host or network unreachable")]
    Unreachable,
    /// Any other error, by its number.
    #[error("socket error {0}")]
    Os(i32),
}

/// Two ways to end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shutdown {
    /// Another process takes over (upgrade, restart): connections close without NOTIFICATION, so that helpers
    /// keep our paths (RFC 4724 §4).
    Restart,
    /// For good: CEASE with Administrative Shutdown and this message (RFC 9003), as a Hard Reset where the peer
    /// would otherwise keep our paths (RFC 8538).
    Final {
        /// Text for the peer's operators; may be empty, cut to 255 octets.
        message: String,
    },
}
