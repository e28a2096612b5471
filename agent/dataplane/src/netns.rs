//! Work inside another network namespace.

use std::os::fd::{AsFd, BorrowedFd};
use std::{fs::File, io, panic, thread};

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;

/// Runs `work` on a fresh thread inside `netns`; sockets that it opens stay there, and so do its sysctls.
///
/// # Errors
/// The namespace cannot be entered, or no thread can be started.
pub(crate) fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("pod-netns".to_owned()).spawn_scoped(scope, move || {
            setns(netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            Ok(work())
        })?;
        match worker.join() {
            Ok(result) => result,
            Err(payload) => panic::resume_unwind(payload),
        }
    })
}

/// True where `netns` is the calling thread's own network namespace.
///
/// # Errors
/// /proc is not readable.
pub(crate) fn is_own(netns: BorrowedFd<'_>) -> io::Result<bool> {
    let own = File::open("/proc/thread-self/ns/net")?;
    let (own, other) = (fstat(own.as_fd())?, fstat(netns)?);
    Ok((own.st_dev, own.st_ino) == (other.st_dev, other.st_ino))
}
