// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! The flows that share a limited link while there is a queue: which of them a packet is of, and what its law says.
//!
//! A clock of theirs runs at the share of each, so that what a flow's finish is ahead of it tells how long its next packet
//! will wait in a queue of its own, however many come and go. Who sends little goes first, and never waits for the others.
//!
//! More busy flows than there are places share them by their hashes: a flow stays where its packets are.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::HashMap as BtfHashMap;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::btf_map;
use turnpike_ebpf_abi::mark::{FIRST_FLOW_CLASS, FLOWS, FlowTable, MarkConfig, SPARSE_CLASS};
use turnpike_ebpf_abi::names;

use crate::codel;

/// A BTF map: the kernel finds the lock by its type. A table is made when a limit is set.
#[btf_map(name = "TPK_MARK_SHARES")]
static TABLES: BtfHashMap<u32, FlowTable, { names::MAX_LINKS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    BtfHashMap::new();

/// A flow is sparse while it sends less than this part of the rate…
const SPARSE_PART: u64 = 32;
/// …and at most so many full frames at once.
const SPARSE_FRAMES: u64 = 3;
/// …and while what all of them have queued takes less than this part of the longest wait: more flows than would fit in are
/// none of them sparse.
const SPARSE_WAIT_PART: u64 = 8;
const FRAME: u64 = 1514;
/// Marks begin above a wait of early_ns divided by this for each busy flow, where that is more than the target: two frames…
const MARK_PART: u64 = 12;
/// …and the ceiling is above so many of them: six frames.
const CEILING_PARTS: u64 = 3;
/// Who still fills a queue of marks to within this part of the longest wait takes no notice of them (RFC 3168 §7): BBR.
const HEEDLESS_PART: u64 = 4;
/// Where a flow's frames take so long that it cannot have its window otherwise, its longest wait is up to so many times
/// the usual one.
const MOST_HOLDS: u64 = 4;
/// Longest interval that the law can multiply.
const MAX_INTERVAL_NS: u64 = 4_000_000_000;
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
        let place = place(&mut *table, arrival);
        let others = advance(&mut *table, place, arrival);
        let verdict = admit(&mut *table, place, others, config, arrival);
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

/// The flow's place. A new flow gets the place that was silent for longest and has nothing queued; without such a place it
/// shares one. Finds, too, how many flows have something queued, and which of them is done next.
#[inline(always)]
fn place(table: &mut FlowTable, arrival: &Arrival) -> usize {
    if arrival.backlog == 0 || arrival.now >= table.empty_ns {
        // Nothing waits. What was let in while nothing had to is nobody's.
        table.virtual_ns = table.last_finish_ns;
        table.moved_ns = arrival.now;
    }
    table.empty_ns = arrival.now + arrival.backlog + arrival.cost;
    // What is found goes through memory: the verifier then has one state after each step and not one for each finding.
    let (best, queued) = (&raw mut table.best, &raw mut table.queued);
    let (oldest, next) = (&raw mut table.oldest_ns, &raw mut table.next_ns);
    // SAFETY: fields of the caller's table.
    unsafe {
        best.write_volatile(arrival.hash);
        queued.write_volatile(0);
        oldest.write_volatile(u64::MAX);
        next.write_volatile(u64::MAX);
    }
    let tag = tag(arrival.hash);
    let clock = table.virtual_ns;
    let mut index = 0;
    while index < FLOWS {
        let flow = &table.flows[index];
        let is_queued = flow.finish_ns > clock;
        // SAFETY: as above.
        unsafe {
            if is_queued {
                queued.write_volatile(queued.read_volatile() + 1);
                if flow.finish_ns < next.read_volatile() {
                    next.write_volatile(flow.finish_ns);
                }
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
    let best = unsafe { best.read_volatile() as usize & (FLOWS - 1) };
    let flow = &mut table.flows[best];
    if flow.finish_ns <= clock && flow.tag != tag {
        // By its fields, and not two together: a call would write them, and old verifiers want none under the lock.
        flow.tag = tag;
        flow.busy = 0;
        flow.sparse_ns = 0;
        flow.codel.above_until_ns = 0;
        // SAFETY: a field of the caller's table.
        unsafe { (&raw mut flow.codel.next_mark_ns).write_volatile(0) };
    }
    best
}

/// Moves the share's clock, at most up to where the next flow is done: there are more packets than flows that are done.
/// Answers how many others have something queued.
#[inline(always)]
fn advance(table: &mut FlowTable, place: usize, arrival: &Arrival) -> u64 {
    let mut queued = u64::from(table.queued & 0xff);
    let passed = arrival.now.saturating_sub(table.moved_ns);
    if queued == 0 {
        table.moved_ns += passed;
        return 0;
    }
    let needed = (table.next_ns - table.virtual_ns) * queued;
    if needed <= passed {
        table.virtual_ns = table.next_ns;
        table.moved_ns += needed;
        queued -= 1;
    } else {
        // What does not divide evenly is there for the next packet: with many it would add up.
        let step = passed / queued;
        table.virtual_ns += step;
        table.moved_ns += step * queued;
    }
    if table.flows[place & (FLOWS - 1)].finish_ns > table.virtual_ns {
        queued.saturating_sub(1)
    } else {
        queued
    }
}

/// The verdict for a link whose table is not there (yet): its whole queue is one.
#[inline(always)]
pub fn without_table(config: &MarkConfig, arrival: &Arrival) -> Verdict {
    if arrival.backlog > config.hold_ns { Verdict::DropFull } else { Verdict::Pass }
}

/// The law of a flow beside so many others; whether it is sparse.
#[inline(always)]
fn admit(
    table: &mut FlowTable,
    place: usize,
    others: u64,
    config: &MarkConfig,
    arrival: &Arrival,
) -> (Verdict, bool) {
    let Arrival { now, cost, backlog, .. } = *arrival;
    let clock = table.virtual_ns;
    let flow = &mut table.flows[place & (FLOWS - 1)];
    if flow.busy != 0 && now.saturating_sub(flow.seen_ns) > SILENCE_NS && flow.finish_ns <= clock {
        flow.busy = 0;
        flow.codel.next_mark_ns = 0;
    }
    flow.seen_ns = now;
    let all = others + 1;
    let share = config.early_ns * all;
    let hold = longest_wait(config, share);
    let credit = ((config.ns_per_byte_q20 * FRAME) >> 20) * SPARSE_FRAMES * SPARSE_PART;
    let spent = at_least(flow.sparse_ns, now) + cost * SPARSE_PART;
    let first_in_line = table.sparse_done_ns.saturating_sub(now);
    if spent - now > credit || first_in_line > config.hold_ns / SPARSE_WAIT_PART {
        flow.busy = 1;
    } else {
        flow.sparse_ns = spent;
    }
    if flow.busy == 0 {
        // There is room for it when there is none for the others.
        if backlog > hold + 3 * config.hold_ns {
            return (Verdict::DropFull, true);
        }
        // The others have so much less of the link.
        table.moved_ns += cost;
        table.sparse_done_ns = now + first_in_line + cost;
        return (Verdict::Pass, true);
    }
    let ahead = flow.finish_ns.saturating_sub(clock);
    // The link's own clock, which knows of no flows, bounds it.
    let ahead = if ahead * all > backlog { backlog / all } else { ahead };
    let wait = ahead * all;
    if wait > hold || backlog > hold + 2 * config.hold_ns {
        return (Verdict::DropFull, false);
    }
    let verdict = if arrival.capable {
        let target = at_least(config.target_ns, share / MARK_PART);
        let ceiling = at_least(config.ceiling_ns, share / MARK_PART * CEILING_PARTS);
        let due = codel::due(&mut flow.codel, target, config.interval_ns, now, wait);
        if wait > hold - hold / HEEDLESS_PART && now >= flow.spared_ns {
            flow.spared_ns = now + wait + config.interval_ns;
            return (Verdict::DropFull, false);
        }
        if due || wait >= ceiling { Verdict::Mark } else { Verdict::Pass }
    } else {
        let target = at_least(if share > hold / 2 { hold / 2 } else { share }, 2 * config.target_ns);
        // Nobody hears of a drop before what waits in front of it has gone.
        let interval = config.interval_ns + target;
        let interval = if interval < MAX_INTERVAL_NS { interval } else { MAX_INTERVAL_NS };
        if wait >= target && flow.codel.next_mark_ns == 0 {
            // The end of slow start, which an interval later would be twice as far.
            codel::begin(&mut flow.codel, interval, now);
            return (Verdict::DropEarly, false);
        }
        if codel::due(&mut flow.codel, target, interval, now, wait) {
            return (Verdict::DropEarly, false);
        }
        Verdict::Pass
    };
    if backlog > 0 {
        flow.finish_ns = clock + ahead + cost;
        table.last_finish_ns = at_least(table.last_finish_ns, flow.finish_ns);
    }
    (verdict, false)
}

/// The longest wait of a flow whose frames of a window take this share of time.
#[inline(always)]
fn longest_wait(config: &MarkConfig, share: u64) -> u64 {
    let (window, most) = (2 * share, MOST_HOLDS * config.hold_ns);
    at_least(config.hold_ns, if window < most { window } else { most })
}

#[inline(always)]
const fn at_least(value: u64, least: u64) -> u64 {
    if value > least { value } else { least }
}
