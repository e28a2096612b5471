//! Aggregates (RFC 4271 §9.2.2.2): there while something is inside, and a blackhole for what is not.

use std::time::Duration;

use turnpike_bgp_core::config::{Aggregate, Network};
use turnpike_bgp_wire::{Asn, Community, RouterId};

use crate::world::{World, addr, announce, open, prefix};

const WHOLE: &str = "10.244.0.0/16";

fn aggregate(summary_only: bool) -> Aggregate {
    Aggregate { network: Network::new(prefix(WHOLE)), summary_only }
}

/// A node, its reflector, and a gateway in another AS.
fn chain() -> World {
    let mut reflector = open(1, 65001, &[(0, 65001), (2, 65002)]);
    reflector.peers[0].rr_client = true;
    reflector.aggregates.push(aggregate(true));
    let mut world = World::new([open(0, 65001, &[(1, 65001)]), reflector, open(2, 65002, &[(1, 65001)])]);
    world.all_up(&[(0, 1), (1, 2)]);
    world.run(Duration::from_secs(5));
    world
}

fn told(world: &World, from: usize, to: usize) -> Vec<String> {
    world.told(from, to).iter().map(|path| path.prefix.to_string()).collect()
}

#[test]
fn an_aggregate_comes_with_the_first_route_inside_it_and_goes_with_the_last() {
    let mut world = chain();
    assert_eq!(told(&world, 1, 2), [""; 0]);
    assert!(world.hosts[1].kernel.is_empty(), "nothing to discard yet");

    world.configure(0, |config| announce(config, &["10.244.1.0/26", "10.244.2.0/26", "10.9.0.0/24"]));
    world.until("the aggregate", |world| world.has(2, WHOLE));
    world.run(Duration::from_secs(1));
    assert_eq!(told(&world, 1, 2), ["10.9.0.0/24", WHOLE], "what is inside is not told");
    let path = world.best(2, WHOLE).unwrap();
    assert_eq!((path.as_path.as_str(), path.origin, path.atomic_aggregate), ("65001", "IGP", true));
    assert_eq!(path.aggregator, Some((Asn(65001), RouterId::from_u32(0x0a00_0002))));
    assert_eq!(world.kernel_of(2, WHOLE), [addr(1)]);
    assert_eq!(world.hosts[1].kernel[&prefix(WHOLE)].len(), 0, "RFC 4632 §5.1: a blackhole");
    assert_eq!(world.kernel_of(1, "10.244.1.0/26"), [addr(0)], "what is inside has its routes");

    world.configure(0, |config| config.networks.retain(|network| network.prefix != prefix("10.244.1.0/26")));
    world.run(Duration::from_secs(1));
    assert!(world.has(2, WHOLE), "one is left inside");
    world.configure(0, |config| config.networks.retain(|network| network.prefix == prefix("10.9.0.0/24")));
    world.run(Duration::from_secs(1));
    assert_eq!(told(&world, 1, 2), ["10.9.0.0/24"]);
    assert!(!world.hosts[1].kernel.contains_key(&prefix(WHOLE)));
}

#[test]
fn an_aggregate_can_be_changed_while_sessions_stand() {
    let mut world = chain();
    world.configure(0, |config| announce(config, &["10.244.1.0/26"]));
    world.until("the aggregate", |world| world.has(2, WHOLE));
    world.configure(1, |config| {
        config.aggregates[0].summary_only = false;
        config.aggregates[0].network.communities = vec![Community::NO_EXPORT];
    });
    world.run(Duration::from_secs(1));
    assert_eq!(told(&world, 1, 2), ["10.244.1.0/26"], "NO_EXPORT holds for it too (RFC 1997)");
    assert_eq!(world.best(1, WHOLE).unwrap().communities, [Community::NO_EXPORT]);
    world.configure(1, |config| config.aggregates.clear());
    world.run(Duration::from_secs(1));
    assert!(world.best(1, WHOLE).is_none() && !world.hosts[1].kernel.contains_key(&prefix(WHOLE)));
    assert_eq!((world.peer_of(1, 0).flaps, world.peer_of(1, 2).flaps), (0, 0));
}

#[test]
fn a_network_of_ours_comes_before_an_aggregate_and_an_aggregate_before_a_peers_path() {
    let mut world = chain();
    world.configure(0, |config| announce(config, &["10.244.1.0/26", WHOLE]));
    world.until("the aggregate", |world| world.has(2, WHOLE));
    world.run(Duration::from_secs(1));
    assert!(world.best(1, WHOLE).unwrap().from.is_none(), "ours, not the node's");
    assert_eq!(world.hosts[1].kernel[&prefix(WHOLE)].len(), 0);
    world.configure(1, |config| {
        config.networks.push(Network { med: Some(7), ..Network::new(prefix(WHOLE)) });
    });
    world.run(Duration::from_secs(1));
    assert_eq!(world.best(1, WHOLE).unwrap().med, Some(7));
    assert!(!world.hosts[1].kernel.contains_key(&prefix(WHOLE)), "a network's route is its owner's affair");
}

#[test]
fn aggregates_inside_each_other_stand_on_each_other() {
    let mut world = chain();
    world.configure(1, |config| {
        config
            .aggregates
            .push(Aggregate { network: Network::new(prefix("10.0.0.0/8")), summary_only: false });
    });
    world.configure(0, |config| announce(config, &["10.244.1.0/26"]));
    world.until("the outer one", |world| world.has(2, "10.0.0.0/8"));
    world.run(Duration::from_secs(1));
    assert_eq!(told(&world, 1, 2), ["10.0.0.0/8", WHOLE]);
    world.configure(0, |config| config.networks.clear());
    world.run(Duration::from_secs(1));
    assert_eq!(world.speaker(1).view().paths, Default::default());
    assert!(world.hosts[1].kernel.is_empty());
}

#[test]
fn networks_of_our_own_hold_an_aggregate_up_and_take_it_with_them() {
    let mut origin = open(0, 65001, &[(1, 65002)]);
    announce(&mut origin, &["10.244.1.0/26"]);
    origin.aggregates.push(aggregate(true));
    let mut world = World::new([origin, open(1, 65002, &[(0, 65001)])]);
    world.all_up(&[(0, 1)]);
    world.until("the aggregate", |world| world.has(1, WHOLE));
    assert_eq!(told(&world, 0, 1), [WHOLE]);
    world.configure(0, |config| config.aggregates[0].summary_only = false);
    world.until("what is inside", |world| world.has(1, "10.244.1.0/26"));
    world.configure(0, |config| config.networks = vec![Network::new(prefix("10.9.0.0/16"))]);
    world.run(Duration::from_secs(1));
    assert_eq!(told(&world, 0, 1), ["10.9.0.0/16"]);
    assert!(!world.has(1, WHOLE) && world.has(1, "10.9.0.0/16"));
}
