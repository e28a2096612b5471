//! The target for sessions: one peer does what the input says, in virtual time, beside a peer that does no wrong.
//!
//! Checked after every step: the healthy session stands and its prefix is in use; what the speaker writes is well-formed
//! and goes to connections that exist; what waits for a peer that does not read is bounded; timers do not spin.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use turnpike_bgp_core::config::{AddPath, Config, PeerConfig, PolicyChoice, SendPaths, Start};
use turnpike_bgp_core::query::{Select, Table};
use turnpike_bgp_core::{CloseReason, ConnId, Input, Output, Resolution, Speaker, Time};
use turnpike_bgp_wire::{
    Asn, Attributes, Capability, DecodeContext, EncodeContext, Families, Family, Framer,
    GracefulRestartCapability, LongLivedFamily, MessageType, NextHop, Nlri, Open, PerFamily, Prefix,
    RouterId, Update, encode_keepalive, encode_reach, encode_unreach,
};

use crate::corpus::{EXTERNAL_AS, LOCAL_AS, Session};

/// Our address.
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The hostile peer's.
const HOSTILE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The healthy peer's.
const HEALTHY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// The healthy peer's connection.
const GOOD: ConnId = ConnId::Incoming(0);
/// Bytes that may wait for the hostile peer, as configured.
const LIMIT: usize = 64 * 1024;
/// What may come on top of it: the batch that went over the limit, and messages that are not UPDATEs.
const SLACK: usize = 256 * 1024;
/// More outputs than this after one input are a loop.
const OUTPUTS: usize = 100_000;

/// One run: the octets are a program of steps, see `Rig::step`.
pub fn session(data: &[u8]) {
    let [properties, steps @ ..] = data else { return };
    let Some(mut rig) = Rig::new(*properties) else { return };
    rig.healthy_peer();
    let mut steps = Steps(steps);
    while let Some(op) = steps.octet() {
        rig.step(op, &mut steps);
        rig.check();
    }
    rig.pass(Duration::from_secs(900));
    rig.check();
}

/// What is left of the program.
struct Steps<'a>(&'a [u8]);

impl<'a> Steps<'a> {
    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self) -> &'a [u8] {
        let len = usize::from(self.octet().unwrap_or(0)).min(self.0.len());
        let (head, tail) = self.0.split_at_checked(len).unwrap_or_default();
        self.0 = tail;
        head
    }
}

/// One connection as the shell holds it.
#[derive(Default)]
struct Conn {
    sent: Framer,
    unsent: usize,
}

struct Rig {
    speaker: Speaker,
    now: Time,
    session: Session,
    graceful: bool,
    conns: BTreeMap<ConnId, Conn>,
    /// Connections that the speaker has asked for.
    wanted: Vec<ConnId>,
    /// The hostile peer's latest connection.
    current: Option<ConnId>,
    next: u64,
    /// The hostile peer does not read.
    stuck: bool,
}

impl Rig {
    /// Bits: internal, two-octet numbers, extended messages, extended next hop, only IPv4, passive, graceful restart, add-path.
    fn new(properties: u8) -> Option<Self> {
        let bit = |bit: u8| properties & (1 << bit) != 0;
        let session = Session {
            internal: bit(0),
            two_octet: bit(1),
            extended_message: bit(2),
            extended_next_hop: bit(3),
            add_path: bit(7),
            ipv4_only: bit(4),
        };
        let mut hostile = PeerConfig::new("hostile", HOSTILE.into(), Asn(session.remote_as()));
        hostile.transport.passive = bit(5);
        hostile.extended_next_hop = session.extended_next_hop;
        if session.add_path {
            let both = AddPath { receive: true, send: SendPaths::All };
            hostile.add_path = PerFamily { ipv4: both, ipv6: both };
            hostile.long_lived = Some(Duration::from_secs(300));
        }
        hostile.import = PolicyChoice::AcceptAll;
        hostile.export = PolicyChoice::AcceptAll;
        let mut healthy = PeerConfig::new("healthy", HEALTHY.into(), Asn(LOCAL_AS));
        healthy.transport.passive = true;
        healthy.hold_time = Duration::ZERO;
        healthy.rr_client = true;
        if session.add_path {
            healthy.add_path.ipv4.send = SendPaths::All;
        }
        let mut config = Config::new(Asn(LOCAL_AS), RouterId(OURS));
        config.addresses.ipv6 = "2001:db8::1".parse().ok();
        config.unsent_limit = LIMIT;
        config.peers = vec![hostile, healthy];
        let mut rig = Self {
            speaker: Speaker::new(config, Start::FRESH, Time::START).ok()?,
            now: Time::START,
            session,
            graceful: bit(6),
            conns: BTreeMap::new(),
            wanted: Vec::new(),
            current: None,
            next: 1,
            stuck: false,
        };
        rig.drain();
        Some(rig)
    }

