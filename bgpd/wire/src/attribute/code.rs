//! Attribute type codes.

use std::fmt;

/// The type of a path attribute.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AttrCode {
    /// 1, RFC 4271.
    Origin,
    /// 2, RFC 4271.
    AsPath,
    /// 3, RFC 4271.
    NextHop,
    /// 4, RFC 4271.
    MultiExitDisc,
    /// 5, RFC 4271.
    LocalPref,
    /// 6, RFC 4271.
    AtomicAggregate,
    /// 7, RFC 4271.
    Aggregator,
    /// 8, RFC 1997.
    Communities,
    /// 9, RFC 4456.
    OriginatorId,
    /// 10, RFC 4456.
    ClusterList,
    /// 14, RFC 4760.
    MpReach,
    /// 15, RFC 4760.
    MpUnreach,
    /// 16, RFC 4360.
    ExtendedCommunities,
    /// 17, RFC 6793.
    As4Path,
    /// 18, RFC 6793.
    As4Aggregator,
    /// 32, RFC 8092.
    LargeCommunities,
    /// 35, RFC 9234.
    OnlyToCustomer,
    /// Any other.
    Unknown(u8),
}

/// Code, number and name of each known attribute.
const NAMES: [(AttrCode, u8, &str); 17] = [
    (AttrCode::Origin, 1, "ORIGIN"),
    (AttrCode::AsPath, 2, "AS_PATH"),
    (AttrCode::NextHop, 3, "NEXT_HOP"),
    (AttrCode::MultiExitDisc, 4, "MULTI_EXIT_DISC"),
    (AttrCode::LocalPref, 5, "LOCAL_PREF"),
    (AttrCode::AtomicAggregate, 6, "ATOMIC_AGGREGATE"),
    (AttrCode::Aggregator, 7, "AGGREGATOR"),
    (AttrCode::Communities, 8, "COMMUNITIES"),
    (AttrCode::OriginatorId, 9, "ORIGINATOR_ID"),
    (AttrCode::ClusterList, 10, "CLUSTER_LIST"),
    (AttrCode::MpReach, 14, "MP_REACH_NLRI"),
    (AttrCode::MpUnreach, 15, "MP_UNREACH_NLRI"),
    (AttrCode::ExtendedCommunities, 16, "EXTENDED COMMUNITIES"),
    (AttrCode::As4Path, 17, "AS4_PATH"),
    (AttrCode::As4Aggregator, 18, "AS4_AGGREGATOR"),
    (AttrCode::LargeCommunities, 32, "LARGE_COMMUNITY"),
    (AttrCode::OnlyToCustomer, 35, "ONLY_TO_CUSTOMER"),
];

impl AttrCode {
    /// From the octet on the wire.
    pub fn from_u8(code: u8) -> Self {
        match NAMES.iter().find(|(_, number, _)| *number == code) {
            Some((known, ..)) => *known,
            None => AttrCode::Unknown(code),
        }
    }

    /// The octet on the wire.
    pub fn as_u8(self) -> u8 {
        match self {
            AttrCode::Unknown(code) => code,
            known => NAMES.iter().find(|(name, ..)| *name == known).map_or(0, |(_, number, _)| *number),
        }
    }
}

impl fmt::Display for AttrCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(code, ..)| code == self) {
            Some((_, _, name)) => f.write_str(name),
            None => write!(f, "attribute {}", self.as_u8()),
        }
    }
}
