//! The kernel's side: a thread of its own that writes routes and follows next hops.
//!
//! The speaker never waits for the kernel: what it wants is put down per prefix in the thread's own books ([`Wants`]),
//! and the thread works them off.

mod worker;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc;
use turnpike_bgp_core::Nexthop;
use turnpike_bgpd_api::Prefix;
use turnpike_kroute::{Hop, Owner, Resolution, Routes, Target, Wants};

/// What the kernel shall hold for a prefix.
#[derive(Debug, Clone)]
pub(crate) enum KernelRoute {
    /// Through BGP next hops.
    Via(Arc<[Nexthop]>),
    /// Dropped.
    Blackhole,
}

/// What the thread has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KernelEvent {
    /// A tracked next hop and how it is reached.
    Resolved(Nexthop, Resolution),
    /// Links or addresses of the host changed.
    Host,
}

/// What the thread tells about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct KernelStatus {
    /// Routes of ours in the kernel.
    pub(crate) routes: usize,
    /// What the kernel refused.
    pub(crate) failures: BTreeMap<String, String>,
    /// Tracked next hops.
    pub(crate) nexthops: BTreeMap<Nexthop, Resolution>,
    /// Routes written since the start.
    pub(crate) writes: u64,
    /// Netlink itself fails.
    pub(crate) error: Option<String>,
}

/// How the thread ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Routes stay: a successor adopts them.
    Keep,
    /// Routes go.
    Clear,
}

#[derive(Debug, Default)]
struct Pending {
    /// Next hops to follow (true) or to forget, in order.
    tracking: Vec<(Nexthop, bool)>,
    sweep: bool,
    leave: Option<Leave>,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    /// An eventfd: the thread sleeps on it and on the kernel's events at once.
    wake: OwnedFd,
    status: Mutex<KernelStatus>,
}

/// A mutex whose data stays meaningful if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine's end of the kernel thread.
#[derive(Debug)]
pub(crate) struct Kernel {
    shared: Arc<Shared>,
    wants: Wants,
    last_set: Option<LastSet>,
    thread: Option<JoinHandle<()>>,
}

/// The last next-hop set in both forms: neighbouring routes mostly share theirs.
#[derive(Debug)]
struct LastSet {
    nexthops: Arc<[Nexthop]>,
    hops: Arc<[Hop]>,
}

impl Kernel {
    /// Adopts the routes of `owner` and starts the thread; what it has to tell goes to `events`.
    pub(crate) fn start(owner: Owner, events: mpsc::UnboundedSender<KernelEvent>) -> Result<Self> {
        let routes = Routes::open(owner).context("cannot take over the kernel's routes")?;
        let wake =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("cannot make an eventfd")?;
        let status = KernelStatus { routes: routes.installed(), ..KernelStatus::default() };
        let shared = Arc::new(Shared { pending: Mutex::default(), wake, status: Mutex::new(status) });
        let wants = routes.wants();
        let worker = worker::Worker::new(routes, shared.clone(), events);
        let thread = std::thread::Builder::new()
            .name("kernel-routes".to_owned())
            .spawn(move || worker.run())
            .context("cannot start the kernel thread")?;
        Ok(Self { shared, wants, last_set: None, thread: Some(thread) })
    }

    /// Puts down what is wanted from now on; `None` for no route.
    pub(crate) fn routes(&mut self, changes: impl IntoIterator<Item = (Prefix, Option<KernelRoute>)>) {
        let last = &mut self.last_set;
        let changes = changes.into_iter();
        self.wants
            .extend(changes.map(|(prefix, route)| (prefix.into(), route.map(|route| target(route, last)))));
        self.wake();
    }

    /// Follows a next hop from now on: its resolution is told at once and at every change.
    pub(crate) fn track(&self, nexthop: Nexthop) {
        lock(&self.shared.pending).tracking.push((nexthop, true));
        self.wake();
    }

    /// Forgets a next hop.
    pub(crate) fn untrack(&self, nexthop: Nexthop) {
        lock(&self.shared.pending).tracking.push((nexthop, false));
        self.wake();
    }

    /// Everything wanted has been put down: what a predecessor left besides goes.
    pub(crate) fn sweep(&self) {
        lock(&self.shared.pending).sweep = true;
        self.wake();
    }

    /// The thread's last word.
    pub(crate) fn status(&self) -> KernelStatus {
        lock(&self.shared.status).clone()
    }

    /// Prefixes put down and not yet taken up by the thread.
    pub(crate) fn pending(&self) -> usize {
        self.wants.pending()
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(mut self, leave: Leave) {
        lock(&self.shared.pending).leave = Some(leave);
        self.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the kernel thread panicked");
        }
    }

    fn wake(&self) {
        // Full counter: a wake-up is pending anyway.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }
}

fn target(route: KernelRoute, last: &mut Option<LastSet>) -> Target {
    match route {
        KernelRoute::Blackhole => Target::Blackhole,
        KernelRoute::Via(nexthops) => Target::Via(hops(nexthops, last)),
    }
}

fn hops(nexthops: Arc<[Nexthop]>, last: &mut Option<LastSet>) -> Arc<[Hop]> {
    if let Some(last) = last.as_ref().filter(|last| Arc::ptr_eq(&last.nexthops, &nexthops)) {
        return last.hops.clone();
    }
    let hops: Arc<[Hop]> =
        nexthops.iter().map(|nexthop| Hop { address: nexthop.addr, scope: nexthop.scope }).collect();
    *last = Some(LastSet { nexthops, hops: hops.clone() });
    hops
}
