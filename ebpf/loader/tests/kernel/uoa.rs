//! UOA: unmodified UDP servers see the clients that a load balancer names, and answer through it.
//!
//! ```text
//! server 10.1.3.1, fd00:1:3::1 in a cgroup ── srv0 (uplink) ── cli0: frames by hand
//! ```

use std::net::IpAddr;

use turnpike_ebpf_loader::abi::bypass::{Admit, AdmitKey};
use turnpike_ebpf_loader::abi::{Addr, LbSource, LpmKey, PodEntry, names};
use turnpike_ebpf_loader::{Attachment, CounterValues, Hook, Programs, UOA_PROGRAMS};

use crate::frames::{Frame, Transport, ip};
use crate::sandbox::{Sandbox, ifindex, mac, run};
use crate::server::{Cgroup, Server};
use crate::space::Space;
use crate::testrun::{self, Context, PASS};
use crate::wire::Wire;

const SERVER: [&str; 2] = ["10.1.3.1", "fd00:1:3::1"];
const DIRECTOR: [&str; 2] = ["10.1.3.30", "fd00:1:3::30"];
const CLIENT: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const STRANGER: [&str; 2] = ["10.1.3.66", "fd00:1:3::66"];
const CLIENT_PORT: u16 = 51234;
const PORT: u16 = 5353;

/// Says whom each datagram is from, and answers there.
const SCRIPT: &str = r#"
import socket, sys
family = socket.AF_INET if sys.argv[1] == "4" else socket.AF_INET6
server = socket.socket(family, socket.SOCK_DGRAM)
if family == socket.AF_INET6:
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.bind(("" if family == socket.AF_INET else "::", 5353))
print("ready", flush=True)
while True:
    data, peer = server.recvfrom(2000)
    print(peer[0], peer[1], data.decode(), flush=True)
    server.sendto(b"answer to " + data, peer)
"#;

/// How the option travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Carried {
    /// As an option of IP (DPVS's mode `ipo`); IPv4 only.
    Option,
    /// In protocol 248 (`opp`).
    Protocol,
    /// Not at all.
    No,
}

