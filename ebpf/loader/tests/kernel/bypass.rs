//! The bypass with real traffic.
//!
//! ```text
//! director 10.1.1.30 / fd00:1:1::30 (stranger .66) ── up0 10.1.1.11 ── node ── tpk0 ── pod 10.244.1.5 / fd00:244::5
//! ```
//! The node tracks every connection and drops what conntrack calls invalid, as kube-proxy's rules do.
//!
//! Verifies: bulk data arrives whole in both directions, over both families, without one conntrack entry, also with
//! a to-workload limit; others are tracked; switching it on and off under a connection breaks nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use turnpike_ebpf_loader::abi::{Addr, LbSource, LpmKey, PodEntry, PortKey, Uplink as UplinkEntry, Veth};
use turnpike_ebpf_loader::{Hook, Programs};

use crate::frames::ip;
use crate::sandbox::{Sandbox, ifindex, mac, run};
use crate::space::Space;

const POD: &str = "10.244.1.5";
const POD6: &str = "fd00:244::5";
const DIRECTOR: &str = "10.1.1.30";
const DIRECTOR6: &str = "fd00:1:1::30";
const STRANGER: &str = "10.1.1.66";
const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    programs: Programs,
    director: Space,
    pod: Space,
    uplink: &'static str,
    _sandbox: Sandbox,
}

/// What the node and the director are linked by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Uplink {
    /// `up0` and `dir0`.
    Plain,
    /// VLAN 100 on both of them.
    Vlan,
    /// `up0` and `up1` as one, and so their other ends.
    Bond,
}

impl Uplink {
    /// Makes it; answers the node's link and the director's.
    fn make(self, director: &Space) -> (&'static str, &'static str) {
        run("ip link add up0 type veth peer name dir0");
        director.adopt("dir0");
        match self {
            Self::Plain => ("up0", "dir0"),
            Self::Vlan => {
                run("ip link add link up0 name up0.100 type vlan id 100");
                run("ip link set up0 up");
                director.ip("link add link dir0 name dir0.100 type vlan id 100");
                director.ip("link set dir0 up");
                ("up0.100", "dir0.100")
            }
            Self::Bond => {
                run("ip link add up1 type veth peer name dir1");
                director.adopt("dir1");
                let bond = |name: &str| format!("link add {name} type bond mode active-backup miimon 10");
                run(&format!("ip {}", bond("upb")));
                director.ip(&bond("dirb"));
                for number in [0, 1] {
                    run(&format!("ip link set up{number} master upb"));
                    director.ip(&format!("link set dir{number} master dirb"));
                }
                ("upb", "dirb")
            }
        }
    }
}

impl Node {
    fn new() -> Self {
        Self::behind(Uplink::Plain)
    }

    fn behind(uplink: Uplink) -> Self {
        let sandbox = Sandbox::enter();
        let programs = sandbox.open();
        let (director, pod) = (Space::new(), Space::new());
        let (uplink, far) = uplink.make(&director);
        run("ip link add tpk0 type veth peer name pod0");
        let pod_mac = mac("pod0");
        let host_mac = mac("tpk0");
        pod.adopt("pod0");
        director.ip(&format!("link set {far} up"));
        for address in ["10.1.1.30/24", "10.1.1.66/24", "fd00:1:1::30/64 nodad"] {
            director.ip(&format!("addr add dev {far} {address}"));
        }
        director.ip("route add 10.244.0.0/16 via 10.1.1.11");
        director.ip("-6 route add fd00:244::/48 via fd00:1:1::11");
        for line in ["link set pod0 up", "addr add 10.244.1.5/32 dev pod0", "route add 169.254.1.1 dev pod0"]
        {
            pod.ip(line);
        }
        pod.ip("addr add fd00:244::5/128 dev pod0 nodad");
        pod.ip("route add default via 169.254.1.1 dev pod0");
        pod.ip("-6 route add default via fe80::1 dev pod0");
        let text = host_mac.map(|byte| format!("{byte:02x}")).join(":");
        pod.ip(&format!("neigh add 169.254.1.1 lladdr {text} dev pod0 nud permanent"));
        pod.ip(&format!("neigh add fe80::1 lladdr {text} dev pod0 nud permanent"));
        let text = pod_mac.map(|byte| format!("{byte:02x}")).join(":");
        for line in [
            &format!("ip link set {uplink} up"),
            "ip link set tpk0 up",
            &format!("ip addr add 10.1.1.11/24 dev {uplink}"),
            &format!("ip addr add fd00:1:1::11/64 dev {uplink} nodad"),
            "ip route add 10.244.1.5/32 dev tpk0",
            "ip -6 route add fd00:244::5/128 dev tpk0",
            &format!("ip neigh add {POD} lladdr {text} dev tpk0 nud permanent"),
            &format!("ip neigh add {POD6} lladdr {text} dev tpk0 nud permanent"),
            "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            "nft add table inet test",
            "nft add chain inet test forward { type filter hook forward priority 0 ; }",
            "nft add rule inet test forward ct state invalid drop",
        ] {
            run(line);
        }
        let node = Self { programs, director, pod, uplink, _sandbox: sandbox };
        node.fill(&pod_mac, &host_mac);
        node
    }

