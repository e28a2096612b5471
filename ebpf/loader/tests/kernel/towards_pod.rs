//! uplink: {frame in, maps, verdict, frame out, counter}.
//!
//! ```text
//! director 10.1.3.30 / fd00:1:3::30 ── uplink ── node ── tpk0 ── pod 10.244.1.5 / fd00:244::5
//! ```
//! Verifies: what qualifies is redirected with TTL − 1 and the pod's MAC addresses; everything else takes the stack
//! untouched.

use turnpike_ebpf_loader::Programs;
use turnpike_ebpf_loader::abi::bypass::{Admit, AdmitKey, FlowKey};
use turnpike_ebpf_loader::abi::{Addr, LbSource, LpmKey, PodEntry, PortKey, Uplink, names};

use crate::frames::{ACK, Frame, ICMP, SYN, Transport, checksum, ip};
use crate::sandbox::Sandbox;
use crate::testrun::{Context, PASS, REDIRECT, run};

const POD: &str = "10.244.1.5";
const POD6: &str = "fd00:244::5";
const LIMITED: &str = "10.244.1.6";
const CLOSED: &str = "10.244.1.7";
const DIRECTOR: &str = "10.1.3.30";
const DIRECTOR6: &str = "fd00:1:3::30";
const ANY_PORT: &str = "10.1.4.30";
const OTHER_LINK: &str = "10.1.5.30";
const TOA_ONLY: &str = "10.1.6.30";
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 5];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// A link that exists in every namespace: the loopback. The programs only look its number up.
const LINK: u32 = 1;

fn source(group: u32) -> LbSource {
    LbSource { flags: LbSource::BYPASS, group, uplinks: LbSource::ANY_UPLINK, toa_format: 0 }
}

fn pod(flags: u32) -> PodEntry {
    PodEntry { ifindex: 77, mtu: 1500, flags, pod_mac: POD_MAC, host_mac: HOST_MAC }
}

pub(crate) fn fill(programs: &Programs) {
    let maps = programs.maps();
    let key = |text: &str, len| LpmKey::new(ip(text), len).expect("a prefix");
    maps.lb_sources.insert(&key(DIRECTOR, 24), &source(1)).expect("insert");
    maps.lb_sources.insert(&key(DIRECTOR6, 64), &source(1)).expect("insert");
    let any = LbSource { flags: LbSource::BYPASS | LbSource::TCP_ANY_PORT, ..source(2) };
    maps.lb_sources.insert(&key(ANY_PORT, 32), &any).expect("insert");
    maps.lb_sources.insert(&key(OTHER_LINK, 32), &LbSource { uplinks: 1 << 5, ..source(1) }).expect("insert");
    maps.lb_sources.insert(&key(TOA_ONLY, 32), &LbSource { flags: 0, ..source(1) }).expect("insert");
    for (protocol, port) in [(6, 80), (17, 53)] {
        maps.lb_ports.insert(&PortKey::new(1, protocol, port), &1).expect("insert");
    }
    for (address, flags) in [(POD, 0), (POD6, 0), (LIMITED, PodEntry::LIMITED), (CLOSED, PodEntry::NO_BYPASS)]
    {
        maps.pods.insert(&Addr::from(ip(address)), &pod(flags)).expect("insert");
    }
    maps.uplinks.insert(&LINK, &Uplink { mtu: 1500, index: 0 }).expect("insert");
}

