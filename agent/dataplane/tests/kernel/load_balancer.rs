//! nftables: masquerade, and load-balancer traffic past conntrack.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use turnpike_dataplane::Dataplane;
use turnpike_model::desired::{
    DesiredState, Endpoint, HostPort, LbSource, Masquerade, Protocol, ServicePort,
};

use crate::sandbox::{
    Host, Pod, apply, attach, endpoint, json, nft_generation, run, same, snapshot, state, text,
};

/// A state with a director at the world's end, that may reach every TCP port and UDP port 53.
pub(crate) fn with_director(mut desired: DesiredState) -> DesiredState {
    let cidrs = ["10.1.1.1/32", "fd00:1:1::1/128"].map(|text| text.parse().expect("a prefix"));
    let source = LbSource { cidrs: cidrs.into(), bypass: true, ..LbSource::default() };
    let dns = BTreeSet::from([ServicePort { protocol: Protocol::Udp, port: 53 }]);
    desired.lb_sources.insert("dns".to_owned(), LbSource { ports: dns, ..source.clone() });
    desired.lb_sources.insert("web".to_owned(), source);
    desired
}

fn with_masquerade(mut desired: DesiredState) -> DesiredState {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a prefix")).collect();
    desired.masquerade = vec![Masquerade {
        sources: nets(&["10.244.0.0/16", "fd00:244::/48"]),
        except_to: nets(&["10.0.0.0/8", "fd00::/8"]),
    }];
    desired
}

/// Conntrack entries that name an address.
fn tracked(address: &str) -> usize {
    let family = if address.contains(':') { "ipv6" } else { "ipv4" };
    text(&format!("conntrack -L -f {family}"))
        .lines()
        .filter(|line| line.contains(&format!("={address} ")))
        .count()
}

/// Counts of a rule by the first words of its comment.
fn packets(chain: &str, comment: &str) -> u64 {
    let all = json(&format!("nft -j list chain inet turnpike {chain}"));
    let rules = all["nftables"].as_array().expect("objects").iter().filter_map(|object| object.get("rule"));
    let rule =
        rules.clone().find(|rule| rule["comment"].as_str().is_some_and(|text| text.starts_with(comment)));
    let rule = rule.unwrap_or_else(|| panic!("no rule {comment:?} in {chain}"));
    let counter = rule["expr"].as_array().expect("steps").iter().find_map(|step| step.get("counter"));
    counter.expect("a counter")["packets"].as_u64().expect("a number")
}

/// One request and answer over TCP; the client's address as the server saw it.
fn tcp(server: &Pod, client: &Pod, address: &str, port: u16) -> SocketAddr {
    let target: SocketAddr = format!("{address}:{port}").parse().expect("an address");
    let listener = server.inside(|| TcpListener::bind(target).expect("listen"));
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| {
            let (mut stream, peer) = listener.accept().expect("accept");
            let mut request = [0; 4];
            stream.read_exact(&mut request).expect("a request");
            stream.write_all(b"pong").expect("an answer");
            peer
        });
        client.inside(|| {
            let mut stream = TcpStream::connect(target).expect("connect");
            stream.write_all(b"ping").expect("a request");
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).expect("an answer");
        });
        accepted.join().expect("a server")
    })
}

/// A datagram each way.
fn udp(server: &Pod, client: &Pod, address: &str, port: u16) {
    let target: SocketAddr = format!("{address}:{port}").parse().expect("an address");
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let server = server.inside(|| UdpSocket::bind(target).expect("bind"));
    let client = client.inside(|| UdpSocket::bind(any).expect("bind"));
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
    }
    client.send_to(b"ping", target).expect("send");
    let mut buffer = [0; 16];
    let (_, from) = server.recv_from(&mut buffer).expect("receive");
    server.send_to(b"pong", from).expect("send");
    client.recv_from(&mut buffer).expect("receive");
}

