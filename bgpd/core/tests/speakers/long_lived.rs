//! RFC 9494: paths of a peer that stays away, as a last resort.

use std::time::Duration;

use turnpike_bgp_core::config::{
    Actions, Config, Network, PeerConfig, Policy, PolicyChoice, Rule, Start, Verdict,
};
use turnpike_bgp_core::{Event, SweepReason};
use turnpike_bgp_wire::{Asn, Community};

use crate::world::{World, addr, config, peer, prefix};

const VIP: &str = "10.9.0.1/32";
const BLOCK: &str = "10.244.1.0/26";
const STALE: Duration = Duration::from_secs(3600);
/// Longer than the restart time of 120 s, shorter than the long-lived stale time.
const AWAY: Duration = Duration::from_secs(130);

fn long_lived(host: usize, asn: u32) -> PeerConfig {
    PeerConfig { long_lived: Some(STALE), ..peer(host, asn) }
}

/// A reflector, nodes 1 and 2 with the VIP, and node 3 that wants to reach it; 1 has a block, too.
fn cluster() -> World {
    let mut reflector = config(0, 65001);
    reflector.peers = (1..4).map(|node| PeerConfig { rr_client: true, ..long_lived(node, 65001) }).collect();
    let node = |host, networks: &[&str]| {
        let mut config = config(host, 65001);
        config.peers = vec![long_lived(0, 65001)];
        config.networks = networks.iter().map(|text| Network::new(prefix(text))).collect();
        config
    };
    let mut world = World::new([reflector, node(1, &[VIP, BLOCK]), node(2, &[VIP]), node(3, &[])]);
    world.all_up(&[(0, 1), (0, 2), (0, 3)]);
    world.run(Duration::from_secs(5));
    world
}

fn is_marked(world: &World, host: usize, which: &str) -> bool {
    world.best(host, which).unwrap().communities.contains(&Community::LLGR_STALE)
}

fn swept(world: &World, host: usize) -> Vec<SweepReason> {
    let events = &world.hosts[host].events;
    let reason = |event: &Event| match event {
        Event::StaleRemoved { reason, .. } => Some(*reason),
        _ => None,
    };
    events.iter().filter_map(reason).collect()
}

#[test]
fn what_nobody_else_has_stays_and_what_others_have_moves_to_them() {
    let mut world = cluster();
    let config = world.kill(1);
    world.run(Duration::from_secs(100));
    assert!(!is_marked(&world, 0, BLOCK), "within the restart time nothing changes");
    assert_eq!(world.best(0, VIP).unwrap().from_address, Some(addr(1)));

    world.run(AWAY - Duration::from_secs(100));
    assert!(is_marked(&world, 0, BLOCK) && is_marked(&world, 3, BLOCK), "§4.2: marked, here and beyond");
    assert_eq!(world.kernel_of(3, BLOCK), [addr(1)]);
    assert_eq!(world.best(0, VIP).unwrap().from_address, Some(addr(2)), "§4.3: the last choice");
    let lost = world.loc(0, VIP).into_iter().find(|path| path.from_address == Some(addr(1))).unwrap();
    assert_eq!(lost.why.as_deref(), Some("long-lived stale"));
    assert!(lost.stale);
    assert!(swept(&world, 0).is_empty());
    assert!(world.hosts[0].events.iter().any(|event| matches!(event, Event::LongLived { count: 2, .. })));
    let left = world.peer_of(0, 1).stale_until.unwrap().since(world.now);
    assert!(left > Duration::from_secs(3500) && left < STALE, "{left:?}");

    // It comes back and is what it was.
    world.start(1, config, Start::RESTARTED);
    world.until("told again", |world| !is_marked(world, 3, BLOCK));
    world.run(Duration::from_secs(5));
    assert_eq!(world.best(0, VIP).unwrap().from_address, Some(addr(1)));
    assert!(world.peer_of(0, 1).stale_until.is_none());
    assert!(!world.hosts[3].removed.contains(&prefix(BLOCK)), "never without a route");
}

