//! Communities: standard (RFC 1997), extended (RFC 4360) and large (RFC 8092).

mod any;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use any::AnyCommunity;

/// A standard community, written `asn:value` or by its well-known name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// RFC 8326: prefer any other path, this one is about to go.
    pub const GRACEFUL_SHUTDOWN: Community = Community(0xffff_0000);
    /// RFC 9494 §3.2: kept for long after its speaker has gone.
    pub const LLGR_STALE: Community = Community(0xffff_0006);
    /// RFC 9494 §3.3: not to be kept for long.
    pub const NO_LLGR: Community = Community(0xffff_0007);
    /// RFC 7999.
    pub const BLACKHOLE: Community = Community(0xffff_029a);
    /// Not to any external peer (confederations counted as one AS).
    pub const NO_EXPORT: Community = Community(0xffff_ff01);
    /// Not to any peer.
    pub const NO_ADVERTISE: Community = Community(0xffff_ff02);
    /// Not to any external peer, nor across a confederation.
    pub const NO_EXPORT_SUBCONFED: Community = Community(0xffff_ff03);

    /// From its two halves.
    pub const fn new(asn: u16, value: u16) -> Self {
        Community((asn as u32) << 16 | value as u32)
    }
}

const WELL_KNOWN: [(&str, Community); 7] = [
    ("graceful-shutdown", Community::GRACEFUL_SHUTDOWN),
    ("llgr-stale", Community::LLGR_STALE),
    ("no-llgr", Community::NO_LLGR),
    ("blackhole", Community::BLACKHOLE),
    ("no-export", Community::NO_EXPORT),
    ("no-advertise", Community::NO_ADVERTISE),
    ("no-export-subconfed", Community::NO_EXPORT_SUBCONFED),
];

/// An extended community: eight octets, kept as they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl ExtendedCommunity {
    /// The T bit is clear: passed on to other ASes.
    pub const fn is_transitive(self) -> bool {
        self.0[0] & 0x40 == 0
    }
}

/// A large community, written `global:local1:local2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// The AS that gives the other two their meaning.
    pub global: u32,
    /// First value.
    pub local1: u32,
    /// Second value.
    pub local2: u32,
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WELL_KNOWN.iter().find(|(_, value)| value == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

impl fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, sub, a, b, c, d, e, g] = self.0;
        let name = match (kind & 0x3f, sub) {
            (0..=2, 2) => "rt",
            (0..=2, 3) => "ro",
            _ => return write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
        };
        match kind & 0x3f {
            0 => write!(f, "{name}:{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, g])),
            1 => write!(f, "{name}:{a}.{b}.{c}.{d}:{}", u16::from_be_bytes([e, g])),
            _ => write!(f, "{name}:{}:{}", u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, g])),
        }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

/// The text is not a community of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} community ({form})")]
pub struct ParseCommunityError {
    text: String,
    kind: &'static str,
    form: &'static str,
}

impl FromStr for Community {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((_, value)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let parse = || {
            let (asn, value) = text.split_once(':')?;
            Some(Community::new(asn.parse().ok()?, value.parse().ok()?))
        };
        parse().ok_or_else(|| ParseCommunityError {
            text: text.to_owned(),
            kind: "standard",
            form: "asn:value or a well-known name",
        })
    }
}

impl FromStr for LargeCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split(':').map(|part| part.parse().ok());
            let community =
                LargeCommunity { global: parts.next()??, local1: parts.next()??, local2: parts.next()?? };
            parts.next().is_none().then_some(community)
        };
        parse().ok_or_else(|| ParseCommunityError {
            text: text.to_owned(),
            kind: "large",
            form: "global:local1:local2",
        })
    }
}

impl fmt::Debug for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Community {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ExtendedCommunity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for LargeCommunity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Community {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for LargeCommunity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_value_agree() {
        for text in ["65001:100", "no-export", "graceful-shutdown"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        assert_eq!("65001:1:2".parse::<LargeCommunity>().unwrap().to_string(), "65001:1:2");
        assert!("65001:1:2:3".parse::<LargeCommunity>().is_err());
        assert!("70000:1".parse::<Community>().is_err());
        assert_eq!(ExtendedCommunity([0, 2, 0xfd, 0xe9, 0, 0, 0, 7]).to_string(), "rt:65001:7");
    }
}
