//! One pod's link: made, checked, repaired, adopted, removed.

use turnpike_dataplane::{Dataplane, DataplaneConfig, DataplaneError, Severity};
use turnpike_model::desired::{Block, DesiredState};

use crate::sandbox::{Host, Pod, apply, attach, endpoint, json, limited, run, same, snapshot, state, text};

/// ```text
/// world 10.1.1.1 ─── eth0 [ host 10.1.1.11 ] tpk…1 ─── pod 10.244.0.1
///                                            tpk…2 ─── pod 10.244.0.2
/// ```
/// Verifies: pod ↔ pod, pod ↔ host, pod ↔ itself, world ↔ pod, both families.
#[test]
fn pods_reach_each_other_the_host_themselves_and_the_world() {
    let host = Host::enter();
    let mut plane = host.open();
    apply(&mut plane, &DesiredState::default());
    let (first, second) = (Pod::new(), Pod::new());
    attach(&mut plane, &endpoint(1), &first);
    attach(&mut plane, &endpoint(2), &second);
    for target in
        ["10.244.0.2", "10.1.1.11", "10.244.0.1", "10.1.1.1", "fd00:244::2", "fd00:1:1::11", "fd00:244::1"]
    {
        assert!(first.succeeds(&format!("ping -c1 -W3 {target}")), "pod cannot reach {target}");
    }
    for target in ["10.244.0.1", "fd00:244::1"] {
        run(&format!("ping -c1 -W3 {target}"));
        assert!(host.world.succeeds(&format!("ping -c1 -W3 {target}")), "world cannot reach {target}");
    }
    assert!(first.succeeds("ping -c1 -W3 fd00:1:1::1"));
}

#[test]
fn a_pods_end_is_as_the_design_says() {
    let host = Host::enter();
    let mut plane = host.open();
    apply(&mut plane, &DesiredState::default());
    let pod = Pod::new();
    let report = plane.attach(&endpoint(1), pod.fd()).expect("attach");
    assert_eq!(report.host_mac, [0xee; 6]);
    assert_eq!(report.mtu, 1500);
    let link = &pod.json("ip -j addr show eth0")[0];
    let mac = report.pod_mac.map(|byte| format!("{byte:02x}")).join(":");
    assert_eq!(link["address"], mac.as_str());
    assert_eq!(link["ifindex"], report.pod_ifindex);
    let addresses: Vec<String> = link["addr_info"]
        .as_array()
        .expect("addresses")
        .iter()
        .filter(|address| address["scope"] == "global")
        .map(|address| format!("{}/{}", address["local"].as_str().expect("local"), address["prefixlen"]))
        .collect();
    assert_eq!(addresses, ["10.244.0.1/32", "fd00:244::1/128"]);
    let routes = String::from_utf8(pod.run("ip route show").stdout).expect("text");
    assert_eq!(
        routes.lines().map(str::trim).collect::<Vec<_>>(),
        ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"]
    );
    let routes = String::from_utf8(pod.run("ip -6 route show default").stdout).expect("text");
    assert!(routes.starts_with("default via fe80::ecee:eeff:feee:eeee dev eth0"), "{routes}");
    let neighbours = String::from_utf8(pod.run("ip neigh show nud permanent").stdout).expect("text");
    for gateway in ["169.254.1.1", "fe80::ecee:eeff:feee:eeee"] {
        let entry = format!("{gateway} dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT");
        assert!(neighbours.contains(&entry), "{neighbours}");
    }
    let ecn = pod.inside(|| std::fs::read_to_string("/proc/sys/net/ipv4/tcp_ecn").expect("sysctl"));
    assert_eq!(ecn.trim(), "1");
    let name = endpoint(1).host_link;
    let route = text("ip route show 10.244.0.1");
    assert_eq!(route.trim(), format!("10.244.0.1 dev {name} proto 201 scope link"));
    let neighbours = text("ip neigh show nud permanent");
    assert!(neighbours.contains(&format!("10.244.0.1 dev {name} lladdr {mac} PERMANENT")), "{neighbours}");
    assert_eq!(plane.check(&endpoint(1), pod.fd()).expect("check"), []);
}

