//! TOA end to end: an unmodified server, and connections made by hand from a director's address.
//!
//! ```text
//! test, frame by frame (10.1.3.30, fd00:1:3::30, …) ── cli0 ── srv0 ── python3 on port 80, in a sub-cgroup
//! ```
//! Verifies: the server sees the client that a configured director names, in that director's format, wherever the
//! option comes; and the director's own address in every other case.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, Ordering};

use turnpike_ebpf_loader::abi::bypass::{Admit, AdmitKey};
use turnpike_ebpf_loader::abi::{LbSource, LpmKey, PodEntry, ToaConfig, ToaFormat};
use turnpike_ebpf_loader::{CounterValues, Programs};

use crate::frames::{ACK, Frame, PSH, SYN, Tcp, Transport, ip};
use crate::sandbox::{Sandbox, mac, run};
use crate::server::{Cgroup, Listener, Server};
use crate::space::Space;
use crate::wire::Wire;

const SERVER: &str = "10.1.1.11";
const SERVER6: &str = "fd00:1:1::11";
const DIRECTOR: &str = "10.1.3.30";
const DIRECTOR6: &str = "fd00:1:3::30";
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const CLIENT_PORT: u16 = 51234;
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0];

/// A director for each format.
const SOURCES: [(&str, ToaFormat); 7] = [
    (DIRECTOR, ToaFormat::Toa254),
    (DIRECTOR6, ToaFormat::Toa254),
    ("fd00:1:3::253", ToaFormat::Toa253V6),
    ("10.1.3.252", ToaFormat::Vtoa252),
    ("10.1.3.200", ToaFormat::Toa200),
    ("10.1.3.28", ToaFormat::Cdn28),
    ("fd00:1:3::28", ToaFormat::Cdn28),
];
/// A source that bypasses, but whose options nobody trusts.
const NO_TOA: &str = "10.1.3.99";
const STRANGER: &str = "192.0.2.66";
const STRANGER6: &str = "2001:db8::66";

struct Bench {
    programs: Programs,
    wire: Wire,
    server: Server,
    server_mac: [u8; 6],
    _space: Space,
    _cgroup: Cgroup,
    _sandbox: Sandbox,
}

impl Bench {
    /// `family`: the listener's, 4 or 6 (dual-stack).
    fn new(family: u8, config: ToaConfig) -> Self {
        Self::with(family, config, Listener::Plain)
    }

    fn with(family: u8, config: ToaConfig, listener: Listener) -> Self {
        let sandbox = Sandbox::enter();
        let mut programs = sandbox.open();
        let space = Space::new();
        run("ip link add srv0 type veth peer name cli0");
        let client_mac = mac("cli0").map(|byte| format!("{byte:02x}")).join(":");
        space.adopt("cli0");
        space.ip("link set cli0 up");
        run("ip link set srv0 up");
        run(&format!("ip addr add {SERVER}/24 dev srv0"));
        run(&format!("ip addr add {SERVER6}/64 dev srv0 nodad"));
        run("ip route add default dev srv0");
        run("ip -6 route add default dev srv0");
        let peers = SOURCES.map(|(source, _)| source);
        for peer in peers.into_iter().chain([NO_TOA, STRANGER, STRANGER6]) {
            run(&format!("ip neigh add {peer} lladdr {client_mac} dev srv0 nud permanent"));
        }
        let source =
            |flags, format| LbSource { flags, group: 1, uplinks: LbSource::ANY_UPLINK, toa_format: format };
        for (peer, format) in SOURCES {
            let len = if ip(peer).is_ipv4() { 32 } else { 128 };
            let key = LpmKey::new(ip(peer), len).expect("a prefix");
            programs.maps().lb_sources.insert(&key, &source(0, format as u32)).expect("insert");
        }
        let key = LpmKey::new(ip(NO_TOA), 32).expect("a prefix");
        programs.maps().lb_sources.insert(&key, &source(LbSource::BYPASS, 0)).expect("insert");
        programs.maps().set_toa(&config).expect("set");
        let cgroup = Cgroup::new();
        programs.attach_toa(&cgroup.path).expect("attach");
        let server = Server::start(&cgroup, family, listener);
        let wire = space.enter(|| Wire::open("cli0"));
        let server_mac = mac("srv0");
        Self { programs, wire, server, server_mac, _space: space, _cgroup: cgroup, _sandbox: sandbox }
    }

    fn plain() -> ToaConfig {
        ToaConfig { flags: 0, late_packets: ToaConfig::LATE_PACKETS }
    }

    fn counters(&self) -> CounterValues {
        self.programs.maps().counters().expect("counters")
    }

