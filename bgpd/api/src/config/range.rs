//! Listen ranges: peers that need not be named one by one.

use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::Prefix;

use super::Peer;

/// `[[listen_range]]`: whoever connects from an address of the prefix, and is no peer of its own, becomes a peer for as
/// long as it is there (FRR's `bgp listen range`, BIRD's `neighbor range`).
///
/// In the file the fields of its peers stand beside `prefix` and `limit`, or in a group. A peer is called after the
/// range, as `rack-10.1.2.7`. With a password the kernel asks for it of everybody in the prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenRange {
    /// Addresses that may connect. The longest prefix counts where several fit.
    pub prefix: Prefix,
    /// The most peers at a time; more are turned away.
    #[serde(default = "limit")]
    pub limit: u32,
    /// What its peers are like; the name is a stem and the address means nothing.
    pub peer: Peer,
}

const fn limit() -> u32 {
    128
}
