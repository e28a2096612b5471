use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};

use etherparse::{NetSlice, SlicedPacket, TcpSlice, TransportSlice};
use turnpike_testbed::{
    Director,
    director::{DirectorConfig, Protocol, SessionState, ToaFormat},
    poll,
};

use crate::rig::{
    ALIBABA, DEADLINE, DPVS, LOCAL4, Rig, SERVER4, SERVER6, VIP4, VIP6, addr, config, connect, finish, get,
    is_local, logged, nginx, noise, service,
};

/// Calls `look` with the TCP part and source of every captured frame.
fn segments(frames: &[turnpike_testbed::capture::Frame], mut look: impl FnMut(&TcpSlice<'_>, SocketAddr)) {
    for frame in frames {
        let sliced = SlicedPacket::from_ethernet(&frame.bytes).unwrap();
        let source = match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => ip.header().source_addr().into(),
            NetSlice::Ipv6(ip) => ip.header().source_addr().into(),
            NetSlice::Arp(_) => continue,
        };
        if let Some(TransportSlice::Tcp(tcp)) = sliced.transport {
            look(&tcp, SocketAddr::new(source, tcp.source_port()));
        }
    }
}

/// 200 connections, one after the other, half of each family, under each insertion rule.
#[test]
fn connections_reach_the_server_from_the_local_address_with_toa() {
    let rig = Rig::new("director-toa");
    let web = nginx(&rig.server, b"");
    for (toa, syn_has_it) in [(ALIBABA, true), (DPVS, false)] {
        let director = Director::start(&rig.director, &config(Protocol::Tcp, Some(toa))).unwrap();
        let capture = rig.server.capture("eth0", "tcp dst port 8080").unwrap();
        let before = logged(&rig.server).len();
        let mut clients = BTreeSet::new();
        for vip in [VIP4, VIP6].repeat(50) {
            let (body, own) = get(&rig.client, vip, "/");
            assert_eq!(body, b"hello\n");
            clients.insert(own);
        }
        let sources = poll(DEADLINE, "nginx logs all requests", || {
            Some(logged(&rig.server).split_off(before)).filter(|all| all.len() >= 100)
        })
        .unwrap();
        assert!(sources.iter().all(|source| is_local(source.ip())), "{sources:?}");

        let options: BTreeSet<Vec<u8>> = clients
            .iter()
            .map(|&client| ToaFormat::Dpvs.option(client).unwrap().as_slice().to_vec())
            .collect();
        let (mut on_syn, mut on_ack, mut bare) = (BTreeSet::new(), BTreeSet::new(), 0);
        segments(&capture.finish().unwrap(), |tcp, source| {
            assert!(is_local(source.ip()), "{source}");
            let first = tcp.options();
            match first.get(..first.get(1).map_or(0, |&length| usize::from(length))) {
                Some(option) if first[0] == 254 => {
                    let seen = if tcp.syn() { &mut on_syn } else { &mut on_ack };
                    seen.insert(option.to_vec());
                }
                _ => bare += 1,
            }
        });
        assert_eq!(on_syn, if syn_has_it { options.clone() } else { BTreeSet::new() });
        assert_eq!(on_ack, options, "the packets before server data is acknowledged carry it");
        assert!(bare > 0, "later packets do not");

        let stats = director.stats().unwrap();
        assert_eq!(stats.sessions_created, 100);
        assert_eq!((stats.toa.skipped_room, stats.toa.skipped_mtu), (0, 0));
        assert_eq!(stats.mss_clamped, 100);
        director.stop().unwrap();
    }
    web.stop().unwrap();
    rig.lab.finish().unwrap();
}

/// 10 MB down from nginx and 10 MB up to a socket, in both families.
#[test]
fn large_transfers_arrive_unharmed() {
    let rig = Rig::new("director-large");
    let big = noise(10_000_000);
    let web = nginx(&rig.server, &big);
    let mut config = config(Protocol::Tcp, Some(ALIBABA));
    for (vip, real) in [("10.9.0.1:81", "10.1.1.11:8081"), ("[fd00:9::1]:81", "[fd00:1:1::11]:8081")] {
        config.services.push(service(Protocol::Tcp, vip, real, Some(DPVS)));
    }
    let director = Director::start(&rig.director, &config).unwrap();
    for (vip, upload_vip, upload_real) in
        [(VIP4, "10.9.0.1:81", "10.1.1.11:8081"), (VIP6, "[fd00:9::1]:81", "[fd00:1:1::11]:8081")]
    {
        let (body, _) = get(&rig.client, vip, "/big");
        assert!(body == big, "{} bytes down", body.len());

        let listener = rig.server.in_netns(|| TcpListener::bind(addr(upload_real))).unwrap().unwrap();
        let mut stream = connect(&rig.client, addr(upload_vip));
        let (received, from) = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                stream.write_all(&big).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let (mut accepted, from) = listener.accept().unwrap();
            accepted.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut received = Vec::new();
            accepted.read_to_end(&mut received).unwrap();
            sender.join().unwrap();
            (received, from)
        });
        assert!(received == big, "{} bytes up", received.len());
        assert!(is_local(from.ip()), "{from}");
    }
    web.stop().unwrap();
    finish(rig, director);
}

