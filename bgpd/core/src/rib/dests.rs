//! The destinations of one family, by number.
//!
//! A prefix is looked up once, by its hash; everything after that goes by the destination's number, which is a place in
//! a list. A number belongs to a prefix for as long as it has paths or some group of peers has been told of it, so that
//! what is to be withdrawn is still known by name. Order among prefixes matters to people only: they get it sorted.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::table::{Dest, TablePrefix};

/// A destination's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct DestId(u32);

impl DestId {
    pub(super) const fn row(self) -> usize {
        self.0 as usize
    }

    pub(super) const fn of_row(row: usize) -> Self {
        Self(row as u32)
    }
}

#[derive(Debug)]
struct Row<P> {
    prefix: P,
    dest: Dest,
}

/// All destinations.
#[derive(Debug)]
pub(super) struct Dests<P> {
    rows: Vec<Option<Row<P>>>,
    free: Vec<DestId>,
    index: HashTable<DestId>,
    hasher: DefaultHashBuilder,
}

impl<P> Default for Dests<P> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl<P: TablePrefix> Dests<P> {
    pub(super) fn id(&self, prefix: P) -> Option<DestId> {
        let rows = &self.rows;
        let is_it = |id: &DestId| matches!(rows.get(id.row()), Some(Some(row)) if row.prefix == prefix);
        self.index.find(self.hasher.hash_one(prefix), is_it).copied()
    }

    pub(super) fn find(&self, prefix: P) -> Option<&Dest> {
        self.get(self.id(prefix)?)
    }

    pub(super) fn get(&self, id: DestId) -> Option<&Dest> {
        self.rows.get(id.row())?.as_ref().map(|row| &row.dest)
    }

    pub(super) fn get_mut(&mut self, id: DestId) -> Option<&mut Dest> {
        self.rows.get_mut(id.row())?.as_mut().map(|row| &mut row.dest)
    }

    pub(super) fn prefix(&self, id: DestId) -> Option<P> {
        self.rows.get(id.row())?.as_ref().map(|row| row.prefix)
    }

    pub(super) fn entry(&self, id: DestId) -> Option<(P, &Dest)> {
        self.rows.get(id.row())?.as_ref().map(|row| (row.prefix, &row.dest))
    }