    fn fill(&self, pod_mac: &[u8; 6], host_mac: &[u8; 6]) {
        let maps = self.programs.maps();
        for address in [POD, POD6] {
            let entry = PodEntry {
                ifindex: ifindex("tpk0"),
                mtu: 1500,
                flags: 0,
                pod_mac: *pod_mac,
                host_mac: *host_mac,
            };
            maps.pods.insert(&Addr::from(ip(address)), &entry).expect("insert");
        }
        let std::net::IpAddr::V6(pod6) = ip(POD6) else { panic!("IPv6") };
        let link_local = self.pod.ip("-6 addr show dev pod0 scope link");
        let link_local = link_local
            .split("inet6 ")
            .nth(1)
            .and_then(|rest| rest.split('/').next())
            .and_then(|text| text.parse::<std::net::Ipv6Addr>().ok())
            .map_or([0; 16], |address| address.octets());
        let veth = Veth {
            ip4: [10, 244, 1, 5],
            flags: 0,
            ip6: pod6.octets(),
            link_local,
            pod_mac: *pod_mac,
            class: 0,
            queue: 0,
        };
        maps.veths.insert(&ifindex("tpk0"), &veth).expect("insert");
        maps.uplinks.insert(&ifindex(self.uplink), &UplinkEntry { mtu: 1500, index: 0 }).expect("insert");
        for (protocol, port) in [(6, 80), (17, 53)] {
            maps.lb_ports.insert(&PortKey::new(1, protocol, port), &1).expect("insert");
        }
    }

    /// Attaches everything; the bypass itself still needs [`Node::trust`].
    fn attach(&mut self) {
        self.programs.attach(Hook::FromPod, "tpk0").expect("attach");
        self.programs.attach(Hook::Uplink, self.uplink).expect("attach");
    }

    fn trust(&self, on: bool) {
        let source =
            LbSource { flags: LbSource::BYPASS, group: 1, uplinks: LbSource::ANY_UPLINK, toa_format: 0 };
        for (address, len) in [(DIRECTOR, 32), (DIRECTOR6, 128)] {
            let key = LpmKey::new(ip(address), len).expect("a prefix");
            if on {
                self.programs.maps().lb_sources.insert(&key, &source).expect("insert");
            } else {
                assert!(self.programs.maps().lb_sources.remove(&key).expect("remove"));
            }
        }
    }

    fn flags(&self, flags: u32) {
        for address in [POD, POD6] {
            let key = Addr::from(ip(address));
            let entry = self.programs.maps().pods.get(&key).expect("read").expect("an entry");
            self.programs.maps().pods.insert(&key, &PodEntry { flags, ..entry }).expect("insert");
        }
    }

    fn count(&self, name: &str) -> u64 {
        self.programs.maps().counters().expect("counters")[name]
    }

    /// A connection from the director's side to the pod's port 80.
    fn connect(&self, from: &str, to: &str) -> (TcpStream, TcpStream) {
        let to = SocketAddr::new(ip(to), 80);
        let listener = self.pod.enter(move || TcpListener::bind(to).expect("bind"));
        let from = SocketAddr::new(ip(from), 0);
        let client = self.director.enter(move || connect_from(from, to));
        let (server, peer) = listener.accept().expect("accept");
        assert_eq!(peer, client.local_addr().expect("an address"));
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
            stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        }
        (client, server)
    }
}

