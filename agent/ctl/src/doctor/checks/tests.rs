use super::super::facts::{
    AgentFacts, Clock, Cni, DroppingChain, Firewalld, Kernel, Managers, Policy, Queues, Softnet, Zone,
};
use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host without a mistake.
fn healthy() -> Facts {
    let sysctls = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/eth0/rp_filter", "1"),
        ("net/ipv6/conf/eth0/accept_ra", "2"),
    ];
    let default = |is_ipv6: bool, gateway: &str| Route {
        is_ipv6,
        gateways: vec![ip(gateway)],
        device: "eth0".into(),
        protocol: 4,
        ..Route::default()
    };
    let pod = Route {
        destination: Some((ip("10.244.1.2"), 32)),
        device: "tpk0".into(),
        protocol: 201,
        ..Route::default()
    };
    Facts {
        sysctls: sysctls.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        links: vec![Link {
            name: "eth0".into(),
            mtu: 1500,
            up: true,
            addresses: vec![(ip("10.1.1.11"), 24), (ip("fd00:1::11"), 64)],
        }],
        routes: vec![default(false, "10.1.1.1"), default(true, "fd00:1::1"), pod],
        kernel: Kernel { release: "6.1.0-18-amd64".into(), btf: true, bpffs: true, cgroup2: true },
        managers: Managers::default(),
        cni: Cni {
            folder: "/etc/cni/net.d".into(),
            files: vec![("10-turnpike.conflist".into(), vec!["turnpike-cni".into()])],
            binary: true,
            maps_ports: true,
        },
        agent: Some(AgentFacts {
            pools: vec![("v4".into(), ip("10.244.0.0"), 16), ("v6".into(), ip("fd00:244::"), 48)],
            pod_mtu: Some(1500),
            ..AgentFacts::default()
        }),
        route_protocol: 201,
        clock: Clock { unix_s: 1_800_000_000, synchronised: Some(true) },
        softnet: vec![Softnet { processed: 1_000_000, dropped: 1 }; 2],
        ..Facts::default()
    }
}

/// The one check that is not good on a healthy host with this mistake.
fn with(mistake: impl FnOnce(&mut Facts)) -> (&'static str, Verdict, String) {
    let mut facts = healthy();
    mistake(&mut facts);
    let mut found: Vec<Check> =
        all(&facts).into_iter().filter(|check| check.verdict != Verdict::Good).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let check = found.remove(0);
    (check.name, check.verdict, format!("{} → {}", check.found, check.remedy.expect("a remedy")))
}

