//! Do the agent's loops turn? Each leaves a stamp with every round; `/healthz` fails when one stands still. Nothing
//! here depends on others: not on peers, gateways, the source, nor on how well a round went.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// A loop that must turn while the agent lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loop {
    /// The data plane's thread: it applies at least every half minute.
    Dataplane,
    /// The keeper: spool, vanished links, heartbeat.
    Keeper,
    /// Looks at gateways.
    Gateways,
    /// Counters of bandwidth.
    Bandwidth,
}

impl Loop {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Dataplane, "dataplane"),
        (Self::Keeper, "keeper"),
        (Self::Gateways, "gateways"),
        (Self::Bandwidth, "bandwidth"),
    ];
}

/// A loop that has not turned for so long stands still: many times the longest interval (30 s), so that a slow disk
/// or a machine under load is not taken for it. Whoever asks restarts the agent, which hurts no pod.
const STANDS_STILL: Duration = Duration::from_secs(300);

/// When each loop turned last.
#[derive(Debug)]
pub(crate) struct Progress {
    turned: Mutex<[Instant; Loop::ALL.len()]>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { turned: Mutex::new([Instant::now(); Loop::ALL.len()]) }
    }
}

impl Progress {
    /// A round is done.
    pub(crate) fn turned(&self, which: Loop) {
        let mut turned = self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, (one, _)) in turned.iter_mut().zip(Loop::ALL) {
            if one == which {
                *place = Instant::now();
            }
        }
    }

    /// Age of each loop's latest round.
    pub(crate) fn ages(&self) -> Vec<(&'static str, Duration)> {
        let turned = self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        turned.iter().zip(Loop::ALL).map(|(at, (_, name))| (name, at.elapsed())).collect()
    }

    /// All loops turn; and a line for each.
    pub(crate) fn report(&self) -> (bool, String) {
        words(&self.ages())
    }
}

fn words(ages: &[(&'static str, Duration)]) -> (bool, String) {
    let alive = ages.iter().all(|(_, age)| *age < STANDS_STILL);
    let head = if alive {
        "ok\n"
    } else {
        "a part of the agent stands still: restart it, pods keep their network\n"
    };
    let lines = ages.iter().map(|(name, age)| {
        let state = if *age < STANDS_STILL { "turns" } else { "STANDS STILL" };
        format!("{name}: {state}, latest round {} s ago\n", age.as_secs())
    });
    (alive, head.to_owned() + &lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_is_named() {
        let young = Duration::from_secs(2);
        assert_eq!(
            words(&[("keeper", young)]),
            (true, "ok\nkeeper: turns, latest round 2 s ago\n".to_owned())
        );
        let (alive, text) = words(&[("keeper", young), ("dataplane", STANDS_STILL)]);
        assert!(!alive && text.contains("dataplane: STANDS STILL"), "{text}");
    }
}
