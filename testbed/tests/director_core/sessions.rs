use std::time::Duration;

use turnpike_testbed::director::{DropReason, PortRange, Protocol, Real, SessionState, Timeouts, Verdict};

use crate::{
    packets::{Segment, addr, udp},
    rig::{CLIENT4, CLIENT6, LOCAL4, LOCAL6, REAL4, REAL6, Rig, VIP4, VIP6, config, service},
};

#[test]
fn tcp_has_both_ends_rewritten_in_both_directions() {
    for (client, vip, local, real) in [(CLIENT4, VIP4, LOCAL4, REAL4), (CLIENT6, VIP6, LOCAL6, REAL6)] {
        let (client, vip, local, real) = (addr(client), addr(vip), addr(local), addr(real));
        let mut rig = Rig::new(None);
        let seen = rig.at_server(&Segment::syn(client, vip).build());
        assert_eq!((seen.source, seen.destination), (local, real));
        let seen = rig.at_client(&Segment::syn(real, local).ack(1001).options(&[2, 4, 5, 0xb4]).build());
        assert_eq!((seen.source, seen.destination), (vip, client));
        assert_eq!(seen.options, [2, 4, 5, 0xb4], "without TOA there is nothing to leave room for");
        let request = Segment::new(client, vip).sequence(1001).ack(1001).payload(b"GET / HTTP/1.0\r\n\r\n");
        let seen = rig.at_server(&request.build());
        assert_eq!((seen.source, seen.destination), (local, real));
        assert_eq!(seen.payload, request.payload);
        assert!(seen.options.is_empty());
        let seen = rig.at_client(&Segment::new(real, local).ack(1019).payload(b"odd").build());
        assert_eq!((seen.source, seen.destination, seen.payload), (vip, client, b"odd".to_vec()));
        assert_eq!(rig.stats().sessions, 1);
        assert_eq!(rig.stats().to_servers.packets, 2);
    }
}

#[test]
fn udp_has_both_ends_rewritten_in_both_directions() {
    for (client, vip, local, real) in [(CLIENT4, VIP4, LOCAL4, REAL4), (CLIENT6, VIP6, LOCAL6, REAL6)] {
        let (client, vip, local, real) = (addr(client), addr(vip), addr(local), addr(real));
        let mut rig = Rig::new(None);
        let seen = rig.at_server(&udp(client, vip, b"query"));
        assert_eq!((seen.source, seen.destination, seen.payload), (local, real, b"query".to_vec()));
        let seen = rig.at_client(&udp(real, local, b"reply"));
        assert_eq!((seen.source, seen.destination, seen.payload), (vip, client, b"reply".to_vec()));
    }
}

#[test]
fn a_udp_datagram_without_checksum_stays_without() {
    let mut rig = Rig::new(None);
    let mut packet = udp(addr(CLIENT4), addr(VIP4), b"query");
    packet[26..28].fill(0);
    let (verdict, out) = rig.handle(&packet);
    assert_eq!(verdict, Verdict::ToServer);
    assert_eq!(out[26..28], [0, 0]);
}

#[test]
fn a_damaged_segment_leaves_damaged() {
    let mut rig = Rig::new(None);
    let mut packet = Segment::syn(addr(CLIENT4), addr(VIP4)).payload(b"hello").build();
    let right = rig.handle(&packet).1;
    *packet.last_mut().unwrap() ^= 0x40;
    let damaged = rig.handle(&packet).1;
    let difference = |at: usize| right[at] != damaged[at];
    assert_eq!((0..right.len()).filter(|&at| difference(at)).collect::<Vec<_>>(), [right.len() - 1]);
}

#[test]
fn bytes_behind_the_packet_are_cut_off() {
    let mut rig = Rig::new(None);
    let mut packet = Segment::syn(addr(CLIENT4), addr(VIP4)).build();
    packet.extend_from_slice(&[0; 6]);
    assert_eq!(rig.handle(&packet).1.len(), 40);
}

