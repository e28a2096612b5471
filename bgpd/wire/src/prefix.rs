//! IP prefixes, canonical (no host bits set) by construction.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Family;

/// An IPv4 prefix without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix4 {
    bits: u32,
    len: u8,
}

/// An IPv6 prefix without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix6 {
    bits: [u8; 16],
    len: u8,
}

impl Prefix4 {
    /// The default route.
    pub const DEFAULT: Prefix4 = Prefix4 { bits: 0, len: 0 };

    /// Clears the host bits of `bits`; `None` if `len` is above 32.
    pub const fn new(bits: u32, len: u8) -> Option<Self> {
        if len > 32 {
            return None;
        }
        Some(Self { bits: bits & mask32(len), len })
    }

    /// The network address as a number.
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// The prefix length.
    pub const fn prefix_len(self) -> u8 {
        self.len
    }

    /// The network address.
    pub const fn addr(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.bits)
    }
}

impl Prefix6 {
    /// The default route.
    pub const DEFAULT: Prefix6 = Prefix6 { bits: [0; 16], len: 0 };

    /// Clears the host bits of `bits`; `None` if `len` is above 128.
    pub const fn new(bits: u128, len: u8) -> Option<Self> {
        if len > 128 {
            return None;
        }
        Some(Self { bits: (bits & mask128(len)).to_be_bytes(), len })
    }

    /// The network address as a number.
    pub const fn bits(self) -> u128 {
        u128::from_be_bytes(self.bits)
    }

    /// The prefix length.
    pub const fn prefix_len(self) -> u8 {
        self.len
    }

    /// The network address.
    pub const fn addr(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from_be_bytes(self.bits))
    }
}

const fn mask32(len: u8) -> u32 {
    match len {
        0 => 0,
        len => u32::MAX << (32 - len as u32),
    }
}

const fn mask128(len: u8) -> u128 {
    match len {
        0 => 0,
        len => u128::MAX << (128 - len as u32),
    }
}

/// A prefix of either family without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prefix {
    /// IPv4.
    V4(Prefix4),
    /// IPv6.
    V6(Prefix6),
}

impl Prefix {
    /// Clears the host bits of `addr`; `None` if `len` is too long for its family.
    pub const fn new(addr: IpAddr, len: u8) -> Option<Self> {
        match addr {
            IpAddr::V4(addr) => match Prefix4::new(addr.to_bits(), len) {
                Some(prefix) => Some(Prefix::V4(prefix)),
                None => None,
            },
            IpAddr::V6(addr) => match Prefix6::new(addr.to_bits(), len) {
                Some(prefix) => Some(Prefix::V6(prefix)),
                None => None,
            },
        }
    }

    /// The prefix that holds `addr` alone.
    pub const fn host(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Prefix::V4(Prefix4 { bits: addr.to_bits(), len: 32 }),
            IpAddr::V6(addr) => Prefix::V6(Prefix6 { bits: addr.octets(), len: 128 }),
        }
    }

    /// The address family.
    pub const fn family(self) -> Family {
        match self {
            Prefix::V4(_) => Family::Ipv4,
            Prefix::V6(_) => Family::Ipv6,
        }
    }

    /// The network address.
    pub const fn addr(self) -> IpAddr {
        match self {
            Prefix::V4(prefix) => IpAddr::V4(prefix.addr()),
            Prefix::V6(prefix) => IpAddr::V6(prefix.addr()),
        }
    }

    /// The prefix length.
    pub const fn prefix_len(self) -> u8 {
        match self {
            Prefix::V4(prefix) => prefix.len,
            Prefix::V6(prefix) => prefix.len,
        }
    }

    /// True if `other` is this prefix or lies inside it; never across families.
    pub const fn covers(self, other: Prefix) -> bool {
        match (self, other) {
            (Prefix::V4(a), Prefix::V4(b)) => a.len <= b.len && a.bits == b.bits & mask32(a.len),
            (Prefix::V6(a), Prefix::V6(b)) => a.len <= b.len && a.bits() == b.bits() & mask128(a.len),
            _ => false,
        }
    }

    /// True if `addr` lies inside.
    pub const fn contains(self, addr: IpAddr) -> bool {
        self.covers(Prefix::host(addr))
    }
}

impl From<Prefix4> for Prefix {
    fn from(prefix: Prefix4) -> Self {
        Prefix::V4(prefix)
    }
}

impl From<Prefix6> for Prefix {
    fn from(prefix: Prefix6) -> Self {
        Prefix::V6(prefix)
    }
}

