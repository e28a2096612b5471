//! The clocks that the agent lives by.
//!
//! Cooldowns and ages count on CLOCK_BOOTTIME, which never jumps. Of an earlier boot's moments it is known that they
//! were before this one began, and that is all that is needed; what the wall clock says of them is not believed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use turnpike_calc::Time;

/// Now, as the time since boot.
pub(crate) fn now() -> Time {
    turnpike_agent_api::boottime()
}

/// Which boot of the machine this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct BootId(pub(crate) String);

impl BootId {
    /// Of the running kernel.
    pub(crate) fn current() -> std::io::Result<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self(text.trim().to_owned()))
    }
}

/// A moment that a later run of the agent can place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// The boot.
    pub(crate) boot_id: BootId,
    /// Time since that boot, in nanoseconds.
    pub(crate) boottime_ns: u64,
    /// Wall clock, in seconds since 1970: for people.
    pub(crate) unix_s: u64,
}

impl Stamp {
    pub(crate) fn now(boot_id: &BootId) -> Self {
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let boottime_ns = u64::try_from(now().as_nanos()).unwrap_or(u64::MAX);
        Self { boot_id: boot_id.clone(), boottime_ns, unix_s }
    }

    /// The moment on this boot's time line. Moments of an earlier boot are put at its beginning: a wait that counts from
    /// there is never shorter than it should be, and is over in time however often the agent starts again.
    pub(crate) fn on_time_line(&self, at_present: &Self) -> Time {
        if self.boot_id == at_present.boot_id {
            return Duration::from_nanos(self.boottime_ns.min(at_present.boottime_ns));
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(boot: &str, boottime_s: u64, unix_s: u64) -> Stamp {
        Stamp { boot_id: BootId(boot.to_owned()), boottime_ns: boottime_s * 1_000_000_000, unix_s }
    }

    #[test]
    fn within_a_boot_the_wall_clock_does_not_matter() {
        let released = stamp("a", 100, 1_000_000);
        assert_eq!(released.on_time_line(&stamp("a", 130, 5)), Duration::from_secs(100));
        assert_eq!(released.on_time_line(&stamp("a", 90, 5)), Duration::from_secs(90), "never in the future");
    }

    #[test]
    fn across_a_boot_the_wall_clock_does_not_matter_either() {
        let released = stamp("a", 100, 1_000_000);
        for unix_s in [0, 999_000, 1_000_010, 90_000_000] {
            let present = stamp("b", 30, unix_s);
            assert_eq!(released.on_time_line(&present), Duration::ZERO, "the clock says {unix_s}");
        }
    }
}