#[test]
fn detach_leaves_nothing_and_may_be_repeated() {
    let host = Host::enter();
    let mut plane = host.open();
    apply(&mut plane, &DesiredState::default());
    let before = snapshot();
    let pod = Pod::new();
    attach(&mut plane, &endpoint(1), &pod);
    assert_ne!(snapshot(), before);
    for _ in 0..3 {
        plane.detach(&endpoint(1).host_link).expect("detach");
        same(&snapshot(), &before, "now");
    }
    assert!(!pod.succeeds("ip link show eth0"));
    // The same pod again, then its namespace dies first.
    attach(&mut plane, &endpoint(1), &pod);
    pod.run("ip link del eth0");
    plane.detach(&endpoint(1).host_link).expect("detach");
    same(&snapshot(), &before, "now");
}

#[test]
fn attaching_twice_completes_what_is_there() {
    let host = Host::enter();
    let mut plane = host.open();
    apply(&mut plane, &DesiredState::default());
    let pod = Pod::new();
    let first = plane.attach(&endpoint(1), pod.fd()).expect("attach");
    pod.run("ip route del default");
    run(&format!("ip route del 10.244.0.1 dev {}", endpoint(1).host_link));
    let findings = plane.check(&endpoint(1), pod.fd()).expect("check");
    let subjects: Vec<&str> = findings.iter().map(|finding| finding.subject.as_str()).collect();
    assert_eq!(subjects, ["route", "route"]);
    let second = plane.attach(&endpoint(1), pod.fd()).expect("attach again");
    assert_eq!(first, second);
    assert_eq!(plane.check(&endpoint(1), pod.fd()).expect("check"), []);
}

#[test]
fn a_restarted_agent_adopts_its_pods_without_touching_them() {
    let host = Host::enter();
    let pod = Pod::new();
    let mut desired = state(&[endpoint(1)]);
    desired
        .blocks
        .insert(Block { prefix: "10.244.0.0/26".parse().expect("a prefix"), pool: "default".to_owned() });
    let mut plane = host.open();
    apply(&mut plane, &DesiredState { endpoints: Default::default(), ..desired.clone() });
    attach(&mut plane, &endpoint(1), &pod);
    let (before, index) = (snapshot(), json("ip -j link")[2]["ifindex"].clone());
    drop(plane);
    same(&snapshot(), &before, "the end of the agent changes nothing");
    let mut plane = host.open();
    same(&snapshot(), &before, "opening changes nothing");
    apply(&mut plane, &desired);
    same(&snapshot(), &before, "now");
    assert_eq!(json("ip -j link")[2]["ifindex"], index);
    assert_eq!(plane.check(&endpoint(1), pod.fd()).expect("check"), []);
    assert!(before["routes4"].contains("blackhole 10.244.0.0/26 proto 201"), "{before:#?}");
}

#[test]
fn what_others_break_on_the_host_side_is_put_back() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let desired = state(&[endpoint(1)]);
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint(1), &pod);
    let before = snapshot();
    let name = endpoint(1).host_link;
    for line in [
        format!("ip route del 10.244.0.1 dev {name}"),
        format!("ip link set {name} address 02:00:00:00:00:01"),
        format!("ip -6 addr flush dev {name}"),
        format!("ip neigh flush dev {name} nud permanent"),
        format!("ip neigh del 10.244.0.1 dev {name}"),
        format!("sysctl -qw net.ipv4.conf.{name}.rp_filter=0"),
        format!("ip link set {name} down"),
    ] {
        crate::sandbox::output(&line);
    }
    assert_ne!(snapshot(), before);
    apply(&mut plane, &desired);
    same(&snapshot(), &before, "now");
    assert_eq!(plane.check(&endpoint(1), pod.fd()).expect("check"), []);
    assert!(pod.succeeds("ping -c1 -W3 10.1.1.1"));
    assert!(pod.succeeds("ping -c1 -W3 fd00:1:1::11"));
}

