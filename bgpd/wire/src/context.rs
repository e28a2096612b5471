//! What a session agreed on, as far as messages look different for it.

use serde::{Deserialize, Serialize};

use crate::{Families, MAX_MESSAGE};

/// How to read a peer's UPDATEs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DecodeContext {
    /// The peer is in our AS.
    pub internal: bool,
    /// AS numbers have four octets (both sides announced RFC 6793).
    pub four_octet_as: bool,
    /// Families in force.
    pub families: Families,
    /// Families whose NLRI carry path identifiers (RFC 7911).
    pub add_path: Families,
    /// IPv4 paths may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
}

/// How to write UPDATEs for a peer. Peers with equal contexts can share encoded messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EncodeContext {
    /// AS numbers have four octets.
    pub four_octet_as: bool,
    /// IPv4 NLRI carry path identifiers.
    pub add_path_ipv4: bool,
    /// IPv6 NLRI carry path identifiers.
    pub add_path_ipv6: bool,
    /// Longest message, header included.
    pub max_message: u16,
}

impl EncodeContext {
    /// True if NLRI of the family carry path identifiers.
    pub const fn add_path(&self, family: crate::Family) -> bool {
        match family {
            crate::Family::Ipv4 => self.add_path_ipv4,
            crate::Family::Ipv6 => self.add_path_ipv6,
        }
    }
}

impl Default for EncodeContext {
    fn default() -> Self {
        Self { four_octet_as: true, add_path_ipv4: false, add_path_ipv6: false, max_message: MAX_MESSAGE }
    }
}
