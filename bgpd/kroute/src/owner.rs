//! Whose routes these are.

use std::ops::RangeInclusive;

use crate::Error;

/// The mark on everything that one program puts into the kernel.
///
/// A nexthop object is ours if its ID lies in `nexthop_ids` and it carries `protocol`. A route is ours if it
/// carries `protocol`, lies in `table`, and is one of the shapes that this crate writes: through a nexthop object
/// of ours, a blackhole, or straight to a device. A route with our protocol number in another shape means that
/// some other program uses the number too, and [`crate::Routes::open`] refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name for messages, such as `turnpike-bgpd`.
    pub name: &'static str,
    /// Route protocol number (`rtm_protocol`), one that nobody has been assigned.
    pub protocol: u8,
    /// IDs that nexthop objects of ours may have.
    pub nexthop_ids: RangeInclusive<u32>,
    /// Routing table; 254 is main.
    pub table: u32,
    /// Metric of every route; 0 is the kernel's default (0 for IPv4, 1024 for IPv6).
    pub metric: u32,
}

impl Owner {
    /// The node agent: routes to pods and blackholes for blocks.
    pub const AGENT: Self = Self {
        name: "turnpike-agent",
        protocol: 201,
        nexthop_ids: 0x7470_0000..=0x7470_ffff,
        table: 254,
        metric: 0,
    };

    /// The BGP daemon: what BGP taught it. The metric is above that of connected and hand-made routes.
    pub const BGPD: Self = Self {
        name: "turnpike-bgpd",
        protocol: 202,
        nexthop_ids: 0x7471_0000..=0x7471_ffff,
        table: 254,
        metric: 32,
    };

    /// Protocol numbers that Linux or a known program has been assigned (`rtnetlink.h` and
    /// `/etc/iproute2/rt_protos`): another program may sweep them, as FRR does with 186 when it starts.
    const ASSIGNED: &'static [RangeInclusive<u8>] = &[0..=4, 8..=18, 42..=42, 99..=99, 186..=192];

    /// Refuses numbers that cannot work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if Self::ASSIGNED.iter().any(|range| range.contains(&self.protocol)) {
            return Err(Error::AssignedProtocol(self.protocol));
        }
        Ok(())
    }

    /// The metric as the kernel stores it for this family.
    pub(crate) fn stored_metric(&self, ipv6: bool) -> u32 {
        // IP6_RT_PRIO_USER
        if ipv6 && self.metric == 0 { 1024 } else { self.metric }
    }
}
