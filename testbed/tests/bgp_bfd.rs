//! turnpike-bfdd and turnpike-bgpd with BIRD's and FRR's BFD.
//!
//! ```text
//!                          ┌─ near ── bird, FD        AS 65002, 10.1.1.2, fd00:1:1::2
//! turnpike, AS 65001 ──────┤
//! 10.1.1.1, 10.1.2.1       └─ far ─── frr             AS 65003, 10.1.2.2, fd00:1:2::2
//! ```
//!
//! `near` and `far` are switches. A path fails in silence when a switch forgets one of its ports: every carrier stays.

#![cfg(test)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use ipnetwork::IpNetwork;
use nix::sys::signal::Signal;
use turnpike_bgpd_api::bfd::{BfdState, BfdView};
use turnpike_testbed::capture::Frame;
use turnpike_testbed::speakers::{
    Announcement, Bird, Frr, GracefulRestart, PeerConfig, Speaker, SpeakerConfig, Turnpike, wait_best,
};
use turnpike_testbed::{Lab, Node, binary, poll_result};

const DEADLINE: Duration = Duration::from_secs(30);
const INTERVAL_MS: u32 = 300;
const MULTIPLIER: u8 = 3;
/// Announced by both, so that one is left when the other goes.
const SHARED: &str = "10.99.0.0/16";
const OWN: &str = "10.244.1.0/26";

struct Triangle {
    own: Node,
    bird: Node,
    frr: Node,
    near: Node,
    far: Node,
}

impl Triangle {
    fn build(lab: &Lab) -> Result<Self> {
        let node = |name| lab.node(name);
        let it = Self {
            own: node("own")?,
            bird: node("bird")?,
            frr: node("frr")?,
            near: node("near")?,
            far: node("far")?,
        };
        for (number, switch, other) in [(1, &it.near, &it.bird), (2, &it.far, &it.frr)] {
            let port = format!("eth{number}");
            lab.link(switch, "own", &it.own, &port)?;
            lab.link(switch, "peer", other, "eth0")?;
            switch.bridge("br0", &["own", "peer"])?;
            for (node, interface, host) in [(&it.own, port.as_str(), 1), (other, "eth0", 2)] {
                node.sysctl(&format!("net.ipv6.conf.{interface}.accept_dad"), "0")?;
                node.addr(interface, &format!("10.1.{number}.{host}/24"))?;
                node.addr(interface, &format!("fd00:1:{number}::{host}/64"))?;
            }
        }
        Ok(it)
    }
}

/// The switch loses a port; nobody sees a carrier go.
fn part(switch: &Node) -> Result<()> {
    switch.run(&["ip", "link", "set", "own", "nomaster"]).map(drop)
}

fn mend(switch: &Node) -> Result<()> {
    switch.run(&["ip", "link", "set", "own", "master", "br0"]).map(drop)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn peer(at: &str, asn: u32) -> PeerConfig {
    PeerConfig::new(address(at), asn).bfd(INTERVAL_MS, MULTIPLIER)
}

fn own_config() -> SpeakerConfig {
    SpeakerConfig::new(65001, Ipv4Addr::new(10, 0, 0, 1))
}

fn other_config(number: u8, asn: u32) -> SpeakerConfig {
    SpeakerConfig::new(asn, Ipv4Addr::new(10, 0, 0, number)).announce(Announcement::new(SHARED).unwrap())
}

/// Waits until every session of bfdd is Up at both ends.
fn wait_up(speaker: &Turnpike, count: usize) -> Result<Vec<BfdView>> {
    poll_result(DEADLINE, "BFD sessions Up", || {
        let sessions = speaker.bfd()?;
        let up = |view: &BfdView| view.state == BfdState::Up && view.remote_state == BfdState::Up;
        ensure!(sessions.len() == count && sessions.iter().all(up), "{sessions:#?}");
        Ok(sessions)
    })
}

/// Waits until the kernel's route for the shared prefix leads to exactly these.
fn wait_ways(node: &Node, ways: &[&str]) -> Result<()> {
    poll_result(DEADLINE, &format!("the route to {SHARED}"), || {
        let route = node.text(&["ip", "-o", "route", "show", SHARED])?;
        let all = ["10.1.1.2", "10.1.2.2"];
        let found: Vec<&str> = all.into_iter().filter(|way| route.contains(way)).collect();
        ensure!(found == ways, "{route}");
        Ok(())
    })
}

/// Source ports and TTLs of UDP packets.
fn marks(frames: &[Frame]) -> (BTreeSet<u16>, BTreeSet<u8>) {
    let (mut ports, mut ttls) = (BTreeSet::new(), BTreeSet::new());
    for frame in frames {
        let Ok(packet) = SlicedPacket::from_ethernet(&frame.bytes) else { continue };
        if let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&packet.net, &packet.transport) {
            ttls.insert(ip.header().ttl());
            ports.insert(udp.source_port());
        }
    }
    (ports, ttls)
}

