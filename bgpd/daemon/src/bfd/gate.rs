//! What BFD says of one peer, as the speaker must take it. Pure.
//!
//! A failure is a session that has left Up: its count of downs has grown since we last looked. That holds over a lost
//! line to bfdd, and two changes that arrive as one. AdminDown at either end is no failure (RFC 5882 §3.2).

use turnpike_bgp_core::PathState;
use turnpike_bgpd_api::bfd::{BfdState, BfdView};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// No BGP session without BFD.
    pub(super) strict: bool,
    /// The session as last seen: its discriminator (another one is another session) and its downs.
    seen: Option<(u32, u64)>,
    now: Now,
    /// Failures so far.
    pub(super) failures: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Now {
    /// Nothing is known of the path.
    #[default]
    Unknown,
    /// BFD is Up, or an administrator has turned it off.
    Good,
    /// It was Up and is not any more.
    Bad,
}

impl Gate {
    /// Takes in the session's present state; what the speaker must be told, in order.
    pub(super) fn hear(&mut self, view: &BfdView) -> Vec<PathState> {
        let admin = [view.state, view.remote_state].contains(&BfdState::AdminDown);
        let before = self.seen.replace((view.local_discriminator, view.downs));
        let fell =
            before.is_some_and(|(discr, downs)| discr == view.local_discriminator && downs < view.downs);
        let mut told = Vec::new();
        if fell && !admin {
            self.failures += 1;
            self.now = Now::Bad;
            told.push(PathState::Failed { independent: view.remote_independent });
        }
        if view.state == BfdState::Up || admin {
            self.now = Now::Good;
        } else if self.now == Now::Good {
            self.now = Now::Unknown;
        }
        if told.is_empty() || self.now != Now::Bad {
            told.push(self.present());
        }
        told
    }

    /// Nothing is heard of bfdd itself.
    pub(super) fn lose(&mut self) {
        self.now = Now::Unknown;
    }

    /// The failure with this number is long ago; true if it was still in force.
    pub(super) fn give_in(&mut self, failure: u64) -> bool {
        let due = self.now == Now::Bad && self.failures == failure;
        if due {
            self.now = Now::Unknown;
        }
        due
    }

    /// What holds now, whatever the speaker knows.
    pub(super) fn present(&self) -> PathState {
        match self.now {
            Now::Good => PathState::Open,
            Now::Bad => PathState::Awaited,
            Now::Unknown if self.strict => PathState::Awaited,
            Now::Unknown => PathState::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use turnpike_bgpd_api::bfd::BfdKey;

    use super::*;

    const FAILED: PathState = PathState::Failed { independent: false };

    fn view(state: BfdState, downs: u64) -> BfdView {
        BfdView {
            key: BfdKey { peer: "10.0.0.2".parse().unwrap(), local: None, interface: None, multihop: false },
            name: "peer".to_owned(),
            owner: "turnpike-bgpd".to_owned(),
            orphaned_for: None,
            state,
            remote_state: BfdState::Down,
            diagnostic: String::new(),
            remote_independent: false,
            since: 0,
            downs,
            local_discriminator: 7,
            remote_discriminator: None,
            tx_interval_us: None,
            detection_us: None,
            packets_out: 0,
            packets_in: 0,
            problem: None,
        }
    }

    #[test]
    fn only_a_session_that_was_up_can_fail() {
        let mut gate = Gate::default();
        assert_eq!(gate.hear(&view(BfdState::Down, 4)), [PathState::Open], "a peer without BFD");
        assert_eq!(gate.hear(&view(BfdState::Up, 4)), [PathState::Open]);
        assert_eq!(gate.hear(&view(BfdState::Down, 5)), [FAILED]);
        assert_eq!(gate.hear(&view(BfdState::Init, 5)), [PathState::Awaited]);
        assert_eq!(gate.hear(&view(BfdState::Up, 5)), [PathState::Open]);
        assert_eq!(gate.hear(&view(BfdState::Up, 6)), [FAILED, PathState::Open], "too quick to be seen");
    }

    #[test]
    fn an_administrators_wish_is_no_failure() {
        let mut gate = Gate::default();
        gate.hear(&view(BfdState::Up, 0));
        let off = BfdView { remote_state: BfdState::AdminDown, ..view(BfdState::Down, 1) };
        assert_eq!(gate.hear(&off), [PathState::Open]);
        assert_eq!(gate.hear(&view(BfdState::Down, 1)), [PathState::Open]);
        gate.hear(&view(BfdState::Up, 1));
        gate.hear(&view(BfdState::Down, 2));
        let off = BfdView { remote_state: BfdState::AdminDown, ..view(BfdState::Down, 2) };
        assert_eq!(gate.hear(&off), [PathState::Open], "a failure ends with it");
    }

    #[test]
    fn a_lost_line_hides_no_failure_and_makes_none() {
        let mut gate = Gate::default();
        gate.hear(&view(BfdState::Up, 0));
        gate.lose();
        assert_eq!(gate.present(), PathState::Open);
        assert_eq!(gate.hear(&view(BfdState::Down, 1)), [FAILED]);
        // bfdd has restarted: other sessions.
        gate.hear(&view(BfdState::Up, 1));
        let fresh = BfdView { local_discriminator: 8, ..view(BfdState::Down, 0) };
        assert_eq!(gate.hear(&fresh), [PathState::Open]);
    }

    #[test]
    fn strict_waits_for_up_and_others_not_for_ever() {
        let mut gate = Gate { strict: true, ..Gate::default() };
        assert_eq!(gate.present(), PathState::Awaited);
        assert_eq!(gate.hear(&view(BfdState::Down, 0)), [PathState::Awaited]);
        assert_eq!(gate.hear(&view(BfdState::Up, 0)), [PathState::Open]);

        let mut gate = Gate::default();
        gate.hear(&view(BfdState::Up, 0));
        gate.hear(&view(BfdState::Down, 1));
        assert!(!gate.give_in(0));
        assert!(gate.give_in(1));
        assert_eq!(gate.present(), PathState::Open);
    }
}
