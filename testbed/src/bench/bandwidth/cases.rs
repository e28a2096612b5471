//! The cases: a rate, what flows, which way, how far.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::Options;

/// What sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    Cubic,
    Bbr,
    /// A fifth more than the limit, whatever becomes of it.
    Udp,
}

impl Traffic {
    const ALL: [Self; 3] = [Self::Cubic, Self::Bbr, Self::Udp];

    /// As people and the kernel call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
            Self::Udp => "UDP",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    /// The limit.
    pub(super) mbit: u64,
    pub(super) flows: usize,
    pub(super) traffic: Traffic,
    /// Both ends ask for ECN.
    pub(super) ecn: bool,
    /// Added to the round trip.
    pub(super) delay: Duration,
    pub(super) to_pod: bool,
}

const FAR: Duration = Duration::from_millis(20);
/// The highest rate. Where no limiter gets there, it is the machine that does not.
const TOP_MBIT: u64 = 10_000;

/// Each rate, traffic, distance, direction, number of flows and ECN setting at least once.
const QUICK: [Case; 5] = [
    Case { mbit: 100, flows: 1, traffic: Traffic::Cubic, ecn: true, delay: Duration::ZERO, to_pod: true },
    Case { mbit: 100, flows: 8, traffic: Traffic::Cubic, ecn: false, delay: Duration::ZERO, to_pod: true },
    Case { mbit: 1000, flows: 8, traffic: Traffic::Cubic, ecn: true, delay: Duration::ZERO, to_pod: false },
    Case { mbit: 100, flows: 1, traffic: Traffic::Bbr, ecn: false, delay: FAR, to_pod: true },
    Case { mbit: 10, flows: 1, traffic: Traffic::Cubic, ecn: true, delay: FAR, to_pod: false },
];

impl Case {
    pub(super) fn name(&self) -> String {
        let Self { mbit, flows, .. } = self;
        let ecn = match self.traffic {
            Traffic::Udp => "",
            _ if self.ecn => ", ECN",
            _ => ", no ECN",
        };
        let far = if self.delay.is_zero() { "0.1" } else { "20" };
        let way = if self.to_pod { "to" } else { "from" };
        let traffic = self.traffic.name();
        format!("{mbit} Mbit, {flows} {traffic}{ecn}, {far} ms, {way} pod")
    }
}

/// The cases that the options ask for, and names of those that this kernel cannot run.
pub(super) fn chosen(options: &Options) -> Result<(Vec<Case>, Vec<String>)> {
    let mut cases = if options.full || !options.case.is_empty() { all() } else { QUICK.to_vec() };
    let wanted = |case: &Case| options.case.iter().any(|part| case.name().contains(part));
    cases.retain(|case| options.case.is_empty() || wanted(case));
    ensure!(!cases.is_empty(), "no case of that name; one is {:?}", all().first().map(Case::name));
    let known = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")?;
    let runs = |case: &Case| {
        case.traffic == Traffic::Udp || known.split_whitespace().any(|name| name == case.traffic.name())
    };
    let (possible, left_out): (Vec<_>, Vec<_>) = cases.into_iter().partition(runs);
    Ok((possible, left_out.iter().map(Case::name).collect()))
}

fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for mbit in [10, 100, 1000, TOP_MBIT] {
        for (traffic, flows) in Traffic::ALL.into_iter().flat_map(|traffic| [(traffic, 1), (traffic, 8)]) {
            for (ecn, delay) in [(true, Duration::ZERO), (false, Duration::ZERO), (true, FAR), (false, FAR)] {
                // Nothing of these changes what UDP does.
                if traffic == Traffic::Udp && (ecn || !delay.is_zero()) {
                    continue;
                }
                // No delay line forwards so much, and no sender of datagrams sends it.
                if mbit == TOP_MBIT && (traffic == Traffic::Udp || !delay.is_zero()) {
                    continue;
                }
                for to_pod in [true, false] {
                    cases.push(Case { mbit, flows, traffic, ecn, delay, to_pod });
                }
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_the_quick_ones_are_among_all() {
        let names: BTreeSet<String> = all().iter().map(Case::name).collect();
        assert_eq!((names.len(), all().len()), (124, 124));
        assert!(QUICK.iter().all(|case| names.contains(&case.name())));
        assert!(names.contains("100 Mbit, 1 cubic, ECN, 0.1 ms, to pod"));
    }
}
