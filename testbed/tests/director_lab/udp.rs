use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
};

use turnpike_testbed::{Director, Node, director::Protocol};

use crate::rig::{DEADLINE, Rig, SERVER4, SERVER6, VIP4, VIP6, addr, config, finish, is_local, noise};

fn socket(node: &Node, bind: &str, peer: Option<SocketAddr>) -> UdpSocket {
    let socket = node.in_netns(|| UdpSocket::bind(addr(bind))).unwrap().unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    if let Some(peer) = peer {
        socket.connect(peer).unwrap();
    }
    socket
}

/// Datagrams of one byte up to several fragments go there and back.
#[test]
fn datagrams_of_every_size_go_there_and_back() {
    let rig = Rig::new("director-udp");
    let director = Director::start(&rig.director, &config(Protocol::Udp, None)).unwrap();
    for (vip, real, any) in [(VIP4, SERVER4, "0.0.0.0:0"), (VIP6, SERVER6, "[::]:0")] {
        let server = socket(&rig.server, real, None);
        let client = socket(&rig.client, any, Some(addr(vip)));
        let mut buffer = vec![0; 20_000];
        for length in [0, 1, 100, 1400, 1473, 3000, 9000] {
            let sent = noise(length);
            client.send(&sent).unwrap();
            let (received, from) = server.recv_from(&mut buffer).unwrap();
            assert!(buffer[..received] == sent, "{length} bytes there");
            assert!(is_local(from.ip()), "{from}");
            server.send_to(&sent, from).unwrap();
            let received = client.recv(&mut buffer).unwrap();
            assert!(buffer[..received] == sent, "{length} bytes back");
        }
    }
    let stats = director.stats().unwrap();
    assert_eq!(stats.sessions_created, 2);
    assert!(stats.fragments > 0);
    finish(rig, director);
}

/// The server's port is closed: its ICMP error reaches the client's socket.
#[test]
fn a_closed_port_is_reported_to_the_client() {
    let rig = Rig::new("director-icmp");
    let director = Director::start(&rig.director, &config(Protocol::Udp, None)).unwrap();
    for (vip, any) in [(VIP4, "0.0.0.0:0"), (VIP6, "[::]:0")] {
        let client = socket(&rig.client, any, Some(addr(vip)));
        client.send(b"anyone?").unwrap();
        assert_eq!(client.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(director.stats().unwrap().icmp_errors, 2);
    finish(rig, director);
}

/// Ten thousand clients, one datagram each; all sessions live at once, and one in a hundred is used again.
#[test]
fn ten_thousand_sessions_live_in_one_director() {
    const SESSIONS: usize = 10_000;
    let rig = Rig::new("director-scale");
    let director = Director::start(&rig.director, &config(Protocol::Udp, None)).unwrap();
    let server = socket(&rig.server, SERVER4, None);
    let mut sources = BTreeSet::new();
    let mut kept = Vec::new();
    let mut buffer = [0; 8];
    let mut exchange = |client: &UdpSocket, number: usize| {
        client.send(&number.to_be_bytes()).unwrap();
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer, from).unwrap();
        client.recv(&mut buffer).unwrap();
        assert_eq!(usize::from_be_bytes(buffer), number);
        from
    };
    let open = |number: usize| {
        // A port that an earlier socket had would be an earlier session: every client has its own.
        let client = UdpSocket::bind(("0.0.0.0", u16::try_from(20_000 + number).unwrap())).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.connect(VIP4).unwrap();
        client
    };
    rig.client
        .in_netns(|| {
            for number in 0..SESSIONS {
                let client = open(number);
                sources.insert(exchange(&client, number));
                if number % 100 == 0 {
                    kept.push((number, client));
                }
            }
        })
        .unwrap();
    assert_eq!(sources.len(), SESSIONS, "every session has its own local address and port");
    assert_eq!(director.stats().unwrap().sessions, SESSIONS);
    assert_eq!(director.sessions().unwrap().len(), SESSIONS);
    for (number, client) in &kept {
        assert!(sources.contains(&exchange(client, *number)), "the session of client {number} was kept");
    }
    assert_eq!(director.stats().unwrap().sessions_created, SESSIONS as u64);
    finish(rig, director);
}
