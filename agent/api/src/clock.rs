//! The clock that moments on disk are told by.

use std::time::Duration;

/// CLOCK_BOOTTIME: it never jumps, and all processes of a boot agree on it.
#[must_use]
pub fn boottime() -> Duration {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(clock.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(clock.tv_nsec).unwrap_or(0))
}
