//! [`Routes`]: the bookkeeping tied to the kernel.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipnetwork::IpNetwork;
use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteMessage;
use nix::sys::socket::{AddressFamily as SocketFamily, SockFlag, SockType, UnixAddr, bind, socket};
use tracing::{debug, info, warn};

use crate::message::nexthop::NexthopMessage;
use crate::message::route::{self, KernelRoute, Place, Shape};
use crate::message::{
    RTM_DELNEXTHOP, RTM_DELROUTE, RTM_GETNEXTHOP, RTM_GETROUTE, RTM_NEWNEXTHOP, RTM_NEWROUTE,
};
use crate::monitor::Monitor;
use crate::requests::{Request, Requests};
use crate::resolve::Resolver;
use crate::state::{Change, Put, Reread, RouteOp, State};
use crate::wants::{Wants, network};
use crate::{Error, Failure, Hop, Owner, Resolution, Target};

/// Route writes planned at a time: bounded memory, a fresh look at the state between two chunks, and nobody waits long
/// for the state.
const CHUNK: usize = 1024;
/// How often one `apply` starts over when the kernel contradicts what we believe.
const ROUNDS: usize = 3;

/// What one [`Routes::apply`] did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Routes added.
    pub added: usize,
    /// Routes replaced in place.
    pub replaced: usize,
    /// Routes deleted.
    pub deleted: usize,
    /// Nexthop objects written.
    pub nexthops: usize,
    /// [`Routes::failures`] are others than before.
    pub failures_changed: bool,
}

/// The kernel routes of one owner. See the crate's documentation.
pub struct Routes {
    requests: Requests,
    monitor: Monitor,
    resolver: Resolver,
    wants: Wants,
    owner: Owner,
    /// Next hops that the caller follows, with how many times it asked.
    tracked: BTreeMap<Hop, usize>,
    changes: Vec<(Hop, Resolution)>,
    host_changed: bool,
    defaults_changed: bool,
    /// An abstract socket whose name is the protocol number: as long as we hold it nobody else can.
    _lock: OwnedFd,
}

impl Routes {
    /// Takes over the routes of `owner` in the calling thread's network namespace: what a predecessor left is
    /// adopted and stays as it is until it is set anew, or until [`Self::sweep`].
    ///
    /// # Errors
    ///
    /// Another process holds the same protocol number, another program's routes carry it, or netlink fails.
    pub fn open(owner: Owner) -> Result<Self, Error> {
        owner.check()?;
        let lock = lock(&owner)?;
        let requests = Requests::open()?;
        // Subscribed before the first dump, so that no change falls between.
        let monitor = Monitor::open(requests.port())?;
        let mut routes = Self {
            requests,
            monitor,
            resolver: Resolver::default(),
            wants: Wants::new(State::new(owner.clone())),
            owner,
            tracked: BTreeMap::new(),
            changes: Vec::new(),
            host_changed: false,
            defaults_changed: false,
            _lock: lock,
        };
        let objects = routes.dump_objects()?;
        routes.wants.state().reload_objects(objects, true);
        let (own, foreign) = routes.dump_routes()?;
        if let Some(prefix) = foreign.first() {
            return Err(Error::ProtocolInUse { protocol: routes.owner.protocol, prefix: *prefix });
        }
        info!(routes = own.len(), owner = routes.owner.name, "adopted own kernel routes");
        routes.wants.state().reload_routes(own);
        Ok(routes)
    }

    /// For saying from other threads what is wanted.
    #[must_use]
    pub fn wants(&self) -> Wants {
        self.wants.clone()
    }

    /// Wants `target` for `prefix` (host bits are ignored).
    pub fn set(&mut self, prefix: IpNetwork, target: Target) {
        self.wants.state().set(network(prefix), &target);
    }

    /// Wants no route for `prefix`.
    pub fn remove(&mut self, prefix: IpNetwork) {
        self.wants.state().remove(network(prefix));
    }

    /// Every prefix that has been set and not removed, in order.
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpNetwork> {
        self.wants.state().wanted()
    }

