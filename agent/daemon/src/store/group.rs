//! Group commit: what several threads have done is made durable by one call.
//!
//! Who comes while a call runs cannot be sure that it covers him: he joins the group of the next one, which begins when this
//! one ends, and which the first of the group to wake makes for all.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::io::Errno;

/// The threads that wait for the same call.
#[derive(Debug, Default)]
struct Group {
    /// What came of it; the number of an error of the system, which each of them gets.
    outcome: OnceLock<Result<(), i32>>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the next call.
    next: Arc<Group>,
    running: bool,
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    state: Mutex<State>,
    ended: Condvar,
}

impl GroupCommit {
    /// Returns when `commit` has run that began after this was called: the caller's or that of another of its group. All
    /// callers' `commit` have to do the same, and must not panic.
    ///
    /// # Errors
    /// That of the call, whoever made it.
    pub(super) fn run(&self, commit: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        let group = Arc::clone(&state.next);
        while state.running && group.outcome.get().is_none() {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(outcome) = group.outcome.get() {
            return outcome.map_err(io::Error::from_raw_os_error);
        }
        state.running = true;
        state.next = Arc::default();
        drop(state);
        let result = commit();
        let outcome = result
            .as_ref()
            .copied()
            .map_err(|error| error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()));
        let mut state = self.state();
        state.running = false;
        // Set once: nobody else makes this group's call.
        group.outcome.get_or_init(|| outcome);
        drop(state);
        self.ended.notify_all();
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    const OTHERS: usize = 15;

    /// One caller, and others that come while its call runs: what each of them hears, and how many calls there were.
    fn one_and_others(later: fn() -> io::Result<()>) -> (Vec<io::Result<()>>, usize) {
        let commits = GroupCommit::default();
        let calls = AtomicUsize::new(0);
        let deadline = Instant::now() + Duration::from_secs(30);
        let have_come = || {
            // One reference is the state's own.
            while Arc::strong_count(&commits.state().next) < OTHERS + 1 {
                assert!(Instant::now() < deadline, "the others do not come");
                thread::yield_now();
            }
        };
        let outcomes = thread::scope(|scope| {
            let first = scope.spawn(|| {
                commits.run(|| {
                    calls.fetch_add(1, Ordering::SeqCst);
                    have_come();
                    Ok(())
                })
            });
            while calls.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            let others: Vec<_> = (0..OTHERS)
                .map(|_| {
                    scope.spawn(|| {
                        commits.run(|| {
                            calls.fetch_add(1, Ordering::SeqCst);
                            later()
                        })
                    })
                })
                .collect();
            std::iter::once(first).chain(others).map(|thread| thread.join().unwrap()).collect()
        });
        (outcomes, calls.into_inner())
    }

    #[test]
    fn those_who_come_during_a_call_share_the_next_one() {
        let (outcomes, calls) = one_and_others(|| Ok(()));
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!((outcomes.len(), calls), (OTHERS + 1, 2));
    }

    #[test]
    fn a_failure_is_told_to_everybody_whose_call_it_was_and_to_nobody_else() {
        let (mut outcomes, calls) = one_and_others(|| Err(Errno::NOSPC.into()));
        outcomes.remove(0).unwrap();
        let errors: Vec<_> =
            outcomes.iter().map(|outcome| outcome.as_ref().unwrap_err().raw_os_error()).collect();
        assert_eq!((errors, calls), (vec![Some(Errno::NOSPC.raw_os_error()); OTHERS], 2));
    }

    #[test]
    fn one_after_the_other_each_makes_its_own_call() {
        let commits = GroupCommit::default();
        let mut calls = 0;
        for _ in 0..3 {
            commits
                .run(|| {
                    calls += 1;
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(calls, 3);
    }
}
