//! How sessions begin and end.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use turnpike_bgpd_api::config::{Bfd, MaxPrefix, MaxPrefixAction};
use turnpike_testbed::{Node, binary, poll_result};

use super::Pair;
use crate::ours::{config, network};
use crate::peers::{Kind, Word};
use crate::terms::{DEADLINE, OUR_V4, THEIR_V4, Terms};

pub(crate) fn max_prefix(kind: Kind) -> Result<()> {
    let terms = Terms { prefixes: THEIR_V4.to_vec(), ..Terms::v4() };
    let pair = Pair::start_with("our-limit", kind, terms, |config| {
        let peer = config.peers.first_mut().context("our peer")?;
        peer.max_prefix = Some(MaxPrefix { limit: 2, action: MaxPrefixAction::Restart });
        Ok(())
    })?;
    pair.peer.wait_word(Word::MaxPrefix)?;
    pair.ours.wait_notification(&["sent", "Maximum Number of Prefixes Reached"])?;
    pair.finish()?;

    let terms = Terms { their_limit: Some(2), ..Terms::v4() };
    let more = [network("10.51.0.0/16", &terms)?, network("10.52.0.0/16", &terms)?];
    let pair = Pair::start_with("their-limit", kind, terms, |config| {
        config.networks.extend(more);
        Ok(())
    })?;
    // FRR looks at what it had before an UPDATE.
    let mut yet_more = config(&pair.terms)?;
    for prefix in ["10.51.0.0/16", "10.52.0.0/16", "10.53.0.0/16", "10.54.0.0/16"] {
        yet_more.networks.push(network(prefix, &pair.terms)?);
    }
    pair.ours.reload(&yet_more)?;
    pair.ours.wait_notification(&["received", "Maximum Number of Prefixes Reached"])?;
    pair.finish()
}

pub(crate) fn shutdown(kind: Kind) -> Result<()> {
    let mut pair = Pair::start("shutdown", kind, Terms::v4())?;
    pair.wait_up()?;
    let mut down = config(&pair.terms)?;
    down.peers.first_mut().context("our peer")?.shutdown = Some("new line card until 06:00".to_owned());
    pair.ours.reload(&down)?;
    pair.peer.wait_word(Word::Shutdown)?;
    pair.peer.wait_says("new line card until 06:00")?;
    pair.ours.reload(&config(&pair.terms)?)?;
    pair.wait_up()?;
    pair.peer.shut_down("fibre work")?;
    pair.ours.wait_notification(&["received", "Administrative Shutdown", "fibre work"])?;
    pair.finish()
}

pub(crate) fn hold_expiry(kind: Kind) -> Result<()> {
    let pair = Pair::start("hold", kind, Terms { hold_time: 3, ..Terms::v4() })?;
    pair.wait_up()?;
    ensure!(pair.ours.wait_up()?.hold_time == 3, "the hold time is not 3 s");
    // We are silent.
    pair.ours.signal(Signal::SIGSTOP)?;
    let told = pair.peer.wait_word(Word::HoldSent);
    pair.ours.signal(Signal::SIGCONT)?;
    told?;
    pair.ours.wait_notification(&["Hold Timer Expired"])?;
    pair.wait_up()?;
    // The peer is silent.
    pair.peer.signal(Signal::SIGSTOP)?;
    let ended = pair.ours.wait_down();
    pair.peer.signal(Signal::SIGCONT)?;
    let said = ended?.last_notification.unwrap_or_default();
    ensure!(
        said.contains("sent") && said.contains("Hold Timer Expired"),
        "our last NOTIFICATION is {said:?}"
    );
    // It wakes up to our NOTIFICATION and to its own timer, and may take either first.
    pair.peer.wait_one_of(&[Word::HoldReceived, Word::HoldSent])?;
    pair.wait_up()?;
    pair.finish()
}

pub(crate) fn collision(kind: Kind) -> Result<()> {
    // Our identifier is 10.0.0.1.
    for their_id in [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(9, 0, 0, 2)] {
        collide(kind, their_id)?;
    }
    Ok(())
}

/// Seconds for which either side waits for a connection: no attempt may be given up while its daemon is stopped, or
/// it wakes up to a timer that has expired and to a connection that has come, and may take either first.
const PATIENCE: u16 = 30;

