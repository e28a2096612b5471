//! Peers that nobody named: listen ranges, with BFD too, and groups that say what peers are like.
//!
//! ```text
//! reflector 10.1.3.1   AS 65001, listen range 10.1.3.0/29 with a password, at most one peer
//!    │
//!  switch ─── inside  10.1.3.2  BIRD with the password
//!         ├── second  10.1.3.3  BIRD with the password
//!         └── outside 10.1.3.9  BIRD
//! ```

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use turnpike_bgpd_api::bfd::{BfdState, BfdView, DEFAULT_BFD_SOCKET, show_bfd};
use turnpike_testbed::{Lab, Node, Process, binary, poll_result};

use crate::daemon::{DEADLINE, Daemon};

const REFLECTOR: &str = r#"
asn = 65001
router_id = "10.0.0.1"
[kernel]
enabled = false
[graceful_restart]
enabled = false
[peer_group.nodes]
remote_as = "internal"
rr_client = true
hold_time = 9
[[listen_range]]
name = "node"
prefix = "10.1.3.0/29"
limit = 1
group = "nodes"
password_file = "/etc/turnpike/nodes.password"
"#;

fn bird(node: &Node, host: u8, password: &str) -> Result<Process> {
    let config = format!(
        "log stderr all; router id 10.0.0.{host}; protocol device {{}}\n\
         protocol static {{ ipv4; route 10.{host}0.0.0/16 blackhole; }}\n\
         protocol bgp up {{ local 10.1.3.{host} as 65001; neighbor 10.1.3.1 as 65001; {password}\n\
         connect delay time 1; connect retry time 1; error wait time 1, 1; ipv4 {{ import all; export all; }}; }}\n"
    );
    node.write_file("/run/bird/bird.conf", config)?;
    let mut command = node.command("bird")?;
    command.args(["-f", "-c", "/run/bird/bird.conf", "-s", "/run/bird/bird.ctl"]);
    node.spawn("bird", command)
}

fn wait_peer(daemon: &Daemon, name: &str) -> Result<()> {
    poll_result(DEADLINE, name, || {
        let peers = daemon.client()?.peers(None)?;
        let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
        ensure!(names == [name], "the peers are {names:?}");
        ensure!(peers.iter().all(|peer| peer.session.is_some()), "no session yet");
        Ok(())
    })
}

/// Waits for one of the kernel's counters in a node.
fn wait_counter(node: &Node, name: &str, least: u64) -> Result<()> {
    poll_result(DEADLINE, name, || {
        let said = node.text(&["nstat", "-asz", name])?;
        let line = said.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        let count: u64 = line.split_whitespace().nth(1).unwrap_or_default().parse()?;
        ensure!(count >= least, "{count}");
        Ok(())
    })
}

/// Verifies: who connects out of the range with the password becomes a peer of the group's kind, with its routes; the
/// limit holds, and its room goes to the next when the first leaves; a stranger from outside the range is turned away;
/// the password is asked for by the kernel (TCP_MD5SIG_EXT).
#[test]
fn peers_come_out_of_a_range_with_their_password() {
    let lab = Lab::new("bgp-range").unwrap();
    let switch = lab.node("switch").unwrap();
    let member = |number: usize, name: &str, host: u8| {
        let node = lab.node(name).unwrap();
        lab.link(&switch, &format!("p{number}"), &node, "eth0").unwrap();
        node.addr("eth0", &format!("10.1.3.{host}/24")).unwrap();
        node
    };
    let own = member(1, "reflector", 1);
    let (inside, second, outside) = (member(2, "inside", 2), member(3, "second", 3), member(4, "outside", 9));
    switch.bridge("br0", &["p1", "p2", "p3", "p4"]).unwrap();
    own.write_file("/etc/turnpike/nodes.password", "of the nodes\n").unwrap();
    let daemon = Daemon::start(&own, REFLECTOR).unwrap();

    let stranger = bird(&outside, 9, "").unwrap();
    let first = bird(&inside, 2, "password \"of the nodes\";").unwrap();
    wait_peer(&daemon, "node-10.1.3.2").unwrap();
    let peer = daemon.peer("node-10.1.3.2").unwrap();
    assert_eq!(peer.session.unwrap().hold_time, 9);
    poll_result(DEADLINE, "its route", || {
        let paths = daemon.client()?.rib(turnpike_bgpd_api::RibQuery {
            table: turnpike_bgpd_api::Table::In("node-10.1.3.2".to_owned()),
            select: turnpike_bgpd_api::Select::Exact("10.20.0.0/16".parse()?),
            after: None,
            limit: 2,
        })?;
        ensure!(paths.len() == 1, "{paths:?}");
        Ok(())
    })
    .unwrap();

    // The second has the password and finds no room.
    let next = bird(&second, 3, "password \"of the nodes\";").unwrap();
    // At its second attempt the first one has been turned away.
    wait_counter(&second, "TcpActiveOpens", 2).unwrap();
    wait_peer(&daemon, "node-10.1.3.2").unwrap();
    first.stop().unwrap();
    wait_peer(&daemon, "node-10.1.3.3").unwrap();

    // Without the password the kernel drops what comes.
    next.stop().unwrap();
    let silent = bird(&inside, 2, "").unwrap();
    wait_counter(&own, "TcpExtTCPMD5NotFound", 1).unwrap();
    assert!(daemon.client().unwrap().peers(None).unwrap().iter().all(|peer| peer.session.is_none()));
    drop((silent, stranger));
    daemon.end(Signal::SIGTERM).unwrap();
    lab.finish().unwrap();
}