#[test]
fn a_foreign_table_stays_as_it_is_byte_for_byte() {
    let host = Host::enter();
    for line in [
        "nft add table inet foreign",
        "nft add table ip turnpike",
        "nft add set inet foreign s { type ipv4_addr ; flags interval ; }",
        "nft add element inet foreign s { 10.0.0.0/8 }",
        "nft add chain inet foreign c { type filter hook forward priority 5 ; }",
        "nft add rule inet foreign c ip saddr @s counter accept comment \"theirs\"",
    ] {
        run(line);
    }
    let foreign = || text("nft -j list table inet foreign") + &text("nft -j list table ip turnpike");
    let before = foreign();
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &with_masquerade(with_director(DesiredState::default())));
    attach(&mut plane, &endpoint(1), &pod);
    assert_eq!(foreign(), before);
    apply(&mut plane, &with_director(state(&[endpoint(1)])));
    apply(&mut plane, &with_masquerade(state(&[endpoint(1)])));
    assert_eq!(foreign(), before);
    plane.teardown();
    assert_eq!(foreign(), before);
}

#[test]
fn an_equal_state_writes_nothing_even_after_a_restart() {
    let host = Host::enter();
    let pod = Pod::new();
    let desired = with_masquerade(with_director(state(&[endpoint(1)])));
    let mut plane = host.open();
    apply(&mut plane, &with_masquerade(with_director(DesiredState::default())));
    attach(&mut plane, &endpoint(1), &pod);
    apply(&mut plane, &desired);
    let generation = nft_generation();
    apply(&mut plane, &desired);
    assert_eq!(nft_generation(), generation);
    drop(plane);
    apply(&mut host.open(), &desired);
    assert_eq!(nft_generation(), generation);
    // What somebody deletes from our table comes back.
    let before = snapshot();
    for line in [
        "nft flush chain inet turnpike postrouting",
        "nft flush set inet turnpike masq_except4",
        "nft flush set inet turnpike pods4",
        "nft flush set inet turnpike lb_services6",
        "nft delete table inet turnpike",
        "nft add chain inet turnpike stranger",
        "nft add set inet turnpike stranger { type ipv4_addr ; }",
    ] {
        run(line);
        apply(&mut host.open(), &desired);
        same(&snapshot(), &before, line);
    }
}

#[test]
fn thousands_of_sources_and_exceptions_are_one_transaction() {
    let host = Host::enter();
    let mut plane = host.open();
    let net = |number: u32| {
        let [_, b, c, d] = (number * 4).to_be_bytes();
        format!("11.{b}.{c}.{d}/31").parse().expect("a prefix")
    };
    let mut desired = with_masquerade(with_director(DesiredState::default()));
    let source = desired.lb_sources.get_mut("dns").expect("a source");
    source.cidrs = (0..3000).map(net).collect();
    desired.masquerade[0].except_to = (0..3000).map(net).collect();
    let generation = nft_generation();
    apply(&mut plane, &desired);
    assert_eq!(nft_generation(), generation + 1);
    let generation = somebody_else_writes();
    apply(&mut plane, &desired);
    assert_eq!(nft_generation(), generation, "what was written reads back the same");
}

/// Somebody writes rules, and takes them back: what a data plane remembers of the rules is old. The generation after it.
fn somebody_else_writes() -> u32 {
    run("nft add table inet somebody");
    run("nft delete table inet somebody");
    nft_generation()
}

