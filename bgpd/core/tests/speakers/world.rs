//! A small world: speakers, the pipes between them, their kernels, and a clock that the test turns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use turnpike_bgp_core::config::{Config, Network, PeerConfig, PolicyChoice, Start};
use turnpike_bgp_core::query::{PathView, PeerView, Select, SessionState, Table};
use turnpike_bgp_core::{
    CloseReason, ConnId, Event, Input, Nexthop, Output, PeerId, Resolution, RouteChange, Speaker, Time,
};
use turnpike_bgp_wire::{
    Asn, DecodeContext, Families, Family, Framer, MessageType, Prefix, RouterId, Update,
};

/// How long anything takes to arrive.
const LATENCY: Duration = Duration::from_millis(1);

/// A speaker with what surrounds it.
pub(crate) struct Host {
    pub(crate) addr: IpAddr,
    speaker: Option<Speaker>,
    pub(crate) conns: BTreeMap<ConnId, (usize, ConnId)>,
    next_incoming: u64,
    /// Survives the speaker, as a kernel does. Without next hops: a blackhole.
    pub(crate) kernel: BTreeMap<Prefix, Arc<[Nexthop]>>,
    fresh: BTreeSet<Prefix>,
    pub(crate) unreachable: BTreeSet<IpAddr>,
    pub(crate) tracked: BTreeSet<Nexthop>,
    pub(crate) metrics: BTreeMap<IpAddr, u32>,
    pub(crate) events: Vec<Event>,
    /// UPDATEs as they came, while the host is monitored.
    pub(crate) monitored: Vec<(PeerId, bytes::Bytes)>,
    /// Routes ever removed from the kernel.
    pub(crate) removed: Vec<Prefix>,
    /// Bytes sent are not reported as sent: the peer does not read.
    pub(crate) stuck: bool,
    /// Whether next hops are reported on.
    pub(crate) mute_nexthops: bool,
}

enum Arrival {
    Syn { from: usize, conn: ConnId, local: Option<IpAddr>, remote: SocketAddr },
    Input { to: usize, input: Input },
}

/// Messages that went over the wire, for those who watch it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) kind: MessageType,
    pub(crate) body: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    arrivals: BTreeMap<(Time, u64), Arrival>,
    sequence: u64,
    wires: BTreeMap<(usize, ConnId), Framer>,
    pub(crate) seen: Vec<Seen>,
    /// No connection between these two comes up, and nothing sent arrives.
    pub(crate) cut: BTreeSet<(usize, usize)>,
}

pub(crate) fn addr(host: usize) -> IpAddr {
    format!("10.0.0.{}", host + 1).parse().unwrap()
}

pub(crate) fn config(host: usize, asn: u32) -> Config {
    Config::new(Asn(asn), RouterId::from_u32(0x0a00_0001 + host as u32))
}

