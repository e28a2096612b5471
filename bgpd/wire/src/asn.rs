//! Autonomous system numbers and BGP identifiers.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An autonomous system number, always four octets inside (RFC 6793).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Asn(pub u32);

impl Asn {
    /// Stands for a four-octet number where only two octets fit (RFC 6793 §9).
    pub const TRANS: Asn = Asn(23456);

    /// The two-octet form, or AS_TRANS where the number does not fit.
    pub fn as_u16_or_trans(self) -> u16 {
        u16::try_from(self.0).unwrap_or(23456)
    }

    /// Private-use numbers (RFC 6996).
    pub fn is_private(self) -> bool {
        matches!(self.0, 64512..=65534 | 4_200_000_000..=4_294_967_294)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u32> for Asn {
    fn from(value: u32) -> Self {
        Asn(value)
    }
}

/// The text is not an AS number, neither plain nor dotted (RFC 5396).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an AS number")]
pub struct ParseAsnError(String);

impl FromStr for Asn {
    type Err = ParseAsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseAsnError(text.to_owned());
        let Some((high, low)) = text.split_once('.') else {
            return text.parse().map(Asn).map_err(|_| bad());
        };
        let high: u16 = high.parse().map_err(|_| bad())?;
        let low: u16 = low.parse().map_err(|_| bad())?;
        Ok(Asn(u32::from(high) << 16 | u32::from(low)))
    }
}

/// A BGP identifier (router id): four octets, not zero (RFC 6286), written like an IPv4 address.
///
/// Also the type of a CLUSTER_ID (RFC 4456 §7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RouterId(pub Ipv4Addr);

impl RouterId {
    /// From the number on the wire.
    pub const fn from_u32(value: u32) -> Self {
        RouterId(Ipv4Addr::from_bits(value))
    }

    /// The number on the wire; identifiers are compared as this number (RFC 4271 §6.8).
    pub const fn to_u32(self) -> u32 {
        self.0.to_bits()
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Ipv4Addr> for RouterId {
    fn from(value: Ipv4Addr) -> Self {
        RouterId(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_numbers_parse_plain_and_dotted() {
        assert_eq!("65001".parse(), Ok(Asn(65001)));
        assert_eq!("1.10".parse(), Ok(Asn(65546)));
        assert!("1.70000".parse::<Asn>().is_err());
        assert!("x".parse::<Asn>().is_err());
        assert_eq!(Asn(70000).as_u16_or_trans(), 23456);
    }
}
