//! [`Wants`]: saying from any thread what is wanted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnetwork::IpNetwork;

use crate::Target;
use crate::state::State;

/// The bookkeeping of a [`Routes`](crate::Routes), from any thread. What is wanted is put down where
/// [`Routes::apply`](crate::Routes::apply) looks, and nowhere else: however slow the kernel is, nothing piles up, and a
/// prefix that flaps meanwhile costs one write. Whoever applies must be woken by other means.
#[derive(Clone)]
pub struct Wants(Arc<Mutex<State>>);

impl Wants {
    pub(crate) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// Never held over a system call.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything in it can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in many changes at once: a target, or none for no route. Host bits are ignored.
    pub fn extend(&self, changes: impl IntoIterator<Item = (IpNetwork, Option<Target>)>) {
        let mut state = self.state();
        for (prefix, target) in changes {
            match target {
                Some(target) => state.set(network(prefix), &target),
                None => state.remove(network(prefix)),
            }
        }
    }

    /// Prefixes that wait for the next write.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state().queue_len()
    }
}

impl std::fmt::Debug for Wants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wants").finish_non_exhaustive()
    }
}

/// The prefix without host bits.
pub(crate) fn network(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}
