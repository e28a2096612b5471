//! RFC 4271 §8: sessions come up, stay up and end as they should.

use std::time::Duration;

use turnpike_bgp_core::config::{Network, PeerConfig, PolicyChoice, RemoteAs};
use turnpike_bgp_core::query::SessionState;
use turnpike_bgp_core::{CloseReason, ConnId, Event, Input, Shutdown};
use turnpike_bgp_wire::{Asn, Cause, Cease, MessageType, Notification};

use crate::world::{World, addr, config, peer, prefix};

fn pair() -> World {
    let mut one = config(0, 65001);
    one.peers.push(peer(1, 65001));
    let mut other = config(1, 65001);
    other.peers.push(peer(0, 65001));
    World::new([one, other])
}

fn notifications(world: &World, from: usize, to: usize) -> Vec<Cause> {
    let wanted = |seen: &&crate::world::Seen| {
        seen.from == from && seen.to == to && seen.kind == MessageType::Notification
    };
    world.seen.iter().filter(wanted).map(|seen| Notification::decode(&seen.body).unwrap().cause).collect()
}

#[test]
fn two_that_connect_at_the_same_moment_end_with_one_session() {
    // RFC 4271 §6.8: the connection of the higher identifier stays.
    let mut world = pair();
    world.all_up(&[(0, 1)]);
    world.run(Duration::from_secs(60));
    assert!(world.is_up(0, 1) && world.is_up(1, 0));
    assert_eq!((world.peer_of(0, 1).flaps, world.peer_of(1, 0).flaps), (0, 0));
    let ceased = notifications(&world, 0, 1).into_iter().chain(notifications(&world, 1, 0));
    assert!(ceased.clone().all(|cause| cause == Cause::Cease(Cease::ConnectionCollision)), "{ceased:?}");
    let session = world.peer_of(0, 1).session.unwrap();
    assert_eq!(session.remote.port(), 40000, "host 1 has the higher identifier and connected");
}

#[test]
fn keepalives_hold_an_idle_session_and_silence_ends_it() {
    let mut world = pair();
    world.all_up(&[(0, 1)]);
    world.run(Duration::from_secs(3600));
    assert_eq!(world.peer_of(0, 1).flaps, 0);
    world.cut.insert((0, 1));
    world.run(Duration::from_secs(91));
    assert!(!world.is_up(0, 1) && !world.is_up(1, 0));
    assert!(notifications(&world, 0, 1).contains(&Cause::HoldTimerExpired));
    world.cut.clear();
    world.all_up(&[(0, 1)]);
}

#[test]
fn the_smaller_hold_time_counts_and_zero_means_none() {
    let mut world = pair();
    world.configure(0, |config| config.peers[0].hold_time = Duration::from_secs(9));
    world.all_up(&[(0, 1)]);
    assert_eq!(world.peer_of(1, 0).session.unwrap().hold_time, Duration::from_secs(9));
    world.configure(0, |config| config.peers[0].hold_time = Duration::ZERO);
    world.until("the session is reset", |world| !world.is_up(0, 1));
    world.all_up(&[(0, 1)]);
    world.seen.clear();
    world.run(Duration::from_secs(3600));
    assert!(world.is_up(0, 1) && world.seen.is_empty(), "no keepalives without a hold time");
}

#[test]
fn a_passive_peer_waits_and_two_passive_ones_wait_for_ever() {
    let mut world = pair();
    world.configure(0, |config| config.peers[0].transport.passive = true);
    world.all_up(&[(0, 1)]);
    world.configure(1, |config| config.peers[0].transport.passive = true);
    world.run(Duration::from_secs(300));
    assert_eq!(world.peer_of(0, 1).state, SessionState::Active);
}

#[test]
fn the_wrong_as_is_refused_with_its_subcode() {
    let mut world = pair();
    world.configure(0, |config| config.peers[0].remote_as = Asn(65009).into());
    world.run(Duration::from_secs(20));
    let told = world.peer_of(0, 1).last_notification.unwrap();
    assert_eq!(told, "sent OPEN Message Error / Bad Peer AS");
    assert!(!world.is_up(0, 1));
}

