//! BGP daemons behind the speaker trait.

#![cfg(test)]

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnetwork::IpNetwork;
use turnpike_testbed::speakers::{
    Announcement, DEADLINE, GracefulRestart, Kind, PeerConfig, RibEntry, SpeakerConfig, describe, wait_best,
    wait_gone, wait_rib,
};
use turnpike_testbed::{Lab, Node, poll};

fn prefix(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// ```text
/// one 10.1.3.1, fd00:1:3::1 ──┐
/// two 10.1.3.2, fd00:1:3::2 ──┼── switch
/// …                           │
/// ```
fn lan<const N: usize>(lab: &Lab, names: [&str; N]) -> Result<[Node; N]> {
    let switch = lab.node("switch")?;
    let (mut nodes, mut ports) = (Vec::new(), Vec::new());
    for (number, name) in (1..).zip(names) {
        let node = lab.node(name)?;
        lab.link(&switch, &format!("p{number}"), &node, "eth0")?;
        node.addr("eth0", &format!("10.1.3.{number}/24"))?;
        node.addr("eth0", &format!("fd00:1:3::{number}/64"))?;
        nodes.push(node);
        ports.push(format!("p{number}"));
    }
    switch.bridge("br0", &ports.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(nodes.try_into().unwrap())
}

/// Peers with the last numbers of their addresses and their systems, over both families.
fn config(number: u8, asn: u32, peers: &[(u8, u32)]) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(asn, Ipv4Addr::new(10, 0, 0, number));
    for (number, asn) in peers {
        let v4: Ipv4Addr = format!("10.1.3.{number}").parse().unwrap();
        let v6: std::net::Ipv6Addr = format!("fd00:1:3::{number}").parse().unwrap();
        config = config.peer(PeerConfig::new(v4, *asn)).peer(PeerConfig::new(v6, *asn));
    }
    config
}

/// One announces to all three kinds, which must show the same table.
fn same_table_whoever_originates(lab_name: &str, kind: Kind, observer_asn: u32) -> Result<()> {
    let lab = Lab::new(lab_name)?;
    let [origin, bird, frr, ours] = lan(&lab, ["origin", "bird", "frr", "ours"])?;
    let announcing = config(1, 65001, &[(2, observer_asn), (3, observer_asn), (4, observer_asn)])
        .announce(Announcement::new("10.50.0.0/16")?.community(65001, 100).community(65001, 20).med(7))
        .announce(Announcement::new("10.51.1.0/26")?.med(0))
        .announce(Announcement::new("fd00:50::/48")?.community(65001, 100).med(9));
    let mut origin = kind.start(&origin, &announcing)?;
    let observe = |kind: Kind, node: &Node, number| {
        let speaker = kind.start(node, &config(number, observer_asn, &[(1, 65001)]))?;
        Ok::<_, anyhow::Error>(speaker)
    };
    let observers =
        [observe(Kind::Bird, &bird, 2)?, observe(Kind::Frr, &frr, 3)?, observe(Kind::Turnpike, &ours, 4)?];
    let path = if observer_asn == 65001 { "" } else { "65001" };
    let expected = format!(
        "*10.50.0.0/16 from 10.1.3.1 via 10.1.3.1 path [{path}] igp lp 100 med 7 communities 65001:100 65001:20\n\
         *10.51.1.0/26 from 10.1.3.1 via 10.1.3.1 path [{path}] igp lp 100 med 0\n\
         *fd00:50::/48 from fd00:1:3::1 via fd00:1:3::1 path [{path}] igp lp 100 med 9 communities 65001:100\n"
    );
    for speaker in &observers {
        speaker.wait_all_established()?;
        let rib =
            wait_rib(&**speaker, "three best paths", |rib| rib.iter().filter(|one| one.best).count() == 3)?;
        assert_eq!(describe(&rib), expected, "{}", speaker.kind());
    }
    origin.announce(Announcement::new("10.52.0.0/24")?.med(1))?;
    origin.withdraw(prefix("10.50.0.0/16"))?;
    for speaker in &observers {
        wait_best(&**speaker, prefix("10.52.0.0/24"))?;
        wait_gone(&**speaker, prefix("10.50.0.0/16"))?;
    }
    lab.finish()
}

/// Verifies: BIRD announces, all show the same table over iBGP, v4 and v6, and follow changes.
#[test]
fn everyone_shows_the_same_table_of_an_ibgp_peer_that_is_bird() {
    same_table_whoever_originates("ibgp-bird", Kind::Bird, 65001).unwrap();
}

/// Verifies: as above with FRR as the origin.
#[test]
fn everyone_shows_the_same_table_of_an_ibgp_peer_that_is_frr() {
    same_table_whoever_originates("ibgp-frr", Kind::Frr, 65001).unwrap();
}

/// Verifies: as above with turnpike-bgpd as the origin.
#[test]
fn everyone_shows_the_same_table_of_an_ibgp_peer_that_is_ours() {
    same_table_whoever_originates("ibgp-ours", Kind::Turnpike, 65001).unwrap();
}

/// Verifies: as above over eBGP.
#[test]
fn everyone_shows_the_same_table_of_an_ebgp_peer_that_is_bird() {
    same_table_whoever_originates("ebgp-bird", Kind::Bird, 65002).unwrap();
}

/// Verifies: as above with FRR as the origin.
#[test]
fn everyone_shows_the_same_table_of_an_ebgp_peer_that_is_frr() {
    same_table_whoever_originates("ebgp-frr", Kind::Frr, 65002).unwrap();
}

/// Verifies: as above with turnpike-bgpd as the origin.
#[test]
fn everyone_shows_the_same_table_of_an_ebgp_peer_that_is_ours() {
    same_table_whoever_originates("ebgp-ours", Kind::Turnpike, 65002).unwrap();
}

/// Two speakers hold each other's prefixes: what is the one's own is learned by the other, otherwise the tables are the
/// same.
fn learn_from_each_other(lab_name: &str, kinds: [Kind; 2]) -> Result<()> {
    let lab = Lab::new(lab_name)?;
    let nodes = lan(&lab, ["one", "two"])?;
    let own = |number: u8, asn, peer| -> Result<SpeakerConfig> {
        Ok(config(number, asn, &[peer])
            .announce(Announcement::new(&format!("10.{number}0.0.0/16"))?.med(0))
            .announce(Announcement::new(&format!("fd00:{number}0::/48"))?.med(0)))
    };
    let one = kinds[0].start(&nodes[0], &own(1, 65002, (2, 65003))?)?;
    let two = kinds[1].start(&nodes[1], &own(2, 65003, (1, 65002))?)?;
    let complete = |rib: &[RibEntry]| rib.len() == 4 && rib.iter().all(|path| path.best);
    let (at_one, at_two) =
        (wait_rib(&*one, "four best paths", complete)?, wait_rib(&*two, "four best paths", complete)?);
    let exchanged = |rib: &[RibEntry], speaker: u8, asn: u32| -> String {
        let mut rib: Vec<RibEntry> = rib.to_vec();
        for entry in &mut rib {
            let own = entry.from_peer.is_none();
            let family = if entry.prefix.is_ipv4() { "10.1.3." } else { "fd00:1:3::" };
            entry.from_peer = own.then(|| format!("{family}{speaker}").parse().unwrap());
            entry.next_hop = entry.from_peer;
            entry.local_pref = own.then_some(100);
            entry.as_path = if own { asn.to_string() } else { String::new() };
        }
        rib.sort();
        describe(&rib)
    };
    assert_eq!(exchanged(&at_one, 1, 65002), describe(&at_two));
    assert_eq!(exchanged(&at_two, 2, 65003), describe(&at_one));
    lab.finish()
}

/// Verifies: each pair of daemons as each other's only peers over eBGP, v4 and v6.
#[test]
fn any_two_learn_from_each_other() {
    for (name, kinds) in [
        ("pair-bird-frr", [Kind::Bird, Kind::Frr]),
        ("pair-ours-frr", [Kind::Turnpike, Kind::Frr]),
        ("pair-bird-ours", [Kind::Bird, Kind::Turnpike]),
        ("pair-ours", [Kind::Turnpike, Kind::Turnpike]),
    ] {
        learn_from_each_other(name, kinds).unwrap();
    }
}

fn reflecting(number: u8, clients: &[(u8, u32)]) -> SpeakerConfig {
    let mut config = config(number, 65001, clients).cluster_id(Ipv4Addr::new(10, 9, 9, 9));
    config.peers = config.peers.into_iter().map(PeerConfig::rr_client).collect();
    config
}

/// The blocks have a MED because FRR adds one of 0 to what it reflects without.
fn reflected_by(kind: Kind) -> Result<String> {
    let lab = Lab::new("reflector")?;
    let [reflector, client, gateway] = lan(&lab, ["rr", "node", "gateway"])?;
    let reflector = kind.start(&reflector, &reflecting(1, &[(2, 65001), (3, 65001)]))?;
    let announcing = config(2, 65001, &[(1, 65001)])
        .announce(Announcement::new("10.244.1.0/26")?.community(65001, 1).med(5))
        .announce(Announcement::new("fd00:244:1::/64")?.med(5));
    let _client = Kind::Bird.start(&client, &announcing)?;
    let gateway = Kind::Frr.start(&gateway, &config(3, 65001, &[(1, 65001)]).kernel())?;
    reflector.wait_all_established()?;
    let rib = wait_rib(&*gateway, "both blocks", |rib| rib.iter().filter(|entry| entry.best).count() == 2)?;
    // The reflector is not in the way of packets.
    let route = ["ip", "route", "show", "10.244.1.0/26"];
    let wanted = "via 10.1.3.2 dev eth0 proto bgp";
    poll(DEADLINE, "the kernel's route", || {
        gateway.node().text(&route).ok()?.contains(wanted).then_some(())
    })?;
    assert_eq!(reflector.node().text(&route)?, "");
    lab.finish()?;
    Ok(describe(&rib))
}

/// Verifies: a gateway behind a route reflector sees the client's next hop, originator and cluster, and the same table
/// whichever daemon reflects.
#[test]
fn a_gateway_sees_the_same_table_behind_any_reflector() {
    let expected = "\
        *10.244.1.0/26 from 10.1.3.1 via 10.1.3.2 path [] igp lp 100 med 5 communities 65001:1 originator 10.0.0.2 \
        clusters 10.9.9.9\n\
        *fd00:244:1::/64 from fd00:1:3::1 via fd00:1:3::2 path [] igp lp 100 med 5 originator 10.0.0.2 \
        clusters 10.9.9.9\n";
    for kind in [Kind::Bird, Kind::Frr, Kind::Turnpike] {
        assert_eq!(reflected_by(kind).unwrap(), expected, "{kind}");
    }
}

/// What the gateway holds with these reflectors: at first, and after blocks came, moved and went.
///
/// ```text
/// node1 10.1.3.3 (BIRD) ──┬── rr1 10.1.3.1 ──┬── gateway 10.1.3.5 (FRR)
/// node2 10.1.3.4 (ours) ──┴── rr2 10.1.3.2 ──┘
/// ```
fn gateway_behind(reflectors: [Kind; 2]) -> Result<[String; 2]> {
    let lab = Lab::new("swap")?;
    let [rr1, rr2, node1, node2, gateway] = lan(&lab, ["rr1", "rr2", "node1", "node2", "gateway"])?;
    let (clients, rrs) = ([(3, 65001), (4, 65001), (5, 65001)], [(1, 65001), (2, 65001)]);
    let _rr1 = reflectors[0].start(&rr1, &reflecting(1, &clients))?;
    let _rr2 = reflectors[1].start(&rr2, &reflecting(2, &clients))?;
    let announcing = config(3, 65001, &rrs)
        .announce(Announcement::new("10.244.1.0/26")?.community(65001, 1))
        .announce(Announcement::new("10.244.9.0/26")?.med(10))
        .announce(Announcement::new("fd00:244:1::/64")?);
    let mut node1 = Kind::Bird.start(&node1, &announcing)?;
    let announcing = config(4, 65001, &rrs)
        .announce(Announcement::new("10.244.2.0/26")?)
        .announce(Announcement::new("10.244.9.0/26")?.med(20))
        .announce(Announcement::new("fd00:244:2::/64")?.med(3));
    let mut node2 = Kind::Turnpike.start(&node2, &announcing)?;
    let gateway = Kind::Frr.start(&gateway, &config(5, 65001, &rrs))?;
    for speaker in [&node1, &node2, &gateway] {
        speaker.wait_all_established()?;
    }
    // Each block from each reflector, one of the two the best; the shared block by the node with the lower MED.
    let decided = |rib: &[RibEntry]| rib.iter().filter(|path| path.best).count() == 5 && rib.len() == 10;
    let shared_is_at = |rib: &[RibEntry], node: &str| {
        let shared = prefix("10.244.9.0/26");
        let hop = Some(node.parse().unwrap());
        rib.iter().filter(|path| path.prefix == shared).all(|path| path.next_hop == hop)
    };
    let first = wait_rib(&*gateway, "all blocks", |rib| decided(rib) && shared_is_at(rib, "10.1.3.3"))?;
    node1.withdraw(prefix("10.244.9.0/26"))?;
    node2.withdraw(prefix("fd00:244:2::/64"))?;
    node2.announce(Announcement::new("10.244.3.0/26")?.community(65001, 3))?;
    let added = prefix("10.244.3.0/26");
    let second = wait_rib(&*gateway, "the changed blocks", |rib| {
        let news = rib.iter().filter(|path| path.prefix == added).count();
        decided(rib) && news == 2 && shared_is_at(rib, "10.1.3.4")
    })?;
    lab.finish()?;
    Ok([describe(&first), describe(&second)])
}

/// Verifies: with the two reflectors' daemons swapped, the gateway's tables are identical.
#[test]
fn swapped_reflectors_give_the_gateway_identical_tables() {
    let straight = gateway_behind([Kind::Bird, Kind::Turnpike]).unwrap();
    let swapped = gateway_behind([Kind::Turnpike, Kind::Bird]).unwrap();
    assert_eq!(straight, swapped);
    let shared: Vec<&str> = straight[0].lines().filter(|line| line.contains("10.244.9.0/26")).collect();
    assert_eq!(
        shared,
        [
            "*10.244.9.0/26 from 10.1.3.1 via 10.1.3.3 path [] igp lp 100 med 10 originator 10.0.0.3 clusters 10.9.9.9",
            " 10.244.9.0/26 from 10.1.3.2 via 10.1.3.3 path [] igp lp 100 med 10 originator 10.0.0.3 clusters 10.9.9.9",
        ]
    );
}

/// What a client of a border router in the middle holds, with every option of the configuration in use.
///
/// ```text
/// outside 10.1.3.3 (AS 65002, BIRD) ── middle 10.1.3.1 ──┬── inner 10.1.3.2 (FRR)
///                                                        └── other 10.1.3.4 (BIRD)
/// ```
fn client_of_a_border(kind: Kind) -> Result<String> {
    let lab = Lab::new("border")?;
    let [middle, inner, outside, other] = lan(&lab, ["middle", "inner", "outside", "other"])?;
    let mut border =
        config(1, 65001, &[(2, 65001), (3, 65002), (4, 65001)]).cluster_id(Ipv4Addr::new(10, 9, 9, 9));
    for peer in &mut border.peers {
        let own: std::net::IpAddr =
            if peer.address.is_ipv4() { "10.1.3.1".parse()? } else { "fd00:1:3::1".parse()? };
        let changed =
            peer.clone().local_address(own).hold_time(30).graceful_restart(GracefulRestart::Restarting(60));
        *peer =
            if peer.remote_asn == 65001 { changed.rr_client().next_hop_self() } else { changed.multihop() };
    }
    let announcing = |number, asn, prefix| -> Result<SpeakerConfig> {
        Ok(config(number, asn, &[(1, 65001)]).announce(Announcement::new(prefix)?.med(5)))
    };
    let middle = kind.start(&middle, &border)?;
    let _outside = Kind::Bird.start(&outside, &announcing(3, 65002, "10.2.0.0/16")?)?;
    let _other = Kind::Bird.start(&other, &announcing(4, 65001, "10.244.4.0/26")?)?;
    let inner = Kind::Frr.start(&inner, &config(2, 65001, &[(1, 65001)]))?;
    middle.wait_all_established()?;
    let rib = wait_rib(&*inner, "two best paths", |rib| rib.iter().filter(|path| path.best).count() == 2)?;
    lab.finish()?;
    Ok(describe(&rib))
}

/// Verifies: next-hop-self changes what is learned over eBGP and leaves what is reflected, with every daemon alike.
#[test]
fn next_hop_self_means_the_same_everywhere() {
    let expected = "\
        *10.2.0.0/16 from 10.1.3.1 via 10.1.3.1 path [65002] igp lp 100 med 5\n\
        *10.244.4.0/26 from 10.1.3.1 via 10.1.3.4 path [] igp lp 100 med 5 originator 10.0.0.4 clusters 10.9.9.9\n";
    for kind in [Kind::Bird, Kind::Frr, Kind::Turnpike] {
        assert_eq!(client_of_a_border(kind).unwrap(), expected, "{kind}");
    }
}

/// Verifies: a killed daemon is seen as gone, and comes back with its sessions and its prefixes.
#[test]
fn a_killed_speaker_can_be_started_again() {
    let lab = Lab::new("again").unwrap();
    let nodes = lan(&lab, ["one", "two", "three"]).unwrap();
    let kinds = [Kind::Bird, Kind::Frr, Kind::Turnpike];
    let all = [(1, 65001), (2, 65002), (3, 65003)];
    let mut speakers = Vec::new();
    for ((node, kind), (number, asn)) in nodes.iter().zip(kinds).zip(all) {
        let peers: Vec<(u8, u32)> = all.into_iter().filter(|peer| peer.0 != number).collect();
        let announced = Announcement::new(&format!("10.{number}0.0.0/16")).unwrap();
        speakers.push(kind.start(node, &config(number, asn, &peers).announce(announced)).unwrap());
    }
    for victim in 0..speakers.len() {
        let lost = prefix(&format!("10.{}0.0.0/16", victim + 1));
        let other = (victim + 1) % speakers.len();
        wait_best(&*speakers[other], lost).unwrap();
        let pid = speakers[victim].pid().unwrap();
        speakers[victim].kill().unwrap();
        assert!(speakers[victim].pid().is_none() && !std::path::Path::new(&format!("/proc/{pid}")).exists());
        speakers[victim].start_again().unwrap();
        speakers[victim].wait_all_established().unwrap();
        wait_best(&*speakers[other], lost).unwrap();
        assert_ne!(speakers[victim].pid().unwrap(), pid);
    }
    lab.finish().unwrap();
}
