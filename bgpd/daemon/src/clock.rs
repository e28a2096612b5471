//! The one clock: time since the process started.

use std::time::{Duration, Instant};

use turnpike_bgp_core::Time;

/// Turns the machine's monotonic clock into the speaker's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_start(self.start.elapsed())
    }

    pub(crate) fn instant(&self, time: Time) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + time.since_start())
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.start.elapsed()
    }
}
