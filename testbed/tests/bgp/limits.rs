//! What hostile peers can use up, and what they cannot; the topology is in `bgp/wild.rs`.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use turnpike_bgp_hostile::corpus::Session;
use turnpike_bgp_wire::{Family, MessageType, NextHop, Nlri, Prefix, UnknownAttribute, encode_reach};
use turnpike_bgpd_api::{RibQuery, Select, Table};
use turnpike_testbed::{Lab, poll_result};

use crate::daemon::{DEADLINE, Daemon};
use crate::talker::{Heard, Talker};
use crate::wild::{DAEMON, INTERNAL, Watcher, Wild, address};

/// As `unsent_limit` is unless configured, with room for the batch that goes over it.
const UNSENT: usize = 512 * 1024 + 256 * 1024;
/// Growth that is not a leak: allocators keep what they had.
const GROWTH: u64 = 64 << 20;

/// Internal clients, passive, without keepalives.
fn clients(count: usize) -> String {
    (0..count)
        .map(|number| {
            format!(
                "[[peer]]\nname = \"client{number}\"\naddress = \"{}\"\nremote_as = \"internal\"\n\
                 rr_client = true\npassive = true\nhold_time = 0\n",
                address(number)
            )
        })
        .collect()
}

/// 10.N.0.0 and onwards, one /24 after the other.
fn prefixes(first: u32, count: u32) -> Vec<Prefix> {
    (0..count)
        .filter_map(|n| Prefix::new(Ipv4Addr::from_bits((10 << 24) + (first << 16) + (n << 8)).into(), 24))
        .collect()
}

fn resident(daemon: &Daemon) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

fn descriptors(daemon: &Daemon) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?.count())
}

fn wait_descriptors(daemon: &Daemon, most: usize) -> Result<()> {
    poll_result(DEADLINE, "connections to be closed", || {
        let now = descriptors(daemon)?;
        ensure!(now <= most, "{now} descriptors, {most} are enough");
        Ok(())
    })
}

/// Waits until a reader holds `count` prefixes that carry this MED.
fn wait_med(reader: &Watcher, count: usize, med: u32) -> Result<()> {
    poll_result(DEADLINE, &format!("{count} prefixes with MED {med}"), || {
        let held = reader.held()?;
        let now = held.values().filter(|other| **other == Some(med)).count();
        ensure!(now == count, "{now} of {count}");
        Ok(())
    })
}

/// Verifies: a client that never reads keeps its session (its send hold time has not come, RFC 9687) while another
/// churns 5000 prefixes twenty times; a third is told every change without waiting; what waits for the mute one stays
/// within its limit, and so does the daemon's memory; when it reads at last, it learns how things are.
#[test]
fn a_peer_that_never_reads_uses_bounded_memory_and_delays_nobody() {
    const COUNT: u32 = 5000;
    const ROUNDS: u32 = 20;
    let lab = Lab::new("bgp-mute").unwrap();
    let wild = Wild::build(&lab, &format!("{}[kernel]\nenabled = false\n", clients(3))).unwrap();
    let mut mute = Talker::connect_with(&wild.node, address(0), DAEMON, INTERNAL, Some(4096)).unwrap();
    mute.establish(0).unwrap();
    let mut feeder = wild.talker(1, INTERNAL).unwrap();
    feeder.establish(0).unwrap();
    let mut reader = wild.talker(2, INTERNAL).unwrap();
    reader.establish(0).unwrap();
    let reader = Watcher::watch(reader, INTERNAL);

    let all = prefixes(100, COUNT);
    let mut first = 0;
    for round in 1..=ROUNDS {
        feeder.announce(&all, round).unwrap();
        wait_med(&reader, all.len(), round).unwrap();
        let session = wild.daemon.peer("client0").unwrap().session.expect("the mute peer's session");
        assert!(session.unsent <= UNSENT, "{} bytes wait for the mute peer", session.unsent);
        if round == 2 {
            first = resident(&wild.daemon).unwrap();
        }
    }
    // One burst is one time, or more where the engine was quicker than the feeder.
    let metrics = wild.daemon.http("/metrics").unwrap();
    let times =
        metrics.lines().find_map(|line| line.strip_prefix("turnpike_bgpd_propagation_seconds_count "));
    assert!(times.and_then(|count| count.parse().ok()) >= Some(ROUNDS), "{metrics}");
    let last = resident(&wild.daemon).unwrap();
    assert!(last < first + GROWTH, "{first} bytes of memory became {last}");
    wild.check_healthy().unwrap();

    let mute = Watcher::watch(mute, INTERNAL);
    wait_med(&mute, all.len(), ROUNDS).unwrap();
    mute.finish().unwrap();
    reader.finish().unwrap();
    let Wild { watcher, daemon, .. } = wild;
    watcher.finish().unwrap();
    drop(daemon);
    lab.finish().unwrap();
}

