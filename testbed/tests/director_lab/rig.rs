//! The topology, a server, and clients in it.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use turnpike_testbed::{
    Director, Lab, Node, Process,
    director::{DirectorConfig, Protocol, Real, Service, Toa, ToaFormat, ToaInsertion},
    poll_result,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const VIP4: &str = "10.9.0.1:80";
pub(crate) const VIP6: &str = "[fd00:9::1]:80";
pub(crate) const SERVER4: &str = "10.1.1.11:8080";
pub(crate) const SERVER6: &str = "[fd00:1:1::11]:8080";
pub(crate) const LOCAL4: [&str; 2] = ["10.9.1.1", "10.9.1.2"];
pub(crate) const LOCAL6: &str = "fd00:9:1::1";

pub(crate) const ALIBABA: Toa = Toa { format: ToaFormat::Dpvs, insertion: ToaInsertion::Alibaba };
pub(crate) const DPVS: Toa = Toa { format: ToaFormat::Dpvs, insertion: ToaInsertion::Dpvs };

/// The lab of this file's topology.
pub(crate) struct Rig {
    pub(crate) lab: Lab,
    pub(crate) client: Node,
    pub(crate) server: Node,
    pub(crate) router: Node,
    pub(crate) director: Node,
}

impl Rig {
    pub(crate) fn new(name: &str) -> Self {
        let lab = Lab::new(name).unwrap();
        let [client, router, server, director] =
            ["client", "router", "server", "director"].map(|name| lab.node(name).unwrap());
        router.forward().unwrap();
        let legs = [
            (&client, "eth1", "192.0.2.10/24", "192.0.2.1", "fd00:c::10/64", "fd00:c::1"),
            (&server, "eth2", "10.1.1.11/24", "10.1.1.1", "fd00:1:1::11/64", "fd00:1:1::1"),
            (&director, "eth3", "10.1.3.30/24", "10.1.3.1", "fd00:1:3::30/64", "fd00:1:3::1"),
        ];
        for (node, port, address4, gateway4, address6, gateway6) in legs {
            lab.link(node, "eth0", &router, port).unwrap();
            for (address, gateway, length) in [(address4, gateway4, 24), (address6, gateway6, 64)] {
                node.addr("eth0", address).unwrap();
                router.addr(port, &format!("{gateway}/{length}")).unwrap();
                node.route(&format!("default via {gateway} dev eth0")).unwrap();
            }
        }
        for prefix in ["10.9.0.0/24", "10.9.1.0/24"] {
            router.route(&format!("{prefix} via 10.1.3.30 dev eth3")).unwrap();
        }
        for prefix in ["fd00:9::/64", "fd00:9:1::/64"] {
            router.route(&format!("{prefix} via fd00:1:3::30 dev eth3")).unwrap();
        }
        Self { lab, client, server, router, director }
    }
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn service(protocol: Protocol, vip: &str, real: &str, toa: Option<Toa>) -> Service {
    Service { protocol, vip: addr(vip), reals: vec![Real { address: addr(real), weight: 1 }], toa }
}

/// One service of each family, and the local addresses of the routed prefixes.
pub(crate) fn config(protocol: Protocol, toa: Option<Toa>) -> DirectorConfig {
    DirectorConfig {
        local_addresses: LOCAL4.iter().chain([&LOCAL6]).map(|address| address.parse().unwrap()).collect(),
        services: vec![service(protocol, VIP4, SERVER4, toa), service(protocol, VIP6, SERVER6, toa)],
        ..DirectorConfig::default()
    }
}

pub(crate) fn is_local(address: IpAddr) -> bool {
    LOCAL4.iter().chain([&LOCAL6]).any(|local| local.parse() == Ok(address))
}

/// Bytes that differ everywhere, so that a lost, doubled or moved piece shows.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(word).collect();
    bytes.truncate(length);
    bytes
}

/// An nginx on `node` that serves `/big` and logs the address and port of every request's sender.
pub(crate) fn nginx(node: &Node, big: &[u8]) -> Process {
    let mut text = String::from(
        "daemon off;\nuser root;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log stderr;\n",
    );
    text.push_str("events { worker_connections 512; }\nhttp {\n");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "  {kind}_temp_path /tmp/nginx-{kind};").unwrap();
    }
    text.push_str("  log_format peer '$remote_addr $remote_port';\n  access_log /var/log/peers.log peer;\n");
    text.push_str("  server { listen 8080; listen [::]:8080; root /var/lib/www; }\n}\n");
    node.write_file("/run/nginx.conf", text).unwrap();
    node.write_file("/var/lib/www/index.html", "hello\n").unwrap();
    node.write_file("/var/lib/www/big", big).unwrap();
    let mut command = node.command("nginx").unwrap();
    command.args(["-c", "/run/nginx.conf"]);
    let process = node.spawn("nginx", command).unwrap();
    let address = addr(SERVER4);
    let connect = || node.in_netns(|| TcpStream::connect_timeout(&address, DEADLINE)).unwrap();
    poll_result(DEADLINE, "nginx listens", connect).unwrap();
    process
}

/// The addresses that nginx has logged.
pub(crate) fn logged(node: &Node) -> Vec<SocketAddr> {
    let peer = |line: &str| {
        let (address, port) = line.split_once(' ').unwrap();
        SocketAddr::new(address.parse().unwrap(), port.parse().unwrap())
    };
    node.read_file("/var/log/peers.log").unwrap().lines().map(peer).collect()
}

pub(crate) fn connect(node: &Node, to: SocketAddr) -> TcpStream {
    let stream = node.in_netns(|| TcpStream::connect_timeout(&to, DEADLINE)).unwrap().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Fetches `path` over HTTP/1.0; the body, and the address that the client came from.
pub(crate) fn get(node: &Node, from: &str, path: &str) -> (Vec<u8>, SocketAddr) {
    let mut stream = connect(node, addr(from));
    let own = stream.local_addr().unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    let head = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response[..head]));
    (response.split_off(head), own)
}

/// Ends director and lab; the lab's guard looks for what is left.
pub(crate) fn finish(rig: Rig, director: Director) {
    director.stop().unwrap();
    assert_eq!(rig.director.links().unwrap(), ["eth0", "lo"], "the TUN device goes with its process");
    rig.lab.finish().unwrap();
}