/// The server's link is smaller than the director's MTU: routers answer "too big", and the client must learn it
/// through the director, with room for the option.
#[test]
fn a_smaller_mtu_behind_the_director_is_found() {
    let rig = Rig::new("director-mtu");
    rig.router.mtu("eth2", 1400).unwrap();
    let big = noise(300_000);
    let director = Director::start(&rig.director, &config(Protocol::Tcp, Some(DPVS))).unwrap();
    for (vip, real) in [(VIP4, SERVER4), (VIP6, SERVER6)] {
        let listener = rig.server.in_netns(|| TcpListener::bind(addr(real))).unwrap().unwrap();
        let mut stream = connect(&rig.client, addr(vip));
        let received = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                stream.write_all(&big).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let (mut accepted, _) = listener.accept().unwrap();
            accepted.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut received = Vec::new();
            accepted.read_to_end(&mut received).unwrap();
            sender.join().unwrap();
            received
        });
        assert!(received == big, "{} bytes", received.len());
    }
    assert!(director.stats().unwrap().icmp_errors >= 2, "one error for each family at least");
    finish(rig, director);
}

/// Client, director and server on one LAN, with addresses of that LAN as VIP and local address: nobody has a
/// route to them, the director's node answers ARP and neighbour solicitations.
///
/// ```text
/// client .10 ─┐
/// server .11 ─┼─ bridge, 10.1.3.0/24 and fd00:1:3::/64;  VIP .100, local address .101
/// director .30┘
/// ```
#[test]
fn a_lan_without_routes_works_through_proxy_neighbours() {
    let lab = turnpike_testbed::Lab::new("director-lan").unwrap();
    let switch = lab.node("switch").unwrap();
    let [client, server, host] = [("client", 10), ("server", 11), ("director", 30)].map(|(name, number)| {
        let node = lab.node(name).unwrap();
        lab.link(&node, "eth0", &switch, name).unwrap();
        node.addr("eth0", &format!("10.1.3.{number}/24")).unwrap();
        node.addr("eth0", &format!("fd00:1:3::{number}/64")).unwrap();
        node
    });
    switch.bridge("lan", &["client", "server", "director"]).unwrap();
    let config = DirectorConfig {
        local_addresses: vec!["10.1.3.101".parse().unwrap(), "fd00:1:3::101".parse().unwrap()],
        services: vec![
            service(Protocol::Tcp, "10.1.3.100:80", "10.1.3.11:8080", Some(DPVS)),
            service(Protocol::Tcp, "[fd00:1:3::100]:80", "[fd00:1:3::11]:8080", Some(DPVS)),
        ],
        proxy_neighbours_on: vec!["eth0".into()],
        ..DirectorConfig::default()
    };
    let director = Director::start(&host, &config).unwrap();
    for (vip, real, local) in [
        ("10.1.3.100:80", "10.1.3.11:8080", "10.1.3.101"),
        ("[fd00:1:3::100]:80", "[fd00:1:3::11]:8080", "fd00:1:3::101"),
    ] {
        let listener = server.in_netns(|| TcpListener::bind(addr(real))).unwrap().unwrap();
        let _stream = connect(&client, addr(vip));
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), local.parse::<std::net::IpAddr>().unwrap());
    }
    client.run(&["ping", "-c", "1", "-W", "5", "10.1.3.100"]).unwrap();
    client.run(&["ping", "-c", "1", "-W", "5", "fd00:1:3::100"]).unwrap();
    assert_eq!(director.stats().unwrap().echo_replies, 2);
    director.stop().unwrap();
    lab.finish().unwrap();
}

/// A service that is added later works, one that is taken away keeps its connections, and both show in the
/// sessions that the director lists.
#[test]
fn services_change_while_connections_last() {
    let rig = Rig::new("director-live");
    let empty = DirectorConfig { services: Vec::new(), ..config(Protocol::Tcp, None) };
    let director = Director::start(&rig.director, &empty).unwrap();
    director.configure(&[service(Protocol::Tcp, VIP4, SERVER4, None)]).unwrap();
    let listener = rig.server.in_netns(|| TcpListener::bind(addr(SERVER4))).unwrap().unwrap();
    let mut stream = connect(&rig.client, addr(VIP4));
    let (mut accepted, from) = listener.accept().unwrap();

    let sessions = director.sessions().unwrap();
    assert_eq!(sessions.len(), 1);
    assert_eq!((sessions[0].client, sessions[0].local), (stream.local_addr().unwrap(), from));
    assert_eq!((sessions[0].real, sessions[0].state), (addr(SERVER4), SessionState::Established));

    let refused = director.configure(&[service(Protocol::Tcp, "10.9.1.1:80", SERVER4, None)]);
    assert!(refused.unwrap_err().to_string().contains(LOCAL4[0]), "a VIP that is a local address");
    director.configure(&[]).unwrap();
    stream.write_all(b"still here").unwrap();
    let mut bytes = [0; 10];
    accepted.set_read_timeout(Some(DEADLINE)).unwrap();
    accepted.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still here");
    accepted.write_all(b"and back").unwrap();
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"and back");
    drop((stream, accepted));
    finish(rig, director);
}

#[test]
fn a_contradictory_configuration_is_refused_with_its_reason() {
    let rig = Rig::new("director-refused");
    let config = DirectorConfig { local_addresses: Vec::new(), ..config(Protocol::Tcp, None) };
    let Err(error) = Director::start(&rig.director, &config) else { panic!("it started") };
    assert!(format!("{error:#}").contains("has no local address of its family"), "{error:#}");
    rig.lab.finish().unwrap();
}
