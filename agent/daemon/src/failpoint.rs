//! Places where a test can make the agent die.
//!
//! In debug builds only, `TURNPIKE_FAILPOINT=NAME` makes the agent send itself SIGKILL when it reaches the point of
//! that name: `add-stored` (the record is fsynced, nothing is attached), `add-attached` (all is in force, no reply
//! yet), `del-detached` (the link is gone, the record is not released), `del-released` (all done, no reply yet).

/// Dies here if the environment says so.
#[cfg(debug_assertions)]
pub(crate) fn reach(name: &str) {
    if std::env::var("TURNPIKE_FAILPOINT").is_ok_and(|wanted| wanted == name) {
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
