// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Maps of the limiter: a virtual queue in front of the real ones, and a law for each flow in it.
//!
//! The limiter keeps a virtual clock for each link: the time at which a link of exactly `rate` would have sent all
//! that it has let in. How far the clock runs ahead of now is the delay that a packet is about to meet. What is let in
//! is held back behind it: by TBF and below it HTB with a queue for each flow, or by fq until the packet's departure time.

/// Handle of the HTB whose leaves are the flows' queues.
pub const FLOW_HTB: u32 = 0x7471_0000;
/// The leaf of flows that send little: first in line.
pub const SPARSE_CLASS: u16 = 0x10;
/// The first of [`FLOWS`] leaves of the other flows.
pub const FIRST_FLOW_CLASS: u16 = 0x20;
/// Flows of a link that are told apart at one time; more share queues.
pub const FLOWS: usize = 16;

/// A link's rate and its laws.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MarkConfig {
    /// Nanoseconds for one byte, times 2²⁰: `8 · 10⁹ · 2²⁰ / bits per second`, and a little more, so that the real
    /// queue is never longer than the virtual one for long.
    pub ns_per_byte_q20: u64,
    /// What passes at once before anything waits, as time at the rate. Nanoseconds.
    pub bucket_ns: u64,
    /// Wait that may stand: marking starts when it was exceeded during a whole interval. Nanoseconds.
    pub target_ns: u64,
    /// The interval, longer than the round-trip times to be expected. Nanoseconds.
    pub interval_ns: u64,
    /// Above this wait every packet that can be is marked at once: it stops slow start. Nanoseconds.
    pub ceiling_ns: u64,
    /// Wait that may stand for each busy flow whose ends do not speak ECN, the time of its window: beyond it packets are
    /// dropped by the same law. Others are not marked below a twelfth of it. Nanoseconds.
    pub early_ns: u64,
    /// The longest wait of a flow: what comes then is dropped. Up to four times as long where [`Self::early_ns`] of all
    /// busy flows is more than half of it. Nanoseconds.
    pub hold_ns: u64,
    /// [`Self::PACED`] or nothing.
    pub flags: u64,
}

impl MarkConfig {
    /// Default for `target_ns`: 5 ms (RFC 8289 §4.3).
    pub const TARGET_NS: u64 = 5_000_000;
    /// Default for `interval_ns`: 100 ms (RFC 8289 §4.3).
    pub const INTERVAL_NS: u64 = 100_000_000;
    /// The qdisc is fq: packets carry their departure time. Without it the program is the classifier of an HTB.
    pub const PACED: u64 = 1;
    /// While all but this part of the bucket is left nothing waits: nobody asks whose packet it is, and what a pod sends
    /// goes past its queue.
    pub const AT_ONCE: u64 = 4;
    /// Longest interval: what the program can multiply.
    const MAX_INTERVAL_NS: u64 = 4_000_000_000;
    /// A full frame, in bytes.
    const FRAME: u64 = 1514;
    /// So many full frames never count as a standing queue.
    const FLOOR_FRAMES: u64 = 8;
    /// A flow that loses packets for want of ECN needs a window of so many frames to lose few.
    const EARLY_FRAMES: u64 = 24;
    /// The longest wait at rates in between…
    const HOLD_NS: u64 = 100_000_000;
    /// …as far as these bytes go…
    const HOLD_BYTES: u64 = 8_000_000;
    /// …but never less than this…
    const LEAST_HOLD_NS: u64 = 10_000_000;
    /// …or so many frames.
    const HOLD_FRAMES: u64 = 96;

    /// The defaults for a rate with a bucket; `None` for a rate of zero.
    #[must_use]
    pub fn for_rate(bits_per_second: u64, bucket_ns: u64) -> Option<Self> {
        let scaled = ((8 * 1_000_000_000u128) << 20).checked_div(u128::from(bits_per_second))?;
        let ns_per_byte_q20 = u64::try_from(scaled + scaled / 4096).ok()?.max(1);
        let time = |bytes: u64| {
            u64::try_from((u128::from(ns_per_byte_q20) * u128::from(bytes)) >> 20).unwrap_or(u64::MAX >> 8)
        };
        let target_ns = Self::TARGET_NS.max(time(Self::FLOOR_FRAMES * Self::FRAME));
        let interval_ns = Self::INTERVAL_NS.max(target_ns.saturating_mul(4)).min(Self::MAX_INTERVAL_NS);
        let by_bytes = time(Self::HOLD_BYTES).clamp(Self::LEAST_HOLD_NS, Self::HOLD_NS);
        Some(Self {
            ns_per_byte_q20,
            bucket_ns,
            target_ns,
            interval_ns,
            ceiling_ns: target_ns.saturating_mul(3),
            early_ns: time(Self::EARLY_FRAMES * Self::FRAME),
            hold_ns: by_bytes.max(time(Self::HOLD_FRAMES * Self::FRAME)),
            flags: 0,
        })
    }

    /// The key of a host veth's shadow limit on what the pod sends; of that on what it receives the key is the ifindex.
    #[must_use]
    pub const fn shadow_from_pod_key(ifindex: u32) -> u32 {
        // The kernel's indices are positive numbers of 32 bits with a sign.
        ifindex | 1 << 31
    }
}

/// The kernel's lock: BTF finds it by this name, and user space never sees it taken.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct bpf_spin_lock {
    /// Opaque.
    pub val: u32,
}

