//! What the core asks the shell to do, in order.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::Prefix;

use crate::event::Event;
use crate::input::ConnId;
use crate::query::PeerId;

/// One thing to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Open a connection; answer with `Connected` or `ConnectFailed`.
    Connect {
        /// For which peer.
        peer: PeerId,
        /// The connection's number from now on.
        conn: ConnId,
        /// Source address to bind, where configured.
        local: Option<IpAddr>,
        /// Where to; for link-local addresses with the scope id.
        remote: SocketAddr,
        /// TTL or hop limit to set.
        ttl: u8,
    },
    /// Write these bytes; report them with `Input::Sent` as they leave.
    Send {
        /// Where to.
        conn: ConnId,
        /// What; the same buffer may go to many connections.
        bytes: Bytes,
    },
    /// Write what is still queued (for a few seconds at most), then close. No `Closed` need follow.
    Close {
        /// Which; also ends a connection attempt.
        conn: ConnId,
    },
    /// Change the kernel's routes.
    Route(RouteChange),
    /// Report the resolution of this next hop with `Input::Nexthop`, now and whenever it changes.
    TrackNexthop(Nexthop),
    /// Nobody needs that next hop any more.
    UntrackNexthop(Nexthop),
    /// Route selection after the start is complete and every route was handed over: routes of ours in the kernel
    /// that are not among them are stale and may go now, and not before. Sent once in a speaker's life.
    RestartComplete,
    /// An UPDATE of an Established session as it came, for monitoring stations and logs. Told while `Input::Monitor`
    /// asks for it, in order with the events of sessions.
    Received {
        /// From whom.
        peer: PeerId,
        /// The message, header included.
        message: Bytes,
    },
    /// For logs, counters and watchers.
    Event(Event),
}

/// A change of the routes that BGP wants in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteChange {
    /// Add the route, or replace what was there.
    Install {
        /// Destination.
        prefix: Prefix,
        /// Where to, sorted, not empty. Equal sets mostly share one allocation.
        nexthops: Arc<[Nexthop]>,
    },
    /// Have traffic to it dropped: an aggregate of ours, and what is not there inside it.
    Discard {
        /// Destination.
        prefix: Prefix,
    },
    /// Take the route away.
    Remove {
        /// Destination.
        prefix: Prefix,
    },
}

/// A BGP next hop as paths carry it. The shell resolves it to gateways and links.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nexthop {
    /// The address.
    pub addr: IpAddr,
    /// Interface index for a link-local address; 0 otherwise.
    pub scope: u32,
}

impl Nexthop {
    /// A next hop that is not link-local.
    pub const fn global(addr: IpAddr) -> Self {
        Self { addr, scope: 0 }
    }
}

impl From<IpAddr> for Nexthop {
    fn from(addr: IpAddr) -> Self {
        Nexthop::global(addr)
    }
}

impl fmt::Display for Nexthop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            0 => self.addr.fmt(f),
            scope => write!(f, "{}%{scope}", self.addr),
        }
    }
}

impl fmt::Debug for Nexthop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
