//! turnpike-bgpd's sessions with BIRD, FRR and itself, and its configuration while it runs.
//!
//! ```text
//!                        turnpike 10.1.3.1, fd00:1:3::1   AS 65001
//! bird 10.1.3.2 ───┐         │
//!      fd00:1:3::2 ├──── switch
//! frr  10.1.3.3 ───┘
//!      fd00:1:3::3
//! ```

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};

use crate::daemon::{DEADLINE, Daemon};
use anyhow::{Result, ensure};
use ipnetwork::IpNetwork;
use nix::sys::signal::Signal;
use turnpike_bgpd_api::config::RemoteAs;
use turnpike_bgpd_api::{Asn, DEFAULT_CONFIG, Network, Part, Peer};
use turnpike_testbed::speakers::{
    Announcement, Kind, PeerConfig, RibEntry, SpeakerConfig, describe, wait_best, wait_gone, wait_rib,
};
use turnpike_testbed::{Lab, Node, poll_result};

fn prefix(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn three_on_a_lan(lab: &Lab) -> Result<[Node; 3]> {
    let switch = lab.node("switch")?;
    let mut nodes = Vec::new();
    for (number, name) in (1..).zip(["turnpike", "bird", "frr"]) {
        let node = lab.node(name)?;
        lab.link(&switch, &format!("p{number}"), &node, "eth0")?;
        node.sysctl("net.ipv6.conf.eth0.accept_dad", "0")?;
        node.addr("eth0", &format!("10.1.3.{number}/24"))?;
        node.addr("eth0", &format!("fd00:1:3::{number}/64"))?;
        nodes.push(node);
    }
    switch.bridge("br0", &["p1", "p2", "p3"])?;
    Ok(nodes.try_into().unwrap())
}

fn v4(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 1, 3, number).into()
}

fn v6(number: u8) -> IpAddr {
    format!("fd00:1:3::{number}").parse::<Ipv6Addr>().unwrap().into()
}

/// Peers by the last numbers of their addresses, with their systems, over both families.
fn config(number: u8, asn: u32, peers: &[(u8, u32)]) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(asn, Ipv4Addr::new(10, 0, 0, number));
    for (number, asn) in peers {
        config = config.peer(PeerConfig::new(v4(*number), *asn)).peer(PeerConfig::new(v6(*number), *asn));
    }
    config
}

fn kernel_routes(node: &Node) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let text = node.text(&["ip", family, "-o", "route", "show", "proto", "202"])?;
        lines.extend(text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    lines.sort();
    Ok(lines)
}

/// Waits until the kernel routes of bgpd are these: prefix and where to, as `ip route` says.
fn wait_kernel(node: &Node, expected: &[(&str, &str)]) -> Result<()> {
    let what = format!("kernel routes of {}", node.name());
    poll_result(DEADLINE, &what, || {
        let routes = kernel_routes(node)?;
        let all = expected.iter().all(|(prefix, words)| {
            routes.iter().any(|line| line.starts_with(&format!("{prefix} ")) && line.contains(words))
        });
        ensure!(all && routes.len() == expected.len(), "they are {routes:#?}");
        Ok(())
    })
}

fn learned(rib: &[RibEntry]) -> Vec<RibEntry> {
    rib.iter().filter(|entry| entry.from_peer.is_some()).cloned().collect()
}

