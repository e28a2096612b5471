//! One run: a daemon in one node, all talkers in another, a cable between.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::cases::Case;
use super::daemons::{Contender, Task};
use super::talker::{Talker, converse};
use super::usage::{Usage, kernel_routes};
use crate::{Lab, Node, poll};

pub(super) const DAEMON: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
/// A daemon that used less than this within [`GLANCE`] has nothing left to do.
const IDLE: Duration = Duration::from_millis(3);
const GLANCE: Duration = Duration::from_millis(200);
/// Longest wait for that; daemons have housekeeping of their own.
const IDLE_DEADLINE: Duration = Duration::from_secs(10);

/// What one run has shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// CPU time of all the daemon's threads, from the first UPDATE until it is idle again.
    pub(super) cpu: Duration,
    /// From the first UPDATE until every talker has heard all.
    pub(super) wall: Duration,
    /// The same until the kernel has every route.
    pub(super) kernel: Option<Duration>,
    /// Largest resident size, bytes.
    pub(super) peak: u64,
    /// Growth of the resident size for each path held, bytes.
    pub(super) per_path: f64,
}

/// Runs a case with a daemon.
pub(super) fn run(case: &Case, contender: Contender, deadline: Duration) -> Result<Outcome> {
    let plan = case.plan()?;
    let Arena { lab, daemon, peers } = Arena::build(plan.scripts.iter().map(|script| script.address))?;
    let task = Task {
        address: DAEMON,
        neighbours: plan.neighbours(),
        reflect: plan.reflect,
        kernel: case.kernel,
        graceful: false,
    };
    let processes = contender.start(&daemon, &task)?;
    let (paths, places) = (plan.paths, &plan.places);
    let outcome = peers.in_netns(|| -> Result<Outcome> {
        let mut talkers = Vec::new();
        for script in plan.scripts {
            talkers.push(Talker::establish(script, DAEMON, places)?);
        }
        let routes_before = kernel_routes(&daemon)?;
        let wanted = routes_before + if case.kernel { places.len() } else { 0 };
        let before = settle(&daemon)?;
        let begun = Instant::now();
        let (mut kernel, mut looked) = (None, begun);
        let wall = converse(&mut talkers, places, deadline, || {
            if case.kernel && kernel.is_none() && looked.elapsed() > GLANCE / 4 {
                looked = Instant::now();
                kernel = (kernel_routes(&daemon)? >= wanted).then(|| begun.elapsed());
            }
            Ok(kernel.is_some() || !case.kernel)
        })?;
        let after = settle(&daemon)?;
        let grown = after.resident.saturating_sub(before.resident);
        Ok(Outcome {
            cpu: after.cpu.saturating_sub(before.cpu),
            wall,
            kernel,
            peak: after.peak,
            per_path: grown as f64 / paths as f64,
        })
    })?;
    let logs: String = processes.iter().map(|process| crate::process::tail(&process.log())).collect();
    drop(processes);
    let outcome = outcome.with_context(|| format!("{contender} said:\n{logs}"));
    // Whatever else happens on the machine meanwhile does not unmake the measurement.
    if let Err(error) = lab.finish() {
        eprintln!("{error:#}");
    }
    outcome
}

/// The nodes of a run.
pub(super) struct Arena {
    pub(super) lab: Lab,
    pub(super) daemon: Node,
    pub(super) peers: Node,
}

impl Arena {
    pub(super) fn build(talkers: impl Iterator<Item = Ipv4Addr>) -> Result<Self> {
        let lab = Lab::new("bench-bgp")?;
        let (daemon, peers) = (lab.node("daemon")?, lab.node("peers")?);
        lab.link(&daemon, "eth0", &peers, "eth0")?;
        daemon.addr("eth0", &format!("{DAEMON}/16"))?;
        let batch: String = talkers.map(|address| format!("addr add {address}/16 dev eth0\n")).collect();
        peers.write_file("/run/addresses", batch)?;
        peers.run(&["ip", "-batch", "/run/addresses"])?;
        Ok(Self { lab, daemon, peers })
    }
}

/// Use of the daemon once it has come to rest.
pub(super) fn settle(node: &Node) -> Result<Usage> {
    let mut last = (Instant::now(), Usage::of(node)?);
    let rested = poll(IDLE_DEADLINE, "the daemon to rest", || {
        if last.0.elapsed() < GLANCE {
            return None;
        }
        let now = Usage::of(node).ok()?;
        let spent = now.cpu.saturating_sub(last.1.cpu);
        last = (Instant::now(), now);
        (spent < IDLE).then_some(now)
    });
    // One that never rests is measured as it is.
    Ok(rested.unwrap_or(last.1))
}