#[test]
fn check_names_a_filter_that_was_taken_away() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint(1), &pod);
    assert_eq!(plane.check(&endpoint(1), pod.fd()).expect("check"), []);
    run(&format!("tc filter del dev {} ingress", endpoint(1).host_link));
    let findings = plane.check(&endpoint(1), pod.fd()).expect("check");
    assert!(findings.iter().any(|finding| finding.to_string().contains("from_pod")), "{findings:?}");
    apply(&mut plane, &state(&[endpoint(1)]));
    assert_eq!(plane.check(&endpoint(1), pod.fd()).expect("check"), []);
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    let host = Host::enter();
    let mut plane = host.open();
    let own = std::fs::File::open("/proc/thread-self/ns/net").expect("own namespace");
    let refused = plane.attach(&endpoint(1), std::os::fd::AsFd::as_fd(&own));
    assert!(matches!(refused, Err(DataplaneError::HostNetns)), "{refused:?}");
}

#[test]
fn a_taken_interface_name_is_refused_and_nothing_stays_behind() {
    let host = Host::enter();
    let mut plane = host.open();
    apply(&mut plane, &DesiredState::default());
    let before = snapshot();
    let pod = Pod::new();
    pod.run("ip link add eth0 type bridge");
    let refused = plane.attach(&endpoint(1), pod.fd());
    assert!(matches!(refused, Err(DataplaneError::PodLinkExists { .. })), "{refused:?}");
    same(&snapshot(), &before, "now");
}

#[test]
fn a_failed_attachment_is_rolled_back() {
    let host = Host::enter();
    let mut plane = host.open();
    apply(&mut plane, &DesiredState::default());
    let before = snapshot();
    let pod = Pod::new();
    // A limit below the least one fails after the link was made.
    let mut bad = endpoint(1);
    bad.limits.from_workload = Some(turnpike_model::desired::BitsPerSecond(1));
    let refused = plane.attach(&bad, pod.fd());
    assert!(matches!(refused, Err(DataplaneError::Limit { .. })), "{refused:?}");
    same(&snapshot(), &before, "now");
    assert!(!pod.succeeds("ip link show eth0"));
}

#[test]
fn an_address_of_a_live_pod_is_refused_and_that_of_a_dead_one_taken_over() {
    let host = Host::enter();
    let mut plane = host.open();
    let (first, second) = (Pod::new(), Pod::new());
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint(1), &first);
    let mut thief = endpoint(2);
    thief.addresses = endpoint(1).addresses;
    let refused = plane.attach(&thief, second.fd());
    let Err(DataplaneError::AddressInUse { holder, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(holder, endpoint(1).host_link);
    // An agent that lost pod 1 from its books: the link is an orphan.
    drop(plane);
    let mut plane = host.open();
    let mut other = endpoint(3);
    other.addresses.truncate(1);
    run("ip link add tpk00000000009 type veth peer name elsewhere");
    run("ip link set tpk00000000009 up");
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint(1), &first);
    run("ip link add tpkdead type veth peer name dead0");
    run("ip link set tpkdead up");
    run("ip route add 10.244.0.3/32 dev tpkdead proto 201 scope link");
    let report = plane.attach(&other, second.fd()).expect("take over");
    assert_eq!(report.problems.len(), 1, "{:#?}", report.problems);
    assert!(report.problems[0].message.contains("tpkdead"), "{:#?}", report.problems);
    assert!(!text("ip -br link").contains("tpkdead"));
}

#[test]
fn an_address_of_the_node_itself_is_refused() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let mut bad = endpoint(1);
    bad.addresses = vec!["10.1.1.11".parse().expect("an address")];
    let refused = plane.attach(&bad, pod.fd());
    assert!(matches!(refused, Err(DataplaneError::AddressInUse { .. })), "{refused:?}");
}

#[test]
fn a_pod_whose_link_is_gone_is_a_problem_and_no_obstacle() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint(2), &pod);
    let problems = plane.apply(&state(&[endpoint(1), endpoint(2)]));
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert_eq!(problems[0].subject, endpoint(1).host_link);
    assert!(pod.succeeds("ping -c1 -W3 10.1.1.1"));
}