/// Verifies: sessions over IPv4 and IPv6, internal with BIRD and external with FRR; what each announces arrives at the
/// others with the right attributes; kernel routes follow with protocol 202; withdraws and ends of sessions take them
/// away; routes of others stay as they are.
#[test]
fn bird_and_frr_exchange_routes_with_turnpike_over_both_families() {
    let lab = Lab::new("bgp-both").unwrap();
    let [own, bird, frr] = three_on_a_lan(&lab).unwrap();
    own.route("10.77.0.0/16 via 10.1.3.2").unwrap();
    let own_config = config(1, 65001, &[(2, 65001), (3, 65003)])
        .kernel()
        .announce(Announcement::new("10.50.0.0/16").unwrap().community(65001, 100).med(7))
        .announce(Announcement::new("fd00:50::/48").unwrap().med(9));
    let mut own = Kind::Turnpike.start(&own, &own_config).unwrap();
    let bird_config = config(2, 65001, &[(1, 65001)])
        .announce(Announcement::new("10.52.0.0/16").unwrap().community(65001, 2))
        .announce(Announcement::new("fd00:52::/48").unwrap());
    let mut bird = Kind::Bird.start(&bird, &bird_config).unwrap();
    let frr_config = config(3, 65003, &[(1, 65001)])
        .announce(Announcement::new("10.53.0.0/16").unwrap().med(3))
        .announce(Announcement::new("fd00:53::/48").unwrap().med(3));
    let mut frr = Kind::Frr.start(&frr, &frr_config).unwrap();
    for speaker in [&own, &bird, &frr] {
        speaker.wait_all_established().unwrap();
    }

    let at_own = wait_rib(&*own, "four learned paths", |rib| learned(rib).len() == 4).unwrap();
    assert_eq!(
        describe(&learned(&at_own)),
        "*10.52.0.0/16 from 10.1.3.2 via 10.1.3.2 path [] igp lp 100 communities 65001:2\n\
         *10.53.0.0/16 from 10.1.3.3 via 10.1.3.3 path [65003] igp lp 100 med 3\n\
         *fd00:52::/48 from fd00:1:3::2 via fd00:1:3::2 path [] igp lp 100\n\
         *fd00:53::/48 from fd00:1:3::3 via fd00:1:3::3 path [65003] igp lp 100 med 3\n"
    );
    let at_bird = wait_rib(&*bird, "our paths and FRR's", |rib| learned(rib).len() == 4).unwrap();
    assert_eq!(
        describe(&learned(&at_bird)),
        "*10.50.0.0/16 from 10.1.3.1 via 10.1.3.1 path [] igp lp 100 med 7 communities 65001:100\n\
         *10.53.0.0/16 from 10.1.3.1 via 10.1.3.3 path [65003] igp lp 100 med 3\n\
         *fd00:50::/48 from fd00:1:3::1 via fd00:1:3::1 path [] igp lp 100 med 9\n\
         *fd00:53::/48 from fd00:1:3::1 via fd00:1:3::3 path [65003] igp lp 100 med 3\n"
    );
    wait_rib(&*frr, "our paths and BIRD's", |rib| learned(rib).len() == 4).unwrap();
    for (prefix_text, path) in [("10.50.0.0/16", "65001"), ("fd00:52::/48", "65001")] {
        let best = wait_best(&*frr, prefix(prefix_text)).unwrap();
        assert_eq!((best.as_path.as_str(), best.next_hop), (path, best.from_peer), "{best}");
    }

    let node = own.node().clone();
    let all = [
        ("10.52.0.0/16", "via 10.1.3.2 dev eth0"),
        ("10.53.0.0/16", "via 10.1.3.3 dev eth0"),
        ("fd00:52::/48", "via fd00:1:3::2 dev eth0"),
        ("fd00:53::/48", "via fd00:1:3::3 dev eth0"),
    ];
    wait_kernel(&node, &all).unwrap();

    bird.withdraw(prefix("10.52.0.0/16")).unwrap();
    wait_gone(&*own, prefix("10.52.0.0/16")).unwrap();
    wait_kernel(&node, &all[1..]).unwrap();
    own.announce(Announcement::new("10.54.0.0/16").unwrap()).unwrap();
    own.withdraw(prefix("10.50.0.0/16")).unwrap();
    for speaker in [&bird, &frr] {
        wait_best(&**speaker, prefix("10.54.0.0/16")).unwrap();
        wait_gone(&**speaker, prefix("10.50.0.0/16")).unwrap();
    }
    frr.stop().unwrap();
    wait_kernel(&node, &[("fd00:52::/48", "via fd00:1:3::2 dev eth0")]).unwrap();
    wait_gone(&*bird, prefix("fd00:53::/48")).unwrap();
    own.stop().unwrap();
    wait_kernel(&node, &[]).unwrap();
    let foreign = node.text(&["ip", "route", "show", "10.77.0.0/16"]).unwrap();
    assert!(foreign.starts_with("10.77.0.0/16 via 10.1.3.2"), "{foreign}");
    lab.finish().unwrap();
}

/// A counter of the node's TCP (`nstat`).
fn counter(node: &Node, name: &str) -> Result<u64> {
    let text = node.text(&["nstat", "-az", name])?;
    let value =
        text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_whitespace().nth(1));
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}

