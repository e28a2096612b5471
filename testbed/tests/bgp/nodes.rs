//! Cluster nodes that learn each other's blocks through route reflectors; the topology is in `bgp/centre.rs`.

use crate::centre::{Centre, PEERS, kernel_routes, wait_block};
use crate::daemon::DEADLINE;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use turnpike_testbed::speakers::{Announcement, Kind, describe, wait_best, wait_rib};
use turnpike_testbed::{Lab, Node, poll_result};

fn ping(from: &Node, source: &str, to: &str) -> Result<()> {
    poll_result(DEADLINE, &format!("ping {to} from {source}"), || {
        from.run(&["ping", "-n", "-c", "1", "-W", "1", "-I", source, to]).map(drop)
    })
}

/// Verifies: blocks cross both reflectors (BIRD and ours) with the announcing node as next hop; kernels resolve it
/// through the router, over both families; addresses in the blocks reach each other; the gateway holds both blocks with
/// originator and cluster list; a node takes nothing but pools; a new way to the next hop moves the routes without any
/// BGP message.
#[test]
fn nodes_learn_each_others_blocks_through_two_reflectors() {
    let lab = Lab::new("bgp-nodes").unwrap();
    let centre = Centre::build(&lab).unwrap();
    let [mut rr1, rr2, gateway] = centre.start_reflectors(Kind::Bird, Kind::Turnpike).unwrap();
    let (one, two) = (centre.start_node(1).unwrap(), centre.start_node(2).unwrap());
    for name in PEERS {
        one.wait_established(name).unwrap();
        two.wait_established(name).unwrap();
    }
    wait_block(&centre.node1, 1, 2).unwrap();
    wait_block(&centre.node2, 2, 1).unwrap();
    ping(&centre.node1, "10.244.1.1", "10.244.2.1").unwrap();
    ping(&centre.node2, "fd00:244:2::1", "fd00:244:1::1").unwrap();
    let why =
        one.client().unwrap().why(turnpike_bgpd_api::Select::Longest("10.244.2.1".parse().unwrap())).unwrap();
    assert_eq!(why.paths.len(), 2, "one from each reflector");
    assert_eq!(why.nexthops.len(), 1, "both name the same next hop");
    assert_eq!(
        (why.nexthops[0].address.as_str(), why.nexthops[0].via[0].as_str()),
        ("10.1.2.12", "10.1.1.1 dev eth0")
    );

    let best = wait_rib(&*gateway, "both blocks from both reflectors", |rib| rib.len() == 8).unwrap();
    let best: Vec<_> = best.into_iter().filter(|entry| entry.best).collect();
    let table = describe(&best);
    for expected in ["10.244.1.0/26", "10.244.2.0/26", "fd00:244:1::/64", "fd00:244:2::/64"] {
        let line = table.lines().find(|line| line.starts_with(&format!("*{expected} "))).unwrap_or_default();
        let number = if expected.contains("244.1.") || expected.contains("244:1:") {
            ("10.1.1.11", ":1::11")
        } else {
            ("10.1.2.12", ":2::12")
        };
        assert!(line.contains(&format!("via {} ", number.0)) || line.contains(number.1), "{table}");
        assert!(line.contains(&format!("originator {}", number.0)), "{table}");
    }

    // Not a pool, a default route, our own block, and a piece of our own block: none is taken.
    for unwanted in ["10.1.2.0/25", "0.0.0.0/0", "10.244.1.0/26", "10.244.1.0/28", "fd00:1:2::/80"] {
        rr1.announce(Announcement::new(unwanted).unwrap()).unwrap();
    }
    rr1.announce(Announcement::new("10.244.9.0/26").unwrap()).unwrap();
    poll_result(DEADLINE, "the one that is wanted", || {
        let routes = kernel_routes(&centre.node1)?;
        ensure!(routes.iter().any(|line| line.starts_with("10.244.9.0/26 via 10.1.1.1")), "{routes:#?}");
        ensure!(one.peer("rr1-ipv4")?.received.ipv4 >= 6, "not everything has come");
        Ok(())
    })
    .unwrap();
    assert_eq!(
        kernel_routes(&centre.node1).unwrap(),
        [
            "10.244.2.0/26 via 10.1.1.1 dev eth0 metric 32",
            "10.244.9.0/26 via 10.1.1.1 dev eth0 metric 32",
            "blackhole 10.244.1.0/26 metric 32",
            "blackhole fd00:244:1::/64 dev lo metric 32 pref medium",
            "fd00:244:2::/64 via fd00:1:1::1 dev eth0 metric 32 pref medium",
        ]
    );

    // Another router appears on node1's link, with a better way to node2.
    let before = one.peer("rr1-ipv4").unwrap().updates_in;
    centre.tor.addr("node1", "10.1.1.2/24").unwrap();
    centre.node1.route("10.1.2.0/24 via 10.1.1.2").unwrap();
    poll_result(DEADLINE, "the new way", || {
        let routes = kernel_routes(&centre.node1)?;
        ensure!(
            routes.iter().any(|line| line.starts_with("10.244.2.0/26 via 10.1.1.2 dev eth0")),
            "{routes:#?}"
        );
        Ok(())
    })
    .unwrap();
    assert_eq!(one.peer("rr1-ipv4").unwrap().updates_in, before, "no BGP message was needed");
    centre.node1.route_del("10.1.2.0/24 via 10.1.1.2").unwrap();
    wait_block(&centre.node1, 1, 2).unwrap();
    drop((rr2, two));
    one.end(Signal::SIGTERM).unwrap();
    lab.finish().unwrap();
}

