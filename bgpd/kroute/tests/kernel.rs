//! Routes against the running kernel, each test in a network namespace of its own.
//!
//! ```text
//!  [test thread's netns]            [peer netns]
//!   up0 10.1.1.11/24 ──── veth ──── 10.1.1.1/24 (only addressed by the kernel's tables)
//!   up1 10.1.2.11/24 ──── veth ──── …
//! ```
//!
//! Verifies: what `ip route` shows after each step; adoption; healing; foreign routes left alone.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use turnpike_kroute::{Error, Hop, Owner, Report, Resolution, Routes, Target};

/// Runs `body` on a thread with a fresh network namespace, which the kernel removes when the thread ends.
fn in_netns(body: impl FnOnce() + Send + 'static) {
    let worker = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (this test needs root)");
        ip("link set lo up");
        for (name, address, address6) in
            [("up0", "10.1.1.11/24", "fd00:1:1::11/64"), ("up1", "10.1.2.11/24", "fd00:1:2::11/64")]
        {
            ip(&format!("link add {name} type veth peer name {name}p"));
            ip(&format!("link set {name}p up"));
            ip(&format!("link set {name} up"));
            ip(&format!("addr add {address} dev {name}"));
            ip(&format!("addr add {address6} dev {name} nodad"));
        }
        body();
    });
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn own_routes() -> Vec<String> {
    let mut lines: Vec<String> = ["-4", "-6"]
        .iter()
        .flat_map(|family| {
            let text = ip(&format!("{family} -o route show table main proto 202"));
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        })
        .collect();
    lines.sort();
    lines
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn via(hops: &[&str]) -> Target {
    Target::Via(hops.iter().map(|hop| Hop::from(address(hop))).collect::<Arc<[Hop]>>())
}

fn set(routes: &mut Routes, prefix: &str, target: Target) {
    routes.set(prefix.parse().unwrap(), target);
}

fn apply(routes: &mut Routes) -> Report {
    let report = routes.apply().unwrap();
    assert_eq!(routes.failures().len(), 0, "nothing is refused");
    report
}

/// Pumps and applies until `done`, woken by kernel events only.
fn pump_until(routes: &mut Routes, what: &str, mut done: impl FnMut(&mut Routes) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        routes.pump().unwrap();
        routes.apply().unwrap();
        if done(routes) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}; now: {:#?}", own_routes());
        let mut waits = [PollFd::new(routes.as_fd(), PollFlags::POLLIN)];
        poll(&mut waits, PollTimeout::from(100u8)).unwrap();
    }
}

fn ifindex(name: &str) -> u32 {
    let text = ip(&format!("-o link show {name}"));
    text.split(':').next().unwrap().trim().parse().unwrap()
}

#[test]
fn routes_of_every_kind_and_family_reach_the_kernel_and_leave_it() {
    in_netns(|| {
        ip("route add default via 10.1.1.1");
        let mut routes = Routes::open(Owner::BGPD).unwrap();
        set(&mut routes, "10.244.2.0/26", via(&["10.1.9.12"]));
        set(&mut routes, "fd00:244:2::/64", via(&["fd00:1:1::12"]));
        set(&mut routes, "10.244.3.0/26", via(&["10.1.1.12", "10.1.2.12"]));
        set(&mut routes, "fd00:244:3::/64", via(&["fd00:1:1::12", "fd00:1:2::12"]));
        set(&mut routes, "10.244.1.0/26", Target::Blackhole);
        set(&mut routes, "fd00:244:1::/64", Target::Blackhole);
        let up1 = ifindex("up1");
        set(
            &mut routes,
            "10.244.1.7/32",
            Target::Device { ifindex: up1, source: Some(address("10.1.1.11")) },
        );
        set(&mut routes, "fd00:244:1::7/128", Target::Device { ifindex: up1, source: None });
        let report = apply(&mut routes);
        assert_eq!((report.added, report.replaced, report.deleted), (8, 0, 0));
        let text = own_routes().join("\n");
        for expected in [
            " via 10.1.1.1 dev up0 metric 32",
            "10.244.1.7 dev up1 scope link src 10.1.1.11 metric 32",
            "blackhole 10.244.1.0/26 metric 32",
            "blackhole fd00:244:1::/64 dev lo metric 32",
            "fd00:244:1::7 dev up1 metric 32",
        ] {
            assert!(text.contains(expected), "{expected} is missing from\n{text}");
        }
        assert_eq!(text.matches("nexthop via 10.1.").count(), 2, "{text}");
        assert_eq!(text.matches("nexthop via fd00:1:").count(), 2, "{text}");

        assert_eq!(apply(&mut routes), Report::default(), "nothing left to write");
        let cleared = routes.clear().unwrap();
        assert_eq!(cleared.deleted, 8);
        assert_eq!(own_routes(), Vec::<String>::new());
        assert_eq!(ip("nexthop show"), "", "no nexthop object is left");
    });
}

