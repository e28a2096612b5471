//! How much may pass at once: a time of the pod's limit, so that it goes with the limit when that is lowered.
//!
//! `20ms` of 100 Mbit/s are 250 kB. Bytes and bits are refused: Kubernetes and CNI disagree about them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The smallest: 1 ms.
const MIN_US: u32 = 1_000;
/// The largest: a second.
const MAX_US: u32 = 1_000_000;
/// Of a pod that asks for none.
const DEFAULT_US: u32 = 10_000;

/// A time between 1 ms and 1 s; 10 ms by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Burst(u32);

/// Text that is no burst.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BurstError {
    /// Not a number and a unit of time.
    #[error("`{0}` is not a burst: it is a time of the limit, not bytes; write 20ms")]
    Malformed(String),
    /// Outside 1ms…1s.
    #[error("`{0}` is outside of 1ms to 1s")]
    OutOfBounds(String),
}

impl Burst {
    /// What a pod may ask for where no `NodeBandwidth` says otherwise: 5 % over the limit in the first second.
    pub const USUAL_MAX: Self = Self(50_000);

    /// As a time.
    #[must_use]
    pub const fn time(self) -> Duration {
        Duration::from_micros(self.0 as u64)
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self(DEFAULT_US)
    }
}

impl FromStr for Burst {
    type Err = BurstError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(32).collect::<String>();
        let malformed = || BurstError::Malformed(shown());
        let text = text.trim();
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = text.strip_suffix(unit).unwrap_or_default();
        let scale: u64 = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            _ => return Err(malformed()),
        };
        let number: u64 = number.parse().map_err(|_| malformed())?;
        let us = u32::try_from(number.saturating_mul(scale)).unwrap_or(u32::MAX);
        if (MIN_US..=MAX_US).contains(&us) { Ok(Self(us)) } else { Err(BurstError::OutOfBounds(shown())) }
    }
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us if us.is_multiple_of(1_000_000) => write!(f, "{}s", us / 1_000_000),
            us if us.is_multiple_of(1_000) => write!(f, "{}ms", us / 1_000),
            us => write!(f, "{us}us"),
        }
    }
}

impl Serialize for Burst {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Burst {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Burst {
    fn schema_name() -> Cow<'static, str> {
        "Burst".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]+(us|ms|s)$",
            "description": "A time of the limit, 1ms to 1s, like 20ms.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown_as_they_are_written() {
        for text in ["1ms", "20ms", "1500us", "1s"] {
            assert_eq!(text.parse::<Burst>().unwrap().to_string(), text);
        }
        assert_eq!(Burst::default().to_string(), "10ms");
        assert_eq!("20ms".parse::<Burst>().unwrap().time(), Duration::from_millis(20));
    }

    #[test]
    fn bytes_and_bits_are_refused_with_the_remedy() {
        for text in ["", "10", "10M", "1MiB", "-5ms", "1.5ms", "5m", "ms"] {
            let error = text.parse::<Burst>().unwrap_err();
            assert!(error.to_string().contains("write 20ms"), "{error}");
        }
        for text in ["999us", "2s", "99999999999999s"] {
            assert_eq!(text.parse::<Burst>(), Err(BurstError::OutOfBounds(text.to_owned())));
        }
    }
}