#[test]
fn strangers_are_dropped_for_a_named_reason() {
    let mut rig = Rig::new(None);
    let client = addr(CLIENT4);
    assert_eq!(rig.dropped(&Segment::syn(client, addr("10.9.0.1:81")).build()), DropReason::NoService);
    assert_eq!(rig.dropped(&Segment::syn(client, addr("10.9.0.2:80")).build()), DropReason::NotOurs);
    assert_eq!(rig.dropped(&Segment::new(client, addr(VIP4)).ack(5).build()), DropReason::NoSession);
    assert_eq!(rig.dropped(&udp(addr(REAL4), addr(LOCAL4), b"")), DropReason::NoSession);
    let spoofed = Segment::syn(addr(LOCAL4), addr(VIP4)).build();
    assert_eq!(rig.dropped(&spoofed), DropReason::NotOurs, "the director does not talk to itself");
    assert_eq!(
        rig.dropped(&crate::packets::ip(client.ip(), addr(VIP4).ip(), 47, &[0; 8])),
        DropReason::Unsupported
    );
    assert_eq!(rig.stats().dropped.values().sum::<u64>(), 6);
    assert_eq!(rig.stats().sessions, 0);
}

#[test]
fn a_stranger_cannot_answer_for_a_server() {
    let mut rig = Rig::new(None);
    rig.connect(addr(CLIENT4), addr(VIP4), 7000);
    let forged = Segment::new(addr("10.244.0.6:8080"), addr(LOCAL4)).ack(1001).build();
    assert_eq!(rig.dropped(&forged), DropReason::NoSession);
}