#[test]
fn a_moved_next_hop_is_one_write_for_all_its_routes() {
    in_netns(|| {
        ip("route add 10.1.9.0/24 via 10.1.1.1");
        let mut routes = Routes::open(Owner::BGPD).unwrap();
        for third in 0..200 {
            set(&mut routes, &format!("10.50.{third}.0/24"), via(&["10.1.9.12"]));
        }
        assert_eq!(apply(&mut routes).added, 200);
        ip("route replace 10.1.9.0/24 via 10.1.2.1");
        routes.pump().unwrap();
        let report = apply(&mut routes);
        assert_eq!((report.nexthops, report.added, report.replaced), (1, 0, 0));
        assert!(own_routes().iter().all(|line| line.contains("via 10.1.2.1 dev up1")), "{:#?}", own_routes());

        // The underlay becomes multipath: routes move from the object to a group, none is deleted.
        ip("route replace 10.1.9.0/24 nexthop via 10.1.1.1 nexthop via 10.1.2.1");
        routes.pump().unwrap();
        let report = apply(&mut routes);
        assert_eq!((report.added, report.replaced, report.deleted), (0, 200, 0));
        assert!(
            own_routes().iter().all(|line| line.matches("nexthop via").count() == 2),
            "{:#?}",
            own_routes()
        );
        ip("route replace 10.1.9.0/24 via 10.1.2.1");
        routes.pump().unwrap();
        apply(&mut routes);
        assert_eq!(ip("nexthop show").lines().count(), 1, "the group and the spare object are gone");
    });
}

#[test]
fn a_successor_adopts_routes_without_writing_and_sweeps_only_when_told() {
    in_netns(|| {
        let wanted = |routes: &mut Routes| {
            set(routes, "10.244.2.0/26", via(&["10.1.1.12"]));
            set(routes, "10.244.3.0/26", via(&["10.1.1.13", "10.1.2.13"]));
            set(routes, "fd00:244:2::/64", via(&["fd00:1:1::12"]));
            set(routes, "10.244.1.0/26", Target::Blackhole);
        };
        let mut first = Routes::open(Owner::BGPD).unwrap();
        wanted(&mut first);
        set(&mut first, "10.99.0.0/16", via(&["10.1.2.99"]));
        apply(&mut first);
        let before = own_routes();
        drop(first);
        assert_eq!(own_routes(), before, "a process that ends leaves its routes");

        let mut second = Routes::open(Owner::BGPD).unwrap();
        wanted(&mut second);
        let report = apply(&mut second);
        assert_eq!((report.added, report.replaced, report.deleted, report.nexthops), (0, 0, 0, 0));
        assert_eq!(own_routes(), before, "the stale route stays until the sweep");
        second.sweep();
        assert_eq!(apply(&mut second).deleted, 1);
        assert_eq!(own_routes().len(), 4);
        assert!(!ip("nexthop show").contains("10.1.2.99"), "{}", ip("nexthop show"));
    });
}