/// Verifies: while one peer announces half a million prefixes, 20 others whose hold time is 9 s keep their sessions: what
/// they say does not wait behind the table, and a timer does not fire while a peer's word is there to be read
/// (calico#7086). `cargo xtask bench bgp` measures the same beside other daemons.
#[test]
fn a_table_delays_nobodys_keepalives() {
    const COUNT: u32 = 500_000;
    const QUIET: usize = 20;
    let lab = Lab::new("bgp-pulse").unwrap();
    let file = clients(QUIET + 1).replace("hold_time = 0\n", "hold_time = 9\nexport = \"reject-all\"\n");
    let wild = Wild::build(&lab, &format!("{file}[kernel]\nenabled = false\n")).unwrap();
    let mut feeder = wild.talker(0, INTERNAL).unwrap();
    feeder.establish(0).unwrap();
    let mut quiet: Vec<Talker> = (1..=QUIET).map(|number| wild.talker(number, INTERNAL).unwrap()).collect();
    for talker in &mut quiet {
        talker.stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        talker.establish(9).unwrap();
    }
    // Whoever keeps the sessions asks nothing that is answered behind the table.
    std::thread::scope(|scope| {
        let feeding = scope.spawn(|| {
            let prefix = |n: u32| Prefix::new(Ipv4Addr::from_bits((20 << 24) + n).into(), 32);
            for first in (0..COUNT).step_by(1000) {
                let some: Vec<Prefix> = (first..first + 1000).filter_map(prefix).collect();
                feeder.announce(&some, first).unwrap();
            }
            while wild.daemon.status().unwrap().prefixes.ipv4 < COUNT as usize {}
        });
        while !feeding.is_finished() {
            for (number, talker) in quiet.iter_mut().enumerate() {
                talker.send_keepalive().unwrap();
                while let Some(heard) = talker.hear().unwrap() {
                    let alive =
                        matches!(heard, Heard::Message(MessageType::Keepalive | MessageType::Update, _));
                    assert!(alive, "client{number}: {heard:?}");
                }
            }
        }
    });
    for number in 1..=QUIET {
        assert_eq!(wild.daemon.peer(&format!("client{number}")).unwrap().flaps, 0);
    }
    drop((feeder, quiet));
    let Wild { watcher, daemon, .. } = wild;
    watcher.finish().unwrap();
    drop(daemon);
    lab.finish().unwrap();
}

/// Verifies: connections from strangers are closed at once; hundreds from a known peer's address that say nothing, or
/// an OPEN and no more, hold two descriptors at the most; afterwards the true peer gets its session.
#[test]
fn floods_of_connections_leave_room_for_peers() {
    const FLOOD: usize = 300;
    let lab = Lab::new("bgp-flood").unwrap();
    let wild = Wild::build(&lab, &clients(1)).unwrap();
    let before = descriptors(&wild.daemon).unwrap();

    let stranger = Ipv4Addr::new(198, 18, 200, 1);
    let mut strangers: Vec<Talker> =
        (0..FLOOD).map(|_| Talker::connect(&wild.node, stranger, DAEMON, INTERNAL).unwrap()).collect();
    for talker in &mut strangers {
        talker.last_words().unwrap();
    }
    wait_descriptors(&wild.daemon, before).unwrap();

    let silent: Vec<Talker> = (0..FLOOD).map(|_| wild.talker(0, INTERNAL).unwrap()).collect();
    wait_descriptors(&wild.daemon, before + 2).unwrap();
    let mut half: Vec<Talker> = (0..FLOOD).map(|_| wild.talker(0, INTERNAL).unwrap()).collect();
    for talker in &mut half {
        let _ = talker.send_open(0);
    }
    wait_descriptors(&wild.daemon, before + 2).unwrap();
    wild.check_healthy().unwrap();

    drop((silent, half));
    poll_result(DEADLINE, "a session of the true peer", || {
        let mut talker = wild.talker(0, INTERNAL)?;
        talker.establish(0)?;
        ensure!(wild.daemon.peer("client0")?.session.is_some(), "it ended again");
        Ok(())
    })
    .unwrap();
    wild.check_healthy().unwrap();
    let Wild { watcher, daemon, .. } = wild;
    watcher.finish().unwrap();
    drop(daemon);
    lab.finish().unwrap();
}

