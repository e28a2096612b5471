//! RFC 7911: several paths of one prefix.

use std::net::IpAddr;
use std::time::Duration;

use turnpike_bgp_core::config::{
    AddPath, Config, MaxPrefix, MaxPrefixAction, Network, PeerConfig, SendPaths, Start,
};
use turnpike_bgp_core::query::{PathView, Select, Table};
use turnpike_bgp_core::{Event, Input};
use turnpike_bgp_wire::{
    AsPath, Asn, Attributes, EncodeContext, Family, NextHop, Nlri, PerFamily, encode_reach,
};

use crate::world::{World, addr, config, peer, prefix};

const VIP: &str = "10.9.0.1/32";

fn several(receive: bool, send: SendPaths) -> PerFamily<AddPath> {
    PerFamily { ipv4: AddPath { receive, send }, ipv6: AddPath::default() }
}

/// A reflector of the other hosts that sends them so many paths.
fn reflector(host: usize, clients: &[usize], send: SendPaths) -> Config {
    let mut config = config(host, 65001);
    for client in clients {
        let mut peer = peer(*client, 65001);
        peer.rr_client = true;
        peer.add_path = several(false, send);
        config.peers.push(peer);
    }
    config
}

/// A node that takes several paths from its reflectors.
fn node(host: usize, reflectors: &[usize], network: Option<&str>) -> Config {
    let mut config = config(host, 65001);
    config.peers.extend(
        reflectors
            .iter()
            .map(|other| PeerConfig { add_path: several(true, SendPaths::Best), ..peer(*other, 65001) }),
    );
    config.networks.extend(network.map(|text| Network::new(prefix(text))));
    config
}

/// A reflector, nodes 1 to 3 with the VIP, and node 4 that wants to reach it.
fn vip(send: SendPaths) -> World {
    let mut world = World::new([
        reflector(0, &[1, 2, 3, 4], send),
        node(1, &[0], Some(VIP)),
        node(2, &[0], Some(VIP)),
        node(3, &[0], Some(VIP)),
        node(4, &[0], None),
    ]);
    world.all_up(&[(0, 1), (0, 2), (0, 3), (0, 4)]);
    world.run(Duration::from_secs(2));
    world
}

/// What host 0 tells another of the VIP: identifier and next hop.
fn ids(world: &World, other: usize) -> Vec<(u32, IpAddr)> {
    let told = world.told(0, other);
    told.iter().map(|path| (path.path_id, path.next_hop.unwrap().addr)).collect()
}

fn hops(nodes: &[usize]) -> Vec<IpAddr> {
    nodes.iter().map(|node| addr(*node)).collect()
}

#[test]
fn a_reflector_hides_none_of_the_nodes_behind_a_vip() {
    let mut world = vip(SendPaths::All);
    assert_eq!(world.kernel_of(4, VIP), hops(&[1, 2, 3]), "the traffic goes to all of them");
    let before = ids(&world, 4);
    assert_eq!(before.len(), 3);
    assert!(before.iter().all(|(id, _)| *id > 0));
    assert_eq!(ids(&world, 1).len(), 2, "a node is not told its own path");
    assert_eq!((world.peer_of(0, 4).advertised.ipv4, world.peer_of(0, 1).advertised.ipv4), (3, 2));
    assert_eq!(world.peer_of(4, 0).received.ipv4, 3, "paths are counted");

    // One of them goes, whichever it is, and the others are not touched.
    let updates = world.peer_of(0, 4).counters.updates_out;
    world.configure(2, |config| config.networks.clear());
    world.run(Duration::from_secs(1));
    assert_eq!(world.kernel_of(4, VIP), hops(&[1, 3]));
    let stayed: Vec<_> = before.into_iter().filter(|(_, hop)| *hop != addr(2)).collect();
    assert_eq!(ids(&world, 4), stayed, "identifiers are stable");
    assert_eq!(world.peer_of(0, 4).counters.updates_out, updates + 1, "one withdrawal");

    // It comes back, with other attributes: a path changes in its place.
    world.configure(2, |config| config.networks.push(Network::new(prefix(VIP))));
    world.run(Duration::from_secs(1));
    let with = ids(&world, 4);
    world.configure(2, |config| config.networks[0].med = Some(7));
    world.run(Duration::from_secs(1));
    assert_eq!(ids(&world, 4), with);
    assert_eq!(world.kernel_of(4, VIP), hops(&[1, 3]), "it is no equal any more, but it is known");
    assert_eq!(world.loc(4, VIP).len(), 3);
}

#[test]
fn a_number_of_paths_are_the_best_ones_and_it_can_change_without_a_reset() {
    let mut world = vip(SendPaths::Most(2));
    assert_eq!(world.kernel_of(4, VIP), hops(&[1, 2]), "lower identifiers first");
    world.configure(1, |config| config.networks[0].local_pref = Some(50));
    world.run(Duration::from_secs(1));
    assert_eq!(world.kernel_of(4, VIP), hops(&[2, 3]));
    let send = |world: &mut World, send| {
        world.configure(0, |config| config.peers[3].add_path = several(false, send));
        world.run(Duration::from_secs(1));
    };
    send(&mut world, SendPaths::All);
    assert_eq!(world.loc(4, VIP).len(), 3);
    send(&mut world, SendPaths::Most(1));
    assert_eq!(world.loc(4, VIP).len(), 1, "those before are withdrawn by their identifiers");
    assert_eq!(world.peer_of(0, 4).flaps, 0);
    send(&mut world, SendPaths::Best);
    world.until("the session is made anew without identifiers", |world| {
        world.peer_of(0, 4).flaps == 1 && world.is_up(0, 4) && world.loc(4, VIP).len() == 1
    });
    assert_eq!(world.loc(4, VIP)[0].path_id, 0);
}