#[test]
fn a_successor_with_another_metric_moves_routes_over() {
    in_netns(|| {
        let mut first = Routes::open(Owner { metric: 50, ..Owner::BGPD }).unwrap();
        set(&mut first, "10.244.2.0/26", via(&["10.1.1.12"]));
        apply(&mut first);
        drop(first);
        let mut second = Routes::open(Owner::BGPD).unwrap();
        set(&mut second, "10.244.2.0/26", via(&["10.1.1.12"]));
        apply(&mut second);
        second.sweep();
        apply(&mut second);
        let routes = own_routes();
        assert_eq!(routes.len(), 1, "{routes:#?}");
        assert!(routes[0].ends_with("metric 32"), "{routes:#?}");
    });
}

#[test]
fn deleted_routes_and_objects_are_put_back() {
    in_netns(|| {
        let mut routes = Routes::open(Owner::BGPD).unwrap();
        set(&mut routes, "10.244.2.0/26", via(&["10.1.1.12"]));
        set(&mut routes, "10.244.3.0/26", via(&["10.1.1.12", "10.1.2.12"]));
        set(&mut routes, "fd00:244:2::/64", via(&["fd00:1:1::12"]));
        set(&mut routes, "10.244.1.0/26", Target::Blackhole);
        apply(&mut routes);
        let before = own_routes();
        let healed = |_: &mut Routes| own_routes() == before;

        ip("route del 10.244.2.0/26 proto 202");
        ip("route del blackhole 10.244.1.0/26 proto 202");
        ip("-6 route del fd00:244:2::/64 proto 202");
        pump_until(&mut routes, "deleted routes come back", healed);
        // The kernel drops an IPv4 route with its object and says nothing about the route.
        ip("nexthop flush proto 202");
        pump_until(&mut routes, "routes on deleted objects come back", |_| {
            own_routes().len() == before.len()
        });
        assert_eq!(own_routes().join("\n").matches("via 10.1.").count(), 3, "{:#?}", own_routes());
    });
}

#[test]
fn routes_return_with_their_link() {
    in_netns(|| {
        let mut routes = Routes::open(Owner::BGPD).unwrap();
        let up0 = ifindex("up0");
        set(&mut routes, "10.244.2.0/26", via(&["10.1.1.12"]));
        set(&mut routes, "10.244.3.0/26", via(&["10.1.1.12", "10.1.2.12"]));
        set(&mut routes, "10.244.1.7/32", Target::Device { ifindex: up0, source: None });
        apply(&mut routes);
        ip("link set up0 down");
        pump_until(&mut routes, "only up1 is left", |_| {
            let now = own_routes();
            now.len() == 1 && now[0].contains("10.1.2.12")
        });
        ip("link set up0 up");
        pump_until(&mut routes, "all three are back", |_| {
            let now = own_routes();
            now.len() == 3 && now.join("\n").matches("dev up0").count() == 3
        });
    });
}

#[test]
fn foreign_routes_are_never_replaced_nor_deleted() {
    in_netns(|| {
        ip("route add 10.77.0.0/16 via 10.1.1.77 metric 32 proto static");
        ip("-6 route add fd00:77::/64 via fd00:1:1::77 metric 32 proto static");
        let foreign = || (ip("route show proto static"), ip("-6 route show proto static"));
        let before = foreign();
        let mut routes = Routes::open(Owner::BGPD).unwrap();
        set(&mut routes, "10.77.0.0/16", via(&["10.1.1.12"]));
        set(&mut routes, "fd00:77::/64", via(&["fd00:1:1::12"]));
        assert!(routes.apply().unwrap().failures_changed);
        assert_eq!(routes.failures().len(), 2);
        assert!(routes.failures().iter().all(|failure| failure.is_conflict()));
        assert_eq!(foreign(), before);
        routes.remove("10.77.0.0/16".parse().unwrap());
        routes.apply().unwrap();
        assert_eq!(foreign(), before);

        // The way becomes free: ours goes in without being asked again.
        ip("-6 route del fd00:77::/64 metric 32");
        pump_until(&mut routes, "our route takes the free place", |_| own_routes().len() == 1);

        // Somebody replaces ours with theirs: theirs stays.
        ip("-6 route replace fd00:77::/64 via fd00:1:1::77 metric 32 proto static");
        routes.pump().unwrap();
        routes.apply().unwrap();
        assert!(routes.failures().iter().any(|failure| failure.is_conflict()));
        assert!(ip("-6 route show proto static").contains("fd00:77::/64"));
    });
}

