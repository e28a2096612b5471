//! The loop: descriptors and the clock on one side, the table of sessions on the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{debug, info, warn};
use turnpike_bfd::{Discriminator, Packet, Time};
use turnpike_bgpd_api::bfd::{BfdReply, BfdRequest};

use crate::control::{Call, Caller, Control};
use crate::net::{Inlets, Outlet, interface_index};
use crate::table::Table;

/// Packets taken from one socket before timers are looked at again.
const GULP: usize = 1024;
/// How long peers are told AdminDown when the process ends.
const FAREWELL: Duration = Duration::from_secs(3);

/// See the module's documentation.
pub(crate) struct Engine {
    start: Instant,
    table: Table,
    inlets: Inlets,
    outlets: BTreeMap<Discriminator, Outlet>,
    control: Control,
    signals: SignalFd,
    entropy: File,
    /// Told to end: when at the latest.
    ending: Option<Time>,
}

/// What can be read (or written) without waiting.
#[derive(Debug, Clone, Copy)]
struct Ready {
    signals: bool,
    packets: bool,
    calls: bool,
}

impl Engine {
    pub(crate) fn new(
        orphan_time: Duration,
        inlets: Inlets,
        control: Control,
        signals: SignalFd,
    ) -> Result<Self> {
        let mut entropy = File::open("/dev/urandom").context("/dev/urandom")?;
        let mut seed = [0; 8];
        entropy.read_exact(&mut seed).context("/dev/urandom")?;
        Ok(Self {
            start: Instant::now(),
            table: Table::new(orphan_time, u64::from_ne_bytes(seed)),
            inlets,
            outlets: BTreeMap::new(),
            control,
            signals,
            entropy,
            ending: None,
        })
    }

    /// Runs until a signal ends it.
    pub(crate) fn run(mut self) -> Result<()> {
        loop {
            let ready = self.wait()?;
            // A process that had to wait for a processor finds packets that came meanwhile in its sockets: they are
            // taken before any silence is held against their senders.
            let now = self.now();
            if ready.packets || self.table.suspects(now) {
                self.take_packets(now);
            }
            self.table.handle_timeouts(now);
            if ready.calls {
                self.take_calls(now);
            }
            if ready.signals {
                self.take_signals(now);
            }
            self.put_out();
            if self.ending.is_some_and(|latest| self.table.is_empty() || now >= latest) {
                info!("turnpike-bfdd ends");
                return Ok(());
            }
        }
    }

    fn now(&self) -> Time {
        Time::from_start(self.start.elapsed())
    }

    fn wait(&self) -> Result<Ready> {
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![readable(self.signals.as_fd())];
        fds.extend(self.inlets.iter().map(|inlet| readable(inlet.fd())));
        let inlets = fds.len() - 1;
        fds.push(readable(self.control.listener()));
        fds.extend(self.control.callers().map(|(fd, waiting)| {
            let flags = if waiting { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd(fd, flags)
        }));
        let deadline = self.table.poll_timeout().into_iter().chain(self.ending).min();
        let timeout = deadline.map(|deadline| deadline.since(self.now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        Ok(Ready {
            signals: fds.iter().take(1).any(ready),
            packets: fds.iter().skip(1).take(inlets).any(ready),
            calls: fds.iter().skip(1 + inlets).any(ready),
        })
    }

    fn take_packets(&mut self, now: Time) {
        for inlet in self.inlets.iter() {
            for _ in 0..GULP {
                match inlet.receive() {
                    Ok(Some((arrival, payload))) => {
                        let taken = self.table.receive(now, arrival, &payload, &interface_index);
                        if let Err(reason) = taken {
                            debug!(peer = %arrival.peer, %reason, "packet dropped");
                        }
                    }
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => {
                        warn!(%error, "cannot receive");
                        break;
                    }
                }
            }
        }
    }

    fn take_calls(&mut self, now: Time) {
        for (caller, call) in self.control.work() {
            match call {
                Call::Gone => self.table.forget(now, caller),
                Call::Request(request) => self.answer(now, caller, request),
            }
        }
    }

    fn answer(&mut self, now: Time, caller: Caller, request: BfdRequest) {
        let reply = match request {
            BfdRequest::Show => BfdReply::Sessions { sessions: self.table.show(now) },
            BfdRequest::Declare { owner, sessions, keep } => {
                info!(owner, sessions = sessions.len(), "declared");
                match self.table.declare(now, caller, &owner, sessions, &keep) {
                    Ok(sessions) => BfdReply::Declared { sessions },
                    Err(refusal) => BfdReply::Error(refusal),
                }
            }
        };
        // What happened before the answer comes before it.
        self.tell();
        self.control.send(caller, &reply);
    }

    fn take_signals(&mut self, now: Time) {
        while let Ok(Some(_)) = self.signals.read_signal() {
            if self.ending.is_none() {
                info!("ending: peers are told");
                self.ending = Some(now + FAREWELL);
                self.table.dismiss_all(now);
            }
        }
    }

    fn put_out(&mut self) {
        while let Some((discr, packet)) = self.table.next_packet() {
            let problem = self.send(discr, &packet).err().map(|error| error.to_string());
            let text = problem.clone();
            if self.table.sent(discr, problem)
                && let Some(problem) = text
            {
                let peer = self.table.way(discr).map(|(key, _)| key.peer);
                warn!(?peer, problem, "cannot send");
            }
        }
        while let Some(discr) = self.table.next_gone() {
            self.outlets.remove(&discr);
        }
        self.tell();
    }

    fn tell(&mut self) {
        while let Some((caller, session)) = self.table.next_news() {
            self.control.send(caller, &BfdReply::Changed { session: Box::new(session) });
        }
    }

    fn send(&mut self, discr: Discriminator, packet: &Packet) -> std::io::Result<()> {
        let Some((key, up)) = self.table.way(discr) else { return Ok(()) };
        if !self.outlets.contains_key(&discr) {
            let mut random = [0; 2];
            self.entropy.read_exact(&mut random)?;
            let taken = |port| self.outlets.values().any(|outlet| outlet.port() == port);
            let outlet = Outlet::open(key, u16::from_ne_bytes(random), &taken)?;
            self.outlets.insert(discr, outlet);
        }
        let Some(outlet) = self.outlets.get(&discr) else { return Ok(()) };
        let sent = outlet.send(&packet.encode());
        // The kernel's choice of our address may be another next time, but not while a peer relies on this one.
        if sent.is_err() && !up {
            self.outlets.remove(&discr);
        }
        sent
    }
}