fn named((name, verdict, words): (&'static str, Verdict, String), parts: &[&str]) -> (&'static str, Verdict) {
    for part in parts {
        assert!(words.contains(part), "`{part}` is not in: {words}");
    }
    (name, verdict)
}

#[test]
fn a_healthy_host_is_called_good() {
    let bad: Vec<Check> =
        all(&healthy()).into_iter().filter(|check| check.verdict != Verdict::Good).collect();
    assert_eq!(bad, []);
}

#[test]
fn each_mistake_of_a_host_is_found_by_one_check_with_its_remedy() {
    let set = |key: &str, value: &str| {
        let (key, value) = (key.to_owned(), value.to_owned());
        move |facts: &mut Facts| drop(facts.sysctls.insert(key, value))
    };
    assert_eq!(
        named(with(set("net/ipv4/ip_forward", "0")), &["IPv4", "sysctl -w"]),
        ("forwarding", Verdict::Bad)
    );
    assert_eq!(
        named(with(set("net/ipv4/conf/all/rp_filter", "2")), &["loose"]),
        ("rp_filter", Verdict::Warn)
    );
    let networkd = with(|facts| facts.managers.networkd = true);
    assert_eq!(named(networkd, &["deploy/networkd"]), ("networkd", Verdict::Bad));
    let manager = with(|facts| facts.managers.network_manager = true);
    assert_eq!(named(manager, &["deploy/NetworkManager"]), ("NetworkManager", Verdict::Bad));
    let no_default = with(|facts| facts.routes.retain(|route| route.is_ipv6 || route.destination.is_some()));
    assert_eq!(named(no_default, &["IPv4", "ip route add"]), ("default route", Verdict::Warn));
    let docker = with(|facts| {
        let bridge =
            Link { name: "docker0".into(), addresses: vec![(ip("10.244.9.1"), 24)], ..Link::default() };
        facts.links.push(bridge);
    });
    assert_eq!(named(docker, &["docker0", "pool v4"]), ("overlap", Verdict::Bad));
    let large = with(|facts| facts.links[0].mtu = 1400);
    assert_eq!(named(large, &["1400", "network.mtu"]), ("MTU", Verdict::Bad));
    let cgroup = with(|facts| facts.kernel.cgroup2 = false);
    assert_eq!(named(cgroup, &["systemd.unified_cgroup_hierarchy=1"]), ("cgroup v2", Verdict::Warn));
    let old = with(|facts| facts.kernel.release = "4.19.0".into());
    assert_eq!(named(old, &["5.10"]), ("kernel", Verdict::Bad));
    let bpffs = with(|facts| facts.kernel.bpffs = false);
    assert_eq!(named(bpffs, &["mount -t bpf"]), ("bpffs", Verdict::Warn));
}

#[test]
fn mistakes_about_neighbours_in_the_kernel_and_the_runtime_are_found() {
    let stranger = with(|facts| {
        facts.routes.push(Route {
            destination: Some((ip("192.0.2.0"), 24)),
            device: "eth0".into(),
            protocol: 201,
            ..Route::default()
        });
    });
    assert_eq!(
        named(stranger, &["192.0.2.0/24 dev eth0", "route_protocol"]),
        ("route protocol", Verdict::Bad)
    );
    let dropping = with(|facts| {
        facts.dropping = vec![DroppingChain { name: "ip filter FORWARD".into(), names_ours: false }];
    });
    assert_eq!(named(dropping, &["ip filter FORWARD", "tpk+"]), ("FORWARD policy", Verdict::Bad));
    let far = with(|facts| facts.peers_down = vec![("rr1".into(), ip("10.9.9.9"), "timed out".into())]);
    assert_eq!(named(far, &["rr1", "multihopTtl"]), ("next hops", Verdict::Warn));
    let order = with(|facts| facts.cni.files.insert(0, ("05-bridge.conf".into(), vec!["bridge".into()])));
    assert_eq!(named(order, &["05-bridge.conf", "remove"]), ("CNI conflist", Verdict::Bad));
    let twice = with(|facts| facts.cni.files[0].1.push("portmap".into()));
    assert_eq!(named(twice, &["twice"]), ("CNI conflist", Verdict::Warn));
    let absent = with(|facts| facts.cni.binary = false);
    assert_eq!(named(absent, &["install-cni"]), ("CNI conflist", Verdict::Bad));
}

#[test]
fn firewalld_has_to_accept_what_is_from_pods_and_may_reject_what_is_to_them() {
    let zone = |name: &str, accepts, interfaces: &[&str], sources: &[(&str, u8)]| Zone {
        name: name.to_owned(),
        accepts,
        interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        sources: sources.iter().map(|(network, length)| (ip(network), *length)).collect(),
    };
    let to_trusted =
        |accepts| Policy { accepts, ingress: vec!["ANY".to_owned()], egress: vec!["trusted".to_owned()] };
    let check = |zones: &[Zone], policies: &[Policy]| {
        let firewalld = Firewalld { zones: zones.to_vec(), policies: policies.to_vec() };
        let facts = Facts { firewalld: Some(firewalld), ..healthy() };
        let check = all(&facts).into_iter().find(|check| check.name == "firewalld").unwrap();
        (check.verdict, format!("{} {}", check.found, check.remedy.unwrap_or_default()))
    };
    let both: &[(&str, u8)] = &[("10.244.0.0", 16), ("fd00::", 16)];

    assert_eq!(check(&[], &[]).0, Verdict::Unknown);
    let (verdict, words) = check(&[zone("public", false, &["eth0"], both)], &[]);
    assert_eq!(verdict, Verdict::Bad);
    assert!(
        words.contains("pods of v4, v6")
            && words.contains("--add-source=fd00:244::/48; firewall-cmd --reload")
    );
    let (verdict, words) = check(&[zone("trusted", true, &["lo"], &both[1..])], &[to_trusted(true)]);
    assert_eq!(verdict, Verdict::Bad);
    assert!(words.contains("pods of v4 send") && !words.contains("fd00"), "{words}");
    // A part of the pool is not the pool.
    assert_eq!(check(&[zone("trusted", true, &[], &[("10.244.0.0", 17), both[1]])], &[]).0, Verdict::Bad);
    for trusted in [zone("trusted", true, &[], both), zone("trusted", true, &["tpk+"], &[])] {
        let zones = [zone("public", false, &["eth0"], &[]), trusted];
        for policies in [&[][..], &[to_trusted(false)]] {
            let (verdict, words) = check(&zones, policies);
            assert_eq!(verdict, Verdict::Warn);
            assert!(
                words.contains("only host ports") && words.contains("--add-egress-zone=trusted"),
                "{words}"
            );
        }
        assert_eq!(check(&zones, &[to_trusted(true)]).0, Verdict::Good);
    }
}

#[test]
fn forwarding_that_silences_router_advertisements_is_bad_only_where_they_carry_the_default_route() {
    let deaf = |protocol: u8| {
        move |facts: &mut Facts| {
            facts.sysctls.insert("net/ipv6/conf/eth0/accept_ra".into(), "1".into());
            for route in facts.routes.iter_mut().filter(|route| route.is_ipv6) {
                route.protocol = protocol;
            }
        }
    };
    assert_eq!(named(with(deaf(9)), &["accept_ra=2", "eth0"]), ("accept_ra", Verdict::Bad));
    let mut facts = healthy();
    deaf(4)(&mut facts);
    assert!(all(&facts).iter().all(|check| check.verdict == Verdict::Good));
}

#[test]
fn two_ways_out_and_a_strict_filter_are_named() {
    let two = with(|facts| {
        facts.links.push(Link {
            name: "eth1".into(),
            mtu: 1500,
            addresses: vec![(ip("10.2.1.11"), 24)],
            up: true,
        });
        facts.routes.push(Route {
            gateways: vec![ip("10.2.1.1")],
            device: "eth1".into(),
            protocol: 4,
            ..Route::default()
        });
    });
    assert_eq!(named(two, &["eth0", "rp_filter=2"]), ("rp_filter", Verdict::Warn));
}

#[test]
fn without_an_agent_the_rest_is_still_looked_at() {
    let mut facts = healthy();
    facts.agent = None;
    facts.agent_error = Some("cannot reach turnpike-agent".into());
    let checks = all(&facts);
    assert_eq!(checks[0].verdict, Verdict::Bad);
    assert!(checks.iter().filter(|check| check.verdict == Verdict::Good).count() > 10);
}

#[test]
fn what_is_wrong_with_the_machine_itself_is_found() {
    let unset = with(|facts| facts.clock.synchronised = Some(false));
    assert_eq!(named(unset, &["timedatectl"]), ("clock", Verdict::Warn));
    let behind = with(|facts| facts.clock.unix_s = 1_000_000_000);
    assert_eq!(named(behind, &["years behind"]), ("clock", Verdict::Bad));
    let missing = "this kernel has no TCX";
    let old =
        with(|facts| facts.agent.iter_mut().for_each(|agent| agent.missing_features.push(missing.into())));
    assert_eq!(named(old, &[missing, "newer kernel"]), ("kernel features", Verdict::Warn));
    let losing = with(|facts| facts.softnet[1].dropped = 5_000);
    assert_eq!(named(losing, &["most on CPU 1", "netdev_max_backlog"]), ("softnet", Verdict::Warn));
    let card = |steered, hardware| Queues { link: "eth0".into(), hardware, receive: 1, steered };
    let narrow = with(|facts| facts.queues.push(card(false, true)));
    assert_eq!(named(narrow, &["eth0", "rps_cpus", "ethtool -L"]), ("receive queues", Verdict::Warn));
    let mut well = healthy();
    well.queues.extend([card(true, true), card(false, false)]);
    assert!(
        all(&well).iter().all(|check| check.verdict == Verdict::Good),
        "steered, and a link without a card"
    );
}
