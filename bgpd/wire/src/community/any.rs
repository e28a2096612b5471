//! Communities of any kind, as one list of a policy holds them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Community, ExtendedCommunity, LargeCommunity, ParseCommunityError};

/// A standard, large or extended community; the text tells which.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AnyCommunity {
    /// `asn:value` or a well-known name.
    Standard(Community),
    /// `global:local1:local2`.
    Large(LargeCommunity),
    /// `rt:…:…` or `ro:…:…` or sixteen hexadecimal digits behind `0x`.
    Extended(ExtendedCommunity),
}

impl FromStr for AnyCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(extended) = text.parse() {
            return Ok(AnyCommunity::Extended(extended));
        }
        if let Ok(large) = text.parse() {
            return Ok(AnyCommunity::Large(large));
        }
        text.parse().map(AnyCommunity::Standard).map_err(|_| ParseCommunityError {
            text: text.to_owned(),
            kind: "standard, large or extended",
            form: "asn:value, a well-known name, global:local1:local2, rt:asn:value or ro:asn:value",
        })
    }
}

impl fmt::Display for AnyCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyCommunity::Standard(community) => community.fmt(f),
            AnyCommunity::Large(community) => community.fmt(f),
            AnyCommunity::Extended(community) => fmt::Display::fmt(community, f),
        }
    }
}

impl FromStr for ExtendedCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            if let Some(digits) = text.strip_prefix("0x") {
                let number = u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16)?;
                return Some(ExtendedCommunity(number.to_be_bytes()));
            }
            let (kind, rest) = text.split_once(':')?;
            let sub = match kind {
                "rt" => 2,
                "ro" => 3,
                _ => return None,
            };
            let (global, local) = rest.rsplit_once(':')?;
            Some(ExtendedCommunity(octets(sub, global, local)?))
        };
        parse().ok_or_else(|| ParseCommunityError {
            text: text.to_owned(),
            kind: "extended",
            form: "rt:asn:value, rt:address:value, ro:… likewise, or 0x and sixteen digits",
        })
    }
}

/// RFC 4360 §3 and RFC 5668: two-octet AS, IPv4 address, four-octet AS.
fn octets(sub: u8, global: &str, local: &str) -> Option<[u8; 8]> {
    if let Ok(address) = global.parse::<std::net::Ipv4Addr>() {
        let ([a, b, c, d], [e, f]) = (address.octets(), local.parse::<u16>().ok()?.to_be_bytes());
        return Some([1, sub, a, b, c, d, e, f]);
    }
    if let Ok(asn) = global.parse::<u16>() {
        let ([a, b], [c, d, e, f]) = (asn.to_be_bytes(), local.parse::<u32>().ok()?.to_be_bytes());
        return Some([0, sub, a, b, c, d, e, f]);
    }
    let ([a, b, c, d], [e, f]) =
        (global.parse::<u32>().ok()?.to_be_bytes(), local.parse::<u16>().ok()?.to_be_bytes());
    Some([2, sub, a, b, c, d, e, f])
}

impl Serialize for AnyCommunity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AnyCommunity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ExtendedCommunity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_tells_the_kind() {
        for text in [
            "65001:7",
            "no-export",
            "65001:1:2",
            "rt:65001:7",
            "rt:10.0.0.1:7",
            "ro:70000:7",
            "0x430000000000ffff",
        ] {
            assert_eq!(text.parse::<AnyCommunity>().unwrap().to_string(), text);
        }
        assert!(matches!("rt:65001:7".parse(), Ok(AnyCommunity::Extended(_))));
        assert!(matches!("65001:1:2".parse(), Ok(AnyCommunity::Large(_))));
        for text in ["", "rt:7", "70000:1", "1:2:3:4", "0x12"] {
            assert!(text.parse::<AnyCommunity>().is_err(), "{text}");
        }
    }
}
