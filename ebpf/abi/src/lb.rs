// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! What became of the packets between load balancers and pods, for each source and reason.

/// The way that a packet of a bypassing source took, and why.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LbPath {
    /// Past netfilter and conntrack.
    Bypassed = 0,
    /// The same, through the host veth's queue.
    BypassedQueued,
    /// Through the stack: it came through a link that is not named for its source.
    WrongUplink,
    /// Through the stack: it has to wait for the limit of what the pod sends.
    PodLimited,
    /// Through the stack: the pod is left out of the bypass, or of this source's.
    PodExcluded,
    /// Through the stack: a fragment.
    Fragment,
    /// Through the stack: IP options.
    IpOptions,
    /// Through the stack: TTL or hop limit used up; the stack answers with an ICMP error.
    TtlExpired,
    /// Through the stack: neither TCP nor UDP (ICMP), or an IPv6 extension header.
    OtherProtocol,
    /// Through the stack: the pod's port is not among the source's.
    PortNotListed,
    /// Through the stack: the pod opened the connection itself.
    PodsOwn,
    /// Through the stack: larger than the next link's MTU.
    TooBig,
    /// Through the stack: no route, or one that leaves through no uplink of the source.
    NoRoute,
    /// Through the stack: headers cut short.
    Malformed,
}

impl LbPath {
    /// How many there are.
    pub const COUNT: usize = 14;

    /// All, in index order, with the names that metrics see.
    pub const ALL: [(Self, &'static str); Self::COUNT] = [
        (Self::Bypassed, "bypassed"),
        (Self::BypassedQueued, "bypassed_queued"),
        (Self::WrongUplink, "wrong_uplink"),
        (Self::PodLimited, "pod_limited"),
        (Self::PodExcluded, "pod_excluded"),
        (Self::Fragment, "fragment"),
        (Self::IpOptions, "ip_options"),
        (Self::TtlExpired, "ttl_expired"),
        (Self::OtherProtocol, "other_protocol"),
        (Self::PortNotListed, "port_not_listed"),
        (Self::PodsOwn, "pods_own"),
        (Self::TooBig, "too_big"),
        (Self::NoRoute, "no_route"),
        (Self::Malformed, "malformed"),
    ];

    /// Whether the packet went past netfilter.
    #[must_use]
    pub const fn is_bypass(self) -> bool {
        matches!(self, Self::Bypassed | Self::BypassedQueued)
    }
}

/// Packets and bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Packets; a GSO packet counts as its segments.
    pub packets: u64,
    /// Bytes of layer 2, headers of a GSO packet once.
    pub bytes: u64,
}

/// Slots for each direction: [`LbPath::COUNT`], rounded up so that an index can be masked.
pub const LB_SLOTS: usize = 16;

/// Counters of one [`crate::LbSource::group`], one copy for each CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LbStats {
    /// By [`LbPath`], load balancer to pod.
    pub to_pod: [Tally; LB_SLOTS],
    /// By [`LbPath`], pod to load balancer.
    pub from_pod: [Tally; LB_SLOTS],
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn indices_are_dense_and_fit_their_slots() {
        for (index, (path, _)) in (0u32..).zip(LbPath::ALL) {
            assert_eq!(path as u32, index);
        }
        const { assert!(LbPath::COUNT <= LB_SLOTS) };
    }

    #[test]
    fn layouts_are_as_the_programs_were_built_for() {
        assert_eq!([offset_of!(Tally, packets), offset_of!(Tally, bytes)], [0, 8]);
        assert_eq!([offset_of!(LbStats, to_pod), offset_of!(LbStats, from_pod)], [0, 256]);
    }
}
