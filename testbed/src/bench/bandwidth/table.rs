//! Figures of all limiters side by side, and which of our targets they meet.

use super::super::rows::Comparison;
use super::cases::Case;
use super::traffic::{Outcome, median};

/// One line: a case, a figure, and its value for each way.
#[derive(Debug)]
pub(super) struct Row {
    case: String,
    metric: &'static str,
    values: Vec<Option<f64>>,
    target: Option<Target>,
}

/// What we promise ourselves.
#[derive(Debug, Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

type Figure = fn(&Outcome) -> Option<f64>;

const GOODPUT: &str = "goodput, % of possible";
const FIRST: &str = "first second, % of possible";
const AGAIN: &str = "retransmitted, %";
const QUEUE: &str = "ping added p50, ms";
const JAIN: &str = "Jain";
const CPU: &str = "added ns a packet";

const FIGURES: [(&str, Figure); 5] = [
    (GOODPUT, |outcome| Some(outcome.goodput)),
    (FIRST, |outcome| Some(outcome.first)),
    (AGAIN, |outcome| outcome.again),
    (QUEUE, |outcome| outcome.ping),
    (JAIN, |outcome| outcome.jain),
];

/// The medians of a case.
pub(super) fn rows(case: &Case, outcomes: &[Vec<Outcome>]) -> Vec<Row> {
    let row = |(metric, figure): (&'static str, Figure)| {
        let of = |outcomes: &Vec<Outcome>| median(outcomes.iter().filter_map(figure).collect());
        let values: Vec<_> = outcomes.iter().map(of).collect();
        let some = values.iter().any(Option::is_some);
        some.then(|| Row { case: case.name(), metric, values, target: target(case, metric) })
    };
    FIGURES.into_iter().filter_map(row).collect()
}

impl Row {
    /// Nanoseconds that a limit adds to a packet.
    pub(super) fn cpu(to_pod: bool, values: Vec<Option<f64>>) -> Self {
        let way = if to_pod { "to" } else { "from" };
        let case = format!("UDP 64 B far below the limit, {way} pod");
        Self { case, metric: CPU, values, target: Some(Target::AtMost(350.0)) }
    }
}

fn target(case: &Case, metric: &str) -> Option<Target> {
    let far = !case.delay.is_zero();
    Some(match metric {
        GOODPUT => Target::AtLeast(if far { 97.0 } else { 99.0 }),
        FIRST => Target::AtMost(105.0),
        AGAIN => Target::AtMost(if case.ecn { 0.0 } else { 0.5 }),
        QUEUE if case.mbit >= 100 => Target::AtMost(3.0),
        JAIN => Target::AtLeast(0.98),
        _ => return None,
    })
}

pub(super) fn print(ways: &[&str], rows: &[Row]) {
    println!("\n| case | figure | {} |", ways.join(" | "));
    println!("|---|---|{}", "---|".repeat(ways.len()));
    let mut before = "";
    for Row { case, metric, values, .. } in rows {
        let name = if case == before { "" } else { case };
        let values: Vec<String> = values.iter().map(|value| cell(metric, *value)).collect();
        println!("| {name} | {metric} | {} |", values.join(" | "));
        before = case;
    }
}

fn cell(metric: &str, value: Option<f64>) -> String {
    let Some(value) = value else { return "–".to_owned() };
    match metric {
        JAIN => format!("{value:.3}"),
        AGAIN => format!("{value:.2}"),
        CPU => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

pub(super) fn print_targets(rows: &[Row]) {
    let aimed = || rows.iter().filter_map(|row| Some((row, row.target?, *row.values.first()?)));
    let missed: Vec<_> =
        aimed().filter(|(_, target, ours)| !ours.is_some_and(|ours| target.is_met(ours))).collect();
    println!("\n{} of {} targets met", aimed().count() - missed.len(), aimed().count());
    if !missed.is_empty() {
        println!("Missed:");
    }
    for (row, target, ours) in missed {
        println!("- {}: {} is {}, target {target}", row.case, row.metric, cell(row.metric, ours));
    }
}

/// The same for programs: ours beside each peer.
pub(super) fn comparisons(ways: &[&str], rows: &[Row]) -> Vec<Comparison> {
    let mut all = Vec::new();
    for row in rows {
        let [Some(ours), peers @ ..] = row.values.as_slice() else { continue };
        for (peer, value) in ways.iter().skip(1).zip(peers) {
            all.extend(value.map(|value| Comparison::new(&row.case, row.metric, *ours, peer, value)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_at_its_edge_and_missed_beyond() {
        assert!(Target::AtLeast(99.0).is_met(99.0) && !Target::AtLeast(99.0).is_met(98.9));
        assert!(Target::AtMost(0.0).is_met(0.0) && !Target::AtMost(0.0).is_met(0.01));
    }

    #[test]
    fn programs_get_ours_beside_each_peer_that_has_a_value() {
        let row = Row::cpu(true, vec![Some(2.0), Some(4.0), None]);
        let rows = comparisons(&["ours", "tbf", "htb"], &[row]);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].peer.as_str(), rows[0].ratio), ("tbf", 0.5));
    }
}
