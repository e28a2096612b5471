// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Classes of the node tree: noted where a packet leaves its pod, chosen where it leaves the node.
//!
//! `tc_index` carries the class between the two: forwarding keeps it, while it sets the priority anew (IPv4), and
//! others use the mark; the source address may be the node's by then (masquerade). Every packet of a pod is written,
//! so that nothing that a pod does with it counts.

use aya_ebpf::programs::TcContext;
use turnpike_ebpf_abi::Veth;

use crate::packet::skb;

/// Handle of the HTB on uplinks.
const HTB: u32 = 0x7470_0000;

/// Notes the pod's class.
#[inline(always)]
pub fn note(ctx: &TcContext, veth: &Veth) {
    // SAFETY: the kernel's context is valid for the whole program, and this field is for programs to write.
    unsafe { core::ptr::write_volatile(&raw mut (*skb(ctx)).tc_index, u32::from(veth.class)) };
}

/// Chooses the class that was noted. Packets of the host have none, and go to HTB's default.
#[inline(always)]
pub fn choose(ctx: &TcContext) {
    // SAFETY: as above; HTB takes a priority with its own handle for the class.
    unsafe {
        let class = (*skb(ctx)).tc_index;
        if class != 0 {
            core::ptr::write_volatile(&raw mut (*skb(ctx)).priority, HTB | class);
        }
    }
}
