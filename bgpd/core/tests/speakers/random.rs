//! Whatever happens in whatever order: the outcome depends on the final state alone, and every peer has been told
//! exactly what the speaker believes it has been told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use turnpike_bgp_core::config::{
    AddPath, Aggregate, Config, ExportNextHop, Match, Network, Policy, PolicyChoice, PrefixRule, Rule,
    SendPaths, Start, Verdict,
};
use turnpike_bgp_core::query::{PathView, Select, Table};
use turnpike_bgp_core::{ConnId, Input, Nexthop, Output, PeerId, Resolution, RouteChange, Speaker, Time};
use turnpike_bgp_wire::*;

use crate::world::{addr, config, peer, prefix};

const PEERS: usize = 4;
const PREFIXES: usize = 6;
const SENDS_SEVERAL: [bool; PEERS] = [true, false, true, false];
const TOLD_SEVERAL: [bool; PEERS] = [false, true, true, false];

/// Peers 0 and 1 are clients, 2 is internal but none, 3 is external. We take several paths (RFC 7911) from 0 and 2, and
/// give several to 1 and 2.
fn setup() -> Config {
    let mut config = config(9, 65001);
    config.unsent_limit = 1;
    for host in 0..PEERS {
        let mut peer = peer(host, if host == 3 { 65002 } else { 65001 });
        peer.transport.passive = true;
        peer.rr_client = host < 2;
        peer.import = PolicyChoice::AcceptAll;
        peer.export = PolicyChoice::AcceptAll;
        peer.hold_time = Duration::ZERO;
        peer.add_path.ipv4 = AddPath {
            receive: SENDS_SEVERAL[host],
            send: if TOLD_SEVERAL[host] { SendPaths::All } else { SendPaths::Best },
        };
        config.peers.push(peer);
    }
    config
}

fn target(index: usize) -> Prefix {
    prefix(&format!("10.{index}.0.0/16"))
}

/// What a remote side has been told, from the bytes it received.
#[derive(Default)]
struct Remote {
    conn: Option<ConnId>,
    framer: Framer,
    told: BTreeMap<(Prefix, u32), (Attributes, NextHop)>,
    /// Sent to it but not reported as sent.
    unread: usize,
    slow: bool,
}

impl Remote {
    /// What it was told, without the identifiers: which path has which depends on history.
    fn knows(&self) -> BTreeMap<Prefix, Vec<String>> {
        let mut knows: BTreeMap<Prefix, Vec<String>> = BTreeMap::new();
        for ((prefix, _), path) in &self.told {
            knows.entry(*prefix).or_default().push(format!("{path:?}"));
        }
        knows.values_mut().for_each(|paths| paths.sort());
        knows
    }
}

struct Rig {
    speaker: Speaker,
    remotes: Vec<Remote>,
    kernel: BTreeMap<Prefix, Arc<[Nexthop]>>,
    unreachable: BTreeSet<IpAddr>,
    next_conn: u64,
}

#[derive(PartialEq, Debug)]
struct Outcome {
    loc: Vec<PathView>,
    out: Vec<Vec<PathView>>,
    kernel: Vec<(Prefix, Vec<Nexthop>)>,
}

