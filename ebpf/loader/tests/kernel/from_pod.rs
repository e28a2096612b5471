//! from_pod: {frame in, maps, verdict, frame out, counter}.
//!
//! ```text
//! pod 10.244.1.5 / fd00:244::5 ── tpk0 ── node ── up0 10.1.1.11/24 ── router 10.1.1.1 ── director 10.1.3.30
//! ```
//! Verifies: only the pod's own addresses leave it; replies to directors are redirected to the uplink that the
//! routes name, and everything else takes the stack untouched.

use std::time::{Duration, Instant};

use turnpike_ebpf_loader::Programs;
use turnpike_ebpf_loader::abi::bypass::{Admit, AdmitKey};
use turnpike_ebpf_loader::abi::{ExemptKey, LbSource, LpmKey, MarkConfig, PortKey, Uplink, Veth, names};

use crate::frames::{ACK, Frame, ICMP, ICMP6, SYN, Transport, arp, checksum, ip, nd};
use crate::sandbox::{Sandbox, ifindex, run as command};
use crate::testrun::{Context, DROP, PASS, REDIRECT, run};

const POD: &str = "10.244.1.5";
const POD6: &str = "fd00:244::5";
const LINK_LOCAL: &str = "fe80::ff:fe00:105";
const DIRECTOR: &str = "10.1.3.30";
const DIRECTOR6: &str = "fd00:1:3::30";
const ANY_PORT: &str = "10.1.4.30";
const OTHER_LINK: &str = "10.1.5.30";
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 5];

fn octets4(text: &str) -> [u8; 4] {
    let std::net::IpAddr::V4(address) = ip(text) else { panic!("IPv4") };
    address.octets()
}

fn octets6(text: &str) -> [u8; 16] {
    let std::net::IpAddr::V6(address) = ip(text) else { panic!("IPv6") };
    address.octets()
}

fn veth(flags: u32) -> Veth {
    Veth {
        ip4: octets4(POD),
        flags,
        ip6: octets6(POD6),
        link_local: octets6(LINK_LOCAL),
        pod_mac: POD_MAC,
        class: 0,
        queue: 0,
    }
}

/// Links, routes and maps of the picture; the index of `tpk0`.
pub(crate) fn node(programs: &Programs) -> u32 {
    for line in [
        "ip link add tpk0 type veth peer name pod0",
        "ip link add up0 type veth peer name router0",
        "ip link set tpk0 up",
        "ip link set pod0 up",
        "ip link set up0 up",
        "ip link set router0 up",
        "ip addr add 10.1.1.11/24 dev up0",
        "ip addr add fd00:1:1::11/64 dev up0 nodad",
        "ip route add default via 10.1.1.1",
        "ip route add 10.244.1.5/32 dev tpk0",
        "ip -6 route add default via fd00:1:1::1",
        "ip -6 route add fd00:244::5/128 dev tpk0",
        "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    ] {
        command(line);
    }
    let maps = programs.maps();
    let key = |text: &str, len| LpmKey::new(ip(text), len).expect("a prefix");
    let bypass =
        |group, flags, uplinks| LbSource { flags: LbSource::BYPASS | flags, group, uplinks, toa_format: 0 };
    maps.lb_sources.insert(&key(DIRECTOR, 24), &bypass(1, 0, LbSource::ANY_UPLINK)).expect("insert");
    maps.lb_sources.insert(&key(DIRECTOR6, 64), &bypass(1, 0, LbSource::ANY_UPLINK)).expect("insert");
    let any = bypass(2, LbSource::TCP_ANY_PORT, LbSource::ANY_UPLINK);
    maps.lb_sources.insert(&key(ANY_PORT, 32), &any).expect("insert");
    maps.lb_sources.insert(&key(OTHER_LINK, 32), &bypass(1, 0, 1 << 5)).expect("insert");
    maps.lb_ports.insert(&PortKey::new(1, 6, 80), &1).expect("insert");
    maps.lb_ports.insert(&PortKey::new(1, 17, 53), &1).expect("insert");
    maps.uplinks.insert(&ifindex("up0"), &Uplink { mtu: 1400, index: 0 }).expect("insert");
    maps.veths.insert(&ifindex("tpk0"), &veth(0)).expect("insert");
    ifindex("tpk0")
}

