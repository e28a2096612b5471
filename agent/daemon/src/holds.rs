//! Addresses that are held back until those who grant access by address know that their pods have gone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::agent::Agent;
use crate::store::PodRecord;

/// Leases that have ended, by the version under which that was told.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    waiting: Mutex<BTreeMap<u64, Vec<(IpAddr, u64)>>>,
}

impl Holds {
    /// After a start: whoever acknowledges a version of this run has listed since, and knows of all releases before.
    pub(crate) fn resume(version: u64, leases: Vec<(IpAddr, u64)>) -> Self {
        Self { waiting: Mutex::new(BTreeMap::from([(version, leases)])) }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<(IpAddr, u64)>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells subscribers that a pod has given its addresses up, and holds these back where agent.toml says so.
pub(crate) fn released(agent: &Agent, record: &PodRecord) {
    let node = agent.books().node().name.clone();
    // Nobody can acknowledge it before it is noted.
    let mut waiting = agent.holds.waiting();
    let version = agent.events.released(&node, record);
    if agent.config.gates.subscribers.hold_released_seconds > 0 {
        let leases = record.leases.iter().map(|lease| (lease.address, lease.generation));
        waiting.insert(version, leases.collect());
    }
}

/// A subscriber has acknowledged something: what everybody knows by now is free.
pub(crate) fn acknowledged(agent: &Agent) {
    let gate = &agent.config.gates.subscribers;
    let Some(known) = agent.events.known_to_all(&gate.names) else { return };
    let heard = {
        let mut waiting = agent.holds.waiting();
        let later = waiting.split_off(&(known + 1));
        std::mem::replace(&mut *waiting, later)
    };
    agent.books().heard(heard.into_values().flatten());
}