#[test]
fn a_protocol_number_in_other_hands_is_refused() {
    in_netns(|| {
        ip("route add 10.77.0.0/16 via 10.1.1.77 proto 202");
        let refused = Routes::open(Owner::BGPD).err().expect("refused");
        assert!(matches!(refused, Error::ProtocolInUse { protocol: 202, .. }), "{refused}");
        ip("route del 10.77.0.0/16");
        let first = Routes::open(Owner::BGPD).unwrap();
        let refused = Routes::open(Owner::BGPD).err().expect("refused");
        assert!(matches!(refused, Error::OwnerRunning { protocol: 202 }), "{refused}");
        let other = Routes::open(Owner::AGENT).unwrap();
        drop((first, other));
        Routes::open(Owner::BGPD).unwrap();
        let refused = Routes::open(Owner { protocol: 186, ..Owner::BGPD }).err().expect("refused");
        assert!(matches!(refused, Error::AssignedProtocol(186)), "{refused}");
    });
}

#[test]
fn next_hops_are_followed_and_own_routes_do_not_count() {
    in_netns(|| {
        let mut routes = Routes::open(Owner::BGPD).unwrap();
        let hop = Hop::from(address("10.9.0.1"));
        assert_eq!(routes.track(hop).unwrap(), Resolution::Unreachable);
        assert_eq!(routes.track(Hop::from(address("10.1.1.11"))).unwrap(), Resolution::Local);
        assert_eq!(routes.track(Hop::from(address("fd00:1:1::99"))).unwrap().gateways().len(), 1);
        routes.take_changes();

        // A route of our own over the next hop is not a way to it…
        set(&mut routes, "10.9.0.0/24", via(&["10.1.1.12"]));
        apply(&mut routes);
        routes.pump().unwrap();
        assert_eq!(routes.take_changes(), []);
        // … and does not hide somebody else's shorter one.
        ip("route add 10.8.0.0/15 via 10.1.1.1 metric 7");
        routes.pump().unwrap();
        let changes = routes.take_changes();
        let [(changed, Resolution::Reachable { gateways, metric: 7 })] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        assert_eq!((*changed, gateways[0].address), (hop, address("10.1.1.1")));
        ip("route del 10.8.0.0/15");
        routes.pump().unwrap();
        assert_eq!(routes.take_changes(), [(hop, Resolution::Unreachable)]);
        ip("route add blackhole 10.8.0.0/15");
        routes.pump().unwrap();
        assert_eq!(routes.take_changes(), []);
    });
}

#[test]
fn an_overrun_of_the_event_socket_is_healed() {
    in_netns(|| {
        let mut routes = Routes::open(Owner::BGPD).unwrap();
        let hop = Hop::from(address("10.9.0.1"));
        routes.track(hop).unwrap();
        set(&mut routes, "10.244.2.0/26", via(&["10.1.1.12"]));
        apply(&mut routes);
        // Far more foreign events than the queue holds, ending with two that matter.
        let mut script = String::new();
        for round in 0..60_000 {
            let verb = if round % 2 == 0 { "add" } else { "del" };
            script.push_str(&format!("route {verb} 10.200.0.0/16 via 10.1.1.1\n"));
        }
        script.push_str("route del 10.244.2.0/26 proto 202\nroute add 10.9.0.0/24 via 10.1.1.1\n");
        let path = std::env::temp_dir().join(format!("turnpike-kroute-{}", std::process::id()));
        std::fs::write(&path, script).unwrap();
        ip(&format!("-batch {}", path.display()));
        std::fs::remove_file(&path).unwrap();
        pump_until(&mut routes, "healed after the overrun", |routes| {
            own_routes().len() == 1 && routes.take_changes().iter().any(|(changed, _)| *changed == hop)
        });
    });
}