    fn healthy_peer(&mut self) {
        self.accepted(GOOD, HEALTHY);
        let mut bytes = Vec::new();
        let add_path = self.session.add_path;
        let capabilities = Session { internal: true, add_path, ..Session::default() }.capabilities();
        let open = Open { asn: Asn(LOCAL_AS), hold_time: 0, router_id: RouterId(HEALTHY), capabilities };
        open.encode(&mut bytes);
        encode_keepalive(&mut bytes);
        announce(0, 0, HEALTHY, true, &EncodeContext::default(), &mut bytes);
        self.received(GOOD, bytes);
        self.check();
    }

    fn step(&mut self, op: u8, steps: &mut Steps<'_>) {
        match op % 13 {
            0 => self.hostile_says(steps.take().to_vec()),
            1 => {
                let kind = steps.octet().unwrap_or(2);
                let body = [steps.take(), steps.take()].concat();
                self.hostile_says(framed(kind % 7, &body));
            }
            2 => self.open(),
            3 => {
                let mut bytes = Vec::new();
                encode_keepalive(&mut bytes);
                self.hostile_says(bytes);
            }
            4 => {
                let number = steps.octet().unwrap_or(1);
                let mut bytes = Vec::new();
                let add_path = self.session.add_path;
                let path_id = if add_path { steps.octet().unwrap_or(0).into() } else { 0 };
                let context = EncodeContext {
                    four_octet_as: !self.session.two_octet,
                    add_path_ipv4: add_path,
                    ..EncodeContext::default()
                };
                announce(number, path_id, HOSTILE, self.session.internal, &context, &mut bytes);
                self.hostile_says(bytes);
            }
            5 => self.pass(Duration::from_secs(u64::from(steps.octet().unwrap_or(1)) * 2)),
            6 => self.hang_up(CloseReason::Eof),
            7 => self.accepted_from_hostile(),
            8 => self.connect_ends(steps.octet().unwrap_or(0).is_multiple_of(2)),
            9 => self.stuck = !self.stuck,
            10 => self.read_all(),
            11 => {
                let number = steps.octet().unwrap_or(1).max(1);
                let mut bytes = Vec::new();
                match number % 2 {
                    0 => announce(number, 0, HEALTHY, true, &EncodeContext::default(), &mut bytes),
                    _ => drop(encode_unreach(
                        Family::Ipv4,
                        &prefix(number - 1)
                            .filter(|_| number > 1)
                            .map(Nlri::new)
                            .into_iter()
                            .collect::<Vec<_>>(),
                        &EncodeContext::default(),
                        &mut bytes,
                    )),
                }
                self.received(GOOD, bytes);
            }
            _ => self.reconfigure(steps.octet().unwrap_or(0)),
        }
    }

