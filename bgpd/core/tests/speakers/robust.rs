//! Whatever a peer sends: no panic, and no harm to others (RFC 7606).

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use turnpike_bgp_core::config::{Config, Network, PolicyChoice, Start};
use turnpike_bgp_core::query::SessionState;
use turnpike_bgp_core::{ConnId, Event, Input, Output, Place, Resolution, Speaker, Time};
use turnpike_bgp_wire::*;

use crate::world::{addr, config, peer, prefix};

/// An internal peer and an external one, both of which only wait.
fn setup() -> Config {
    let mut config = config(9, 65001);
    for (host, asn) in [(0, 65001), (1, 65002)] {
        let mut peer = peer(host, asn);
        peer.transport.passive = true;
        peer.rr_client = host == 0;
        peer.families = Families::BOTH;
        peer.import = PolicyChoice::AcceptAll;
        peer.export = PolicyChoice::AcceptAll;
        config.peers.push(peer);
    }
    config.networks.push(Network::new(prefix("10.244.9.0/26")));
    config
}

struct Rig {
    speaker: Speaker,
    events: Vec<Event>,
    /// What a monitoring station is told.
    received: Vec<Vec<u8>>,
}

impl Rig {
    fn new() -> Self {
        let speaker = Speaker::new(setup(), Start::FRESH, Time::START).unwrap();
        let mut rig = Rig { speaker, events: Vec::new(), received: Vec::new() };
        rig.drain();
        rig
    }

    fn drain(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::TrackNexthop(nexthop) => {
                    let resolution = Resolution::Reachable { metric: 1 };
                    self.speaker.handle(Time::START, Input::Nexthop { nexthop, resolution });
                }
                Output::Event(event) => self.events.push(event),
                Output::Received { message, .. } => self.received.push(message.to_vec()),
                _ => {}
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.speaker.handle(Time::START, input);
        self.drain();
    }

    fn accept(&mut self, host: usize, number: u64) -> ConnId {
        let conn = ConnId::Incoming(number);
        let (local, remote) = (SocketAddr::new(addr(9), 179), SocketAddr::new(addr(host), 5000));
        self.input(Input::Accepted { conn, local, remote });
        conn
    }

    fn send(&mut self, conn: ConnId, bytes: Vec<u8>) {
        self.input(Input::Received { conn, bytes: bytes.into() });
    }

    fn establish(&mut self, host: usize, number: u64) -> ConnId {
        let conn = self.accept(host, number);
        self.send(conn, greeting(host));
        assert_eq!(self.state(host), SessionState::Established);
        conn
    }

    fn state(&self, host: usize) -> SessionState {
        self.speaker.peers()[host].state
    }
}

fn greeting(host: usize) -> Vec<u8> {
    let asn = Asn(65001 + host as u32);
    let capabilities = vec![
        Capability::Multiprotocol(Family::Ipv4.code()),
        Capability::Multiprotocol(Family::Ipv6.code()),
        Capability::RouteRefresh,
        Capability::EnhancedRouteRefresh,
        Capability::FourOctetAs(asn),
    ];
    let mut bytes = Vec::new();
    Open { asn, hold_time: 90, router_id: RouterId::from_u32(0x0a00_0001 + host as u32), capabilities }
        .encode(&mut bytes);
    encode_keepalive(&mut bytes);
    bytes
}

/// An UPDATE, its body given.
fn update(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend_from_slice(&(body.len() as u16 + 19).to_be_bytes());
    bytes.push(2);
    bytes.extend_from_slice(body);
    bytes
}

fn announcement(which: &str, local_pref: Option<u32>) -> Vec<u8> {
    let asn = if local_pref.is_some() { None } else { Some(Asn(65002)) };
    let attributes = Attributes { as_path: AsPath::sequence(asn), local_pref, ..Attributes::default() };
    let mut bytes = Vec::new();
    let next_hop = NextHop::V4("10.99.0.1".parse().unwrap());
    encode_reach(
        &attributes,
        Family::Ipv4,
        next_hop,
        &[prefix(which).into()],
        &EncodeContext::default(),
        &mut bytes,
    )
    .unwrap();
    bytes
}