/// Where CoDel stands (RFC 8289 §5).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Codel {
    /// When the target will have been exceeded for a whole interval; 0 when it is not exceeded.
    pub above_until_ns: u64,
    /// When the next mark of this episode is due.
    pub next_mark_ns: u64,
    /// Count of marks in this episode; 0 outside one.
    pub episode: u32,
    /// 1/√episode, times 2³², less one.
    pub inv_sqrt_q32: u32,
}

/// A link's virtual queue and its counters; the program alone writes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MarkState {
    /// Guards all other fields.
    pub lock: bpf_spin_lock,
    /// Packets that were dropped because their flow's wait, or the whole queue, was at its longest, or nearly so in spite of
    /// marks; modulo 2³².
    pub dropped: u32,
    /// When the virtual link will have sent all that it has let in. Monotonic nanoseconds.
    pub clock_ns: u64,
    /// For limits in shadow, which look at all flows as one.
    pub codel: Codel,
    /// Packets seen (a GSO packet is one).
    pub packets: u64,
    /// Bytes let in, as on the wire: every segment with its own headers.
    pub bytes: u64,
    /// Packets that now carry CE because of us.
    pub marked: u64,
    /// Packets that were due for a mark and could not carry one: dropped early.
    pub not_capable: u64,
    /// Largest delay seen, with the bucket's time. Nanoseconds.
    pub max_delay_ns: u64,
}

/// A flow that shares a link, while there is a queue.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// Hash of its addresses and ports, never 0; 0 for a place that nobody had.
    pub tag: u32,
    /// 1 once it has sent more than a sparse flow may: until it was silent for a while it keeps to its own queue.
    pub busy: u32,
    /// Where the share's clock will be when all that it has let in has been sent. Nanoseconds.
    pub finish_ns: u64,
    /// When a flow at a 32nd of the rate would have sent that. Monotonic nanoseconds.
    pub sparse_ns: u64,
    /// When its last packet came. Monotonic nanoseconds.
    pub seen_ns: u64,
    /// When it may lose a packet again for taking no notice of marks. Monotonic nanoseconds.
    pub spared_ns: u64,
    /// Its law.
    pub codel: Codel,
}

/// The flows of a link, and their share of it.
///
/// The share's clock (`virtual_ns`) is how long each busy flow has had the link to itself so far: it runs at one nth of
/// the pace of time while n of them have something queued. That is generalized processor sharing (Parekh and Gallager,
/// 1993), which HTB's turns come close to.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowTable {
    /// Guards all other fields.
    pub lock: bpf_spin_lock,
    /// What the program has found so far while it looks for a flow's place: the place…
    pub best: u32,
    /// …how many flows have something queued…
    pub queued: u32,
    /// Always 0.
    pub unused: u32,
    /// …when the last packet of the place's flow came…
    pub oldest_ns: u64,
    /// …and which finish is next. In memory, for the verifier then sees every step alike.
    pub next_ns: u64,
    /// The share's clock. Nanoseconds.
    pub virtual_ns: u64,
    /// The last finish of all. Nanoseconds.
    pub last_finish_ns: u64,
    /// Up to when the clock has been moved. Monotonic nanoseconds.
    pub moved_ns: u64,
    /// When all that was let in will have been sent. Monotonic nanoseconds.
    pub empty_ns: u64,
    /// When all that sparse flows sent will have been. Monotonic nanoseconds.
    pub sparse_done_ns: u64,
    /// In the order of their queues.
    pub flows: [Flow; FLOWS],
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_lock_comes_first_and_counters_are_aligned() {
        assert_eq!(offset_of!(MarkState, lock), 0);
        assert_eq!(offset_of!(MarkState, clock_ns), 8);
        assert_eq!(offset_of!(MarkState, max_delay_ns), 72);
        assert_eq!([offset_of!(FlowTable, lock), offset_of!(FlowTable, flows)], [0, 72]);
        assert_eq!((size_of::<Codel>(), size_of::<Flow>(), size_of::<FlowTable>()), (24, 64, 72 + 16 * 64));
        assert_eq!(offset_of!(MarkConfig, flags), 56);
    }

    #[test]
    fn a_rate_gives_its_time_for_each_byte_and_a_little_more() {
        let config = MarkConfig::for_rate(100_000_000, 10).unwrap();
        assert_eq!(config.ns_per_byte_q20, (80 << 20) + (80 << 8));
        assert_eq!((config.bucket_ns, config.target_ns), (10, MarkConfig::TARGET_NS));
        assert_eq!(MarkConfig::for_rate(0, 0), None);
        assert!(MarkConfig::for_rate(400_000_000_000, 0).unwrap().ns_per_byte_q20 > 20_000);
    }

    #[test]
    fn the_longest_wait_is_bounded_by_bytes_and_never_less_than_frames() {
        let hold_ms = |mbit: u64| MarkConfig::for_rate(mbit * 1_000_000, 0).unwrap().hold_ns / 1_000_000;
        assert_eq!([1, 10, 100, 1000, 100_000].map(hold_ms), [1163, 116, 100, 64, 10]);
    }

    #[test]
    fn a_slow_link_may_hold_eight_frames() {
        let config = MarkConfig::for_rate(1_000_000, 0).unwrap();
        assert_eq!(config.target_ns / 1000, 96_919);
        assert!(MarkConfig::for_rate(1000, 0).unwrap().interval_ns <= u64::from(u32::MAX));
        assert!(config.interval_ns > config.target_ns && config.ceiling_ns > config.target_ns);
    }
}
