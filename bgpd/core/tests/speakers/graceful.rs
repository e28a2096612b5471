//! RFC 4724 and RFC 8538: restarts that nobody notices.

use std::time::Duration;

use turnpike_bgp_core::config::{Config, Network, Start};
use turnpike_bgp_core::{Event, Input, SelectionReason, Shutdown, SweepReason};
use turnpike_bgp_wire::{Capability, Families, MessageType, Open};

use crate::world::{World, addr, config, peer, prefix};

/// 0 and 1 are reflectors; 2 and 3 are nodes with a block each.
fn cluster() -> World {
    let reflector = |host| {
        let mut config = config(host, 65001);
        for node in [2, 3] {
            let mut peer = peer(node, 65001);
            peer.rr_client = true;
            config.peers.push(peer);
        }
        config
    };
    let mut world = World::new([reflector(0), reflector(1), node(2), node(3)]);
    world.all_up(&[(0, 2), (0, 3), (1, 2), (1, 3)]);
    world.until("everybody knows everything", converged);
    world.run(Duration::from_secs(30));
    world.seen.clear();
    world
}

fn node(host: usize) -> Config {
    let mut config = config(host, 65001);
    config.peers = vec![peer(0, 65001), peer(1, 65001)];
    config.networks = vec![Network::new(prefix(block(host)))];
    config
}

fn block(host: usize) -> &'static str {
    ["", "", "10.244.2.0/26", "10.244.3.0/26"][host]
}

fn converged(world: &World) -> bool {
    world.kernel_of(2, block(3)) == [addr(3)]
        && world.kernel_of(3, block(2)) == [addr(2)]
        && [0, 1].iter().all(|reflector| world.has(*reflector, block(2)) && world.has(*reflector, block(3)))
}

/// Nobody withdrew anything and no kernel lost a route.
fn unnoticed(world: &World) {
    for (from, to) in [(0, 2), (0, 3), (1, 2), (1, 3), (2, 0), (2, 1), (3, 0), (3, 1)] {
        assert!(world.withdrawn(from, to).is_empty(), "{from} withdrew from {to}");
    }
    for host in &world.hosts {
        assert!(host.removed.is_empty(), "{} removed {:?}", host.addr, host.removed);
    }
}

fn completed(world: &World, host: usize) -> Option<SelectionReason> {
    world.hosts[host].events.iter().rev().find_map(|event| match event {
        Event::SelectionComplete { reason, .. } => Some(*reason),
        _ => None,
    })
}

fn last_open(world: &World, from: usize, to: usize) -> Open {
    let mut opens =
        world.seen.iter().filter(|seen| seen.from == from && seen.to == to && seen.kind == MessageType::Open);
    Open::decode(&opens.next_back().unwrap().body).unwrap()
}

#[test]
fn a_killed_node_comes_back_and_nobody_notices() {
    let mut world = cluster();
    let config = world.kill(2);
    world.run(Duration::from_secs(10));
    assert!(world.has(0, block(2)) && world.peer_of(0, 2).stale_until.is_some());
    assert!(world.loc(0, block(2))[0].stale);
    assert_eq!(world.kernel_of(3, block(2)), [addr(2)]);
    world.hosts[2].events.clear();
    world.start(2, config, Start::RESTARTED);
    world.all_up(&[(0, 2), (1, 2)]);
    world.until("it has finished", |world| completed(world, 2).is_some());
    world.run(Duration::from_secs(400));
    assert_eq!(completed(&world, 2), Some(SelectionReason::AllHeard));
    assert!(converged(&world));
    assert!(!world.loc(0, block(2))[0].stale && world.peer_of(0, 2).stale_until.is_none());
    unnoticed(&world);
}

#[test]
fn the_restarting_side_says_so_until_it_has_heard_everybody() {
    // RFC 4724 §3: R and F towards every helper; both of gobgp#3431's ways to get it wrong.
    let mut world = cluster();
    let config = world.kill(2);
    world.start(2, config, Start::RESTARTED);
    world.all_up(&[(0, 2), (1, 2)]);
    world.run(Duration::from_secs(5));
    for reflector in [0, 1] {
        let open = last_open(&world, 2, reflector);
        let graceful = open.capabilities.iter().find_map(|capability| match capability {
            Capability::GracefulRestart(value) => Some(value),
            _ => None,
        });
        let graceful = graceful.unwrap();
        assert!(graceful.restarted && graceful.notification);
        assert_eq!(graceful.restart_time, 120);
        assert!(graceful.families.iter().all(|(_, forwarding)| *forwarding));
    }
    assert!(world.hosts[0].events.iter().any(|event| matches!(event, Event::Up { restarted: true, .. })));
}