/// Verifies: a session with BIRD under TCP-MD5 (RFC 2385) and GTSM (RFC 5082), whoever connects; without the password,
/// or from too far away, the kernel drops the peer's packets.
#[test]
fn passwords_and_ttl_security_are_kept_with_bird() {
    let lab = Lab::new("bgp-secure").unwrap();
    let [own, bird, _] = three_on_a_lan(&lab).unwrap();
    own.write_file("/etc/turnpike/bird.password", "a secret\n").unwrap();
    let bird_config = |secrets: &str, passive: &str| {
        format!(
            "log stderr all; router id 10.0.0.2; protocol device {{}}\n\
             protocol bgp own {{ local 10.1.3.2 as 65002; neighbor 10.1.3.1 as 65001; {secrets} {passive}\n\
             connect delay time 1; connect retry time 1; error wait time 1, 2; ipv4 {{ import all; export all; }}; }}\n"
        )
    };
    let both = "password \"a secret\"; ttl security on;";
    for (secrets, passive) in
        [(both, "passive on;"), (both, ""), ("ttl security on;", ""), ("password \"a secret\";", "")]
    {
        // Each way of saying which AS it is.
        let (quiet, remote_as) =
            if passive.is_empty() { ("passive = true", "\"external\"") } else { ("", "65002") };
        let config = format!(
            "asn = 65001\nrouter_id = \"10.0.0.1\"\n[kernel]\nenabled = false\n[[peer]]\nname = \"bird\"\n\
             address = \"10.1.3.2\"\nremote_as = {remote_as}\nttl_security = 1\nconnect_retry = 1\n\
             password_file = \"/etc/turnpike/bird.password\"\n{quiet}\n"
        );
        bird.write_file("/run/bird/bird.conf", bird_config(secrets, passive)).unwrap();
        let mut command = bird.command("bird").unwrap();
        command.args(["-f", "-c", "/run/bird/bird.conf", "-s", "/run/bird/bird.ctl"]);
        let daemon = Daemon::start(&own, &config).unwrap();
        let bird_process = bird.spawn("bird", command).unwrap();
        if secrets == both {
            daemon.wait_established("bird").unwrap();
            let peer = daemon.peer("bird").unwrap();
            assert_eq!((peer.state.as_str(), peer.remote_as.0), ("Established", 65002));
        } else {
            let dropped =
                if secrets.contains("password") { "TcpExtTCPMinTTLDrop" } else { "TcpExtTCPMD5NotFound" };
            let before = counter(&own, dropped).unwrap();
            poll_result(DEADLINE, dropped, || {
                ensure!(counter(&own, dropped)? > before, "nothing was dropped yet");
                Ok(())
            })
            .unwrap();
            assert_ne!(daemon.peer("bird").unwrap().state, "Established");
        }
        bird_process.stop().unwrap();
        daemon.end(Signal::SIGTERM).unwrap();
        own.run(&["rm", "-rf", "/var/lib/turnpike/bgpd"]).unwrap();
    }
    lab.finish().unwrap();
}