/// Verifies: single-hop sessions over both families with BIRD and FRR at once; the slower end's interval is agreed on,
/// with polls answered both ways; a peer may ask for other values than we do; `turnpike bgp bfd` shows them all;
/// our own packets come with TTL 255 from one port in the range of RFC 5881 §4.
#[test]
fn sessions_come_up_with_bird_and_frr_over_both_families() {
    let lab = Lab::new("bfd-up").unwrap();
    let it = Triangle::build(&lab).unwrap();
    let config = own_config()
        .peer(peer("10.1.1.2", 65002))
        .peer(peer("fd00:1:1::2", 65002))
        .peer(peer("10.1.2.2", 65003))
        .peer(peer("fd00:1:2::2", 65003));
    let slow = |at, asn| PeerConfig::new(address(at), asn).bfd(500, 4);
    let bird = other_config(2, 65002).peer(slow("10.1.1.1", 65001)).peer(slow("fd00:1:1::1", 65001));
    let _bird = Bird::start(&it.bird, &bird).unwrap();
    let frr = other_config(3, 65003).peer(peer("10.1.2.1", 65001)).peer(peer("fd00:1:2::1", 65001));
    let _frr = Frr::start(&it.frr, &frr).unwrap();
    let capture = it.own.capture("eth1", "udp and dst port 3784 and src host 10.1.1.1").unwrap();
    let own = Turnpike::start(&it.own, &config).unwrap();
    own.wait_all_established().unwrap();
    wait_up(&own, 4).unwrap();
    poll_result(DEADLINE, "agreed intervals", || {
        for view in own.bfd()? {
            let slow = ["10.1.1.2", "fd00:1:1::2"].map(address).contains(&view.key.peer);
            let (tx, detection) = if slow { (500_000, 2_000_000) } else { (300_000, 900_000) };
            ensure!(view.tx_interval_us == Some(tx), "{view:#?}");
            ensure!(view.detection_us == Some(detection), "{view:#?}");
        }
        Ok(())
    })
    .unwrap();
    let said = it.bird.text(&["birdc", "-s", "/run/bird/bird.ctl", "show", "bfd", "sessions"]).unwrap();
    assert_eq!(said.matches(" Up ").count(), 2, "{said}");
    let said = it.frr.json(&["vtysh", "-c", "show bfd peers json"]).unwrap();
    let said = said.as_array().unwrap();
    assert_eq!(said.len(), 2);
    for one in said {
        assert_eq!((&one["status"], &one["multihop"]), (&"up".into(), &false.into()), "{one}");
        assert_eq!(one["remote-detect-multiplier"], 3, "{one}");
    }
    let listing = it.own.text(&[binary("turnpike").unwrap().to_str().unwrap(), "bgp", "bfd"]).unwrap();
    assert_eq!(listing.matches(" Up ").count(), 8, "both ends of four:\n{listing}");
    assert!(listing.contains("4 sessions, 4 up"), "{listing}");
    let (ports, ttls) = marks(&capture.finish().unwrap());
    assert_eq!(ttls, BTreeSet::from([255]), "RFC 5881 §5");
    assert!(ports.len() == 1 && ports.iter().all(|port| *port >= 49_152), "RFC 5881 §4: {ports:?}");

    lab.finish().unwrap();
}

