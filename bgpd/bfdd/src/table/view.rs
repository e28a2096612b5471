//! A session as callers see it.

use turnpike_bfd::{State, Time};
use turnpike_bgpd_api::bfd::{BfdState, BfdView};

use super::Entry;

impl Entry {
    /// `until`: when the session ends for want of its owner.
    pub(super) fn view(&self, now: Time, until: Option<Time>) -> BfdView {
        let session = &self.session;
        let micros = |interval: std::time::Duration| u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        BfdView {
            key: self.key.clone(),
            name: self.name.clone(),
            owner: self.owner.clone(),
            orphaned_for: until.map(|until| until.since(now).as_secs()),
            state: state(session.state()),
            remote_state: state(session.remote_state()),
            diagnostic: session.diagnostic().to_string(),
            remote_independent: session.remote_independent(),
            since: now.since(self.since).as_secs(),
            downs: self.downs,
            local_discriminator: session.local_discr().get(),
            remote_discriminator: session.remote_discr().map(std::num::NonZero::get),
            tx_interval_us: session.tx_interval().map(micros),
            detection_us: session.detection_time().map(micros),
            packets_out: self.packets_out,
            packets_in: self.packets_in,
            problem: self.problem.clone(),
        }
    }
}

fn state(from: State) -> BfdState {
    match from {
        State::AdminDown => BfdState::AdminDown,
        State::Down => BfdState::Down,
        State::Init => BfdState::Init,
        State::Up => BfdState::Up,
    }
}
