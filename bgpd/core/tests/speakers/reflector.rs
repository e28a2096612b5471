//! RFC 4456: route reflection.

use std::time::Duration;

use turnpike_bgp_core::config::{Config, Network};
use turnpike_bgp_wire::{MessageType, RouterId};

use crate::world::{Seen, World, addr, config, peer, prefix};

/// A reflector with clients and others.
fn reflector(host: usize, clients: &[usize], others: &[usize]) -> Config {
    let mut config = config(host, 65001);
    for client in clients {
        let mut peer = peer(*client, 65001);
        peer.rr_client = true;
        config.peers.push(peer);
    }
    config.peers.extend(others.iter().map(|other| peer(*other, 65001)));
    config
}

fn speaker(host: usize, reflectors: &[usize], network: Option<&str>) -> Config {
    let mut config = config(host, 65001);
    config.peers.extend(reflectors.iter().map(|other| peer(*other, 65001)));
    config.networks.extend(network.map(|text| Network::new(prefix(text))));
    config
}

fn id(host: usize) -> RouterId {
    RouterId::from_u32(0x0a00_0001 + host as u32)
}

#[test]
fn clients_hear_each_other_and_the_marks_are_set() {
    let mut world = World::new([
        reflector(0, &[1, 2], &[]),
        speaker(1, &[0], Some("10.244.1.0/26")),
        speaker(2, &[0], Some("10.244.2.0/26")),
    ]);
    world.until("both ways", |world| world.has(1, "10.244.2.0/26") && world.has(2, "10.244.1.0/26"));
    let path = world.best(2, "10.244.1.0/26").unwrap();
    assert_eq!(path.originator_id, Some(id(1)), "RFC 4456 §8");
    assert_eq!(path.cluster_list, [id(0)]);
    assert_eq!(path.next_hop.unwrap().addr, addr(1), "RFC 4456 §10: the next hop stays");
    assert_eq!(path.local_pref, Some(100));
    let back = world.told(0, 1).into_iter().any(|told| told.prefix == prefix("10.244.1.0/26"));
    assert!(!back, "a client's own path does not come back to it");
    assert_eq!(world.peer_of(0, 1).advertised.ipv4, 1);
}

#[test]
fn only_clients_paths_go_to_those_that_are_not() {
    // RFC 4456 §6: 1 is a client, 2 and 3 are not.
    let mut world = World::new([
        reflector(0, &[1], &[2, 3]),
        speaker(1, &[0], Some("10.1.0.0/16")),
        speaker(2, &[0], Some("10.2.0.0/16")),
        speaker(3, &[0], None),
    ]);
    world.all_up(&[(0, 1), (0, 2), (0, 3)]);
    world.run(Duration::from_secs(5));
    assert!(world.has(2, "10.1.0.0/16") && world.has(3, "10.1.0.0/16"));
    assert!(world.has(1, "10.2.0.0/16"));
    assert!(!world.has(3, "10.2.0.0/16"), "not between two that are not clients");
    world.configure(0, |config| config.peers[2].rr_client = true);
    world.run(Duration::from_secs(5));
    assert!(world.has(3, "10.2.0.0/16"));
    assert_eq!(world.peer_of(0, 3).flaps, 0, "no reset for it");
    world.configure(0, |config| config.peers[2].rr_client = false);
    world.run(Duration::from_secs(5));
    assert!(!world.has(3, "10.2.0.0/16") && world.has(3, "10.1.0.0/16"));
}

#[test]
fn two_reflectors_that_feed_each_other_make_no_loop() {
    // Each is the other's client: the cluster list ends it (RFC 4456 §8).
    let mut world = World::new([
        reflector(0, &[1, 2], &[]),
        reflector(1, &[0, 2], &[]),
        speaker(2, &[0, 1], Some("10.244.1.0/26")),
    ]);
    world.all_up(&[(0, 1), (0, 2), (1, 2)]);
    world.run(Duration::from_secs(10));
    world.seen.clear();
    world.run(Duration::from_secs(10));
    assert!(world.updates(0, 1).is_empty() && world.updates(1, 0).is_empty(), "nothing circles");
    assert_eq!(world.best(0, "10.244.1.0/26").unwrap().from_address, Some(addr(2)));
    let mine = world.speaker(2).view().paths.ipv4;
    world.configure(2, |config| config.networks.clear());
    world.run(Duration::from_secs(10));
    assert!(
        mine >= 1 && !world.has(0, "10.244.1.0/26") && !world.has(1, "10.244.1.0/26"),
        "and it goes away"
    );
}