#[test]
fn nothing_is_selected_before_all_peers_are_heard() {
    let mut world = cluster();
    let config = world.kill(2);
    world.cut.insert((1, 2));
    world.start(2, config, Start::RESTARTED);
    world.until("one reflector is back", |world| world.is_up(2, 0));
    world.run(Duration::from_secs(5));
    assert!(!world.has(2, block(3)), "still waiting for the other one");
    let told: Vec<_> =
        world.updates(2, 0).iter().flat_map(|update| update.announced().collect::<Vec<_>>()).collect();
    assert_eq!(told, [prefix(block(2))], "its own network needs no selection");
    assert!(world.updates(2, 0).iter().all(|update| update.end_of_rib.is_none()));
    assert_eq!(world.kernel_of(2, block(3)), [addr(3)], "the kernel forwards meanwhile");
    world.cut.clear();
    world.until("it has finished", converged);
    world.run(Duration::from_secs(400));
    unnoticed(&world);
}

#[test]
fn a_dead_reflector_does_not_hold_up_the_living_one() {
    // calico#7144 and its like: minutes of waiting for an End-of-RIB that cannot come.
    let mut world = cluster();
    world.kill(1);
    world.run(Duration::from_secs(5));
    let config = world.kill(2);
    world.start(2, config, Start::RESTARTED);
    world.run(Duration::from_secs(25));
    assert_eq!(completed(&world, 2), Some(SelectionReason::AllHeard));
    assert!(world.has(2, block(3)));
    assert!(world.hosts[2].removed.is_empty());
}

#[test]
fn all_restarting_at_once_do_not_wait_for_each_other() {
    // gobgp#1632: power came back.
    let mut world = cluster();
    let configs: Vec<Config> = (0..4).map(|host| world.kill(host)).collect();
    world.run(Duration::from_secs(3));
    for (host, config) in configs.into_iter().enumerate() {
        world.start(host, config, Start::RESTARTED);
    }
    let began = world.now;
    world.until("everybody knows everything", converged);
    assert!(world.now.since(began) < Duration::from_secs(25), "took {:?}", world.now.since(began));
    world.run(Duration::from_secs(400));
    unnoticed(&world);
}

#[test]
fn end_of_rib_waits_for_our_own_prefixes() {
    // frr#22623, gobgp#1463: the agent's part comes late.
    let mut world = cluster();
    let full = world.kill(2);
    let mut bare = full.clone();
    bare.networks.clear();
    bare.complete = false;
    world.start(2, bare, Start::RESTARTED);
    world.all_up(&[(0, 2), (1, 2)]);
    world.run(Duration::from_secs(40));
    assert!(world.updates(2, 0).is_empty(), "neither prefixes nor End-of-RIB");
    assert_eq!(world.kernel_of(3, block(2)), [addr(2)]);
    world.input(2, Input::Configure(Box::new(full)));
    world.run(Duration::from_secs(400));
    assert!(converged(&world));
    unnoticed(&world);
}

#[test]
fn a_second_restart_inside_the_window_loses_nothing() {
    // felix#1592.
    let mut world = cluster();
    for wait in [0, 2, 1] {
        let config = world.kill(2);
        world.run(Duration::from_secs(2));
        world.start(2, config, Start::RESTARTED);
        world.all_up(&[(0, 2), (1, 2)]);
        world.run(Duration::from_millis(wait));
    }
    world.run(Duration::from_secs(400));
    assert!(converged(&world));
    unnoticed(&world);
}

#[test]
fn a_peer_that_restarts_for_ever_loses_its_stale_paths_in_the_end() {
    let mut world = cluster();
    let began = world.now;
    let mut bare = world.kill(2);
    bare.complete = false;
    bare.networks.clear();
    for _ in 0..40 {
        world.start(2, bare.clone(), Start::RESTARTED);
        world.run(Duration::from_secs(15));
        world.kill(2);
        world.run(Duration::from_secs(5));
    }
    assert!(!world.has(0, block(2)), "after {:?}", world.now.since(began));
    let removed = world.hosts[0].events.iter().find_map(|event| match event {
        Event::StaleRemoved { reason, .. } => Some(*reason),
        _ => None,
    });
    assert!(matches!(removed, Some(SweepReason::StaleTimer | SweepReason::RestartTimer)), "{removed:?}");
}

