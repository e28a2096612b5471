//! turnpike-bgpd beside BIRD 2, FRR, OpenBGPD and GoBGP: the same talkers, the same routes, in namespaces.
//!
//! CPU time is the column to trust: it counts every thread of every process of a daemon from the first UPDATE until
//! the daemon is idle again. Wall time depends on who else uses the machine. Runs of the contenders alternate.

mod arena;
mod cases;
mod daemons;
mod routes;
mod talker;
mod trials;
mod usage;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use self::arena::Outcome;
use self::cases::{CASES, Case};
use self::daemons::Contender;
use self::trials::{TRIALS, Trial};
use super::Options;

const QUICK_RUNS: usize = 3;
const FULL_RUNS: usize = 5;
/// Longest time for one run.
const QUICK_DEADLINE: Duration = Duration::from_secs(60);
const FULL_DEADLINE: Duration = Duration::from_secs(600);

/// What is compared: a name, and its value in an outcome.
type Metric = (&'static str, fn(&Outcome) -> Option<f64>);

const METRICS: [Metric; 5] = [
    ("cpu_seconds", |outcome| Some(outcome.cpu.as_secs_f64())),
    ("wall_seconds", |outcome| Some(outcome.wall.as_secs_f64())),
    ("kernel_wall_seconds", |outcome| outcome.kernel.map(|wall| wall.as_secs_f64())),
    ("peak_rss_mib", |outcome| Some(outcome.peak as f64 / f64::from(1 << 20))),
    ("bytes_per_path", |outcome| Some(outcome.per_path)),
];

/// One line for programs.
#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    metric: &'static str,
    ours: f64,
    best_peer: String,
    best_value: f64,
    ratio: f64,
}

type Results = BTreeMap<Contender, Vec<Outcome>>;

pub(super) fn run(options: &Options) -> Result<()> {
    let chosen: Vec<&Case> = CASES.iter().filter(|case| is_chosen(case, options)).collect();
    let trials: Vec<&Trial> = TRIALS.iter().filter(|trial| is_named(trial.name, options)).collect();
    ensure!(!chosen.is_empty() || !trials.is_empty(), "no case of that name; there are: {}", names());
    let mut rows = Vec::new();
    let mut missing = Vec::new();
    println!("\nBGP, medians of {} alternating runs\n", runs(options));
    println!(
        "| case | daemon | CPU s | ratio to best peer | wall s | kernel wall s | peak RSS MiB | B/path |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for case in chosen {
        let results = compare(case, options, &mut missing);
        print(case, &results);
        rows.extend(METRICS.iter().filter_map(|metric| row(case, metric, &results)));
    }
    if !trials.is_empty() {
        println!("\n| case | metric | daemon | value |\n|---|---|---|---|");
    }
    for trial in trials {
        rows.extend(attempt(trial, options, &mut missing));
    }
    for line in &missing {
        println!("\n- {line}");
    }
    if let Some(path) = &options.json {
        save(path, &rows)?;
    }
    let ours = missing.iter().find(|line| line.contains(&Contender::Turnpike.to_string()));
    if let Some(line) = ours {
        bail!("{line}");
    }
    Ok(())
}

fn is_named(name: &str, options: &Options) -> bool {
    options.case.is_empty() || options.case.iter().any(|part| name.contains(part.as_str()))
}

fn is_chosen(case: &Case, options: &Options) -> bool {
    is_named(case.name, options) && (options.full || !case.only_full || !options.case.is_empty())
}