/// Verifies: what pods that come and go leave in the table, each of them compared with what is remembered of it, is what a
/// comparison with the table itself would leave; what others have done to it meanwhile is undone by the next pod.
#[test]
fn the_table_that_is_remembered_is_the_one_that_is_there() {
    let host = Host::enter();
    let mut plane = host.open();
    let mut desired = with_masquerade(with_director(DesiredState::default()));
    apply(&mut plane, &desired);
    let pods: Vec<Pod> = (0..6).map(|_| Pod::new()).collect();
    let meanwhile = [
        "nft list ruleset",
        "nft list ruleset",
        "nft flush set inet turnpike pods4",
        "nft flush chain inet turnpike postrouting",
        "nft delete table inet turnpike",
        "nft add table inet theirs",
    ];
    let in_order = |plane: &mut Dataplane, desired: &DesiredState, when: &str| {
        let generation = somebody_else_writes();
        apply(plane, desired);
        assert_eq!(nft_generation(), generation, "{when}");
    };
    for ((number, pod), line) in (1..).zip(&pods).zip(meanwhile) {
        run(line);
        let mut endpoint = endpoint(number);
        let host_port = 8000 + u16::from(number);
        let port = HostPort { protocol: Protocol::Tcp, host_port, container_port: 80, host_ip: None };
        endpoint.host_ports.push(port);
        attach(&mut plane, &endpoint, pod);
        desired.endpoints.insert(endpoint.id.clone(), endpoint.clone());
        // The first two come one right after the other.
        if number > 1 {
            in_order(&mut plane, &desired, &format!("pod {number} after {line}"));
        }
    }
    while let Some((_, endpoint)) = desired.endpoints.pop_first() {
        plane.detach(&endpoint.host_link).expect("detach");
        if desired.endpoints.len().is_multiple_of(2) {
            in_order(&mut plane, &desired, &endpoint.host_link);
        }
    }
}

/// ```text
/// world 10.1.1.1, 192.0.2.1 ─── eth0 [ host ] tpk…1 ─── pod 10.244.0.1
/// ```
/// Verifies: pools hide behind the node towards the outside, and nowhere else.
#[test]
fn pools_are_masqueraded_beyond_the_data_centre_only() {
    let host = Host::enter();
    for line in ["ip addr add 192.0.2.1/32 dev world0", "ip -6 addr add 2001:db8::1/128 dev world0 nodad"] {
        host.world.run(line);
    }
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &with_masquerade(DesiredState::default()));
    attach(&mut plane, &endpoint(1), &pod);
    let seen = |address: &str| tcp(&host.world, &pod, address, 8080).ip().to_string();
    assert_eq!(seen("192.0.2.1"), "10.1.1.11");
    assert_eq!(seen("10.1.1.1"), "10.244.0.1");
    assert_eq!(seen("[2001:db8::1]"), "fd00:1:1::11");
    assert_eq!(seen("[fd00:1:1::1]"), "fd00:244::1");
    assert_eq!(packets("postrouting", "IPv4 from pools to outside"), 1);
    assert_eq!(packets("postrouting", "IPv6 from pools to outside"), 1);
}

/// ```text
/// director 10.1.1.1 ─── eth0 [ host ] tpk…1 ─── pod 10.244.0.1
/// ```
/// Verifies: the slow path (no eBPF bypass: the pod's link is limited and large parts go through the stack) leaves
/// no conntrack entry for a director's traffic, in either direction, while other traffic is tracked, and a pod's own
/// connection to the director is tracked in both directions.
#[test]
fn director_traffic_leaves_no_conntrack_entry_on_the_slow_path() {
    let host = Host::enter();
    // The node's rules track everything, as kube-proxy's do, and drop what is INVALID.
    for line in [
        "nft add table inet other",
        "nft add chain inet other forward { type filter hook forward priority 10 ; }",
        "nft add rule inet other forward ct state invalid counter drop",
    ] {
        run(line);
    }
    for address in ["10.1.1.5/24", "fd00:1:1::5/64"] {
        host.world.run(&format!("ip addr add {address} dev world0"));
    }
    let mut plane = host.open();
    let pod = Pod::new();
    // Uplinks that do not exist keep eBPF out of the way: everything takes the stack.
    let mut desired = with_masquerade(with_director(DesiredState::default()));
    desired.uplinks.insert("none".to_owned());
    plane.apply(&desired);
    plane.attach(&crate::sandbox::limited(endpoint(1), 1000, 1000), pod.fd()).expect("attach");
    for (address, director, pod_ip, other) in [
        ("10.244.0.1", "10.1.1.1", "10.244.0.1", "10.1.1.5"),
        ("[fd00:244::1]", "fd00:1:1::1", "fd00:244::1", "fd00:1:1::5"),
    ] {
        tcp(&pod, &host.world, address, 80);
        udp(&pod, &host.world, address, 53);
        assert_eq!(tracked(pod_ip), 0, "TCP and UDP of the director to {pod_ip}");
        // A UDP port that is not listed is tracked.
        udp(&pod, &host.world, address, 5353);
        assert!(tracked(pod_ip) > 0);
        run("conntrack -F");
        // The pod's own connection to the director: tracked, both ways.
        let target = if director.contains(':') { format!("[{director}]") } else { director.to_owned() };
        tcp(&host.world, &pod, &target, 8080);
        assert_eq!(tracked(pod_ip), 1, "{}", text("conntrack -L"));
        let entry =
            text(&format!("conntrack -L -f {} -p tcp", if pod_ip.contains(':') { "ipv6" } else { "ipv4" }));
        assert!(!entry.contains("UNREPLIED"), "half tracked: {entry}");
        run("conntrack -F");
        let _ = other;
    }
    assert!(packets("lb_to_pod4", "load balancer to pod") > 0);
    assert!(packets("lb_from_pod4", "pod to load balancer") > 0);
    assert!(packets("forward", "IPv6 load balancer to pod, untracked") > 0);
    assert!(packets("lb_from_pod6", "pod opens a connection") == 1);
}

