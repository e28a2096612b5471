//! Paths between speakers: next hops, attributes, selection, kernel routes, packing, refresh.

use std::time::Duration;

use turnpike_bgp_core::config::{ExportNextHop, Network, PolicyChoice};
use turnpike_bgp_core::{Event, SelectionReason};
use turnpike_bgp_wire::{Community, Families, Prefix, Prefix4};

use crate::world::{World, addr, announce, open, prefix};

#[test]
fn a_network_reaches_the_neighbours_kernel_and_leaves_it_again() {
    let mut world = World::new([open(0, 65001, &[(1, 65001)]), open(1, 65001, &[(0, 65001)])]);
    world.all_up(&[(0, 1)]);
    world.configure(0, |config| announce(config, &["10.244.1.0/26"]));
    world.until("the route is there", |world| world.has(1, "10.244.1.0/26"));
    let path = world.best(1, "10.244.1.0/26").unwrap();
    assert_eq!((path.local_pref, path.as_path.as_str(), path.origin), (Some(100), "", "IGP"));
    assert_eq!(path.next_hop.unwrap().addr, addr(0));
    assert_eq!(world.kernel_of(1, "10.244.1.0/26"), [addr(0)]);
    assert!(world.hosts[0].kernel.is_empty(), "our own networks are not the kernel's affair");
    world.configure(0, |config| config.networks.clear());
    world.run(Duration::from_secs(1));
    assert!(world.hosts[1].kernel.is_empty() && world.hosts[1].tracked.is_empty());
    assert_eq!(world.speaker(1).view().paths.ipv4, 0);
}

#[test]
fn between_ases_the_path_grows_and_inner_attributes_stay_inside() {
    // RFC 4271 §5.1: 0 -(eBGP)- 1 -(iBGP)- 2 -(eBGP)- 3.
    let mut origin = open(0, 65001, &[(1, 65002)]);
    origin.networks.push(Network {
        med: Some(50),
        local_pref: Some(300),
        ..Network::new(prefix("10.1.0.0/16"))
    });
    let mut world = World::new([
        origin,
        open(1, 65002, &[(0, 65001), (2, 65002)]),
        open(2, 65002, &[(1, 65002), (3, 65003)]),
        open(3, 65003, &[(2, 65002)]),
    ]);
    world.until("it has come all the way", |world| world.has(3, "10.1.0.0/16"));
    let at = |host| world.best(host, "10.1.0.0/16").unwrap();
    let brief = |host| {
        let path = at(host);
        (path.as_path, path.med, path.local_pref, path.next_hop.unwrap().addr)
    };
    assert_eq!(brief(1), ("65001".to_owned(), Some(50), None, addr(0)));
    assert_eq!(
        brief(2),
        ("65001".to_owned(), Some(50), Some(100), addr(0)),
        "next hop unchanged inside the AS"
    );
    assert_eq!(brief(3), ("65002 65001".to_owned(), None, None, addr(2)), "MED does not go on");
}

#[test]
fn next_hop_self_replaces_external_next_hops() {
    let mut middle = open(1, 65002, &[(0, 65001), (2, 65002)]);
    middle.peers[1].next_hop = ExportNextHop::SelfExternal;
    let mut origin = open(0, 65001, &[(1, 65002)]);
    announce(&mut origin, &["10.1.0.0/16"]);
    let mut world = World::new([origin, middle, open(2, 65002, &[(1, 65002)])]);
    world.until("it has come", |world| world.has(2, "10.1.0.0/16"));
    assert_eq!(world.best(2, "10.1.0.0/16").unwrap().next_hop.unwrap().addr, addr(1));
}

#[test]
fn an_as_path_with_our_as_is_refused_unless_allowed() {
    // RFC 4271 §9: two sites of AS 65001 joined by AS 65002.
    let mut origin = open(0, 65001, &[(1, 65002)]);
    announce(&mut origin, &["10.1.0.0/16"]);
    let mut world =
        World::new([origin, open(1, 65002, &[(0, 65001), (2, 65001)]), open(2, 65001, &[(1, 65002)])]);
    world.all_up(&[(0, 1), (1, 2)]);
    world.run(Duration::from_secs(5));
    let refused = &world.loc(2, "10.1.0.0/16")[0];
    assert_eq!(refused.why.as_deref(), Some("our AS is in its AS_PATH"));
    assert!(world.hosts[2].kernel.is_empty());
    world.configure(2, |config| config.peers[0].allow_own_as = 1);
    world.run(Duration::from_secs(5));
    assert!(world.has(2, "10.1.0.0/16"), "without a new session or a refresh");
    assert_eq!(world.peer_of(2, 1).flaps, 0);
}