pub(crate) fn peer(host: usize, asn: u32) -> PeerConfig {
    let mut peer = PeerConfig::new(format!("h{host}"), addr(host), Asn(asn));
    peer.families = Families { ipv4: true, ipv6: false };
    peer
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// A host of an AS with peers in others, all policies open.
pub(crate) fn open(host: usize, asn: u32, peers: &[(usize, u32)]) -> Config {
    let mut config = config(host, asn);
    for (other, other_asn) in peers {
        let mut peer = peer(*other, *other_asn);
        peer.import = PolicyChoice::AcceptAll;
        peer.export = PolicyChoice::AcceptAll;
        config.peers.push(peer);
    }
    config
}

pub(crate) fn announce(config: &mut Config, which: &[&str]) {
    config.networks.extend(which.iter().map(|text| Network::new(prefix(text))));
}

impl World {
    /// Hosts 0, 1, … with these configurations, freshly started.
    pub(crate) fn new(configs: impl IntoIterator<Item = Config>) -> Self {
        Self::at(addr, configs)
    }

    /// The same with other addresses.
    pub(crate) fn at(addr: impl Fn(usize) -> IpAddr, configs: impl IntoIterator<Item = Config>) -> Self {
        let mut world = World::default();
        for config in configs {
            let host = world.hosts.len();
            world.hosts.push(Host {
                addr: addr(host),
                speaker: None,
                conns: BTreeMap::new(),
                next_incoming: 0,
                kernel: BTreeMap::new(),
                fresh: BTreeSet::new(),
                unreachable: BTreeSet::new(),
                tracked: BTreeSet::new(),
                metrics: BTreeMap::new(),
                events: Vec::new(),
                monitored: Vec::new(),
                removed: Vec::new(),
                stuck: false,
                mute_nexthops: false,
            });
            world.start(host, config, Start::FRESH);
        }
        world
    }

    pub(crate) fn start(&mut self, host: usize, config: Config, start: Start) {
        self.hosts[host].speaker = Some(Speaker::new(config, start, self.now).expect("a good configuration"));
        self.drain(host);
    }

    /// SIGKILL: the kernel resets the connections; its routes stay.
    pub(crate) fn kill(&mut self, host: usize) -> Config {
        let config = self.speaker(host).config().clone();
        self.hosts[host].speaker = None;
        self.hosts[host].fresh.clear();
        self.hosts[host].tracked.clear();
        for (_, (other, conn)) in std::mem::take(&mut self.hosts[host].conns) {
            self.hosts[other].conns.remove(&conn);
            self.later(Arrival::Input {
                to: other,
                input: Input::Closed { conn, reason: CloseReason::Reset },
            });
        }
        config
    }

    /// Everything under way is lost.
    pub(crate) fn forget_arrivals(&mut self) {
        self.arrivals.clear();
    }

    pub(crate) fn speaker(&self, host: usize) -> &Speaker {
        self.hosts[host].speaker.as_ref().expect("a living speaker")
    }

    pub(crate) fn input(&mut self, host: usize, input: Input) {
        let now = self.now;
        if let Some(speaker) = &mut self.hosts[host].speaker {
            speaker.handle(now, input);
        }
        self.drain(host);
    }

    pub(crate) fn configure(&mut self, host: usize, change: impl FnOnce(&mut Config)) {
        let mut config = self.speaker(host).config().clone();
        change(&mut config);
        self.input(host, Input::Configure(Box::new(config)));
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.next_moment().filter(|at| *at <= end) {
            self.step_to(at);
        }
        self.now = end;
    }

    /// Lets time pass until something holds; fails after ten minutes.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&World) -> bool) {
        let end = self.now + Duration::from_secs(600);
        while !holds(self) {
            match self.next_moment().filter(|at| *at <= end) {
                Some(at) => self.step_to(at),
                None => panic!("never happened: {what}"),
            }
        }
    }

    fn next_moment(&self) -> Option<Time> {
        let arrival = self.arrivals.keys().next().map(|(at, _)| *at);
        let timers = self.hosts.iter().filter_map(|host| host.speaker.as_ref()?.poll_timeout());
        timers.chain(arrival).min()
    }

    fn step_to(&mut self, at: Time) {
        self.now = self.now.max(at);
        while let Some(entry) = self.arrivals.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Arrival::Syn { from, conn, local, remote } => self.syn(from, conn, local, remote),
                Arrival::Input { to, input } => self.input(to, input),
            }
        }
        for host in 0..self.hosts.len() {
            let now = self.now;
            if let Some(speaker) = &mut self.hosts[host].speaker
                && speaker.poll_timeout().is_some_and(|at| at <= now)
            {
                speaker.handle_timeout(now);
                self.drain(host);
            }
        }
    }

    fn later(&mut self, arrival: Arrival) {
        self.arrivals.insert((self.now + LATENCY, self.sequence), arrival);
        self.sequence += 1;
    }

    fn syn(&mut self, from: usize, conn: ConnId, local: Option<IpAddr>, remote: SocketAddr) {
        let to = self.hosts.iter().position(|host| host.addr == remote.ip() && host.speaker.is_some());
        let cut = to.is_some_and(|to| self.is_cut(from, to));
        let Some(to) = to.filter(|_| !cut) else {
            let input = Input::ConnectFailed { conn, reason: CloseReason::Refused };
            return self.later(Arrival::Input { to: from, input });
        };
        let mut local = SocketAddr::new(local.unwrap_or(self.hosts[from].addr), 40000);
        if let (SocketAddr::V6(local), SocketAddr::V6(remote)) = (&mut local, remote) {
            local.set_scope_id(remote.scope_id());
        }
        let theirs = ConnId::Incoming(self.hosts[to].next_incoming);
        self.hosts[to].next_incoming += 1;
        self.hosts[from].conns.insert(conn, (to, theirs));
        self.hosts[to].conns.insert(theirs, (from, conn));
        self.later(Arrival::Input { to: from, input: Input::Connected { conn, local, remote } });
        self.input(to, Input::Accepted { conn: theirs, local: remote, remote: local });
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cut.contains(&(one, other)) || self.cut.contains(&(other, one))
    }

    fn drain(&mut self, host: usize) {
        let mut inputs = VecDeque::new();
        loop {
            let Some(speaker) = &mut self.hosts[host].speaker else { return };
            match speaker.poll_output() {
                Some(output) => inputs.extend(self.act(host, output)),
                None => match inputs.pop_front() {
                    Some(input) => speaker.handle(self.now, input),
                    None => return,
                },
            }
        }
    }

    fn act(&mut self, host: usize, output: Output) -> Option<Input> {
        match output {
            Output::Connect { conn, local, remote, .. } => {
                self.later(Arrival::Syn { from: host, conn, local, remote });
            }
            Output::Send { conn, bytes } => {
                self.transmit(host, conn, &bytes);
                let count = bytes.len();
                return (!self.hosts[host].stuck).then_some(Input::Sent { conn, bytes: count });
            }
            Output::Close { conn } => {
                self.wires.remove(&(host, conn));
                if let Some((other, theirs)) = self.hosts[host].conns.remove(&conn) {
                    self.hosts[other].conns.remove(&theirs);
                    if !self.is_cut(host, other) {
                        let input = Input::Closed { conn: theirs, reason: CloseReason::Eof };
                        self.later(Arrival::Input { to: other, input });
                    }
                }
            }
            Output::Route(RouteChange::Install { prefix, nexthops }) => {
                self.hosts[host].fresh.insert(prefix);
                self.hosts[host].kernel.insert(prefix, nexthops);
            }
            Output::Route(RouteChange::Discard { prefix }) => {
                self.hosts[host].fresh.insert(prefix);
                self.hosts[host].kernel.insert(prefix, Arc::new([]));
            }
            Output::Route(RouteChange::Remove { prefix }) => {
                self.hosts[host].kernel.remove(&prefix);
                self.hosts[host].removed.push(prefix);
            }
            Output::TrackNexthop(nexthop) => {
                self.hosts[host].tracked.insert(nexthop);
                let resolution = self.resolution(host, nexthop);
                return (!self.hosts[host].mute_nexthops).then_some(Input::Nexthop { nexthop, resolution });
            }
            Output::UntrackNexthop(nexthop) => {
                self.hosts[host].tracked.remove(&nexthop);
            }
            Output::RestartComplete => {
                let Host { kernel, fresh, removed, .. } = &mut self.hosts[host];
                removed.extend(kernel.keys().filter(|prefix| !fresh.contains(prefix)));
                kernel.retain(|prefix, _| fresh.contains(prefix));
            }
            Output::Event(event) => self.hosts[host].events.push(event),
            Output::Received { peer, message } => self.hosts[host].monitored.push((peer, message)),
        }
        None
    }

    fn resolution(&self, host: usize, nexthop: Nexthop) -> Resolution {
        let host = &self.hosts[host];
        match host.unreachable.contains(&nexthop.addr) {
            true => Resolution::Unreachable,
            false => Resolution::Reachable { metric: host.metrics.get(&nexthop.addr).copied().unwrap_or(0) },
        }
    }

    /// Reports on a next hop again, after `unreachable` or `metrics` were changed.
    pub(crate) fn report(&mut self, host: usize, addr: IpAddr) {
        let nexthop = Nexthop::global(addr);
        let resolution = self.resolution(host, nexthop);
        self.input(host, Input::Nexthop { nexthop, resolution });
    }

    /// Reports everything that a stuck host had sent as sent.
    pub(crate) fn unstick(&mut self, host: usize) {
        self.hosts[host].stuck = false;
        let conns: Vec<ConnId> = self.hosts[host].conns.keys().copied().collect();
        for conn in conns {
            self.input(host, Input::Sent { conn, bytes: usize::MAX });
        }
    }

    fn transmit(&mut self, host: usize, conn: ConnId, bytes: &Bytes) {
        let Some((other, theirs)) = self.hosts[host].conns.get(&conn).copied() else { return };
        let wire = self.wires.entry((host, conn)).or_default();
        wire.allow_extended();
        wire.push(bytes);
        while let Some(frame) = wire.next_frame().expect("what we send is well-formed") {
            self.seen.push(Seen { from: host, to: other, kind: frame.kind, body: frame.body.to_vec() });
        }
        if !self.is_cut(host, other) {
            let input = Input::Received { conn: theirs, bytes: bytes.clone() };
            self.later(Arrival::Input { to: other, input });
        }
    }

    pub(crate) fn peer_of(&self, host: usize, other: usize) -> PeerView {
        let addr = self.hosts[other].addr;
        let found = self.speaker(host).peers().into_iter().find(|view| view.remote == addr);
        found.expect("a peer")
    }

    pub(crate) fn id_of(&self, host: usize, other: usize) -> PeerId {
        self.peer_of(host, other).id
    }

    pub(crate) fn is_up(&self, host: usize, other: usize) -> bool {
        self.hosts[host].speaker.is_some() && self.peer_of(host, other).state == SessionState::Established
    }

    pub(crate) fn all_up(&mut self, pairs: &[(usize, usize)]) {
        self.until("sessions Established", |world| {
            pairs.iter().all(|(one, other)| world.is_up(*one, *other) && world.is_up(*other, *one))
        });
    }

    pub(crate) fn loc(&self, host: usize, which: &str) -> Vec<PathView> {
        self.speaker(host).rib(Table::Loc, Select::Exact(prefix(which)), 100)
    }

    pub(crate) fn best(&self, host: usize, which: &str) -> Option<PathView> {
        self.loc(host, which).into_iter().find(|path| path.best)
    }

    pub(crate) fn has(&self, host: usize, which: &str) -> bool {
        self.hosts[host].speaker.is_some() && self.best(host, which).is_some()
    }

    pub(crate) fn told(&self, host: usize, other: usize) -> Vec<PathView> {
        self.speaker(host).rib(Table::Out(self.id_of(host, other)), Select::Family(Family::Ipv4), 10_000)
    }

    pub(crate) fn kernel_of(&self, host: usize, which: &str) -> Vec<IpAddr> {
        let route = self.hosts[host].kernel.get(&prefix(which));
        route.map(|nexthops| nexthops.iter().map(|nexthop| nexthop.addr).collect()).unwrap_or_default()
    }

    /// UPDATEs from one host to another since the wire was last cleared.
    pub(crate) fn updates(&self, from: usize, to: usize) -> Vec<Update> {
        let context = DecodeContext {
            internal: true,
            four_octet_as: true,
            families: Families::BOTH,
            add_path: Families::NONE,
            extended_next_hop: true,
        };
        let wanted = |seen: &&Seen| seen.from == from && seen.to == to && seen.kind == MessageType::Update;
        self.seen.iter().filter(wanted).map(|seen| Update::decode(&seen.body, &context).unwrap()).collect()
    }

    /// Prefixes withdrawn by one host from another since the wire was last cleared.
    pub(crate) fn withdrawn(&self, from: usize, to: usize) -> Vec<Prefix> {
        self.updates(from, to).into_iter().flat_map(|update| update.unreach).map(|nlri| nlri.prefix).collect()
    }
}
