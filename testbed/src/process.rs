//! A process in a node: known by its host pid, logging into the lab's folder, killed when the guard goes.

use std::fmt;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::poll::poll;

/// How long [`Process::stop`] waits for a polite exit, and a node for its killed processes.
const EXIT_DEADLINE: Duration = Duration::from_secs(10);

/// A running (or ended) process of a node. Dropping it kills it with SIGKILL and reaps it, unless the thread panics: then
/// it lives until its lab has kept the state of its nodes, which daemons are asked for too.
#[must_use = "dropping a Process kills it"]
pub struct Process {
    inner: Arc<Running>,
    name: String,
    log: PathBuf,
}

impl Process {
    pub(crate) fn new(name: &str, log: PathBuf, inner: Arc<Running>) -> Self {
        Self { inner, name: name.to_owned(), log }
    }

    /// The name given to [`crate::Node::spawn`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid in the host's pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// The file that holds its stdout and stderr (and those of earlier processes of the same name and node).
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its end, if it has ended.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.inner.try_wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Sends a signal; nothing happens when it has ended already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.inner.signal(signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `deadline`.
    pub fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        self.inner.wait(deadline, &self.name)
    }

    /// Waits until its log holds `text`.
    ///
    /// # Errors
    /// When `deadline` passes, or the process ends without having written it.
    pub fn wait_log(&self, text: &str, deadline: Duration) -> Result<()> {
        let found = poll(deadline, &format!("{} to log {text:?}", self.name), || {
            let ended = self.try_wait().ok().flatten();
            if self.log().contains(text) {
                return Some(Ok(()));
            }
            ended.map(|status| Err(anyhow!("{} ended ({status}) without logging {text:?}", self.name)))
        });
        found.and_then(|outcome| outcome).with_context(|| format!("its log:\n{}", tail(&self.log())))
    }

    /// SIGTERM, then SIGKILL for one that does not heed it within ten seconds.
    ///
    /// # Errors
    /// When it outlives even that.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.kill(Signal::SIGTERM)?;
        self.wait_exit(EXIT_DEADLINE).or_else(|_| {
            self.kill(Signal::SIGKILL)?;
            self.wait_exit(EXIT_DEADLINE)
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        if let Err(error) = self.inner.end() {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).field("pid", &self.pid()).finish_non_exhaustive()
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
}

/// A child of ours, shared by the guard and by the node (which must reap it before its pid namespace can go).
pub(crate) struct Running {
    child: Mutex<Child>,
    pid: u32,
}

impl Running {
    pub(crate) fn new(child: Child) -> Self {
        Self { pid: child.id(), child: Mutex::new(child) }
    }

    pub(crate) fn try_wait(&self) -> std::io::Result<Option<ExitStatus>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        // The lock is held until the signal is sent: the pid cannot be reaped and reused in between.
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if child.try_wait()?.is_none() {
            kill(Pid::from_raw(i32::try_from(self.pid)?), signal)?;
        }
        Ok(())
    }

    /// Waits for its end, without looking again and again: what waits may be measuring.
    pub(crate) fn wait(&self, deadline: Duration, name: &str) -> Result<ExitStatus> {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.try_wait().with_context(|| format!("wait for {name}"))? {
                return Ok(status);
            }
            let left = until.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "waited {deadline:?} for the end of {name}: it runs");
            self.wait_for_end(left).with_context(|| format!("wait for {name}"))?;
        }
    }

    /// Returns when it has ended, or after `limit`.
    fn wait_for_end(&self, limit: Duration) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid)?).context("a pid")?;
        let process = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(process) => process,
            // Another thread has reaped it.
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut ends = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut ends, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills and reaps it.
    pub(crate) fn end(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(EXIT_DEADLINE, &format!("killed process {}", self.pid)).map(drop)
    }
}