#[test]
fn internal_paths_are_not_passed_on_inside_the_as() {
    let mut origin = open(0, 65001, &[(1, 65001)]);
    announce(&mut origin, &["10.1.0.0/16"]);
    let mut world =
        World::new([origin, open(1, 65001, &[(0, 65001), (2, 65001)]), open(2, 65001, &[(1, 65001)])]);
    world.all_up(&[(0, 1), (1, 2)]);
    world.run(Duration::from_secs(5));
    assert!(world.has(1, "10.1.0.0/16") && !world.has(2, "10.1.0.0/16"));
}

/// 0 and 1 in AS 65001 announce the same prefix to 2 in AS 65002.
fn two_origins() -> World {
    let mut one = open(0, 65001, &[(2, 65002)]);
    announce(&mut one, &["10.9.0.1/32"]);
    let mut other = open(1, 65001, &[(2, 65002)]);
    announce(&mut other, &["10.9.0.1/32"]);
    let mut world = World::new([one, other, open(2, 65002, &[(0, 65001), (1, 65001)])]);
    world.until("both have come", |world| world.loc(2, "10.9.0.1/32").len() == 2);
    world
}

#[test]
fn equal_paths_share_the_kernels_route() {
    let mut world = two_origins();
    world.run(Duration::from_secs(1));
    assert_eq!(world.kernel_of(2, "10.9.0.1/32"), [addr(0), addr(1)]);
    let loser = world.loc(2, "10.9.0.1/32").remove(1);
    assert_eq!((loser.multipath, loser.why.as_deref()), (true, Some("higher BGP identifier")));
    world.configure(2, |config| config.multipath.ebgp = 1);
    assert_eq!(world.kernel_of(2, "10.9.0.1/32"), [addr(0)]);
    world.configure(2, |config| config.multipath.ebgp = 16);
    world.configure(0, |config| config.networks[0].med = Some(10));
    world.run(Duration::from_secs(1));
    assert_eq!(world.kernel_of(2, "10.9.0.1/32"), [addr(1)], "a worse MED is no longer equal");
}

#[test]
fn a_next_hop_that_cannot_be_reached_takes_its_paths_out_of_use() {
    let mut world = two_origins();
    world.hosts[2].unreachable.insert(addr(0));
    world.report(2, addr(0));
    assert_eq!(world.kernel_of(2, "10.9.0.1/32"), [addr(1)]);
    let lost = world.loc(2, "10.9.0.1/32").into_iter().find(|path| !path.best).unwrap();
    assert_eq!((lost.metric, lost.why.as_deref()), (None, Some("next hop unreachable")));
    world.hosts[2].unreachable.insert(addr(1));
    world.report(2, addr(1));
    assert!(world.hosts[2].kernel.is_empty());
    world.hosts[2].unreachable.clear();
    world.hosts[2].metrics.insert(addr(0), 20);
    world.hosts[2].metrics.insert(addr(1), 10);
    world.report(2, addr(0));
    world.report(2, addr(1));
    assert_eq!(world.kernel_of(2, "10.9.0.1/32"), [addr(1)], "the nearer exit");
}

#[test]
fn many_prefixes_with_the_same_attributes_travel_in_few_messages() {
    let mut world = World::new([open(0, 65001, &[(1, 65001)]), open(1, 65001, &[(0, 65001)])]);
    world.all_up(&[(0, 1)]);
    world.seen.clear();
    let blocks = (0..5000_u32).map(|index| Prefix4::new(0x0af4_0000 + (index << 6), 26).unwrap());
    world.configure(0, |config| config.networks.extend(blocks.map(|block| Network::new(block.into()))));
    world.until("all are there", |world| world.hosts[1].kernel.len() == 5000);
    let updates = world.updates(0, 1);
    assert!(updates.len() <= 2, "{} messages for 25 kB of prefixes with extended messages", updates.len());
    world.seen.clear();
    world.configure(0, |config| config.networks.clear());
    world.until("all are gone", |world| world.hosts[1].kernel.is_empty());
    assert!(world.updates(0, 1).len() <= 2);
}

