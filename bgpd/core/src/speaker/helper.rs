//! Graceful restart of peers: the helper's side (RFC 4724 §4.2, RFC 8538 §4, RFC 9494 §4.2).
//!
//! Paths of a peer that is away stay in use until its restart time is over, or until it is back and has sent
//! End-of-RIB. All of it happens before one deadline, the stale time after the peer first left: a peer that restarts
//! again before End-of-RIB keeps its old paths, because nobody gains by dropping what still forwards. (RFC 4724 §4.2
//! has a helper drop them at the second restart, so that stale paths cannot live for ever; the deadline sees to
//! that.)
//!
//! With RFC 9494 on both sides, a peer that is still away then keeps its paths as a last resort for its long-lived
//! stale time. That time begins once: a peer that comes back and leaves again before End-of-RIB has what is left of it.

use std::time::Duration;

use turnpike_bgp_wire::{Families, Family, PerFamily};

use super::Speaker;
use crate::event::{Event, SweepReason};
use crate::query::PeerId;
use crate::time::Time;

/// For how long paths of a family are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    /// As before: the restart time.
    pub(super) first: Duration,
    /// After that, as a last resort.
    pub(super) then: Duration,
}

/// Stale paths of a family.
#[derive(Clone, Copy, Debug)]
struct Stale {
    /// When they go if nothing happens before, or become a last resort.
    until: Time,
    /// As a last resort they would be kept for so long; zero: not at all.
    then: Duration,
    /// They are a last resort.
    long_lived: bool,
}

/// Stale paths of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Helper {
    /// When those of RFC 4724 go in any case.
    deadline: Time,
    families: PerFamily<Option<Stale>>,
}

impl Helper {
    /// The next moment at which something is to be done.
    pub(super) fn until(&self) -> Option<Time> {
        self.families.iter().filter_map(|(_, stale)| Some(stale.as_ref()?.until)).min()
    }

    fn some(self) -> Option<Self> {
        self.until().map(|_| self)
    }
}

impl Speaker {
    /// The peer has left with a promise for these families.
    pub(super) fn helper_left(&mut self, peer: PeerId, promised: PerFamily<Option<Promise>>) {
        let latest = self.now + self.config.graceful_restart.stale_time;
        let now = self.now;
        let Some(held) = self.peer_mut(peer) else { return };
        let before = held.helper.take();
        let deadline = before.map_or(latest, |helper| helper.deadline);
        let families = PerFamily::from_fn(|family| {
            let promise = (*promised.get(family))?;
            let left =
                before.and_then(|helper| *helper.families.get(family)).filter(|stale| stale.long_lived);
            Some(left.unwrap_or(Stale {
                until: (now + promise.first).min(deadline),
                then: promise.then,
                long_lived: false,
            }))
        });
        held.helper = Helper { deadline, families }.some();
        for family in Family::ALL {
            if families.get(family).is_some_and(|stale| stale.long_lived) {
                // What it has sent meanwhile joins the rest.
                self.keep_for_long(peer, family);
            }
        }
        // Without a restart time there is nothing to wait for.
        self.helper_timeout(peer);
    }

    /// The peer is back. Families without a promise that forwarding went on lose their stale paths now.
    pub(super) fn helper_returned(&mut self, peer: PeerId, forwarding: Families, long_lived: Families) {
        let Some(held) = self.peer_mut(peer) else { return };
        let Some(mut helper) = held.helper.take() else { return };
        let mut lost = Vec::new();
        for family in Family::ALL {
            let slot = helper.families.get_mut(family);
            let Some(stale) = slot.as_mut() else { continue };
            let preserved = if stale.long_lived { long_lived } else { forwarding };
            if !preserved.contains(family) {
                *slot = None;
                lost.push(family);
            } else if !stale.long_lived {
                stale.until = helper.deadline;
            }
        }
        held.helper = helper.some();
        for family in lost {
            let count = self.rib.sweep(peer, family);
            self.tell_swept(peer, family, count, SweepReason::NotPreserved);
        }
    }

    /// The peer has sent everything of a family.
    pub(super) fn helper_synced(&mut self, peer: PeerId, family: Family) {
        let Some(held) = self.peer_mut(peer) else { return };
        let Some(helper) = held.helper.as_mut() else { return };
        if helper.families.get_mut(family).take().is_none() {
            return;
        }
        held.helper = held.helper.and_then(Helper::some);
        let count = self.rib.sweep(peer, family);
        self.tell_swept(peer, family, count, SweepReason::EndOfRib);
    }

    pub(super) fn helper_timeout(&mut self, peer: PeerId) {
        let now = self.now;
        for family in Family::ALL {
            let Some(held) = self.peer_mut(peer) else { return };
            let away = held.agreed.is_none();
            let Some(helper) = held.helper.as_mut() else { return };
            let slot = helper.families.get_mut(family);
            let Some(stale) = slot.as_mut().filter(|stale| stale.until <= now) else { continue };
            if away && !stale.long_lived && !stale.then.is_zero() {
                *stale = Stale { until: now + stale.then, then: Duration::ZERO, long_lived: true };
                self.keep_for_long(peer, family);
                continue;
            }
            let reason = match (stale.long_lived, away) {
                (true, _) => SweepReason::LongLivedTimer,
                (false, true) => SweepReason::RestartTimer,
                (false, false) => SweepReason::StaleTimer,
            };
            *slot = None;
            held.helper = held.helper.and_then(Helper::some);
            let count = if away { self.rib.drop_paths(peer, family) } else { self.rib.sweep(peer, family) };
            self.tell_swept(peer, family, count, reason);
        }
    }

    /// Stale paths become a last resort.
    fn keep_for_long(&mut self, peer: PeerId, family: Family) {
        let (count, gone) = self.rib.keep_for_long(peer, family);
        self.tell_swept(peer, family, gone, SweepReason::NoLongLived);
        if let Some(name) = self.peer_ref(peer).map(super::peer::Peer::name).filter(|_| count > 0) {
            self.event(Event::LongLived { peer, name, family, count });
        }
    }
}
