//! Addresses that are held back until those who grant access by address know that their pods have gone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::agent::Agent;
use crate::store::PodRecord;

/// The latest lease of each address that has ended. However long a subscriber is away, no more than the node's addresses.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    waiting: Mutex<BTreeMap<IpAddr, Ended>>,
}

#[derive(Debug, Clone, Copy)]
struct Ended {
    generation: u64,
    /// Under which it was told.
    version: u64,
}

impl Holds {
    /// After a start: whoever acknowledges a version of this run has listed since, and knows of all releases before.
    pub(crate) fn resume(version: u64, leases: Vec<(IpAddr, u64)>) -> Self {
        let ended = leases.into_iter().map(|(address, generation)| (address, Ended { generation, version }));
        Self { waiting: Mutex::new(ended.collect()) }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Ended>> {
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
        let ended = |generation| Ended { generation, version };
        waiting.extend(record.leases.iter().map(|lease| (lease.address, ended(lease.generation))));
    }
}

/// A subscriber has acknowledged something: what everybody knows by now is free.
pub(crate) fn acknowledged(agent: &Agent) {
    let gate = &agent.config.gates.subscribers;
    let Some(known) = agent.events.known_to_all(&gate.names) else { return };
    let heard: Vec<(IpAddr, u64)> = {
        let mut waiting = agent.holds.waiting();
        let heard = waiting.extract_if(.., |_, ended| ended.version <= known);
        heard.map(|(address, ended)| (address, ended.generation)).collect()
    };
    agent.books().heard(heard);
}