#[derive(Clone, Debug)]
enum Event {
    Announce {
        peer: usize,
        target: usize,
        id: u32,
        pref: u32,
        hops: u32,
        via: usize,
    },
    Withdraw {
        peer: usize,
        target: usize,
        id: u32,
    },
    Flap {
        peer: usize,
    },
    Reachable {
        via: usize,
        yes: bool,
    },
    Network {
        target: usize,
        present: bool,
    },
    /// An aggregate around the first four prefixes, or one around that and all of them.
    Aggregate {
        around: bool,
        kind: Option<bool>,
    },
    Policy {
        filtered: Option<usize>,
    },
    Client {
        peer: usize,
        yes: bool,
    },
    NextHopSelf {
        peer: usize,
        yes: bool,
    },
    /// How many paths the peers that are told several are told.
    Several {
        peer: usize,
        send: SendPaths,
    },
    Slow {
        peer: usize,
        yes: bool,
    },
    Refresh {
        peer: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let announce = (0..PEERS, 0..PREFIXES, 1..4_u32, 100..102_u32, 1..3_u32, 0..3_usize).prop_map(
        |(peer, target, id, pref, hops, via)| Event::Announce {
            peer,
            target,
            id: own_id(peer, id),
            pref,
            hops,
            via,
        },
    );
    let withdraw = (0..PEERS, 0..PREFIXES, 1..4_u32).prop_map(|(peer, target, id)| Event::Withdraw {
        peer,
        target,
        id: own_id(peer, id),
    });
    let send = prop_oneof![Just(SendPaths::All), Just(SendPaths::Most(1)), Just(SendPaths::Most(2))];
    prop_oneof![
        8 => announce,
        4 => withdraw,
        1 => (0..PEERS).prop_map(|peer| Event::Flap { peer }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(via, yes)| Event::Reachable { via, yes }),
        1 => (0..PREFIXES, any::<bool>()).prop_map(|(target, present)| Event::Network { target, present }),
        1 => (any::<bool>(), any::<Option<bool>>()).prop_map(|(around, kind)| Event::Aggregate { around, kind }),
        1 => prop::option::of(0..PREFIXES).prop_map(|filtered| Event::Policy { filtered }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(peer, yes)| Event::Client { peer, yes }),
        1 => (0..PEERS, any::<bool>()).prop_map(|(peer, yes)| Event::NextHopSelf { peer, yes }),
        1 => (1..3_usize, send).prop_map(|(peer, send)| Event::Several { peer, send }),
        1 => (0..PEERS, any::<bool>()).prop_map(|(peer, yes)| Event::Slow { peer, yes }),
        1 => (0..PEERS).prop_map(|peer| Event::Refresh { peer }),
    ]
}

fn via(index: usize) -> IpAddr {
    format!("10.99.0.{}", index + 1).parse().unwrap()
}

/// The identifier of a peer's path; only with add-path there is one.
fn own_id(peer: usize, id: u32) -> u32 {
    if SENDS_SEVERAL[peer] { id } else { 0 }
}

/// How a peer writes and reads.
fn contexts(peer: usize) -> (EncodeContext, DecodeContext) {
    let encode = EncodeContext { add_path_ipv4: SENDS_SEVERAL[peer], ..EncodeContext::default() };
    let decode = DecodeContext {
        internal: true,
        four_octet_as: true,
        families: Families { ipv4: true, ipv6: false },
        add_path: Families { ipv4: TOLD_SEVERAL[peer], ipv6: false },
        extended_next_hop: false,
    };
    (encode, decode)
}

impl Rig {
    fn new(config: Config) -> Self {
        let speaker = Speaker::new(config, Start::FRESH, Time::START).unwrap();
        let remotes = (0..PEERS).map(|_| Remote::default()).collect();
        let mut rig =
            Rig { speaker, remotes, kernel: BTreeMap::new(), unreachable: BTreeSet::new(), next_conn: 0 };
        rig.drain();
        (0..PEERS).for_each(|peer| rig.connect(peer));
        rig
    }

    fn input(&mut self, input: Input) {
        self.speaker.handle(Time::START, input);
        self.drain();
    }

    fn connect(&mut self, peer: usize) {
        let conn = ConnId::Incoming(self.next_conn);
        self.next_conn += 1;
        self.remotes[peer] = Remote { conn: Some(conn), ..Remote::default() };
        let (local, remote) = (SocketAddr::new(addr(9), 179), SocketAddr::new(addr(peer), 5000));
        self.input(Input::Accepted { conn, local, remote });
        let asn = Asn(if peer == 3 { 65002 } else { 65001 });
        let router_id = RouterId::from_u32(0x0a00_0001 + peer as u32);
        let mode = match (SENDS_SEVERAL[peer], TOLD_SEVERAL[peer]) {
            (true, true) => AddPathMode::Both,
            (true, false) => AddPathMode::Send,
            (false, _) => AddPathMode::Receive,
        };
        let capabilities = vec![
            Capability::AddPath(vec![(Family::Ipv4.code(), mode)]),
            Capability::Multiprotocol(Family::Ipv4.code()),
            Capability::RouteRefresh,
            Capability::FourOctetAs(asn),
        ];
        let mut bytes = Vec::new();
        Open { asn, hold_time: 0, router_id, capabilities }.encode(&mut bytes);
        encode_keepalive(&mut bytes);
        self.input(Input::Received { conn, bytes: bytes.into() });
    }