    /// Plays a connection; returns the server's two lines without the words around them.
    fn play(&self, peer: &str, script: &Script) -> Seen {
        static PORT: AtomicU16 = AtomicU16::new(20000);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let server = if ip(peer).is_ipv4() { SERVER } else { SERVER6 };
        let send = |tcp: Tcp| {
            let tcp = Tcp { source: port, destination: 80, ..tcp };
            let frame = Frame::new(peer, server, Transport::Tcp(tcp));
            self.wire.send(&frame.with(|frame| frame.destination_mac = self.server_mac).bytes());
        };
        send(Tcp { sequence: 1000, flags: SYN, options: script.syn.clone(), ..Tcp::default() });
        let sequence = self.wire.receive("SYN-ACK", |frame| syn_ack(frame, port));
        let ack =
            Tcp { sequence: 1001, acknowledgement: sequence.wrapping_add(1), flags: ACK, ..Tcp::default() };
        if let Some(options) = &script.ack {
            send(Tcp { options: options.clone(), ..ack.clone() });
        }
        if script.ack_first {
            send(Tcp { options: script.data.clone(), ..ack.clone() });
        }
        for _ in 0..script.idle {
            // Options, because the kernel's fast path shows no packet of the usual header length.
            send(Tcp { options: vec![1; 4], ..ack.clone() });
        }
        let mut accepted = String::new();
        if script.ack.is_some() {
            accepted = self.server.line();
        }
        send(Tcp { flags: ACK | PSH, options: script.data.clone(), payload: b"hello".to_vec(), ..ack });
        if script.ack.is_none() {
            accepted = self.server.line();
        }
        Seen { port, accepted, after: self.server.line() }
    }

    /// The server believes to talk to `client`, from the first moment.
    fn expect(&self, name: &str, peer: &str, script: &Script, client: &str, client_port: Option<u16>) {
        let seen = self.play(peer, script);
        let client_port = client_port.unwrap_or(seen.port);
        assert_eq!(
            seen.accepted,
            format!("accept {client} {client_port} peer {client} {client_port}"),
            "{name}"
        );
        assert_eq!(seen.after, format!("after 5 bytes {client} {client_port}"), "{name}");
    }

    /// The server sees the director itself.
    fn expect_unchanged(&self, name: &str, peer: &str, script: &Script, shown: &str) {
        self.expect(name, peer, script, shown, None);
    }
}

/// The options of a connection's packets.
#[derive(Clone, Default)]
struct Script {
    syn: Vec<u8>,
    /// `None`: the third ACK is lost.
    ack: Option<Vec<u8>>,
    data: Vec<u8>,
    /// How many more ACKs, with other options, are sent after the third.
    idle: usize,
    /// Where `ack` is `None`: it is not lost, carries the data's option, and the server does not wake for it.
    ack_first: bool,
}

impl Script {
    fn on_ack(options: &[u8]) -> Self {
        Self { ack: Some(options.to_vec()), ..Self::default() }
    }

    fn on_data(options: &[u8]) -> Self {
        Self { ack: Some(vec![]), data: options.to_vec(), ..Self::default() }
    }

    fn ack_lost(options: &[u8]) -> Self {
        Self { data: options.to_vec(), ..Self::default() }
    }

    fn on_syn(options: &[u8]) -> Self {
        Self { syn: options.to_vec(), ack: Some(vec![]), ..Self::default() }
    }
}

struct Seen {
    port: u16,
    accepted: String,
    after: String,
}

/// The sequence number of a SYN-ACK for `port`.
fn syn_ack(frame: &[u8], port: u16) -> Option<u32> {
    let at = match frame.get(12..14)? {
        [0x08, 0x00] => 34,
        [0x86, 0xdd] => 54,
        _ => return None,
    };
    let tcp = frame.get(at..at + 20)?;
    (tcp[2..4] == port.to_be_bytes() && tcp[13] & 0x3f == SYN | ACK)
        .then(|| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]))
}

/// kind, length, port, address: datapath's table, written out.
fn option(kind: u8, port: Option<u16>, client: IpAddr) -> Vec<u8> {
    let mut body = match port {
        Some(port) => port.to_be_bytes().to_vec(),
        None => vec![1],
    };
    match client {
        IpAddr::V4(client) => body.extend(client.octets()),
        IpAddr::V6(client) => body.extend(client.octets()),
    }
    let mut option = vec![kind, u8::try_from(body.len() + 2).expect("short")];
    option.extend(body);
    option
}

fn toa() -> Vec<u8> {
    option(254, Some(CLIENT_PORT), CLIENT.into())
}