#[test]
fn a_reflectors_own_cluster_id_is_refused() {
    let mut chain = reflector(1, &[0, 2], &[]);
    chain.cluster_id = Some(id(77));
    let mut first = reflector(0, &[1], &[]);
    first.cluster_id = Some(id(77));
    let mut world = World::new([first, chain, speaker(2, &[1], Some("10.1.0.0/16"))]);
    world.all_up(&[(0, 1), (1, 2)]);
    world.run(Duration::from_secs(5));
    assert_eq!(world.loc(0, "10.1.0.0/16")[0].why.as_deref(), Some("our cluster is in its CLUSTER_LIST"));
}

#[test]
fn the_best_of_several_clients_is_reflected_and_the_next_best_takes_over() {
    let mut world = World::new([
        reflector(0, &[1, 2, 3], &[]),
        speaker(1, &[0], Some("10.9.0.1/32")),
        speaker(2, &[0], Some("10.9.0.1/32")),
        speaker(3, &[0], None),
    ]);
    world.until("heard of", |world| world.loc(0, "10.9.0.1/32").len() == 2 && world.has(3, "10.9.0.1/32"));
    world.run(Duration::from_secs(1));
    assert_eq!(world.best(3, "10.9.0.1/32").unwrap().originator_id, Some(id(1)));
    // Host 2 is told of host 1's path, host 1 of nothing: the reflector's best came from it.
    assert_eq!((world.told(0, 2).len(), world.told(0, 1).len()), (1, 0));
    world.configure(1, |config| config.networks.clear());
    world.run(Duration::from_secs(1));
    assert_eq!(world.best(3, "10.9.0.1/32").unwrap().originator_id, Some(id(2)));
    assert!(
        world.loc(2, "10.9.0.1/32").iter().all(|path| path.from.is_none()),
        "its own came back to nobody"
    );
    assert_eq!(world.best(1, "10.9.0.1/32").unwrap().originator_id, Some(id(2)));
}

#[test]
fn a_late_client_is_told_everything_in_one_go() {
    let mut world = World::new([
        reflector(0, &[1, 2, 3], &[]),
        speaker(1, &[0], Some("10.244.1.0/26")),
        speaker(2, &[0], Some("10.244.2.0/26")),
    ]);
    world.all_up(&[(0, 1), (0, 2)]);
    world.run(Duration::from_secs(5));
    let late = World::new([config(0, 1), config(1, 1), config(2, 1), speaker(3, &[0], None)]);
    world.hosts.extend(late.hosts.into_iter().skip(3));
    world.until("it knows both", |world| world.has(3, "10.244.1.0/26") && world.has(3, "10.244.2.0/26"));
    let updates = world.updates(0, 3);
    assert!(updates.last().unwrap().end_of_rib.is_some());
    assert!(world.withdrawn(0, 3).is_empty());
}

#[test]
fn a_crowd_is_told_once_of_what_comes_in_together() {
    let clients: Vec<usize> = (1..=200).collect();
    let nodes = clients.iter().map(|client| speaker(*client, &[0], None));
    let mut world = World::new(std::iter::once(reflector(0, &clients, &[])).chain(nodes));
    world.until("all sessions", |world| clients.iter().all(|client| world.is_up(0, *client)));
    world.run(Duration::from_secs(5));
    world.seen.clear();
    let begun = world.now;
    for number in 1..=5 {
        world.configure(1, |config| {
            config.networks.push(Network::new(prefix(&format!("10.244.{number}.0/24"))));
        });
        world.run(Duration::from_micros(100));
    }
    world.until("the last one", |world| {
        clients.iter().skip(1).all(|client| world.has(*client, "10.244.5.0/24"))
    });
    assert!(world.now.since(begun) < Duration::from_millis(20), "{:?}", world.now.since(begun));
    for client in clients.into_iter().skip(1) {
        assert!(world.has(client, "10.244.1.0/24"));
        let told = |seen: &&Seen| (seen.from, seen.to, seen.kind) == (0, client, MessageType::Update);
        assert_eq!(world.seen.iter().filter(told).count(), 1, "five UPDATEs have become one");
    }
}
