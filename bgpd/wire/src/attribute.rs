//! Path attributes (RFC 4271 §5 and later).
//!
//! [`Attributes`] is the part of an UPDATE that many prefixes share: decoded once, compared, hashed and kept by the
//! speaker. The next hop stands beside it, because it belongs to a family. How each attribute looks on the wire,
//! and what a mistake in it costs, is one row of the table in `attribute/rows.rs`.

mod as_path;
mod code;
mod decode;
mod fault;
mod rows;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

pub use as_path::{AsPath, AsPathPattern, ParseAsPathPatternError, Segment, SegmentKind};
pub use code::AttrCode;
pub use fault::{Fault, Problem, Severity};

pub(crate) use decode::{Parsed, parse};
pub(crate) use rows::encode_all;

use crate::{Asn, Community, ExtendedCommunity, LargeCommunity, RouterId};

/// How the origin AS learnt the prefix; better ones first (RFC 4271 §9.1.2.2 b).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Inside the origin AS.
    #[default]
    Igp,
    /// By EGP.
    Egp,
    /// Some other way.
    Incomplete,
}

impl Origin {
    /// The usual word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Origin::Igp => "IGP",
            Origin::Egp => "EGP",
            Origin::Incomplete => "incomplete",
        }
    }
}

/// Where routes were aggregated (RFC 4271 §5.1.7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Aggregator {
    /// Its AS.
    pub asn: Asn,
    /// Its BGP identifier.
    pub router_id: RouterId,
}

/// A next hop as the wire has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address; link-local if it is the only one.
    V6(Ipv6Addr),
    /// A global IPv6 address, and the link-local one of the same router (RFC 2545 §3).
    V6WithLinkLocal(Ipv6Addr, Ipv6Addr),
}

impl NextHop {
    /// The address by which the next hop is known: the global one where there are two.
    pub const fn addr(self) -> IpAddr {
        match self {
            NextHop::V4(addr) => IpAddr::V4(addr),
            NextHop::V6(addr) | NextHop::V6WithLinkLocal(addr, _) => IpAddr::V6(addr),
        }
    }

    /// False for addresses that can never be a router's (RFC 4271 §6.3).
    pub const fn is_plausible(self) -> bool {
        match self.addr() {
            IpAddr::V4(addr) => {
                !(addr.is_unspecified() || addr.is_multicast() || addr.is_broadcast() || addr.is_loopback())
            }
            IpAddr::V6(addr) => !(addr.is_unspecified() || addr.is_multicast() || addr.is_loopback()),
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => NextHop::V4(addr),
            IpAddr::V6(addr) => NextHop::V6(addr),
        }
    }
}

impl fmt::Debug for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NextHop::V6WithLinkLocal(global, local) => write!(f, "{global} ({local})"),
            other => other.addr().fmt(f),
        }
    }
}

/// An optional transitive attribute that we do not know, passed on as it came but with the Partial bit
/// (RFC 4271 §5).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnknownAttribute {
    /// Attribute flags, without the Extended Length bit.
    pub flags: u8,
    /// Attribute type code.
    pub code: u8,
    /// Its value.
    pub value: Box<[u8]>,
}

/// Which known attributes came with the Partial bit, which nobody may clear again (RFC 4271 §5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PartialBits(u8);

impl PartialBits {
    const fn bit(code: AttrCode) -> u8 {
        match code {
            AttrCode::Aggregator => 1,
            AttrCode::Communities => 2,
            AttrCode::ExtendedCommunities => 4,
            AttrCode::LargeCommunities => 8,
            AttrCode::OnlyToCustomer => 16,
            _ => 0,
        }
    }

    /// Notes it for an attribute; without effect on those that are never partial.
    pub const fn set(&mut self, code: AttrCode) {
        self.0 |= Self::bit(code);
    }

    /// True if it was noted for the attribute.
    pub const fn get(self, code: AttrCode) -> bool {
        self.0 & Self::bit(code) != 0
    }
}

/// Everything in an UPDATE that is about the path and not about a prefix or a next hop.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, merged with AS4_PATH.
    pub as_path: AsPath,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// Partial bits of the attributes below.
    pub partial: PartialBits,
    /// AGGREGATOR, merged with AS4_AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES.
    pub communities: Box<[Community]>,
    /// ORIGINATOR_ID.
    pub originator_id: Option<RouterId>,
    /// CLUSTER_LIST, the latest reflector first.
    pub cluster_list: Box<[RouterId]>,
    /// EXTENDED COMMUNITIES.
    pub extended_communities: Box<[ExtendedCommunity]>,
    /// LARGE_COMMUNITIES.
    pub large_communities: Box<[LargeCommunity]>,
    /// OTC, "only to customer": the AS that let the path out to a customer or a peer first (RFC 9234 §5).
    pub otc: Option<Asn>,
    /// Attributes that we do not know but pass on, in the order of their codes.
    pub unknown: Box<[UnknownAttribute]>,
}