fn toa6(kind: u8) -> Vec<u8> {
    option(kind, Some(CLIENT_PORT), CLIENT6.into())
}

#[test]
fn a_server_sees_the_client_wherever_the_option_comes() {
    let bench = Bench::new(4, Bench::plain());
    let client = CLIENT.to_string();
    let port = Some(CLIENT_PORT);
    let behind_timestamps = [TIMESTAMPS.to_vec(), toa()].concat();
    let before_timestamps = [toa(), TIMESTAMPS.to_vec()].concat();
    let full = [vec![1; 32], toa()].concat();
    let rows = [
        ("third ACK", Script::on_ack(&toa())),
        ("third ACK lost, first data", Script::ack_lost(&toa())),
        ("after timestamps", Script::on_ack(&behind_timestamps)),
        ("before timestamps", Script::on_ack(&before_timestamps)),
        ("at the very end of a full header", Script::on_ack(&full)),
        ("after an unknown option", Script::on_ack(&[vec![77, 3, 0], toa()].concat())),
        ("on the SYN too", Script { syn: toa(), ..Script::on_ack(&toa()) }),
    ];
    let count = u64::try_from(rows.len()).expect("few");
    for (name, script) in rows {
        bench.expect(name, DIRECTOR, &script, &client, port);
    }
    assert_eq!(bench.counters()["toa_hit"], count);
    assert_eq!((bench.counters()["toa_miss"], bench.counters()["toa_malformed"]), (0, 0));
}

#[test]
fn an_option_on_a_later_packet_is_found_too() {
    let bench = Bench::new(4, Bench::plain());
    let seen = bench.play(DIRECTOR, &Script::on_data(&toa()));
    let port = seen.port;
    assert_eq!(seen.accepted, format!("accept {DIRECTOR} {port} peer {DIRECTOR} {port}"));
    assert_eq!(seen.after, format!("after 5 bytes {CLIENT} {CLIENT_PORT}"));
    assert_eq!(bench.counters()["toa_hit"], 1);
}

#[test]
fn after_the_bounded_number_of_packets_the_search_ends() {
    let bench = Bench::new(4, ToaConfig { flags: 0, late_packets: 2 });
    let script = Script { idle: 2, ..Script::on_data(&toa()) };
    bench.expect_unchanged("too late", DIRECTOR, &script, DIRECTOR);
    assert_eq!((bench.counters()["toa_hit"], bench.counters()["toa_miss"]), (0, 1));
    let script = Script { idle: 1, ..Script::on_data(&toa()) };
    let seen = bench.play(DIRECTOR, &script);
    assert_eq!(seen.after, format!("after 5 bytes {CLIENT} {CLIENT_PORT}"), "just in time");
}

#[test]
fn every_format_is_read_from_its_own_source() {
    let bench = Bench::new(6, Bench::plain());
    let mapped = format!("::ffff:{CLIENT}");
    let client6 = CLIENT6.to_string();
    let mut vtoa = option(252, Some(CLIENT_PORT), CLIENT.into());
    vtoa.extend([0, 0, 0, 7, 10, 9, 0, 1, 0, 80, 0, 0]);
    vtoa[1] = 20;
    let port = Some(CLIENT_PORT);
    let rows = [
        (DIRECTOR, toa(), &mapped, port),
        (DIRECTOR, toa6(254), &client6, port),
        (DIRECTOR6, toa6(254), &client6, port),
        (DIRECTOR6, toa(), &mapped, port),
        ("fd00:1:3::253", toa6(253), &client6, port),
        ("10.1.3.252", vtoa, &mapped, port),
        ("10.1.3.200", option(200, port, CLIENT.into()), &mapped, port),
        ("10.1.3.28", option(28, None, CLIENT.into()), &mapped, None),
        ("fd00:1:3::28", option(28, None, CLIENT6.into()), &client6, None),
    ];
    let count = u64::try_from(rows.len()).expect("few");
    for (source, option, client, port) in rows {
        bench.expect(source, source, &Script::on_ack(&option), client, port);
    }
    assert_eq!(bench.counters()["toa_hit"], count);
}