/// Verifies: a client that comes, announces 1000 prefixes and goes, forty times, leaves nothing behind: no prefix, no
/// descriptor, no memory.
#[test]
fn a_flapping_peer_leaves_nothing_behind() {
    const COUNT: u32 = 1000;
    const FLAPS: u64 = 40;
    let lab = Lab::new("bgp-flaps").unwrap();
    let wild = Wild::build(&lab, &clients(1)).unwrap();
    let before = descriptors(&wild.daemon).unwrap();
    let all = prefixes(100, COUNT);
    let mut first = 0;
    for flap in 1..=FLAPS {
        let mut talker = wild.talker(0, INTERNAL).unwrap();
        talker.establish(0).unwrap();
        talker.announce(&all, flap as u32).unwrap();
        poll_result(DEADLINE, "the prefixes", || {
            let peer = wild.daemon.peer("client0")?;
            ensure!(peer.received.ipv4 == all.len(), "{}", peer.received.ipv4);
            Ok(())
        })
        .unwrap();
        drop(talker);
        poll_result(DEADLINE, "the end of the session", || {
            let peer = wild.daemon.peer("client0")?;
            ensure!(peer.flaps == flap && peer.received.ipv4 == 0, "{peer:?}");
            Ok(())
        })
        .unwrap();
        if flap == 5 {
            first = resident(&wild.daemon).unwrap();
        }
    }
    let last = resident(&wild.daemon).unwrap();
    assert!(last < first + GROWTH, "{first} bytes of memory became {last}");
    wait_descriptors(&wild.daemon, before).unwrap();
    poll_result(DEADLINE, "the watcher to be told of the withdrawals", || {
        let held = wild.watcher.held()?;
        ensure!(!held.keys().any(|prefix| all.contains(prefix)), "{} prefixes left", held.len());
        Ok(())
    })
    .unwrap();
    wild.check_healthy().unwrap();
    let Wild { watcher, daemon, .. } = wild;
    watcher.finish().unwrap();
    drop(daemon);
    lab.finish().unwrap();
}