impl From<IpNetwork> for Prefix {
    fn from(net: IpNetwork) -> Self {
        match net {
            IpNetwork::V4(net) => {
                Prefix::V4(Prefix4 { bits: net.ip().to_bits() & mask32(net.prefix()), len: net.prefix() })
            }
            IpNetwork::V6(net) => Prefix::V6(Prefix6 {
                bits: (net.ip().to_bits() & mask128(net.prefix())).to_be_bytes(),
                len: net.prefix(),
            }),
        }
    }
}

impl From<Prefix> for IpNetwork {
    fn from(prefix: Prefix) -> Self {
        match prefix {
            Prefix::V4(prefix) => IpNetwork::V4(
                Ipv4Network::new_checked(prefix.addr(), prefix.len)
                    .unwrap_or_else(|| Ipv4Network::from(prefix.addr())),
            ),
            Prefix::V6(prefix) => IpNetwork::V6(
                Ipv6Network::new_checked(prefix.addr(), prefix.len)
                    .unwrap_or_else(|| Ipv6Network::from(prefix.addr())),
            ),
        }
    }
}

/// The text is not `address/length`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePrefixError {
    /// No such form, or a length that the family does not have.
    #[error("`{0}` is not a prefix (address/length)")]
    Syntax(String),
    /// Set bits after the prefix length: most likely a typing error.
    #[error("`{text}` has host bits set; the prefix is {canonical}")]
    HostBits {
        /// What was given.
        text: String,
        /// The same without host bits.
        canonical: Prefix,
    },
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || ParsePrefixError::Syntax(text.to_owned());
        let (addr, len) = text.split_once('/').ok_or_else(syntax)?;
        let addr: IpAddr = addr.parse().map_err(|_| syntax())?;
        let len: u8 = len.parse().map_err(|_| syntax())?;
        let prefix = Prefix::new(addr, len).ok_or_else(syntax)?;
        if prefix.addr() != addr {
            return Err(ParsePrefixError::HostBits { text: text.to_owned(), canonical: prefix });
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr(), self.len)
    }
}

impl fmt::Display for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr(), self.len)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prefix::V4(prefix) => prefix.fmt(f),
            Prefix::V6(prefix) => prefix.fmt(f),
        }
    }
}

impl fmt::Debug for Prefix4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl prefix_trie::Prefix for Prefix4 {
    type R = u32;

    fn repr(&self) -> u32 {
        self.bits
    }

    fn prefix_len(&self) -> u8 {
        self.len
    }

    fn from_repr_len(repr: u32, len: u8) -> Self {
        let len = len.min(32);
        Self { bits: repr & mask32(len), len }
    }
}

impl prefix_trie::Prefix for Prefix6 {
    type R = u128;

    fn repr(&self) -> u128 {
        self.bits()
    }

    fn prefix_len(&self) -> u8 {
        self.len
    }

    fn from_repr_len(repr: u128, len: u8) -> Self {
        let len = len.min(128);
        Self { bits: (repr & mask128(len)).to_be_bytes(), len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_value_agree() {
        for text in ["0.0.0.0/0", "10.244.1.0/26", "192.0.2.1/32", "::/0", "fd00:244::/48", "2001:db8::1/128"]
        {
            let prefix: Prefix = text.parse().unwrap();
            assert_eq!(prefix.to_string(), text);
            assert_eq!(Prefix::from(IpNetwork::from(prefix)), prefix);
        }
    }

    #[test]
    fn host_bits_are_refused_in_text_and_named() {
        let error = "10.0.0.1/8".parse::<Prefix>().unwrap_err();
        assert_eq!(error.to_string(), "`10.0.0.1/8` has host bits set; the prefix is 10.0.0.0/8");
        assert!("10.0.0.0/33".parse::<Prefix>().is_err());
        assert!("10.0.0.0".parse::<Prefix>().is_err());
    }

    #[test]
    fn covering_is_inclusive_and_stays_in_the_family() {
        let pool: Prefix = "10.244.0.0/16".parse().unwrap();
        assert!(pool.covers(pool));
        assert!(pool.covers("10.244.3.64/26".parse().unwrap()));
        assert!(!pool.covers("10.0.0.0/8".parse().unwrap()));
        assert!(!"0.0.0.0/0".parse::<Prefix>().unwrap().covers("::/0".parse().unwrap()));
        assert!(pool.contains("10.244.255.255".parse().unwrap()));
    }
}