#[test]
fn what_the_node_no_longer_has_is_swept_at_end_of_rib() {
    let mut world = cluster();
    world.configure(2, |config| config.networks.push(Network::new(prefix("10.9.0.1/32"))));
    world.until("it is known", |world| world.has(3, "10.9.0.1/32"));
    let mut config = world.kill(2);
    config.networks.pop();
    world.start(2, config, Start::RESTARTED);
    world.until("it is gone", |world| !world.has(3, "10.9.0.1/32"));
    assert_eq!(world.withdrawn(0, 3), [prefix("10.9.0.1/32")]);
    assert_eq!(world.kernel_of(3, block(2)), [addr(2)]);
    let swept =
        |event: &Event| matches!(event, Event::StaleRemoved { count: 1, reason: SweepReason::EndOfRib, .. });
    assert!(world.hosts[0].events.iter().any(swept));
}

#[test]
fn a_node_that_stays_away_is_given_up_after_its_restart_time() {
    let mut world = cluster();
    world.kill(2);
    world.run(Duration::from_secs(110));
    assert!(world.has(3, block(2)));
    world.run(Duration::from_secs(20));
    assert!(!world.has(3, block(2)) && world.hosts[3].kernel.is_empty());
}

#[test]
fn a_first_start_after_a_reboot_does_not_claim_to_have_forwarded() {
    // RFC 4724 §4.2: without the F bit the helper drops the stale paths at once.
    let mut world = cluster();
    let mut config = world.kill(2);
    config.complete = false;
    config.networks.clear();
    world.run(Duration::from_secs(5));
    world.start(2, config, Start::FRESH);
    world.all_up(&[(0, 2), (1, 2)]);
    world.run(Duration::from_secs(1));
    assert!(!world.has(0, block(2)) && !world.has(3, block(2)));
    let swept =
        |event: &Event| matches!(event, Event::StaleRemoved { reason: SweepReason::NotPreserved, .. });
    assert!(world.hosts[0].events.iter().any(swept));
}

#[test]
fn a_restarted_reflector_keeps_the_nodes_traffic() {
    let mut world = cluster();
    for reflector in [0, 1] {
        let config = world.kill(reflector);
        world.run(Duration::from_secs(3));
        world.start(reflector, config, Start::RESTARTED);
        world.all_up(&[(reflector, 2), (reflector, 3)]);
        world.run(Duration::from_secs(30));
    }
    world.run(Duration::from_secs(400));
    assert!(converged(&world));
    unnoticed(&world);
}

#[test]
fn all_reflectors_gone_is_survived_for_the_restart_time() {
    let mut world = cluster();
    let configs = [world.kill(0), world.kill(1)];
    world.run(Duration::from_secs(100));
    assert_eq!(world.kernel_of(2, block(3)), [addr(3)]);
    for (reflector, config) in configs.into_iter().enumerate() {
        world.start(reflector, config, Start::RESTARTED);
    }
    world.run(Duration::from_secs(400));
    assert!(converged(&world));
    unnoticed(&world);
}

#[test]
fn a_reflector_keeps_a_node_that_restarts_while_it_restarts_itself() {
    let mut world = cluster();
    let reflector = world.kill(0);
    let node = world.kill(2);
    world.run(Duration::from_secs(3));
    world.start(0, reflector, Start::RESTARTED);
    world.run(Duration::from_secs(10));
    world.start(2, node, Start::RESTARTED);
    world.run(Duration::from_secs(400));
    assert!(converged(&world));
    unnoticed(&world);
}

#[test]
fn an_upgrade_closes_without_a_word_and_a_drain_does_not() {
    let mut world = cluster();
    world.input(2, Input::Shutdown(Shutdown::Restart));
    world.run(Duration::from_secs(1));
    assert!(world.seen.iter().all(|seen| seen.kind != MessageType::Notification));
    assert!(world.has(3, block(2)) && !world.is_up(0, 2));
    let config = world.kill(2);
    world.start(2, config, Start::RESTARTED);
    world.all_up(&[(0, 2), (1, 2)]);
    world.run(Duration::from_secs(60));
    unnoticed(&world);
    world.input(2, Input::Shutdown(Shutdown::Final { message: "drained".into() }));
    world.run(Duration::from_secs(1));
    assert!(!world.has(3, block(2)), "calico's CEASE the other way round: this one must count");
    let told = world.peer_of(0, 2).last_notification.unwrap();
    assert!(told.contains("Hard Reset") && told.contains("drained"), "{told}");
    assert!(world.hosts[2].kernel.is_empty());
}

