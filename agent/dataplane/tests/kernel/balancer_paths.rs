//! Load-balancer traffic off the beaten track: several uplinks, routers with small MTUs, addresses that change hands.
//!
//! ```text
//! director 10.9.1.1 ── (MTU) ── world 10.1.1.1 ─── eth0 [ host ] tpk…1 ─── pod 10.244.0.1
//! fd00:9:1::1                   world 10.1.2.1 ─── eth1
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use turnpike_dataplane::{Dataplane, LbPath, LbStats};
use turnpike_model::desired::{DesiredState, LbSource};

use crate::sandbox::{Host, Pod, apply, attach, endpoint, poll, run, state, text};

const PATIENCE: Duration = Duration::from_secs(30);
const DIRECTOR: [&str; 2] = ["10.9.1.1", "fd00:9:1::1"];
const POD: [&str; 2] = ["10.244.0.1", "fd00:244::1"];

/// A director behind the world, which forwards no larger packets to it than `mtu`.
fn director(host: &Host, mtu: u32) -> Pod {
    let director = Pod::new();
    host.world.run("ip link add far0 type veth peer name dir0");
    // iproute2 wants a path; the world's thread sees our descriptor under the process's number.
    let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&director.fd()));
    host.world.run(&format!("ip link set dir0 netns {path}"));
    host.world.run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    for line in [
        "ip addr add 10.9.1.254/24 dev far0",
        "ip -6 addr add fd00:9:1::fe/64 dev far0 nodad",
        "ip link set far0 up",
        &format!("ip route add 10.9.1.1/32 dev far0 mtu {mtu}"),
        &format!("ip -6 route add fd00:9:1::1/128 dev far0 mtu {mtu}"),
    ] {
        host.world.run(line);
    }
    for line in [
        "ip addr add 10.9.1.1/24 dev dir0",
        "ip -6 addr add fd00:9:1::1/64 dev dir0 nodad",
        "ip link set dir0 up",
        "ip route add default via 10.9.1.254",
        "ip -6 route add default via fd00:9:1::fe",
    ] {
        director.run(line);
    }
    director
}

fn trusting(mut desired: DesiredState, uplinks: &[&str]) -> DesiredState {
    let cidrs = ["10.9.1.0/24", "fd00:9:1::/64"].map(|text| text.parse().expect("a prefix"));
    let source = LbSource {
        cidrs: cidrs.into(),
        bypass: true,
        uplinks: uplinks.iter().map(|&name| name.to_owned()).collect(),
        ..LbSource::default()
    };
    desired.lb_sources.insert("lvs".to_owned(), source);
    desired
}

/// A connection, tried again while routers still look for their neighbours.
fn connect(client: &Pod, target: SocketAddr) -> TcpStream {
    client
        .inside(|| poll("a connection", || TcpStream::connect_timeout(&target, Duration::from_secs(5)).ok()))
}

/// The connection that a client is about to make, or has given up.
fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("non-blocking");
    let stream = poll("a client", || listener.accept().ok()).0;
    stream.set_nonblocking(false).expect("blocking");
    stream
}

/// Sends `length` bytes from a client to a server; how many arrived.
fn transfer(server: &Pod, at: &str, client: &Pod, length: usize, upwards: bool) -> usize {
    let ip: IpAddr = at.parse().expect("an address");
    let target = SocketAddr::new(ip, 80);
    let listener = server.inside(|| TcpListener::bind(target).expect("listen"));
    let send = |mut stream: TcpStream| {
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(&vec![7; length]).expect("send");
    };
    let receive = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("receive");
        bytes.len()
    };
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let stream = accept(&listener);
            if upwards {
                receive(stream)
            } else {
                send(stream);
                0
            }
        });
        let stream = connect(client, target);
        let got = if upwards {
            send(stream);
            0
        } else {
            receive(stream)
        };
        got + served.join().expect("a server")
    })
}

fn stats(plane: &Dataplane, cidr: &str) -> LbStats {
    let traffic = plane.lb_traffic().expect("programs");
    let wanted: ipnetwork::IpNetwork = cidr.parse().expect("a prefix");
    traffic.iter().find(|one| one.prefix == wanted).expect("a source").stats
}

