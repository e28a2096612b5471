//! Graceful restart of peers: the helper's side (RFC 4724 §4.2, RFC 8538 §4).
//!
//! Paths of a peer that is away stay in use until its restart time is over, or until it is back and has sent
//! End-of-RIB. All of it happens before one deadline, the stale time after the peer first left: a peer that restarts
//! again before End-of-RIB keeps its old paths, because nobody gains by dropping what still forwards. (RFC 4724 §4.2
//! has a helper drop them at the second restart, so that stale paths cannot live for ever; the deadline sees to
//! that.)

use std::time::Duration;

use turnpike_bgp_wire::{Families, Family, PerFamily};

use super::Speaker;
use crate::event::SweepReason;
use crate::query::PeerId;
use crate::time::Time;

/// Stale paths of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Helper {
    /// When they go if nothing happens before.
    pub(super) until: Time,
    /// When they go in any case.
    deadline: Time,
    /// Which families have some.
    stale: Families,
    reason: SweepReason,
}

impl Speaker {
    /// The peer has left with a promise for these families.
    pub(super) fn helper_left(&mut self, peer: PeerId, promised: Families, restart_time: Option<Duration>) {
        let latest = self.now + self.config.graceful_restart.stale_time;
        let now = self.now;
        let Some(held) = self.peer_mut(peer) else { return };
        let deadline = held.helper.map_or(latest, |helper| helper.deadline);
        held.helper = (!promised.is_empty()).then(|| Helper {
            until: (now + restart_time.unwrap_or_default()).min(deadline),
            deadline,
            stale: promised,
            reason: SweepReason::RestartTimer,
        });
    }

    /// The peer is back. Families without a promise that forwarding went on lose their stale paths now.
    pub(super) fn helper_returned(&mut self, peer: PeerId, forwarding: Families) {
        let Some(held) = self.peer_mut(peer) else { return };
        let Some(mut helper) = held.helper.take() else { return };
        let lost = PerFamily::from_fn(|family| helper.stale.contains(family) && !forwarding.contains(family));
        helper.stale = helper.stale.and(forwarding);
        helper.until = helper.deadline;
        helper.reason = SweepReason::StaleTimer;
        held.helper = (!helper.stale.is_empty()).then_some(helper);
        for family in lost.members() {
            let count = self.rib.sweep(peer, family);
            self.tell_swept(peer, family, count, SweepReason::NotPreserved);
        }
    }

    /// The peer has sent everything of a family.
    pub(super) fn helper_synced(&mut self, peer: PeerId, family: Family) {
        let Some(held) = self.peer_mut(peer) else { return };
        let Some(helper) = held.helper.as_mut().filter(|helper| helper.stale.contains(family)) else {
            return;
        };
        *helper.stale.get_mut(family) = false;
        if helper.stale.is_empty() {
            held.helper = None;
        }
        let count = self.rib.sweep(peer, family);
        self.tell_swept(peer, family, count, SweepReason::EndOfRib);
    }

    pub(super) fn helper_timeout(&mut self, peer: PeerId) {
        let now = self.now;
        let Some(held) = self.peer_mut(peer) else { return };
        let Some(helper) = held.helper.take_if(|helper| helper.until <= now) else { return };
        let away = held.agreed.is_none();
        for family in helper.stale.members() {
            let count = if away { self.rib.drop_paths(peer, family) } else { self.rib.sweep(peer, family) };
            self.tell_swept(peer, family, count, helper.reason);
        }
    }
}