#[test]
fn an_external_peer_may_have_any_as_but_ours() {
    let mut world = pair();
    world.configure(0, |config| config.peers[0].remote_as = RemoteAs::External);
    world.run(Duration::from_secs(20));
    // RFC 4271 §6.2: ours is no other.
    assert_eq!(world.peer_of(0, 1).last_notification.unwrap(), "sent OPEN Message Error / Bad Peer AS");
    assert_eq!((world.peer_of(0, 1).remote_as.0, world.peer_of(0, 1).internal), (0, false));

    for asn in [65002, 65003] {
        world.configure(1, |config| {
            config.asn = Asn(asn);
            config.networks = vec![Network::new(prefix("10.244.1.0/24"))];
            config.peers[0].export = PolicyChoice::AcceptAll;
        });
        world.configure(0, |config| config.peers[0].import = PolicyChoice::AcceptAll);
        world.until("the path", |world| {
            world.best(0, "10.244.1.0/24").is_some_and(|path| path.as_path == asn.to_string())
        });
        assert_eq!(world.peer_of(0, 1).remote_as.0, asn);
    }
}

#[test]
fn an_auto_peer_is_what_its_open_says() {
    let mut world = pair();
    world.configure(0, |config| config.peers[0].remote_as = RemoteAs::Auto);
    world.configure(1, |config| config.networks = vec![Network::new(prefix("10.244.1.0/24"))]);
    // RFC 4271 §5.1.5: LOCAL_PREF counts from an internal peer; one may have its paths without a policy.
    world.until("a path of an internal peer", |world| {
        world.best(0, "10.244.1.0/24").is_some_and(|path| path.as_path.is_empty())
    });
    assert_eq!((world.peer_of(0, 1).remote_as.0, world.peer_of(0, 1).internal), (65001, true));

    // The same peer moves into another AS. It says that it has restarted, and yet none of its paths may stay: what was
    // accepted from an internal peer is refused from an external one without a policy (RFC 8212).
    world.configure(1, |config| {
        config.asn = Asn(65002);
        config.peers[0].export = PolicyChoice::AcceptAll;
    });
    world.until("the session of an external peer", |world| {
        let peer = world.peer_of(0, 1);
        (peer.remote_as.0, peer.internal, peer.received.ipv4) == (65002, false, 1)
    });
    assert!(world.best(0, "10.244.1.0/24").is_none());

    world.configure(0, |config| config.peers[0].import = PolicyChoice::AcceptAll);
    world.until("its path", |world| {
        world.best(0, "10.244.1.0/24").is_some_and(|path| path.as_path == "65002")
    });
    assert!(world.is_up(0, 1), "a policy needs no new session");
}

#[test]
fn what_an_auto_peer_cannot_have_is_refused() {
    for forbid in [
        |peer: &mut PeerConfig| peer.rr_client = true,
        |peer: &mut PeerConfig| peer.role = Some(turnpike_bgp_wire::Role::Peer),
    ] {
        let mut world = pair();
        world.configure(0, |config| {
            config.peers[0].remote_as = RemoteAs::Auto;
            forbid(&mut config.peers[0]);
        });
        let refused = |event: &Event| matches!(event, Event::ConfigRefused { .. });
        assert!(world.hosts[0].events.iter().any(refused));
    }
}

#[test]
fn equal_identifiers_inside_an_as_are_refused() {
    // RFC 6286 §2.2.
    let mut world = pair();
    world.configure(1, |config| config.router_id = turnpike_bgp_wire::RouterId::from_u32(0x0a00_0001));
    world.until("a complaint", |world| world.peer_of(0, 1).last_notification.is_some());
    assert!(world.peer_of(0, 1).last_notification.unwrap().contains("Bad BGP Identifier"));
}

#[test]
fn an_administrative_shutdown_carries_its_text_and_keeps_the_session_down() {
    let mut world = pair();
    world.all_up(&[(0, 1)]);
    world.configure(0, |config| config.peers[0].shutdown = Some("rack move".into()));
    world.run(Duration::from_secs(120));
    assert_eq!(world.peer_of(0, 1).state, SessionState::Idle);
    let told = world.peer_of(1, 0).last_notification.unwrap();
    assert!(told.contains("Hard Reset") && told.contains("rack move"), "{told}");
    assert_eq!(world.peer_of(1, 0).stale_until, None, "RFC 8538: a hard reset keeps nothing");
    world.configure(0, |config| config.peers[0].shutdown = None);
    world.all_up(&[(0, 1)]);
}