#[test]
fn icmp_errors_about_director_traffic_are_not_invalid() {
    let host = Host::enter();
    for line in [
        "nft add table inet other",
        "nft add chain inet other forward { type filter hook forward priority 10 ; }",
        "nft add rule inet other forward ct state invalid counter drop",
        "nft add rule inet other forward ct state established counter",
    ] {
        run(line);
    }
    let mut plane = host.open();
    let pod = Pod::new();
    let mut desired = with_director(DesiredState::default());
    desired.uplinks.insert("none".to_owned());
    plane.apply(&desired);
    plane.attach(&crate::sandbox::limited(endpoint(1), 1000, 1000), pod.fd()).expect("attach");
    // Nobody listens on UDP 53 in the pod: its kernel answers "port unreachable", which must reach the director.
    for (target, any) in [("10.244.0.1:53", "0.0.0.0:0"), ("[fd00:244::1]:53", "[::]:0")] {
        let refused = host.world.inside(|| {
            let socket = UdpSocket::bind(any).expect("bind");
            socket.connect(target).expect("connect");
            socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
            socket.send(b"ping").expect("send");
            socket.recv(&mut [0; 16]).expect_err("nobody answers")
        });
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{target}: {refused}");
    }
    assert_eq!(packets("lb_from_pod4", "ICMP error about load balancer to pod"), 1);
    assert_eq!(packets("lb_from_pod6", "ICMP error about load balancer to pod"), 1);
}

/// Verifies: with the uplink's hook in place, a director's traffic passes no netfilter at all.
#[test]
fn director_traffic_takes_the_bypass() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &with_masquerade(with_director(DesiredState::default())));
    attach(&mut plane, &endpoint(1), &pod);
    for address in ["10.244.0.1", "[fd00:244::1]"] {
        tcp(&pod, &host.world, address, 80);
        udp(&pod, &host.world, address, 53);
    }
    let counters = plane.counters().expect("programs");
    assert!(counters["uplink_bypassed"] >= 8 && counters["pod_bypassed"] >= 8, "{counters:?}");
    assert_eq!((tracked("10.244.0.1"), tracked("fd00:244::1")), (0, 0));
    // With a limit each way the same traffic goes past the stack as well, as long as it need not wait.
    let slow = crate::sandbox::limited(endpoint(1), 100, 100);
    apply(&mut plane, &with_masquerade(with_director(state(&[slow]))));
    for address in ["10.244.0.1", "[fd00:244::1]"] {
        tcp(&pod, &host.world, address, 80);
    }
    let limited = plane.counters().expect("programs");
    assert!(limited["uplink_bypassed_limited"] > 0, "{limited:?}");
    assert!(limited["pod_bypassed"] > counters["pod_bypassed"], "{limited:?}");
    assert_eq!((tracked("10.244.0.1"), tracked("fd00:244::1")), (0, 0));
}