#[test]
fn whom_nobody_configured_changes_nothing() {
    let bench = Bench::new(4, Bench::plain());
    let after_timestamps = [TIMESTAMPS.to_vec(), toa()].concat();
    bench.expect_unchanged("a stranger", STRANGER, &Script::on_ack(&toa()), STRANGER);
    bench.expect_unchanged("after timestamps", STRANGER, &Script::on_ack(&after_timestamps), STRANGER);
    bench.expect_unchanged("only bypassing", NO_TOA, &Script::on_ack(&toa()), NO_TOA);
    assert_eq!(bench.counters()["toa_untrusted"], 3);
    bench.expect_unchanged("late", STRANGER, &Script::on_data(&toa()), STRANGER);
    bench.expect_unchanged("without", STRANGER, &Script::on_ack(&[]), STRANGER);
    assert_eq!(bench.counters()["toa_untrusted"], 3);
    assert_eq!(bench.counters()["toa_hit"], 0);
}

#[test]
fn a_selective_servers_clients_are_those_of_the_sources_that_admit_it() {
    let bench = Bench::new(4, Bench::plain());
    let server = PodEntry { flags: PodEntry::SELECTIVE, ..PodEntry::default() };
    let maps = bench.programs.maps();
    maps.pods.insert(&ip(SERVER).into(), &server).expect("insert");
    let key = AdmitKey { pod: ip(SERVER).into(), group: 1 };
    for admitted in [None, Some(Admit::BYPASS)] {
        admitted.map(|what| maps.lb_admits.insert(&key, &what)).transpose().expect("insert");
        bench.expect_unchanged("not admitted", DIRECTOR, &Script::on_ack(&toa()), DIRECTOR);
    }
    maps.lb_admits.insert(&key, &Admit::TOA).expect("insert");
    bench.expect("admitted", DIRECTOR, &Script::on_ack(&toa()), &CLIENT.to_string(), Some(CLIENT_PORT));
    assert_eq!(bench.counters()["toa_hit"], 1);
}

#[test]
fn another_format_than_the_configured_one_changes_nothing() {
    let bench = Bench::new(4, ToaConfig { flags: 0, late_packets: 0 });
    bench.expect_unchanged("254 from a 200", "10.1.3.200", &Script::on_ack(&toa()), "10.1.3.200");
    let option = option(200, Some(CLIENT_PORT), CLIENT.into());
    bench.expect_unchanged("200 from a 254", DIRECTOR, &Script::on_ack(&option), DIRECTOR);
    bench.expect_unchanged("no option", DIRECTOR, &Script::on_ack(&[]), DIRECTOR);
    assert_eq!((bench.counters()["toa_miss"], bench.counters()["toa_hit"]), (3, 0));
}

#[test]
fn malformed_options_change_nothing() {
    let bench = Bench::new(4, Bench::plain());
    let rows = [
        ("too short", vec![254, 7, 200, 34, 192, 0, 2]),
        ("too long", vec![254, 9, 200, 34, 192, 0, 2, 10, 0]),
        ("length 0", vec![254, 0, 200, 34, 192, 0, 2, 10]),
        ("length 1", vec![254, 1, 200, 34, 192, 0, 2, 10]),
        ("beyond the header", vec![254, 20, 200, 34, 192, 0, 2, 10]),
        ("port 0", vec![254, 8, 0, 0, 192, 0, 2, 10]),
        ("address 0", vec![254, 8, 200, 34, 0, 0, 0, 0]),
        ("a broken option before it", vec![77, 0, 254, 8, 200, 34, 192, 0, 2, 10, 1, 1]),
    ];
    let count = u64::try_from(rows.len()).expect("few");
    for (name, options) in rows {
        bench.expect_unchanged(name, DIRECTOR, &Script::on_ack(&options), DIRECTOR);
    }
    assert_eq!((bench.counters()["toa_malformed"], bench.counters()["toa_hit"]), (count, 0));
    let ended = [vec![0], toa()].concat();
    bench.expect_unchanged("behind the end of the list", DIRECTOR, &Script::on_ack(&ended), DIRECTOR);
}

#[test]
fn an_ipv4_socket_cannot_show_an_ipv6_client() {
    let bench = Bench::new(4, Bench::plain());
    bench.expect_unchanged("254/20", DIRECTOR, &Script::on_ack(&toa6(254)), DIRECTOR);
}