#[test]
fn the_time_ends_once_however_often_the_peer_shows_up() {
    let mut world = cluster();
    let config = world.kill(1);
    world.run(Duration::from_secs(2000));
    assert!(world.has(0, BLOCK));
    let until = world.peer_of(0, 1).stale_until;
    // Back, but not for long enough to finish: the reflector is the one that it waits for.
    world.start(1, config.clone(), Start::RESTARTED);
    world.until("it is back", |world| world.is_up(0, 1));
    world.kill(1);
    world.run(Duration::from_secs(10));
    assert_eq!(world.peer_of(0, 1).stale_until, until);
    assert!(is_marked(&world, 0, BLOCK));
    world.run(Duration::from_secs(2000));
    assert!(!world.has(0, BLOCK) && world.has(0, VIP));
    assert_eq!(swept(&world, 0), [SweepReason::LongLivedTimer]);
}

#[test]
fn a_path_that_says_so_is_not_kept_for_long() {
    let mut world = cluster();
    world.configure(1, |config| config.networks[1].communities = vec![Community::NO_LLGR]);
    world.run(Duration::from_secs(1));
    world.kill(1);
    world.run(Duration::from_secs(100));
    assert!(world.has(0, BLOCK), "RFC 4724 knows nothing of it");
    world.run(AWAY);
    assert!(!world.has(0, BLOCK), "§3.3");
    assert_eq!(world.loc(0, VIP).len(), 2);
    assert_eq!(swept(&world, 0), [SweepReason::NoLongLived]);
}

#[test]
fn peers_that_do_not_know_are_not_told_unless_in_disguise() {
    let mut world = cluster();
    world.configure(3, |config| config.peers[0].long_lived = None);
    world.until("back without it", |world| world.is_up(0, 3) && world.has(3, BLOCK));
    world.kill(1);
    world.run(AWAY);
    assert!(is_marked(&world, 0, BLOCK));
    assert!(!world.has(3, BLOCK), "§4.3: withdrawn from those without the capability");
    assert_eq!(
        world.best(3, VIP).unwrap().originator_id,
        world.best(0, VIP).map(|_| world.speaker(2).view().router_id)
    );

    // §4.6.
    world.configure(0, |config| config.peers[2].long_lived_fallback = true);
    world.run(Duration::from_secs(1));
    let path = world.best(3, BLOCK).unwrap();
    assert_eq!(path.local_pref, Some(0));
    assert!(path.communities.contains(&Community::NO_EXPORT));
    assert_eq!(world.peer_of(0, 3).flaps, 1, "no reset for it");
}

#[test]
fn without_a_restart_time_it_begins_at_once() {
    let mut world = cluster();
    world.configure(1, |config| config.graceful_restart.restart_time = Duration::ZERO);
    let config = world.kill(1);
    world.start(1, config, Start::RESTARTED);
    world.until("back, with another OPEN", |world| world.is_up(0, 1) && world.has(0, BLOCK));
    world.run(Duration::from_secs(60));
    assert!(!is_marked(&world, 0, BLOCK));
    world.kill(1);
    world.run(Duration::from_secs(1));
    assert!(is_marked(&world, 0, BLOCK));
}

#[test]
fn a_changed_policy_does_not_make_them_fresh() {
    let mut world = cluster();
    world.kill(1);
    world.run(AWAY);
    world.configure(0, |config| {
        let set = Actions { local_pref: Some(200), ..Actions::default() };
        let rules = vec![Rule { set, ..Rule::default() }];
        config.policies.insert("p".into(), Policy { rules, default: Verdict::Accept });
        config.peers[0].import = PolicyChoice::Named("p".into());
    });
    world.run(Duration::from_secs(1));
    let path = world.best(0, BLOCK).unwrap();
    assert_eq!(path.local_pref, Some(200));
    assert!(is_marked(&world, 0, BLOCK));
    assert_eq!(world.best(0, VIP).unwrap().from_address, Some(addr(2)));
}

#[test]
fn between_ases_both_sides_must_want_it() {
    let mut one = config(0, 65001);
    let mut other: Config = config(1, 65002);
    for (config, host, asn) in [(&mut one, 1, 65002), (&mut other, 0, 65001)] {
        let mut peer = peer(host, asn);
        peer.import = PolicyChoice::AcceptAll;
        peer.export = PolicyChoice::AcceptAll;
        config.peers = vec![peer];
    }
    other.networks = vec![Network::new(prefix(BLOCK))];
    other.peers[0].long_lived = Some(STALE);
    assert_eq!(other.peers[0].remote_as, Asn(65001).into());
    let mut world = World::new([one, other]);
    world.until("heard", |world| world.has(0, BLOCK));
    world.kill(1);
    world.run(AWAY);
    assert!(!world.has(0, BLOCK));
    assert_eq!(swept(&world, 0), [SweepReason::RestartTimer]);
}
