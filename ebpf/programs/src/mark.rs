// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! The limiter: a virtual queue in front of a limited link's real ones.
//!
//! The virtual clock runs at the link's rate, so that how far it is ahead of now is the delay that this packet is
//! about to meet. While nothing waits, that is all. Once something does, each flow has a queue of its own ([`flows`])
//! and a law of its own ([`codel`](crate::codel)): marks for those that speak ECN, few early drops for the others.
//! Behind it the real queues hold back what was let in: HTB's leaves below a TBF, or fq by departure times.

use aya_ebpf::btf_maps::HashMap as BtfHashMap;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::TcContext;
use turnpike_ebpf_abi::mark::SPARSE_CLASS;
use turnpike_ebpf_abi::{MarkConfig, MarkState, names};

use crate::flows::{self, Arrival, Verdict};
use crate::packet::{ETH_LEN, ETH_P_IP, ETH_P_IPV6, IP4_LEN, Packet, skb};

#[map(name = "TPK_MARK_CONF")]
static CONFIGS: HashMap<u32, MarkConfig> = HashMap::with_max_entries(names::MAX_LINKS, 0);
/// A BTF map: the kernel finds the lock by its type.
#[btf_map(name = "TPK_MARK_STATE")]
static STATES: BtfHashMap<u32, MarkState, { names::MAX_LINKS as usize }> = BtfHashMap::new();

/// Ethernet, IPv4 and TCP with timestamps: what each further segment of a GSO packet carries on the wire.
const HEADERS4: u32 = 14 + 20 + 32;
/// The same with IPv6.
const HEADERS6: u32 = 14 + 40 + 32;

/// What was done.
pub enum Outcome {
    /// The link has no limit here.
    Unlimited,
    /// It goes on, and may carry a mark now.
    Passed {
        /// Its queue; 0 while nothing waits.
        class: u16,
        /// When it may leave, monotonic nanoseconds; 0 for now.
        departure: u64,
    },
    /// There is no room for it, or it is one of few that go early.
    Dropped,
}

/// Passes a packet through the virtual queue of a link whose law has these flags.
#[inline(always)]
pub fn limit(ctx: &TcContext, flags: u64) -> Outcome {
    // SAFETY: the kernel's context is valid for the whole program.
    let (ifindex, wire_len) = unsafe { ((*skb(ctx)).ifindex, (*skb(ctx)).wire_len) };
    // SAFETY: entries are replaced by the agent only; a torn value misjudges one packet.
    let Some(config) = (unsafe { CONFIGS.get(ifindex) }) else {
        return Outcome::Unlimited;
    };
    if config.flags != flags {
        return Outcome::Unlimited;
    }
    let Some(state) = STATES.get_ptr_mut(ifindex) else {
        return Outcome::Unlimited;
    };
    let bytes = u64::from(if wire_len == 0 { ctx.len() } else { wire_len });
    let cost = bytes.wrapping_mul(config.ns_per_byte_q20) >> 20;
    // SAFETY: a plain helper call.
    let now = unsafe { helpers::bpf_ktime_get_ns() };
    // SAFETY: a value of our own map, valid for the whole program; its lock, which nothing else touches, guards it.
    let delay = unsafe {
        let lock = (&raw mut (*state).lock).cast();
        helpers::bpf_spin_lock(lock);
        let delay = advance(&mut *state, now, bytes, cost);
        helpers::bpf_spin_unlock(lock);
        delay
    };
    if delay <= config.bucket_ns / MarkConfig::AT_ONCE {
        return Outcome::Passed { class: 0, departure: 0 };
    }
    let backlog = delay.saturating_sub(config.bucket_ns);
    // SAFETY: a plain helper call.
    let hash = unsafe { helpers::bpf_get_hash_recalc(skb(ctx)) };
    let arrival = Arrival { hash, now, cost, backlog, capable: capable(ctx) };
    let (verdict, class) = flows::judge(ifindex, config, &arrival)
        .unwrap_or((flows::without_table(config, &arrival), SPARSE_CLASS));
    if verdict != Verdict::Pass {
        // SAFETY: as above.
        unsafe {
            let lock = (&raw mut (*state).lock).cast();
            helpers::bpf_spin_lock(lock);
            note(&mut *state, verdict, bytes, cost);
            helpers::bpf_spin_unlock(lock);
        }
    }
    match verdict {
        Verdict::DropEarly | Verdict::DropFull => return Outcome::Dropped,
        // SAFETY: a plain helper call.
        Verdict::Mark => unsafe {
            helpers::bpf_skb_ecn_set_ce(skb(ctx));
        },
        Verdict::Pass => {}
    }
    // Who sends little does not wait where the packet says when it leaves; the others wait a little longer for it.
    let departure = if class == SPARSE_CLASS || backlog == 0 { 0 } else { now + backlog };
    Outcome::Passed { class, departure }
}

