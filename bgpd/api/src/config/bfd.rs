//! BFD.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bfd::DEFAULT_BFD_SOCKET;

/// `[bfd]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BfdDaemon {
    /// Control socket of turnpike-bfdd, which keeps the sessions.
    pub socket: PathBuf,
}

impl Default for BfdDaemon {
    fn default() -> Self {
        Self { socket: PathBuf::from(DEFAULT_BFD_SOCKET) }
    }
}

/// `bfd = { … }` of a peer: a BFD session beside the BGP session (RFC 5882).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bfd {
    /// Milliseconds between packets that we want, in either direction; at least 10.
    pub interval_ms: u32,
    /// So many missing packets in a row are a failure.
    pub multiplier: u8,
    /// Several hops (RFC 5883) or one (RFC 5881). Unless given: one for external peers with TTL 1 and for GTSM peers
    /// at one hop, several for others, as in BIRD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multihop: Option<bool>,
    /// No BGP session before the BFD session is Up. Otherwise BFD matters only once it has been Up.
    pub strict: bool,
}

impl Default for Bfd {
    fn default() -> Self {
        Self { interval_ms: 300, multiplier: 3, multihop: None, strict: false }
    }
}