#[test]
fn an_expired_hold_timer_keeps_paths_only_with_the_n_bit() {
    // RFC 8538 §4.1.
    let mut world = cluster();
    world.cut.insert((0, 2));
    world.until("the timer", |world| !world.is_up(0, 2));
    assert!(world.has(0, block(2)) && world.peer_of(0, 2).stale_until.is_some());
    world.cut.clear();
    world.all_up(&[(0, 2)]);
    world.run(Duration::from_secs(400));
    assert!(converged(&world));
    unnoticed(&world);

    for host in 0..4 {
        world.configure(host, |config| config.graceful_restart.notification = false);
    }
    for host in [2, 3] {
        world.configure(host, |config| {
            config.peers.iter_mut().for_each(|peer| peer.hold_time = Duration::from_secs(30));
        });
    }
    world.run(Duration::from_secs(30));
    world.all_up(&[(0, 2), (1, 2)]);
    world.cut.insert((0, 2));
    world.until("the timer", |world| !world.is_up(0, 2));
    world.run(Duration::from_millis(10));
    assert!(!world.has(0, block(2)));
}

#[test]
fn a_peer_back_before_its_end_was_noticed_is_a_restart() {
    // RFC 4724 §4.2: a new OPEN while the session still counts as Established.
    let mut world = cluster();
    world.cut.insert((0, 2));
    let config = world.kill(2);
    // The reset from the kill is lost as well: host 0 believes that the session lives.
    world.forget_arrivals();
    world.cut.clear();
    world.run(Duration::from_secs(8));
    assert!(world.is_up(0, 2));
    world.start(2, config, Start::RESTARTED);
    world.until("the new session", |world| world.peer_of(0, 2).flaps == 1 && world.is_up(2, 0));
    world.run(Duration::from_secs(400));
    assert!(converged(&world));
    unnoticed(&world);
}

#[test]
fn next_hops_are_known_before_anything_stale_is_swept() {
    let mut world = cluster();
    let config = world.kill(2);
    world.hosts[2].mute_nexthops = true;
    world.start(2, config, Start::RESTARTED);
    world.all_up(&[(0, 2), (1, 2)]);
    world.run(Duration::from_secs(30));
    assert_eq!(world.kernel_of(2, block(3)), [addr(3)], "unknown is not unreachable yet");
    world.hosts[2].mute_nexthops = false;
    world.report(2, addr(3));
    world.until("it has finished", converged);
    unnoticed(&world);
}

#[test]
fn families_without_a_promise_are_dropped_with_the_session() {
    let mut world = cluster();
    for host in 0..4 {
        world.configure(host, |config| {
            config.addresses.ipv6 = Some(format!("fd00::{}", host + 1).parse().unwrap());
            config.peers.iter_mut().for_each(|peer| peer.families = Families::BOTH);
        });
    }
    world.configure(2, |config| {
        config.networks.push(Network::new(prefix("fd00:244:2::/64")));
        config.peers.iter_mut().for_each(|peer| peer.graceful_restart = false);
    });
    world.until("both families", |world| world.has(3, "fd00:244:2::/64") && world.has(3, block(2)));
    world.kill(2);
    world.run(Duration::from_secs(1));
    assert!(!world.has(3, "fd00:244:2::/64") && !world.has(3, block(2)));
}

#[test]
fn peers_out_of_a_listen_range_restart_like_any_other() {
    let mut hub = config(0, 65001);
    let mut template = peer(99, 65001);
    template.rr_client = true;
    hub.listen_ranges.push(turnpike_bgp_core::config::ListenRange {
        prefix: prefix("10.0.0.0/24"),
        limit: 10,
        peer: template,
    });
    let spoke = |host| {
        let mut config = node(host);
        config.peers.pop();
        config
    };
    let mut world = World::new([hub, config(1, 1), spoke(2), spoke(3)]);
    let full = |world: &World| {
        world.kernel_of(2, block(3)) == [addr(3)] && world.kernel_of(3, block(2)) == [addr(2)]
    };
    world.until("everybody knows everything", full);
    world.run(Duration::from_secs(30));
    world.seen.clear();
    let node = world.kill(2);
    world.run(Duration::from_secs(5));
    assert!(world.peer_of(0, 2).stale_until.is_some());
    world.start(2, node, Start::RESTARTED);
    world.run(Duration::from_secs(60));
    let hub = world.kill(0);
    world.run(Duration::from_secs(5));
    world.start(0, hub, Start::RESTARTED);
    world.run(Duration::from_secs(400));
    assert!(full(&world));
    assert!(world.hosts.iter().all(|host| host.removed.is_empty()));
    assert!([(0, 2), (0, 3), (2, 0), (3, 0)].iter().all(|(from, to)| world.withdrawn(*from, *to).is_empty()));
    world.kill(2);
    world.run(Duration::from_secs(200));
    assert!(!world.has(3, block(2)));
    assert_eq!(world.speaker(0).peers().len(), 1, "the one that stayed away is forgotten");
}