/// Verifies: two turnpike-bgpd over IPv4 and IPv6 at once; the table of each page by page; metrics and readiness.
#[test]
fn two_of_us_exchange_tables_larger_than_a_page() {
    let lab = Lab::new("bgp-pair").unwrap();
    let [own, other, _] = three_on_a_lan(&lab).unwrap();
    let mut many = String::from(
        "asn = 65001\nrouter_id = \"10.0.0.1\"\n[kernel]\nenabled = false\n\
         [[peer]]\nname = \"other\"\naddress = \"10.1.3.2\"\nremote_as = \"internal\"\nconnect_retry = 1\n",
    );
    for number in 0..12_000 {
        many.push_str(&format!(
            "[[network]]\nprefix = \"10.{}.{}.0/24\"\n",
            100 + number / 256,
            number % 256
        ));
    }
    let few = "asn = 65001\nrouter_id = \"10.0.0.2\"\n\
         [[peer]]\nname = \"own\"\naddress = \"10.1.3.1\"\nremote_as = 65001\n\
         [[network]]\nprefix = \"fd00:52::/48\"\nblackhole = true\n";
    let sender = Daemon::start(&own, &many).unwrap();
    let receiver = Daemon::start(&other, few).unwrap();
    receiver.wait_established("own").unwrap();
    poll_result(DEADLINE, "12,000 routes in the kernel", || {
        let status = receiver.status()?;
        ensure!(status.kernel.routes == 12_001 && status.kernel.pending == 0, "{:?}", status.kernel);
        Ok(())
    })
    .unwrap();
    let kernel = kernel_routes(&other).unwrap();
    assert_eq!(kernel.len(), 12_001);
    assert!(kernel.iter().any(|line| line.starts_with("blackhole fd00:52::/48")));
    // One nexthop object carries them all.
    assert_eq!(other.text(&["ip", "nexthop", "show"]).unwrap().lines().count(), 1);

    let program = turnpike_testbed::binary("turnpike").unwrap();
    let listing = other.text(&[program.to_str().unwrap(), "bgp", "rib", "--family", "ipv4"]).unwrap();
    assert!(listing.ends_with("12000 paths\n"), "{}", &listing[listing.len() - 200..]);
    let why = other.text(&[program.to_str().unwrap(), "bgp", "why", "10.100.7.9"]).unwrap();
    assert!(why.starts_with("10.100.7.0/24: 1 path\n"), "{why}");
    assert!(why.contains("10.1.3.1 via dev eth0, metric 0"), "{why}");

    let http = |path: &str| receiver.http(path).unwrap();
    assert!(http("/readyz").starts_with("HTTP/1.1 200"), "{}", http("/readyz"));
    let metrics = http("/metrics");
    for line in [
        "turnpike_bgpd_peer_up{peer=\"own\"} 1",
        "turnpike_bgpd_kernel_routes 12001",
        "turnpike_bgpd_peer_received{peer=\"own\",family=\"ipv4\"} 12000",
    ] {
        assert!(metrics.contains(line), "{line} is missing from\n{metrics}");
    }
    receiver.end(Signal::SIGTERM).unwrap();
    sender.end(Signal::SIGTERM).unwrap();
    lab.finish().unwrap();
}

/// Verifies: a pushed part comes into force at once, is there after SIGKILL, and goes with a drop; the file wins over
/// it; a wrong part and a wrong file are refused with the place of the mistake while the last good state stays; a
/// mended file is taken without a signal.
#[test]
fn parts_and_file_make_one_configuration() {
    let lab = Lab::new("bgp-parts").unwrap();
    let [own, bird, _] = three_on_a_lan(&lab).unwrap();
    let bird = Kind::Bird.start(&bird, &config(2, 65001, &[(1, 65001)])).unwrap();
    let file = "[parts]\nexpect = [\"turnpike-agent\"]\n";
    let mut daemon = Daemon::start(&own, file).unwrap();
    let status = daemon.status().unwrap();
    assert_eq!((status.asn, status.waiting_for.as_slice()), (None, ["turnpike-agent".to_owned()].as_slice()));

    let part = Part {
        owner: "turnpike-agent".to_owned(),
        asn: Some(Asn(65001)),
        peers: vec![Peer {
            name: Some("bird".to_owned()),
            connect_retry: 1,
            ..Peer::new(v4(2), RemoteAs::Internal)
        }],
        networks: vec![Network::new("10.244.1.0/26".parse().unwrap())],
        ..Part::default()
    };
    let refused = daemon.client().unwrap().push(part.clone()).unwrap();
    assert_eq!(refused, Vec::<String>::new());
    wait_best(&*bird, prefix("10.244.1.0/26")).unwrap();
    let status = daemon.status().unwrap();
    assert_eq!(status.router_id.unwrap().to_string(), "10.1.3.1", "the host's address");
    assert!(status.waiting_for.is_empty());

    let mut wrong = part.clone();
    wrong.peers[0].hold_time = 1;
    let error = daemon.client().unwrap().push(wrong).unwrap_err().to_string();
    assert!(error.starts_with("peers[0].hold_time: "), "{error}");

    daemon.end(Signal::SIGKILL).unwrap();
    daemon.start_again().unwrap();
    daemon.wait_established("bird").unwrap();
    wait_best(&*bird, prefix("10.244.1.0/26")).unwrap();

    own.write_file(DEFAULT_CONFIG, "asn = 65001\n[[network]]\nprefx = \"10.55.0.0/16\"\n").unwrap();
    poll_result(DEADLINE, "the mistake in the file", || {
        let problems = daemon.status()?.problems;
        let told =
            problems.iter().any(|text| text.contains("bgpd.toml:3: network[0]") && text.contains("`prefix`"));
        ensure!(told, "{problems:?}");
        Ok(())
    })
    .unwrap();
    assert!(daemon.peer("bird").unwrap().session.is_some(), "the last good state stays");
    own.write_file(DEFAULT_CONFIG, "asn = 65001\n[[network]]\nprefix = \"10.55.0.0/16\"\n").unwrap();
    wait_best(&*bird, prefix("10.55.0.0/16")).unwrap();
    assert!(daemon.status().unwrap().problems.is_empty());
    assert_eq!(daemon.peer("bird").unwrap().flaps, 0);

    // The file names the same peer: it wins, the part's is refused and shown.
    let same = "asn = 65001\n[[peer]]\nname = \"mine\"\naddress = \"10.1.3.2\"\nremote_as = 65001\nconnect_retry = 1\n";
    own.write_file(DEFAULT_CONFIG, same).unwrap();
    daemon.wait_established("mine").unwrap();
    let status = daemon.status().unwrap();
    assert_eq!(status.parts[1].refused, ["peer bird: the file has a peer with this address"]);
    wait_gone(&*bird, prefix("10.55.0.0/16")).unwrap();
    daemon.client().unwrap().request(&turnpike_bgpd_api::Request::Drop { owner: part.owner }).unwrap();
    wait_gone(&*bird, prefix("10.244.1.0/26")).unwrap();
    assert!(daemon.peer("mine").unwrap().session.is_some());
    lab.finish().unwrap();
}