/// Verifies: between two of us, taking BFD out of one configuration ends the BFD session (AdminDown, which is no
/// failure: RFC 5882 §3.2) and no BGP session; put back, it comes up again; an orderly
/// end of bfdd is no failure at either end. (BIRD 2.0.12 and FRR 8.4.4 take AdminDown
/// for a failure and reset their BGP session.)
#[test]
fn taking_bfd_out_of_the_configuration_ends_no_bgp_session() {
    let lab = Lab::new("bfd-pair").unwrap();
    let (own, other) = (lab.node("own").unwrap(), lab.node("other").unwrap());
    lab.link(&own, "eth0", &other, "eth0").unwrap();
    own.addr("eth0", "10.1.1.1/24").unwrap();
    other.addr("eth0", "10.1.1.2/24").unwrap();
    let config = own_config().peer(peer("10.1.1.2", 65002));
    let mut own = Turnpike::start(&own, &config).unwrap();
    let other = Turnpike::start(&other, &other_config(2, 65002).peer(peer("10.1.1.1", 65001))).unwrap();
    own.wait_all_established().unwrap();
    wait_up(&own, 1).unwrap();
    let view = wait_up(&other, 1).unwrap().remove(0);
    assert!(view.remote_independent, "C bit");

    let mut without = config.clone();
    without.peers.iter_mut().for_each(|peer| peer.bfd = None);
    own.reconfigure(without).unwrap();
    poll_result(DEADLINE, "AdminDown at the other end", || {
        let view = other.bfd()?.pop().context("no session")?;
        ensure!(own.bfd()?.is_empty() && view.state == BfdState::Down && view.downs == 1, "{view:#?}");
        Ok(())
    })
    .unwrap();
    own.reconfigure(config).unwrap();
    wait_up(&other, 1).unwrap();

    let bfdd = own.bfdd().unwrap();
    bfdd.kill(Signal::SIGTERM).unwrap();
    bfdd.wait_exit(DEADLINE).unwrap();
    poll_result(DEADLINE, "both to miss bfdd", || {
        let view = other.bfd()?.pop().context("no session")?;
        ensure!(
            view.state == BfdState::Down && view.downs == 2 && view.remote_discriminator.is_none(),
            "{view:#?}"
        );
        let problems = own.client()?.status()?.problems;
        ensure!(problems.iter().any(|text| text.contains("turnpike-bfdd")), "{problems:?}");
        Ok(())
    })
    .unwrap();
    for speaker in [&own, &other] {
        let peer = speaker.client().unwrap().peers(None).unwrap().remove(0);
        assert!(peer.session.is_some() && peer.flaps == 0, "{peer:#?}");
    }
    lab.finish().unwrap();
}

/// Verifies: a path that fails in silence (every carrier stays, hold time 90 s, graceful restart agreed on) takes the
/// BGP session and its routes away, towards BIRD and towards FRR, and traffic has the other way left; the path mends,
/// and everything comes back.
#[test]
fn a_silent_path_failure_is_rerouted_long_before_the_hold_timer() {
    let lab = Lab::new("bfd-reroute").unwrap();
    let it = Triangle::build(&lab).unwrap();
    let restarting = |peer: PeerConfig| peer.graceful_restart(GracefulRestart::Restarting(120));
    let config = own_config()
        .kernel()
        .peer(restarting(peer("10.1.1.2", 65002)))
        .peer(restarting(peer("10.1.2.2", 65003)));
    let bird = other_config(2, 65002).peer(restarting(peer("10.1.1.1", 65001)));
    let _bird = Bird::start(&it.bird, &bird).unwrap();
    let frr = other_config(3, 65003).peer(restarting(peer("10.1.2.1", 65001)));
    let _frr = Frr::start(&it.frr, &frr).unwrap();
    let own = Turnpike::start(&it.own, &config).unwrap();
    for (switch, lost, left) in [(&it.near, "10.1.1.2", "10.1.2.2"), (&it.far, "10.1.2.2", "10.1.1.2")] {
        own.wait_all_established().unwrap();
        wait_up(&own, 2).unwrap();
        wait_ways(&it.own, &["10.1.1.2", "10.1.2.2"]).unwrap();
        part(switch).unwrap();
        let parted = Instant::now();
        wait_ways(&it.own, &[left]).unwrap();
        let took = parted.elapsed();
        eprintln!("silent failure towards {lost}: rerouted in the kernel after {took:?}");
        let view = own.client().unwrap().peers(Some(lost)).unwrap().remove(0);
        assert!(view.session.is_none() && view.stale_for.is_none(), "{view:#?}");
        assert!(view.last_error.as_deref().unwrap_or_default().contains("BFD Down"), "{view:#?}");
        let carrier = it.own.text(&["ip", "-br", "link"]).unwrap();
        assert!(!carrier.contains("NO-CARRIER"), "{carrier}");
        let other = own.client().unwrap().peers(Some(left)).unwrap().remove(0);
        assert!(other.session.is_some(), "{other:#?}");
        mend(switch).unwrap();
    }
    own.wait_all_established().unwrap();
    wait_ways(&it.own, &["10.1.1.2", "10.1.2.2"]).unwrap();
    lab.finish().unwrap();
}

