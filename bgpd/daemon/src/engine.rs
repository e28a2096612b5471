//! The engine: one task that owns the speaker and does what it says.
//!
//! Contract with the core: hand in what happened, then drain outputs. Outputs are taken in small helpings, and
//! between two helpings the engine looks at its channels and at the clock, so that a KEEPALIVE never waits behind
//! work on the RIBs. Nothing in here waits for a socket, the kernel or a caller.

mod change;
mod configure;
mod diff;
mod drain;
mod loading;
mod operate;
mod outputs;
mod policy;
mod requests;
mod watchers;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, info_span, warn};
use turnpike_bgp_core::{CloseReason, ConnId, Input, PathState, Resolution, Shutdown, Speaker};
use turnpike_bgpd_api::{Config, Prefix};

use self::change::{Job, Pending};
use self::drain::Draining;
use self::loading::Loading;
use self::watchers::Watcher;
use crate::audit::Audit;
use crate::bfd::Bfd;
use crate::clock::Clock;
use crate::connection::{Arrival, Connection};
use crate::control::Ask;
use crate::disk::Disk;
use crate::host::Host;
use crate::kernel::{Kernel, KernelEvent, KernelRoute, Leave};
use crate::listener::{Accepted, Listeners};
use crate::merge::Merged;
use crate::monitoring::Monitoring;
use crate::parts::PartStore;
use crate::propagation::Propagation;
use crate::restart::RestartRecord;

/// Outputs are done, and inputs taken in, for so long before the rest is looked at again.
const HELPING: Duration = Duration::from_millis(10);
/// News of all connections that may wait for the engine; each connection has few.
const INPUT_QUEUE: usize = 4096;
/// Connections and attempts that may wait for it.
const CONNECTION_QUEUE: usize = 64;
/// How long the last words to peers may take when the daemon ends for good.
const FAREWELL: Duration = Duration::from_secs(5);

/// The end of a connection attempt.
type Attempt = (ConnId, Result<TcpStream, CloseReason>);

/// Why the engine ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Another process takes over: peers and kernel keep our routes.
    Restart,
    /// For good, with a text for peers.
    Final { message: String },
}

/// What comes from outside the BGP connections.
#[derive(Debug)]
pub(crate) struct Channels {
    /// Requests of the control socket and of the metrics server.
    pub(crate) asks: mpsc::Receiver<Ask>,
    /// The file changed, or SIGHUP.
    pub(crate) reload: mpsc::Receiver<()>,
    /// SIGTERM and the like.
    pub(crate) stop: mpsc::Receiver<Stop>,
}

/// What the engine is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) path: PathBuf,
    pub(crate) file: Config,
    pub(crate) disk: Disk,
    pub(crate) store: PartStore,
    pub(crate) record: RestartRecord,
    pub(crate) host: Host,
    pub(crate) kernel: Kernel,
    pub(crate) kernel_events: mpsc::UnboundedReceiver<KernelEvent>,
    pub(crate) propagation: Propagation,
}

/// See the module's documentation.
pub(crate) struct Engine {
    clock: Clock,
    path: PathBuf,
    /// The last good file.
    file: Config,
    /// Why the file as it stands is not in force.
    file_problem: Option<String>,
    disk: Disk,
    store: PartStore,
    record: RestartRecord,
    host: Host,
    merged: Merged,
    speaker: Option<Speaker>,
    kernel: Kernel,
    /// Route changes of the present helping.
    routes: Vec<(Prefix, Option<KernelRoute>)>,
    /// Told to end by a request.
    ending: Option<Stop>,
    leaving: bool,
    listeners: Listeners,
    bfd: Bfd,
    /// Names of the peers out of listen ranges that have, or have had and may soon have again, a session.
    guests: BTreeMap<IpAddr, String>,
    connections: BTreeMap<ConnId, Connection>,
    attempts: BTreeMap<ConnId, AbortHandle>,
    writers: JoinSet<()>,
    loading: Loading,
    /// Work beside the engine for requests that are answered later.
    jobs: JoinSet<Job>,
    /// A configuration that waits for its confirmation.
    pending: Option<Pending>,
    draining: Option<Draining>,
    watchers: Vec<Watcher>,
    monitoring: Monitoring,
    audit: Audit,
    /// For monitoring stations.
    host_name: String,
    accepted_so_far: u64,
    inputs: (mpsc::Sender<Arrival>, mpsc::Receiver<Arrival>),
    attempted: (mpsc::Sender<Attempt>, mpsc::Receiver<Attempt>),
    accepted: mpsc::Receiver<Accepted>,
    kernel_events: mpsc::UnboundedReceiver<KernelEvent>,
    propagation: Propagation,
}

