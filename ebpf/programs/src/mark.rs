// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! The CE marker: a virtual queue in front of a limited link, ruled by CoDel (RFC 8289).
//!
//! The virtual clock runs at exactly the link's rate, so that how far it is ahead of now is the delay that this
//! packet is about to meet in the real queue. It is marked when that delay stood above the target for an interval,
//! and at once above the ceiling. Nothing is dropped here: the real queue does that to traffic without ECN.
//!
//! Left out: flow fairness (the marks fall on flows by their share of packets).

use aya_ebpf::btf_maps::HashMap as BtfHashMap;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::TcContext;
use turnpike_ebpf_abi::{MarkConfig, MarkState, names};

use crate::packet::{ETH_LEN, ETH_P_IP, ETH_P_IPV6, IP4_LEN, Packet, skb};

#[map(name = "TPK_MARK_CONF")]
static CONFIGS: HashMap<u32, MarkConfig> = HashMap::with_max_entries(names::MAX_LINKS, 0);
/// A BTF map: the kernel finds the lock by its type.
#[btf_map(name = "TPK_MARK_STATE")]
static STATES: BtfHashMap<u32, MarkState, { names::MAX_LINKS as usize }> = BtfHashMap::new();

/// How far ahead of now the clock may run, in ceilings: the real queue dropped what is beyond.
const HORIZON: u64 = 8;
/// An episode that begins within this many intervals of the last one goes on at nearly its rate (RFC 8289 §5.4).
const MEMORY: u64 = 16;

/// What was done.
pub enum Outcome {
    /// The link has no limit.
    Unlimited,
    /// No mark was due.
    Below,
    /// One was due, but the packet cannot carry it.
    NotCapable,
    /// The packet carries it.
    Marked,
}

/// Passes a packet through the virtual queue.
#[inline(always)]
pub fn mark(ctx: &TcContext) -> Outcome {
    // SAFETY: the kernel's context is valid for the whole program.
    let (ifindex, wire_len) = unsafe { ((*skb(ctx)).ifindex, (*skb(ctx)).wire_len) };
    // SAFETY: entries are replaced by the agent only; a torn value misjudges one packet.
    let Some(config) = (unsafe { CONFIGS.get(ifindex) }) else {
        return Outcome::Unlimited;
    };
    let Some(state) = STATES.get_ptr_mut(ifindex) else {
        return Outcome::Unlimited;
    };
    let bytes = u64::from(if wire_len == 0 { ctx.len() } else { wire_len });
    let capable = capable(ctx);
    // SAFETY: a plain helper call.
    let now = unsafe { helpers::bpf_ktime_get_ns() };
    // SAFETY: a value of our own map, valid for the whole program; its lock, which nothing else touches, guards it.
    let due = unsafe {
        let lock = (&raw mut (*state).lock).cast();
        helpers::bpf_spin_lock(lock);
        let due = advance(&mut *state, config, now, bytes, capable);
        helpers::bpf_spin_unlock(lock);
        due
    };
    match (due, capable) {
        (false, _) => Outcome::Below,
        (true, false) => Outcome::NotCapable,
        (true, true) => {
            // SAFETY: a plain helper call.
            unsafe { helpers::bpf_skb_ecn_set_ce(skb(ctx)) };
            Outcome::Marked
        }
    }
}

/// Whether the packet says that its ends understand ECN (RFC 3168 §5).
#[inline(always)]
pub fn capable(ctx: &TcContext) -> bool {
    // SAFETY: the kernel's context is valid for the whole program.
    let protocol = unsafe { (*skb(ctx)).protocol };
    let packet = Packet::new(ctx, ETH_LEN + IP4_LEN);
    let Some(start) = packet.at::<[u8; 2]>(ETH_LEN) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let [first, second] = unsafe { *start };
    match protocol {
        ETH_P_IP => second & 3 != 0,
        ETH_P_IPV6 => (u16::from_be_bytes([first, second]) >> 4) & 3 != 0,
        _ => false,
    }
}

/// Moves the virtual clock and decides on a mark. Runs under the lock: no calls.
#[inline(always)]
fn advance(state: &mut MarkState, config: &MarkConfig, now: u64, bytes: u64, capable: bool) -> bool {
    let cost = bytes.wrapping_mul(config.ns_per_byte_q20) >> 20;
    let delay = state.clock_ns.saturating_sub(now);
    let horizon = now + config.ceiling_ns * HORIZON;
    let start = if state.clock_ns > now { state.clock_ns } else { now };
    let clock = start + cost;
    state.clock_ns = if clock > horizon && delay > 0 { horizon } else { clock };
    state.packets += 1;
    state.bytes += bytes;
    state.capable += u64::from(capable);
    if delay > state.max_delay_ns {
        state.max_delay_ns = delay;
    }
    let due = due(state, config, now, delay);
    if due && capable {
        state.marked += 1;
    } else if due {
        state.not_capable += 1;
    }
    due
}

/// CoDel's law (RFC 8289 §5), with the ceiling on top.
#[inline(always)]
pub fn due(state: &mut MarkState, config: &MarkConfig, now: u64, delay: u64) -> bool {
    if delay < config.target_ns {
        state.above_until_ns = 0;
        return false;
    }
    if delay >= config.ceiling_ns {
        return true;
    }
    if state.above_until_ns == 0 {
        state.above_until_ns = now + config.interval_ns;
        return false;
    }
    if now < state.above_until_ns {
        return false;
    }
    let fresh = state.above_until_ns > state.next_mark_ns;
    if fresh {
        // The first mark of an episode.
        let recent = now.saturating_sub(state.next_mark_ns) < MEMORY * config.interval_ns;
        if !(recent && state.episode > 2) {
            state.episode = 1;
            state.inv_sqrt_q32 = u32::MAX;
        } else {
            state.episode -= 2;
            newton(state);
        }
        state.next_mark_ns = now + spacing(state, config);
        return true;
    }
    if now < state.next_mark_ns {
        return false;
    }
    state.episode = state.episode.saturating_add(1);
    newton(state);
    state.next_mark_ns = now + spacing(state, config);
    true
}

/// interval / √episode.
#[inline(always)]
fn spacing(state: &MarkState, config: &MarkConfig) -> u64 {
    // Intervals are below 2³² ns (4 s); the product does not overflow.
    ((config.interval_ns & 0xffff_ffff) * u64::from(state.inv_sqrt_q32)) >> 32
}

/// One of Newton's steps towards 1/√n: y' = y (3 − n y²) / 2. The episode changes slowly, so that one is enough.
#[inline(always)]
fn newton(state: &mut MarkState) {
    let y = u64::from(state.inv_sqrt_q32);
    let square = (y * y) >> 32;
    let product = square * u64::from(state.episode & 0xffff);
    let rest = (3u64 << 32).saturating_sub(product);
    let next = (y * (rest >> 2)) >> 31;
    state.inv_sqrt_q32 = if next > 0xffff_ffff { u32::MAX } else { next as u32 };
}