    /// From the next [`Self::apply`] on, routes of ours that nobody has set are removed.
    pub fn sweep(&mut self) {
        self.wants.state().sweep();
    }

    /// Removes every route and object of ours from the kernel: for an uninstall, not for a restart.
    ///
    /// # Errors
    ///
    /// Netlink fails.
    pub fn clear(&mut self) -> Result<Report, Error> {
        for prefix in self.prefixes() {
            self.remove(prefix);
        }
        self.sweep();
        self.apply()
    }

    /// Starts following a next hop; its present resolution.
    ///
    /// # Errors
    ///
    /// Netlink fails.
    pub fn track(&mut self, hop: Hop) -> Result<Resolution, Error> {
        self.resolver.hold(hop);
        self.refresh()?;
        *self.tracked.entry(hop).or_default() += 1;
        Ok(self.resolver.get(hop).cloned().unwrap_or(Resolution::Unreachable))
    }

    /// Stops following a next hop, once for each [`Self::track`].
    pub fn untrack(&mut self, hop: Hop) {
        let Some(times) = self.tracked.get_mut(&hop) else { return };
        *times -= 1;
        if *times == 0 {
            self.tracked.remove(&hop);
        }
        self.resolver.release(hop);
    }

    /// Tracked next hops whose resolution changed since the last call, in the order of events.
    pub fn take_changes(&mut self) -> Vec<(Hop, Resolution)> {
        std::mem::take(&mut self.changes)
    }

    /// True if links or addresses of the host changed since the last call.
    pub fn take_host_changed(&mut self) -> bool {
        std::mem::take(&mut self.host_changed)
    }

    /// True if default routes changed since the last call, whoever's they are, or may have.
    pub fn take_defaults_changed(&mut self) -> bool {
        std::mem::take(&mut self.defaults_changed)
    }

    /// Takes in what others have changed in the kernel. Never blocks; call it when the descriptor is readable,
    /// then [`Self::take_changes`] and [`Self::apply`].
    ///
    /// # Errors
    ///
    /// Netlink fails.
    pub fn pump(&mut self) -> Result<(), Error> {
        let mut reread = Reread::Nothing;
        for event in self.monitor.read()? {
            debug!(?event, "kernel event");
            self.host_changed |= event.is_about_host();
            self.defaults_changed |=
                event.is_about_host() || event.prefix().is_some_and(|prefix| prefix.prefix() == 0);
            self.resolver.observe(&event, &self.owner);
            reread = reread.max(self.wants.state().observe(&event));
        }
        match reread {
            Reread::Nothing => {}
            Reread::Objects => self.reload_objects()?,
            Reread::Everything => self.reload()?,
        }
        self.refresh()
    }

    /// Writes the difference between what is wanted and what the kernel holds.
    ///
    /// # Errors
    ///
    /// Netlink itself fails. That the kernel refuses single requests is in the report.
    pub fn apply(&mut self) -> Result<Report, Error> {
        self.apply_some(usize::MAX)
    }

    /// Like [`Self::apply`], but of routes it writes about `limit` at most: [`Self::pending`] tells whether any are
    /// left.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`].
    pub fn apply_some(&mut self, limit: usize) -> Result<Report, Error> {
        let mut report = Report::default();
        let failures = self.wants.state().failures_version();
        for _ in 0..ROUNDS {
            self.refresh()?;
            report.nexthops += self.write_objects()?;
            self.write_routes(limit, &mut report)?;
            if !self.wants.state().take_suspicion() {
                break;
            }
            warn!("the kernel's routes are not as believed; reading them again");
            self.reload()?;
        }
        self.delete_strays(&mut report)?;
        self.delete_garbage()?;
        report.failures_changed = self.wants.state().failures_version() != failures;
        Ok(report)
    }

    /// Lets the next [`Self::apply`] try again what the kernel refused. Not needed after kernel events.
    pub fn retry(&mut self) {
        self.wants.state().retry();
    }