#[test]
fn a_pod_cannot_send_from_another_address() {
    let host = Host::enter();
    let mut plane = host.open();
    let (first, second) = (Pod::new(), Pod::new());
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint(1), &first);
    attach(&mut plane, &endpoint(2), &second);
    first.run("ip addr add 10.244.0.9/32 dev eth0");
    first.run("ip -6 addr add fd00:244::9/128 dev eth0 nodad");
    assert!(!first.succeeds("ping -c1 -W1 -I 10.244.0.9 10.244.0.2"));
    assert!(!first.succeeds("ping -c1 -W1 -I fd00:244::9 fd00:244::2"));
    assert!(first.succeeds("ping -c1 -W3 -I 10.244.0.1 10.244.0.2"));
    assert!(first.succeeds("ping -c1 -W3 -I fd00:244::1 fd00:244::2"));
    let counters = plane.counters().expect("programs");
    assert!(counters["spoofed_v4"] > 0 && counters["spoofed_v6"] > 0, "{counters:?}");
}

#[test]
fn teardown_removes_all_of_ours_and_nothing_else() {
    let host = Host::enter();
    run("nft add table inet foreign");
    run("ip link add tpkbridge type bridge");
    let before = snapshot();
    let mut plane = host.open();
    let (first, second) = (Pod::new(), Pod::new());
    let mut desired = crate::load_balancer::with_director(state(&[]));
    desired
        .blocks
        .insert(Block { prefix: "10.244.0.0/26".parse().expect("a prefix"), pool: "default".to_owned() });
    apply(&mut plane, &desired);
    attach(&mut plane, &limited(endpoint(1), 100, 100), &first);
    attach(&mut plane, &endpoint(2), &second);
    assert!(host.pins().exists());
    assert_eq!(plane.teardown(), []);
    same(&snapshot(), &before, "now");
    assert!(!host.pins().exists());
}

#[test]
fn a_missing_bpffs_is_mounted_at_its_usual_place() {
    let host = Host::enter();
    let none: Option<&str> = None;
    let (place, flags) = ("/sys/fs/bpf", nix::mount::MsFlags::empty());
    nix::mount::mount(Some("none"), place, Some("tmpfs"), flags, none).expect("hide what is there");
    let config = DataplaneConfig { bpffs: format!("{place}/turnpike").into(), ..host.config() };
    let mut plane = Dataplane::new(config).expect("a data plane");
    apply(&mut plane, &DesiredState::default());
    assert!(plane.counters().is_some());
    assert_eq!(plane.teardown(), []);
}

#[test]
fn without_ebpf_pods_work_and_the_problem_is_named() {
    let host = Host::enter();
    let config = DataplaneConfig { bpffs: "/proc/no-bpffs".into(), ..host.config() };
    let mut plane = Dataplane::new(config).expect("a data plane");
    let pod = Pod::new();
    let desired = crate::load_balancer::with_director(DesiredState::default());
    let problems = plane.apply(&desired);
    assert!(problems.iter().all(|problem| problem.severity == Severity::Degraded), "{problems:#?}");
    assert!(problems.iter().any(|problem| problem.message.contains("anti-spoofing")), "{problems:#?}");
    assert!(problems.iter().any(|problem| problem.message.contains("no bypass")), "{problems:#?}");
    let report = plane.attach(&limited(endpoint(1), 100, 100), pod.fd()).expect("attach");
    assert_eq!(report.problems.len(), 1, "{:#?}", report.problems);
    assert!(pod.succeeds("ping -c1 -W3 10.1.1.1"));
    assert_eq!(plane.check(&limited(endpoint(1), 100, 100), pod.fd()).expect("check"), []);
    plane.detach(&endpoint(1).host_link).expect("detach");
}

#[test]
fn facts_name_the_uplink_and_the_rule_of_the_mtu() {
    let host = Host::enter();
    let mut plane = host.open();
    run("ip link set eth0 mtu 1400");
    let facts = plane.facts().expect("facts");
    assert_eq!(facts.uplinks.iter().map(|uplink| uplink.name.as_str()).collect::<Vec<_>>(), ["eth0"]);
    assert_eq!(facts.mtu.mtu, 1400);
    assert_eq!(facts.mtu.rule.to_string(), "smallest MTU among links with a default route (eth0)");
}
