// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Counts what TOA did for each pod, and remembers the latest connections for people who ask why.

use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuHashMap};
use turnpike_ebpf_abi::bypass::FlowKey;
use turnpike_ebpf_abi::{Addr, Counter, ToaEvent, ToaOutcome, ToaSock, ToaTally, names};

use super::Outcome;
use super::ends::Ends;
use crate::count::NO_PREALLOC;

#[map(name = "TPK_TOA_PODS")]
static PODS: PerCpuHashMap<Addr, ToaTally> = PerCpuHashMap::with_max_entries(names::MAX_PODS, NO_PREALLOC);
#[map(name = "TPK_TOA_EVENTS")]
static EVENTS: LruHashMap<FlowKey, ToaEvent> = LruHashMap::with_max_entries(names::MAX_TOA_EVENTS, 0);

/// An outcome for a connection that has no record.
#[inline(always)]
pub fn without_socket(ends: &Ends, outcome: ToaOutcome, format: u32, seen_kind: u8) -> Outcome {
    let event = ToaEvent { outcome: outcome as u8, format: format as u8, seen_kind, ..ToaEvent::default() };
    remember(ends, event);
    tally(ends, outcome)
}

/// An outcome for a connection with its record.
#[inline(always)]
pub fn with_socket(ends: &Ends, record: &ToaSock, outcome: ToaOutcome, seen_kind: u8) -> Outcome {
    let mut event = ToaEvent {
        outcome: outcome as u8,
        format: record.format,
        seen_kind,
        tries: record.tries,
        ..ToaEvent::default()
    };
    if record.state == ToaSock::FOUND {
        event.client = record.client;
        event.client_port_be = record.port_be;
    }
    remember(ends, event);
    tally(ends, outcome)
}

#[inline(always)]
fn remember(ends: &Ends, mut event: ToaEvent) {
    let flow = FlowKey {
        pod: ends.pod,
        peer: ends.peer,
        pod_port_be: ends.pod_port_be,
        peer_port_be: ends.peer_port_be,
    };
    // SAFETY: a plain helper call.
    event.at_ns = unsafe { helpers::bpf_ktime_get_ns() };
    // For people only: a full map loses the oldest.
    let _ = EVENTS.insert(flow, event, 0);
}

#[inline(always)]
fn tally(ends: &Ends, outcome: ToaOutcome) -> Outcome {
    let counted = match outcome {
        ToaOutcome::Pending => return Outcome::Nothing,
        ToaOutcome::Hit | ToaOutcome::HitSyn => Outcome::Counted(Counter::ToaHit),
        ToaOutcome::HitLate => Outcome::Late,
        ToaOutcome::Miss => Outcome::Counted(Counter::ToaMiss),
        ToaOutcome::Untrusted => Outcome::Counted(Counter::ToaUntrusted),
        ToaOutcome::Malformed => Outcome::Counted(Counter::ToaMalformed),
        ToaOutcome::OptedOut => Outcome::Counted(Counter::ToaOptedOut),
    };
    let pod = ends.pod;
    let Some(tally) = PODS.get_ptr_mut(pod) else {
        return counted;
    };
    // SAFETY: this CPU's copy; the program is not preempted by itself on one CPU in a way that matters to a count.
    let tally = unsafe { &mut *tally };
    match outcome {
        ToaOutcome::Pending => {}
        ToaOutcome::Hit | ToaOutcome::HitSyn => tally.hit += 1,
        ToaOutcome::HitLate => {
            tally.hit += 1;
            tally.late += 1;
        }
        ToaOutcome::Miss => tally.miss += 1,
        ToaOutcome::Untrusted => tally.untrusted += 1,
        ToaOutcome::Malformed => tally.malformed += 1,
        ToaOutcome::OptedOut => tally.opted_out += 1,
    }
    counted
}