/// The frame with TTL − 1: `redirect_neigh` writes the MAC addresses later.
fn forwarded(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
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

/// Runs a row and checks verdict, frame and counters.
fn check(programs: &mut Programs, on: u32, name: &str, bytes: &[u8], verdict: i32, counter: Option<&str>) {
    let mut expected = programs.maps().counters().expect("counters");
    if let Some(counter) = counter {
        *expected.get_mut(counter).expect(counter) += 1;
    }
    let ran = run(programs, names::PROG_FROM_POD, bytes, Context::on(on));
    assert_eq!(ran.verdict, verdict, "{name}");
    let frame = if verdict == REDIRECT { forwarded(bytes) } else { bytes.to_vec() };
    assert_eq!(ran.frame, frame, "{name}");
    assert_eq!(programs.maps().counters().expect("counters"), expected, "{name}");
}

#[test]
fn replies_to_directors_leave_through_the_uplink() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let on = node(&programs);
    let rows = [
        ("TCP", Frame::tcp(POD, 80, DIRECTOR, 4000, ACK)),
        ("SYN and ACK", Frame::tcp(POD, 80, DIRECTOR, 4000, SYN | ACK)),
        ("UDP", Frame::udp(POD, 53, DIRECTOR, 4000)),
        ("TCP over IPv6", Frame::tcp(POD6, 80, DIRECTOR6, 4000, ACK)),
        ("UDP over IPv6", Frame::udp(POD6, 53, DIRECTOR6, 4000)),
        ("any TCP port", Frame::tcp(POD, 8443, ANY_PORT, 4000, ACK)),
        ("the uplink's MTU", Frame::udp(POD, 53, DIRECTOR, 4000).sized(1372)),
    ];
    for (name, frame) in rows {
        check(&mut programs, on, name, &frame.bytes(), REDIRECT, Some("pod_bypassed"));
    }
}

#[test]
fn what_does_not_qualify_takes_the_stack() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let on = node(&programs);
    let stack = Some("pod_to_stack");
    let udp = || Frame::udp(POD, 53, DIRECTOR, 4000);
    let rows = [
        ("somewhere else", Frame::tcp(POD, 80, "192.0.2.10", 4000, ACK), None),
        ("a port that is not listed", Frame::tcp(POD, 81, DIRECTOR, 4000, ACK), stack),
        ("UDP where any TCP port qualifies", Frame::udp(POD, 53, ANY_PORT, 4000), stack),
        ("the pod's own SYN", Frame::tcp(POD, 80, DIRECTOR, 22, SYN), Some("pod_connects")),
        ("an uplink that is not named", Frame::tcp(POD, 80, OTHER_LINK, 4000, ACK), stack),
        ("TTL 1", udp().with(|frame| frame.ttl = 1), stack),
        ("a fragment", udp().with(|frame| frame.fragment = 0x2000), stack),
        ("over the uplink's MTU", udp().sized(1373), stack),
        ("ICMP", Frame::new(POD, DIRECTOR, Transport::Other(ICMP, vec![0; 8])), stack),
        (
            "ICMPv6",
            Frame::new(POD6, DIRECTOR6, Transport::Other(ICMP6, vec![128, 0, 0, 0, 0, 0, 0, 0])),
            stack,
        ),
    ];
    for (name, frame, counter) in rows {
        check(&mut programs, on, name, &frame.bytes(), PASS, counter);
    }
    let reply = Frame::tcp(POD, 80, DIRECTOR, 4000, ACK).bytes();
    for (name, flags) in [("a limited pod", Veth::LIMITED), ("a pod that never bypasses", Veth::NO_BYPASS)] {
        programs.maps().veths.insert(&on, &veth(flags)).expect("insert");
        check(&mut programs, on, name, &reply, PASS, stack);
    }
    programs.maps().veths.insert(&on, &veth(0)).expect("insert");
    command("ip route replace blackhole 10.1.3.0/24");
    check(&mut programs, on, "no route", &reply, PASS, stack);
    command("ip route replace 10.1.3.0/24 dev tpk0");
    check(&mut programs, on, "a route that leaves through no uplink", &reply, PASS, stack);
}

#[test]
fn a_route_that_changes_is_followed_though_hops_are_remembered() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let on = node(&programs);
    let replies =
        [Frame::udp(POD, 53, DIRECTOR, 4000).bytes(), Frame::udp(POD6, 53, DIRECTOR6, 4000).bytes()];
    for reply in &replies {
        for again in ["looked up", "remembered"] {
            check(&mut programs, on, again, reply, REDIRECT, Some("pod_bypassed"));
        }
    }
    command("ip route add blackhole 10.1.3.0/24");
    command("ip -6 route add blackhole fd00:1:3::/64");
    for reply in &replies {
        let began = Instant::now();
        while run(&mut programs, names::PROG_FROM_POD, reply, Context::on(on)).verdict != PASS {
            assert!(began.elapsed() < Duration::from_secs(20), "the old route is still in use");
        }
    }
}