    fn open(&mut self) {
        let mut capabilities = self.session.capabilities();
        if self.graceful {
            capabilities.push(Capability::GracefulRestart(GracefulRestartCapability {
                restarted: false,
                notification: true,
                restart_time: 120,
                families: self.session.families().members().map(|family| (family.code(), true)).collect(),
            }));
            // Of no effect unless it is configured, which add-path stands for.
            let one =
                |family: Family| LongLivedFamily { family: family.code(), forwarding: true, stale_time: 600 };
            capabilities.push(Capability::LongLived(self.session.families().members().map(one).collect()));
        }
        let asn = Asn(self.session.remote_as());
        let mut bytes = Vec::new();
        Open { asn, hold_time: 90, router_id: RouterId(HOSTILE), capabilities }.encode(&mut bytes);
        self.hostile_says(bytes);
    }

    fn reconfigure(&mut self, choice: u8) {
        let mut config = self.speaker.config().clone();
        if let Some(hostile) = config.peers.first_mut() {
            hostile.shutdown = (choice & 1 != 0).then(|| "maintenance".to_owned());
            hostile.rr_client = choice & 2 != 0 && self.session.internal;
        }
        self.input(Input::Configure(Box::new(config)));
    }

    fn hostile_says(&mut self, bytes: Vec<u8>) {
        if let Some(conn) = self.current {
            self.received(conn, bytes);
        }
    }

    fn received(&mut self, conn: ConnId, bytes: Vec<u8>) {
        self.input(Input::Received { conn, bytes: bytes.into() });
    }

    fn hang_up(&mut self, reason: CloseReason) {
        if let Some(conn) = self.current.take()
            && self.conns.remove(&conn).is_some()
        {
            self.input(Input::Closed { conn, reason });
        }
    }

    fn accepted_from_hostile(&mut self) {
        let conn = ConnId::Incoming(self.next);
        self.next += 1;
        self.current = Some(conn);
        self.accepted(conn, HOSTILE);
    }

    fn accepted(&mut self, conn: ConnId, from: Ipv4Addr) {
        self.conns.insert(conn, Conn::default());
        let (local, remote) = (SocketAddr::from((OURS, 179)), SocketAddr::from((from, 40_000)));
        self.input(Input::Accepted { conn, local, remote });
    }

    fn connect_ends(&mut self, well: bool) {
        let Some(conn) = self.wanted.pop() else { return };
        if !well {
            return self.input(Input::ConnectFailed { conn, reason: CloseReason::Refused });
        }
        self.conns.insert(conn, Conn::default());
        self.current = Some(conn);
        let (local, remote) = (SocketAddr::from((OURS, 40_000)), SocketAddr::from((HOSTILE, 179)));
        self.input(Input::Connected { conn, local, remote });
    }

    fn read_all(&mut self) {
        let waiting: Vec<(ConnId, usize)> =
            self.conns.iter_mut().map(|(conn, held)| (*conn, std::mem::take(&mut held.unsent))).collect();
        for (conn, bytes) in waiting.into_iter().filter(|(_, bytes)| *bytes > 0) {
            self.input(Input::Sent { conn, bytes });
        }
    }

