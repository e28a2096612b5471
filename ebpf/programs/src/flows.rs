// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! The flows that share a limited link while there is a queue: which of them a packet is of, and what its law says.
//!
//! Each has a clock that runs at its share of the rate, so that what it is ahead of now is how long its next packet
//! will wait in a queue of its own. Who sends little goes first, and never waits for the others.
//!
//! More busy flows than there are places share them by their hashes: a flow stays where its packets are.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::HashMap as BtfHashMap;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::btf_map;
use turnpike_ebpf_abi::mark::{FIRST_FLOW_CLASS, FLOWS, Flow, FlowTable, MarkConfig, SPARSE_CLASS};
use turnpike_ebpf_abi::names;

use crate::codel;

/// A BTF map: the kernel finds the lock by its type. A table is made when a limit is set.
#[btf_map(name = "TPK_MARK_FLOWS")]
static TABLES: BtfHashMap<u32, FlowTable, { names::MAX_LINKS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    BtfHashMap::new();

/// A flow is sparse while it sends less than this part of the rate…
const SPARSE_PART: u64 = 32;
/// …and at most so many full frames at once.
const SPARSE_FRAMES: u64 = 3;
const FRAME: u64 = 1514;
/// A busy flow that was silent for so long has nothing queued.
const SILENCE_NS: u64 = 100_000_000;

/// A packet as its flow's law sees it.
#[derive(Clone, Copy)]
pub struct Arrival {
    /// Hash of its addresses and ports.
    pub hash: u32,
    pub now: u64,
    /// Its time on the link.
    pub cost: u64,
    /// How long all that was let in will wait.
    pub backlog: u64,
    /// Its ends speak ECN.
    pub capable: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Mark,
    DropEarly,
    DropFull,
}

/// What becomes of it, and the class of its queue; nothing for a link without a table.
#[inline(always)]
pub fn judge(link: u32, config: &MarkConfig, arrival: &Arrival) -> Option<(Verdict, u16)> {
    let table = TABLES.get_ptr_mut(link)?;
    // SAFETY: a value of our own map, valid for the whole program; its lock, which nothing else touches, guards it.
    unsafe {
        let lock = (&raw mut (*table).lock).cast();
        helpers::bpf_spin_lock(lock);
        let (place, others) = place(&mut *table, arrival);
        let verdict = admit(&mut (*table).flows[place & (FLOWS - 1)], others, config, arrival);
        helpers::bpf_spin_unlock(lock);
        Some(match verdict {
            (verdict, true) => (verdict, SPARSE_CLASS),
            (verdict, false) => (verdict, FIRST_FLOW_CLASS + place as u16),
        })
    }
}

const fn tag(hash: u32) -> u32 {
    if hash == 0 { 1 } else { hash }
}

/// The flow's place, and how many others have something queued. A new flow gets the place that was silent for longest
/// and has nothing queued; without such a place it shares one.
#[inline(always)]
fn place(table: &mut FlowTable, arrival: &Arrival) -> (usize, u64) {
    // What is found goes through memory: the verifier then has one state after each step and not one for each finding.
    let (best, queued, oldest) = (&raw mut table.best, &raw mut table.queued, &raw mut table.oldest_ns);
    // SAFETY: fields of the caller's table.
    unsafe {
        best.write_volatile(arrival.hash);
        queued.write_volatile(0);
        oldest.write_volatile(u64::MAX);
    }
    let tag = tag(arrival.hash);
    let mut index = 0;
    while index < FLOWS {
        let flow = &table.flows[index];
        let is_queued = flow.clock_ns > arrival.now;
        // SAFETY: as above.
        unsafe {
            if is_queued {
                queued.write_volatile(queued.read_volatile() + 1);
            }
            if flow.tag == tag {
                best.write_volatile(index as u32);
                oldest.write_volatile(0);
            } else if !is_queued && flow.seen_ns < oldest.read_volatile() {
                best.write_volatile(index as u32);
                oldest.write_volatile(flow.seen_ns);
            }
        }
        index += 1;
    }
    // SAFETY: as above.
    let (best, mut others) =
        unsafe { (best.read_volatile() as usize & (FLOWS - 1), u64::from(queued.read_volatile())) };
    let flow = &mut table.flows[best];
    if flow.clock_ns > arrival.now {
        others = others.saturating_sub(1);
    } else if flow.tag != tag {
        // By its fields: a whole one is written by a call, and old verifiers want none under the lock.
        flow.tag = tag;
        flow.busy = 0;
        flow.sparse_ns = 0;
        flow.codel.above_until_ns = 0;
    }
    (best, others)
}

/// The law of a flow beside so many others; whether it is sparse.
#[inline(always)]
fn admit(flow: &mut Flow, others: u64, config: &MarkConfig, arrival: &Arrival) -> (Verdict, bool) {
    let Arrival { now, cost, .. } = *arrival;
    if flow.busy != 0 && now.saturating_sub(flow.seen_ns) > SILENCE_NS && flow.clock_ns <= now {
        flow.busy = 0;
    }
    flow.seen_ns = now;
    let credit = ((config.ns_per_byte_q20 * FRAME) >> 20) * SPARSE_FRAMES * SPARSE_PART;
    let spent = if flow.sparse_ns > now { flow.sparse_ns } else { now } + cost * SPARSE_PART;
    if spent - now > credit {
        flow.busy = 1;
    } else {
        flow.sparse_ns = spent;
    }
    let start = if flow.clock_ns > now { flow.clock_ns } else { now };
    if flow.busy == 0 {
        flow.clock_ns = start + cost;
        return (Verdict::Pass, true);
    }
    let own = start - now;
    // Who was alone among many a moment ago has more of the link now than his clock thinks.
    let wait = if own < arrival.backlog { own } else { arrival.backlog };
    if wait > config.hold_ns {
        return (Verdict::DropFull, false);
    }
    let verdict = if arrival.capable {
        let due = codel::due(&mut flow.codel, config.target_ns, config.interval_ns, now, wait);
        if due || wait >= config.ceiling_ns { Verdict::Mark } else { Verdict::Pass }
    } else {
        let share = config.early_ns * (others + 1);
        let half = config.hold_ns / 2;
        let least = 2 * config.target_ns;
        let target = if share > half { half } else { share };
        let target = if target > least { target } else { least };
        if codel::due(&mut flow.codel, target, config.interval_ns, now, wait) {
            return (Verdict::DropEarly, false);
        }
        Verdict::Pass
    };
    flow.clock_ns = now + wait + cost * (others + 1);
    (verdict, false)
}