fn names() -> String {
    let names = CASES.iter().map(|case| case.name).chain(TRIALS.iter().map(|trial| trial.name));
    names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

fn runs(options: &Options) -> usize {
    options.runs.unwrap_or(if options.full { FULL_RUNS } else { QUICK_RUNS }).max(1)
}

const LEADING: [Contender; 3] = [Contender::Turnpike, Contender::Bird, Contender::Frr];

/// Who takes part.
fn contenders(options: &Options, kernel: bool, all: bool) -> Vec<Contender> {
    let asked = |contender: &Contender| {
        let name = contender.to_string().to_lowercase();
        options.daemon.is_empty() || options.daemon.iter().any(|part| name.contains(&part.to_lowercase()))
    };
    Contender::ALL
        .into_iter()
        .filter(|contender| contender.can(kernel) && asked(contender))
        .filter(|contender| options.full || all || LEADING.contains(contender))
        .collect()
}

/// Medians of a trial's metrics, daemon by daemon, and our rows.
fn attempt(trial: &Trial, options: &Options, missing: &mut Vec<String>) -> Vec<Row> {
    let deadline = if options.full { FULL_DEADLINE } else { QUICK_DEADLINE };
    let mut taking_part = contenders(options, trial.kernel, false);
    let mut values: BTreeMap<Contender, Vec<Vec<f64>>> = BTreeMap::new();
    for _ in 0..runs(options) {
        taking_part.retain(|contender| match (trial.run)(*contender, deadline) {
            Ok(run) => {
                values.entry(*contender).or_default().push(run);
                true
            }
            Err(error) => {
                missing.push(format!("{contender} in {:?}: {error:#}", trial.name));
                false
            }
        });
    }
    let mut rows = Vec::new();
    for (at, metric) in trial.metrics.iter().enumerate() {
        let of = |contender: &Contender| {
            let mut all: Vec<f64> =
                values.get(contender)?.iter().filter_map(|run| run.get(at).copied()).collect();
            all.sort_unstable_by(f64::total_cmp);
            all.get(all.len() / 2).copied()
        };
        for contender in values.keys() {
            let value = of(contender).unwrap_or_default();
            println!("| {} | {metric} | {contender} | {value:.2} |", trial.name);
        }
        let others = values.keys().filter(|contender| **contender != Contender::Turnpike);
        let best =
            others.filter_map(|peer| Some((peer, of(peer)?))).min_by(|one, other| one.1.total_cmp(&other.1));
        if let (Some(ours), Some((peer, best_value))) = (of(&Contender::Turnpike), best) {
            // Both may be none at all.
            let ratio = if best_value == 0.0 { ours } else { ours / best_value };
            rows.push(Row { case: trial.name, metric, ours, best_peer: peer.to_string(), best_value, ratio });
        }
    }
    rows
}

fn compare(case: &Case, options: &Options, missing: &mut Vec<String>) -> Results {
    let deadline = if options.full { FULL_DEADLINE } else { QUICK_DEADLINE };
    let mut contenders = contenders(options, case.kernel, case.for_all);
    let mut results = Results::new();
    for number in 0..runs(options) {
        contenders.retain(|contender| {
            // The slow ones are there for the order of magnitude.
            if number > 0 && !options.full && !LEADING.contains(contender) {
                return true;
            }
            match arena::run(case, *contender, deadline) {
                Ok(outcome) => {
                    results.entry(*contender).or_default().push(outcome);
                    true
                }
                Err(error) => {
                    missing.push(format!("{contender} in {:?}: {error:#}", case.name));
                    false
                }
            }
        });
    }
    results
}

/// The middle value of a metric.
fn median(outcomes: &[Outcome], (_, value): &Metric) -> Option<f64> {
    let mut values: Vec<f64> = outcomes.iter().filter_map(value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The lowest value among the others.
fn best_peer(results: &Results, metric: &Metric) -> Option<(Contender, f64)> {
    let others = results.iter().filter(|(contender, _)| **contender != Contender::Turnpike);
    let values = others.filter_map(|(contender, outcomes)| Some((*contender, median(outcomes, metric)?)));
    values.min_by(|one, other| one.1.total_cmp(&other.1))
}

fn row(case: &Case, metric: &Metric, results: &Results) -> Option<Row> {
    let ours = median(results.get(&Contender::Turnpike)?, metric)?;
    let (peer, best_value) = best_peer(results, metric)?;
    let best_peer = peer.to_string();
    Some(Row { case: case.name, metric: metric.0, ours, best_peer, best_value, ratio: ours / best_value })
}

fn print(case: &Case, results: &Results) {
    let [cpu, rest @ ..] = &METRICS;
    let best = best_peer(results, cpu).map(|(_, value)| value);
    for (contender, outcomes) in results {
        let cell = |metric: &Metric| {
            let digits = if metric.0.ends_with("seconds") { 2 } else { 0 };
            median(outcomes, metric).map_or_else(|| "".to_owned(), |value| format!("{value:.digits$}"))
        };
        let spent = median(outcomes, cpu).unwrap_or_default();
        let ratio = best.map_or_else(String::new, |best| format!("{:.2}", spent / best));
        let others: Vec<String> = rest.iter().map(cell).collect();
        println!("| {} | {contender} | {spent:.3} | {ratio} | {} |", case.name, others.join(" | "));
    }
}

fn save(path: &Path, rows: &[Row]) -> Result<()> {
    let text = serde_json::to_string_pretty(rows)?;
    fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}
