// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Per-CPU counters.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, PerCpuHashMap};
use aya_ebpf::programs::TcContext;
use turnpike_ebpf_abi::lb::{LB_SLOTS, Tally};
use turnpike_ebpf_abi::{Counter, LbStats, names};

use crate::bypass::Reason;
use crate::packet::skb;

/// Entries are made one by one (linux/bpf.h): a full-size map for every CPU would be large, and few have many sources.
pub const NO_PREALLOC: u32 = 1;

#[map(name = "TPK_COUNTERS")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);
#[map(name = "TPK_LB_STATS")]
static LB_STATS: PerCpuHashMap<u32, LbStats> =
    PerCpuHashMap::with_max_entries(names::MAX_LB_SOURCES, NO_PREALLOC);

/// Adds one.
#[inline(always)]
pub fn add(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a valid slot of this CPU; programs are not preempted by themselves on one CPU.
        unsafe { *value = (*value).wrapping_add(1) };
    }
}

/// Counts a packet from a load balancer under its source and reason.
#[inline(always)]
pub fn to_pod(ctx: &TcContext, reason: Reason) {
    lb(ctx, reason, 0);
}

/// Counts a packet to a load balancer under its source and reason.
#[inline(always)]
pub fn from_pod(ctx: &TcContext, reason: Reason) {
    lb(ctx, reason, LB_SLOTS);
}

#[inline(always)]
fn lb(ctx: &TcContext, reason: Reason, direction: usize) {
    // The group is looked at after the packet was changed: a copy on the stack.
    let group = reason.group;
    let Some(stats) = LB_STATS.get_ptr_mut(&group) else {
        return;
    };
    let slot = direction + (reason.path as usize & (LB_SLOTS - 1));
    // SAFETY: the slot is inside the two arrays of this CPU's copy; the kernel's context is valid.
    unsafe {
        let tally = stats.cast::<Tally>().add(slot);
        let segments = (*skb(ctx)).gso_segs;
        (*tally).packets = (*tally).packets.wrapping_add(u64::from(if segments == 0 { 1 } else { segments }));
        (*tally).bytes = (*tally).bytes.wrapping_add(u64::from(ctx.len()));
    }
}
