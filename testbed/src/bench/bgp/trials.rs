//! Measurements of another kind than how much work a table is.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use turnpike_bgp_wire::{Family, encode_end_of_rib};

use super::arena::{Arena, DAEMON, settle};
use super::cases::{EXTERNAL, address, real_table};
use super::daemons::{Contender, Neighbour, Task};
use super::routes::{Places, hosts};
use super::talker::{HOLD_TIME, Script, Talker, converse};
use super::usage::{Usage, kernel_routes};
use crate::{Lab, Process};

/// Sessions beside the table.
const PULSES: u32 = 100;
/// Their hold times, seconds.
const SHORT_HOLD: u16 = 3;
const USUAL_HOLD: u16 = 90;
/// How long an idle daemon is watched.
const REST: Duration = Duration::from_secs(10);
/// Routes of the restart.
const ROUTES: u32 = 100_000;
/// So many are gone after it, and so many are new.
const MOVED: u32 = 1000;

/// Between two looks at the kernel.
const LOOK: Duration = Duration::from_millis(20);

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Trial {
    pub(super) name: &'static str,
    pub(super) metrics: &'static [&'static str],
    pub(super) kernel: bool,
    /// Values in the order of the metrics.
    pub(super) run: fn(Contender, Duration) -> Result<Vec<f64>>,
}

pub(super) const TRIALS: [Trial; 3] = [
    Trial {
        name: "886k real table beside 100 sessions with a hold time of 3 s",
        metrics: &["sessions_lost", "longest_silence_seconds", "idle_cpu_percent"],
        kernel: false,
        run: |contender, deadline| pulses(contender, deadline, SHORT_HOLD),
    },
    Trial {
        name: "at rest with the 886k real table and 100 sessions with a hold time of 90 s",
        metrics: &["idle_cpu_percent"],
        kernel: false,
        run: |contender, deadline| Ok(pulses(contender, deadline, USUAL_HOLD)?.split_off(2)),
    },
    Trial {
        name: "SIGKILL and restart with 100k kernel routes",
        metrics: &["restart_to_forwarding_seconds", "routes_missing_at_worst", "cpu_seconds"],
        kernel: true,
        run: restart,
    },
];

/// KEEPALIVEs of many sessions while a full table passes, and what the daemon needs when nothing happens any more.
fn pulses(contender: Contender, deadline: Duration, hold_time: u16) -> Result<Vec<f64>> {
    let mut plan = real_table()?;
    let first = plan.scripts.len() as u32;
    plan.scripts.extend((first..first + PULSES).map(|number| Script {
        asn: EXTERNAL + number,
        address: address(number),
        says: Vec::new(),
        own: 0..0,
        wants: 0,
        hold_time,
        graceful: false,
    }));
    let Arena { lab, daemon, peers } = Arena::build(plan.scripts.iter().map(|script| script.address))?;
    let told = |neighbour: Neighbour| Neighbour { told: neighbour.hold_time == HOLD_TIME, ..neighbour };
    let task = Task {
        address: DAEMON,
        neighbours: plan.neighbours().into_iter().map(told).collect(),
        reflect: false,
        kernel: false,
        graceful: false,
    };
    let processes = contender.start(&daemon, &task)?;
    let places = &plan.places;
    let values = peers.in_netns(|| -> Result<Vec<f64>> {
        let mut talkers = Vec::new();
        for script in plan.scripts {
            talkers.push(Talker::establish(script, DAEMON, places)?);
        }
        let all = talkers.len();
        converse(&mut talkers, places, deadline, || Ok(true))?;
        // What is left to do is done while the others' hearts go on.
        let resting = Instant::now();
        converse(&mut talkers, places, deadline, || Ok(resting.elapsed() > REST))?;
        let (before, watched) = (Usage::of(&daemon)?, Instant::now());
        converse(&mut talkers, places, deadline, || Ok(watched.elapsed() > REST))?;
        let spent = Usage::of(&daemon)?.cpu.saturating_sub(before.cpu);
        let silence = talkers.iter().filter_map(Talker::silence).max().unwrap_or_default();
        let idle = 100.0 * spent.as_secs_f64() / watched.elapsed().as_secs_f64();
        Ok(vec![(all - talkers.len()) as f64, silence.as_secs_f64(), idle])
    })?;
    finish(contender, processes, lab, values)
}

