//! The numbers of a limit: from a rate to a token bucket and the queue behind it. Pure.

use turnpike_ebpf_loader::abi::MarkConfig;
use turnpike_model::burst::Burst;
use turnpike_model::desired::BitsPerSecond;

/// Least limit, bits per second: below it a full frame would take more than a second.
pub(crate) const LEAST_RATE: u64 = 16_000;
/// Below this rate GSO packets are cut up before they are queued: a full queue then drops one segment, not up to
/// 45 of them. Above it the queue is long enough for that not to matter, and the cutting would cost CPU time.
const SPLIT_BELOW: u64 = 500_000_000;
/// Below this rate one full-sized GSO packet (64 KiB) would be more than 10 ms of the rate.
const GSO_CAP_BELOW: u64 = 50_000_000;
/// The kernel's default largest GSO packet in bytes.
pub(crate) const GSO_DEFAULT: u32 = 65_536;
/// Ethernet header, counted by the limit.
const ETHERNET_HEADER: u32 = 14;
/// `psched` tick: 64 ns on every kernel since 2.6.31.
const TICK_NS: u128 = 64;
const NS_PER_SECOND: u128 = 1_000_000_000;
/// Rate of the second bucket, bytes per second: far above the limit, it is there for the size of its bucket, which
/// is the largest packet that is queued in one piece.
const PEAK_RATE: u32 = 4_000_000_000;
/// Frames that a slow queue takes: three for each of twenty flows, so that flows at their least window fit in.
const LEAST_QUEUE_FRAMES: u64 = 64;
/// Up to this size the queue holds 25 ms, beyond it 10 ms.
const LONG_QUEUE_BYTES: u64 = 1_000_000;

/// A rate, and how much may pass at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) rate: BitsPerSecond,
    pub(crate) burst: Burst,
    /// What need not wait goes past the queue, which has so much less of a bucket.
    pub(crate) shortcut: bool,
}

impl Limit {
    /// Where there is a rate.
    pub(crate) fn of(rate: Option<BitsPerSecond>, burst: Burst) -> Option<Self> {
        rate.map(|rate| Self { rate, burst, shortcut: false })
    }
}

/// A limit as TBF wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes per second, layer 2.
    pub(crate) rate: u64,
    /// Bucket in ticks of time at `rate`.
    pub(crate) buffer_ticks: u32,
    /// Byte limit of the queue.
    pub(crate) queue_bytes: u32,
    /// Second bucket, where GSO packets are to be cut up.
    pub(crate) peak: Option<Peak>,
}

/// TBF's second bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peak {
    /// Bytes per second.
    pub(crate) rate: u32,
    /// Bucket in ticks of time at `rate`.
    pub(crate) mtu_ticks: u32,
}

impl Shape {
    /// The shape of a limit on links with this MTU; an error in words where the rate makes no sense.
    pub(crate) fn new(limit: Limit, mtu: u32) -> Result<Self, String> {
        let BitsPerSecond(bits) = limit.rate;
        if bits < LEAST_RATE {
            return Err(format!("{bits} bit/s is less than the least limit of {LEAST_RATE} bit/s"));
        }
        let rate = bits / 8;
        let frame = u64::from(mtu.saturating_add(ETHERNET_HEADER));
        // The usual 10 ms ride out a late timer; in the first second they are 1 % over.
        let bucket = u128::from(rate) * limit.burst.time().as_micros() / 1_000_000;
        let burst = u64::try_from(bucket).unwrap_or(u64::MAX).max(frame.saturating_mul(10));
        let burst = if limit.shortcut { burst - burst / MarkConfig::AT_ONCE } else { burst };
        let queue = (rate / 100).max(LONG_QUEUE_BYTES.min(rate / 40)).max(frame * LEAST_QUEUE_FRAMES);
        let peak = (bits < SPLIT_BELOW)
            .then(|| Peak { rate: PEAK_RATE, mtu_ticks: ticks(2 * frame, u64::from(PEAK_RATE)) });
        Ok(Self {
            rate,
            buffer_ticks: ticks(burst, rate),
            queue_bytes: u32::try_from(queue).unwrap_or(u32::MAX),
            peak,
        })
    }