/// Verifies (RFC 8654): an UPDATE of 65535 octets, in pieces of any size, is taken where that was agreed; a peer without
/// the capability is told the same in messages of at most 4096 octets, one with it in larger ones; a path whose
/// attributes do not fit 4096 octets goes to the latter alone.
#[test]
fn message_sizes_are_each_peers_own() {
    const EXTENDED: Session = Session { extended_message: true, ..INTERNAL };
    let lab = Lab::new("bgp-sizes").unwrap();
    let wild = Wild::build(&lab, &format!("{}[kernel]\nenabled = false\n", clients(3))).unwrap();
    let mut plain = wild.talker(0, INTERNAL).unwrap();
    plain.establish(0).unwrap();
    let mut extended = wild.talker(1, EXTENDED).unwrap();
    extended.establish(0).unwrap();
    let mut feeder = wild.talker(2, EXTENDED).unwrap();
    feeder.establish(0).unwrap();

    // 19 octets of header, 4 of lengths, 25 of attributes and four for each prefix: 65532 octets.
    let many: Vec<Nlri> = prefixes(64, 16371).into_iter().map(Nlri::new).collect();
    let next_hop = NextHop::V4(Ipv4Addr::new(192, 0, 2, 2));
    let mut attributes = feeder.attributes();
    let mut bytes = Vec::new();
    let context = feeder.encode_context();
    let messages = encode_reach(&attributes, Family::Ipv4, next_hop, &many, &context, &mut bytes).unwrap();
    assert!(messages == 1 && bytes.len() > 65000, "{messages} messages, {} octets", bytes.len());
    for piece in bytes.chunks(997) {
        feeder.send(piece).unwrap();
    }
    attributes.unknown = [UnknownAttribute { flags: 0xe0, code: 199, value: vec![7; 5000].into() }].into();
    let large: Prefix = "10.50.0.0/24".parse().unwrap();
    bytes.clear();
    encode_reach(&attributes, Family::Ipv4, next_hop, &[Nlri::new(large)], &context, &mut bytes).unwrap();
    feeder.send(&bytes).unwrap();
    let last: Prefix = "10.51.0.0/24".parse().unwrap();
    feeder.announce(&[last], 9).unwrap();

    let largest = largest_until(&mut extended, last, INTERNAL).unwrap();
    assert!(largest > 4096 - 19, "no message to the extended peer has more than {largest} octets");
    let largest = largest_until(&mut plain, last, INTERNAL).unwrap();
    assert!(largest <= 4096 - 19, "a body of {largest} octets for a peer without the capability");
    let query = |name: &str| RibQuery {
        table: Table::Out(name.to_owned()),
        select: Select::Exact(large),
        after: None,
        limit: 10,
    };
    assert_eq!(wild.daemon.peer("client1").unwrap().advertised.ipv4, many.len() + 2 + 20);
    for (name, expected) in [("client0", 0), ("client1", 1)] {
        let told = wild.daemon.client().unwrap().rib(query(name)).unwrap();
        assert_eq!(told.len(), expected, "{name}: {told:?}");
    }
    wild.check_healthy().unwrap();
    let Wild { watcher, daemon, .. } = wild;
    watcher.finish().unwrap();
    drop(daemon);
    lab.finish().unwrap();
}

/// Reads UPDATEs until one announces `last`: the longest body.
fn largest_until(talker: &mut Talker, last: Prefix, session: Session) -> Result<usize> {
    let mut largest = 0;
    poll_result(DEADLINE, &format!("{last} at a reader"), || {
        while let Some(Heard::Message(kind, body)) = talker.hear()? {
            if kind != MessageType::Update {
                continue;
            }
            largest = largest.max(body.len());
            let update = turnpike_bgp_wire::Update::decode(&body, &session.decode_context())
                .map_err(|error| anyhow::anyhow!("{error}"))?;
            if update.announced().any(|prefix| prefix == last) {
                return Ok(largest);
            }
        }
        anyhow::bail!("not yet")
    })
}

/// Verifies: after its start the daemon holds CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_NET_RAW, can get no others,
/// and serves port 179 and kernel routes with them; every thread is the same.
#[test]
fn the_daemon_keeps_three_capabilities() {
    /// Bits 10, 12 and 13 of linux/capability.h.
    const THREE: u64 = 1 << 10 | 1 << 12 | 1 << 13;
    let lab = Lab::new("bgp-caps").unwrap();
    let node = lab.node("n1").unwrap();
    let config =
        "asn = 65001\nrouter_id = \"10.0.0.1\"\n[[network]]\nprefix = \"10.50.0.0/16\"\nblackhole = true\n";
    let daemon = Daemon::start(&node, config).unwrap();
    let route = || node.text(&["ip", "route", "show", "10.50.0.0/16"]);
    poll_result(DEADLINE, "the blackhole route", || {
        let said = route()?;
        ensure!(said.contains("blackhole"), "{said:?}");
        Ok(())
    })
    .unwrap();
    assert!(node.text(&["ss", "-Hltn"]).unwrap().contains(":179 "));
    let mut seen = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{set}:"))).unwrap();
            let held = u64::from_str_radix(line.trim(), 16).unwrap();
            assert_eq!(held, THREE, "{set} {held:x}");
            seen += 1;
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    }
    assert!(seen >= 9, "a main thread, workers and the kernel's: {seen}");
    daemon.end(nix::sys::signal::Signal::SIGTERM).unwrap();
    lab.finish().unwrap();
}