impl Engine {
    /// Takes the configuration in and starts listening. Must be called within the runtime.
    pub(crate) fn start(parts: Parts, clock: Clock) -> Result<Self> {
        let (accepted_in, accepted) = mpsc::channel(CONNECTION_QUEUE);
        let bfd = Bfd::start(parts.file.bfd.socket.clone());
        let audit = Audit::new(&parts.file.state.dir);
        let draining = Draining::resume(&parts.file.state.dir);
        let mut engine = Self {
            clock,
            path: parts.path,
            file: parts.file,
            file_problem: None,
            disk: parts.disk,
            store: parts.store,
            record: parts.record,
            host: parts.host,
            merged: Merged::default(),
            speaker: None,
            kernel: parts.kernel,
            routes: Vec::new(),
            ending: None,
            leaving: false,
            listeners: Listeners::new(accepted_in),
            bfd,
            guests: BTreeMap::new(),
            connections: BTreeMap::new(),
            attempts: BTreeMap::new(),
            writers: JoinSet::new(),
            loading: Loading::default(),
            jobs: JoinSet::new(),
            pending: None,
            draining,
            watchers: Vec::new(),
            monitoring: Monitoring::default(),
            audit,
            host_name: crate::host::name(),
            accepted_so_far: 0,
            inputs: mpsc::channel(INPUT_QUEUE),
            attempted: mpsc::channel(CONNECTION_QUEUE),
            accepted,
            kernel_events: parts.kernel_events,
            propagation: parts.propagation,
        };
        if let Err(problems) = engine.configure() {
            anyhow::bail!("{}", problems.join("; "));
        }
        engine.listen().context("cannot listen for peers")?;
        Ok(engine)
    }

    /// Runs until told to stop.
    pub(crate) async fn run(mut self, mut channels: Channels) {
        loop {
            if let Some(stop) = self.ending.take() {
                self.leave(stop).await;
                return;
            }
            let busy = self.work();
            let deadline = self.speaker.as_ref().and_then(Speaker::poll_timeout);
            let deadline = deadline.map(|deadline| self.clock.instant(deadline));
            let pause = pin!(pause(busy, deadline));
            let alarm = pin!(until(self.alarm()));
            tokio::select! {
                biased;
                Some(stop) = channels.stop.recv() => self.ending = Some(stop),
                Some(news) = self.bfd.next() => {
                    let paths = self.bfd.take(news);
                    self.take_paths(paths);
                }
                Some(accepted) = self.accepted.recv() => self.take_accepted(accepted),
                Some((conn, result)) = self.attempted.1.recv() => self.take_attempt(conn, result),
                Some(event) = self.kernel_events.recv() => self.take_kernel_event(&event),
                Some(ask) = channels.asks.recv() => self.take_ask(ask),
                // Never empty while a table comes in: those above are, mostly.
                Some(arrival) = self.inputs.1.recv() => self.take_inputs(arrival),
                Some(news) = self.monitoring.next() => {
                    self.monitoring.take(news, self.speaker.as_ref(), &self.host_name);
                }
                Some(()) = channels.reload.recv() => self.loading.begin(&self.path, None),
                Some(loaded) = self.loading.finished() => self.take_file(loaded),
                Some(job) = self.jobs.join_next() => self.take_job(job.unwrap_or(Job::Nothing)),
                Some(_) = self.writers.join_next() => {}
                () = alarm => self.ring(),
                () = pause => {}
            }
        }
    }

