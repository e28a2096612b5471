//! One verb at a time for each pod interface: the runtime may send DEL while ADD still runs.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use turnpike_model::desired::EndpointId;

/// The interfaces that somebody works on.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    busy: Mutex<BTreeSet<EndpointId>>,
    freed: Condvar,
}

/// Nobody else works on this interface until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    locks: &'a Locks,
    id: EndpointId,
}

impl Locks {
    /// Waits until nobody works on the interface.
    pub(crate) fn lock(&self, id: &EndpointId) -> Guard<'_> {
        let mut busy = self.busy();
        while busy.contains(id) {
            busy = self.freed.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.insert(id.clone());
        Guard { locks: self, id: id.clone() }
    }

    /// The same without waiting.
    pub(crate) fn try_lock(&self, id: &EndpointId) -> Option<Guard<'_>> {
        self.busy().insert(id.clone()).then(|| Guard { locks: self, id: id.clone() })
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<EndpointId>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.locks.busy().remove(&self.id);
        self.locks.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_for_the_first_and_others_do_not() {
        let locks = Locks::default();
        let id = |name: &str| EndpointId { container_id: name.into(), ifname: "eth0".into() };
        let guard = locks.lock(&id("a"));
        assert!(locks.try_lock(&id("a")).is_none());
        assert!(locks.try_lock(&id("b")).is_some());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| drop(locks.lock(&id("a"))));
            drop(guard);
            second.join().unwrap();
        });
    }
}
