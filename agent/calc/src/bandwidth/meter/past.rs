//! A meter as a later run of the agent finds it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{HISTORY_SECONDS, Meter, Reading, Series, Track};
use crate::Time;

/// Rates in kbit/s, and for how many seconds each of them.
type Runs = Vec<(u32, u16)>;

/// What a meter knows, equal seconds together: a pod at rest takes next to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    read_at: Time,
    tracks: Vec<(Series, Reading, Runs)>,
}

impl Meter {
    /// What there is to remember; `None` before the first reading.
    #[must_use]
    pub fn past(&self) -> Option<Past> {
        let tracks =
            self.tracks.iter().map(|(series, track)| (series.clone(), track.last, runs(&track.seconds)));
        Some(Past { read_at: self.read_at?, tracks: tracks.collect() })
    }

    /// A meter that goes on from there. The next reading stands for all seconds in between; what is older than the
    /// history, or from the future, is forgotten.
    #[must_use]
    pub fn resume(past: Past, now: Time) -> Self {
        let age = now.checked_sub(past.read_at).map(|age| age.as_secs());
        if age.is_none_or(|age| age >= HISTORY_SECONDS as u64) {
            return Self::default();
        }
        let track = |(series, last, runs): (Series, Reading, Runs)| {
            let seconds = runs.into_iter().flat_map(|(kbits, times)| (0..times).map(move |_| kbits));
            (series, Track { last, seconds: seconds.take(HISTORY_SECONDS).collect() })
        };
        Self { read_at: Some(past.read_at), tracks: past.tracks.into_iter().map(track).collect() }
    }
}

/// Each rate, and how often it follows itself.
fn runs(seconds: &VecDeque<u32>) -> Runs {
    let mut runs = Runs::new();
    for kbits in seconds {
        match runs.last_mut() {
            Some((last, times)) if last == kbits => *times = times.saturating_add(1),
            _ => runs.push((*kbits, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(meter: &mut Meter, second: u64, bytes: u64) {
        let series = Series::ToPod("tpk1".to_owned());
        meter.record(Time::from_secs(second), vec![(series, Reading { bytes, counter: 0 })]);
    }

    #[test]
    fn a_later_run_goes_on_where_the_last_one_was() {
        let mut meter = Meter::default();
        assert_eq!(meter.past(), None);
        for (second, bytes) in [(10, 0), (11, 125_000), (12, 125_000), (13, 125_000)] {
            read(&mut meter, second, bytes);
        }
        let text = serde_json::to_string(&meter.past()).unwrap();
        let past: Option<Past> = serde_json::from_str(&text).unwrap();
        let mut meter = Meter::resume(past.unwrap(), Time::from_secs(16));
        read(&mut meter, 17, 625_000);
        let history: Vec<u64> = meter.history(&Series::ToPod("tpk1".to_owned())).collect();
        assert_eq!(history, [1_000_000, 1_000_000, 1_000_000, 1_000_000, 0, 0, 1_000_000]);
    }

    #[test]
    fn what_is_too_old_or_not_yet_is_forgotten() {
        let mut meter = Meter::default();
        read(&mut meter, 1000, 0);
        read(&mut meter, 1001, 1);
        let past = meter.past().unwrap();
        for now in [1000, 1001 + HISTORY_SECONDS as u64] {
            assert_eq!(Meter::resume(past.clone(), Time::from_secs(now)).depth(), 0, "{now}");
        }
        assert_eq!(Meter::resume(past, Time::from_secs(1900)).depth(), 1);
    }

    #[test]
    fn a_file_that_claims_more_than_there_can_be_is_cut() {
        let track =
            (Series::UplinkIn("eth0".to_owned()), Reading { bytes: 0, counter: 0 }, vec![(7, u16::MAX); 9]);
        let past = Past { read_at: Time::ZERO, tracks: vec![track] };
        assert_eq!(Meter::resume(past, Time::ZERO).depth(), HISTORY_SECONDS);
    }
}