    /// Lets time pass, timer by timer.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        let mut fired = 0;
        while let Some(at) = self.speaker.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.speaker.handle_timeout(self.now);
            self.drain();
            fired += 1;
            assert!(fired < 10_000, "timers that spin at {:?}", self.now);
        }
        self.now = end;
    }

    fn input(&mut self, input: Input) {
        self.speaker.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.speaker.poll_output() {
            outputs += 1;
            assert!(outputs < OUTPUTS, "outputs without end");
            match output {
                Output::Connect { conn, .. } => self.wanted.push(conn),
                Output::Send { conn, bytes } => self.send(conn, &bytes),
                Output::Close { conn } => self.close(conn),
                Output::TrackNexthop(nexthop) => {
                    let resolution = Resolution::Reachable { metric: 0 };
                    self.speaker.handle(self.now, Input::Nexthop { nexthop, resolution });
                }
                Output::Event(event) => assert!(!event.to_string().is_empty()),
                Output::Route(_)
                | Output::UntrackNexthop(_)
                | Output::RestartComplete
                | Output::Received { .. } => {}
            }
        }
    }

    fn send(&mut self, conn: ConnId, bytes: &Bytes) {
        let Some(held) = self.conns.get_mut(&conn) else {
            panic_on(&format!("bytes for {conn}, which does not exist"));
            return;
        };
        held.sent.allow_extended();
        held.sent.push(bytes);
        loop {
            let frame = held.sent.next_frame();
            assert!(frame.is_ok(), "a malformed message for {conn}: {frame:?}");
            let Ok(Some(frame)) = frame else { break };
            if frame.kind == MessageType::Update && conn == GOOD {
                let update = Update::decode(frame.body, &healthy_context(self.session.add_path));
                let clean = update.as_ref().is_ok_and(|update| update.problems.is_empty());
                assert!(clean, "a malformed UPDATE for the healthy peer: {update:?}");
            }
        }
        assert_eq!(held.sent.pending(), 0, "half a message for {conn}");
        if self.stuck && conn != GOOD {
            held.unsent += bytes.len();
            assert!(held.unsent < LIMIT + SLACK, "{} bytes wait for a peer that does not read", held.unsent);
        } else {
            self.speaker.handle(self.now, Input::Sent { conn, bytes: bytes.len() });
        }
    }

    fn close(&mut self, conn: ConnId) {
        assert!(conn != GOOD, "the healthy session was closed");
        self.conns.remove(&conn);
        self.wanted.retain(|other| *other != conn);
    }

    fn check(&self) {
        let healthy = self.speaker.peers().into_iter().find(|peer| peer.remote == IpAddr::V4(HEALTHY));
        let id = healthy.as_ref().map(|peer| peer.id);
        let healthy = healthy.map(|peer| (peer.session.is_some(), peer.flaps));
        assert_eq!(healthy, Some((true, 0)), "the healthy session");
        let held = prefix(0).map(|prefix| self.speaker.rib(Table::Loc, Select::Exact(prefix), 10));
        let held = held.is_some_and(|paths| paths.iter().any(|path| path.from == id));
        assert!(held, "the healthy peer's path is gone");
        assert!(self.conns.len() <= 3, "more connections than two for the hostile peer");
    }
}

/// `clippy` rightly dislikes `panic!` in code that runs; here failing is the purpose.
fn panic_on(what: &str) {
    assert!(what.is_empty(), "{what}");
}

/// How the healthy peer reads; it is told several paths where the hostile one may send several.
fn healthy_context(add_path: bool) -> DecodeContext {
    DecodeContext {
        internal: true,
        four_octet_as: true,
        families: Families::BOTH,
        add_path: Families { ipv4: add_path, ipv6: false },
        extended_next_hop: false,
    }
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend_from_slice(&((body.len() + 19) as u16).to_be_bytes());
    message.push(kind);
    message.extend_from_slice(body);
    message
}

/// 10.N.0.0/16.
fn prefix(number: u8) -> Option<Prefix> {
    Prefix::new(Ipv4Addr::new(10, number, 0, 0).into(), 16)
}

fn announce(
    number: u8,
    path_id: u32,
    from: Ipv4Addr,
    internal: bool,
    context: &EncodeContext,
    bytes: &mut Vec<u8>,
) {
    let mut attributes = Attributes::default();
    if internal {
        attributes.local_pref = Some(100);
    } else {
        attributes.as_path = attributes.as_path.prepended(Asn(EXTERNAL_AS), 1);
    }
    let nlri: Vec<Nlri> = prefix(number).map(|prefix| Nlri { prefix, path_id }).into_iter().collect();
    let written = encode_reach(&attributes, Family::Ipv4, NextHop::V4(from), &nlri, context, bytes);
    assert!(written.is_ok(), "one prefix fits");
}