/// std cannot bind before it connects.
fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    use std::os::fd::AsRawFd;
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::empty(), None).expect("a socket");
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).expect("bind");
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).expect("connect");
    TcpStream::from(socket)
}

/// Sends `size` bytes one way and checks every one of them.
fn transfer(mut from: &TcpStream, mut to: &TcpStream, size: usize) {
    let pattern: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&pattern).expect("write"));
        let mut received = vec![0; size];
        to.read_exact(&mut received).expect("read");
        assert!(received == pattern, "the data arrived changed");
    });
}

/// Conntrack entries of the test's own namespace, as `conntrack -L` shows them.
fn tracked() -> Vec<String> {
    let output = run("conntrack -L");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let six = String::from_utf8_lossy(&run("conntrack -L -f ipv6").stdout).into_owned();
    text.lines().chain(six.lines()).filter(|line| line.contains("dport=")).map(str::to_owned).collect()
}

const BULK: usize = 20_000_000;

#[test]
fn bulk_data_passes_both_ways_without_conntrack() {
    bulk(&mut Node::new());
}

/// Verifies: an uplink that is a VLAN bypasses like any other; on the link below it, where frames carry tags, the program
/// leaves them alone.
#[test]
#[ignore = "needs 8021q: `cargo xtask lab kernels` runs it"]
fn a_vlan_bypasses_and_tagged_frames_on_the_link_below_pass_untouched() {
    let mut node = Node::behind(Uplink::Vlan);
    node.programs.attach(Hook::Uplink, "up0").expect("attach");
    bulk(&mut node);
    node.programs.detach(Hook::Uplink, ifindex(node.uplink)).expect("detach");
    let before = node.count("uplink_bypassed");
    let to = SocketAddr::new(ip(POD), 53);
    let server = node.pod.enter(move || UdpSocket::bind(to).expect("bind"));
    server.set_read_timeout(Some(PATIENCE)).expect("timeout");
    node.director.enter(move || {
        let client = UdpSocket::bind((DIRECTOR, 0)).expect("bind");
        client.send_to(b"tagged", to).expect("send");
    });
    let mut buffer = [0; 64];
    let length = server.recv(&mut buffer).expect("the datagram");
    assert_eq!(&buffer[..length], b"tagged");
    assert_eq!(node.count("uplink_bypassed"), before, "up0 has the program, and its frames have tags");
}

/// Verifies: a bond bypasses, and goes on doing so for the same connection when it changes its link.
#[test]
#[ignore = "needs bonding: `cargo xtask lab kernels` runs it"]
fn a_bond_bypasses_also_after_it_changed_its_link() {
    let mut node = Node::behind(Uplink::Bond);
    bulk(&mut node);
    node.flags(0);
    let (client, server) = node.connect(DIRECTOR, POD);
    for gone in ["up0", "up1"] {
        transfer(&client, &server, BULK / 10);
        run(&format!("ip link set {gone} down"));
        let before = node.count("uplink_bypassed");
        transfer(&client, &server, BULK / 10);
        transfer(&server, &client, BULK / 10);
        assert!(node.count("uplink_bypassed") > before, "{gone} is down");
        run(&format!("ip link set {gone} up"));
    }
    assert_eq!(tracked(), Vec::<String>::new());
}

fn bulk(node: &mut Node) {
    node.attach();
    node.trust(true);
    for flags in [0, PodEntry::LIMITED] {
        node.flags(flags);
        for (from, to) in [(DIRECTOR, POD), (DIRECTOR6, POD6)] {
            let (client, server) = node.connect(from, to);
            transfer(&client, &server, BULK);
            transfer(&server, &client, BULK);
        }
    }
    assert_eq!(tracked(), Vec::<String>::new());
    for counter in ["uplink_bypassed", "uplink_bypassed_limited", "pod_bypassed"] {
        assert!(node.count(counter) > 100, "{counter}: {}", node.count(counter));
    }
    assert_eq!(node.count("uplink_to_stack") + node.count("pod_to_stack"), 0);
}

