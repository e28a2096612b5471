// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Next hops of what leaves a pod, as the kernel's forwarding would choose them.
//!
//! A look-up takes longer than all the rest of the program. Each CPU therefore remembers a few, and uses one again within
//! the jiffy in which it was found: a route that changes is in force a jiffy (1 to 10 ms) later at the most. What is
//! remembered is the whole input, down to the ports, so that ECMP and policy rules choose as without.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup, bpf_redir_neigh,
};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;

use crate::packet::skb;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Hops that each CPU remembers.
const REMEMBERED: u32 = 256;
const WORDS: usize = 12;

/// What a route is chosen by.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    /// In the last word where it is IPv4, the others zero.
    pub source: [u32; 4],
    pub destination: [u32; 4],
    /// Traffic class, and IPv6's flow label, as on the wire.
    pub class: u32,
    pub source_be: u16,
    pub destination_be: u16,
    pub protocol: u8,
    pub is_v4: bool,
    pub zero: [u8; 2],
    /// The link that it came through.
    pub link: u32,
}

/// A next hop.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hop {
    pub ifindex: u32,
    pub neighbour: bpf_redir_neigh,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Remembered {
    jiffy: u64,
    flow: [u32; WORDS],
    hop: Hop,
}

/// Of this program alone: it begins empty, and nobody else reads it.
#[map(name = "TPK_HOPS")]
static HOPS: PerCpuArray<Remembered> = PerCpuArray::with_max_entries(REMEMBERED, 0);

/// The next hop; `None` where the routes have none outside of the node.
#[inline(always)]
pub fn next_hop(ctx: &TcContext, flow: &Flow) -> Option<Hop> {
    // SAFETY: the same 48 bytes, without padding.
    let words = unsafe { core::mem::transmute::<Flow, [u32; WORDS]>(*flow) };
    // SAFETY: a plain helper call.
    let jiffy = unsafe { helpers::bpf_jiffies64() };
    let place = HOPS.get_ptr_mut(place(&words))?;
    // SAFETY: a slot of this CPU, on which tc programs do not interrupt each other.
    let known = unsafe { &mut *place };
    if known.jiffy == jiffy && same(&known.flow, &words) {
        return Some(known.hop);
    }
    let hop = look_up(ctx, flow)?;
    *known = Remembered { jiffy, flow: words, hop };
    Some(hop)
}

#[inline(always)]
fn place(words: &[u32; WORDS]) -> u32 {
    // Golden ratio (Knuth, TAOCP 6.4): the high bits depend on all of the input's.
    const SPREAD: u32 = 0x9e37_79b1;
    let ends = words[3] ^ words[7].rotate_left(16) ^ words[9].rotate_left(8);
    ends.wrapping_mul(SPREAD) >> (32 - REMEMBERED.ilog2())
}

#[inline(always)]
fn same(one: &[u32; WORDS], other: &[u32; WORDS]) -> bool {
    let mut difference = 0;
    let mut index = 0;
    while index < WORDS {
        difference |= one[index] ^ other[index];
        index += 1;
    }
    difference == 0
}

#[inline(always)]
fn look_up(ctx: &TcContext, flow: &Flow) -> Option<Hop> {
    // SAFETY: all-zero is a valid value of this plain struct and of its unions; union fields are written, and read back as
    // the family says; the kernel's context is valid for the whole program.
    unsafe {
        let mut lookup: bpf_fib_lookup = core::mem::zeroed();
        lookup.l4_protocol = flow.protocol;
        lookup.sport = flow.source_be;
        lookup.dport = flow.destination_be;
        lookup.ifindex = flow.link;
        if flow.is_v4 {
            lookup.family = AF_INET;
            lookup.__bindgen_anon_2.tos = flow.class as u8;
            lookup.__bindgen_anon_3.ipv4_src = flow.source[3];
            lookup.__bindgen_anon_4.ipv4_dst = flow.destination[3];
        } else {
            lookup.family = AF_INET6;
            lookup.__bindgen_anon_2.flowinfo = flow.class;
            lookup.__bindgen_anon_3.ipv6_src = flow.source;
            lookup.__bindgen_anon_4.ipv6_dst = flow.destination;
        }
        let result =
            helpers::bpf_fib_lookup(skb(ctx).cast(), &mut lookup, size_of::<bpf_fib_lookup>() as i32, 0)
                as u32;
        // Without a neighbour yet, `redirect_neigh` resolves it.
        if result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH {
            return None;
        }
        let mut neighbour: bpf_redir_neigh = core::mem::zeroed();
        neighbour.nh_family = u32::from(lookup.family);
        if lookup.family == AF_INET {
            neighbour.__bindgen_anon_1.ipv4_nh = lookup.__bindgen_anon_4.ipv4_dst;
        } else {
            neighbour.__bindgen_anon_1.ipv6_nh = lookup.__bindgen_anon_4.ipv6_dst;
        }
        Some(Hop { ifindex: lookup.ifindex, neighbour })
    }
}