    /// The prefix's number; a new one if it has none.
    pub(super) fn id_or_insert(&mut self, prefix: P) -> DestId {
        let hash = self.hasher.hash_one(prefix);
        let rows = &self.rows;
        let is_it = |id: &DestId| matches!(rows.get(id.row()), Some(Some(row)) if row.prefix == prefix);
        if let Some(id) = self.index.find(hash, is_it) {
            return *id;
        }
        let row = Some(Row { prefix, dest: Dest::default() });
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(place) = self.rows.get_mut(id.row()) {
                    *place = row;
                }
                id
            }
            None => {
                self.rows.push(row);
                DestId::of_row(self.rows.len() - 1)
            }
        };
        let (rows, hasher) = (&self.rows, &self.hasher);
        let hash_of = |id: &DestId| {
            rows.get(id.row()).and_then(Option::as_ref).map_or(0, |row| hasher.hash_one(row.prefix))
        };
        self.index.insert_unique(hash, id, hash_of);
        id
    }

    /// Gives the number free if nothing is left that needs it.
    pub(super) fn let_go(&mut self, id: DestId) {
        let Some(place) = self.rows.get_mut(id.row()) else { return };
        let Some(row) = place.take_if(|row| row.dest.is_forgotten()) else { return };
        if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(row.prefix), |held| *held == id) {
            entry.remove();
        }
        self.free.push(id);
        if self.index.is_empty() {
            // Nothing is left: a table that has gone gives its memory back.
            self.rows = Vec::new();
            self.free = Vec::new();
            self.index = HashTable::new();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (DestId, P, &Dest)> {
        self.iter_from(0)
    }

    /// Destinations from a row on.
    pub(super) fn iter_from(&self, first: usize) -> impl Iterator<Item = (DestId, P, &Dest)> {
        let rows = self.rows.iter().enumerate().skip(first);
        rows.filter_map(|(at, row)| row.as_ref().map(|row| (DestId::of_row(at), row.prefix, &row.dest)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (DestId, &mut Dest)> {
        let rows = self.rows.iter_mut().enumerate();
        rows.filter_map(|(at, row)| row.as_mut().map(|row| (DestId::of_row(at), &mut row.dest)))
    }

    /// The chosen prefixes in their order.
    pub(super) fn sorted(&self, is_wanted: impl Fn(P) -> bool) -> Ascending<P> {
        let wanted = self.rows.iter().enumerate().filter_map(|(at, row)| {
            let prefix = row.as_ref()?.prefix;
            is_wanted(prefix).then_some((prefix, DestId::of_row(at)))
        });
        Ascending { rest: wanted.collect(), piece: Vec::new(), next: 1024 }
    }
}

/// Prefixes in ascending order, sorted a piece at a time: who wants a page of a full table pays for no more.
pub(super) struct Ascending<P> {
    rest: Vec<(P, DestId)>,
    /// In descending order.
    piece: Vec<(P, DestId)>,
    next: usize,
}

impl<P: TablePrefix> Iterator for Ascending<P> {
    type Item = (P, DestId);

    fn next(&mut self) -> Option<Self::Item> {
        if self.piece.is_empty() && !self.rest.is_empty() {
            let at = self.rest.len().saturating_sub(self.next);
            if at > 0 {
                self.rest.select_nth_unstable_by(at, |one, other| other.cmp(one));
            }
            self.piece = self.rest.split_off(at);
            self.piece.sort_unstable_by(|one, other| other.cmp(one));
            self.next = self.next.saturating_mul(4);
        }
        self.piece.pop()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use turnpike_bgp_wire::Prefix4;

    use super::*;

    fn prefix(number: u8) -> Prefix4 {
        Prefix4::new(u32::from(number) << 24, 8).unwrap()
    }

    proptest! {
        /// Against a map: numbers stay while somebody has been told, are unique, and lead back to their prefix.
        #[test]
        fn numbers_are_kept_as_long_as_they_are_needed(steps in vec((0_u8..12, any::<bool>()), 1..200)) {
            let mut dests: Dests<Prefix4> = Dests::default();
            let mut model: BTreeMap<Prefix4, DestId> = BTreeMap::new();
            for (number, comes) in steps {
                let prefix = prefix(number);
                match (comes, model.get(&prefix).copied()) {
                    (true, held) => {
                        let id = dests.id_or_insert(prefix);
                        prop_assert!(held.is_none_or(|held| held == id));
                        if held.is_none() {
                            dests.get_mut(id).unwrap().told_by_one_more();
                        }
                        dests.let_go(id);
                        model.insert(prefix, id);
                    }
                    (false, Some(id)) => {
                        dests.get_mut(id).unwrap().told_by_one_less();
                        dests.let_go(id);
                        model.remove(&prefix);
                    }
                    (false, None) => prop_assert!(dests.id(prefix).is_none()),
                }
                for (prefix, id) in &model {
                    prop_assert_eq!(dests.id(*prefix), Some(*id));
                    prop_assert_eq!(dests.prefix(*id), Some(*prefix));
                }
                let all: Vec<(Prefix4, DestId)> = dests.sorted(|_| true).collect();
                prop_assert_eq!(all, model.iter().map(|(prefix, id)| (*prefix, *id)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_large_table_comes_in_order() {
        let mut dests: Dests<Prefix4> = Dests::default();
        for number in 0..20_000_u32 {
            dests.id_or_insert(Prefix4::new(number.wrapping_mul(0x9e37_79b9), 32).unwrap());
        }
        let sorted: Vec<Prefix4> = dests.sorted(|_| true).map(|(prefix, _)| prefix).collect();
        assert_eq!(sorted.len(), 20_000);
        assert!(sorted.is_sorted());
    }
}
