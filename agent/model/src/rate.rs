//! Bandwidth as Kubernetes writes it: quantities of bits per second.
//!
//! `10M` is 10 000 000 bit/s, `10Mi` 10 485 760, `1.5G`, `1e9` and `100000k` are what they look like. A fraction of
//! a bit rounds up, as in Kubernetes. Bounds are 1k and 1P, as the kubelet's own.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::desired::BitsPerSecond;

/// The smallest limit: 1 kbit/s.
pub const MIN: BitsPerSecond = BitsPerSecond(1_000);
/// The largest limit: 1 Pbit/s.
pub const MAX: BitsPerSecond = BitsPerSecond(1_000_000_000_000_000);

/// Longest text that is looked at, in bytes.
const MAX_TEXT: usize = 64;

/// A limit within [`MIN`] and [`MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(BitsPerSecond);

/// Text or a number that is no usable rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// Not a Kubernetes quantity.
    #[error("`{0}` is not a rate; write bits per second as a quantity, like 100M, 1.5G or 10Mi")]
    Malformed(String),
    /// Nearly one: a unit that is not one here, with what was probably meant.
    #[error("`{text}` is not a rate: {remedy}")]
    Slip {
        /// As written.
        text: String,
        /// What to write.
        remedy: String,
    },
    /// Outside 1k…1P.
    #[error("`{0}` is outside of 1k to 1P bits per second")]
    OutOfBounds(String),
}

impl Rate {
    /// A rate from a plain number of bits per second.
    ///
    /// # Errors
    /// The number is outside of the bounds.
    pub fn new(bits: u64) -> Result<Self, RateError> {
        let rate = BitsPerSecond(bits);
        if (MIN..=MAX).contains(&rate) {
            Ok(Self(rate))
        } else {
            Err(RateError::OutOfBounds(bits.to_string()))
        }
    }

    /// The rate as the data plane wants it.
    #[must_use]
    pub fn bits(self) -> BitsPerSecond {
        self.0
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let slip = || slip(text.trim()).map(|remedy| RateError::Slip { text: shorten(text), remedy });
        let bits = parse_quantity(text.trim())
            .ok_or_else(|| slip().unwrap_or_else(|| RateError::Malformed(shorten(text))))?;
        u64::try_from(bits)
            .ok()
            .and_then(|bits| Self::new(bits).ok())
            .ok_or_else(|| slip().unwrap_or_else(|| RateError::OutOfBounds(shorten(text))))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_bits(self.0, f)
    }
}

/// Writes a rate with the largest decimal suffix that loses nothing: `100M`, `1500k`.
fn format_bits(rate: BitsPerSecond, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut value = rate.0;
    let mut suffix = "";
    for next in ["k", "M", "G", "T", "P"] {
        if value == 0 || !value.is_multiple_of(1000) {
            break;
        }
        value /= 1000;
        suffix = next;
    }
    write!(f, "{value}{suffix}")
}

impl fmt::Display for BitsPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_bits(*self, f)
    }
}