#[test]
fn a_message_out_of_place_ends_the_connection() {
    // RFC 6608: UPDATE before the session is Established.
    let mut world = World::new([{
        let mut config = config(0, 65001);
        config.peers.push(peer(1, 65001));
        config.peers[0].transport.passive = true;
        config
    }]);
    let conn = ConnId::Incoming(7);
    let (local, remote) = ((addr(0), 179).into(), (addr(1), 5000).into());
    world.input(0, Input::Accepted { conn, local, remote });
    let mut bytes = Vec::new();
    turnpike_bgp_wire::encode_end_of_rib(turnpike_bgp_wire::Family::Ipv4, &mut bytes);
    world.input(0, Input::Received { conn, bytes: bytes.into() });
    let told = world.speaker(0).peers()[0].last_notification.clone().unwrap();
    assert!(told.contains("Unexpected Message in OpenSent State"), "{told}");
}

#[test]
fn garbage_on_a_connection_harms_nobody_else() {
    let mut world = pair();
    world.all_up(&[(0, 1)]);
    let conn = ConnId::Incoming(99);
    world.input(0, Input::Accepted { conn, local: (addr(0), 179).into(), remote: (addr(1), 5001).into() });
    world.input(0, Input::Received { conn, bytes: bytes::Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n") });
    world.run(Duration::from_secs(120));
    assert!(world.is_up(0, 1));
    assert_eq!(world.peer_of(0, 1).flaps, 0);
}

#[test]
fn strangers_are_turned_away() {
    let mut world = pair();
    let remote = "192.0.2.1:5000".parse().unwrap();
    world.input(0, Input::Accepted { conn: ConnId::Incoming(50), local: (addr(0), 179).into(), remote });
    assert!(world.hosts[0].events.iter().any(|event| matches!(event, Event::UnknownPeer { .. })));
}

#[test]
fn a_peer_that_goes_away_without_a_word_is_tried_again() {
    let mut world = pair();
    for host in [0, 1] {
        world.configure(host, |config| config.graceful_restart.enabled = false);
    }
    world.all_up(&[(0, 1)]);
    let config = world.kill(1);
    world.run(Duration::from_secs(30));
    assert_eq!(world.peer_of(0, 1).last_error.unwrap(), format!("connect: {}", CloseReason::Refused));
    world.start(1, config, turnpike_bgp_core::config::Start::FRESH);
    world.all_up(&[(0, 1)]);
}

#[test]
fn listen_ranges_take_in_peers_and_let_them_go() {
    let mut hub = config(0, 65001);
    hub.graceful_restart.enabled = false;
    hub.listen_ranges.push(turnpike_bgp_core::config::ListenRange {
        prefix: prefix("10.0.0.0/24"),
        limit: 1,
        peer: peer(99, 65001),
    });
    let spoke = |host| {
        let mut config = config(host, 65001);
        config.peers.push(peer(0, 65001));
        config
    };
    let mut world = World::new([hub, spoke(1), spoke(2)]);
    world.until("one is in", |world| world.speaker(0).view().established == 1);
    world.run(Duration::from_secs(60));
    assert_eq!(world.speaker(0).view().established, 1, "the limit holds");
    let inside = if world.is_up(1, 0) { 1 } else { 2 };
    world.input(inside, Input::Shutdown(Shutdown::Final { message: String::new() }));
    world.until("the other one is in", |world| world.is_up(3 - inside, 0));
    assert_eq!(world.speaker(0).peers().len(), 1);
}

#[test]
fn removing_a_peer_says_so_and_forgets_it() {
    let mut world = pair();
    world.all_up(&[(0, 1)]);
    world.configure(0, |config| config.peers.clear());
    world.run(Duration::from_millis(10));
    assert!(world.peer_of(1, 0).last_notification.unwrap().contains("Peer De-configured"));
    assert!(world.speaker(0).peers().is_empty());
}

#[test]
fn a_peer_that_never_reads_is_given_up() {
    // RFC 9687.
    let mut world = pair();
    for host in [0, 1] {
        world.configure(host, |config| config.graceful_restart.enabled = false);
    }
    world.all_up(&[(0, 1)]);
    world.hosts[0].stuck = true;
    world.run(Duration::from_secs(600));
    let told = world.peer_of(1, 0).last_notification.unwrap();
    assert_eq!(told, "received Send Hold Timer Expired");
}