    /// When an unconfirmed configuration is rolled back, or a drain goes on.
    fn alarm(&self) -> Option<tokio::time::Instant> {
        let pending = self.pending.as_ref().map(Pending::alarm);
        pending.into_iter().chain(self.draining.as_ref().and_then(Draining::alarm)).min()
    }

    fn ring(&mut self) {
        let now = tokio::time::Instant::now();
        if self.pending.as_ref().is_some_and(|pending| pending.alarm() <= now) {
            self.roll_back_unconfirmed();
        }
        if self.draining.as_ref().and_then(Draining::alarm).is_some_and(|alarm| alarm <= now) {
            self.drain_on();
        }
    }

    /// Lets due timers fire and does a helping of outputs; true if there is more to do.
    fn work(&mut self) -> bool {
        if self.is_due() {
            // A peer has not been silent if its word waits here, however late we are.
            for _ in 0..self.inputs.1.len() {
                if let Ok(arrival) = self.inputs.1.try_recv() {
                    self.take_in(arrival);
                }
            }
            let now = self.clock.now();
            if let Some(speaker) = &mut self.speaker {
                speaker.handle_timeout(now);
            }
        }
        let mut busy = true;
        let begun = Instant::now();
        while busy && begun.elapsed() < HELPING {
            match self.speaker.as_mut().and_then(Speaker::poll_output) {
                Some(output) => self.perform(output),
                None => busy = false,
            }
        }
        if !busy {
            self.propagation.done();
        }
        self.flush_routes();
        if let Some(speaker) = &self.speaker {
            busy |= self.monitoring.walk(speaker);
        }
        busy
    }

    /// A timer of the speaker's is due.
    fn is_due(&self) -> bool {
        let due = self.speaker.as_ref().and_then(Speaker::poll_timeout);
        due.is_some_and(|deadline| deadline <= self.clock.now())
    }

    fn flush_routes(&mut self) {
        if !self.routes.is_empty() {
            self.kernel.routes(self.routes.drain(..));
        }
    }

    fn hand_in(&mut self, input: Input) {
        let now = self.clock.now();
        if let Some(speaker) = &mut self.speaker {
            speaker.handle(now, input);
        }
    }

    fn take_kernel_event(&mut self, event: &KernelEvent) {
        match event {
            KernelEvent::Resolved(nexthop, resolution) => {
                self.hand_in(Input::Nexthop { nexthop: *nexthop, resolution: usable(resolution) });
            }
            KernelEvent::Host => self.follow_host(),
        }
    }

    fn take_inputs(&mut self, first: Arrival) {
        self.take_in(first);
        let begun = Instant::now();
        while begun.elapsed() < HELPING
            && let Ok(next) = self.inputs.1.try_recv()
        {
            self.take_in(next);
        }
    }

    fn take_in(&mut self, arrival: Arrival) {
        if let Input::Closed { conn, .. } = &arrival.input {
            self.connections.remove(conn);
        }
        if let Input::Received { bytes, .. } = &arrival.input {
            self.propagation.received(arrival.at, bytes.len());
        }
        self.hand_in(arrival.input);
    }

    fn take_accepted(&mut self, accepted: Accepted) {
        let Accepted { stream, local, remote } = accepted;
        if self.speaker.is_none() {
            return;
        }
        let ip = remote.ip().to_canonical();
        if let Some(transport) = self.merged.transport(ip)
            && let Err(error) = transport.dress(socket2::SockRef::from(&stream), remote.is_ipv6())
        {
            warn!(%remote, %error, "cannot set up an accepted connection");
            return;
        }
        self.accepted_so_far += 1;
        let conn = ConnId::Incoming(self.accepted_so_far);
        self.open(conn, stream);
        self.hand_in(Input::Accepted { conn, local, remote });
    }