/// Verifies: bgpd does not start beside a program that uses its route protocol number, nor beside another bgpd, nor
/// with a wrong file, and says why.
#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let lab = Lab::new("bgp-refused").unwrap();
    let [own, _, _] = three_on_a_lan(&lab).unwrap();
    let config = "asn = 65001\n";
    own.run(&["ip", "route", "add", "10.77.0.0/16", "via", "10.1.3.2", "proto", "202"]).unwrap();
    let log = Daemon::start_in_vain(&own, config).unwrap();
    assert!(log.contains("protocol 202 is used by another program: it has a route to 10.77.0.0/16"), "{log}");
    own.run(&["ip", "route", "del", "10.77.0.0/16"]).unwrap();
    let first = Daemon::start(&own, config).unwrap();
    let log = Daemon::start_in_vain(&own, config).unwrap();
    assert!(log.contains("another turnpike-bgpd answers at /run/turnpike/bgpd.sock"), "{log}");
    let mode = own.text(&["stat", "-c", "%a", "/run/turnpike/bgpd.sock"]).unwrap();
    assert_eq!(mode.trim(), "600");
    first.end(Signal::SIGTERM).unwrap();
    let log = Daemon::start_in_vain(&own, "asn = 65001\n[kernel]\nprotocol = 186\n").unwrap();
    assert!(log.contains("route protocol 186 is assigned to another program"), "{log}");
    let log = Daemon::start_in_vain(&own, "asn = \"many\"\n").unwrap();
    assert!(log.contains("/etc/turnpike/bgpd.toml:1: asn: "), "{log}");
    lab.finish().unwrap();
}

/// A peer by hand: OPEN without capabilities and without hold time, KEEPALIVE, and then it never reads again.
fn deaf_peer(node: &Node) -> Result<TcpStream> {
    let mut stream = node.in_netns(|| TcpStream::connect((v4(1), 179)))??;
    let message = |kind: u8, body: &[u8]| {
        let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
        [&[0xff; 16][..], &length, &[kind], body].concat()
    };
    // Version 4, AS 65001, hold time 0, identifier 10.0.0.3, no parameters (RFC 4271 §4.2).
    stream.write_all(&message(1, &[4, 0xfd, 0xe9, 0, 0, 10, 0, 0, 3, 0]))?;
    let mut header = [0; 19];
    for kind in [1, 4] {
        stream.read_exact(&mut header)?;
        ensure!(header[18] == kind, "type {} instead of {kind}", header[18]);
        let rest = usize::from(u16::from_be_bytes([header[16], header[17]])) - header.len();
        stream.read_exact(&mut vec![0; rest])?;
        if kind == 1 {
            stream.write_all(&message(4, &[]))?;
        }
    }
    Ok(stream)
}

