//! RFC 5882: what is known of the path to a peer from elsewhere.

use std::time::Duration;

use turnpike_bgp_core::config::{Config, Network};
use turnpike_bgp_core::query::SessionState;
use turnpike_bgp_core::{Input, PathState};

use crate::world::{World, addr, config, peer, prefix};

const BLOCK: &str = "10.244.1.0/26";

/// 0 learns 1's block.
fn pair(change: impl FnOnce(&mut Config)) -> World {
    let mut own = config(0, 65001);
    own.peers = vec![peer(1, 65001)];
    change(&mut own);
    let mut other = config(1, 65001);
    other.peers = vec![peer(0, 65001)];
    other.networks = vec![Network::new(prefix(BLOCK))];
    World::new([own, other])
}

fn up() -> World {
    let mut world = pair(|_| {});
    world.all_up(&[(0, 1)]);
    world.until("the block", |world| world.has(0, BLOCK));
    world.run(Duration::from_secs(30));
    world
}

fn path(world: &mut World, path: PathState) {
    world.input(0, Input::Path { remote: addr(1), path });
}

#[test]
fn a_failed_path_ends_the_session_at_once_and_keeps_nothing_for_a_restart() {
    let mut world = up();
    // Nothing arrives: the NOTIFICATION is lost as well, and no answer comes.
    world.cut.insert((0, 1));
    let before = world.now;
    path(&mut world, PathState::Failed { independent: false });
    assert_eq!(world.now, before);
    assert!(!world.has(0, BLOCK) && world.kernel_of(0, BLOCK).is_empty());
    let view = world.peer_of(0, 1);
    assert_eq!((view.state, view.stale_until), (SessionState::Idle, None));
    assert!(view.last_error.unwrap().contains("BFD Down"), "RFC 9384");

    world.cut.clear();
    world.run(Duration::from_secs(300));
    assert!(!world.is_up(0, 1), "no session before the path is open");
    path(&mut world, PathState::Open);
    world.all_up(&[(0, 1)]);
    world.until("the block", |world| world.has(0, BLOCK));
}

#[test]
fn a_path_that_fails_while_the_peer_restarts_ends_the_restart_only_if_bfd_is_independent() {
    for independent in [false, true] {
        let mut world = up();
        world.kill(1);
        world.run(Duration::from_secs(1));
        assert!(world.loc(0, BLOCK)[0].stale);
        path(&mut world, PathState::Failed { independent });
        assert_eq!(world.has(0, BLOCK), !independent, "RFC 5882 §4.3.2");
        assert_eq!(world.peer_of(0, 1).stale_until.is_some(), !independent);
        world.run(Duration::from_secs(200));
        assert!(!world.has(0, BLOCK), "the restart time is over");
    }
}

#[test]
fn a_strict_peer_has_no_session_before_its_path_is_open() {
    let mut world = pair(|own| own.peers[0].wait_for_path = true);
    world.run(Duration::from_secs(300));
    assert_eq!(world.peer_of(0, 1).state, SessionState::Idle);
    path(&mut world, PathState::Awaited);
    world.run(Duration::from_secs(10));
    path(&mut world, PathState::Open);
    world.all_up(&[(0, 1)]);
    path(&mut world, PathState::Awaited);
    world.run(Duration::from_secs(300));
    assert!(world.is_up(0, 1), "a session that stands stays");
    assert_eq!(world.peer_of(0, 1).flaps, 0);
}