const WATCHED: &str = r#"
asn = 65001
router_id = "10.0.0.1"
[kernel]
enabled = false
[[listen_range]]
name = "node"
prefix = "10.1.3.0/29"
remote_as = "auto"
ttl = 64
import = "accept-all"
export = "accept-all"
bfd = { interval_ms = 300, multiplier = 3 }
"#;

fn watching_bird(node: &Node) -> Result<Process> {
    let config = "log stderr all; router id 10.0.0.2; protocol device {}\n\
         protocol bfd { multihop { interval 300 ms; multiplier 3; }; }\n\
         protocol static { ipv4; route 10.20.0.0/16 blackhole; }\n\
         protocol bgp up { local 10.1.3.2 as 65001; neighbor 10.1.3.1 as 65001; bfd on; graceful restart on;\n\
         connect delay time 1; connect retry time 1; error wait time 1, 1; ipv4 { import all; export all; }; }\n";
    node.write_file("/run/bird/bird.conf", config)?;
    let mut command = node.command("bird")?;
    command.args(["-f", "-c", "/run/bird/bird.conf", "-s", "/run/bird/bird.ctl"]);
    node.spawn("bird", command)
}

fn bfd(node: &Node) -> Result<Vec<BfdView>> {
    Ok(show_bfd(&node.path(DEFAULT_BFD_SOCKET)?, Duration::from_secs(10))?)
}

fn wait_bfd_up(node: &Node) -> Result<BfdView> {
    poll_result(DEADLINE, "BFD Up", || {
        let view = bfd(node)?.pop().context("no BFD session")?;
        ensure!(view.state == BfdState::Up && view.orphaned_for.is_none(), "{view:#?}");
        Ok(view)
    })
}

/// Verifies: a peer out of a range (`remote_as = "auto"`: internal here) has BFD from its session on; a restart of bgpd,
/// which knows the peer again only when it comes back, is no path failure (RFC 5882 §4.3.2.2); a path that fails in
/// silence ends session and peer long before the hold timer of 90 s; and both return when it is mended.
#[test]
fn peers_out_of_a_range_are_watched_by_bfd() {
    let lab = Lab::new("bgp-range-bfd").unwrap();
    let (switch, own, other) =
        (lab.node("switch").unwrap(), lab.node("own").unwrap(), lab.node("other").unwrap());
    lab.link(&switch, "own", &own, "eth0").unwrap();
    lab.link(&switch, "other", &other, "eth0").unwrap();
    own.addr("eth0", "10.1.3.1/24").unwrap();
    other.addr("eth0", "10.1.3.2/24").unwrap();
    switch.bridge("br0", &["own", "other"]).unwrap();
    let bfdd = own.spawn("turnpike-bfdd", own.command(binary("turnpike-bfdd").unwrap()).unwrap()).unwrap();
    let mut daemon = Daemon::start(&own, WATCHED).unwrap();
    let _bird = watching_bird(&other).unwrap();

    wait_peer(&daemon, "node-10.1.3.2").unwrap();
    let before = wait_bfd_up(&own).unwrap();
    assert_eq!((before.name.as_str(), before.key.multihop), ("node-10.1.3.2", true));
    let peer = daemon.peer("node-10.1.3.2").unwrap();
    assert_eq!((peer.remote_as.0, peer.internal), (65001, true));

    daemon.end(Signal::SIGKILL).unwrap();
    daemon.start_again().unwrap();
    wait_peer(&daemon, "node-10.1.3.2").unwrap();
    let after = wait_bfd_up(&own).unwrap();
    assert_eq!((after.local_discriminator, after.downs), (before.local_discriminator, 0), "{after:#?}");

    switch.run(&["ip", "link", "set", "own", "nomaster"]).unwrap();
    poll_result(DEADLINE, "session, peer and BFD to go", || {
        let (peers, sessions) = (daemon.client()?.peers(None)?, bfd(&own)?);
        ensure!(peers.is_empty() && sessions.is_empty(), "{peers:?} {sessions:?}");
        Ok(())
    })
    .unwrap();
    switch.run(&["ip", "link", "set", "own", "master", "br0"]).unwrap();
    wait_peer(&daemon, "node-10.1.3.2").unwrap();
    wait_bfd_up(&own).unwrap();
    daemon.end(Signal::SIGTERM).unwrap();
    drop(bfdd);
    lab.finish().unwrap();
}