/// Verifies: a peer that never reads keeps its session and delays nobody: what it has not taken waits within bounds,
/// and the others get everything, changes included.
#[test]
fn a_peer_that_never_reads_delays_nobody() {
    let lab = Lab::new("bgp-deaf").unwrap();
    let [own, bird, deaf] = three_on_a_lan(&lab).unwrap();
    // Small socket buffers, so that a small table fills them.
    own.sysctl("net.ipv4.tcp_wmem", "4096 4096 4096").unwrap();
    deaf.sysctl("net.ipv4.tcp_rmem", "4096 4096 4096").unwrap();
    let config_with = |networks: u32| {
        let mut text = String::from(
            "asn = 65001\nrouter_id = \"10.0.0.1\"\n[kernel]\nenabled = false\n\
             [[peer]]\nname = \"bird\"\naddress = \"10.1.3.2\"\nremote_as = \"internal\"\nconnect_retry = 1\nhold_time = 3\n\
             [[peer]]\nname = \"deaf\"\naddress = \"10.1.3.3\"\nremote_as = \"internal\"\npassive = true\nhold_time = 0\n",
        );
        for number in 0..networks {
            let (high, low) = (100 + number / 256, number % 256);
            // A MED of its own keeps each prefix in an UPDATE of its own, and communities make that a large one.
            let communities: Vec<String> = (0..16).map(|low| format!("\"65001:{low}\"")).collect();
            text.push_str(&format!(
                "[[network]]\nprefix = \"10.{high}.{low}.0/24\"\nmed = {number}\ncommunities = [{}]\n",
                communities.join(",")
            ));
        }
        text
    };
    let daemon = Daemon::start(&own, &config_with(20_000)).unwrap();
    let deaf = deaf_peer(&deaf).unwrap();
    let mut bird_config = SpeakerConfig::new(65001, Ipv4Addr::new(10, 0, 0, 2));
    let mut hasty = PeerConfig::new(v4(1), 65001);
    hasty.hold_time = 3;
    bird_config = bird_config.peer(hasty);
    let bird = Kind::Bird.start(&bird, &bird_config).unwrap();
    wait_rib(&*bird, "the whole table", |rib| learned(rib).len() == 20_000).unwrap();
    own.write_file(DEFAULT_CONFIG, config_with(20_001)).unwrap();
    wait_best(&*bird, prefix("10.178.32.0/24")).unwrap();
    own.write_file(DEFAULT_CONFIG, config_with(19_999)).unwrap();
    wait_gone(&*bird, prefix("10.178.31.0/24")).unwrap();

    let session = daemon.peer("deaf").unwrap().session.unwrap();
    // The whole table is some 2.4 MB; the bound is half a mebibyte and what one step of the speaker adds.
    assert!(session.unsent > 1 << 19 && session.unsent < 3 << 19, "{} octets wait", session.unsent);
    assert_eq!(daemon.peer("bird").unwrap().flaps, 0);
    drop(deaf);
    daemon.end(Signal::SIGTERM).unwrap();
    lab.finish().unwrap();
}

/// Verifies: IPv6 prefixes over an IPv4 session carry the host's IPv6 address as their next hop, and follow it when the
/// host gets another one.
#[test]
fn ipv6_prefixes_cross_an_ipv4_session_with_a_next_hop_of_their_own() {
    let lab = Lab::new("bgp-cross").unwrap();
    let [own, bird, _] = three_on_a_lan(&lab).unwrap();
    let over_ipv4 = |number: u8, other: u8| {
        let mut peer = PeerConfig::new(v4(other), 65001);
        peer.families.ipv6 = true;
        SpeakerConfig::new(65001, Ipv4Addr::new(10, 0, 0, number)).peer(peer)
    };
    let own_config = over_ipv4(1, 2).announce(Announcement::new("fd00:50::/48").unwrap());
    let own_speaker = Kind::Turnpike.start(&own, &own_config).unwrap();
    let bird = Kind::Bird.start(&bird, &over_ipv4(2, 1)).unwrap();
    own_speaker.wait_all_established().unwrap();
    let best = wait_best(&*bird, prefix("fd00:50::/48")).unwrap();
    assert_eq!(best.next_hop, Some(v6(1)));
    own.addr("eth0", "fd00:1:3::99/64").unwrap();
    own.addr_del("eth0", "fd00:1:3::1/64").unwrap();
    wait_rib(&*bird, "the new next hop", |rib| {
        rib.iter().any(|entry| entry.prefix == prefix("fd00:50::/48") && entry.next_hop == Some(v6(99)))
    })
    .unwrap();
    lab.finish().unwrap();
}
