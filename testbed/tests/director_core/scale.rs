use std::{collections::HashSet, net::SocketAddr, time::Duration};

use turnpike_testbed::director::DropReason;

use crate::{
    packets::{Segment, addr, see, udp},
    rig::{ALIBABA, REAL4, REAL6, Rig, VIP4, VIP6, config},
};

/// The number of sessions of each kind that live at once.
const SESSIONS: u32 = 10_000;

fn client4(number: u32) -> SocketAddr {
    let [_, _, high, low] = number.to_be_bytes();
    addr(&format!("198.18.{high}.{low}:{}", 1024 + number % 7))
}

fn client6(number: u32) -> SocketAddr {
    addr(&format!("[fd00:c::{number:x}]:{}", 1024 + number % 7))
}

#[test]
fn ten_thousand_tcp_connections_live_side_by_side() {
    let mut rig = Rig::new(Some(ALIBABA));
    let locals: Vec<SocketAddr> =
        (0..SESSIONS).map(|number| rig.connect(client4(number), addr(VIP4), number)).collect();
    assert_eq!(locals.iter().collect::<HashSet<_>>().len(), locals.len(), "each has its own local port");
    assert_eq!(rig.stats().sessions, locals.len());
    assert_eq!(rig.stats().toa.inserted, u64::from(2 * SESSIONS));
    for (number, &local) in (0..SESSIONS).zip(&locals) {
        let reply = Segment::new(addr(REAL4), local).sequence(number.wrapping_add(1)).ack(1001);
        let seen = rig.at_client(&reply.payload(&number.to_be_bytes()).build());
        assert_eq!((seen.destination, seen.payload), (client4(number), number.to_be_bytes().to_vec()));
    }
    rig.translator.expire(rig.now + Duration::from_secs(900));
    assert_eq!(rig.stats().sessions, 0);
    assert_eq!(rig.stats().sessions_expired, u64::from(SESSIONS));
    assert_eq!(rig.translator.poll_timeout(), None, "nothing is left to wait for");
}

#[test]
fn ten_thousand_udp_sessions_of_each_family_live_side_by_side() {
    let mut rig = Rig::new(None);
    for number in 0..SESSIONS {
        rig.handle(&udp(client4(number), addr(VIP4), b""));
        rig.handle(&udp(client6(number), addr(VIP6), b""));
    }
    assert_eq!(rig.stats().sessions, 2 * SESSIONS as usize);
    for session in rig.translator.sessions(rig.now) {
        let real = if session.client.is_ipv4() { REAL4 } else { REAL6 };
        let (_, out) = rig.handle(&udp(addr(real), session.local, b"x"));
        assert_eq!(see(&out).destination, session.client);
    }
}

/// Four ports serve four thousand connections, one after the other, each only after the session before it
/// on the same port has run out.
#[test]
fn ports_are_used_again_and_again() {
    let mut narrow = config(None);
    narrow.local_ports.last = narrow.local_ports.first + 3;
    let mut rig = Rig::with(&narrow);
    let time_wait = Duration::from_secs(narrow.timeouts.time_wait);
    let mut last_use = std::collections::HashMap::new();
    let mut refused = 0;
    for number in 0..4000 {
        let (client, vip) = (client4(number), addr(VIP4));
        if number % 4 == 0 {
            rig.now += time_wait;
        }
        let local = rig.connect(client, vip, number);
        if let Some(before) = last_use.insert(local, rig.now) {
            assert!(rig.now - before >= time_wait, "reused early");
        }
        rig.at_client(&Segment::new(addr(REAL4), local).ack(1001).fin().build());
        rig.at_server(&Segment::new(client, vip).ack(number.wrapping_add(2)).fin().build());
        if number % 4 == 3 {
            let one_too_many = Segment::syn(addr("192.0.2.99:9"), vip).build();
            assert_eq!(rig.dropped(&one_too_many), DropReason::NoLocalPort);
            refused += 1;
        }
    }
    assert_eq!((last_use.len(), refused), (4, 1000));
    assert_eq!(rig.stats().sessions_created, 4000);
}
