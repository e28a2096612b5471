//! Several paths of one prefix (RFC 7911).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use turnpike_bgp_wire::Family;

/// `add_path` of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddPath {
    /// Take several paths of a prefix from the peer. Equal ones share the traffic (`[multipath]`).
    pub receive: bool,
    /// Which paths the peer is told: `best`, `all` that may be used, or a number: so many of the best. A path that came
    /// from the peer itself counts, though it is not told it.
    pub send: SendPaths,
    /// Only for these of the peer's families; for all unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub families: Option<Vec<Family>>,
}

impl AddPath {
    /// True if it is about the family.
    #[must_use]
    pub fn covers(&self, family: Family) -> bool {
        self.families.as_ref().is_none_or(|families| families.contains(&family))
    }
}

/// Which paths of a prefix a peer is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SendPaths {
    /// The best.
    #[default]
    Best,
    /// Every one that may be used.
    All,
    /// So many at most, the best first.
    Most(u16),
}

impl Serialize for SendPaths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Best => serializer.serialize_str("best"),
            Self::All => serializer.serialize_str("all"),
            Self::Most(most) => serializer.serialize_u16(*most),
        }
    }
}

impl<'de> Deserialize<'de> for SendPaths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = SendPaths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`best`, `all`, or how many paths (1 to 65535)")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<SendPaths, E> {
                let unsigned = u64::try_from(value)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))?;
                self.visit_u64(unsigned)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<SendPaths, E> {
                match u16::try_from(value) {
                    Ok(most) if most != 0 => Ok(SendPaths::Most(most)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<SendPaths, E> {
                match value {
                    "best" => Ok(SendPaths::Best),
                    "all" => Ok(SendPaths::All),
                    _ => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read_and_written_alike() {
        for (text, send) in [
            ("send = \"best\"", SendPaths::Best),
            ("send = \"all\"", SendPaths::All),
            ("send = 4", SendPaths::Most(4)),
        ] {
            let read: AddPath = toml::from_str(text).unwrap();
            assert_eq!(read.send, send);
            assert_eq!(toml::from_str::<AddPath>(&toml::to_string(&read).unwrap()).unwrap(), read);
        }
        for text in ["send = 0", "send = -1", "send = 70000", "send = \"some\""] {
            let error = toml::from_str::<AddPath>(text).unwrap_err().to_string();
            assert!(error.contains("`best`, `all`, or how many paths"), "{error}");
        }
    }
}