/// The frame as a router hands it on: MAC addresses, TTL − 1, IPv4's checksum.
fn forwarded(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[..6].copy_from_slice(&POD_MAC);
    out[6..12].copy_from_slice(&HOST_MAC);
    if out[12..14] == [0x08, 0x00] {
        out[22] -= 1;
        out[24..26].fill(0);
        let sum = checksum(&[&out[14..34]]);
        out[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        out[21] -= 1;
    }
    out
}

#[test]
fn what_qualifies_is_redirected_with_ttl_and_macs_changed() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    fill(&programs);
    let limited = "uplink_bypassed_limited";
    let rows = [
        ("TCP to a listed port", Frame::tcp(DIRECTOR, 4000, POD, 80, ACK), "uplink_bypassed"),
        ("a SYN too", Frame::tcp(DIRECTOR, 4000, POD, 80, SYN), "uplink_bypassed"),
        ("another address of the prefix", Frame::tcp("10.1.3.200", 4000, POD, 80, ACK), "uplink_bypassed"),
        ("UDP to a listed port", Frame::udp(DIRECTOR, 4000, POD, 53), "uplink_bypassed"),
        ("TCP over IPv6", Frame::tcp(DIRECTOR6, 4000, POD6, 80, ACK), "uplink_bypassed"),
        ("UDP over IPv6", Frame::udp(DIRECTOR6, 4000, POD6, 53), "uplink_bypassed"),
        ("any TCP port where none is listed", Frame::tcp(ANY_PORT, 4000, POD, 8443, ACK), "uplink_bypassed"),
        ("a pod with a limit", Frame::tcp(DIRECTOR, 4000, LIMITED, 80, ACK), limited),
        ("TTL 2", Frame::tcp(DIRECTOR, 4000, POD, 80, ACK).with(|frame| frame.ttl = 2), "uplink_bypassed"),
        ("exactly the MTU", Frame::udp(DIRECTOR, 4000, POD, 53).sized(1472), "uplink_bypassed"),
        ("exactly the MTU, IPv6", Frame::udp(DIRECTOR6, 4000, POD6, 53).sized(1452), "uplink_bypassed"),
        (
            "don't fragment",
            Frame::udp(DIRECTOR, 1, POD, 53).with(|frame| frame.fragment = 0x4000),
            "uplink_bypassed",
        ),
    ];
    for (name, frame, counter) in rows {
        let before = programs.maps().counters().expect("counters");
        let bytes = frame.bytes();
        let ran = run(&mut programs, names::PROG_UPLINK, &bytes, Context::on(LINK));
        assert_eq!(ran.verdict, REDIRECT, "{name}");
        assert_eq!(ran.frame, forwarded(&bytes), "{name}");
        let after = programs.maps().counters().expect("counters");
        assert_eq!(after[counter], before[counter] + 1, "{name}");
    }
}

#[test]
fn the_checksum_is_right_for_every_ttl_and_identification() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    fill(&programs);
    for ttl in 2..=255 {
        // The tos byte moves the checksum through its range, carries included.
        let frame = Frame::udp(DIRECTOR, 4000, POD, 53).with(|frame| (frame.ttl, frame.tos) = (ttl, ttl));
        let bytes = frame.bytes();
        let ran = run(&mut programs, names::PROG_UPLINK, &bytes, Context::on(LINK));
        assert_eq!(ran.frame, forwarded(&bytes), "TTL {ttl}");
    }
}