/// Both daemons are stopped while their SYNs are under way. The kernels finish both handshakes, so that each daemon
/// wakes up to a connection that it made and one that it can accept.
fn collide(kind: Kind, their_id: Ipv4Addr) -> Result<()> {
    let lan = crate::terms::Lan::new("interop-collision")?;
    let nodes = [&lan.ours, &lan.peer].map(Node::clone);
    for node in &nodes {
        node.run(&[
            "nft",
            "add table inet gate; add chain inet gate in { type filter hook input priority 0; }",
        ])?;
        node.run(&["nft", "add rule inet gate in tcp dport 179 drop"])?;
        // A SYN goes out again each second, where the kernel can (6.5), rather than after 1, 3, 7, 15 s.
        let _ = node.sysctl("net.ipv4.tcp_syn_linear_timeouts", "100");
    }
    let terms = Terms { their_id, their_patience: Some(PATIENCE), ..Terms::v4() };
    let pair = Pair::start_in(lan, kind, terms, |config| {
        config.peers.first_mut().context("our peer")?.connect_retry = PATIENCE;
        Ok(())
    })?;
    stop_crossing(&pair, &nodes)?;
    for node in &nodes {
        node.run(&["nft", "delete", "table", "inet", "gate"])?;
    }
    poll_result(DEADLINE, "both handshakes", || {
        for node in &nodes {
            let found = sockets(node, "established")?;
            ensure!(found.len() == 2, "{}: {found:?}", node.name());
        }
        Ok(())
    })?;
    // We first, so that we have said OPEN on both: a connection without it would be given up, whosever it is.
    pair.ours.signal(Signal::SIGCONT)?;
    poll_result(DEADLINE, "our OPEN on both", || {
        let found = sockets(&nodes[1], "established")?;
        ensure!(found.len() == 2 && found.iter().all(|one| !one.starts_with("0 ")), "{found:?}");
        Ok(())
    })?;
    // Our KEEPALIVE must not come before the peer has made up its mind: FRR 8.4 stops a session that is Established by
    // what it had queued for the connection that lost, when it reads OPEN and KEEPALIVE at one go.
    pair.ours.signal(Signal::SIGSTOP)?;
    wait_stopped(pair.ours.process().pid())?;
    pair.peer.signal(Signal::SIGCONT)?;
    poll_result(DEADLINE, "the peer to give one up", || {
        let found = sockets(&nodes[0], "established")?;
        ensure!(found.len() == 1, "{found:?}");
        Ok(())
    })?;
    pair.ours.signal(Signal::SIGCONT)?;
    pair.wait_up()?;
    // Which one stays depends on how far each side has come (RFC 4271 §6.8); that they agree does not.
    let kept = poll_result(DEADLINE, "one connection, the same for both", || {
        let [ours, theirs] = [sockets(&nodes[0], "established")?, sockets(&nodes[1], "established")?];
        let (Some([own, other]), Some([their_own, their_other])) = (ends(&ours), ends(&theirs)) else {
            anyhow::bail!("ours {ours:?}, theirs {theirs:?}");
        };
        ensure!(own == their_other && other == their_own, "ours {ours:?}, theirs {theirs:?}");
        Ok([own, other])
    })?;
    eprintln!("kept {kept:?} with {their_id} against 10.0.0.1");
    pair.wait_up()?;
    pair.ours.wait_path(THEIR_V4[0])?;
    pair.peer.wait_route(OUR_V4, &[])?;
    ensure!(pair.ours.peer()?.flaps == 0, "the session has flapped");
    pair.finish()
}

/// Stops both daemons while each tries to connect.
fn stop_crossing(pair: &Pair, nodes: &[Node; 2]) -> Result<()> {
    let trying = || -> Result<()> {
        for node in nodes {
            let found = sockets(node, "syn-sent")?;
            ensure!(found.len() == 1, "{} tries with {found:?}", node.name());
        }
        Ok(())
    };
    let signal = |signal| pair.ours.signal(signal).and_then(|()| pair.peer.signal(signal));
    poll_result(DEADLINE, "two crossing connections", || {
        trying()?;
        signal(Signal::SIGSTOP)?;
        for pid in pair.peer.pids()?.into_iter().chain([pair.ours.process().pid()]) {
            wait_stopped(pid)?;
        }
        // Either may have come further before it stopped.
        trying().inspect_err(|_| _ = signal(Signal::SIGCONT))
    })
}

/// A signal stops a process when its threads next look: on a busy machine that is not at once.
fn wait_stopped(pid: u32) -> Result<()> {
    let tasks = format!("/proc/{pid}/task");
    poll_result(DEADLINE, &format!("process {pid} to stop"), || {
        for task in fs::read_dir(&tasks)? {
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            // The name before the state may hold anything, also parentheses.
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            ensure!(state == Some('T'), "a thread is in state {state:?}");
        }
        Ok(())
    })
}

/// The two ends of the only socket.
fn ends(sockets: &[String]) -> Option<[String; 2]> {
    let [one] = sockets else { return None };
    // BIRD binds its sockets to the interface, and ss says so.
    let mut words = one.split_whitespace().skip(2).map(|end| end.replace("%eth0", ""));
    Some([words.next()?, words.next()?])
}

/// BGP's TCP sockets in a state, as `ss` prints them.
fn sockets(node: &Node, state: &str) -> Result<Vec<String>> {
    let said = node.text(&["ss", "-Htn", "state", state, "( sport = :179 or dport = :179 )"])?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// Ours is a process of its own, turnpike-bfdd.
pub(crate) fn bfd(kind: Kind) -> Result<()> {
    let lan = crate::terms::Lan::new("interop-bfd")?;
    let bfdd = lan.ours.spawn("turnpike-bfdd", lan.ours.command(binary("turnpike-bfdd")?)?)?;
    let pair = Pair::start_in(lan, kind, Terms { bfd: true, ..Terms::v4() }, |config| {
        config.peers.first_mut().context("our peer")?.bfd = Some(Bfd::default());
        Ok(())
    })?;
    pair.wait_up()?;
    pair.peer.wait_word(Word::BfdUp)?;
    // The peer's side fails while TCP knows nothing: the session ends long before its hold time of 90 s.
    pair.lan.ours.run(&[
        "nft",
        "add table inet gate; add chain inet gate in { type filter hook input priority 0; }",
    ])?;
    pair.lan.ours.run(&["nft", "add rule inet gate in udp dport 3784 drop"])?;
    let ended = pair.ours.wait_down()?.last_error.unwrap_or_default();
    ensure!(ended.contains("BFD"), "the session has ended for another reason: {ended}");
    pair.peer.wait_not(Word::BfdUp)?;
    pair.lan.ours.run(&["nft", "delete", "table", "inet", "gate"])?;
    pair.peer.wait_word(Word::BfdUp)?;
    pair.wait_up()?;
    drop(bfdd);
    pair.finish()
}