    /// What passes at once, as nanoseconds at the rate.
    pub(crate) fn bucket_ns(&self) -> u64 {
        u64::try_from(u128::from(self.buffer_ticks) * TICK_NS).unwrap_or(u64::MAX)
    }
}

/// Time for so many bytes, rounded up to ticks.
fn ticks(bytes: u64, rate: u64) -> u32 {
    let ns = u128::from(bytes) * NS_PER_SECOND / u128::from(rate.max(1));
    u32::try_from(ns.div_ceil(TICK_NS)).unwrap_or(u32::MAX)
}

/// Largest GSO packet that a sender behind this limit should make, in bytes; `None` leaves the kernel's default.
pub(crate) fn gso_cap(limit: BitsPerSecond, mtu: u32) -> Option<u32> {
    let BitsPerSecond(bits) = limit;
    if bits >= GSO_CAP_BELOW {
        return None;
    }
    // Four milliseconds, and never less than two frames.
    let bytes = u32::try_from(bits / 8 / 250).unwrap_or(GSO_DEFAULT);
    Some(bytes.max(mtu.saturating_mul(2)).min(GSO_DEFAULT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(bits: u64, burst: &str) -> Limit {
        Limit::of(Some(BitsPerSecond(bits)), burst.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_longer_burst_is_a_larger_bucket_and_the_same_queue() {
        let (usual, long) = (shape(100_000_000), Shape::new(limit(100_000_000, "40ms"), 1500).unwrap());
        assert_eq!(long.buffer_ticks, 4 * usual.buffer_ticks);
        assert_eq!(long.queue_bytes, usual.queue_bytes);
        assert_eq!((usual.bucket_ns(), long.bucket_ns()), (10_000_000, 40_000_000));
    }

    fn shape(bits: u64) -> Shape {
        Shape::new(limit(bits, "10ms"), 1500).unwrap()
    }

    #[test]
    fn a_queue_with_a_shortcut_has_the_rest_of_the_bucket() {
        let limit = Limit { shortcut: true, ..limit(100_000_000, "40ms") };
        assert_eq!(Shape::new(limit, 1500).unwrap().bucket_ns(), 30_000_000);
    }

    #[test]
    fn a_burst_is_ten_milliseconds() {
        for bits in [100_000_000, 1_000_000_000, 100_000_000_000] {
            assert_eq!(shape(bits).buffer_ticks, 10_000_000 / 64);
        }
    }

    #[test]
    fn a_slow_limit_has_a_burst_of_ten_frames() {
        let shape = shape(1_000_000);
        assert_eq!(u64::from(shape.buffer_ticks) * 64 * shape.rate / 1_000_000_000, 15_140);
    }

    #[test]
    fn the_queue_holds_25_ms_then_a_megabyte_then_10_ms_and_never_less_than_64_frames() {
        assert_eq!(shape(10_000_000).queue_bytes, 64 * 1514);
        assert_eq!(shape(100_000_000).queue_bytes, 312_500);
        assert_eq!(shape(500_000_000).queue_bytes, 1_000_000);
        assert_eq!(shape(1_000_000_000).queue_bytes, 1_250_000);
    }

    #[test]
    fn slow_limits_cut_up_whatever_is_more_than_two_frames() {
        let peak = shape(100_000_000).peak.unwrap();
        let bytes = u64::from(peak.mtu_ticks) * 64 * u64::from(peak.rate) / 1_000_000_000;
        assert!((2 * 1514..3 * 1514).contains(&bytes), "{bytes}");
        assert_eq!(shape(1_000_000_000).peak, None);
    }

    #[test]
    fn a_rate_of_nearly_nothing_is_refused() {
        assert!(Shape::new(limit(0, "10ms"), 1500).is_err());
        assert!(Shape::new(limit(LEAST_RATE, "10ms"), 1500).is_ok());
        assert!(Shape::new(limit(u64::MAX, "1s"), 1500).is_ok());
    }

    #[test]
    fn only_slow_limits_cap_gso() {
        assert_eq!(gso_cap(BitsPerSecond(100_000_000), 1500), None);
        assert_eq!(gso_cap(BitsPerSecond(10_000_000), 1500), Some(5000));
        assert_eq!(gso_cap(BitsPerSecond(1_000_000), 1500), Some(3000));
        assert_eq!(gso_cap(BitsPerSecond(1_000_000), 60_000), Some(65_536));
    }
}
