//! Rates and their history, from counters that are read about once a second.
//!
//! A series keeps one number for each second of the last [`HISTORY_SECONDS`], in kbit/s: 3.6 kB a series, and so
//! 1.8 MB on a node with 250 pods. Nothing here looks at a clock.

mod past;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::Time;

pub use past::Past;

/// How far the history reaches back, in seconds.
pub const HISTORY_SECONDS: usize = 900;
/// The longer of the two windows that people look at, in seconds.
const LONG_WINDOW: usize = 10;

/// What is counted. Links go by their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Series {
    /// What a pod receives, by its host link.
    ToPod(String),
    /// What a pod sends, by its host link.
    FromPod(String),
    /// What leaves through an uplink.
    UplinkOut(String),
    /// What comes in through an uplink.
    UplinkIn(String),
    /// What leaves through an uplink in one class, by the class's number.
    Class(String, u16),
}

/// A counter as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Bytes so far.
    pub bytes: u64,
    /// Which of several counters was read: when that changes, the difference to the last reading means nothing.
    pub counter: u32,
}

/// Rates of many series.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    read_at: Option<Time>,
    tracks: BTreeMap<Series, Track>,
}

#[derive(Debug, Clone)]
struct Track {
    last: Reading,
    /// kbit/s in each second, the latest at the back.
    seconds: VecDeque<u32>,
}

impl Meter {
    /// Takes in all counters, read at `now`, best in order. A series that is not among them is forgotten.
    pub fn record(&mut self, now: Time, mut readings: Vec<(Series, Reading)>) {
        let elapsed = self.read_at.map(|then| now.saturating_sub(then)).filter(|elapsed| !elapsed.is_zero());
        // Both are in order, so that each series is met once: this goes on every second, whatever the node does.
        readings.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut readings = readings.into_iter().peekable();
        let mut fresh = Vec::new();
        self.tracks.retain(|series, track| {
            while let Some(reading) = readings.next_if(|(read, _)| read < series) {
                fresh.push(reading);
            }
            let Some((_, reading)) = readings.next_if(|(read, _)| read == series) else { return false };
            if let Some(elapsed) = elapsed {
                track.advance(reading, elapsed);
            }
            track.last = reading;
            true
        });
        let fresh = fresh.into_iter().chain(readings);
        self.tracks.extend(fresh.map(|(series, last)| (series, Track { last, seconds: VecDeque::new() })));
        self.read_at = Some(now);
    }

    /// When the counters were read last.
    #[must_use]
    pub fn read_at(&self) -> Option<Time> {
        self.read_at
    }

    /// Bits per second over the last second and over the last ten; `None` before there are two readings.
    #[must_use]
    pub fn rates(&self, series: &Series) -> Option<(u64, u64)> {
        let seconds = &self.tracks.get(series)?.seconds;
        let latest = *seconds.back()?;
        let count = seconds.len().min(LONG_WINDOW);
        let sum: u64 = seconds.iter().rev().take(count).copied().map(u64::from).sum();
        Some((u64::from(latest) * 1000, sum * 1000 / u64::try_from(count).unwrap_or(1).max(1)))
    }

    /// Bits per second in each second, the latest first; shorter than the history for a young series.
    pub fn history(&self, series: &Series) -> impl Iterator<Item = u64> + '_ {
        let seconds = self.tracks.get(series).map(|track| track.seconds.iter());
        seconds.into_iter().flatten().rev().map(|kbits| u64::from(*kbits) * 1000)
    }

    /// Seconds that the longest series reaches back.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.tracks.values().map(|track| track.seconds.len()).max().unwrap_or(0)
    }
}

impl Track {
    fn advance(&mut self, reading: Reading, elapsed: Time) {
        if reading.counter != self.last.counter {
            return;
        }
        // A link that was made anew counts from zero.
        let bytes = reading.bytes.checked_sub(self.last.bytes).unwrap_or(reading.bytes);
        let kbits = u128::from(bytes) * 8 * 1_000_000 / elapsed.as_nanos().max(1);
        let kbits = u32::try_from(kbits).unwrap_or(u32::MAX);
        // A late reading stands for every second that it covers.
        let covered =
            usize::try_from(elapsed.as_millis().saturating_add(500) / 1000).unwrap_or(HISTORY_SECONDS);
        for _ in 0..covered.clamp(1, HISTORY_SECONDS) {
            if self.seconds.len() == HISTORY_SECONDS {
                self.seconds.pop_front();
            }
            self.seconds.push_back(kbits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Series {
        Series::ToPod("tpk1".to_owned())
    }

    fn read(meter: &mut Meter, ms: u64, bytes: u64, counter: u32) {
        meter.record(Time::from_millis(ms), vec![(pod(), Reading { bytes, counter })]);
    }

    #[test]
    fn rates_are_of_the_last_second_and_of_the_last_ten() {
        let mut meter = Meter::default();
        read(&mut meter, 0, 1000, 0);
        assert_eq!(meter.rates(&pod()), None);
        for second in 1..=9 {
            read(&mut meter, second * 1000, 1000, 0);
        }
        read(&mut meter, 10_000, 1000 + 1_250_000, 0);
        assert_eq!(meter.rates(&pod()), Some((10_000_000, 1_000_000)));
        assert_eq!(meter.history(&pod()).take(2).collect::<Vec<_>>(), [10_000_000, 0]);
    }

    #[test]
    fn a_late_reading_fills_the_seconds_it_covers() {
        let mut meter = Meter::default();
        read(&mut meter, 0, 0, 0);
        read(&mut meter, 2900, 362_500, 0);
        assert_eq!(meter.history(&pod()).collect::<Vec<_>>(), [1_000_000; 3]);
    }

    #[test]
    fn another_counter_and_a_link_made_anew_make_no_peak() {
        let mut meter = Meter::default();
        read(&mut meter, 0, 1_000_000_000, 0);
        read(&mut meter, 1000, 5, 1);
        assert_eq!(meter.rates(&pod()), None);
        read(&mut meter, 2000, 125, 1);
        assert_eq!(meter.rates(&pod()), Some((0, 0)), "less than a kilobit");
        read(&mut meter, 3000, 125, 1);
        read(&mut meter, 4000, 0, 1);
        assert_eq!(meter.rates(&pod()), Some((0, 0)));
    }

    #[test]
    fn the_history_is_bounded_and_ends_with_its_series() {
        let mut meter = Meter::default();
        for second in 0..2000 {
            read(&mut meter, second * 1000, second, 0);
        }
        assert_eq!(meter.depth(), HISTORY_SECONDS);
        meter.record(Time::from_secs(2001), Vec::new());
        assert_eq!(meter.depth(), 0);
    }

    #[test]
    fn series_come_and_go_beside_others() {
        let mut meter = Meter::default();
        let series = |name: &str| Series::FromPod(name.to_owned());
        let mut read = |second: u64, names: &[&str]| {
            let reading = Reading { bytes: second * 125_000, counter: 0 };
            meter.record(Time::from_secs(second), names.iter().map(|name| (series(name), reading)).collect());
            ["a", "b", "c", "d"].map(|name| meter.history(&series(name)).count())
        };
        assert_eq!(read(1, &["d", "b"]), [0; 4]);
        assert_eq!(read(2, &["b", "c", "d", "a"]), [0, 1, 0, 1]);
        assert_eq!(read(3, &["a", "c", "d"]), [1, 0, 1, 2]);
        assert_eq!(read(4, &["c", "b", "a"]), [2, 0, 2, 0]);
    }
}
