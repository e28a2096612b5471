//! The protocol of turnpike-bfdd's control socket, in the frames of [`crate::encode`].
//!
//! A user of BFD (turnpike-bgpd) declares under its name the whole set of sessions that it wants. From then on its
//! connection carries [`BfdReply::Changed`] whenever one of them changes. Sessions outlive the connection: who comes
//! back and declares the same set finds them as they are.

use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::Prefix;

use crate::frame::{FrameError, read_frame, write_frame};
use crate::message::ErrorReply;

/// Where turnpike-bfdd listens for requests unless configured otherwise.
pub const DEFAULT_BFD_SOCKET: &str = "/run/turnpike/bfdd.sock";

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum BfdRequest {
    /// These are all sessions that `owner` wants: others of the same owner end (AdminDown, then gone), new ones
    /// begin, and those that were there go on undisturbed. [`BfdReply::Declared`], then [`BfdReply::Changed`]s.
    Declare {
        /// Who wants them. A later connection of the same owner takes the place of an earlier one.
        owner: String,
        /// What is wanted; the keys are distinct.
        sessions: Vec<BfdSpec>,
        /// Sessions that an earlier connection of the owner declared, with peers in these prefixes, go on too: it has
        /// just started and does not know yet which of them it wants.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keep: Vec<Prefix>,
    },
    /// All sessions of everyone: [`BfdReply::Sessions`].
    Show,
}

/// Which session is meant: one per key and owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BfdKey {
    /// The other end.
    pub peer: IpAddr,
    /// Our end; the kernel's choice when the session begins unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// The interface to use, and the only one to listen on. Needed for a link-local address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Several hops (RFC 5883, port 4784) instead of one (RFC 5881, port 3784, TTL 255 demanded).
    #[serde(default)]
    pub multihop: bool,
}

/// A session that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BfdSpec {
    /// Which.
    pub key: BfdKey,
    /// How people call it.
    pub name: String,
    /// Least interval between our packets, in microseconds.
    pub min_tx_us: u32,
    /// Least interval between the peer's packets that we take, in microseconds.
    pub min_rx_us: u32,
    /// So many missing packets in a row are a failure; at least 1.
    pub multiplier: u8,
}

/// Answers and news.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum BfdReply {
    /// To [`BfdRequest::Declare`]: the sessions as they are now.
    Declared {
        /// In the order of their keys.
        sessions: Vec<BfdView>,
    },
    /// To [`BfdRequest::Show`].
    Sessions {
        /// In the order of their keys.
        sessions: Vec<BfdView>,
    },
    /// News of a session that this connection declared.
    Changed {
        /// As it is now.
        session: Box<BfdView>,
    },
    /// No.
    Error(ErrorReply),
}

/// Session states (RFC 5880 §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BfdState {
    /// Held down by an administrator: says nothing about the path.
    AdminDown,
    /// Down.
    Down,
    /// The other end is heard and does not know it yet.
    Init,
    /// Up.
    Up,
}

impl std::fmt::Display for BfdState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        })
    }
}

/// A session as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdView {
    /// Which.
    pub key: BfdKey,
    /// How people call it.
    pub name: String,
    /// Who wants it.
    pub owner: String,
    /// The owner's connection is gone; the session ends in so many seconds unless somebody declares it.
    pub orphaned_for: Option<u64>,
    /// Our state.
    pub state: BfdState,
    /// The peer's state as last heard.
    pub remote_state: BfdState,
    /// Why it was last taken down, in the words of RFC 5880 §4.1.
    pub diagnostic: String,
    /// The peer's C bit: its BFD outlives its control plane (RFC 5882 §4.3.2).
    pub remote_independent: bool,
    /// Seconds in the present state.
    pub since: u64,
    /// Times the session left Up.
    pub downs: u64,
    /// Our discriminator.
    pub local_discriminator: u32,
    /// The peer's, once heard.
    pub remote_discriminator: Option<u32>,
    /// Interval between our packets in microseconds, before jitter; `None`: the peer wants none.
    pub tx_interval_us: Option<u64>,
    /// Microseconds of silence that are a failure; `None` while the peer was not heard.
    pub detection_us: Option<u64>,
    /// Packets sent.
    pub packets_out: u64,
    /// Packets received and taken.
    pub packets_in: u64,
    /// What keeps packets from being sent.
    pub problem: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum BfdClientError {
    /// Nobody listens.
    #[error("cannot reach turnpike-bfdd at {socket}: {source}")]
    Unreachable {
        /// The socket's path.
        socket: PathBuf,
        /// What connect said.
        #[source]
        source: io::Error,
    },
    /// bfdd did not answer, or not in a way that is understood.
    #[error("turnpike-bfdd did not answer: {0}")]
    NoAnswer(#[from] FrameError),
    /// The answer belongs to another question.
    #[error("turnpike-bfdd answered something else than was asked")]
    Unexpected,
    /// bfdd says no.
    #[error("{0}")]
    Refused(#[from] ErrorReply),
}

/// Asks bfdd for all sessions. Blocking, for `timeout` at most.
///
/// # Errors
/// See [`BfdClientError`].
pub fn show_bfd(socket: &Path, timeout: Duration) -> Result<Vec<BfdView>, BfdClientError> {
    let connect = || {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(stream)
    };
    let unreachable = |source| BfdClientError::Unreachable { socket: socket.to_owned(), source };
    let stream = connect().map_err(unreachable)?;
    write_frame(&stream, &BfdRequest::Show)?;
    match read_frame(&stream)? {
        BfdReply::Sessions { sessions } => Ok(sessions),
        BfdReply::Error(error) => Err(error.into()),
        _ => Err(BfdClientError::Unexpected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{decode, encode};

    #[test]
    fn a_declaration_survives_the_frame() {
        let key = BfdKey {
            peer: "fe80::1".parse().unwrap(),
            local: None,
            interface: Some("eth0".to_owned()),
            multihop: false,
        };
        let spec =
            BfdSpec { key, name: "tor".to_owned(), min_tx_us: 300_000, min_rx_us: 300_000, multiplier: 3 };
        let keep = vec!["fd00:1::/64".parse().unwrap()];
        let request = BfdRequest::Declare { owner: "turnpike-bgpd".to_owned(), sessions: vec![spec], keep };
        let bytes = encode(&request).unwrap();
        assert_eq!(decode::<BfdRequest>(&bytes[4..]).unwrap(), request);
    }
}