    /// What the kernel refused and still lacks.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        self.wants.state().failures().cloned().collect()
    }

    /// The port number that the kernel puts on notifications of what we have written.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.requests.port()
    }

    /// Routes of ours in the kernel, as far as we know.
    #[must_use]
    pub fn installed(&self) -> usize {
        self.wants.state().installed()
    }

    /// Prefixes that wait for the next [`Self::apply`].
    #[must_use]
    pub fn pending(&self) -> usize {
        self.wants.pending()
    }

    fn follow(&mut self, change: Change) {
        for hop in change.held {
            self.resolver.hold(hop);
            // Already known from `track`: no change will be told, so take it from here.
            if let Some(resolution) = self.resolver.get(hop) {
                self.wants.state().resolved(hop, resolution.gateways());
            }
        }
        for hop in change.released {
            self.resolver.release(hop);
        }
    }

    fn refresh(&mut self) -> Result<(), Error> {
        let changes = self.wants.state().take_changes();
        changes.into_iter().for_each(|change| self.follow(change));
        for (hop, resolution) in self.resolver.refresh(&mut self.requests, &self.owner)? {
            debug!(%hop, ?resolution, "next hop resolved");
            self.wants.state().resolved(hop, resolution.gateways());
            if self.tracked.contains_key(&hop) {
                self.changes.push((hop, resolution));
            }
        }
        Ok(())
    }

    fn write_objects(&mut self) -> Result<usize, Error> {
        let mut written = 0;
        for plan in [State::plan_singles, State::plan_groups] {
            let puts = plan(&mut self.wants.state());
            let requests: Vec<_> = puts.iter().map(put_request).collect();
            let outcomes = self.requests.run(&requests)?;
            let mut state = self.wants.state();
            for (put, outcome) in puts.iter().zip(&outcomes) {
                state.record_put(put, outcome);
            }
            written += outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        }
        self.wants.state().settle();
        Ok(written)
    }

    fn write_routes(&mut self, limit: usize, report: &mut Report) -> Result<(), Error> {
        let mut written = 0;
        while written < limit {
            let ops = self.wants.state().plan_routes(CHUNK);
            if ops.is_empty() {
                return Ok(());
            }
            written += ops.len();
            let requests: Vec<_> = ops.iter().map(|op| route_request(&self.owner, op)).collect();
            let outcomes = self.requests.run(&requests)?;
            let mut state = self.wants.state();
            for (op, outcome) in ops.iter().zip(&outcomes) {
                if state.record_route(op, outcome) {
                    match op {
                        RouteOp::Add(..) => report.added += 1,
                        RouteOp::Replace(..) => report.replaced += 1,
                        RouteOp::Delete(_) => report.deleted += 1,
                    }
                }
            }
        }
        Ok(())
    }

    fn delete_strays(&mut self, report: &mut Report) -> Result<(), Error> {
        let strays = self.wants.state().take_strays();
        let requests: Vec<_> = strays
            .into_iter()
            .map(|place| Request { kind: RTM_DELROUTE, flags: 0, body: route::delete(&self.owner, place) })
            .collect();
        report.deleted += self.requests.run(&requests)?.iter().filter(|outcome| outcome.is_ok()).count();
        Ok(())
    }

    fn delete_garbage(&mut self) -> Result<(), Error> {
        let ids = self.wants.state().plan_garbage();
        let requests: Vec<_> = ids
            .iter()
            .map(|id| Request { kind: RTM_DELNEXTHOP, flags: 0, body: NexthopMessage::named(*id) })
            .collect();
        let outcomes = self.requests.run(&requests)?;
        for (id, outcome) in ids.iter().zip(outcomes) {
            match outcome {
                Ok(()) => self.wants.state().object_gone(*id),
                Err(refusal) if refusal.errno == libc::ENOENT => self.wants.state().object_gone(*id),
                Err(refusal) => warn!(id, error = refusal.message, "cannot delete a nexthop object"),
            }
        }
        Ok(())
    }

    /// Reads routes and nexthop objects of ours anew: after an error of [`Self::pump`] or [`Self::apply`], when it
    /// is unknown what reached the kernel.
    ///
    /// # Errors
    ///
    /// Netlink fails.
    pub fn reload(&mut self) -> Result<(), Error> {
        self.reload_objects()?;
        let (own, _) = self.dump_routes()?;
        self.wants.state().reload_routes(own);
        self.resolver.touch_all();
        Ok(())
    }

    fn reload_objects(&mut self) -> Result<(), Error> {
        let objects = self.dump_objects()?;
        self.wants.state().reload_objects(objects, false);
        Ok(())
    }

    fn dump_objects(&mut self) -> Result<Vec<NexthopMessage>, Error> {
        let ids = self.owner.nexthop_ids.clone();
        self.requests.dump("a dump of nexthop objects", RTM_GETNEXTHOP, ObjectDump, |payload| {
            NexthopMessage::parse(payload).ok().filter(|object| ids.contains(&object.id))
        })
    }

    /// Our routes in every table, and prefixes of those with our protocol number that are not ours.
    #[expect(clippy::type_complexity, reason = "a pair of lists that only `open` and `reload` see")]
    fn dump_routes(&mut self) -> Result<(Vec<(Place, Shape)>, Vec<IpNetwork>), Error> {
        let owner = self.owner.clone();
        let (mut own, mut foreign) = (Vec::new(), Vec::new());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let body = route::dump(family, Some(owner.protocol));
            let routes = self.requests.dump("a dump of routes", RTM_GETROUTE, body, |payload| {
                let (_, protocol) = route::peek(payload)?;
                let ours = protocol == owner.protocol;
                if ours { KernelRoute::parse(payload).ok().filter(|route| !route.cloned) } else { None }
            })?;
            for route in routes {
                match route.shape(&owner) {
                    Some(shape) => own.push((route.place(), shape)),
                    None => foreign.push(route.prefix),
                }
            }
        }
        Ok((own, foreign))
    }
}