/// Moves the clock to just before and to the end of a session and looks at the table.
fn assert_lasts(rig: &mut Rig, seconds: u64) {
    let end = rig.now + Duration::from_secs(seconds);
    rig.translator.expire(end.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(rig.stats().sessions, 1, "ended early");
    assert!(rig.translator.poll_timeout().is_some_and(|timeout| timeout <= end));
    rig.translator.expire(end);
    assert_eq!(rig.stats().sessions, 0, "did not end after {seconds} s");
}

#[test]
fn every_state_has_its_timeout() {
    let (client, vip, local, real) = (addr(CLIENT4), addr(VIP4), addr(LOCAL4), addr(REAL4));
    let mut with_timeouts = config(None);
    with_timeouts.timeouts = Timeouts { syn: 3, established: 100, fin: 20, time_wait: 10, reset: 5, udp: 50 };
    let new = || Rig::with(&with_timeouts);
    let state = |rig: &Rig| rig.translator.sessions(rig.now)[0].state;

    let mut rig = new();
    rig.at_server(&Segment::syn(client, vip).build());
    rig.at_client(&Segment::syn(real, local).ack(1001).build());
    assert_eq!(state(&rig), SessionState::Syn);
    assert_lasts(&mut rig, 3);

    let mut rig = new();
    rig.connect(client, vip, 7000);
    assert_eq!(state(&rig), SessionState::Established);
    assert_lasts(&mut rig, 100);

    let mut rig = new();
    rig.connect(client, vip, 7000);
    rig.at_server(&Segment::new(client, vip).ack(7001).fin().build());
    assert_eq!(state(&rig), SessionState::ClientClosed);
    assert_lasts(&mut rig, 20);

    let mut rig = new();
    rig.connect(client, vip, 7000);
    rig.at_client(&Segment::new(real, local).ack(1001).fin().build());
    assert_eq!(state(&rig), SessionState::ServerClosed);
    rig.at_server(&Segment::new(client, vip).ack(7002).fin().build());
    assert_eq!(state(&rig), SessionState::TimeWait);
    rig.at_client(&Segment::new(real, local).ack(1002).build());
    assert_lasts(&mut rig, 10);

    let mut rig = new();
    rig.connect(client, vip, 7000);
    rig.at_client(&Segment::new(real, local).rst().build());
    assert_eq!(state(&rig), SessionState::Reset);
    assert_lasts(&mut rig, 5);

    let mut rig = new();
    rig.at_server(&udp(client, vip, b""));
    assert_eq!(state(&rig), SessionState::Udp);
    rig.now += Duration::from_secs(49);
    rig.at_client(&udp(real, local, b""));
    assert_lasts(&mut rig, 50);
    assert_eq!(rig.stats().sessions_expired, 1);
}

/// A reset with any numbers in it passes: the ends must judge it, and a connection that it did not end goes on.
#[test]
fn a_forged_reset_does_not_cut_a_talking_connection() {
    let (client, vip, local, real) = (addr(CLIENT4), addr(VIP4), addr(LOCAL4), addr(REAL4));
    let mut rig = Rig::new(None);
    rig.connect(client, vip, 7000);
    rig.at_server(&Segment::new(client, vip).sequence(99).rst().build());
    for _ in 0..100 {
        rig.now += Duration::from_secs(9);
        rig.at_client(&Segment::new(real, local).ack(1001).payload(b"data").build());
        rig.at_server(&Segment::new(client, vip).ack(7005).build());
    }
    assert_eq!(rig.stats().sessions_created, 1);
}

#[test]
fn a_client_that_reuses_its_port_gets_a_new_session() {
    let (client, vip) = (addr(CLIENT4), addr(VIP4));
    let mut rig = Rig::new(None);
    let first = rig.connect(client, vip, 7000);
    rig.at_server(&Segment::syn(client, vip).build());
    assert_eq!(rig.stats().sessions_created, 1, "a SYN inside a living connection is the server's to answer");
    rig.at_server(&Segment::new(client, vip).ack(7001).rst().build());
    let second = rig.at_server(&Segment::syn(client, vip).build()).source;
    assert_ne!(first, second, "the server may hold the old connection for a while");
    assert_eq!((rig.stats().sessions, rig.stats().sessions_replaced), (1, 1));
}

#[test]
fn a_repeated_syn_keeps_its_session() {
    let mut rig = Rig::new(None);
    let syn = Segment::syn(addr(CLIENT4), addr(VIP4)).build();
    let first = rig.at_server(&syn);
    assert_eq!(rig.at_server(&syn), first);
    assert_eq!(rig.stats().sessions, 1);
}

#[test]
fn a_local_port_comes_back_when_its_session_ends() {
    let mut narrow = config(None);
    narrow.local_ports = PortRange { first: 2000, last: 2001 };
    let mut rig = Rig::with(&narrow);
    let client = |port: u16| udp(addr(&format!("192.0.2.10:{port}")), addr(VIP4), b"");
    assert_eq!(rig.at_server(&client(1)).source, addr("10.9.1.1:2000"));
    rig.now += Duration::from_secs(100);
    assert_eq!(rig.at_server(&client(2)).source, addr("10.9.1.1:2001"));
    assert_eq!(rig.dropped(&client(3)), DropReason::NoLocalPort);
    rig.now += Duration::from_secs(200);
    assert_eq!(rig.at_server(&client(3)).source, addr("10.9.1.1:2000"));
    assert_eq!(rig.at_server(&client(2)).source, addr("10.9.1.1:2001"));
}

#[test]
fn a_full_table_refuses_new_sessions_and_serves_the_old() {
    let mut small = config(None);
    small.max_sessions = 1;
    let mut rig = Rig::with(&small);
    rig.at_server(&udp(addr(CLIENT4), addr(VIP4), b""));
    assert_eq!(rig.dropped(&udp(addr(CLIENT6), addr(VIP6), b"")), DropReason::TableFull);
    rig.at_server(&udp(addr(CLIENT4), addr(VIP4), b""));
}

#[test]
fn servers_share_sessions_by_weight_and_local_addresses_take_turns() {
    let mut several = config(None);
    several.local_addresses.insert(1, "10.9.1.2".parse().unwrap());
    several.services = vec![service(Protocol::Udp, VIP4, &[REAL4, "10.244.1.7:53"], None)];
    several.services[0].reals[1].weight = 3;
    let mut rig = Rig::with(&several);
    let mut locals = std::collections::BTreeSet::new();
    for port in 1..=400 {
        locals.insert(rig.at_server(&udp(addr(&format!("192.0.2.10:{port}")), addr(VIP4), b"")).source.ip());
    }
    assert_eq!(rig.stats().sessions_by_real.into_values().collect::<Vec<_>>(), [100, 300]);
    assert_eq!(locals.len(), 2);
}

#[test]
fn a_drained_server_keeps_its_sessions() {
    let (client, vip) = (addr(CLIENT4), addr(VIP4));
    let mut rig = Rig::new(None);
    rig.connect(client, vip, 7000);
    let mut services = vec![service(Protocol::Tcp, VIP4, &[REAL4], None)];
    services[0].reals[0] = Real { weight: 0, ..services[0].reals[0] };
    rig.translator.configure(&services).unwrap();
    rig.at_server(&Segment::new(client, vip).ack(7001).payload(b"more").build());
    assert_eq!(rig.dropped(&Segment::syn(addr("192.0.2.10:2"), vip).build()), DropReason::NoReal);
    rig.translator.configure(&[]).unwrap();
    rig.at_client(&Segment::new(addr(REAL4), addr(LOCAL4)).ack(1005).build());
    services[0].vip = addr("10.9.1.1:80");
    assert!(rig.translator.configure(&services).is_err(), "a VIP that is a local address");
}
