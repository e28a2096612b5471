// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! CoDel's law (RFC 8289 §5), on a wait that is foretold and not measured.

use turnpike_ebpf_abi::mark::Codel;

/// An episode that begins within this many intervals of the last one goes on at nearly its rate (RFC 8289 §5.4).
const MEMORY: u64 = 16;

/// Whether a packet that is about to wait so long is due: for a mark, or to be dropped. Makes no calls.
#[inline(always)]
pub fn due(state: &mut Codel, target_ns: u64, interval_ns: u64, now: u64, wait: u64) -> bool {
    if wait < target_ns {
        state.above_until_ns = 0;
        return false;
    }
    if state.above_until_ns == 0 {
        state.above_until_ns = now + interval_ns;
        return false;
    }
    if now < state.above_until_ns {
        return false;
    }
    let fresh = state.above_until_ns > state.next_mark_ns;
    if fresh {
        // The first mark of an episode.
        let recent = now.saturating_sub(state.next_mark_ns) < MEMORY * interval_ns;
        if !(recent && state.episode > 2) {
            state.episode = 1;
            state.inv_sqrt_q32 = u32::MAX;
        } else {
            state.episode -= 2;
            newton(state);
        }
        state.next_mark_ns = now + spacing(state, interval_ns);
        return true;
    }
    if now < state.next_mark_ns {
        return false;
    }
    state.episode = state.episode.saturating_add(1);
    newton(state);
    state.next_mark_ns = now + spacing(state, interval_ns);
    true
}

/// An episode begins with the packet at hand.
#[inline(always)]
pub fn begin(state: &mut Codel, interval_ns: u64, now: u64) {
    state.episode = 1;
    state.inv_sqrt_q32 = u32::MAX;
    state.above_until_ns = now;
    state.next_mark_ns = now + interval_ns;
}

/// interval / √episode.
#[inline(always)]
fn spacing(state: &Codel, interval_ns: u64) -> u64 {
    // Intervals are below 2³² ns (4 s); the product does not overflow.
    ((interval_ns & 0xffff_ffff) * u64::from(state.inv_sqrt_q32)) >> 32
}

/// One of Newton's steps towards 1/√n: y' = y (3 − n y²) / 2. The episode changes slowly, so that one is enough.
#[inline(always)]
fn newton(state: &mut Codel) {
    let y = u64::from(state.inv_sqrt_q32);
    let square = (y * y) >> 32;
    let product = square * u64::from(state.episode & 0xffff);
    let rest = (3u64 << 32).saturating_sub(product);
    let next = (y * (rest >> 2)) >> 31;
    state.inv_sqrt_q32 = if next > 0xffff_ffff { u32::MAX } else { next as u32 };
}
