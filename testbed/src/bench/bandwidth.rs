//! Our limit on a pod beside the ones that people use: the CNI bandwidth plugin with the runtime's bursts and with sane
//! ones, tbf, htb, and a policer with a bucket of one second.
//!
//! ```text
//!                    ┌─ 10.1.0.0/24 ─ ours     (turnpike-agent)  ─ pod
//!   outside ── wire ─┼─ 10.1.1.0/24 ─ a peer   (routes, limiter) ─ pod
//!   10.1.255.1       └─ …
//! ```
//! `wire` is a router that delays where a case wants a longer way. One transfer at a time, the limiters in turn; the
//! medians count. Peers get a fresh limiter before each transfer, so that their buckets are full.

mod cases;
mod table;
mod traffic;
mod ways;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use self::cases::{Case, chosen};
use self::table::Row;
use self::traffic::{Outcome, Place, Spans, idle_round_trip, transfer};
use self::ways::{Way, build};
use super::{Options, pod};
use crate::{DelayLine, Lab, Node};

const RUNS: usize = 5;
const QUICK: Spans = Spans {
    settled: Duration::from_millis(500),
    first: Duration::from_secs(1),
    whole: Duration::from_millis(1500),
};
const FULL: Spans =
    Spans { settled: Duration::from_secs(1), first: Duration::from_secs(1), whole: Duration::from_secs(4) };
/// A rate that no packet of the CPU measurement waits for, in Mbit/s.
const OUT_OF_REACH: u64 = 10_000;
/// Alternations of that measurement, and runs in each: the least counts, as in `datapath`.
const CPU_ROUNDS: usize = 3;
const CPU_RUNS: usize = 5;
const UDP_PORT: u16 = 9000;

/// All nodes.
struct Bench {
    outside: Node,
    wire: Node,
    ways: Vec<Way>,
}

pub(super) fn run(options: &Options) -> Result<()> {
    let (cases, left_out) = chosen(options)?;
    let runs = options.runs.unwrap_or(RUNS);
    let spans = if options.full { FULL } else { QUICK };
    let lab = Lab::new("bench-bandwidth")?;
    let (outside, wire) = (lab.node("outside")?, lab.node("wire")?);
    let mut ways = build(&lab, &outside, &wire)?;
    ways.retain(|way| way.is_ours() || is_wanted(way, options));
    let mut bench = Bench { outside, wire, ways };
    let mut rows = Vec::new();
    for case in &cases {
        rows.extend(bench.measure(case, runs, spans)?);
    }
    if options.case.is_empty() {
        rows.extend(bench.cpu()?);
    }
    let names: Vec<&str> = bench.ways.iter().map(|way| way.name).collect();
    println!("\nLimits on pods, medians of {runs} alternating transfers of {:?} (ns: least)", spans.whole);
    table::print(&names, &rows);
    table::print_targets(&rows);
    if !left_out.is_empty() {
        println!("\nLeft out, the kernel has no such congestion control: {}", left_out.join("; "));
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&table::comparisons(&names, &rows))? + "\n";
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    drop(bench);
    lab.finish()
}

fn is_wanted(way: &Way, options: &Options) -> bool {
    options.daemon.is_empty() || options.daemon.iter().any(|part| way.name.contains(part))
}

impl Bench {
    fn measure(&mut self, case: &Case, runs: usize, spans: Spans) -> Result<Vec<Row>> {
        eprintln!("{}", case.name());
        let line = match case.delay {
            Duration::ZERO => None,
            delay => Some(self.delay(delay)?),
        };
        let mut outcomes: Vec<Vec<Outcome>> = self.ways.iter().map(|_| Vec::new()).collect();
        let mut idle = Vec::new();
        for way in &mut self.ways {
            way.limit(Some(case.mbit))?;
            way.set_ecn(&self.outside, case.ecn)?;
            let (sender, _, to) = ends(&self.outside, way, case.to_pod);
            idle.push(idle_round_trip(sender, to)?);
        }
        for _ in 0..runs {
            for ((way, outcomes), idle) in self.ways.iter_mut().zip(&mut outcomes).zip(&idle) {
                way.limit(Some(case.mbit))?;
                let (sender, receiver, to) = ends(&self.outside, way, case.to_pod);
                let outcome = transfer(case, sender, receiver, to, spans)
                    .with_context(|| format!("{} through {}", case.name(), way.name))?;
                outcomes.push(outcome.without_idle(*idle));
            }
        }
        if let Some(line) = line {
            line.stop()?;
        }
        Ok(table::rows(case, &outcomes))
    }

    /// A longer way for all, half of it in each direction.
    fn delay(&self, round_trip: Duration) -> Result<DelayLine> {
        let links: Vec<&str> =
            self.ways.iter().map(|way| way.link.as_str()).chain(std::iter::once("outside")).collect();
        DelayLine::start(&self.wire, &links, round_trip / 2)
    }

    /// What a limit adds to the time of a call that sends a small datagram, each way beside itself without a limit.
    fn cpu(&mut self) -> Result<Vec<Row>> {
        eprintln!("CPU");
        let mut rows = Vec::new();
        for to_pod in [true, false] {
            // Without a limit and with one.
            let mut least = vec![[f64::INFINITY; 2]; self.ways.len()];
            for _ in 0..CPU_ROUNDS {
                for (index, limit) in [None, Some(OUT_OF_REACH)].into_iter().enumerate() {
                    self.ways.iter_mut().try_for_each(|way| way.limit(limit))?;
                    for _ in 0..CPU_RUNS {
                        for (way, least) in self.ways.iter().zip(&mut least) {
                            let cost = self.send_cost(way, to_pod)?;
                            least.get_mut(index).into_iter().for_each(|least| *least = least.min(cost));
                        }
                    }
                }
            }
            let added = least.iter().map(|[without, with]| Some(with - without)).collect();
            rows.push(Row::cpu(to_pod, added));
        }
        Ok(rows)
    }

    fn send_cost(&self, way: &Way, to_pod: bool) -> Result<f64> {
        let (sender, receiver, to) = ends(&self.outside, way, to_pod);
        let _sink = receiver.udp((to, UDP_PORT).into())?;
        let socket = sender.udp((std::net::Ipv4Addr::UNSPECIFIED, 0).into())?;
        socket.connect((to, UDP_PORT))?;
        pod::send_cost(&socket)
    }
}

fn ends<'a>(outside: &'a Node, way: &'a Way, to_pod: bool) -> (Place<'a>, Place<'a>, std::net::IpAddr) {
    let (outside, inside) = (Place::Node(outside), Place::Pod(&way.node));
    if to_pod { (outside, inside, way.pod) } else { (inside, outside, ways::OUTSIDE) }
}
