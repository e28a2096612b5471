//! Restarts that nobody notices: graceful restart (RFC 4724) with forwarding kept in the kernel. The topology is in
//! `centre.rs`.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use turnpike_bgpd_api::{Part, Request};
use turnpike_testbed::speakers::{Kind, Speaker};
use turnpike_testbed::{Capture, Lab, poll_result};

use crate::centre::{Centre, PEERS, RESTART_TIME, kernel_routes, node_config, v4, v6, wait_block};
use crate::daemon::{DEADLINE, Daemon};
use crate::stream::Stream;
use crate::wiretap::check_calm;

/// Captures at every peer, and streams in both directions over both families.
struct Watch {
    captures: Vec<(&'static str, Capture)>,
    streams: Vec<Stream>,
}

impl Watch {
    fn start(centre: &Centre) -> Result<Self> {
        let mut captures = Vec::new();
        for (name, node) in
            [("rr1", &centre.rr1), ("rr2", &centre.rr2), ("node2", &centre.node2), ("gw", &centre.gw)]
        {
            captures.push((name, node.capture("eth0", "tcp port 179")?));
        }
        let (one, two) = (&centre.node1, &centre.node2);
        let streams = vec![
            Stream::start(one, "10.244.1.1", two, "10.244.2.1")?,
            Stream::start(two, "10.244.2.1", one, "10.244.1.1")?,
            Stream::start(one, "fd00:244:1::1", two, "fd00:244:2::1")?,
            Stream::start(two, "fd00:244:2::1", one, "fd00:244:1::1")?,
        ];
        Ok(Self { captures, streams })
    }