#[test]
fn datagrams_pass_to_listed_ports_without_conntrack() {
    let mut node = Node::new();
    node.attach();
    node.trust(true);
    for (from, to) in [(DIRECTOR, POD), (DIRECTOR6, POD6)] {
        let (from, to) = (SocketAddr::new(ip(from), 0), SocketAddr::new(ip(to), 53));
        let server = node.pod.enter(move || UdpSocket::bind(to).expect("bind"));
        let client = node.director.enter(move || UdpSocket::bind(from).expect("bind"));
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        }
        client.send_to(b"question", to).expect("send");
        let mut buffer = [0; 64];
        let (length, peer) = server.recv_from(&mut buffer).expect("question");
        assert_eq!((&buffer[..length], peer), (&b"question"[..], client.local_addr().expect("an address")));
        server.send_to(b"answer", peer).expect("send");
        let (length, peer) = client.recv_from(&mut buffer).expect("answer");
        assert_eq!((&buffer[..length], peer), (&b"answer"[..], to));
    }
    assert_eq!(tracked(), Vec::<String>::new());
}

#[test]
fn connections_of_others_are_tracked() {
    let mut node = Node::new();
    node.attach();
    node.trust(true);
    let (client, server) = node.connect(STRANGER, POD);
    transfer(&client, &server, 1000);
    assert_eq!(tracked().len(), 1, "{:?}", tracked());
    assert_eq!(node.count("uplink_bypassed") + node.count("pod_bypassed"), 0);
}

#[test]
fn switching_the_bypass_on_or_off_breaks_no_connection() {
    let mut node = Node::new();
    node.attach();
    let (client, server) = node.connect(DIRECTOR, POD);
    transfer(&client, &server, BULK);
    assert_eq!(tracked().len(), 1);
    node.trust(true);
    transfer(&server, &client, BULK);
    transfer(&client, &server, BULK);
    assert!(node.count("uplink_bypassed") > 100);

    let (client, server) = node.connect(DIRECTOR6, POD6);
    transfer(&client, &server, BULK);
    node.trust(false);
    transfer(&server, &client, BULK);
    transfer(&client, &server, BULK);
}

#[test]
fn a_pods_own_connection_to_a_directors_address_works_and_is_tracked() {
    let mut node = Node::new();
    node.attach();
    let any = LbSource {
        flags: LbSource::BYPASS | LbSource::TCP_ANY_PORT,
        group: 1,
        uplinks: LbSource::ANY_UPLINK,
        toa_format: 0,
    };
    let key = LpmKey::new(ip(DIRECTOR), 32).expect("a prefix");
    node.programs.maps().lb_sources.insert(&key, &any).expect("insert");
    let to = SocketAddr::new(ip(DIRECTOR), 22);
    let listener = node.director.enter(move || TcpListener::bind(to).expect("bind"));
    let client = node.pod.enter(move || connect_from(SocketAddr::new(ip(POD), 0), to));
    let (server, _) = listener.accept().expect("accept");
    transfer(&client, &server, BULK);
    transfer(&server, &client, BULK);
    assert_eq!(tracked().len(), 1, "{:?}", tracked());
    assert_eq!(node.count("uplink_bypassed") + node.count("pod_bypassed"), 0);
    assert_eq!(node.count("pod_connects"), 1);
}

#[test]
fn a_spoofing_pod_reaches_nobody() {
    let mut node = Node::new();
    node.attach();
    node.pod.ip("addr add 10.244.1.6/32 dev pod0");
    node.director.ip("route add 10.244.1.6 via 10.1.1.11");
    let receiver = node.director.enter(|| UdpSocket::bind("10.1.1.30:9").expect("bind"));
    receiver.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let send = |source: &'static str| {
        node.pod.enter(move || {
            let socket = UdpSocket::bind((source, 9)).expect("bind");
            socket.send_to(source.as_bytes(), "10.1.1.30:9").expect("send");
        });
    };
    send("10.244.1.6");
    send("10.244.1.5");
    let mut buffer = [0; 64];
    let length = receiver.recv(&mut buffer).expect("the honest datagram");
    assert_eq!(&buffer[..length], b"10.244.1.5", "the spoofed one, sent before it, is not there");
    assert_eq!(node.count("spoofed_v4"), 1);
}