#[test]
fn what_comes_and_goes_between_two_looks_is_not_told() {
    let mut world = World::new([open(0, 65001, &[(1, 65001)]), open(1, 65001, &[(0, 65001)])]);
    world.all_up(&[(0, 1)]);
    world.configure(0, |config| config.unsent_limit = 1 << 14);
    world.hosts[0].stuck = true;
    let filler = (0..20_000_u32)
        .map(|index| Network::new(Prefix4::new(0x1000_0000 + (index << 8), 24).unwrap().into()));
    world.configure(0, |config| config.networks.extend(filler));
    world.run(Duration::from_secs(1));
    let before = world.speaker(1).view().paths.ipv4;
    assert!(before < 20_000, "the peer does not read: {before} were sent");
    let kept = world.peer_of(0, 1).session.unwrap().unsent;
    assert!(kept < 1 << 16, "{kept} bytes wait");
    world.seen.clear();
    for _ in 0..3 {
        world.configure(0, |config| announce(config, &["10.1.0.0/16"]));
        world
            .configure(0, |config| config.networks.retain(|network| network.prefix != prefix("10.1.0.0/16")));
    }
    world.unstick(0);
    world.until("all are there", |world| world.speaker(1).view().paths.ipv4 == 20_000);
    let told = world.updates(0, 1);
    assert!(told.iter().all(|update| update.announced().all(|told| told != prefix("10.1.0.0/16"))));
}

#[test]
fn communities_that_keep_paths_back_are_obeyed() {
    // RFC 1997: 0 - 1 -(iBGP)- 2 -(eBGP)- 3.
    let mut origin = open(0, 65001, &[(1, 65002)]);
    origin
        .networks
        .push(Network { communities: vec![Community::NO_EXPORT], ..Network::new(prefix("10.1.0.0/16")) });
    origin
        .networks
        .push(Network { communities: vec![Community::NO_ADVERTISE], ..Network::new(prefix("10.2.0.0/16")) });
    origin.peers[0].export = PolicyChoice::AcceptAll;
    let mut world = World::new([
        {
            // The origin must not keep them back itself: it is one AS with host 1.
            let mut config = open(0, 65002, &[(1, 65002)]);
            config.networks = origin.networks.clone();
            config
        },
        open(1, 65002, &[(0, 65002), (2, 65003)]),
        open(2, 65003, &[(1, 65002)]),
    ]);
    world.all_up(&[(0, 1), (1, 2)]);
    world.run(Duration::from_secs(5));
    assert!(world.has(1, "10.1.0.0/16") && !world.has(2, "10.1.0.0/16"));
    assert!(!world.has(1, "10.2.0.0/16"));
}

#[test]
fn ipv6_prefixes_need_an_ipv6_next_hop() {
    let both = |host, other| {
        let mut config = open(host, 65001, &[(other, 65001)]);
        config.peers[0].families = Families::BOTH;
        config
    };
    let mut one = both(0, 1);
    announce(&mut one, &["fd00:244:1::/64", "10.1.0.0/16"]);
    let mut world = World::new([one, both(1, 0)]);
    world.all_up(&[(0, 1)]);
    world.run(Duration::from_secs(2));
    assert!(
        world.has(1, "10.1.0.0/16") && !world.has(1, "fd00:244:1::/64"),
        "no address to name as next hop"
    );
    world.configure(0, |config| config.addresses.ipv6 = Some("fd00:1::1".parse().unwrap()));
    world.until("the path is there", |world| world.has(1, "fd00:244:1::/64"));
    assert_eq!(world.best(1, "fd00:244:1::/64").unwrap().next_hop.unwrap().to_string(), "fd00:1::1");
}

#[test]
fn the_first_start_is_complete_when_the_configuration_is() {
    let mut one = open(0, 65001, &[(1, 65001)]);
    one.complete = false;
    announce(&mut one, &["10.1.0.0/16"]);
    let mut world = World::new([one, open(1, 65001, &[(0, 65001)])]);
    world.all_up(&[(0, 1)]);
    world.run(Duration::from_secs(5));
    assert!(world.has(1, "10.1.0.0/16"), "paths flow at once");
    let ended = |world: &World| world.updates(0, 1).iter().any(|update| update.end_of_rib.is_some());
    assert!(!ended(&world), "frr#22623: more prefixes may be on their way");
    world.configure(0, |config| {
        announce(config, &["10.2.0.0/16"]);
        config.complete = true;
    });
    world.run(Duration::from_secs(1));
    assert!(ended(&world));
    let order = world.updates(0, 1);
    let end = order.iter().position(|update| update.end_of_rib.is_some()).unwrap();
    let late =
        order.iter().position(|update| update.announced().any(|told| told == prefix("10.2.0.0/16"))).unwrap();
    assert!(late < end, "End-of-RIB comes last");
    let complete =
        |event: &Event| matches!(event, Event::SelectionComplete { reason: SelectionReason::Fresh, .. });
    assert!(world.hosts[0].events.iter().any(complete));
}

