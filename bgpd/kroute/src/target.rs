//! Where a route leads.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// What a caller wants for one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Through these next hops, shared evenly (order does not matter, duplicates count once). Each is resolved
    /// against the kernel's other routes and followed when they change; the route is not written before at least
    /// one of them is reachable. An empty set is never written.
    Via(Arc<[Hop]>),
    /// Dropped silently (`RTN_BLACKHOLE`).
    Blackhole,
    /// On the link itself (scope link), as for a pod behind its veth.
    Device {
        /// The interface.
        ifindex: u32,
        /// Preferred source address for packets that this host itself sends.
        source: Option<IpAddr>,
    },
}

impl Target {
    /// Through one next hop.
    #[must_use]
    pub fn via(hop: IpAddr) -> Self {
        Self::Via(Arc::from([Hop::from(hop)]))
    }
}

/// A next hop as routing protocols name it: an address, perhaps far away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// The address.
    pub address: IpAddr,
    /// The interface that a link-local address belongs to; 0 for every other address.
    pub scope: u32,
}

impl From<IpAddr> for Hop {
    fn from(address: IpAddr) -> Self {
        Self { address, scope: 0 }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            0 => self.address.fmt(f),
            scope => write!(f, "{}%{scope}", self.address),
        }
    }
}

/// A way off this host: the last step of a resolution, and the content of a nexthop object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gateway {
    /// Neighbour to hand packets to.
    pub address: IpAddr,
    /// Interface that it is on.
    pub ifindex: u32,
    /// The neighbour is on the link although no address of the interface says so (`RTNH_F_ONLINK`).
    pub onlink: bool,
}

/// What the kernel's routes, ours left out, say about a next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Packets can be sent.
    Reachable {
        /// Ways there, sorted; several when the covering route is multipath.
        gateways: Vec<Gateway>,
        /// Metric of the covering route; 0 when the address is on a connected link. This is the interior cost of
        /// RFC 4271 §9.1.2.2 e.
        metric: u32,
    },
    /// It is an address of this host: useless as a next hop.
    Local,
    /// No route, or one that rejects.
    Unreachable,
}

impl Resolution {
    /// Ways there; empty unless reachable.
    #[must_use]
    pub fn gateways(&self) -> &[Gateway] {
        match self {
            Self::Reachable { gateways, .. } => gateways,
            Self::Local | Self::Unreachable => &[],
        }
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on interface {}", self.address, self.ifindex)?;
        if self.onlink { f.write_str(" onlink") } else { Ok(()) }
    }
}
