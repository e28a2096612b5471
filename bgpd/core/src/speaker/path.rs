//! Paths to peers as something else watches them: BFD (RFC 5882 §4).
//!
//! A failure while the session is Established ends it at once, and its paths go: graceful restart is for control
//! planes that are away, not for paths that do not forward. A failure while the peer restarts ends the restart only
//! if the watcher does not share fate with a control plane (§4.3.2.2); else it may be a symptom of the restart
//! (§4.3.2.1).

use std::net::IpAddr;

use turnpike_bgp_wire::Cease;

use super::Speaker;
use crate::input::PathState;
use crate::query::PeerId;
use crate::session::Session;

impl Speaker {
    pub(super) fn path(&mut self, remote: IpAddr, path: PathState) {
        let Some(peer) = self.by_address.get(&remote).copied() else { return };
        match path {
            PathState::Open => self.on_session(peer, Session::release),
            PathState::Awaited => self.on_session(peer, |session, _| session.hold()),
            PathState::Failed { independent } => self.path_failed(peer, independent),
        }
    }

    fn path_failed(&mut self, peer: PeerId, independent: bool) {
        let restarting =
            self.peer_ref(peer).is_some_and(|held| held.agreed.is_none() && held.helper.is_some());
        // RFC 9384; as a hard reset where the peer would otherwise keep our paths (RFC 8538).
        let farewell = Self::cease(Cease::BfdDown);
        self.on_session(peer, |session, context| {
            session.hold();
            session.stop(&farewell, true, context);
        });
        if independent || !restarting {
            self.forget_stale(peer);
            self.on_session(peer, |_, _| {});
        }
    }
}
