//! Places where a test can make the agent die.
//!
//! In debug builds only, `TURNPIKE_FAILPOINT=NAME` (or `NAME:N`, at the Nth pass) makes the agent send itself SIGKILL
//! when it reaches the point of that name: `add-reserved` (in memory only), `store-written` (the record's draft is not
//! fsynced), `store-synced` (it is, but not renamed), `store-renamed` (the folder is not fsynced), `add-stored` (the
//! record is fsynced, nothing is attached), `add-attached` (all is in force, no reply yet), `del-detached` (the link is
//! gone, the record is not released), `del-released` (all done, no reply yet), `applied-first` (the data plane's first round
//! is over, and nobody knows).

/// Dies here if the environment says so.
#[cfg(debug_assertions)]
pub(crate) fn reach(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSES: AtomicU64 = AtomicU64::new(0);
    let Ok(wanted) = std::env::var("TURNPIKE_FAILPOINT") else { return };
    let (point, pass) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if point == name && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == pass.parse().unwrap_or(1) {
        tracing::warn!(failpoint = name, "killing myself, as TURNPIKE_FAILPOINT asks");
        let own = rustix::process::getpid();
        // A process that cannot kill itself has no other way to do what the test asks for.
        if rustix::process::kill_process(own, rustix::process::Signal::KILL).is_err() {
            std::process::abort();
        }
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
pub(crate) fn reach(_name: &str) {}
