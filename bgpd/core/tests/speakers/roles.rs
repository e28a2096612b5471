//! What one AS is to another: roles (RFC 9234), and another AS number of ours for one peer (RFC 7705).

use std::time::Duration;

use turnpike_bgp_core::Input;
use turnpike_bgp_core::config::LocalAs;
use turnpike_bgp_wire::{AsPath, Asn, Attributes, EncodeContext, Family, NextHop, Nlri, Role, encode_reach};

use crate::world::{World, addr, announce, open, prefix};

const NET: &str = "10.1.0.0/16";

/// AS 65001 announces to AS 65002, which has AS 65003 behind it.
fn chain(first: Option<Role>, second: Option<Role>) -> World {
    let mut origin = open(0, 65001, &[(1, 65002)]);
    announce(&mut origin, &[NET]);
    origin.peers[0].role = first.map(Role::counterpart);
    let mut middle = open(1, 65002, &[(0, 65001), (2, 65003)]);
    middle.peers[0].role = first;
    middle.peers[1].role = second;
    let mut far = open(2, 65003, &[(1, 65002)]);
    far.peers[0].role = second.map(Role::counterpart);
    let mut world = World::new([origin, middle, far]);
    world.all_up(&[(0, 1), (1, 2)]);
    world.run(Duration::from_secs(5));
    world
}

fn otc(world: &World, host: usize) -> Option<u32> {
    world.best(host, NET).unwrap().only_to_customer.map(|asn| asn.0)
}

#[test]
fn what_comes_from_a_provider_goes_to_customers_only() {
    use Role::{Customer, Peer, Provider};
    // Rows of RFC 9234 §5: our role towards the source and towards the third AS, and whether a path goes on.
    for (ours, onwards, goes_on) in [
        (Customer, Provider, true),
        (Customer, Peer, false),
        (Customer, Customer, false),
        (Peer, Peer, false),
        (Peer, Provider, true),
        (Peer, Customer, false),
        (Provider, Customer, true),
        (Provider, Peer, true),
        (Provider, Provider, true),
    ] {
        let world = chain(Some(ours), Some(onwards));
        assert_eq!(world.has(2, NET), goes_on, "{ours} then {onwards}");
        let marked = ours != Provider;
        assert_eq!(otc(&world, 1), marked.then_some(65001), "{ours}: who let it down or across first");
        if goes_on {
            let last = if marked { Some(65001) } else { (onwards != Customer).then_some(65002) };
            assert_eq!(otc(&world, 2), last, "{ours} then {onwards}");
        }
    }
}

#[test]
fn a_leak_is_not_used() {
    // The middle has no roles, and passes on to its provider what came from another one.
    let mut world = chain(None, None);
    assert_eq!((world.has(2, NET), otc(&world, 2)), (true, None));
    world.configure(0, |config| config.peers[0].role = Some(Role::Provider));
    world.configure(2, |config| config.peers[0].role = Some(Role::Provider));
    world.all_up(&[(0, 1), (1, 2)]);
    world.run(Duration::from_secs(5));
    let leak = &world.loc(2, NET)[0];
    assert_eq!(leak.why.as_deref(), Some("a route leak: it was only for customers (OTC)"));
    assert!(world.hosts[2].kernel.is_empty());
    // A peer's own mark is none.
    world.configure(2, |config| config.peers[0].role = Some(Role::Customer));
    world.until("no leak from a provider", |world| world.is_up(2, 1) && world.has(2, NET));
    assert_eq!(otc(&world, 2), Some(65001));
}

#[test]
fn roles_that_do_not_fit_are_refused() {
    let mut world = chain(Some(Role::Customer), None);
    world.configure(1, |config| config.peers[0].role = Some(Role::Peer));
    world.run(Duration::from_secs(30));
    assert!(!world.is_up(0, 1));
    let told = world.peer_of(1, 0).last_notification.unwrap();
    assert!(told.ends_with("OPEN Message Error / Role Mismatch"), "{told}");

    world.configure(1, |config| config.peers[0].role = None);
    world.until("without a role", |world| world.is_up(0, 1));
    world.configure(0, |config| config.peers[0].role_strict = true);
    world.run(Duration::from_secs(30));
    assert!(!world.is_up(0, 1), "RFC 9234 §4.2: strict mode");
}

