//! A moment that outlives the process.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::restart::boot_id;

/// A moment on disk, by the clock that nobody sets while the host is up, and by the wall clock for the next boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moment {
    /// Seconds since the Unix epoch; as records of earlier releases have it.
    #[serde(rename = "withdraw_at")]
    unix_s: u64,
    /// The boot that `boottime_s` is of; empty: not known.
    #[serde(default)]
    boot: String,
    /// CLOCK_BOOTTIME in seconds.
    #[serde(default)]
    boottime_s: u64,
}

impl Moment {
    /// The present.
    pub(super) fn now() -> Self {
        Self {
            unix_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            boot: boot_id().unwrap_or_default(),
            boottime_s: clock_gettime(ClockId::Boottime).tv_sec.try_into().unwrap_or(0),
        }
    }

    /// So many seconds from this one.
    pub(super) fn after(&self, seconds: u64) -> Self {
        Self {
            unix_s: self.unix_s.saturating_add(seconds),
            boottime_s: self.boottime_s.saturating_add(seconds),
            ..self.clone()
        }
    }

    /// Seconds from `now` until this moment; 0 when it has passed.
    pub(super) fn left(&self, now: &Self) -> u64 {
        if !self.boot.is_empty() && self.boot == now.boot {
            self.boottime_s.saturating_sub(now.boottime_s)
        } else {
            self.unix_s.saturating_sub(now.unix_s)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_counts_only_over_a_boot() {
        let now = Moment { unix_s: 1_000_000, boot: "a".to_owned(), boottime_s: 500 };
        let then = now.after(60);
        for unix_s in [0, 1_000_000, 9_000_000] {
            let later = Moment { unix_s, boottime_s: 520, ..now.clone() };
            assert_eq!(then.left(&later), 40, "{later:?}");
        }
        let booted = Moment { unix_s: 1_000_030, boot: "b".to_owned(), boottime_s: 3 };
        assert_eq!(then.left(&booted), 30);
        let unknown = Moment { boot: String::new(), ..now.clone() };
        assert_eq!(unknown.after(60).left(&Moment { boottime_s: 0, ..unknown }), 60);
    }
    #[test]
    fn a_record_of_an_earlier_release_has_the_wall_clock_alone() {
        let read: Moment = serde_json::from_str(r#"{"withdraw_at":90}"#).unwrap();
        assert_eq!(read.left(&Moment { unix_s: 60, boot: "a".to_owned(), boottime_s: 500 }), 30);
    }
}