#[test]
fn a_connection_that_the_pod_opens_stays_with_the_stack_in_both_directions() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let on = node(&programs);
    let syn = Frame::tcp(POD, 40000, ANY_PORT, 22, SYN).bytes();
    let ack = Frame::tcp(POD, 40000, ANY_PORT, 22, ACK).bytes();
    check(&mut programs, on, "before", &ack, REDIRECT, Some("pod_bypassed"));
    check(&mut programs, on, "its SYN", &syn, PASS, Some("pod_connects"));
    check(&mut programs, on, "what follows", &ack, PASS, Some("pod_to_stack"));
    assert_eq!(programs.maps().pod_flows.entries().expect("entries").len(), 1);
}

#[test]
fn only_the_pods_own_addresses_leave_it() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let on = node(&programs);
    let own = octets4(POD);
    let other = octets4("10.244.1.6");
    let (v4, v6, by_arp) = (Some("spoofed_v4"), Some("spoofed_v6"), Some("spoofed_arp"));
    let by_nd = Some("spoofed_nd");
    let echo = || Transport::Other(ICMP6, vec![128, 0, 0, 0, 0, 0, 0, 0]);
    let from = |source: &str, message| Frame::new(source, "ff02::1", message).bytes();
    let mut tagged = Frame::udp(POD, 1, "192.0.2.1", 2).bytes();
    tagged.splice(12..12, [0x81, 0x00, 0, 5]);
    let mut lldp = Frame::udp(POD, 1, "192.0.2.1", 2).bytes();
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    let rows: Vec<(&str, Vec<u8>, i32, Option<&str>)> = vec![
        ("own IPv4", Frame::udp(POD, 1, "192.0.2.1", 2).bytes(), PASS, None),
        ("own IPv6", Frame::udp(POD6, 1, "2001:db8::1", 2).bytes(), PASS, None),
        ("another pod's IPv4", Frame::udp("10.244.1.6", 1, "192.0.2.1", 2).bytes(), DROP, v4),
        ("no IPv4", Frame::udp("0.0.0.0", 68, "255.255.255.255", 67).bytes(), DROP, v4),
        ("a director's address", Frame::tcp(DIRECTOR, 80, "10.244.1.6", 2, ACK).bytes(), DROP, v4),
        ("another pod's IPv6", Frame::udp("fd00:244::6", 1, "2001:db8::1", 2).bytes(), DROP, v6),
        ("own IPv4 as mapped IPv6", Frame::udp("::ffff:10.244.1.5", 1, "2001:db8::1", 2).bytes(), DROP, v6),
        ("link-local on the link", Frame::udp(LINK_LOCAL, 1, "fe80::1", 2).bytes(), PASS, None),
        ("link-local beyond the link", Frame::udp(LINK_LOCAL, 1, "2001:db8::1", 2).bytes(), DROP, v6),
        ("another link-local", Frame::udp("fe80::9", 1, "fe80::1", 2).bytes(), DROP, v6),
        ("ARP about itself", arp(1, POD_MAC, own, [169, 254, 1, 1]), PASS, None),
        ("ARP probe", arp(1, POD_MAC, [0; 4], own), PASS, None),
        ("ARP answer of its own", arp(2, POD_MAC, own, [169, 254, 1, 1]), PASS, None),
        ("ARP for another address", arp(2, POD_MAC, other, [169, 254, 1, 1]), DROP, by_arp),
        ("ARP with another MAC", arp(2, [2; 6], own, [169, 254, 1, 1]), DROP, by_arp),
        ("solicitation", from(POD6, nd(135, "fe80::1")), PASS, None),
        ("solicitation from link-local", from(LINK_LOCAL, nd(135, "fe80::1")), PASS, None),
        ("duplicate address detection", from("::", nd(135, POD6)), PASS, None),
        ("the same for link-local", from("::", nd(135, LINK_LOCAL)), PASS, None),
        ("the same for another's", from("::", nd(135, "fd00:244::6")), DROP, by_nd),
        ("advertisement of its own", from(POD6, nd(136, POD6)), PASS, None),
        ("advertisement of another's", from(POD6, nd(136, "fd00:244::6")), DROP, by_nd),
        ("router solicitation", from(LINK_LOCAL, nd(133, "::")), PASS, None),
        ("router advertisement", from(LINK_LOCAL, nd(134, "::")), DROP, by_nd),
        ("redirect", from(POD6, nd(137, "fd00:244::6")), DROP, by_nd),
        ("ping from nowhere", from("::", echo()), DROP, by_nd),
        (
            "a listener report from nowhere",
            from("::", Transport::Other(0, vec![0; 8])),
            DROP,
            Some("pod_other_frame"),
        ),
        ("a tagged frame", tagged, DROP, Some("pod_other_frame")),
        ("LLDP", lldp, DROP, Some("pod_other_frame")),
    ];
    for (name, bytes, verdict, counter) in rows {
        check(&mut programs, on, name, &bytes, verdict, counter);
    }
    let fine = Frame::udp(POD, 1, "192.0.2.1", 2).bytes();
    programs.maps().veths.remove(&on).expect("remove");
    check(&mut programs, on, "no entry", &fine, DROP, Some("pod_no_config"));
    let v4_only = Veth { ip6: [0; 16], link_local: [0; 16], ..veth(0) };
    programs.maps().veths.insert(&on, &v4_only).expect("insert");
    check(&mut programs, on, "IPv6 of a pod without", &from("::", echo()), DROP, by_nd);
}

