//! Our own start (RFC 4724 §4.1, the restarting side).
//!
//! After a restart nothing but our own networks is selected or announced until every peer that can still tell us
//! something has done so: our best paths would change with each peer that comes in. A peer that does not come up
//! within `peer_wait` is not waited for. One that has itself restarted is waited for only a moment, long enough for
//! its own networks: for the rest it may be waiting for us. The kernel's old routes stay until such peers have sent
//! their End-of-RIB too. In every start, our End-of-RIB waits until our own configuration is complete, or helpers
//! would sweep prefixes that are only late.

use std::time::Duration;

use super::Speaker;
use super::peer::Peer;
use crate::config::{Config, Start};
use crate::event::{Event, SelectionReason};
use crate::output::Output;
use crate::time::Time;

/// Wait for peers that have restarted as well.
const MUTUAL_WAIT: Duration = Duration::from_secs(3);

/// How far the start has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Startup {
    began: Time,
    phase: Phase,
    restarted: bool,
    /// Selection_Deferral_Timer.
    deferral_until: Time,
    /// Peers that are not Established by then are not waited for. `None` until our configuration is complete.
    peers_until: Option<Time>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Waiting,
    /// The wait is over; its outcome is being worked out.
    Selecting(SelectionReason),
    /// Everything known was handed over; peers that have restarted as well may add to it.
    Settling(SelectionReason),
    Done,
}

impl Startup {
    pub(super) fn new(config: &Config, start: Start, now: Time) -> Self {
        let graceful = &config.graceful_restart;
        Self {
            began: now,
            phase: Phase::Waiting,
            restarted: start.restarted,
            deferral_until: now + graceful.deferral,
            peers_until: config.complete.then(|| now + graceful.peer_wait),
        }
    }

    /// Our OPENs carry the R bit.
    pub(super) fn is_restarting(&self) -> bool {
        self.restarted && self.phase == Phase::Waiting
    }

    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    fn is_over(&self) -> bool {
        !matches!(self.phase, Phase::Waiting)
    }
}

impl Speaker {
    /// When the start may come further without anything happening.
    pub(super) fn startup_timeout(&self) -> Option<Time> {
        let startup = &self.startup;
        if matches!(startup.phase, Phase::Done | Phase::Selecting(_)) {
            return None;
        }
        let waits = startup.restarted && startup.phase == Phase::Waiting;
        let moments =
            self.peers.iter().flatten().filter_map(|peer| Some(peer.session.established_at()? + MUTUAL_WAIT));
        let soon = moments.chain(startup.peers_until).filter(|at| waits && *at > self.now);
        soon.chain([startup.deferral_until]).min()
    }

    /// Ends the wait once there is nothing to wait for.
    pub(super) fn check_startup(&mut self) {
        if self.startup.is_over() {
            return;
        }
        if self.config.complete && self.startup.peers_until.is_none() {
            self.startup.peers_until = Some(self.now + self.config.graceful_restart.peer_wait);
        }
        let ready = self.config.complete && self.rib.all_resolved();
        let reason = if self.now >= self.startup.deferral_until {
            SelectionReason::Timer
        } else if ready && !self.startup.restarted {
            SelectionReason::Fresh
        } else if ready && self.all_heard() {
            SelectionReason::AllHeard
        } else {
            return;
        };
        self.startup.phase = Phase::Selecting(reason);
        self.rib.shared.holding = false;
        let local = self.local();
        for peer in self.peers.iter_mut().flatten() {
            peer.session.local = local.clone();
        }
    }

    /// Every peer has told us everything, or is not going to before we speak.
    fn all_heard(&self) -> bool {
        let patience_over = self.startup.peers_until.is_some_and(|at| self.now >= at);
        let heard = self.peers.iter().flatten().all(|peer| match peer.agreed {
            Some(_) => peer.told_everything() || self.may_wait_for_us(peer),
            None => patience_over || peer.session.config.shutdown.is_some(),
        });
        heard && (patience_over || self.config.listen_ranges.is_empty())
    }

    /// The peer has restarted too, and had time to send what does not depend on us.
    fn may_wait_for_us(&self, peer: &Peer) -> bool {
        let restarted = peer.agreed.as_ref().and_then(|agreed| agreed.graceful.as_ref());
        let since = peer.session.established_at().map(|at| self.now.since(at));
        restarted.is_some_and(|graceful| graceful.restarted) && since >= Some(MUTUAL_WAIT)
    }

    /// Takes the last steps of the start; `true` if one could be taken.
    pub(super) fn finish_startup(&mut self) -> bool {
        match self.startup.phase {
            Phase::Selecting(reason) if self.rib.is_decided() => {
                self.startup.phase = Phase::Settling(reason);
                self.rib.shared.may_end = true;
                true
            }
            Phase::Settling(reason) if self.is_settled() => {
                self.startup.phase = Phase::Done;
                let after = self.now.since(self.startup.began);
                self.outputs.push_back(Output::RestartComplete);
                self.event(Event::SelectionComplete { after, reason });
                true
            }
            _ => false,
        }
    }

    /// No peer that is up can still add routes that an earlier process of ours had installed.
    fn is_settled(&self) -> bool {
        if self.now >= self.startup.deferral_until || !self.startup.restarted {
            return true;
        }
        let told = self.peers.iter().flatten().all(|peer| peer.agreed.is_none() || peer.told_everything());
        told && self.rib.all_resolved() && self.rib.is_decided()
    }
}
