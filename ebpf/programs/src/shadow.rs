// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Limits in shadow: what a limit would have marked and dropped is counted, and the packet goes on untouched.
//!
//! The same virtual clock as the limiter's, in front of no queue: what the limit's bucket and queue hold together ends
//! it, and what comes then would have been dropped. A GSO packet counts as one, as with marks. All flows are one here,
//! and those without ECN are held to the law of the others.
//!
//! Left out: that senders would have slowed down. Who is over the limit is over it for as long as he sends.

use aya_ebpf::btf_maps::HashMap as BtfHashMap;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::TcContext;
use turnpike_ebpf_abi::{MarkConfig, MarkState, Veth, names};

use crate::packet::skb;
use crate::{codel, mark};

#[map(name = "TPK_SHADOW_ON")]
static ON: Array<u32> = Array::with_max_entries(1, 0);
#[map(name = "TPK_SHADOW_CONF")]
static CONFIGS: HashMap<u32, MarkConfig> = HashMap::with_max_entries(names::MAX_LINKS, 0);
/// A BTF map: the kernel finds the lock by its type.
#[btf_map(name = "TPK_SHADOW_STAT")]
static STATES: BtfHashMap<u32, MarkState, { names::MAX_LINKS as usize }> = BtfHashMap::new();

/// Counts a packet towards a pod, on the host veth.
#[inline(always)]
pub fn to_pod(ctx: &TcContext) {
    if ON.get(0).is_some_and(|on| *on != 0) {
        // SAFETY: the kernel's context is valid for the whole program.
        count(ctx, unsafe { (*skb(ctx)).ifindex });
    }
}

/// Counts a packet that a pod sent, on the host veth.
#[inline(always)]
pub fn from_pod(ctx: &TcContext, veth: &Veth) {
    if veth.flags & Veth::SHADOW != 0 {
        // SAFETY: as above.
        count(ctx, MarkConfig::shadow_from_pod_key(unsafe { (*skb(ctx)).ifindex }));
    }
}

#[inline(always)]
fn count(ctx: &TcContext, key: u32) {
    // SAFETY: entries are replaced by the agent only; a torn value misjudges one packet.
    let Some(config) = (unsafe { CONFIGS.get(key) }) else {
        return;
    };
    let Some(state) = STATES.get_ptr_mut(key) else {
        return;
    };
    let (bytes, capable) = (u64::from(mark::wire_len(ctx)), mark::capable(ctx));
    // SAFETY: a plain helper call.
    let now = unsafe { helpers::bpf_ktime_get_ns() };
    // SAFETY: a value of our own map, valid for the whole program; its lock, which nothing else touches, guards it.
    unsafe {
        let lock = (&raw mut (*state).lock).cast();
        helpers::bpf_spin_lock(lock);
        advance(&mut *state, config, now, bytes, capable);
        helpers::bpf_spin_unlock(lock);
    }
}

/// Moves the virtual clock as far as the queue would have taken the packet. Runs under the lock: no calls.
#[inline(always)]
fn advance(state: &mut MarkState, config: &MarkConfig, now: u64, bytes: u64, capable: bool) {
    let cost = bytes.wrapping_mul(config.ns_per_byte_q20) >> 20;
    let delay = state.clock_ns.saturating_sub(now);
    let start = if state.clock_ns > now { state.clock_ns } else { now };
    let (clock, full) = (start + cost, now + config.bucket_ns + config.hold_ns);
    if clock > full && delay > 0 {
        state.dropped = state.dropped.wrapping_add(1);
        state.clock_ns = if start > full { start } else { full };
    } else {
        state.clock_ns = clock;
    }
    state.packets += 1;
    state.bytes += bytes;
    if delay > state.max_delay_ns {
        state.max_delay_ns = delay;
    }
    let wait = delay.saturating_sub(config.bucket_ns);
    let due = codel::due(&mut state.codel, config.target_ns, config.interval_ns, now, wait);
    match (due || wait >= config.ceiling_ns, capable) {
        (true, true) => state.marked += 1,
        (true, false) => state.not_capable += 1,
        (false, _) => {}
    }
}
