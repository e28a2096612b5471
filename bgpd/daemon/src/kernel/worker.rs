//! The kernel thread's work.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};
use turnpike_bgp_core::Nexthop;
use turnpike_kroute::{Error, Failure, Hop, Report, Routes};

use super::{KernelEvent, Leave, Pending, Shared, lock};

/// Routes written between two looks at kernel events.
const SLICE: usize = 8192;
/// First and longest wait before refused writes, or a failing socket, are tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

pub(super) struct Worker {
    routes: Routes,
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<KernelEvent>,
    retry: Option<Retry>,
}

struct Retry {
    at: Instant,
    wait: Duration,
}

impl Worker {
    pub(super) fn new(
        routes: Routes,
        shared: Arc<Shared>,
        events: mpsc::UnboundedSender<KernelEvent>,
    ) -> Self {
        Self { routes, shared, events, retry: None }
    }

    pub(super) fn run(mut self) {
        loop {
            let pending = std::mem::take(&mut *lock(&self.shared.pending));
            let leave = pending.leave;
            if let Err(failure) = self.work(pending) {
                error!(error = %anyhow::Error::new(failure), "netlink failed; reading the kernel's routes again");
                self.back_off();
                if let Err(again) = self.routes.reload() {
                    lock(&self.shared.status).error = Some(again.to_string());
                }
            }
            if let Some(leave) = leave {
                self.leave(leave);
                return;
            }
            if self.routes.pending() == 0 {
                self.wait();
            }
        }
    }

    fn work(&mut self, pending: Pending) -> Result<(), Error> {
        for (nexthop, follow) in pending.tracking {
            self.track(nexthop, follow)?;
        }
        self.step()?;
        while pending.leave.is_some() && self.routes.pending() > 0 {
            self.step()?;
        }
        if pending.sweep {
            self.routes.sweep();
            let report = self.routes.apply()?;
            info!(deleted = report.deleted, "swept stale kernel routes");
            self.note(&report);
        }
        Ok(())
    }

    /// Takes in kernel events and writes what differs.
    fn step(&mut self) -> Result<(), Error> {
        self.routes.pump()?;
        if self.retry.as_ref().is_some_and(|retry| retry.at <= Instant::now()) {
            self.routes.retry();
        }
        let report = self.routes.apply_some(SLICE)?;
        for (hop, resolution) in self.routes.take_changes() {
            let nexthop = Nexthop { addr: hop.address, scope: hop.scope };
            lock(&self.shared.status).nexthops.insert(nexthop, resolution.clone());
            // The engine is gone: this thread is about to be told so.
            let _ = self.events.send(KernelEvent::Resolved(nexthop, resolution));
        }
        if self.routes.take_host_changed() {
            let _ = self.events.send(KernelEvent::Host);
        }
        if report != Report::default() {
            debug!(?report, "kernel routes written");
        }
        self.note(&report);
        Ok(())
    }

    fn track(&mut self, nexthop: Nexthop, follow: bool) -> Result<(), Error> {
        let hop = Hop { address: nexthop.addr, scope: nexthop.scope };
        if !follow {
            self.routes.untrack(hop);
            lock(&self.shared.status).nexthops.remove(&nexthop);
            return Ok(());
        }
        let resolution = self.routes.track(hop)?;
        lock(&self.shared.status).nexthops.insert(nexthop, resolution.clone());
        let _ = self.events.send(KernelEvent::Resolved(nexthop, resolution));
        Ok(())
    }

    fn note(&mut self, report: &Report) {
        let mut status = lock(&self.shared.status);
        if report.failures_changed {
            let before = std::mem::take(&mut status.failures);
            for failure in self.routes.failures() {
                let subject = subject(&failure);
                if !before.contains_key(&subject) {
                    warn!(subject, reason = failure.message, "the kernel refused a write");
                }
                status.failures.insert(subject, failure.message);
            }
        }
        status.routes = self.routes.installed();
        let written = report.added + report.replaced + report.deleted;
        status.writes += u64::try_from(written).unwrap_or(0);
        status.error = None;
        let all_well = status.failures.is_empty();
        drop(status);
        if all_well {
            self.retry = None;
        } else {
            self.back_off();
        }
    }

    fn back_off(&mut self) {
        let now = Instant::now();
        let wait = match &self.retry {
            Some(retry) if retry.at > now => return,
            Some(retry) => (retry.wait * 2).min(RETRY.1),
            None => RETRY.0,
        };
        self.retry = Some(Retry { at: now + wait, wait });
    }

    /// Sleeps until the engine or the kernel has something to say, or a retry is due.
    fn wait(&self) {
        let timeout = match &self.retry {
            None => PollTimeout::NONE,
            Some(retry) => {
                let left = retry.at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut waits = [
            PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.routes.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut waits, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => error!(%errno, "poll failed"),
        }
        // Non-blocking: an unset counter is no error.
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
    }

    fn leave(&mut self, leave: Leave) {
        match leave {
            Leave::Keep => info!(routes = self.routes.installed(), "kernel routes stay for the next process"),
            Leave::Clear => match self.routes.clear() {
                Ok(report) => info!(deleted = report.deleted, "kernel routes removed"),
                Err(failure) => error!(error = %failure, "cannot remove kernel routes"),
            },
        }
    }
}

fn subject(failure: &Failure) -> String {
    match failure.subject {
        turnpike_kroute::Subject::Route(prefix) => prefix.to_string(),
        turnpike_kroute::Subject::Nexthop(id) => format!("nexthop {id}"),
    }
}