    fn drain(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Send { conn, bytes } => self.receive(conn, &bytes),
                Output::Route(RouteChange::Install { prefix, nexthops }) => {
                    self.kernel.insert(prefix, nexthops);
                }
                Output::Route(RouteChange::Discard { prefix }) => {
                    self.kernel.insert(prefix, Arc::new([]));
                }
                Output::Route(RouteChange::Remove { prefix }) => {
                    assert!(self.kernel.remove(&prefix).is_some(), "{prefix} was not there");
                }
                Output::TrackNexthop(nexthop) => self.report(nexthop),
                _ => {}
            }
        }
    }

    fn report(&mut self, nexthop: Nexthop) {
        let resolution = match self.unreachable.contains(&nexthop.addr) {
            true => Resolution::Unreachable,
            false => Resolution::Reachable { metric: 0 },
        };
        self.speaker.handle(Time::START, Input::Nexthop { nexthop, resolution });
    }

    fn receive(&mut self, conn: ConnId, bytes: &Bytes) {
        let mut remotes = self.remotes.iter_mut().enumerate();
        let Some((peer, remote)) = remotes.find(|(_, remote)| remote.conn == Some(conn)) else { return };
        remote.framer.push(bytes);
        while let Some(frame) = remote.framer.next_frame().unwrap() {
            if frame.kind != MessageType::Update {
                continue;
            }
            let update = Update::decode(frame.body, &contexts(peer).1).unwrap();
            assert!(update.problems.is_empty(), "{update:?}");
            for nlri in &update.unreach {
                remote.told.remove(&(nlri.prefix, nlri.path_id));
            }
            for reach in &update.reach {
                for nlri in &reach.nlri {
                    let path = (update.attributes.clone(), reach.next_hop);
                    remote.told.insert((nlri.prefix, nlri.path_id), path);
                }
            }
        }
        match remote.slow {
            true => remote.unread += bytes.len(),
            false => self.speaker.handle(Time::START, Input::Sent { conn, bytes: bytes.len() }),
        }
    }

    fn send(&mut self, peer: usize, bytes: Vec<u8>) {
        let conn = self.remotes[peer].conn.unwrap();
        self.input(Input::Received { conn, bytes: bytes.into() });
    }

    fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = self.speaker.config().clone();
        change(&mut config);
        self.input(Input::Configure(Box::new(config)));
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Announce { peer, target: index, id, pref, hops, via: hop } => {
                let bytes = announcement(peer, index, id, pref, hops, hop);
                self.send(peer, bytes);
            }
            Event::Withdraw { peer, target: index, id } => {
                let mut bytes = Vec::new();
                let nlri = [Nlri { prefix: target(index), path_id: id }];
                encode_unreach(Family::Ipv4, &nlri, &contexts(peer).0, &mut bytes);
                self.send(peer, bytes);
            }
            Event::Flap { peer } => {
                let conn = self.remotes[peer].conn.unwrap();
                self.input(Input::Closed { conn, reason: turnpike_bgp_core::CloseReason::Eof });
                self.connect(peer);
            }
            Event::Reachable { via: hop, yes } => {
                if yes {
                    self.unreachable.remove(&via(hop))
                } else {
                    self.unreachable.insert(via(hop))
                };
                self.report(Nexthop::global(via(hop)));
                self.drain();
            }
            Event::Network { target: index, present } => self.configure(|config| {
                config.networks.retain(|network| network.prefix != target(index));
                config.networks.extend(present.then(|| Network::new(target(index))));
            }),
            Event::Aggregate { around, kind } => self.configure(|config| set_aggregate(config, around, kind)),
            Event::Policy { filtered } => self.configure(|config| set_policy(config, filtered)),
            Event::Client { peer, yes } => self.configure(|config| config.peers[peer].rr_client = yes),
            Event::NextHopSelf { peer, yes } => self.configure(|config| {
                config.peers[peer].next_hop =
                    if yes { ExportNextHop::SelfAlways } else { ExportNextHop::Auto };
            }),
            Event::Several { peer, send } => {
                self.configure(|config| config.peers[peer].add_path.ipv4.send = send);
            }
            Event::Slow { peer, yes } => self.set_slow(peer, yes),
            Event::Refresh { peer } => {
                let mut bytes = Vec::new();
                RouteRefresh { family: Family::Ipv4.code(), kind: RouteRefreshKind::Request }
                    .encode(&mut bytes);
                self.send(peer, bytes);
            }
        }
    }

    /// A slow peer has no room after the first message.
    fn set_slow(&mut self, peer: usize, yes: bool) {
        let remote = &mut self.remotes[peer];
        remote.slow = yes;
        if !yes {
            let bytes = std::mem::take(&mut remote.unread);
            let conn = remote.conn.unwrap();
            self.input(Input::Sent { conn, bytes });
        }
    }

    fn out(&self, peer: usize) -> Vec<PathView> {
        self.speaker.rib(Table::Out(PeerId(peer as u32)), Select::Family(Family::Ipv4), 1000)
    }

    /// The parts of the state that must not depend on history.
    fn outcome(&self) -> Outcome {
        let mut loc = self.speaker.rib(Table::Loc, Select::Family(Family::Ipv4), 1000);
        loc.sort_by_key(|path| (path.prefix, path.from, path.path_id));
        let kernel = self.kernel.iter().map(|(prefix, nexthops)| (*prefix, nexthops.to_vec())).collect();
        let out = |peer| {
            let mut out = self.out(peer);
            out.iter_mut().for_each(|path| path.path_id = 0);
            out.sort_by_key(|path| (path.prefix, format!("{path:?}")));
            out
        };
        Outcome { loc, out: (0..PEERS).map(out).collect(), kernel }
    }
}