/// From SIGKILL to a kernel that holds what peers say after it: old routes gone, new ones in.
fn restart(contender: Contender, deadline: Duration) -> Result<Vec<f64>> {
    // The second time the peers say something else, so that a daemon which only leaves routes alone is not done.
    let script = |first: u32, number: u32| -> Result<Script> {
        let mut says =
            if number == 0 { hosts(first..first + ROUTES, address(0), Some(EXTERNAL))? } else { Vec::new() };
        encode_end_of_rib(Family::Ipv4, &mut says);
        Ok(Script {
            asn: EXTERNAL + number,
            address: address(number),
            says,
            own: if first == 0 { ROUTES..ROUTES + MOVED } else { 0..MOVED },
            wants: if number == 0 { 0 } else { ROUTES as usize },
            hold_time: HOLD_TIME,
            graceful: true,
        })
    };
    let places = Places::Hosts(ROUTES + MOVED);
    let Arena { lab, daemon, peers } = Arena::build([0, 1].map(address).into_iter())?;
    let neighbour = |number| Neighbour {
        address: address(number),
        asn: EXTERNAL + number,
        hold_time: HOLD_TIME,
        told: true,
    };
    let task = Task {
        address: DAEMON,
        neighbours: [0, 1].map(neighbour).into(),
        reflect: false,
        kernel: true,
        graceful: true,
    };
    let mut processes = contender.start(&daemon, &task)?;
    let values = peers.in_netns(|| -> Result<Vec<f64>> {
        let establish = |first| -> Result<Vec<Talker>> {
            [0, 1]
                .map(|number| Talker::establish(script(first, number)?, DAEMON, &places))
                .into_iter()
                .collect()
        };
        let full = kernel_routes(&daemon)? + ROUTES as usize;
        let mut talkers = establish(0)?;
        converse(&mut talkers, &places, deadline, || Ok(kernel_routes(&daemon)? == full))?;
        settle(&daemon)?;

        let begun = Instant::now();
        contender.restart(&daemon, &task, &mut processes)?;
        drop(talkers);
        let mut least = kernel_routes(&daemon)?;
        let mut talkers = establish(MOVED)?;
        let newest = std::net::Ipv4Addr::from_bits(u32::from_be_bytes([20, 0, 0, 0]) + ROUTES + MOVED - 1);
        let (mut looked, mut newest_in) = (begun, false);
        converse(&mut talkers, &places, deadline, || {
            if looked.elapsed() < LOOK {
                return Ok(false);
            }
            looked = Instant::now();
            let now = kernel_routes(&daemon)?;
            least = least.min(now);
            if now == full && !newest_in {
                newest_in = !daemon.text(&["ip", "route", "show", &format!("{newest}/32")])?.is_empty();
            }
            Ok(now == full && newest_in)
        })?;
        let wall = begun.elapsed();
        let after = settle(&daemon)?;
        Ok(vec![wall.as_secs_f64(), full.saturating_sub(least) as f64, after.cpu.as_secs_f64()])
    })?;
    finish(contender, processes, lab, values)
}

fn finish(
    contender: Contender,
    processes: Vec<Process>,
    lab: Lab,
    values: Result<Vec<f64>>,
) -> Result<Vec<f64>> {
    let logs: String = processes.iter().map(|process| crate::process::tail(&process.log())).collect();
    drop(processes);
    // Whatever else happens on the machine meanwhile does not unmake the measurement.
    if let Err(error) = lab.finish() {
        eprintln!("{error:#}");
    }
    values.with_context(|| {
        format!(
            "{contender} said:
{logs}"
        )
    })
}