/// Verifies: SIGKILL of bgpd, a pause of several detection times and a restart: BFD stays Up at all ends, nobody sees
/// a path failure, and no kernel loses a route (RFC 5882 §4.3.2.2, RFC 4724).
#[test]
fn a_restart_of_bgpd_is_no_path_failure() {
    let lab = Lab::new("bfd-restart").unwrap();
    let it = Triangle::build(&lab).unwrap();
    let restarting = |peer: PeerConfig| peer.graceful_restart(GracefulRestart::Restarting(120));
    let config = own_config()
        .kernel()
        .announce(Announcement::new(OWN).unwrap())
        .peer(restarting(peer("10.1.1.2", 65002)))
        .peer(restarting(peer("10.1.2.2", 65003)));
    let other = |number, asn, own: &str| {
        other_config(number, asn).kernel().peer(peer(own, 65001).graceful_restart(GracefulRestart::Aware))
    };
    let bird = Bird::start(&it.bird, &other(2, 65002, "10.1.1.1")).unwrap();
    let frr = Frr::start(&it.frr, &other(3, 65003, "10.1.2.1")).unwrap();
    let mut own = Turnpike::start(&it.own, &config).unwrap();
    own.wait_all_established().unwrap();
    let before = wait_up(&own, 2).unwrap();
    wait_ways(&it.own, &["10.1.1.2", "10.1.2.2"]).unwrap();
    let mut monitors = Vec::new();
    for (speaker, node) in [(&bird as &dyn Speaker, &it.bird), (&frr, &it.frr)] {
        wait_best(speaker, prefix(OWN)).unwrap();
        poll_result(DEADLINE, "our block in the kernel", || {
            let route = node.text(&["ip", "-o", "route", "show", OWN])?;
            ensure!(!route.is_empty());
            Ok(())
        })
        .unwrap();
    }
    for node in [&it.own, &it.bird, &it.frr] {
        let mut command = node.command("ip").unwrap();
        command.args(["monitor", "route"]);
        monitors.push(node.spawn("ip-monitor", command).unwrap());
    }

    own.kill().unwrap();
    poll_result(DEADLINE, "BIRD to miss the session", || {
        ensure!(!bird.session(address("10.1.1.1"))?.established);
        Ok(())
    })
    .unwrap();
    // Several detection times go by without bgpd.
    poll_result(DEADLINE, "BFD packets without bgpd", || {
        for (then, now) in before.iter().zip(own.bfd()?) {
            ensure!(now.orphaned_for.is_some() && now.state == BfdState::Up, "{now:#?}");
            ensure!(now.packets_in >= then.packets_in + 12, "{now:#?}");
        }
        Ok(())
    })
    .unwrap();
    own.start_again().unwrap();
    own.wait_all_established().unwrap();
    poll_result(DEADLINE, "initial selection", || {
        ensure!(!own.client()?.status()?.starting);
        Ok(())
    })
    .unwrap();
    wait_ways(&it.own, &["10.1.1.2", "10.1.2.2"]).unwrap();

    for (then, now) in before.iter().zip(own.bfd().unwrap()) {
        assert_eq!((now.state, now.downs, now.orphaned_for), (BfdState::Up, 0, None), "{now:#?}");
        assert_eq!(now.local_discriminator, then.local_discriminator);
        assert_eq!(now.remote_discriminator, then.remote_discriminator);
    }
    let peers = it.frr.json(&["vtysh", "-c", "show bfd peers counters json"]).unwrap();
    assert_eq!(peers[0]["session-down"], 0, "{peers}");
    for monitor in &monitors {
        assert!(!monitor.log().contains("Deleted"), "{}", monitor.log());
    }
    assert!(own.client().unwrap().status().unwrap().restarted);
    lab.finish().unwrap();
}