#[test]
fn a_malformed_attribute_costs_its_prefix_and_not_the_session() {
    let mut rig = Rig::new();
    let good = rig.establish(0, 0);
    let bad = rig.establish(1, 1);
    rig.send(good, announcement("10.1.0.0/16", Some(100)));
    rig.send(bad, announcement("10.2.0.0/16", None));
    assert_eq!(rig.speaker.view().prefixes.ipv4, 3);
    // The same prefix once more, with an ORIGIN that has no meaning (RFC 7606 §7.1).
    let mut again = announcement("10.2.0.0/16", None);
    let origin = again.windows(4).position(|window| window == [0x40, 1, 1, 0]).unwrap();
    again[origin + 3] = 9;
    rig.send(bad, again);
    assert_eq!(rig.state(1), SessionState::Established);
    assert_eq!(rig.speaker.view().prefixes.ipv4, 2, "treat-as-withdraw");
    let told = rig.events.iter().find(|event| matches!(event, Event::MalformedUpdate { .. })).unwrap();
    assert_eq!(
        told.to_string(),
        "peer h1: malformed UPDATE: ORIGIN value 9 has no meaning: treat-as-withdraw"
    );
    // A prefix that cannot be located ends this session, and no other (RFC 7606 §5.3).
    rig.send(bad, update(&[0, 0, 0, 0, 77, 1, 2]));
    assert_eq!((rig.state(0), rig.state(1)), (SessionState::Established, SessionState::Idle));
    assert!(rig.speaker.peers()[1].last_notification.as_ref().unwrap().contains("Invalid Network Field"));
    assert_eq!(rig.speaker.view().prefixes.ipv4, 2);
}

#[test]
fn a_station_is_told_updates_as_they_came_and_damaged_ones_as_they_were_taken() {
    let mut rig = Rig::new();
    let conn = rig.establish(1, 0);
    let first = announcement("10.1.0.0/16", None);
    rig.send(conn, first.clone());
    assert_eq!(rig.received, Vec::<Vec<u8>>::new(), "nobody has asked");
    rig.input(Input::Monitor(true));
    let second = announcement("10.2.0.0/16", None);
    rig.send(conn, second.clone());
    assert_eq!(rig.received, std::slice::from_ref(&second));
    let mut damaged = second;
    let origin = damaged.windows(4).position(|window| window == [0x40, 1, 1, 0]).unwrap();
    damaged[origin + 3] = 9;
    rig.send(conn, damaged);
    let mut withdrawal = Vec::new();
    encode_unreach(Family::Ipv4, &[prefix("10.2.0.0/16").into()], &EncodeContext::default(), &mut withdrawal);
    assert_eq!(rig.received[1..], [withdrawal], "treated as withdrawn");
    let session = rig.speaker.monitored(rig.speaker.peers()[1].id).unwrap();
    assert!(greeting(1).starts_with(&session.opens.1), "the peer's OPEN");
    assert_eq!(session.opens.0[18], 1, "ours");
}

#[test]
fn a_walk_sees_what_every_peer_has_announced_in_pieces_of_any_size() {
    let mut rig = Rig::new();
    let (first, second) = (rig.establish(0, 0), rig.establish(1, 1));
    for number in 0..50 {
        rig.send(first, announcement(&format!("10.{number}.0.0/16"), Some(100)));
        if number % 2 == 0 {
            rig.send(second, announcement(&format!("10.{number}.0.0/16"), None));
        }
    }
    for piece in [1, 7, 1000] {
        let mut found = Vec::new();
        let mut place = Some(Place::default());
        while let Some(at) = place {
            let (walked, next) = rig.speaker.walk(at, piece);
            assert!(walked.len() <= piece);
            found.extend(walked);
            place = next;
        }
        let mut prefixes: Vec<Prefix> = found.iter().map(|walked| walked.prefix).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        assert_eq!((found.len(), prefixes.len()), (50, 50), "our own network is nobody's announcement");
        assert_eq!(found.iter().map(|walked| walked.paths.len()).sum::<usize>(), 75);
        assert!(found.iter().flat_map(|walked| &walked.paths).all(|path| !path.stale));
    }
}

