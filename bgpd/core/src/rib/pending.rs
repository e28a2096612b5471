//! What a peer that is not in step is still to be told.

use super::dests::{DestId, Dests};
use super::table::TablePrefix;

/// Entries beyond which repetitions are looked for.
const COMPACT: usize = 4096;

/// A slot whose present state is to be told. The prefix stays right when the number has become another one's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Slot<P> {
    id: DestId,
    pub(super) path_id: u32,
    pub(super) prefix: P,
}

impl<P: TablePrefix> Slot<P> {
    /// Where the prefix is to be found now.
    pub(super) fn dest(&self, table: &Dests<P>) -> Option<DestId> {
        match table.prefix(self.id) == Some(self.prefix) {
            true => Some(self.id),
            false => table.id(self.prefix),
        }
    }
}

/// A set of slots, made for being filled and emptied in large pieces. A slot may come out twice if it was noted again in
/// between, which is harmless: its state at that time is what counts.
#[derive(Debug)]
pub(super) struct Pending<P> {
    /// In order and without repetitions.
    ready: Vec<Slot<P>>,
    /// As noted.
    noted: Vec<Slot<P>>,
    compact_at: usize,
}

impl<P> Default for Pending<P> {
    fn default() -> Self {
        Self { ready: Vec::new(), noted: Vec::new(), compact_at: COMPACT }
    }
}

impl<P: TablePrefix> Pending<P> {
    pub(super) const fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.noted.is_empty()
    }

    pub(super) fn note(&mut self, id: DestId, prefix: P, path_id: u32) {
        self.noted.push(Slot { id, path_id, prefix });
        if self.noted.len() >= self.compact_at {
            self.compact();
            // The cost is spread over the growth that led to it.
            self.compact_at = (self.noted.len() * 2).max(COMPACT);
        }
    }

    /// At most so many of them, which are taken out.
    pub(super) fn take(&mut self, most: usize) -> Vec<Slot<P>> {
        if self.ready.is_empty() {
            self.compact();
            self.ready = std::mem::take(&mut self.noted);
            self.compact_at = COMPACT;
        }
        self.ready.split_off(self.ready.len().saturating_sub(most))
    }

    fn compact(&mut self) {
        self.noted.sort_unstable();
        self.noted.dedup();
    }
}

#[cfg(test)]
mod tests {
    use turnpike_bgp_wire::Prefix4;

    use super::*;

    #[test]
    fn memory_is_bounded_by_the_number_of_slots_and_all_come_out() {
        let mut pending: Pending<Prefix4> = Pending::default();
        let slots = 10_000;
        for _ in 0..50 {
            for row in 0..slots {
                pending.note(DestId::of_row(row), Prefix4::new(row as u32, 32).unwrap(), 0);
            }
        }
        assert!(pending.noted.len() <= 2 * slots, "{}", pending.noted.len());
        let mut seen = std::collections::BTreeSet::new();
        while !pending.is_empty() {
            let taken = pending.take(1000);
            assert!((1..=1000).contains(&taken.len()));
            seen.extend(taken.into_iter().map(|slot| slot.prefix));
        }
        assert_eq!(seen.len(), slots);
    }
}
