//! Restarts.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use turnpike_bgpd_api::Community;
use turnpike_testbed::poll_result;

use super::Pair;
use crate::peers::{Kind, Word};
use crate::terms::{DEADLINE, OUR_V4, THEIR_V4, Terms};

pub(crate) fn graceful(kind: Kind) -> Result<()> {
    let mut pair = Pair::start("gr", kind, Terms { restarting: true, ..Terms::v4() })?;
    pair.wait_up()?;
    pair.peer.wait_word(Word::GracefulRestart)?;
    pair.peer.wait_route(OUR_V4, &[])?;
    pair.ours.wait_path(THEIR_V4[0])?;
    wait_told(&pair)?;

    // We restart, they help.
    pair.ours.end(Signal::SIGKILL)?;
    pair.peer.wait_not(Word::Established)?;
    ensure!(!pair.peer.route(OUR_V4)?.trim().is_empty(), "the peer has dropped our path");
    pair.ours.start_again()?;
    pair.wait_up()?;
    ensure!(pair.ours.client()?.status()?.restarted, "we do not know of our restart");
    ensure!(!pair.peer.route(OUR_V4)?.trim().is_empty(), "the peer has dropped our path");
    pair.ours.wait_path(THEIR_V4[0])?;
    wait_told(&pair)?;

    // They restart, we help.
    pair.peer.kill()?;
    pair.ours.wait_down()?;
    let path = pair.ours.path(THEIR_V4[0])?;
    ensure!(path.as_ref().is_some_and(|path| path.stale && path.best), "not kept: {path:?}");
    pair.peer.start_again()?;
    pair.wait_up()?;
    poll_result(DEADLINE, "the path to be fresh again", || {
        let path = pair.ours.path(THEIR_V4[0])?;
        ensure!(path.as_ref().is_some_and(|path| !path.stale), "it is {path:?}");
        Ok(())
    })?;
    pair.peer.wait_route(OUR_V4, &[])?;
    pair.finish()
}

pub(crate) fn long_lived(kind: Kind) -> Result<()> {
    let terms = Terms { restarting: true, long_lived: true, ..Terms::v4() };
    let mut pair = Pair::start_with("llgr", kind, terms, |config| {
        config.graceful_restart.restart_time = 1;
        config.graceful_restart.long_lived_time = 60;
        Ok(())
    })?;
    pair.wait_up()?;
    pair.peer.wait_word(Word::LongLived)?;
    pair.peer.wait_route(OUR_V4, &[])?;
    pair.ours.wait_path(THEIR_V4[0])?;
    wait_told(&pair)?;

    // We stay away for longer than our restart time: the peer keeps our path and marks it.
    pair.ours.end(Signal::SIGKILL)?;
    wait_marked(&pair, true)?;
    pair.ours.start_again()?;
    pair.wait_up()?;
    wait_marked(&pair, false)?;
    pair.ours.wait_path(THEIR_V4[0])?;
    wait_told(&pair)?;

    // They stay away.
    pair.peer.kill()?;
    poll_result(DEADLINE, "the peer's path to be a last resort", || {
        let path = pair.ours.best(THEIR_V4[0])?.context("it is gone")?;
        let marked = path.communities.contains(&Community::LLGR_STALE);
        ensure!(path.stale && path.best && marked, "it is {path:?}");
        Ok(())
    })?;
    pair.peer.start_again()?;
    pair.wait_up()?;
    poll_result(DEADLINE, "the path to be fresh again", || {
        let path = pair.ours.best(THEIR_V4[0])?.context("it is gone")?;
        let marked = path.communities.contains(&Community::LLGR_STALE);
        ensure!(!path.stale && !marked, "it is {path:?}");
        Ok(())
    })?;
    pair.peer.wait_route(OUR_V4, &[])?;
    pair.finish()
}

/// Waits until the peer holds our path, with or without LLGR_STALE.
fn wait_marked(pair: &Pair, wanted: bool) -> Result<()> {
    poll_result(DEADLINE, &format!("our path at the peer, LLGR_STALE {wanted}"), || {
        let said = pair.peer.route(OUR_V4)?;
        ensure!(!said.trim().is_empty(), "it has no such path");
        let marked = ["llgr-stale", "(65535,6)"].iter().any(|spelled| said.contains(spelled));
        ensure!(marked == wanted, "it says\n{said}");
        Ok(())
    })
}

/// Waits until both sides have said End-of-RIB.
fn wait_told(pair: &Pair) -> Result<()> {
    poll_result(DEADLINE, "End-of-RIB both ways", || {
        let Some(session) = pair.ours.peer()?.session else { anyhow::bail!("no session") };
        ensure!(session.end_of_rib_sent == session.families, "ours is not sent");
        ensure!(session.end_of_rib_received == session.families, "the peer's has not come");
        Ok(())
    })
}