/// Verifies: routes that somebody deletes, and routes that the kernel drops with a link, come back; a next hop that
/// loses its way takes its routes along until it is back.
#[test]
fn kernel_routes_are_put_back_and_follow_the_underlay() {
    let lab = Lab::new("bgp-heal").unwrap();
    let centre = Centre::build(&lab).unwrap();
    let _speakers = centre.start_reflectors(Kind::Turnpike, Kind::Bird).unwrap();
    let (one, _two) = (centre.start_node(1).unwrap(), centre.start_node(2).unwrap());
    wait_block(&centre.node1, 1, 2).unwrap();
    let node = &centre.node1;
    node.run(&["ip", "route", "del", "10.244.2.0/26", "proto", "202"]).unwrap();
    wait_block(node, 1, 2).unwrap();
    node.run(&["ip", "nexthop", "flush", "proto", "202"]).unwrap();
    wait_block(node, 1, 2).unwrap();

    // More specific than the default route, and rejecting: the next hop cannot be reached.
    node.run(&["ip", "route", "add", "unreachable", "10.1.2.12/32"]).unwrap();
    poll_result(DEADLINE, "the route without a next hop goes", || {
        let routes = kernel_routes(node)?;
        ensure!(!routes.iter().any(|line| line.starts_with("10.244.2.0/26")), "{routes:#?}");
        Ok(())
    })
    .unwrap();
    let why = one
        .client()
        .unwrap()
        .why(turnpike_bgpd_api::Select::Exact("10.244.2.0/26".parse().unwrap()))
        .unwrap();
    assert!(why.paths.iter().all(|path| !path.best && path.metric.is_none()), "{why:?}");
    node.run(&["ip", "route", "del", "unreachable", "10.1.2.12/32"]).unwrap();
    wait_block(node, 1, 2).unwrap();

    node.link_down("eth0").unwrap();
    poll_result(DEADLINE, "no route without a link", || {
        let routes = kernel_routes(node)?;
        ensure!(routes.iter().all(|line| line.starts_with("blackhole")), "{routes:#?}");
        Ok(())
    })
    .unwrap();
    node.link_up("eth0").unwrap();
    node.sysctl("net.ipv6.conf.eth0.accept_dad", "0").unwrap();
    node.run_unchecked(&["ip", "addr", "add", "fd00:1:1::11/64", "dev", "eth0", "nodad"]).unwrap();
    node.route("default via 10.1.1.1").unwrap();
    node.route("default via fd00:1:1::1").unwrap();
    wait_block(node, 1, 2).unwrap();
    lab.finish().unwrap();
}

/// Verifies: the gateway's table is the same with the two reflectors' makers swapped.
#[test]
fn the_gateway_sees_the_same_table_whoever_reflects() {
    let mut tables = Vec::new();
    for (first, second) in [(Kind::Bird, Kind::Turnpike), (Kind::Turnpike, Kind::Bird)] {
        let lab = Lab::new("bgp-swap").unwrap();
        let centre = Centre::build(&lab).unwrap();
        let [_rr1, _rr2, gateway] = centre.start_reflectors(first, second).unwrap();
        let _nodes = (centre.start_node(1).unwrap(), centre.start_node(2).unwrap());
        for prefix in ["10.244.1.0/26", "fd00:244:2::/64"] {
            wait_best(&*gateway, prefix.parse().unwrap()).unwrap();
        }
        let rib = wait_rib(&*gateway, "both blocks from both reflectors", |rib| rib.len() == 8).unwrap();
        // Which of two equal paths FRR takes is a matter of age.
        let rib: Vec<_> = rib
            .into_iter()
            .map(|mut entry| {
                entry.best = false;
                entry
            })
            .collect();
        tables.push(describe(&rib));
        lab.finish().unwrap();
    }
    assert_eq!(tables[0], tables[1]);
}