#[test]
fn both_sides_must_want_it_each_in_its_direction() {
    let both = |receive, send| {
        let mut world = World::new([0, 1].map(|host| {
            let mut config = config(host, 65001);
            let mut peer = peer(1 - host, 65001);
            peer.add_path = if host == 0 { several(true, SendPaths::All) } else { several(receive, send) };
            config.peers.push(peer);
            config
        }));
        world.all_up(&[(0, 1)]);
        let words = world.peer_of(0, 1).session.unwrap().capabilities;
        words.into_iter().filter(|word| word.starts_with("add-path")).collect::<Vec<_>>()
    };
    assert_eq!(both(true, SendPaths::Most(3)), ["add-path receive ipv4", "add-path send ipv4"]);
    assert_eq!(both(true, SendPaths::Best), ["add-path send ipv4"]);
    assert_eq!(both(false, SendPaths::All), ["add-path receive ipv4"]);
    assert!(both(false, SendPaths::Best).is_empty());
}

#[test]
fn paths_of_a_restarting_reflector_stay_each_until_it_is_told_again() {
    let mut world = vip(SendPaths::All);
    let config = world.kill(0);
    world.run(Duration::from_secs(1));
    assert_eq!(world.kernel_of(4, VIP), hops(&[1, 2, 3]));
    assert!(world.loc(4, VIP).iter().all(|path| path.stale));
    world.hosts[4].removed.clear();
    // Node 1 is gone when the reflector comes back, so identifiers may mean other paths than before.
    world.kill(1);
    world.start(0, config, Start::RESTARTED);
    world.until("told again", |world| world.loc(4, VIP).iter().all(|path| !path.stale));
    world.run(Duration::from_secs(30));
    assert_eq!(world.kernel_of(4, VIP), hops(&[2, 3]));
    assert!(world.hosts[4].removed.is_empty(), "never without a route");
}

#[test]
fn a_prefix_limit_counts_paths() {
    let mut world = vip(SendPaths::All);
    world.configure(4, |config| {
        config.peers[0].max_prefix = Some(MaxPrefix { limit: 2, action: MaxPrefixAction::Discard });
        config.peers[0].shutdown = Some(String::new());
    });
    world.run(Duration::from_secs(1));
    world.configure(4, |config| config.peers[0].shutdown = None);
    world.until("back", |world| world.is_up(0, 4) && world.peer_of(4, 0).received.ipv4 == 2);
    world.run(Duration::from_secs(5));
    assert_eq!(world.loc(4, VIP).len(), 2);
    // One of those held goes: there is room for the one that was dropped.
    let gone = world.loc(4, VIP)[0].originator_id.unwrap();
    let node = (1..4).find(|node| world.speaker(*node).view().router_id == gone).unwrap();
    world.configure(node, |config| config.networks.clear());
    world.until("the third is asked for", |world| world.loc(4, VIP).len() == 2);
    world.run(Duration::from_secs(5));
    assert_eq!(world.loc(4, VIP).len(), 2);
}

#[test]
fn the_same_paths_from_two_reflectors_leave_room_for_all_next_hops() {
    let mut world = World::new([
        reflector(0, &[2, 3, 4], SendPaths::All),
        reflector(1, &[2, 3, 4], SendPaths::All),
        node(2, &[0, 1], Some(VIP)),
        node(3, &[0, 1], Some(VIP)),
        node(4, &[0, 1], None),
    ]);
    world.configure(4, |config| config.multipath.ibgp = 2);
    world.all_up(&[(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)]);
    world.run(Duration::from_secs(2));
    assert_eq!(world.loc(4, VIP).len(), 4);
    assert_eq!(world.kernel_of(4, VIP), hops(&[2, 3]), "two next hops, not two paths");
}

/// A peer whose bytes are ours to write, with add-path towards the speaker.
fn announce(world: &mut World, ids: impl Iterator<Item = u32>) {
    let nlri: Vec<Nlri> = ids.map(|path_id| Nlri { prefix: prefix(VIP), path_id }).collect();
    let attributes = Attributes {
        as_path: AsPath::sequence([Asn(65009)]),
        local_pref: Some(100),
        ..Attributes::default()
    };
    let context = EncodeContext { add_path_ipv4: true, ..EncodeContext::default() };
    let mut bytes = Vec::new();
    let next_hop = NextHop::from(addr(1));
    encode_reach(&attributes, Family::Ipv4, next_hop, &nlri, &context, &mut bytes).unwrap();
    let conn = *world.hosts[0].conns.keys().next().unwrap();
    world.input(0, Input::Received { conn, bytes: bytes.into() });
}

#[test]
fn paths_without_end_of_one_prefix_are_not_taken() {
    let mut sender = config(1, 65001);
    sender.peers.push(PeerConfig { add_path: several(false, SendPaths::All), ..peer(0, 65001) });
    let mut world = World::new([node(0, &[1], None), sender]);
    world.all_up(&[(0, 1)]);
    announce(&mut world, 1..=1500);
    assert_eq!(world.peer_of(0, 1).received.ipv4, 1024);
    let events = &world.hosts[0].events;
    let told = events.iter().filter(|event| matches!(event, Event::PathLimit { limit: 1024, .. })).count();
    assert_eq!(told, 1, "once in a session");
    assert!(world.is_up(0, 1));
    // Those that are held can still change.
    announce(&mut world, 1..=1500);
    assert_eq!(world.peer_of(0, 1).received.ipv4, 1024);
    let held: Vec<PathView> = world.speaker(0).rib(Table::Loc, Select::Exact(prefix(VIP)), 10_000);
    assert_eq!(held.len(), 1024);
}
