// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Maps of the conntrack bypass and of anti-spoofing.

use crate::addr::Addr;

/// A trusted load balancer's prefix.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LbSource {
    /// [`LbSource::BYPASS`], [`LbSource::TCP_ANY_PORT`], [`LbSource::UOA`].
    pub flags: u32,
    /// Groups the port rules: prefixes of one resource share the number.
    pub group: u32,
    /// Uplinks through which this source may arrive: bit `n` stands for [`Uplink::index`] `n`;
    /// [`LbSource::ANY_UPLINK`] is all of them.
    pub uplinks: u32,
    /// A [`crate::ToaFormat`] as a number; 0 trusts no option.
    pub toa_format: u32,
}

impl LbSource {
    /// Traffic goes past netfilter and conntrack.
    pub const BYPASS: u32 = 1;
    /// Every TCP port of the pod qualifies; without it only the ports of the group do.
    pub const TCP_ANY_PORT: u32 = 1 << 1;
    /// Options that name the client of a UDP session are believed.
    pub const UOA: u32 = 1 << 2;
    /// Value of `uplinks` for "any uplink".
    pub const ANY_UPLINK: u32 = u32::MAX;
}

/// A port rule of a group of load-balancer sources.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// [`LbSource::group`].
    pub group: u32,
    /// Port at the pod.
    pub port: u16,
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub zero: u8,
}

impl PortKey {
    /// A rule for `protocol` (6 TCP, 17 UDP) and `port`.
    #[must_use]
    #[inline(always)]
    pub const fn new(group: u32, protocol: u8, port: u16) -> Self {
        Self { group, port, protocol, zero: 0 }
    }
}

/// How to reach a local pod.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PodEntry {
    /// Host side of the veth pair.
    pub ifindex: u32,
    /// MTU of the veth pair, in bytes of layer 3.
    pub mtu: u32,
    /// [`PodEntry::LIMITED`], [`PodEntry::NO_BYPASS`], [`PodEntry::NO_TOA`], [`PodEntry::SELECTIVE`].
    pub flags: u32,
    /// MAC address of the pod's interface.
    pub pod_mac: [u8; 6],
    /// MAC address of the host side.
    pub host_mac: [u8; 6],
}

impl PodEntry {
    /// The pod has a to-workload limit, in force or in shadow: packets go through the host veth.
    pub const LIMITED: u32 = 1;
    /// Never bypass: all its traffic takes the stack.
    pub const NO_BYPASS: u32 = 1 << 1;
    /// Its servers see the load balancer's address.
    pub const NO_TOA: u32 = 1 << 2;
    /// Not every source is for it: [`AdmitKey`] tells which.
    pub const SELECTIVE: u32 = 1 << 3;
}

/// A load balancer and a pod that is [`PodEntry::SELECTIVE`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdmitKey {
    /// The pod.
    pub pod: Addr,
    /// [`LbSource::group`].
    pub group: u32,
}

/// What a load balancer may do with a pod that is [`PodEntry::SELECTIVE`]: nothing without an entry.
#[derive(Debug, Clone, Copy)]
pub struct Admit;

impl Admit {
    /// Its traffic goes past netfilter and conntrack.
    pub const BYPASS: u32 = 1;
    /// Its option is believed.
    pub const TOA: u32 = 1 << 1;
}

/// What may leave a pod through one host veth.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Veth {
    /// The pod's IPv4 address, or zero for none.
    pub ip4: [u8; 4],
    /// [`Veth::LIMITED`], [`Veth::NO_BYPASS`], [`Veth::SHADOW`], [`Veth::EXEMPT`], [`Veth::SELECTIVE`].
    pub flags: u32,
    /// The pod's IPv6 address, or zero for none.
    pub ip6: [u8; 16],
    /// The pod's IPv6 link-local address, or zero for none.
    pub link_local: [u8; 16],
    /// MAC address of the pod's interface.
    pub pod_mac: [u8; 6],
    /// Minor number of the pod's class in the node tree; 0 is none.
    pub class: u16,
    /// Index of the ifb where what the pod sends is queued when it has to wait; 0 is none.
    pub queue: u32,
}

impl Veth {
    /// The pod has a from-workload limit: what has to wait for it is not redirected past it.
    pub const LIMITED: u32 = 1;
    /// Never bypass: all its traffic takes the stack.
    pub const NO_BYPASS: u32 = 1 << 1;
    /// What it sends passes a shadow limit.
    pub const SHADOW: u32 = 1 << 2;
    /// Traffic with some ranges is not limited.
    pub const EXEMPT: u32 = 1 << 3;
    /// Not every source is for it: [`AdmitKey`] tells which.
    pub const SELECTIVE: u32 = 1 << 4;
}

/// A link through which directors reach the node.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uplink {
    /// MTU in bytes of layer 3.
    pub mtu: u32,
    /// Number of the uplink on this node, 0–31: the bit in [`LbSource::uplinks`].
    pub index: u32,
}

/// A TCP connection that a pod opened towards a director's address: never bypassed, in either direction.
///
/// Only kept for sources with [`LbSource::TCP_ANY_PORT`]; where ports are listed, the ports tell the direction.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// The pod.
    pub pod: Addr,
    /// The director.
    pub peer: Addr,
    /// The pod's port, network byte order.
    pub pod_port_be: u16,
    /// The director's port, network byte order.
    pub peer_port_be: u16,
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn layouts_are_as_the_programs_were_built_for() {
        assert_eq!(
            [
                offset_of!(LbSource, flags),
                offset_of!(LbSource, group),
                offset_of!(LbSource, uplinks),
                offset_of!(LbSource, toa_format)
            ],
            [0, 4, 8, 12]
        );
        assert_eq!(
            [
                offset_of!(PortKey, group),
                offset_of!(PortKey, port),
                offset_of!(PortKey, protocol),
                offset_of!(PortKey, zero)
            ],
            [0, 4, 6, 7]
        );
        assert_eq!(
            [
                offset_of!(PodEntry, ifindex),
                offset_of!(PodEntry, mtu),
                offset_of!(PodEntry, flags),
                offset_of!(PodEntry, pod_mac),
                offset_of!(PodEntry, host_mac)
            ],
            [0, 4, 8, 12, 18]
        );
        assert_eq!(
            [
                offset_of!(Veth, ip4),
                offset_of!(Veth, flags),
                offset_of!(Veth, ip6),
                offset_of!(Veth, link_local),
                offset_of!(Veth, pod_mac),
                offset_of!(Veth, class)
            ],
            [0, 4, 8, 24, 40, 46]
        );
        assert_eq!([offset_of!(Uplink, mtu), offset_of!(Uplink, index)], [0, 4]);
        assert_eq!(
            [
                offset_of!(FlowKey, pod),
                offset_of!(FlowKey, peer),
                offset_of!(FlowKey, pod_port_be),
                offset_of!(FlowKey, peer_port_be)
            ],
            [0, 16, 32, 34]
        );
        assert_eq!([offset_of!(AdmitKey, pod), offset_of!(AdmitKey, group)], [0, 16]);
    }
}