fn tracked(family: &str) -> usize {
    text(&format!("conntrack -L -f {family}"))
        .lines()
        .filter(|line| line.contains("=10.9.1.1 ") || line.contains("=fd00:9:1::1 "))
        .count()
}

/// What others on the node enforce: only known, related and untracked traffic is forwarded, and nothing that
/// conntrack calls INVALID. `new` traffic is what a default-deny policy does not admit.
fn default_deny() {
    for line in [
        "nft add table inet deny",
        "nft add chain inet deny forward { type filter hook forward priority 10 ; policy drop ; }",
        "nft add rule inet deny forward ct state invalid counter drop",
        "nft add rule inet deny forward ct state established,related,untracked counter accept",
    ] {
        run(line);
    }
}

/// Verifies: path MTU discovery works through the bypass under default-deny: the router's ICMP error about a pod's
/// packet to the director reaches the pod although conntrack knows no such flow, in both families, and what the host
/// says to the director about packets too large for the pod's link reaches the director.
#[test]
fn path_mtu_is_discovered_through_the_bypass_under_default_deny() {
    let host = Host::enter();
    let director = director(&host, 1300);
    default_deny();
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &trusting(DesiredState::default(), &[]));
    let mut small = endpoint(1);
    small.mtu = 1400;
    attach(&mut plane, &small, &pod);
    // Neither end knows of smaller links: both announce the segment size of a whole Ethernet.
    pod.run("ip route change default via 169.254.1.1 dev eth0 advmss 1460");
    pod.run("ip -6 route change default via fe80::ecee:eeff:feee:eeee dev eth0 advmss 1440");
    for ((at, family), cidr) in POD.iter().zip(["ipv4", "ipv6"]).zip(["10.9.1.0/24", "fd00:9:1::/64"]) {
        assert_eq!(transfer(&pod, at, &director, 200_000, false), 200_000, "pod to director, {family}");
        assert_eq!(transfer(&pod, at, &director, 200_000, true), 200_000, "director to pod, {family}");
        assert_eq!(tracked(family), 0, "{}", text("conntrack -L"));
        let seen = stats(&plane, cidr);
        assert!(seen.from_pod[LbPath::Bypassed as usize].packets > 100, "{seen:?}");
        assert!(seen.to_pod[LbPath::TooBig as usize].packets > 0, "{seen:?}");
    }
    let learned = pod.inside(|| text(&format!("ip route get {}", DIRECTOR[0])));
    assert!(learned.contains("mtu 1300"), "{learned}");
    let learned = pod.inside(|| text(&format!("ip -6 route get {}", DIRECTOR[1])));
    assert!(learned.contains("mtu 1300"), "{learned}");
    let learned = director.inside(|| text(&format!("ip route get {}", POD[0])));
    assert!(learned.contains("mtu 1400"), "{learned}");
}

/// A second uplink, and both as one multipath default route.
fn second_uplink(host: &Host) {
    run("ip link add eth1 type veth peer name world1");
    host.world.take_link("world1");
    for line in [
        "ip addr add 10.1.2.11/24 dev eth1",
        "ip -6 addr add fd00:1:2::11/64 dev eth1 nodad",
        "ip link set eth1 up",
        "sysctl -q -w net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1",
    ] {
        run(line);
    }
    for line in [
        "ip addr add 10.1.2.1/24 dev world1",
        "ip -6 addr add fd00:1:2::1/64 dev world1 nodad",
        "ip link set world1 up",
        "sysctl -q -w net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1",
        "ip route replace 10.244.0.0/16 nexthop via 10.1.1.11 nexthop via 10.1.2.11",
        "ip -6 route del fd00:244::/48",
        "ip -6 route add fd00:244::/48 nexthop via fd00:1:1::11 nexthop via fd00:1:2::11",
    ] {
        host.world.run(line);
    }
    poll("the second uplink to be up", || text("ip -br link show eth1").contains(" UP ").then_some(()));
    run("ip route replace default nexthop via 10.1.1.1 dev eth0 nexthop via 10.1.2.1 dev eth1");
    run("ip -6 route del default");
    run("ip -6 route add default nexthop via fd00:1:1::1 dev eth0 nexthop via fd00:1:2::1 dev eth1");
}

