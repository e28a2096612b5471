//! What protects a session: the kernel does, when both sides tell it the same.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use turnpike_testbed::{Node, poll_result};

use super::Pair;
use crate::peers::Kind;
use crate::terms::{DEADLINE, OUR_V4, THEIR_V4, Terms};

const PASSWORD_FILE: &str = "/etc/turnpike/peer.password";

pub(crate) fn md5(kind: Kind) -> Result<()> {
    for (ours, dropped) in [("correct-horse", None), ("battery-staple", Some("TcpExtTCPMD5Failure"))] {
        let terms = Terms { password: Some("correct-horse"), ..Terms::v4() };
        let lan = crate::terms::Lan::new("interop-md5")?;
        lan.ours.write_file(PASSWORD_FILE, format!("{ours}\n"))?;
        let pair = Pair::start_in(lan, kind, terms, |config| {
            let peer = config.peers.first_mut().context("our peer")?;
            peer.password_file = Some(PASSWORD_FILE.into());
            Ok(())
        })?;
        judge(pair, dropped)?;
    }
    Ok(())
}

pub(crate) fn gtsm(kind: Kind) -> Result<()> {
    for (theirs, dropped) in [(true, None), (false, Some("TcpExtTCPMinTTLDrop"))] {
        let pair = Pair::start_with("gtsm", kind, Terms { gtsm: theirs, ..Terms::v4() }, |config| {
            config.peers.first_mut().context("our peer")?.ttl_security = Some(1);
            Ok(())
        })?;
        judge(pair, dropped)?;
    }
    Ok(())
}

/// Both sides have a session and routes, or our kernel has dropped what the peer sends and counts it here.
fn judge(pair: Pair, dropped: Option<&str>) -> Result<()> {
    if let Some(name) = dropped {
        poll_result(DEADLINE, name, || {
            ensure!(counter(&pair.lan.ours, name)? > 2, "nothing was dropped");
            Ok(())
        })?;
        ensure!(pair.ours.peer()?.session.is_none(), "we have a session");
        // The peer may think that it has one, until its hold timer says otherwise.
        ensure!(pair.peer.route(OUR_V4)?.trim().is_empty(), "the peer has our path");
    } else {
        pair.wait_up()?;
        pair.ours.wait_path(THEIR_V4[0])?;
        pair.peer.wait_route(OUR_V4, &[])?;
    }
    pair.ours.end(Signal::SIGTERM)?;
    pair.finish()
}

/// A counter of the node's TCP.
fn counter(node: &Node, name: &str) -> Result<u64> {
    let text = node.text(&["nstat", "-az", name])?;
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}