#[test]
fn a_changed_attribute_replaces_the_path_in_one_message() {
    let mut origin = open(0, 65001, &[(1, 65001)]);
    announce(&mut origin, &["10.1.0.0/16"]);
    let mut world = World::new([origin, open(1, 65001, &[(0, 65001)])]);
    world.until("it is there", |world| world.has(1, "10.1.0.0/16"));
    world.seen.clear();
    world.configure(0, |config| config.networks[0].med = Some(7));
    world.run(Duration::from_secs(1));
    assert_eq!(world.best(1, "10.1.0.0/16").unwrap().med, Some(7));
    let updates = world.updates(0, 1);
    assert_eq!(updates.len(), 1);
    assert!(updates[0].unreach.is_empty());
    let same: Prefix = prefix("10.1.0.0/16");
    assert!(updates[0].announced().eq([same]));
}

fn ipv6_addr(host: usize) -> std::net::IpAddr {
    format!("fd00::{}", host + 1).parse().unwrap()
}

fn link_local(host: usize) -> std::net::IpAddr {
    format!("fe80::{}", host + 1).parse().unwrap()
}

/// A session over IPv6 between two ASes.
fn over_ipv6(addr: fn(usize) -> std::net::IpAddr, extended: bool) -> World {
    let one = |host: usize, asn, other, other_asn| {
        let mut config = open(host, asn, &[(other, other_asn)]);
        config.peers[0].remote = addr(other);
        config.peers[0].families = Families::BOTH;
        config.peers[0].extended_next_hop = extended;
        config.peers[0].transport.scope = if addr(other).to_string().starts_with("fe80") { 7 } else { 0 };
        config
    };
    let mut first = one(0, 65001, 1, 65002);
    announce(&mut first, &["10.1.0.0/16", "fd00:244:1::/64"]);
    let mut world = World::at(addr, [first, one(1, 65002, 0, 65001)]);
    world.all_up(&[(0, 1)]);
    world.run(Duration::from_secs(2));
    world
}

#[test]
fn ipv4_goes_over_ipv6_next_hops_where_both_sides_say_so() {
    // RFC 8950.
    let world = over_ipv6(ipv6_addr, true);
    assert_eq!(world.kernel_of(1, "10.1.0.0/16"), [ipv6_addr(0)]);
    assert_eq!(world.kernel_of(1, "fd00:244:1::/64"), [ipv6_addr(0)]);
    let mut world = over_ipv6(ipv6_addr, false);
    assert!(!world.has(1, "10.1.0.0/16") && world.has(1, "fd00:244:1::/64"), "no IPv4 address to name");
    world.configure(0, |config| config.addresses.ipv4 = Some("192.0.2.1".parse().unwrap()));
    world.run(Duration::from_secs(1));
    assert_eq!(world.kernel_of(1, "10.1.0.0/16").len(), 1);
}

#[test]
fn a_link_local_next_hop_carries_its_link() {
    let world = over_ipv6(link_local, true);
    let path = world.best(1, "10.1.0.0/16").unwrap();
    assert_eq!(path.next_hop.unwrap().to_string(), "fe80::1%7");
    assert_eq!(world.hosts[1].kernel[&prefix("fd00:244:1::/64")][0].scope, 7);
}

#[test]
fn a_refresh_repeats_everything_between_its_markers() {
    // RFC 7313: discarded prefixes are asked for again; the answer is marked.
    let mut world = World::new([open(0, 65001, &[(1, 65001)]), open(1, 65001, &[(0, 65001)])]);
    world.configure(1, |config| {
        config.peers[0].max_prefix = Some(turnpike_bgp_core::config::MaxPrefix {
            limit: 2,
            action: turnpike_bgp_core::config::MaxPrefixAction::Discard,
        });
    });
    world.all_up(&[(0, 1)]);
    world.configure(0, |config| announce(config, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]));
    world.run(Duration::from_secs(1));
    world.seen.clear();
    world.configure(0, |config| {
        config.networks.remove(0);
    });
    world.run(Duration::from_secs(1));
    assert!(world.has(1, "10.2.0.0/16") && world.has(1, "10.3.0.0/16"));
    let kinds: Vec<String> = world
        .seen
        .iter()
        .map(|seen| match seen.kind {
            turnpike_bgp_wire::MessageType::RouteRefresh => {
                format!("{:?}", turnpike_bgp_wire::RouteRefresh::decode(&seen.body).unwrap().unwrap().kind)
            }
            kind => format!("{kind:?}"),
        })
        .collect();
    assert_eq!(kinds, ["Update", "Request", "Begin", "Update", "End"]);
}
