// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! What may leave a pod: packets from its own addresses, and ARP and neighbour discovery about itself.
//!
//! Without an entry for the veth nothing leaves. What is neither IPv4, IPv6 nor ARP never leaves.

use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::TcContext;
use turnpike_ebpf_abi::{Counter, Veth, names};

use crate::packet::{
    ETH_LEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ICMP6, IP4_LEN, IP6_LEN, Ip4, Ip6, Packet, skb,
};

#[map(name = "TPK_VETHS")]
static VETHS: HashMap<u32, Veth> = HashMap::with_max_entries(names::MAX_LINKS, 0);

/// The start of an ICMPv6 message, up to neighbour discovery's target.
#[repr(C)]
struct Nd {
    kind: u8,
    code: u8,
    check: u16,
    reserved: [u16; 2],
    target: [u16; 8],
}

/// ARP for IPv4 over Ethernet.
#[repr(C)]
struct Arp {
    hardware_be: u16,
    protocol_be: u16,
    lengths: [u8; 2],
    operation_be: u16,
    sender_mac: [u16; 3],
    sender_ip: [u16; 2],
    target_mac: [u16; 3],
    target_ip: [u16; 2],
}

const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// The pod's own data, read from the map's entry.
pub enum Checked {
    /// Not the pod's own address, or not a frame that a pod may send.
    Drop(Counter),
    /// ARP, or IPv6 that stays on the link: fine, and nothing for the bypass.
    Local,
    /// IP from the pod's own address.
    Ip(&'static Veth),
}

/// Checks a frame that a pod sent.
#[inline(always)]
pub fn check(ctx: &TcContext) -> Checked {
    // SAFETY: the kernel's context is valid for the whole program.
    let (ifindex, protocol, tagged) =
        unsafe { ((*skb(ctx)).ifindex, (*skb(ctx)).protocol, (*skb(ctx)).vlan_present) };
    // SAFETY: entries are replaced by the agent only; a value torn by that makes one packet take another path.
    let Some(veth) = (unsafe { VETHS.get(ifindex) }) else {
        return Checked::Drop(Counter::PodNoConfig);
    };
    // SAFETY: map values outlive the program run.
    let veth: &'static Veth = unsafe { &*core::ptr::from_ref(veth) };
    if tagged != 0 {
        return Checked::Drop(Counter::PodOtherFrame);
    }
    match protocol {
        ETH_P_IP => check4(&Packet::new(ctx, ETH_LEN + IP4_LEN + 14), veth),
        ETH_P_IPV6 => check6(&Packet::new(ctx, ETH_LEN + IP6_LEN + 24), veth),
        ETH_P_ARP => check_arp(&Packet::new(ctx, ETH_LEN + size_of::<Arp>()), veth),
        _ => Checked::Drop(Counter::PodOtherFrame),
    }
}

#[inline(always)]
fn check4(packet: &Packet, veth: &'static Veth) -> Checked {
    let Some(ip) = packet.at::<Ip4>(ETH_LEN) else {
        return Checked::Drop(Counter::PodOtherFrame);
    };
    // SAFETY: `at` checked the bounds.
    let ip = unsafe { &*ip };
    let own = same4(&ip.source, &veth.ip4);
    if ip.version_ihl >> 4 == 4 && own && veth.ip4 != [0; 4] {
        Checked::Ip(veth)
    } else {
        Checked::Drop(Counter::SpoofedV4)
    }
}

#[inline(always)]
fn check6(packet: &Packet, veth: &'static Veth) -> Checked {
    let Some(ip) = packet.at::<Ip6>(ETH_LEN) else {
        return Checked::Drop(Counter::PodOtherFrame);
    };
    // SAFETY: `at` checked the bounds.
    let ip = unsafe { &*ip };
    let [first, ..] = ip.destination;
    let [high, low] = first.to_ne_bytes();
    let multicast = high == 0xff;
    let on_link = multicast || (high == 0xfe && low & 0xc0 == 0x80);
    let own = same6(&ip.source, &veth.ip6) && !zero6(&veth.ip6);
    let own_link_local = on_link && same6(&ip.source, &veth.link_local) && !zero6(&veth.link_local);
    let unspecified = ip.source == [0; 8];
    if !own && !own_link_local && !unspecified {
        return Checked::Drop(Counter::SpoofedV6);
    }
    if ip.next_header != ICMP6 {
        return match (own, unspecified) {
            // Multicast listener reports of an interface that is coming up; nobody here needs them.
            (_, true) => Checked::Drop(Counter::PodOtherFrame),
            (true, false) => Checked::Ip(veth),
            (false, false) => Checked::Local,
        };
    }
    match (nd_allowed(packet, veth, unspecified), own) {
        (false, _) => Checked::Drop(Counter::SpoofedNd),
        (true, true) => Checked::Ip(veth),
        (true, false) => Checked::Local,
    }
}

/// Whether an ICMPv6 message claims nothing that is not the pod's (RFC 4861 §4). `unspecified`: it comes from `::`,
/// which only duplicate address detection may do (RFC 4862 §5.4.2).
#[inline(always)]
fn nd_allowed(packet: &Packet, veth: &Veth, unspecified: bool) -> bool {
    let Some(kind) = packet.at::<[u8; 2]>(ETH_LEN + IP6_LEN) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let [kind, _] = unsafe { *kind };
    let about_itself = match packet.at::<Nd>(ETH_LEN + IP6_LEN) {
        // SAFETY: `at` checked the bounds.
        Some(nd) => unsafe { same6(&(*nd).target, &veth.ip6) || same6(&(*nd).target, &veth.link_local) },
        None => false,
    };
    match kind {
        ROUTER_ADVERTISEMENT | REDIRECT => false,
        NEIGHBOUR_ADVERTISEMENT => about_itself,
        NEIGHBOUR_SOLICITATION => !unspecified || about_itself,
        _ => !unspecified,
    }
}

#[inline(always)]
fn check_arp(packet: &Packet, veth: &Veth) -> Checked {
    let Some(arp) = packet.at::<Arp>(ETH_LEN) else {
        return Checked::Drop(Counter::PodOtherFrame);
    };
    // SAFETY: `at` checked the bounds.
    let arp = unsafe { &*arp };
    let ethernet = arp.hardware_be == 1u16.to_be() && arp.protocol_be == 0x0800u16.to_be();
    // An all-zero sender is a probe (RFC 5227 §2.1.1): it claims nothing.
    let sender = arp.sender_ip == [0; 2] || same4(&arp.sender_ip, &veth.ip4);
    if ethernet && arp.lengths == [6, 4] && sender && same_mac(&arp.sender_mac, &veth.pod_mac) {
        Checked::Local
    } else {
        Checked::Drop(Counter::SpoofedArp)
    }
}

#[inline(always)]
fn word(bytes: &[u8], index: usize) -> u16 {
    u16::from_ne_bytes([bytes[2 * index], bytes[2 * index + 1]])
}

#[inline(always)]
fn same4(words: &[u16; 2], bytes: &[u8; 4]) -> bool {
    words[0] == word(bytes, 0) && words[1] == word(bytes, 1)
}

#[inline(always)]
fn same_mac(words: &[u16; 3], bytes: &[u8; 6]) -> bool {
    words[0] == word(bytes, 0) && words[1] == word(bytes, 1) && words[2] == word(bytes, 2)
}

#[inline(always)]
fn same6(words: &[u16; 8], bytes: &[u8; 16]) -> bool {
    let mut difference = 0;
    let mut index = 0;
    while index < 8 {
        difference |= words[index] ^ word(bytes, index);
        index += 1;
    }
    difference == 0
}

#[inline(always)]
fn zero6(bytes: &[u8; 16]) -> bool {
    same6(&[0; 8], bytes)
}