impl AsFd for Routes {
    /// Readable when others have changed something in the kernel.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

fn put_request(put: &Put) -> Request<NexthopMessage> {
    let flags = if put.exists { NLM_F_REPLACE } else { NLM_F_CREATE | NLM_F_EXCL };
    Request { kind: RTM_NEWNEXTHOP, flags, body: put.message.clone() }
}

fn route_request(owner: &Owner, op: &RouteOp) -> Request<RouteMessage> {
    match *op {
        RouteOp::Add(prefix, shape) => Request {
            kind: RTM_NEWROUTE,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            body: route::write(owner, prefix, shape),
        },
        RouteOp::Replace(prefix, shape) => {
            Request { kind: RTM_NEWROUTE, flags: NLM_F_REPLACE, body: route::write(owner, prefix, shape) }
        }
        RouteOp::Delete(prefix) => {
            Request { kind: RTM_DELROUTE, flags: 0, body: route::delete(owner, Place::own(owner, prefix)) }
        }
    }
}

/// The body of a nexthop dump: a bare `struct nhmsg`.
struct ObjectDump;

impl Emitable for ObjectDump {
    fn buffer_len(&self) -> usize {
        8
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

/// One holder per protocol number and network namespace; the kernel releases it with the process.
fn lock(owner: &Owner) -> Result<OwnedFd, Error> {
    let name = format!("turnpike-kroute/{}", owner.protocol);
    let as_io = std::io::Error::from;
    let socket = socket(SocketFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(as_io)
        .map_err(Error::socket("opening the lock socket"))?;
    let address = UnixAddr::new_abstract(name.as_bytes())
        .map_err(as_io)
        .map_err(Error::socket("naming the lock socket"))?;
    match bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address) {
        Ok(()) => Ok(socket),
        Err(nix::errno::Errno::EADDRINUSE) => Err(Error::OwnerRunning { protocol: owner.protocol }),
        Err(errno) => Err(Error::Socket { doing: "taking the lock", source: errno.into() }),
    }
}