/// Verifies: a strict peer without BFD gets no session, whoever connects; with BFD at the other end the session comes.
#[test]
fn a_strict_peer_has_no_session_before_bfd_is_up() {
    let lab = Lab::new("bfd-strict").unwrap();
    let it = Triangle::build(&lab).unwrap();
    let deaf = other_config(2, 65002).peer(PeerConfig::new(address("10.1.1.1"), 65001));
    let mut bird = Bird::start(&it.bird, &deaf).unwrap();
    let config = own_config().peer(peer("10.1.1.2", 65002).strict()).peer(peer("10.1.2.2", 65003));
    let own = Turnpike::start(&it.own, &config).unwrap();
    poll_result(DEADLINE, "BFD packets without an answer", || {
        let sent = own.bfd()?.first().context("no session")?.packets_out;
        ensure!(sent >= 6, "{sent}");
        Ok(())
    })
    .unwrap();
    let view = own.client().unwrap().peers(Some("10.1.1.2")).unwrap().remove(0);
    assert_eq!((view.state.as_str(), view.messages_in), ("Idle", 0), "{view:#?}");
    assert!(!bird.session(address("10.1.1.1")).unwrap().established);
    bird.reconfigure(other_config(2, 65002).peer(peer("10.1.1.1", 65001))).unwrap();
    own.wait_established(address("10.1.1.2")).unwrap();
    lab.finish().unwrap();
}

/// Verifies: a multihop session (RFC 5883) with BIRD over a router. BIRD's crash ends its BFD as well; that is
/// no reason to give up its graceful restart (RFC 5882 §4.3.2.1), and no kernel route goes.
#[test]
fn multihop_sessions_cross_a_router() {
    let lab = Lab::new("bfd-multihop").unwrap();
    let (own, router, bird) =
        (lab.node("own").unwrap(), lab.node("router").unwrap(), lab.node("bird").unwrap());
    lab.link(&own, "eth0", &router, "own").unwrap();
    lab.link(&bird, "eth0", &router, "bird").unwrap();
    own.addr("eth0", "10.1.1.1/24").unwrap();
    router.addr("own", "10.1.1.254/24").unwrap();
    router.addr("bird", "10.1.2.254/24").unwrap();
    bird.addr("eth0", "10.1.2.2/24").unwrap();
    router.forward().unwrap();
    own.route("default via 10.1.1.254").unwrap();
    bird.route("default via 10.1.2.254").unwrap();
    let gr = |peer: PeerConfig| peer.graceful_restart(GracefulRestart::Restarting(120));
    let config = own_config().kernel().peer(gr(peer("10.1.2.2", 65001).local_address(address("10.1.1.1"))));
    let bird_config = SpeakerConfig::new(65001, Ipv4Addr::new(10, 0, 0, 2))
        .announce(Announcement::new(SHARED).unwrap())
        .peer(gr(peer("10.1.1.1", 65001).local_address(address("10.1.2.2"))));
    let mut bird = Bird::start(&bird, &bird_config).unwrap();
    let own = Turnpike::start(&own, &config).unwrap();
    own.wait_all_established().unwrap();
    let view = wait_up(&own, 1).unwrap().remove(0);
    assert!(view.key.multihop && view.key.local == Some(address("10.1.1.1")), "{view:#?}");
    let route = || own.node().text(&["ip", "-o", "route", "show", SHARED]);
    poll_result(DEADLINE, "the route", || {
        ensure!(route()?.contains("10.1.1.254"));
        Ok(())
    })
    .unwrap();

    // BIRD's control plane goes, and its BFD with it (no C bit): graceful restart goes on (RFC 5882 §4.3.2.1).
    let mut command = own.node().command("ip").unwrap();
    command.args(["monitor", "route"]);
    let monitor = own.node().spawn("ip-monitor", command).unwrap();
    bird.kill().unwrap();
    poll_result(DEADLINE, "BFD to miss BIRD", || {
        let view = own.bfd()?.pop().context("no session")?;
        ensure!(view.state != BfdState::Up && view.downs == 1, "{view:#?}");
        Ok(())
    })
    .unwrap();
    let peer = own.client().unwrap().peers(None).unwrap().remove(0);
    assert!(peer.stale_for.is_some(), "{peer:#?}");
    assert!(route().unwrap().contains("10.1.1.254"));
    bird.start_again().unwrap();
    own.wait_all_established().unwrap();
    wait_up(&own, 1).unwrap();
    poll_result(DEADLINE, "End-of-RIB", || {
        let peer = own.client()?.peers(None)?.remove(0);
        ensure!(peer.stale_for.is_none(), "{peer:#?}");
        Ok(())
    })
    .unwrap();
    assert!(!monitor.log().contains("Deleted"), "{}", monitor.log());
    lab.finish().unwrap();
}