fn option(client: IpAddr, port: u16) -> Vec<u8> {
    let address = match client {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = u8::try_from(4 + address.len()).expect("short");
    [vec![31, length], port.to_be_bytes().to_vec(), address].concat()
}

/// A datagram's bytes of layer 4, with a right checksum.
fn udp(source: &str, source_port: u16, destination: &str, payload: &str) -> Vec<u8> {
    let frame = Frame::udp(source, source_port, destination, PORT).with(|frame| {
        frame.transport =
            Transport::Udp { source: source_port, destination: PORT, payload: payload.as_bytes().to_vec() };
    });
    frame.bytes().split_off(if ip(source).is_ipv4() { 34 } else { 54 })
}

/// A datagram in protocol 248.
fn covered(source: &str, source_port: u16, destination: &str, option: &[u8], payload: &str) -> Frame {
    let version = if ip(source).is_ipv4() { 0x10 } else { 0x20 };
    let length = u8::try_from(4 + option.len()).expect("short");
    let bytes =
        [&[version, 17, 0, length][..], option, &udp(source, source_port, destination, payload)].concat();
    Frame::new(source, destination, Transport::Other(248, bytes))
}

struct Bench {
    programs: Programs,
    wire: Wire,
    server: Server,
    server_mac: [u8; 6],
    cgroup: Cgroup,
    _space: Space,
    _sandbox: Sandbox,
}

fn trust(programs: &Programs) {
    for address in DIRECTOR {
        let length = if ip(address).is_ipv4() { 32 } else { 128 };
        let source =
            LbSource { flags: LbSource::UOA, group: 1, uplinks: LbSource::ANY_UPLINK, toa_format: 0 };
        let key = LpmKey::new(ip(address), length).expect("a prefix");
        programs.maps().lb_sources.insert(&key, &source).expect("insert");
    }
    for address in SERVER {
        programs.maps().pods.insert(&Addr::from(ip(address)), &PodEntry::default()).expect("insert");
    }
}

impl Bench {
    /// `family`: the server's, 4 or 6 (both).
    fn new(family: u8) -> Self {
        let sandbox = Sandbox::enter();
        let mut programs = sandbox.open();
        let space = Space::new();
        run("ip link add srv0 type veth peer name cli0");
        let client_mac = mac("cli0").map(|byte| format!("{byte:02x}")).join(":");
        space.adopt("cli0");
        space.ip("link set cli0 up");
        run("ip link set srv0 up");
        run(&format!("ip addr add {}/24 dev srv0", SERVER[0]));
        run(&format!("ip addr add {}/64 dev srv0 nodad", SERVER[1]));
        run("ip route add default dev srv0");
        run("ip -6 route add default dev srv0");
        for peer in DIRECTOR.into_iter().chain(STRANGER).chain(CLIENT) {
            run(&format!("ip neigh add {peer} lladdr {client_mac} dev srv0 nud permanent"));
        }
        trust(&programs);
        programs.attach(Hook::Uplink, "srv0").expect("attach");
        let cgroup = Cgroup::new();
        programs.set_uoa(&cgroup.path, true).expect("attach");
        let server = Server::run(&cgroup, SCRIPT, &[&family.to_string()]);
        let wire = space.enter(|| Wire::open("cli0"));
        let server_mac = mac("srv0");
        Self { programs, wire, server, server_mac, cgroup, _space: space, _sandbox: sandbox }
    }

    fn counters(&self) -> CounterValues {
        self.programs.maps().counters().expect("counters")
    }

    /// Sends a datagram from a director's port; what the server says of it, and the address and port that it answers to.
    fn send(
        &self,
        from: &str,
        port: u16,
        carried: Carried,
        option: &[u8],
        payload: &str,
    ) -> (String, IpAddr, u16) {
        let v4 = ip(from).is_ipv4();
        let server = if v4 { SERVER[0] } else { SERVER[1] };
        let frame = match carried {
            Carried::Protocol => covered(from, port, server, option, payload),
            Carried::Option | Carried::No => Frame::new(
                from,
                server,
                Transport::Udp { source: port, destination: PORT, payload: payload.as_bytes().to_vec() },
            )
            .with(|frame| {
                if carried == Carried::Option {
                    frame.ip_options = option.to_vec();
                }
            }),
        };
        self.wire.send(&frame.with(|frame| frame.destination_mac = self.server_mac).bytes());
        let line = self.server.line();
        let answer = format!("answer to {payload}");
        let (address, port) = self.wire.receive("an answer", |frame| answered(frame, answer.as_bytes()));
        (line, address, port)
    }
}

/// Where a datagram of the server with this payload goes.
fn answered(frame: &[u8], payload: &[u8]) -> Option<(IpAddr, u16)> {
    let (address, l4): (IpAddr, usize) = match frame.get(12..14)? {
        [0x08, 0x00] => (<[u8; 4]>::try_from(frame.get(30..34)?).ok()?.into(), 34),
        [0x86, 0xdd] => (<[u8; 16]>::try_from(frame.get(38..54)?).ok()?.into(), 54),
        _ => return None,
    };
    let is_ours = frame.get(l4..l4 + 2)? == PORT.to_be_bytes() && frame.get(l4 + 8..)? == payload;
    let port = u16::from_be_bytes(frame.get(l4 + 2..l4 + 4)?.try_into().ok()?);
    is_ours.then_some((address, port))
}

#[test]
fn a_server_sees_the_client_and_answers_through_the_director() {
    for family in [4, 6] {
        let bench = Bench::new(family);
        let mut port = 4000;
        for (way, carried) in [(0, Carried::Option), (0, Carried::Protocol), (1, Carried::Protocol)] {
            if way == 1 && family == 4 {
                continue;
            }
            port += 1;
            let name = format!("family {way}, {carried:?}, a socket of {family}");
            let client = ip(CLIENT[way]);
            let shown = if way == 0 && family == 6 { format!("::ffff:{client}") } else { client.to_string() };
            let told = option(client, CLIENT_PORT + port);
            let seen = bench.send(DIRECTOR[way], port, carried, &told, "first");
            let line = |what: &str| format!("{shown} {} {what}", CLIENT_PORT + port);
            assert_eq!(seen, (line("first"), ip(DIRECTOR[way]), port), "{name}");
            // DPVS names the client on the first datagrams only.
            let seen = bench.send(DIRECTOR[way], port, Carried::No, &[], "second");
            assert_eq!(seen, (line("second"), ip(DIRECTOR[way]), port), "{name}");
            // The director's port goes to another client.
            let other = option(client, 7);
            let seen = bench.send(DIRECTOR[way], port, carried, &other, "third");
            assert_eq!(seen, (format!("{shown} 7 third"), ip(DIRECTOR[way]), port), "{name}");
        }
        let counters = bench.counters();
        let sessions = if family == 4 { 2 } else { 3 };
        assert_eq!((counters["uoa_learned"], counters["uoa_uncovered"]), (2 * sessions, 2 * (sessions - 1)));
    }
}

#[test]
fn whom_nobody_trusts_and_what_makes_no_sense_changes_nothing() {
    let bench = Bench::new(6);
    let told = option(ip(CLIENT[0]), CLIENT_PORT);
    let unchanged = |from: &str, carried, option: &[u8], counter: &str| {
        let before = bench.counters();
        let seen = bench.send(from, 4000, carried, option, "x");
        let shown = if ip(from).is_ipv4() { format!("::ffff:{from}") } else { from.to_owned() };
        assert_eq!(seen, (format!("{shown} 4000 x"), ip(from), 4000), "{from} {carried:?} {option:?}");
        let mut after = bench.counters();
        if let Some(count) = after.get_mut(counter) {
            *count -= 1;
        }
        for name in ["uoa_learned", "uoa_untrusted", "uoa_malformed", "uoa_opted_out"] {
            assert_eq!(after[name], before[name], "{name}: {from} {carried:?} {option:?}");
        }
    };
    unchanged(STRANGER[0], Carried::Option, &told, "uoa_untrusted");
    unchanged(STRANGER[0], Carried::No, &[], "");
    unchanged(STRANGER[1], Carried::No, &[], "");
    unchanged(DIRECTOR[0], Carried::Option, &option(ip(CLIENT[0]), 0), "uoa_malformed");
    unchanged(DIRECTOR[0], Carried::Option, &option(ip("0.0.0.0"), 1), "uoa_malformed");
    unchanged(DIRECTOR[1], Carried::Protocol, &option(ip("::"), 1), "uoa_malformed");
    // Another option of that length, and padding only.
    unchanged(DIRECTOR[0], Carried::Option, &[30, 8, 0, 1, 1, 2, 3, 4], "");
    unchanged(DIRECTOR[0], Carried::Option, &[1; 8], "");
    // An IPv6 client behind IPv4 could not be answered: the datagram arrives, and shows the director.
    unchanged(DIRECTOR[0], Carried::Protocol, &option(ip(CLIENT[1]), CLIENT_PORT), "");
    let pods = &bench.programs.maps().pods;
    for flags in [PodEntry::NO_TOA, PodEntry::SELECTIVE] {
        pods.insert(&Addr::from(ip(SERVER[0])), &PodEntry { flags, ..PodEntry::default() }).expect("insert");
        unchanged(DIRECTOR[0], Carried::Option, &told, "uoa_opted_out");
    }
    let admitted = AdmitKey { pod: ip(SERVER[0]).into(), group: 1 };
    bench.programs.maps().lb_admits.insert(&admitted, &Admit::TOA).expect("insert");
    let seen = bench.send(DIRECTOR[0], 4000, Carried::Option, &told, "admitted");
    assert_eq!(seen.0, format!("::ffff:{} {CLIENT_PORT} admitted", CLIENT[0]));
}

#[test]
fn switched_off_it_leaves_nothing_behind() {
    let mut bench = Bench::new(4);
    let told = option(ip(CLIENT[0]), CLIENT_PORT);
    assert!(bench.send(DIRECTOR[0], 4000, Carried::Option, &told, "on").0.starts_with(CLIENT[0]));
    let path = bench.cgroup.path.clone();
    // A new process's programs take the place of the old ones, and know what those learned.
    bench.programs.set_uoa(&path, true).expect("attach again");
    assert!(bench.send(DIRECTOR[0], 4000, Carried::No, &[], "again").0.starts_with(CLIENT[0]));
    let attached = bench.programs.attachments().expect("attachments");
    let on_cgroup =
        |all: &[Attachment]| all.iter().filter(|one| matches!(one, Attachment::Cgroup { .. })).count();
    assert_eq!(on_cgroup(&attached), UOA_PROGRAMS.len());
    bench.programs.set_uoa(&path, false).expect("detach");
    assert_eq!(on_cgroup(&bench.programs.attachments().expect("attachments")), 0);
    let seen = bench.send(DIRECTOR[0], 4000, Carried::Option, &told, "off");
    assert_eq!(seen, (format!("{} 4000 off", DIRECTOR[0]), ip(DIRECTOR[0]), 4000));
}

/// {frame in, frame out}: protocol 248 becomes options, in place; everything else stays as it is.
#[test]
fn what_carries_the_option_becomes_options() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    trust(&programs);
    let [server4, server6] = SERVER;
    let (four, six) = (option(ip(CLIENT[0]), CLIENT_PORT), option(ip(CLIENT[1]), CLIENT_PORT));
    let with_options = |option: &[u8]| {
        let options = [&[1; 4], option].concat();
        let payload = b"payload".to_vec();
        Frame::new(DIRECTOR[0], server4, Transport::Udp { source: 9, destination: PORT, payload })
            .with(|frame| frame.ip_options = options)
            .bytes()
    };
    let in_six = [&[17, 2, 1, 0, 31, 18][..], &six[2..], &udp(DIRECTOR[1], 9, server6, "payload")].concat();
    let over4 = |option: &[u8]| covered(DIRECTOR[0], 9, server4, option, "payload");
    let over6 = |option: &[u8]| covered(DIRECTOR[1], 9, server6, option, "payload");
    let rows = [
        ("IPv4", over4(&four).bytes(), Some(with_options(&four))),
        ("an IPv6 client over IPv4", over4(&six).bytes(), Some(with_options(&six))),
        (
            "IPv6",
            over6(&six).bytes(),
            Some(Frame::new(DIRECTOR[1], server6, Transport::Other(60, in_six)).bytes()),
        ),
        ("an IPv4 client over IPv6", over6(&four).bytes(), None),
        ("a stranger", covered(STRANGER[0], 9, server4, &four, "payload").bytes(), None),
        ("a stranger, IPv6", covered(STRANGER[1], 9, server6, &six, "payload").bytes(), None),
        ("not to a pod", covered(DIRECTOR[0], 9, "10.1.3.99", &four, "payload").bytes(), None),
        ("with IP options", over4(&four).with(|frame| frame.ip_options = vec![1; 4]).bytes(), None),
        ("a fragment", over4(&four).with(|frame| frame.fragment = 0x2000).bytes(), None),
        ("another length", over4(&[31, 4, 0, 1]).bytes(), None),
        (
            "cut short",
            Frame::new(DIRECTOR[0], server4, Transport::Other(248, vec![0x10, 17, 0, 12, 31])).bytes(),
            None,
        ),
        ("UDP", Frame::udp(DIRECTOR[0], 9, server4, PORT).bytes(), None),
    ];
    for (name, frame, wanted) in rows {
        let before = programs.maps().counters().expect("counters")["uoa_uncovered"];
        let ran = testrun::run(&mut programs, names::PROG_UPLINK, &frame, Context::on(ifindex("lo")));
        assert_eq!(ran.verdict, PASS, "{name}");
        assert_eq!(ran.frame, wanted.clone().unwrap_or(frame), "{name}");
        let uncovered = programs.maps().counters().expect("counters")["uoa_uncovered"] - before;
        assert_eq!(uncovered, u64::from(wanted.is_some()), "{name}");
    }
}
