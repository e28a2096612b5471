//! Waiting for something with a deadline. The only place of the testbed that sleeps.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Calls `probe` until it returns a value. The pauses between calls grow from 2 ms to 100 ms.
///
/// # Errors
/// When `deadline` has passed and a last call returned nothing either. `what` completes "waiting for …".
pub fn poll<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    poll_result(deadline, what, || probe().ok_or("it is not so yet"))
}

/// Like [`poll`], for a probe that can say why not yet: the error holds what the last call said.
///
/// # Errors
/// When `deadline` has passed and a last call failed too.
pub fn poll_result<T, E: Display>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        // The clock is read before the probe, so that a slow probe still gets its last chance.
        let late = start.elapsed() >= deadline;
        match probe() {
            Ok(value) => return Ok(value),
            Err(reason) if late => {
                return Err(anyhow!("waited {deadline:?} for {what}: {reason:#}"));
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_succeeds_late_is_still_a_success() {
        let mut left = 3;
        let value = poll(Duration::from_secs(60), "three calls", || {
            left -= 1;
            (left == 0).then_some("done")
        });
        assert_eq!(value.unwrap(), "done");
    }

    #[test]
    fn the_error_says_what_was_awaited_and_why_it_is_not_there() {
        let error = poll_result(Duration::ZERO, "the moon", || Err::<(), _>("it is day")).unwrap_err();
        assert_eq!(error.to_string(), "waited 0ns for the moon: it is day");
    }
}