/// Lets a packet that a pod sends past the ifb of its limit while nothing waits there; without an answer of ours it is
/// redirected, and counted there.
#[inline(always)]
pub fn at_once(ctx: &TcContext, queue: u32) -> bool {
    if queue == 0 {
        return false;
    }
    // SAFETY: as below.
    let (config, state) = match (unsafe { CONFIGS.get(queue) }, STATES.get_ptr_mut(queue)) {
        (Some(config), Some(state)) => (config, state),
        _ => return false,
    };
    let bytes = u64::from(wire_len(ctx));
    let cost = bytes.wrapping_mul(config.ns_per_byte_q20) >> 20;
    // SAFETY: a plain helper call.
    let now = unsafe { helpers::bpf_ktime_get_ns() };
    // SAFETY: a value of our own map, valid for the whole program; its lock, which nothing else touches, guards it.
    unsafe {
        let lock = (&raw mut (*state).lock).cast();
        helpers::bpf_spin_lock(lock);
        let fits = (*state).clock_ns <= now + config.bucket_ns / MarkConfig::AT_ONCE;
        if fits {
            advance(&mut *state, now, bytes, cost);
        }
        helpers::bpf_spin_unlock(lock);
        fits
    }
}

/// Bytes on the wire. At egress the kernel says; at ingress a GSO packet's headers count once, and are added.
#[inline(always)]
pub fn wire_len(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel's context is valid for the whole program.
    let (len, wire_len, segments, protocol) =
        unsafe { ((*skb(ctx)).len, (*skb(ctx)).wire_len, (*skb(ctx)).gso_segs, (*skb(ctx)).protocol) };
    if wire_len > len {
        return wire_len;
    }
    let headers = if protocol == ETH_P_IPV6 { HEADERS6 } else { HEADERS4 };
    len + segments.saturating_sub(1) * headers
}

/// Tells HTB, whose classifier the program is, which of its queues the packet is for.
#[inline(always)]
pub fn choose(ctx: &TcContext, class: u16) {
    // SAFETY: the kernel's context is valid for the whole program, and this field is for programs to write.
    unsafe { core::ptr::write_volatile(&raw mut (*skb(ctx)).tc_classid, u32::from(class)) };
}

/// Tells fq when the packet may leave.
#[inline(always)]
pub fn depart(ctx: &TcContext, departure: u64) {
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut (*skb(ctx)).tstamp, departure) };
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

/// Moves the virtual clock; answers how far it was ahead. Runs under the lock: no calls.
#[inline(always)]
fn advance(state: &mut MarkState, now: u64, bytes: u64, cost: u64) -> u64 {
    let start = if state.clock_ns > now { state.clock_ns } else { now };
    let delay = start - now;
    state.clock_ns = start + cost;
    state.packets += 1;
    state.bytes += bytes;
    if delay > state.max_delay_ns {
        state.max_delay_ns = delay;
    }
    delay
}

/// Counts what was done; what was dropped takes no time on the link. Runs under the lock: no calls.
#[inline(always)]
fn note(state: &mut MarkState, verdict: Verdict, bytes: u64, cost: u64) {
    match verdict {
        Verdict::Pass => return,
        Verdict::Mark => {
            state.marked += 1;
            return;
        }
        Verdict::DropEarly => state.not_capable += 1,
        Verdict::DropFull => state.dropped = state.dropped.wrapping_add(1),
    }
    state.bytes -= bytes;
    state.clock_ns = state.clock_ns.saturating_sub(cost);
}
