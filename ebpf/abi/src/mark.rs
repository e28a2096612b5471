// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Maps of the CE marker: a virtual queue in front of the real one.
//!
//! The marker keeps a virtual clock for each link: the time at which a link of exactly `rate` would have sent all
//! that it has seen. How far the clock runs ahead of now is the delay that a packet is about to meet.

/// A link's rate and its marking law.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MarkConfig {
    /// Nanoseconds for one byte, times 2²⁰: `8 · 10⁹ · 2²⁰ / bits per second`.
    pub ns_per_byte_q20: u64,
    /// Delay that may stand: marking starts when it was exceeded during a whole interval. Nanoseconds.
    pub target_ns: u64,
    /// The interval, longer than the round-trip times to be expected inside the data centre. Nanoseconds.
    pub interval_ns: u64,
    /// Above this delay every packet is marked at once: it stops slow start before the real queue drops. Nanoseconds.
    pub ceiling_ns: u64,
}

impl MarkConfig {
    /// Default for `target_ns`: 5 ms. The clock knows of no bucket, and the one behind it lets 10 ms pass at once: a
    /// clock that stands 5 ms ahead is a queue that is empty.
    pub const TARGET_NS: u64 = 5_000_000;
    /// Default for `interval_ns`: 20 ms.
    pub const INTERVAL_NS: u64 = 20_000_000;
    /// Longest interval: what the program can multiply.
    const MAX_INTERVAL_NS: u64 = 4_000_000_000;
    /// So many full frames never count as a standing queue: the bucket holds ten of them.
    const FLOOR_BYTES: u64 = 8 * 1514;

    /// The defaults for a rate; `None` for a rate of zero.
    #[must_use]
    pub fn for_rate(bits_per_second: u64) -> Option<Self> {
        let scaled = (8 * 1_000_000_000u128) << 20;
        let ns_per_byte_q20 = u64::try_from(scaled.checked_div(u128::from(bits_per_second))?).ok()?.max(1);
        let floor =
            u64::try_from((u128::from(ns_per_byte_q20) * u128::from(Self::FLOOR_BYTES)) >> 20).ok()?;
        let target_ns = Self::TARGET_NS.max(floor);
        Some(Self {
            ns_per_byte_q20,
            target_ns,
            interval_ns: Self::INTERVAL_NS.max(target_ns.saturating_mul(4)).min(Self::MAX_INTERVAL_NS),
            ceiling_ns: target_ns.saturating_mul(3),
        })
    }
}

impl MarkConfig {
    /// The same for a bucket that holds so much more than usual: that much more may be ahead of the clock before
    /// anything waits. Nanoseconds.
    #[must_use]
    pub const fn with_bucket(self, more_ns: u64) -> Self {
        Self {
            target_ns: self.target_ns.saturating_add(more_ns),
            ceiling_ns: self.ceiling_ns.saturating_add(more_ns),
            ..self
        }
    }
}

/// A limit that is held against traffic without touching it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShadowConfig {
    /// The law by which it would mark.
    pub law: MarkConfig,
    /// What the limit's bucket and its queue hold together, as time at its rate: beyond it would drop. Nanoseconds.
    pub drop_ns: u64,
}

impl ShadowConfig {
    /// The key of a host veth's limit on what the pod sends; of that on what it receives the key is the ifindex.
    #[must_use]
    pub const fn from_pod_key(ifindex: u32) -> u32 {
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

/// A link's virtual queue and its counters; the program alone writes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MarkState {
    /// Guards all other fields.
    pub lock: bpf_spin_lock,
    /// CoDel's count of marks in this episode; 0 outside one.
    pub episode: u32,
    /// When the virtual link will have sent all that it has seen. Monotonic nanoseconds.
    pub clock_ns: u64,
    /// When the target will have been exceeded for a whole interval; 0 when it is not exceeded.
    pub above_until_ns: u64,
    /// When the next mark of this episode is due.
    pub next_mark_ns: u64,
    /// Packets seen (a GSO packet is one).
    pub packets: u64,
    /// Bytes seen, as on the wire: every segment with its own headers.
    pub bytes: u64,
    /// Packets that now carry CE because of us.
    pub marked: u64,
    /// Packets that would have been marked but are not ECN-capable.
    pub not_capable: u64,
    /// Packets of those seen that were ECN-capable.
    pub capable: u64,
    /// Largest delay seen. Nanoseconds.
    pub max_delay_ns: u64,
    /// CoDel's 1/√episode, times 2³², less one.
    pub inv_sqrt_q32: u32,
    /// Packets of which a shadow limit would have dropped something, modulo 2³²; a limit in force leaves it at 0.
    pub dropped: u32,
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn the_lock_comes_first_and_counters_are_aligned() {
        assert_eq!(offset_of!(MarkState, lock), 0);
        assert_eq!(offset_of!(MarkState, clock_ns), 8);
        assert_eq!(offset_of!(MarkState, max_delay_ns), 72);
        assert_eq!(offset_of!(MarkState, inv_sqrt_q32), 80);
        assert_eq!(offset_of!(MarkState, dropped), 84);
        assert_eq!(offset_of!(MarkConfig, ceiling_ns), 24);
        assert_eq!([offset_of!(ShadowConfig, law), offset_of!(ShadowConfig, drop_ns)], [0, 32]);
    }

    #[test]
    fn a_rate_gives_its_time_for_each_byte() {
        let config = MarkConfig::for_rate(100_000_000).unwrap();
        assert_eq!(config.ns_per_byte_q20, 80 << 20);
        assert_eq!(config.target_ns, MarkConfig::TARGET_NS);
        assert_eq!(MarkConfig::for_rate(0), None);
        assert!(MarkConfig::for_rate(400_000_000_000).unwrap().ns_per_byte_q20 > 20_000);
    }

    #[test]
    fn a_slow_link_may_hold_eight_frames() {
        let config = MarkConfig::for_rate(1_000_000).unwrap();
        assert_eq!(config.target_ns, 8 * 1514 * 8 * 1000);
        assert!(MarkConfig::for_rate(1000).unwrap().interval_ns <= u64::from(u32::MAX));
        assert!(config.interval_ns > config.target_ns && config.ceiling_ns > config.target_ns);
    }
}