#[test]
fn a_server_on_ipv4_that_asks_is_told_the_ipv6_client() {
    let mut bench = Bench::new(4, Bench::plain());
    let cgroup = bench._cgroup.path.clone();
    let after = |bench: &Bench, option: &[u8]| {
        let Seen { port, accepted, after } = bench.play(DIRECTOR, &Script::on_ack(option));
        if option.len() == 20 {
            assert_eq!(accepted, format!("accept {DIRECTOR} {port} peer {DIRECTOR} {port}"));
        }
        (after, port)
    };
    bench.programs.set_nat64(&cgroup, true).expect("attach");
    bench.programs.set_nat64(&cgroup, true).expect("attach again");
    assert_eq!(bench.programs.attachments().expect("attachments").len(), 4);
    let (told, port) = after(&bench, &toa6(254));
    assert_eq!(told, format!("after 5 bytes {DIRECTOR} {port} asked {CLIENT6} {CLIENT_PORT} 20"));
    assert_eq!(after(&bench, &toa()).0, format!("after 5 bytes {CLIENT} {CLIENT_PORT}"), "an IPv4 client");
    let (told, port) = after(&bench, &[254, 20, 1]);
    assert_eq!(told, format!("after 5 bytes {DIRECTOR} {port}"), "a broken option");
    bench.programs.set_nat64(&cgroup, false).expect("detach");
    let (told, port) = after(&bench, &toa6(254));
    assert_eq!(told, format!("after 5 bytes {DIRECTOR} {port}"), "nobody answers any more");
}

#[test]
fn an_option_on_the_syn_alone_is_read_from_the_saved_syn() {
    let bench = Bench::new(4, ToaConfig { flags: ToaConfig::SAVE_SYN, late_packets: 0 });
    let mss = vec![2, 4, 5, 0xb4];
    let client = CLIENT.to_string();
    let rows = [
        ("alone", toa()),
        ("after the MSS", [mss.clone(), toa()].concat()),
        ("before it", [toa(), mss].concat()),
    ];
    for (name, options) in rows {
        bench.expect(name, DIRECTOR, &Script::on_syn(&options), &client, Some(CLIENT_PORT));
    }
    let fast_open = vec![254, 8, 0xf9, 0x89, 1, 2, 3, 4];
    bench.expect_unchanged("a Fast Open cookie", DIRECTOR, &Script::on_syn(&fast_open), DIRECTOR);
    bench.expect_unchanged("a stranger", STRANGER, &Script::on_syn(&toa()), STRANGER);
    assert_eq!(bench.counters()["toa_hit"], 3);
    // On other packets the magic is a port like any other.
    let port = option(254, Some(0xf989), CLIENT.into());
    bench.expect("port 63881", DIRECTOR, &Script::on_ack(&port), &client, Some(0xf989));
}

#[test]
fn syn_cookies_lose_nothing() {
    let bench = Bench::new(4, Bench::plain());
    std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").expect("sysctl");
    bench.expect("cookies", DIRECTOR, &Script::on_ack(&toa()), &CLIENT.to_string(), Some(CLIENT_PORT));
}

#[test]
fn listeners_of_mptcp_show_clients_of_plain_tcp() {
    for (family, client) in [(4, CLIENT.to_string()), (6, format!("::ffff:{CLIENT}"))] {
        let bench = Bench::with(family, Bench::plain(), Listener::Mptcp);
        bench.expect("MPTCP", DIRECTOR, &Script::on_ack(&toa()), &client, Some(CLIENT_PORT));
        let stranger = if family == 4 { STRANGER.to_owned() } else { format!("::ffff:{STRANGER}") };
        bench.expect_unchanged("a stranger", STRANGER, &Script::on_ack(&toa()), &stranger);
        assert_eq!((bench.counters()["toa_hit"], bench.counters()["toa_untrusted"]), (1, 1));
    }
}

#[test]
fn listeners_that_wait_for_data_show_the_client_that_comes_with_it() {
    let bench = Bench::with(4, Bench::plain(), Listener::Deferring);
    // The kernel ignores the third ACK; directors repeat the option until the server has answered.
    let script = Script { ack_first: true, ..Script::ack_lost(&toa()) };
    bench.expect("with the data", DIRECTOR, &script, &CLIENT.to_string(), Some(CLIENT_PORT));
    assert_eq!((bench.counters()["toa_hit"], bench.counters()["toa_miss"]), (1, 0));
}

#[test]
fn detaching_ends_it_and_nothing_is_left() {
    let mut bench = Bench::new(4, Bench::plain());
    bench.expect("before", DIRECTOR, &Script::on_ack(&toa()), &CLIENT.to_string(), Some(CLIENT_PORT));
    let attachments = bench.programs.attachments().expect("attachments");
    assert_eq!(attachments.len(), 3);
    let cgroup = std::os::unix::fs::MetadataExt::ino(&bench._cgroup.path.metadata().expect("a folder"));
    assert!(bench.programs.detach_toa(cgroup).expect("detach"));
    assert!(!bench.programs.detach_toa(cgroup).expect("detach"));
    assert_eq!(bench.programs.attachments().expect("attachments"), []);
    bench.expect_unchanged("after", DIRECTOR, &Script::on_ack(&toa()), DIRECTOR);
}