    fn take_paths(&mut self, paths: Vec<(IpAddr, PathState)>) {
        for (remote, path) in paths {
            self.hand_in(Input::Path { remote, path });
        }
    }

    fn take_attempt(&mut self, conn: ConnId, result: Result<TcpStream, CloseReason>) {
        // The core may have given up meanwhile.
        if self.attempts.remove(&conn).is_none() {
            return;
        }
        let addresses = |stream: &TcpStream| Ok((stream.local_addr()?, stream.peer_addr()?));
        match result {
            Ok(stream) => match addresses(&stream) {
                Ok((local, remote)) => {
                    self.open(conn, stream);
                    self.hand_in(Input::Connected { conn, local, remote });
                }
                Err(error) => {
                    let reason = crate::connection::reason(&error);
                    self.hand_in(Input::ConnectFailed { conn, reason });
                }
            },
            Err(reason) => self.hand_in(Input::ConnectFailed { conn, reason }),
        }
    }

    fn open(&mut self, conn: ConnId, stream: TcpStream) {
        let remote = stream.peer_addr().map(|address| address.ip().to_string()).unwrap_or_default();
        let name = self.peer_name(&remote);
        let span = info_span!("peer", name, %conn);
        let connection = Connection::start(conn, stream, self.inputs.0.clone(), &mut self.writers, span);
        self.connections.insert(conn, connection);
    }

    fn peer_name(&self, address: &str) -> String {
        let peers = self.merged.core.as_ref().map(|core| core.peers.as_slice()).unwrap_or_default();
        let named = peers.iter().find(|peer| peer.remote.to_string() == address);
        named.map_or_else(|| address.to_owned(), |peer| peer.name.clone())
    }

    async fn leave(mut self, stop: Stop) {
        let for_good = matches!(stop, Stop::Final { .. });
        let (shutdown, leave) = match stop {
            Stop::Restart => {
                info!("ending for a restart: peers and kernel keep our routes");
                (Shutdown::Restart, Leave::Keep)
            }
            Stop::Final { message } => {
                info!("ending for good: peers are told, kernel routes go");
                (Shutdown::Final { message }, Leave::Clear)
            }
        };
        // What the speaker says about routes from here on is about its own end.
        self.leaving = true;
        self.hand_in(Input::Shutdown(shutdown));
        while self.work() {}
        self.connections.clear();
        if for_good {
            self.bfd.end().await;
            self.record.forget(&self.disk);
            let all = async { while self.writers.join_next().await.is_some() {} };
            if tokio::time::timeout(FAREWELL, all).await.is_err() {
                warn!("not every peer took our last words");
            }
        }
        let (kernel, disk) = (self.kernel, self.disk);
        // Both threads may have long queues; the runtime's threads must not wait for them.
        let ended = tokio::task::spawn_blocking(move || {
            kernel.stop(leave);
            drop(disk);
        });
        let _ = ended.await;
    }
}

/// Lets other tasks have a turn while there is work, else sleeps until the next timer.
async fn pause(busy: bool, deadline: Option<tokio::time::Instant>) {
    match deadline {
        _ if busy => tokio::task::yield_now().await,
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Sleeps until a moment, or for ever.
async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// What route selection needs to know of a resolution.
fn usable(resolution: &turnpike_kroute::Resolution) -> Resolution {
    match resolution {
        turnpike_kroute::Resolution::Reachable { metric, .. } => Resolution::Reachable { metric: *metric },
        turnpike_kroute::Resolution::Local | turnpike_kroute::Resolution::Unreachable => {
            Resolution::Unreachable
        }
    }
}