/// `kind`: whether it is a summary; `None`: there is no such aggregate.
fn set_aggregate(config: &mut Config, around: bool, kind: Option<bool>) {
    let prefix = if around { prefix("10.0.0.0/14") } else { prefix("10.0.0.0/13") };
    config.aggregates.retain(|aggregate| aggregate.network.prefix != prefix);
    let new = |summary_only| Aggregate { network: Network::new(prefix), summary_only };
    config.aggregates.extend(kind.map(new));
}

fn set_policy(config: &mut Config, filtered: Option<usize>) {
    let rules = filtered.map(|index| Rule {
        when: Match { prefixes: vec![PrefixRule::exact(target(index))], ..Match::default() },
        verdict: Some(Verdict::Reject),
        ..Rule::default()
    });
    let policy = Policy { rules: rules.into_iter().collect(), default: Verdict::Accept };
    config.policies.insert("p".into(), policy);
    config.peers[1].import = PolicyChoice::Named("p".into());
    config.peers[2].export = PolicyChoice::Named("p".into());
}

fn announcement(peer: usize, index: usize, id: u32, pref: u32, hops: u32, hop: usize) -> Vec<u8> {
    let first = if peer == 3 { 65002 } else { 65010 };
    let attributes = Attributes {
        as_path: AsPath::sequence((0..hops).map(|step| Asn(first + step))),
        local_pref: (peer != 3).then_some(pref),
        origin: if hops > 1 { Origin::Incomplete } else { Origin::Igp },
        ..Attributes::default()
    };
    let mut bytes = Vec::new();
    let next_hop = NextHop::from(via(hop));
    let nlri = [Nlri { prefix: target(index), path_id: id }];
    encode_reach(&attributes, Family::Ipv4, next_hop, &nlri, &contexts(peer).0, &mut bytes).unwrap();
    bytes
}

/// The state that a history leads to, reached on the shortest way.
fn replay(history: &[Event]) -> Rig {
    let mut held: BTreeMap<(usize, usize, u32), &Event> = BTreeMap::new();
    let mut config = setup();
    let mut unreachable = BTreeSet::new();
    for event in history {
        match event {
            Event::Announce { peer, target, id, .. } => {
                held.insert((*peer, *target, *id), event);
            }
            Event::Withdraw { peer, target, id } => {
                held.remove(&(*peer, *target, *id));
            }
            Event::Flap { peer } => held.retain(|(from, _, _), _| from != peer),
            Event::Reachable { via: hop, yes: true } => {
                unreachable.remove(&via(*hop));
            }
            Event::Reachable { via: hop, yes: false } => {
                unreachable.insert(via(*hop));
            }
            Event::Network { target: index, present } => {
                config.networks.retain(|network| network.prefix != target(*index));
                config.networks.extend(present.then(|| Network::new(target(*index))));
            }
            Event::Aggregate { around, kind } => set_aggregate(&mut config, *around, *kind),
            Event::Policy { filtered } => set_policy(&mut config, *filtered),
            Event::Client { peer, yes } => config.peers[*peer].rr_client = *yes,
            Event::NextHopSelf { peer, yes } => {
                config.peers[*peer].next_hop =
                    if *yes { ExportNextHop::SelfAlways } else { ExportNextHop::Auto };
            }
            Event::Several { peer, send } => config.peers[*peer].add_path.ipv4.send = *send,
            Event::Slow { .. } | Event::Refresh { .. } => {}
        }
    }
    let mut rig = Rig::new(config);
    rig.unreachable = unreachable;
    held.into_values().for_each(|event| rig.happen(event));
    rig
}

proptest! {

    #[test]
    fn the_outcome_does_not_depend_on_history(history in vec(event(), 1..60)) {
        let mut rig = Rig::new(setup());
        for event in &history {
            rig.happen(event);
        }
        (0..PEERS).for_each(|peer| rig.set_slow(peer, false));
        let full = replay(&history);
        prop_assert_eq!(rig.outcome(), full.outcome());
        for peer in 0..PEERS {
            let told = &rig.remotes[peer].told;
            prop_assert_eq!(rig.remotes[peer].knows(), full.remotes[peer].knows(), "peer {}", peer);
            let believed: Vec<(Prefix, u32)> =
                rig.out(peer).iter().map(|path| (path.prefix, path.path_id)).collect();
            prop_assert!(told.keys().copied().eq(believed), "peer {}", peer);
        }
    }
}