#[test]
fn everything_else_takes_the_stack_untouched() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    fill(&programs);
    let tcp = || Frame::tcp(DIRECTOR, 4000, POD, 80, ACK);
    let udp = || Frame::udp(DIRECTOR, 4000, POD, 53);
    let stack = Some("uplink_to_stack");
    let rows = [
        ("an untrusted source", Frame::tcp("192.0.2.10", 4000, POD, 80, ACK), None),
        ("a source with TOA but no bypass", Frame::tcp(TOA_ONLY, 4000, POD, 80, ACK), None),
        ("an address that is no pod's", Frame::tcp(DIRECTOR, 4000, "10.244.1.99", 80, ACK), None),
        ("a pod that never bypasses", Frame::tcp(DIRECTOR, 4000, CLOSED, 80, ACK), stack),
        ("a port that is not listed", Frame::tcp(DIRECTOR, 4000, POD, 81, ACK), stack),
        ("UDP to a port listed for TCP", Frame::udp(DIRECTOR, 4000, POD, 80), stack),
        ("UDP where any TCP port qualifies", Frame::udp(ANY_PORT, 4000, POD, 53), stack),
        (
            "an uplink that is not named",
            Frame::tcp(OTHER_LINK, 4000, POD, 80, ACK),
            Some("uplink_wrong_link"),
        ),
        ("TTL 1", tcp().with(|frame| frame.ttl = 1), stack),
        ("TTL 0", tcp().with(|frame| frame.ttl = 0), stack),
        ("hop limit 1", Frame::tcp(DIRECTOR6, 1, POD6, 80, ACK).with(|frame| frame.ttl = 1), stack),
        ("a first fragment", udp().with(|frame| frame.fragment = 0x2000), stack),
        ("a later fragment", udp().with(|frame| frame.fragment = 0x0003), stack),
        ("IP options", tcp().with(|frame| frame.ip_options = vec![1, 1, 1, 0]), stack),
        ("ICMP", Frame::new(DIRECTOR, POD, Transport::Other(ICMP, vec![8, 0, 0, 0, 0, 0, 0, 0])), stack),
        ("an IPv6 fragment", Frame::new(DIRECTOR6, POD6, Transport::Other(44, vec![17; 40])), stack),
        ("one byte over the MTU", udp().sized(1473), stack),
        ("one byte over the MTU, IPv6", Frame::udp(DIRECTOR6, 1, POD6, 53).sized(1453), stack),
        ("half a TCP header", Frame::new(DIRECTOR, POD, Transport::Other(6, vec![0, 1, 0, 80, 0, 0])), stack),
        (
            "mapped addresses on the wire",
            Frame::tcp("::ffff:10.1.3.30", 1, "::ffff:10.244.1.5", 80, ACK),
            None,
        ),
    ];
    for (name, frame, counter) in rows {
        let before = programs.maps().counters().expect("counters");
        let bytes = frame.bytes();
        let ran = run(&mut programs, names::PROG_UPLINK, &bytes, Context::on(LINK));
        assert_eq!(ran.verdict, PASS, "{name}");
        assert_eq!(ran.frame, bytes, "{name}");
        let mut expected = before.clone();
        if let Some(counter) = counter {
            *expected.get_mut(counter).expect(counter) += 1;
        }
        assert_eq!(programs.maps().counters().expect("counters"), expected, "{name}");
    }
}

#[test]
fn a_selective_pod_is_reached_past_the_stack_by_the_sources_that_admit_it() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    fill(&programs);
    let maps = programs.maps();
    for address in [POD, POD6] {
        maps.pods.insert(&Addr::from(ip(address)), &pod(PodEntry::SELECTIVE)).expect("insert");
    }
    for (group, what) in [(1, Admit::BYPASS), (2, Admit::TOA)] {
        maps.lb_admits.insert(&AdmitKey { pod: ip(POD).into(), group }, &what).expect("insert");
    }
    for (name, frame, verdict) in [
        ("admitted", Frame::tcp(DIRECTOR, 4000, POD, 80, ACK), REDIRECT),
        ("its other address", Frame::tcp(DIRECTOR6, 4000, POD6, 80, ACK), PASS),
        ("the other source", Frame::tcp(ANY_PORT, 4000, POD, 8443, ACK), PASS),
    ] {
        let ran = run(&mut programs, names::PROG_UPLINK, &frame.bytes(), Context::on(LINK));
        assert_eq!(ran.verdict, verdict, "{name}");
    }
}

#[test]
fn large_gso_packets_pass_by_the_size_of_their_segments() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    fill(&programs);
    let bytes = Frame::tcp(DIRECTOR, 4000, POD, 80, ACK).sized(3000).bytes();
    for (gso_size, verdict) in [(1460, REDIRECT), (1461, PASS), (9000, PASS), (0, PASS)] {
        let context = Context { gso_size, ..Context::on(LINK) };
        let ran = run(&mut programs, names::PROG_UPLINK, &bytes, context);
        assert_eq!(ran.verdict, verdict, "segments of {gso_size}");
    }
}

#[test]
fn a_connection_that_the_pod_opened_never_bypasses() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    fill(&programs);
    let flow = FlowKey {
        pod: ip(POD).into(),
        peer: ip(ANY_PORT).into(),
        pod_port_be: 40000u16.to_be(),
        peer_port_be: 22u16.to_be(),
    };
    programs.maps().pod_flows.insert(&flow, &1).expect("insert");
    for (peer_port, pod_port, verdict) in [(22, 40000, PASS), (23, 40000, REDIRECT), (22, 40001, REDIRECT)] {
        let bytes = Frame::tcp(ANY_PORT, peer_port, POD, pod_port, ACK).bytes();
        let ran = run(&mut programs, names::PROG_UPLINK, &bytes, Context::on(LINK));
        assert_eq!(ran.verdict, verdict, "{peer_port} → {pod_port}");
    }
}