#[test]
fn after_an_error_the_peer_rests_and_each_error_makes_it_longer() {
    let mut rig = Rig::new();
    let mut rests = Vec::new();
    let mut now = Time::START;
    for number in 0..4 {
        let conn = ConnId::Incoming(number);
        let (local, remote) = (SocketAddr::new(addr(9), 179), SocketAddr::new(addr(1), 5000));
        rig.speaker.handle(now, Input::Accepted { conn, local, remote });
        rig.speaker.handle(now, Input::Received { conn, bytes: bytes::Bytes::from_static(&[0; 19]) });
        rig.drain();
        assert_eq!(rig.state(1), SessionState::Idle);
        let until = rig.speaker.poll_timeout().into_iter().find(|at| *at > now).unwrap();
        rests.push(until.since(now).as_secs());
        now = now + until.since(now);
        while rig.state(1) == SessionState::Idle {
            now = rig.speaker.poll_timeout().unwrap();
            rig.speaker.handle_timeout(now);
            rig.drain();
        }
    }
    assert!(rests.is_sorted() && rests[3] > rests[0] * 3, "{rests:?}");
}

proptest! {
    #[test]
    fn random_bytes_end_at_most_the_session_that_sent_them(
        noise in vec(any::<u8>(), 0..200),
        greeted in any::<bool>(),
        slice in 1..40_usize,
    ) {
        let mut rig = Rig::new();
        let good = rig.establish(0, 0);
        rig.send(good, announcement("10.1.0.0/16", Some(100)));
        let conn = rig.accept(1, 1);
        if greeted {
            rig.send(conn, greeting(1));
        }
        for chunk in noise.chunks(slice) {
            rig.send(conn, chunk.to_vec());
        }
        prop_assert_eq!(rig.state(0), SessionState::Established);
        prop_assert_eq!(rig.speaker.view().prefixes.ipv4, 2);
    }

    #[test]
    fn random_updates_end_at_most_the_session_that_sent_them(
        bodies in vec((0..4_usize, vec(any::<u8>(), 0..60)), 1..6),
        origin in any::<prop::sample::Index>(),
    ) {
        let mut rig = Rig::new();
        let good = rig.establish(0, 0);
        rig.send(good, announcement("10.1.0.0/16", Some(100)));
        let conn = rig.establish(1, 1);
        for (kind, body) in bodies {
            // Noise as it is, noise as attributes, noise inside a good UPDATE, noise as prefixes.
            let message = match kind {
                0 => update(&[&[0, 0, 0, 0], &body[..]].concat()),
                1 => update(&[&[0, 0, 0, body.len() as u8], &body[..], &[16, 10, 7]].concat()),
                2 => {
                    let mut message = announcement("10.2.0.0/16", None);
                    for byte in body {
                        let at = 19 + origin.index(message.len() - 19);
                        message[at] = byte;
                    }
                    message
                }
                _ => update(&[&[0, body.len() as u8], &body[..], &[0, 0]].concat()),
            };
            rig.send(conn, message);
        }
        prop_assert_eq!(rig.state(0), SessionState::Established);
        prop_assert!(rig.speaker.rib(
            turnpike_bgp_core::query::Table::Loc,
            turnpike_bgp_core::query::Select::Exact(prefix("10.1.0.0/16")),
            10,
        ).iter().any(|path| path.from.is_some_and(|from| from.0 == 0)));
    }
}