/// Verifies: a pod that opted out and one whose namespace the source is not for are tracked, both ways and completely, beside
/// a pod that bypasses; that changes with the resource, on established connections too; an ICMP error about what is
/// tracked belongs to it.
#[test]
fn pods_that_are_left_out_stay_in_conntrack() {
    let host = Host::enter();
    for line in [
        "nft add table inet other",
        "nft add chain inet other forward { type filter hook forward priority 10 ; }",
        "nft add rule inet other forward ct state invalid counter drop",
    ] {
        run(line);
    }
    let mut plane = host.open();
    let in_namespace = |n: u8, namespace: &str| Endpoint { namespace: namespace.to_owned(), ..endpoint(n) };
    let endpoints = [
        in_namespace(1, "web"),
        Endpoint { bypass_off: true, ..in_namespace(2, "web") },
        in_namespace(3, "bank"),
    ];
    let except = |namespaces: &[&str]| {
        let mut desired = with_director(state(&endpoints));
        for source in desired.lb_sources.values_mut() {
            source.except_namespaces = namespaces.iter().map(ToString::to_string).collect();
        }
        desired
    };
    apply(&mut plane, &DesiredState { endpoints: Default::default(), ..except(&["bank"]) });
    let pods = endpoints.each_ref().map(|endpoint| {
        let pod = Pod::new();
        attach(&mut plane, endpoint, &pod);
        pod
    });
    let look = |wanted: [bool; 3], when: &str| {
        for ((number, pod), wanted) in (1..).zip(&pods).zip(wanted) {
            for (ip, family) in
                [(format!("10.244.0.{number}"), "ipv4"), (format!("fd00:244::{number}"), "ipv6")]
            {
                let at = if family == "ipv6" { format!("[{ip}]") } else { ip.clone() };
                tcp(pod, &host.world, &at, 80);
                udp(pod, &host.world, &at, 53);
                assert_eq!(tracked(&ip), if wanted { 2 } else { 0 }, "{ip}, {when}");
                let entries = text(&format!("conntrack -L -f {family}"));
                assert!(!entries.contains("UNREPLIED"), "half tracked: {entries}");
            }
        }
        run("conntrack -F");
    };
    look([false, true, true], "as they were attached");
    apply(&mut plane, &except(&["bank"]));
    look([false, true, true], "after an apply");
    // Nobody listens on UDP 53 now: the pod's kernel says so, and the director's hears it.
    let refused = host.world.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.connect("10.244.0.3:53").expect("connect");
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
        socket.send(b"ping").expect("send");
        socket.recv(&mut [0; 16]).expect_err("nobody answers")
    });
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    run("conntrack -F");
    let established: Vec<_> = (1..)
        .zip(&pods)
        .map(|(number, pod)| Established::open(pod, &host.world, &format!("10.244.0.{number}:81")))
        .collect();
    for (namespaces, wanted) in [
        (&["web"][..], [true, true, false]),
        (&[], [false, true, false]),
        (&["web", "bank"], [true, true, true]),
    ] {
        apply(&mut plane, &except(namespaces));
        established.iter().for_each(Established::ask);
        run("conntrack -F");
        look(wanted, &format!("not for {namespaces:?}"));
    }
}

/// A connection that lasts.
struct Established {
    server: TcpStream,
    client: TcpStream,
}

impl Established {
    fn open(server: &Pod, client: &Pod, target: &str) -> Self {
        let listener = server.inside(|| TcpListener::bind(target).expect("listen"));
        let client = client.inside(|| TcpStream::connect(target).expect("connect"));
        let (server, _) = listener.accept().expect("accept");
        for stream in [&server, &client] {
            stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a timeout");
        }
        Self { server, client }
    }

    /// A byte each way.
    fn ask(&self) {
        for (mut from, mut to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            from.write_all(b"x").expect("send");
            to.read_exact(&mut [0]).expect("receive");
        }
    }
}
