//! The timers of one session, as rows of a table.

use crate::time::Time;

/// The rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// Next attempt to connect, or the end of the one under way.
    ConnectRetry,
    /// End of the rest after an error.
    Rest,
    /// Nothing heard on the first connection.
    Hold0,
    /// Nothing heard on the second connection.
    Hold1,
    /// KEEPALIVE due on the first connection.
    Keepalive0,
    /// KEEPALIVE due on the second connection.
    Keepalive1,
    /// The peer does not read (RFC 9687).
    SendHold,
}

const ALL: [Timer; 7] = [
    Timer::ConnectRetry,
    Timer::Rest,
    Timer::Hold0,
    Timer::Hold1,
    Timer::Keepalive0,
    Timer::Keepalive1,
    Timer::SendHold,
];

impl Timer {
    pub(super) const fn hold(slot: usize) -> Timer {
        if slot == 0 { Timer::Hold0 } else { Timer::Hold1 }
    }

    pub(super) const fn keepalive(slot: usize) -> Timer {
        if slot == 0 { Timer::Keepalive0 } else { Timer::Keepalive1 }
    }
}

/// When each timer fires.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers([Option<Time>; ALL.len()]);

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Time) {
        if let Some(row) = self.0.get_mut(timer as usize) {
            *row = Some(at);
        }
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some(row) = self.0.get_mut(timer as usize) {
            *row = None;
        }
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.0.get(timer as usize).is_some_and(Option::is_some)
    }

    /// The earliest.
    pub(super) fn next(&self) -> Option<Time> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes one that has expired off the table, the earliest first.
    pub(super) fn pop_expired(&mut self, now: Time) -> Option<Timer> {
        let expired = ALL.into_iter().zip(&mut self.0).filter(|(_, row)| row.is_some_and(|at| at <= now));
        let (timer, row) = expired.min_by_key(|(_, row)| **row)?;
        *row = None;
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timers_fire_in_the_order_of_their_moments() {
        let at = |seconds| Time::START + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(Timer::Hold0, at(3));
        timers.set(Timer::Keepalive0, at(1));
        timers.set(Timer::SendHold, at(9));
        assert_eq!(timers.next(), Some(at(1)));
        assert_eq!(timers.pop_expired(at(5)), Some(Timer::Keepalive0));
        assert_eq!(timers.pop_expired(at(5)), Some(Timer::Hold0));
        assert_eq!(timers.pop_expired(at(5)), None);
        assert_eq!(timers.next(), Some(at(9)));
    }
}
