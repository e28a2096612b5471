use std::net::IpAddr;

use super::*;

const OWNER: &str = "turnpike-bgpd";

fn at(ms: u64) -> Time {
    Time::from_start(Duration::from_millis(ms))
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn spec(peer: &str) -> BfdSpec {
    let key = BfdKey { peer: address(peer), local: None, interface: None, multihop: false };
    BfdSpec { key, name: peer.to_owned(), min_tx_us: 300_000, min_rx_us: 300_000, multiplier: 3 }
}

fn arrival(peer: &str) -> Arrival {
    Arrival { peer: address(peer), local: address("10.0.0.1"), ifindex: 2, ttl: 255, multihop: false }
}

fn index(name: &str) -> Option<u32> {
    match name {
        "eth0" => Some(2),
        "eth1" => Some(3),
        _ => None,
    }
}

fn table() -> Table {
    Table::new(Duration::from_secs(60), 1)
}

/// What a peer's own session says to each of our packets.
fn converse(table: &mut Table, now: Time, peer: &mut Session, from: &str) {
    for _ in 0..8 {
        let mut said = Vec::new();
        while let Some((discr, packet)) = table.next_packet() {
            if table.way(discr).unwrap().0.peer == address(from) {
                peer.receive(now, &packet);
            }
        }
        while let Some(packet) = peer.poll_transmit(now, 7) {
            said.push(packet);
        }
        for packet in said {
            table.receive(now, arrival(from), &packet.encode(), &index).unwrap();
        }
    }
}

fn peer_session() -> Session {
    let params = Params {
        desired_min_tx: Duration::from_millis(300),
        required_min_rx: Duration::from_millis(300),
        detect_mult: 3,
    };
    Session::new(Discriminator::new(77).unwrap(), params)
}

/// A table with one session that is Up, and its peer.
fn up() -> (Table, Session) {
    let mut table = table();
    table.declare(at(0), 1, OWNER, vec![spec("10.0.0.2")], &[]).unwrap();
    let mut peer = peer_session();
    converse(&mut table, at(1), &mut peer, "10.0.0.2");
    assert_eq!(table.show(at(1))[0].state.to_string(), "Up");
    while table.next_news().is_some() {}
    (table, peer)
}

#[test]
fn an_owner_hears_of_each_change_and_of_nobody_elses() {
    let mut table = table();
    let now = table.declare(at(0), 1, OWNER, vec![spec("10.0.0.2")], &[]).unwrap();
    assert_eq!(now.len(), 1);
    table.declare(at(0), 2, "other", vec![spec("10.0.0.3")], &[]).unwrap();
    converse(&mut table, at(1), &mut peer_session(), "10.0.0.2");
    let mut told = Vec::new();
    while let Some((caller, view)) = table.next_news() {
        told.push((caller, view.state.to_string()));
    }
    assert_eq!(told, [(1, "Up".to_owned())]);
}

#[test]
fn a_declared_session_goes_on_when_its_owner_comes_back() {
    let (mut table, _) = up();
    let before = table.show(at(1))[0].clone();
    table.forget(at(2), 1);
    assert_eq!(table.show(at(3))[0].orphaned_for, Some(59));
    let after = table.declare(at(4), 9, OWNER, vec![spec("10.0.0.2")], &[]).unwrap();
    assert_eq!((after[0].orphaned_for, after[0].state), (None, before.state));
    assert_eq!(after[0].local_discriminator, before.local_discriminator);
    assert_eq!((after[0].downs, table.next_packet()), (0, None));
}

#[test]
fn an_owner_that_does_not_know_yet_keeps_what_it_had_and_lets_go_of_what_it_wants_no_more() {
    let (mut table, _) = up();
    let before = table.show(at(1))[0].clone();
    table.forget(at(2), 1);
    let range: Prefix = "10.0.0.0/29".parse().unwrap();
    let other: Prefix = "10.0.1.0/29".parse().unwrap();
    table.declare(at(3), 2, OWNER, Vec::new(), &[other, range]).unwrap();
    assert_eq!(table.show(at(3))[0].local_discriminator, before.local_discriminator);
    // Its peer has come back, and gone again: from then on nothing is kept of it.
    table.declare(at(4), 2, OWNER, vec![spec("10.0.0.2")], &[range]).unwrap();
    assert_eq!((table.show(at(4)).len(), table.show(at(4))[0].downs), (1, 0));
    table.declare(at(5), 2, OWNER, Vec::new(), &[range]).unwrap();
    assert!(table.show(at(5)).is_empty());
}

#[test]
fn without_an_owner_a_session_ends_with_admin_down_after_the_orphan_time() {
    let (mut table, mut peer) = up();
    table.forget(at(2), 1);
    let mut now = 2;
    // The peer goes on sending; nothing else happens.
    while now < 59_800 {
        now += 200;
        table.handle_timeouts(at(now));
        converse(&mut table, at(now), &mut peer, "10.0.0.2");
    }
    assert_eq!(table.show(at(now))[0].state.to_string(), "Up");
    table.handle_timeouts(at(60_002));
    let last = std::iter::from_fn(|| table.next_packet()).last().unwrap().1;
    assert_eq!(last.state, State::AdminDown);
    assert!(table.show(at(60_002)).is_empty() && !table.is_empty(), "it still says AdminDown");
    table.handle_timeouts(at(72_000));
    assert!(table.is_empty() && table.next_gone().is_some());
    assert_eq!(table.poll_timeout(), None);
}

#[test]
fn a_session_that_is_wanted_again_while_it_leaves_begins_anew() {
    let (mut table, mut peer) = up();
    table.declare(at(10), 1, OWNER, Vec::new(), &[]).unwrap();
    let leaving = std::iter::from_fn(|| table.next_packet()).last().unwrap().1;
    assert_eq!(leaving.state, State::AdminDown);
    peer.receive(at(11), &leaving);
    assert_eq!((peer.state(), peer.remote_state()), (State::Down, State::AdminDown));
    let again = table.declare(at(12), 1, OWNER, vec![spec("10.0.0.2")], &[]).unwrap();
    assert_eq!(again[0].local_discriminator, leaving.my_discriminator.get());
    converse(&mut table, at(13), &mut peer, "10.0.0.2");
    assert_eq!(table.show(at(13))[0].state.to_string(), "Up");
}

#[test]
fn packets_find_their_session_or_are_dropped() {
    let mut table = table();
    let on_link = |interface: &str| {
        let mut one = spec("fe80::2");
        one.key.interface = Some(interface.to_owned());
        one
    };
    let mut far = spec("10.0.0.2");
    far.key.multihop = true;
    let specs = vec![spec("10.0.0.2"), far, on_link("eth0"), on_link("eth1")];
    table.declare(at(0), 1, OWNER, specs, &[]).unwrap();
    let hello = peer_session().poll_transmit(at(1), 0).unwrap().encode();
    let heard =
        |table: &Table| -> Vec<u64> { table.show(at(1)).iter().map(|view| view.packets_in).collect() };

    let mut receive = |arrival: Arrival| table.receive(at(1), arrival, &hello, &index);
    // RFC 5881 §5: a packet that crossed a router is not from the link; RFC 5883 has no such rule.
    assert_eq!(receive(Arrival { ttl: 254, ..arrival("10.0.0.2") }), Err(Refused::Ttl(254)));
    assert_eq!(receive(arrival("10.0.0.9")), Err(Refused::NoSession));
    assert_eq!(receive(Arrival { ttl: 60, multihop: true, ..arrival("10.0.0.2") }), Ok(()));
    assert_eq!(receive(Arrival { ifindex: 3, ..arrival("fe80::2") }), Ok(()));
    assert_eq!(receive(Arrival { ifindex: 4, ..arrival("fe80::2") }), Err(Refused::NoSession));
    assert_eq!(heard(&table), [0, 1, 0, 1]);

    // A discriminator alone does not open a session to others than its peer.
    let discr = Discriminator::new(table.show(at(1))[0].local_discriminator);
    let mut forged = Packet::decode(&hello).unwrap();
    forged.your_discriminator = discr;
    let bytes = forged.encode();
    assert_eq!(table.receive(at(1), arrival("10.0.0.9"), &bytes, &index), Err(Refused::NoSession));
    assert_eq!(table.receive(at(1), arrival("10.0.0.2"), &bytes, &index), Ok(()));
}

#[test]
fn one_session_belongs_to_one_owner() {
    let mut table = table();
    table.declare(at(0), 1, OWNER, vec![spec("10.0.0.2")], &[]).unwrap();
    let refused = table.declare(at(0), 2, "other", vec![spec("10.0.0.2")], &[]).unwrap_err();
    assert_eq!(refused.message, "10.0.0.2: turnpike-bgpd has this session");
    let twice = table.declare(at(0), 1, OWNER, vec![spec("10.0.0.2"), spec("10.0.0.2")], &[]).unwrap_err();
    assert_eq!(twice.message, "10.0.0.2: the same session twice");
}
