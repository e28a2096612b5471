//! One connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use turnpike_bgp_wire::Framer;

use super::negotiate::{Negotiated, PeerGraceful};
use crate::event::DownReason;
use crate::input::ConnId;
use crate::query::SessionState;

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

impl Phase {
    pub(super) const fn state(self) -> SessionState {
        match self {
            Phase::Connecting => SessionState::Connect,
            Phase::OpenSent => SessionState::OpenSent,
            Phase::OpenConfirm => SessionState::OpenConfirm,
            Phase::Established => SessionState::Established,
        }
    }
}

/// A TCP connection with the peer, or an attempt at one.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) phase: Phase,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(super) framer: Framer,
    /// Since the peer's OPEN.
    pub(crate) negotiated: Option<Box<Negotiated>>,
    /// Bytes handed to the shell that have not left yet.
    pub(crate) unsent: usize,
    /// Our OPEN as it went out.
    pub(super) sent_open: Bytes,
}

impl Connection {
    pub(super) fn connecting(id: ConnId, remote: SocketAddr) -> Self {
        let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self { phase: Phase::Connecting, ..Self::connected(id, local, remote) }
    }

    pub(super) fn connected(id: ConnId, local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            id,
            phase: Phase::OpenSent,
            local,
            remote,
            framer: Framer::new(),
            negotiated: None,
            unsent: 0,
            sent_open: Bytes::new(),
        }
    }

    /// The hold time in force, if there is one.
    pub(super) fn hold_time(&self) -> Option<Duration> {
        self.negotiated.as_ref().map(|negotiated| negotiated.hold_time).filter(|hold| !hold.is_zero())
    }

    /// What the peer promised about its restarts, where we are willing to help.
    pub(super) fn graceful(&self) -> Option<&PeerGraceful> {
        self.negotiated.as_ref()?.graceful.as_ref()
    }

    /// Whether the end of the session for `reason` keeps the peer's paths.
    pub(super) fn keeps_paths(&self, reason: &DownReason) -> bool {
        let Some(graceful) = self.graceful() else { return false };
        match reason {
            // RFC 4724 §4.2: the TCP session ended without a NOTIFICATION.
            DownReason::Transport(_) | DownReason::Replaced | DownReason::Restarting => true,
            // RFC 8538 §4: any NOTIFICATION but a hard reset, which `Ended` stands for.
            DownReason::Sent(_) | DownReason::Received(_) => graceful.notification,
            DownReason::Ended(_) => false,
        }
    }
}