/// What to write instead, where a known slip was made.
fn slip(text: &str) -> Option<String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = text.strip_suffix(unit).filter(|number| !number.is_empty() && text.len() <= MAX_TEXT)?;
    let unit = unit.trim();
    if unit == "m" {
        return Some(format!("`m` is milli, a thousandth; write {number}M for megabits"));
    }
    let prefix: String = unit.chars().take(1).collect();
    let prefix = if prefix == "K" { "k".to_owned() } else { prefix };
    let known = ["k", "M", "G", "T"].contains(&prefix.as_str());
    match unit.get(1..)? {
        "" if unit == "K" => Some(format!("kilo is a small k; write {number}k")),
        "B" | "B/s" | "Byte" | "Bytes" if known => {
            let bits = number.parse::<f64>().ok()? * 8.0;
            Some(format!("rates are bits per second; write {bits}{prefix} for {number} {prefix}B/s"))
        }
        "bit" | "bit/s" | "bits" | "bps" | "b" | "b/s" if known => {
            Some(format!("bits per second need no unit; write {number}{prefix}"))
        }
        _ => None,
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// A power of ten, or a power of two in steps of 1024.
enum Scale {
    Ten(i32),
    Kibi(u32),
}

/// The value of a non-negative quantity, rounded up; `None` when it is none (or beyond 128 bits).
fn parse_quantity(text: &str) -> Option<u128> {
    if text.is_empty() || text.len() > MAX_TEXT {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let mantissa: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let places = i32::try_from(fraction.len()).ok()?;
    match parse_suffix(suffix)? {
        Scale::Ten(power) => scale_by_ten(mantissa, power - places),
        Scale::Kibi(steps) => scale_by_ten(mantissa.checked_mul(1024_u128.checked_pow(steps)?)?, -places),
    }
}

fn scale_by_ten(value: u128, power: i32) -> Option<u128> {
    let factor = 10_u128.checked_pow(power.unsigned_abs());
    match (power >= 0, factor) {
        (true, Some(factor)) => value.checked_mul(factor),
        (true, None) => (value == 0).then_some(0),
        (false, Some(factor)) => Some(value.div_ceil(factor)),
        (false, None) => Some(u128::from(value > 0)),
    }
}

fn parse_suffix(suffix: &str) -> Option<Scale> {
    let scale = match suffix {
        "n" => Scale::Ten(-9),
        "u" => Scale::Ten(-6),
        "m" => Scale::Ten(-3),
        "" => Scale::Ten(0),
        "k" => Scale::Ten(3),
        "M" => Scale::Ten(6),
        "G" => Scale::Ten(9),
        "T" => Scale::Ten(12),
        "P" => Scale::Ten(15),
        "E" => Scale::Ten(18),
        "Ki" => Scale::Kibi(1),
        "Mi" => Scale::Kibi(2),
        "Gi" => Scale::Kibi(3),
        "Ti" => Scale::Kibi(4),
        "Pi" => Scale::Kibi(5),
        "Ei" => Scale::Kibi(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            Scale::Ten(exponent.parse().ok()?)
        }
    };
    Some(scale)
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    /// From a string; YAML's plain `100000000` arrives as a string too where the format knows what is wanted.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Rate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate in bits per second, like 100M, 1.5G or 10Mi")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Rate, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bits: u64) -> Result<Rate, E> {
                Rate::new(bits).map_err(E::custom)
            }

            /// YAML reads `1e9` as a float; its text is a quantity all the same.
            fn visit_f64<E: de::Error>(self, bits: f64) -> Result<Rate, E> {
                self.visit_str(&bits.to_string())
            }

            fn visit_i64<E: de::Error>(self, bits: i64) -> Result<Rate, E> {
                let bits =
                    u64::try_from(bits).map_err(|_| E::custom(RateError::OutOfBounds(bits.to_string())))?;
                self.visit_u64(bits)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "description": "Bits per second as a Kubernetes quantity (100M, 1.5G, 10Mi), from 1k to 1P, counted on Ethernet frames.",
            "pattern": "^[+]?[0-9.]+([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(text: &str) -> u64 {
        text.parse::<Rate>().unwrap().bits().0
    }

    #[test]
    fn quantities_mean_what_kubernetes_says() {
        assert_eq!(bits("100M"), 100_000_000);
        assert_eq!(bits("10Mi"), 10_485_760);
        assert_eq!(bits("1.5G"), 1_500_000_000);
        assert_eq!(bits("100000k"), 100_000_000);
        assert_eq!(bits("1e9"), 1_000_000_000);
        assert_eq!(bits("1E+3"), 1000);
        assert_eq!(bits("10000000"), 10_000_000);
        assert_eq!(bits(" 1k "), 1000);
        assert_eq!(bits("1P"), 1_000_000_000_000_000);
        assert_eq!(bits("1000000m"), 1000);
        assert_eq!(bits("1000000.5m"), 1001, "a fraction of a bit rounds up");
        assert_eq!(bits("0.5Gi"), 536_870_912);
    }

    #[test]
    fn bounds_are_1k_and_1p() {
        for text in ["999", "0", "1.1P", "1E", "4Ei", "1e30", "99999999999999999999999999999999"] {
            assert!(matches!(text.parse::<Rate>(), Err(RateError::OutOfBounds(_))), "{text}");
        }
    }

    #[test]
    fn nonsense_is_malformed() {
        for text in ["", "M", ".", "1.2.3M", "-5M", "10 M", "1e", "1e+", "0x10", "1e9999", "ten"] {
            assert!(matches!(text.parse::<Rate>(), Err(RateError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn slips_are_refused_with_what_was_meant() {
        for (text, remedy) in [
            ("1m", "`m` is milli, a thousandth; write 1M for megabits"),
            ("10MB", "rates are bits per second; write 80M for 10 MB/s"),
            ("1.5GB/s", "rates are bits per second; write 12G for 1.5 GB/s"),
            ("10Mbit", "bits per second need no unit; write 10M"),
            ("10 Mbps", "bits per second need no unit; write 10M"),
            ("10K", "kilo is a small k; write 10k"),
        ] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.ends_with(remedy), "{text}: {error}");
        }
    }

    #[test]
    fn display_reads_back() {
        for text in ["100M", "1500k", "1G", "1001"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
    }
}