fn received(link: &str) -> u64 {
    crate::sandbox::json(&format!("ip -j -s link show {link}"))[0]["stats64"]["rx"]["packets"]
        .as_u64()
        .expect("a count")
}

/// Verifies: with ECMP both ways each flow may come in through one uplink and leave through the other; all of it
/// bypasses, over both links, and leaves no conntrack entry. A source that names one uplink bypasses through that
/// one only, the rest takes the stack, is counted, and stays out of conntrack as well.
#[test]
fn flows_bypass_over_every_uplink_and_a_named_one_alone_when_asked() {
    let host = Host::enter();
    let director = director(&host, 1500);
    second_uplink(&host);
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &trusting(DesiredState::default(), &[]));
    attach(&mut plane, &endpoint(1), &pod);
    let (eth0, eth1) = (received("eth0"), received("eth1"));
    for _ in 0..24 {
        for at in POD {
            assert_eq!(transfer(&pod, at, &director, 100, true), 100);
        }
    }
    assert!(received("eth0") > eth0 + 10 && received("eth1") > eth1 + 10, "ECMP uses both links");
    for cidr in ["10.9.1.0/24", "fd00:9:1::/64"] {
        let seen = stats(&plane, cidr);
        assert!(seen.to_pod[LbPath::Bypassed as usize].packets >= 24 * 4, "{seen:?}");
        assert_eq!(seen.to_pod[LbPath::WrongUplink as usize].packets, 0);
        assert_eq!(seen.from_pod[LbPath::NoRoute as usize].packets, 0);
    }
    assert_eq!((tracked("ipv4"), tracked("ipv6")), (0, 0));
    apply(&mut plane, &trusting(state(&[endpoint(1)]), &["eth1"]));
    let before = stats(&plane, "10.9.1.0/24");
    for _ in 0..24 {
        assert_eq!(transfer(&pod, POD[0], &director, 100, true), 100);
    }
    let after = stats(&plane, "10.9.1.0/24");
    let more = |path: LbPath| {
        let index = path as usize;
        (
            after.to_pod[index].packets - before.to_pod[index].packets,
            after.from_pod[index].packets - before.from_pod[index].packets,
        )
    };
    let (bypassed_in, bypassed_out) = more(LbPath::Bypassed);
    assert!(bypassed_in > 0 && bypassed_out > 0, "{before:?} {after:?}");
    // eth0 has no hook any more, so what comes in there is not seen at all; what would leave there is.
    assert!(more(LbPath::WrongUplink).1 + more(LbPath::NoRoute).1 > 0, "{before:?} {after:?}");
    assert_eq!(tracked("ipv4"), 0);
}

/// Verifies: a pod with an established bypassed flow goes, and another gets its address: the new pod's kernel resets
/// the old flow, nothing of it reaches anybody else, the new pod serves at once, and its counters begin at zero.
#[test]
fn an_address_that_changes_hands_carries_nothing_over() {
    let host = Host::enter();
    let director = director(&host, 1500);
    let mut plane = host.open();
    apply(&mut plane, &trusting(DesiredState::default(), &[]));
    let (first, second, bystander) = (Pod::new(), Pod::new(), Pod::new());
    attach(&mut plane, &endpoint(1), &first);
    attach(&mut plane, &endpoint(2), &bystander);
    let target: SocketAddr = "10.244.0.1:80".parse().expect("an address");
    let listener = first.inside(|| TcpListener::bind(target).expect("listen"));
    let mut client = connect(&director, target);
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut served = accept(&listener);
    client.write_all(b"ping").expect("send");
    let mut buffer = [0; 4];
    served.read_exact(&mut buffer).expect("receive");
    // IPv4 packets: neighbour discovery may send frames of its own at any time.
    let bystanders_packets = || {
        let snmp =
            bystander.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).expect("counters");
        let ip: Vec<Vec<&str>> = snmp
            .lines()
            .filter(|line| line.starts_with("Ip: "))
            .map(|line| line.split(' ').collect())
            .collect();
        let at = ip[0].iter().position(|name| *name == "InReceives").expect("the counter's name");
        ip[1][at].parse::<u64>().expect("a count")
    };
    let before = bystanders_packets();
    plane.detach(&endpoint(1).host_link).expect("detach");
    let mut heir = endpoint(1);
    heir.id.container_id = "heir".to_owned();
    heir.host_link = "tpk0000000000ff".to_owned();
    attach(&mut plane, &heir, &second);
    let tally = plane.toa_of(&heir.addresses).expect("programs").tally;
    assert_eq!(tally, turnpike_dataplane::ToaTally::default());
    // The old flow meets a stranger: a reset, at once.
    client.write_all(b"ping").expect("into the socket's buffer");
    let end = client.read(&mut buffer).expect_err("the flow is dead");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset, "{end}");
    assert_eq!(transfer(&second, POD[0], &director, 1000, true), 1000);
    assert_eq!(tracked("ipv4"), 0);
    assert_eq!(bystanders_packets(), before, "nothing reached another pod");
    drop((listener, served));
}