#[test]
fn what_need_not_wait_goes_past_the_queue_and_is_counted_there() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let link = node(&programs);
    let queue = link + 100;
    let entry = Veth { queue, ..veth(Veth::LIMITED) };
    programs.maps().veths.insert(&link, &entry).expect("insert");
    let bytes = Frame::tcp(POD, 1, "192.0.2.1", 2, ACK).sized(1000).bytes();
    let verdict =
        |programs: &mut Programs| run(programs, names::PROG_FROM_POD, &bytes, Context::on(link)).verdict;
    assert_eq!(verdict(&mut programs), PASS, "no limit is known yet: the ifb is to decide");
    // One byte takes a second; a quarter of the bucket takes two frames.
    let frame = u64::try_from(bytes.len()).expect("short");
    let second = 1_000_000_000;
    let law = MarkConfig {
        ns_per_byte_q20: second << 20,
        bucket_ns: 4 * (2 * frame - 1) * second,
        ..MarkConfig::default()
    };
    programs.maps().set_mark(queue, &law).expect("set");
    for expected in [0, 0, PASS, PASS] {
        assert_eq!(verdict(&mut programs), expected);
    }
    let state = programs.maps().mark_stats(queue).expect("read").expect("state");
    assert_eq!((state.packets, state.bytes), (2, 2 * frame));
}

#[test]
fn a_limited_pod_bypasses_with_what_need_not_wait_and_it_counts() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let link = node(&programs);
    let queue = link + 100;
    let reply = Frame::tcp(POD, 80, DIRECTOR, 4000, ACK).sized(1000).bytes();
    let frame = u64::try_from(reply.len()).expect("short");
    let second = 1_000_000_000;
    let law = MarkConfig {
        ns_per_byte_q20: second << 20,
        bucket_ns: 4 * (2 * frame - 1) * second,
        ..MarkConfig::default()
    };
    programs.maps().veths.insert(&link, &Veth { queue, ..veth(Veth::LIMITED) }).expect("insert");
    programs.maps().set_mark(queue, &law).expect("set");
    for again in ["there is room", "still"] {
        check(&mut programs, link, again, &reply, REDIRECT, Some("pod_bypassed"));
    }
    check(&mut programs, link, "it has to wait", &reply, PASS, Some("pod_to_stack"));
    let state = programs.maps().mark_stats(queue).expect("read").expect("state");
    assert_eq!((state.packets, state.bytes), (2, 2 * frame));
    // What is exempt from the limit never waits for it.
    let exempting = Veth { queue, ..veth(Veth::LIMITED | Veth::EXEMPT) };
    programs.maps().veths.insert(&link, &exempting).expect("insert");
    let range = ExemptKey::new(link, LpmKey::new(ip(DIRECTOR), 32).expect("a prefix"));
    programs.maps().exempt.insert(&range, &1).expect("insert");
    check(&mut programs, link, "exempt", &reply, REDIRECT, Some("pod_bypassed"));
    assert_eq!(programs.maps().mark_stats(queue).expect("read").expect("state").packets, 2);
}

#[test]
fn a_selective_pod_bypasses_for_the_sources_that_admit_it() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let link = node(&programs);
    programs.maps().veths.insert(&link, &veth(Veth::SELECTIVE)).expect("insert");
    let admit = |pod: &str, group, what: u32| {
        programs.maps().lb_admits.insert(&AdmitKey { pod: ip(pod).into(), group }, &what).expect("insert");
    };
    // Group 1 for IPv4 alone, of group 2 the options alone.
    admit(POD, 1, Admit::BYPASS);
    admit(POD, 2, Admit::TOA);
    let stack = Some("pod_to_stack");
    for (name, frame, verdict, counter) in [
        ("admitted", Frame::tcp(POD, 80, DIRECTOR, 4000, ACK), REDIRECT, Some("pod_bypassed")),
        ("its other address", Frame::tcp(POD6, 80, DIRECTOR6, 4000, ACK), PASS, stack),
        ("the other source", Frame::tcp(POD, 80, ANY_PORT, 4000, ACK), PASS, stack),
        ("what it opens is remembered", Frame::tcp(POD, 90, ANY_PORT, 22, SYN), PASS, Some("pod_connects")),
    ] {
        check(&mut programs, link, name, &frame.bytes(), verdict, counter);
    }
    assert_eq!(programs.maps().pod_flows.entries().expect("entries").len(), 1);
}
