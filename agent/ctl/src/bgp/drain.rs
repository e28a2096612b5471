//! `turnpike bgp drain`: traffic goes elsewhere first.

use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::json;
use turnpike_bgpd_api::{Client, ClientError, Drain, Reply, Request};

use super::{PATIENCE, change, show};
use crate::agent::print;
use crate::{Global, Output};

/// Between two looks at a drain.
const LOOK: Duration = Duration::from_millis(250);
/// What a drain takes beside its wait, with time to spare.
const REST: Duration = Duration::from_secs(30);

/// How to leave.
#[derive(Debug, Args)]
pub(crate) struct DrainOrder {
    /// Between GRACEFUL_SHUTDOWN and the withdrawals (`60s`, `5m`).
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = change::duration)]
    wait: Duration,
    /// Text for the peers' operators (RFC 9003).
    #[arg(long, default_value = "", hide_default_value = true)]
    message: String,
    /// Withdraw VIPs and stop there: sessions and pod blocks stay until the last pod has left.
    #[arg(long)]
    keep_blocks: bool,
    /// Even if this may be the last reflector of a client.
    #[arg(long)]
    force: bool,
    /// Stay until it has come to its end, as a host does that is shutting down.
    #[arg(long, conflicts_with = "cancel")]
    watch: bool,
    /// Take back what a drain has done so far.
    #[arg(long, conflicts_with_all = ["force", "keep_blocks", "message"])]
    cancel: bool,
}

/// `turnpike bgp drain`.
pub(super) fn run(global: &Global, client: &mut Client, order: &DrainOrder) -> Result<ExitCode> {
    let request = Request::Drain(Drain {
        wait: u32::try_from(order.wait.as_secs())?,
        message: order.message.clone(),
        keep_blocks: order.keep_blocks,
        force: order.force,
        cancel: order.cancel,
    });
    let Reply::Draining { steps } = client.request(&request)? else {
        bail!("turnpike-bgpd answered something else than was asked");
    };
    let exit = show(global.output, &steps, |steps| steps.iter().map(|step| format!("{step}\n")).collect())?;
    if order.watch {
        follow(global, order.wait + REST)?;
    }
    Ok(exit)
}

fn say(global: &Global, words: &str) -> Result<()> {
    match global.output {
        Output::Json => print(&format!("{}\n", json!({ "draining": words }))),
        Output::Text => print(&format!("{words}\n")),
    }
}

/// Returns when the drain is done: turnpike-bgpd has ended, or has nothing more to withdraw.
fn follow(global: &Global, patience: Duration) -> Result<()> {
    let start = Instant::now();
    let mut told = String::new();
    loop {
        match state(&global.bgpd_socket)? {
            State::Ended => return say(global, "turnpike-bgpd has ended"),
            State::Silent => {}
            State::At { words, done } => {
                // Behind the semicolon it counts down.
                let step = words.split(';').next().unwrap_or_default();
                if step != told {
                    say(global, &words)?;
                    step.clone_into(&mut told);
                }
                if done {
                    return Ok(());
                }
            }
        }
        let seconds = patience.as_secs();
        ensure!(start.elapsed() < patience, "the drain did not come to its end within {seconds} s");
        sleep(LOOK);
    }
}

enum State {
    /// It took its socket away, as at each orderly end.
    Ended,
    /// It is being restarted, or about to end.
    Silent,
    /// Under way, or at all that was asked for.
    At { words: String, done: bool },
}

fn state(socket: &Path) -> Result<State> {
    let status = Client::connect(socket, PATIENCE).and_then(|mut client| client.status());
    match status {
        Ok(status) => match status.draining {
            Some(words) => Ok(State::At { words, done: status.drained }),
            None => bail!("the drain was called off"),
        },
        Err(ClientError::Unreachable { .. }) if !socket.exists() => Ok(State::Ended),
        Err(ClientError::Unreachable { .. } | ClientError::NoAnswer(_)) => Ok(State::Silent),
        Err(error) => Err(error.into()),
    }
}