#[test]
fn a_route_server_need_not_stand_in_the_path() {
    // RFC 7947 §2.2.2.1. The UPDATE is what a route server of AS 65001 passes on from its client of AS 65009.
    for (role, used) in [(None, false), (Some(Role::RsClient), true)] {
        let mut client = open(1, 65002, &[(0, 65001)]);
        client.peers[0].role = role;
        let mut world = World::new([open(0, 65001, &[(1, 65002)]), client]);
        world.all_up(&[(0, 1)]);
        let attributes = Attributes { as_path: AsPath::sequence([Asn(65009)]), ..Attributes::default() };
        let (mut bytes, nlri) = (Vec::new(), [Nlri::new(prefix(NET))]);
        let next_hop = NextHop::from(addr(0));
        encode_reach(&attributes, Family::Ipv4, next_hop, &nlri, &EncodeContext::default(), &mut bytes)
            .unwrap();
        let conn = *world.hosts[1].conns.keys().next().unwrap();
        world.input(1, Input::Received { conn, bytes: bytes.into() });
        world.run(Duration::from_secs(1));
        assert_eq!(world.has(1, NET), used, "{:?}", world.loc(1, NET));
    }
}

#[test]
fn a_peer_may_know_us_by_another_as_number() {
    // AS 65001 was AS 64500, and only its internal peer and host 2 know.
    let mut before = open(0, 65001, &[(1, 65002), (2, 65003)]);
    announce(&mut before, &[NET]);
    before.peers[0].local_as = Some(LocalAs { asn: Asn(64500), no_prepend: false, replace_as: false });
    let mut old = open(1, 65002, &[(0, 64500)]);
    announce(&mut old, &["10.2.0.0/16"]);
    let mut world = World::new([before, old, open(2, 65003, &[(0, 65001)])]);
    world.all_up(&[(0, 1), (0, 2)]);
    world.run(Duration::from_secs(5));
    let path = |world: &World, host, which| world.best(host, which).unwrap().as_path;
    assert_eq!(path(&world, 1, NET), "64500 65001", "RFC 7705 §3");
    assert_eq!(path(&world, 0, "10.2.0.0/16"), "64500 65002");
    assert_eq!(path(&world, 2, "10.2.0.0/16"), "65001 64500 65002");

    world.configure(0, |config| {
        config.peers[0].local_as = Some(LocalAs { asn: Asn(64500), no_prepend: true, replace_as: true });
    });
    world.run(Duration::from_secs(5));
    assert_eq!(path(&world, 1, NET), "64500", "§3.3");
    assert_eq!(path(&world, 2, "10.2.0.0/16"), "65001 65002");
    assert_eq!(world.peer_of(0, 1).flaps, 0, "no session is needed for that");
}

#[test]
fn both_of_our_as_numbers_are_loops() {
    let mut middle = open(1, 65002, &[(0, 65001), (2, 65001)]);
    middle.peers[0].local_as = Some(LocalAs { asn: Asn(64500), no_prepend: false, replace_as: false });
    let mut origin = open(0, 65001, &[(1, 64500)]);
    announce(&mut origin, &[NET]);
    let mut world = World::new([origin, middle, open(2, 65001, &[(1, 65002)])]);
    world.configure(2, |config| {
        config.asn = Asn(64500);
        config.peers[0].remote_as = Asn(65002).into();
    });
    world.configure(1, |config| config.peers[1].remote_as = Asn(64500).into());
    world.all_up(&[(0, 1), (1, 2)]);
    world.run(Duration::from_secs(5));
    // It went out as 65002 64500 65001.
    assert_eq!(world.loc(2, NET)[0].why.as_deref(), Some("our AS is in its AS_PATH"));
}