    /// Nothing was lost, and nobody took anything back.
    fn finish(self) -> Result<()> {
        for stream in self.streams {
            let name = stream.name().to_owned();
            let (sent, lost) = stream.finish()?;
            ensure!(lost.is_empty(), "{name}: of {sent} packets {} are lost: {lost:?}", lost.len());
        }
        for (name, capture) in self.captures {
            check_calm(name, &capture.finish()?)?;
        }
        Ok(())
    }
}

/// A centre, its reflectors and gateway, and bgpd on both nodes.
type Steady = (Centre, [Box<dyn Speaker>; 3], Daemon, Daemon);

/// A centre in which everything is up and told.
fn steady(lab: &Lab, first: Kind, second: Kind) -> Result<Steady> {
    let centre = Centre::build(lab)?;
    let speakers = centre.start_reflectors(first, second)?;
    let (one, two) = (centre.start_node(1)?, centre.start_node(2)?);
    settle(&centre, &one, &two)?;
    Ok((centre, speakers, one, two))
}

fn settle(centre: &Centre, one: &Daemon, two: &Daemon) -> Result<()> {
    for daemon in [one, two] {
        wait_told(daemon)?;
    }
    wait_block(&centre.node1, 1, 2)?;
    wait_block(&centre.node2, 2, 1)
}

/// Waits until a node's sessions are up, both sides have said End-of-RIB, and initial route selection is over.
fn wait_told(daemon: &Daemon) -> Result<()> {
    poll_result(DEADLINE, "End-of-RIB from and to every peer", || {
        for name in PEERS {
            let Some(session) = daemon.peer(name)?.session else { anyhow::bail!("{name} is down") };
            ensure!(session.end_of_rib_received == session.families, "{name} has not said End-of-RIB");
            ensure!(session.end_of_rib_sent == session.families, "{name} has not been told End-of-RIB");
        }
        ensure!(!daemon.status()?.starting, "initial route selection goes on");
        Ok(())
    })
}

/// Waits until a reflector has noticed that node1's bgpd is gone.
fn wait_noticed(reflector: &dyn Speaker) -> Result<()> {
    for address in [v4(1, 11), v6(1, 11)] {
        poll_result(DEADLINE, "the reflector to notice", || {
            ensure!(!reflector.session(address)?.established, "it still sees the session with {address}");
            Ok(())
        })?;
    }
    Ok(())
}

fn restart_with(lab: &str, signal: Signal, [first, second]: [Kind; 2]) {
    let lab = Lab::new(lab).unwrap();
    let (centre, speakers, mut one, _two) = steady(&lab, first, second).unwrap();
    let routes = kernel_routes(&centre.node1).unwrap();
    let watch = Watch::start(&centre).unwrap();
    for _ in 0..2 {
        one.end(signal).unwrap();
        for reflector in &speakers[..2] {
            wait_noticed(&**reflector).unwrap();
        }
        assert_eq!(kernel_routes(&centre.node1).unwrap(), routes, "the kernel forwards meanwhile");
        one.start_again().unwrap();
        wait_told(&one).unwrap();
        assert!(one.status().unwrap().restarted);
        assert_eq!(kernel_routes(&centre.node1).unwrap(), routes);
    }
    watch.finish().unwrap();
    lab.finish().unwrap();
}

/// Verifies: SIGKILL and start, twice, while 1000 packets a second run each way over both families: none is lost, no
/// peer sees a withdraw or a NOTIFICATION, kernel routes stay as they are.
#[test]
fn a_killed_daemon_comes_back_unnoticed() {
    restart_with("bgp-kill", Signal::SIGKILL, [Kind::Bird, Kind::Turnpike]);
}

/// Verifies: the same for SIGTERM, which is how an upgrade ends the old process, with FRR as one of the helpers.
#[test]
fn an_upgrade_goes_unnoticed() {
    restart_with("bgp-upgrade", Signal::SIGTERM, [Kind::Frr, Kind::Turnpike]);
}

/// Verifies: a second SIGKILL as soon as the first session is back, before anybody has been told everything, loses
/// nothing either (felix#1592). Our helpers keep stale paths over it. BIRD and FRR do what RFC 4724 §4.2 says, and take
/// back what they had not been told again: with them the daemon must live until its first UPDATEs are out.
#[test]
fn a_second_restart_within_the_first_goes_unnoticed() {
    let lab = Lab::new("bgp-twice").unwrap();
    let (centre, _speakers, mut one, _two) = steady(&lab, Kind::Turnpike, Kind::Turnpike).unwrap();
    let routes = kernel_routes(&centre.node1).unwrap();
    let watch = Watch::start(&centre).unwrap();
    one.end(Signal::SIGKILL).unwrap();
    for _ in 0..3 {
        one.start_again().unwrap();
        poll_result(DEADLINE, "the first session", || {
            ensure!(one.status()?.established > 0, "none yet");
            Ok(())
        })
        .unwrap();
        one.end(Signal::SIGKILL).unwrap();
    }
    one.start_again().unwrap();
    wait_told(&one).unwrap();
    assert_eq!(kernel_routes(&centre.node1).unwrap(), routes);
    watch.finish().unwrap();
    lab.finish().unwrap();
}

/// Verifies: what changed while bgpd was away is put right after its return: a prefix that was withdrawn meanwhile
/// leaves the kernel, and only after every reflector has said End-of-RIB.
#[test]
fn stale_routes_go_after_the_restart_and_not_before() {
    let lab = Lab::new("bgp-stale").unwrap();
    let (centre, _speakers, mut one, two) = steady(&lab, Kind::Bird, Kind::Turnpike).unwrap();
    one.end(Signal::SIGKILL).unwrap();
    two.client().unwrap().request(&Request::Shutdown { message: "gone".to_owned() }).unwrap();
    let stale = kernel_routes(&centre.node1).unwrap();
    assert!(stale.iter().any(|line| line.starts_with("10.244.2.0/26")), "{stale:#?}");
    one.start_again().unwrap();
    wait_told(&one).unwrap();
    poll_result(DEADLINE, "only blackholes", || {
        let routes = kernel_routes(&centre.node1)?;
        ensure!(routes.iter().all(|line| line.starts_with("blackhole")) && routes.len() == 2, "{routes:#?}");
        Ok(())
    })
    .unwrap();
    lab.finish().unwrap();
}

/// Verifies: with both reflectors dead at once, a node keeps its routes for their restart time and forwards; when they
/// are back nothing has changed (calico#9259).
#[test]
fn the_loss_of_all_reflectors_stops_no_packet() {
    all_gone("bgp-all-gone", [Kind::Bird, Kind::Turnpike]);
}

/// Verifies: the same with FRR and BIRD as the ones that restart.
#[test]
fn the_loss_of_all_foreign_reflectors_stops_no_packet() {
    all_gone("bgp-all-foreign", [Kind::Frr, Kind::Bird]);
}

/// Verifies: BIRD and FRR as reflectors that are killed and come back, one after the other: the node keeps what they
/// said until they have said it again, and not a packet is lost.
#[test]
fn reflectors_that_restart_one_by_one_stop_no_packet() {
    let lab = Lab::new("bgp-one-by-one").unwrap();
    let (centre, mut speakers, one, two) = steady(&lab, Kind::Bird, Kind::Frr).unwrap();
    let routes = kernel_routes(&centre.node1).unwrap();
    let streams = [
        Stream::start(&centre.node1, "10.244.1.1", &centre.node2, "10.244.2.1").unwrap(),
        Stream::start(&centre.node2, "fd00:244:2::1", &centre.node1, "fd00:244:1::1").unwrap(),
    ];
    for (reflector, peers) in speakers[..2].iter_mut().zip([&PEERS[..2], &PEERS[2..]]) {
        reflector.kill().unwrap();
        poll_result(DEADLINE, "the node to notice", || {
            for name in peers {
                ensure!(one.peer(name)?.session.is_none(), "the session with {name} is up");
            }
            Ok(())
        })
        .unwrap();
        reflector.start_again().unwrap();
        for daemon in [&one, &two] {
            wait_told(daemon).unwrap();
        }
        assert_eq!(kernel_routes(&centre.node1).unwrap(), routes);
    }
    for stream in streams {
        let name = stream.name().to_owned();
        let (sent, lost) = stream.finish().unwrap();
        assert_eq!(lost, Vec::<u64>::new(), "{name}: of {sent}");
    }
    lab.finish().unwrap();
}

fn all_gone(lab: &str, [first, second]: [Kind; 2]) {
    let lab = Lab::new(lab).unwrap();
    let (centre, mut speakers, one, two) = steady(&lab, first, second).unwrap();
    let routes = kernel_routes(&centre.node1).unwrap();
    let streams = [
        Stream::start(&centre.node1, "10.244.1.1", &centre.node2, "10.244.2.1").unwrap(),
        Stream::start(&centre.node2, "fd00:244:2::1", &centre.node1, "fd00:244:1::1").unwrap(),
    ];
    for reflector in &mut speakers[..2] {
        reflector.kill().unwrap();
    }
    poll_result(DEADLINE, "the node to notice", || {
        let status = one.status()?;
        ensure!(status.established == 0, "{} sessions are up", status.established);
        Ok(())
    })
    .unwrap();
    assert_eq!(kernel_routes(&centre.node1).unwrap(), routes);
    for reflector in &mut speakers[..2] {
        reflector.start_again().unwrap();
    }
    for daemon in [&one, &two] {
        wait_told(daemon).unwrap();
    }
    assert_eq!(kernel_routes(&centre.node1).unwrap(), routes);
    for stream in streams {
        let name = stream.name().to_owned();
        let (sent, lost) = stream.finish().unwrap();
        assert_eq!(lost, Vec::<u64>::new(), "{name}: of {sent}");
    }
    lab.finish().unwrap();
}

/// bgpd on node1 as on a real node: the file expects the agent's part, and the agent pushes everything.
fn start_with_part(centre: &Centre) -> Result<Daemon> {
    let file = format!(
        "[parts]\nexpect = [\"turnpike-agent\"]\n[graceful_restart]\nrestart_time = {RESTART_TIME}\n"
    );
    let one = Daemon::start(&centre.node1, &file)?;
    let Ok(whole) = turnpike_bgpd_api::config::parse(&node_config(1)) else { anyhow::bail!("a good file") };
    let part = Part {
        owner: "turnpike-agent".to_owned(),
        asn: whole.asn,
        router_id: None,
        node: whole.node,
        peers: whole.peers,
        networks: whole.networks,
        ..Part::default()
    };
    let refused = one.client()?.push(part)?;
    ensure!(refused.is_empty(), "{refused:?}");
    Ok(one)
}

/// Verifies: with everything of the node's pushed by the agent and nothing but the expectation of it in the file, a
/// killed bgpd has the part at once and announces it before its End-of-RIB, without the agent's help (frr#22623).
#[test]
fn a_pushed_part_outlives_a_kill_unnoticed() {
    let lab = Lab::new("bgp-pushed").unwrap();
    let centre = Centre::build(&lab).unwrap();
    let _speakers = centre.start_reflectors(Kind::Bird, Kind::Turnpike).unwrap();
    let mut one = start_with_part(&centre).unwrap();
    let two = centre.start_node(2).unwrap();
    settle(&centre, &one, &two).unwrap();
    let watch = Watch::start(&centre).unwrap();
    one.end(Signal::SIGKILL).unwrap();
    one.start_again().unwrap();
    wait_told(&one).unwrap();
    wait_block(&centre.node1, 1, 2).unwrap();
    watch.finish().unwrap();
    lab.finish().unwrap();
}

/// Verifies: a node that is given up (its part is dropped) ends its sessions for good at once: nobody waits for its
/// return, and its kernel holds nothing of bgpd any more.
#[test]
fn a_node_that_is_given_up_falls_silent_at_once() {
    let lab = Lab::new("bgp-given-up").unwrap();
    let centre = Centre::build(&lab).unwrap();
    let _speakers = centre.start_reflectors(Kind::Bird, Kind::Turnpike).unwrap();
    let one = start_with_part(&centre).unwrap();
    let two = centre.start_node(2).unwrap();
    settle(&centre, &one, &two).unwrap();
    let gone = |node: &turnpike_testbed::Node, prefix: &str| {
        poll_result(DEADLINE, &format!("no {prefix} in the kernel of {}", node.name()), || {
            let routes = kernel_routes(node)?;
            ensure!(!routes.iter().any(|line| line.contains(prefix)), "{routes:#?}");
            Ok(())
        })
    };
    one.client().unwrap().request(&Request::Drop { owner: "turnpike-agent".to_owned() }).unwrap();
    gone(&centre.node2, "10.244.1.0/26").unwrap();
    gone(&centre.node2, "fd00:244:1::/64").unwrap();
    gone(&centre.node1, "244").unwrap();
    assert_eq!(one.status().unwrap().peers, 0);
    lab.finish().unwrap();
}