/// Verifies: what falls back is counted under its reason: pings, ports not listed, connections of the pod's own.
#[test]
fn what_falls_back_is_counted_by_reason() {
    let host = Host::enter();
    let director = director(&host, 1500);
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &trusting(DesiredState::default(), &[]));
    attach(&mut plane, &endpoint(1), &pod);
    director.run("ping -c 1 -W 10 10.244.0.1");
    assert_eq!(transfer(&director, DIRECTOR[0], &pod, 100, true), 100);
    let seen = stats(&plane, "10.9.1.0/24");
    let packets =
        |direction: &[turnpike_dataplane::Tally; 16], path: LbPath| direction[path as usize].packets;
    assert_eq!(packets(&seen.to_pod, LbPath::OtherProtocol), 1);
    assert_eq!(packets(&seen.from_pod, LbPath::OtherProtocol), 1);
    let own = (packets(&seen.from_pod, LbPath::PodsOwn), packets(&seen.to_pod, LbPath::PodsOwn));
    assert!(own.0 >= 3 && own.1 >= 1, "{seen:?}");
    assert_eq!(packets(&seen.to_pod, LbPath::Bypassed), 0);
    assert_eq!(tracked("ipv4"), 2, "the ping's entry and the pod's own connection are tracked");
    // Nothing is forgotten when the state is applied again, and all of it when the source goes.
    apply(&mut plane, &trusting(state(&[endpoint(1)]), &[]));
    let pings = |plane: &Dataplane| packets(&stats(plane, "10.9.1.0/24").to_pod, LbPath::OtherProtocol);
    assert_eq!(pings(&plane), 1);
    apply(&mut plane, &state(&[endpoint(1)]));
    apply(&mut plane, &trusting(state(&[endpoint(1)]), &[]));
    assert_eq!(pings(&plane), 0);
}

/// Verifies: the table's usage and the pods' shares of it are those that conntrack(8) shows.
#[test]
fn conntrack_usage_counts_entries_of_pods() {
    use turnpike_dataplane::{ConntrackByAddress, ConntrackUsage};
    let host = Host::enter();
    let director = director(&host, 1500);
    let mut plane = host.open();
    let pod = Pod::new();
    // Masquerade makes the kernel track; no source bypasses.
    run("nft add table inet other");
    run("nft add chain inet other forward { type filter hook forward priority 10 ; }");
    run("nft add rule inet other forward ct state invalid counter drop");
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint(1), &pod);
    for at in POD {
        for _ in 0..3 {
            transfer(&pod, at, &director, 100, true);
        }
    }
    let usage = ConntrackUsage::read().expect("connection tracking");
    assert!(usage.entries >= 6 && usage.max > usage.entries, "{usage:?}");
    assert!(usage.events.contains_key("drop") && usage.events.contains_key("insert_failed"));
    let addresses: Vec<IpAddr> = POD.iter().map(|text| text.parse().expect("an address")).collect();
    let counted = ConntrackByAddress::read(&addresses, 1000).expect("connection tracking");
    assert!(counted.complete);
    assert_eq!(counted.entries.values().copied().collect::<Vec<_>>(), [3, 3]);
    let bounded = ConntrackByAddress::read(&addresses, 2).expect("connection tracking");
    assert!(!bounded.complete && bounded.read == 2, "{bounded:?}");
}
