//! Prefixes as operators write them.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An IPv4 or IPv6 prefix without host bits: `10.244.0.0/16`, `fd00:244::/48`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNetwork);

/// Text that is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not of the form address/length.
    #[error("`{0}` is not a prefix; write it as address/length, like 10.244.0.0/16 or fd00:244::/48")]
    Malformed(String),
    /// Bits are set behind the prefix length.
    #[error("`{given}` has bits set behind its prefix length; write `{meant}`")]
    HostBits {
        /// As written.
        given: String,
        /// With the bits cleared.
        meant: IpNetwork,
    },
}

impl Cidr {
    /// The prefix.
    #[must_use]
    pub fn network(self) -> IpNetwork {
        self.0
    }

    /// Prefix length in bits.
    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.0.prefix()
    }

    /// True for IPv6.
    #[must_use]
    pub fn is_ipv6(self) -> bool {
        self.0.is_ipv6()
    }

    /// True when every address of `inner` is one of ours.
    #[must_use]
    pub fn contains(self, inner: Self) -> bool {
        self.prefix_len() <= inner.prefix_len() && self.0.contains(inner.0.ip())
    }

    /// True when the two share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// True when `address` lies inside.
    #[must_use]
    pub fn holds(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }
}

impl From<Cidr> for IpNetwork {
    fn from(cidr: Cidr) -> Self {
        cidr.0
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || CidrError::Malformed(text.to_owned());
        if !text.contains('/') {
            return Err(malformed());
        }
        let given: IpNetwork = text.parse().map_err(|_| malformed())?;
        let meant = IpNetwork::new(given.network(), given.prefix()).map_err(|_| malformed())?;
        if given.ip() != meant.ip() {
            return Err(CidrError::HostBits { given: text.to_owned(), meant });
        }
        Ok(Self(meant))
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "An IPv4 or IPv6 prefix without host bits, like 10.244.0.0/16 or fd00:244::/48.",
            "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_refused_with_the_prefix_that_was_meant() {
        let error = "10.244.0.5/16".parse::<Cidr>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`10.244.0.5/16` has bits set behind its prefix length; write `10.244.0.0/16`"
        );
    }

    #[test]
    fn an_address_without_length_is_no_prefix() {
        assert!(matches!("10.0.0.1".parse::<Cidr>(), Err(CidrError::Malformed(_))));
        assert!(matches!("10.0.0.0/33".parse::<Cidr>(), Err(CidrError::Malformed(_))));
        assert!(matches!("".parse::<Cidr>(), Err(CidrError::Malformed(_))));
    }

    #[test]
    fn containment_and_overlap_keep_families_apart() {
        let pool: Cidr = "10.244.0.0/16".parse().unwrap();
        let block: Cidr = "10.244.3.0/26".parse().unwrap();
        let v6: Cidr = "::/0".parse().unwrap();
        assert!(pool.contains(block) && !block.contains(pool));
        assert!(block.overlaps(pool) && pool.overlaps(block));
        assert!(!v6.overlaps(pool) && !pool.overlaps(v6));
    }
}
