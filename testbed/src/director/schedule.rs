//! Which real server gets the next session: smooth weighted round robin.
//!
//! Every server gains its weight at each turn, the richest is chosen and pays the sum of all weights. Over
//! any (sum of weights) turns each server is chosen exactly (weight) times, without bursts, and equal weights
//! are plain round robin.

use std::net::SocketAddr;

use super::config::Real;

/// The servers of one service with what they have gained.
#[derive(Debug)]
pub(super) struct Scheduler {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    real: Real,
    credit: i64,
}

impl Scheduler {
    pub(super) fn new(reals: &[Real]) -> Self {
        Self { entries: reals.iter().map(|&real| Entry { real, credit: 0 }).collect() }
    }

    /// The next server, or `None` when there is none with a weight.
    pub(super) fn next(&mut self) -> Option<SocketAddr> {
        let mut total = 0;
        let mut best: Option<&mut Entry> = None;
        for entry in self.entries.iter_mut().filter(|entry| entry.real.weight > 0) {
            let weight = i64::from(entry.real.weight);
            total += weight;
            entry.credit += weight;
            if best.as_ref().is_none_or(|best| entry.credit > best.credit) {
                best = Some(entry);
            }
        }
        let chosen = best?;
        chosen.credit -= total;
        Some(chosen.real.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(weights: &[u32], turns: usize) -> Vec<u16> {
        let reals: Vec<Real> = weights
            .iter()
            .zip(1..)
            .map(|(&weight, port)| Real { address: SocketAddr::from(([10, 0, 0, 1], port)), weight })
            .collect();
        let mut scheduler = Scheduler::new(&reals);
        (0..turns).filter_map(|_| scheduler.next()).map(|real| real.port()).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(picks(&[1, 1, 1], 6), [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn weights_are_shares_and_are_spread() {
        assert_eq!(picks(&[5, 1, 1], 7), [1, 1, 2, 1, 3, 1, 1]);
    }

    #[test]
    fn a_server_of_weight_zero_gets_nothing() {
        assert_eq!(picks(&[0, 2, 0], 3), [2, 2, 2]);
        assert!(picks(&[0, 0], 3).is_empty());
        assert!(picks(&[], 3).is_empty());
    }
}
