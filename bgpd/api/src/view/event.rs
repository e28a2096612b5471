//! What happened, as it happens.

use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::Prefix;

use super::PathView;

/// One happening.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Seconds since 1970, UTC.
    pub time: u64,
    /// For people.
    pub text: String,
    /// For programs.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Kinds of happenings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// A session or the speaker; the fields of the daemon's own event stand in `data`.
    Speaker {
        /// As the daemon has it, with `event` for its kind and `name` for the peer.
        data: serde_json::Value,
    },
    /// A destination's best path may have changed.
    Best {
        /// Which.
        prefix: Prefix,
        /// The best path now; `None`: there is none.
        path: Option<Box<PathView>>,
    },
    /// Somebody changed the configuration.
    Change {
        /// What: `apply`, `announce` and so on.
        what: String,
    },
    /// The watcher was too slow.
    Missed {
        /// So many events are not told.
        count: u64,
    },
}
