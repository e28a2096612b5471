// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Ranges whose traffic a pod's limits do not count.
//!
//! Both limits of such a pod sit behind a redirect to an ifb, which is a filter after ours: what is exempt ends the
//! filters' run on the host veth, and never sees the redirect.
//!
//! Left out: anything but the other end's address, as it is at the host veth.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LpmTrie;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use turnpike_ebpf_abi::{Addr, ExemptKey, Veth, names};

use crate::packet::{ETH_LEN, ETH_P_IP, ETH_P_IPV6, IP4_LEN, IP6_LEN, Ip4, Ip6, Packet, addr4, addr6, skb};

/// What follows the prefix length in an [`ExemptKey`].
#[repr(C)]
#[derive(Clone, Copy)]
struct Peer {
    link: u32,
    addr: Addr,
}

#[map(name = "TPK_EXEMPT")]
static EXEMPT: LpmTrie<Peer, u8> = LpmTrie::with_max_entries(names::MAX_EXEMPT, 0);

/// Whether a packet towards a pod, on the host veth, is from an exempt range.
#[inline(always)]
pub fn to_pod(ctx: &TcContext) -> bool {
    is_exempt(ctx, false)
}

/// Whether a packet that a pod sent goes to an exempt range.
#[inline(always)]
pub fn from_pod(ctx: &TcContext, veth: &Veth) -> bool {
    veth.flags & Veth::EXEMPT != 0 && is_exempt(ctx, true)
}

#[inline(always)]
fn is_exempt(ctx: &TcContext, from_pod: bool) -> bool {
    // SAFETY: the kernel's context is valid for the whole program.
    let (link, protocol) = unsafe { ((*skb(ctx)).ifindex, (*skb(ctx)).protocol) };
    let addr = match protocol {
        ETH_P_IP => peer4(ctx, from_pod),
        ETH_P_IPV6 => peer6(ctx, from_pod),
        _ => None,
    };
    let Some(addr) = addr else {
        return false;
    };
    let bits = ExemptKey::LINK_BITS + 128;
    EXEMPT.get(Key::new(bits, Peer { link, addr })).is_some()
}

#[inline(always)]
fn peer4(ctx: &TcContext, from_pod: bool) -> Option<Addr> {
    let packet = Packet::new(ctx, ETH_LEN + IP4_LEN);
    // SAFETY: `at` checked the bounds.
    let ip = unsafe { &*packet.at::<Ip4>(ETH_LEN)? };
    Some(addr4(if from_pod { ip.destination } else { ip.source }))
}

#[inline(always)]
fn peer6(ctx: &TcContext, from_pod: bool) -> Option<Addr> {
    let packet = Packet::new(ctx, ETH_LEN + IP6_LEN);
    // SAFETY: `at` checked the bounds.
    let ip = unsafe { &*packet.at::<Ip6>(ETH_LEN)? };
    let addr = addr6(if from_pod { ip.destination } else { ip.source });
    // On the wire such an address is nobody's.
    if addr.is_mapped() { None } else { Some(addr) }
}
