//! Next hops under watch, and the sets of them that kernel routes use.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::RibOutput;
use crate::input::Resolution;
use crate::output::Nexthop;

/// A next hop's number; zero: none (what we originate, and what is not used).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct NexthopId(u32);

impl NexthopId {
    pub(super) const NONE: NexthopId = NexthopId(0);
}

/// What a report means for the paths of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    None,
    /// The first report: its paths have been waiting for it.
    First(NexthopId),
    Change(NexthopId),
}

#[derive(Debug)]
struct Watched {
    nexthop: Nexthop,
    users: usize,
    /// `None` until the shell has reported; counts as unreachable.
    resolution: Option<Resolution>,
}

/// Next hops that paths use.
#[derive(Debug, Default)]
pub(super) struct Nexthops {
    rows: Vec<Option<Watched>>,
    free: Vec<u32>,
    index: HashMap<Nexthop, u32>,
    /// Rows that have not been reported on.
    unknown: usize,
}

impl Nexthops {
    /// One more path uses the next hop.
    pub(super) fn acquire(&mut self, nexthop: Nexthop, out: &mut VecDeque<RibOutput>) -> NexthopId {
        if let Some(row) = self.index.get(&nexthop) {
            if let Some(Some(watched)) = self.rows.get_mut(*row as usize) {
                watched.users += 1;
            }
            return NexthopId(*row + 1);
        }
        let watched = Watched { nexthop, users: 1, resolution: None };
        self.unknown += 1;
        let row = self.free.pop().unwrap_or_else(|| {
            self.rows.push(None);
            (self.rows.len() - 1) as u32
        });
        if let Some(slot) = self.rows.get_mut(row as usize) {
            *slot = Some(watched);
        }
        self.index.insert(nexthop, row);
        out.push_back(RibOutput::Track(nexthop));
        NexthopId(row + 1)
    }

    /// One path less uses it.
    pub(super) fn release(&mut self, id: NexthopId, out: &mut VecDeque<RibOutput>) {
        let Some(row) = id.0.checked_sub(1) else { return };
        let Some(slot) = self.rows.get_mut(row as usize) else { return };
        let Some(watched) = slot else { return };
        watched.users -= 1;
        if watched.users == 0 {
            let nexthop = watched.nexthop;
            self.unknown -= usize::from(watched.resolution.is_none());
            *slot = None;
            self.free.push(row);
            self.index.remove(&nexthop);
            out.push_back(RibOutput::Untrack(nexthop));
        }
    }

    /// Takes in a report.
    pub(super) fn resolve(&mut self, nexthop: Nexthop, resolution: Resolution) -> News {
        let Some(row) = self.index.get(&nexthop) else { return News::None };
        let Some(Some(watched)) = self.rows.get_mut(*row as usize) else { return News::None };
        self.unknown -= usize::from(watched.resolution.is_none());
        let id = NexthopId(*row + 1);
        match watched.resolution.replace(resolution) {
            None => News::First(id),
            Some(before) if before != resolution => News::Change(id),
            Some(_) => News::None,
        }
    }

    pub(super) fn get(&self, id: NexthopId) -> Option<Nexthop> {
        self.watched(id).map(|watched| watched.nexthop)
    }

    /// Interior cost; `None` while unreachable.
    pub(super) fn metric(&self, id: NexthopId) -> Option<u32> {
        match self.watched(id)?.resolution? {
            Resolution::Reachable { metric } => Some(metric),
            Resolution::Unreachable => None,
        }
    }

    /// No report has come on it yet.
    pub(super) fn is_unknown(&self, id: NexthopId) -> bool {
        self.unknown > 0 && self.watched(id).is_some_and(|watched| watched.resolution.is_none())
    }

    pub(super) const fn all_known(&self) -> bool {
        self.unknown == 0
    }

    fn watched(&self, id: NexthopId) -> Option<&Watched> {
        self.rows.get(id.0.checked_sub(1)? as usize)?.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// All reports so far.
    pub(super) fn known(&self) -> HashMap<Nexthop, Resolution> {
        self.rows.iter().flatten().filter_map(|row| Some((row.nexthop, row.resolution?))).collect()
    }
}

/// A set's number; zero: no route in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SetId(u32);

impl SetId {
    /// No set: a route that discards.
    pub(super) const DISCARD: SetId = SetId(u32::MAX);
}

/// Sets of next hops, each held once: a table of a million routes has few of them.
#[derive(Debug, Default)]
pub(crate) struct NexthopSets {
    rows: Vec<Option<(Arc<[Nexthop]>, usize)>>,
    free: Vec<u32>,
    index: HashMap<Arc<[Nexthop]>, u32>,
    /// The row asked for last: a run of routes tends to have one set.
    recent: usize,
}

impl NexthopSets {
    /// One more route uses the set, which is sorted and not empty.
    pub(super) fn acquire(&mut self, set: &[Nexthop]) -> (SetId, Arc<[Nexthop]>) {
        if let Some(Some((held, users))) = self.rows.get_mut(self.recent)
            && **held == *set
        {
            *users += 1;
            return (SetId(self.recent as u32 + 1), Arc::clone(held));
        }
        if let Some(row) = self.index.get(set)
            && let Some(Some((held, users))) = self.rows.get_mut(*row as usize)
        {
            *users += 1;
            self.recent = *row as usize;
            return (SetId(*row + 1), Arc::clone(held));
        }
        let set: Arc<[Nexthop]> = set.into();
        let row = self.free.pop().unwrap_or_else(|| {
            self.rows.push(None);
            (self.rows.len() - 1) as u32
        });
        if let Some(slot) = self.rows.get_mut(row as usize) {
            *slot = Some((Arc::clone(&set), 1));
        }
        self.index.insert(Arc::clone(&set), row);
        (SetId(row + 1), set)
    }

    pub(super) fn release(&mut self, id: SetId) {
        let Some(row) = id.0.checked_sub(1) else { return };
        let Some(slot) = self.rows.get_mut(row as usize) else { return };
        let Some((set, users)) = slot else { return };
        *users -= 1;
        if *users == 0 {
            self.index.remove(set);
            *slot = None;
            self.free.push(row);
        }
    }

    pub(super) fn get(&self, id: SetId) -> Option<&[Nexthop]> {
        self.rows.get(id.0.checked_sub(1)? as usize)?.as_ref().map(|(set, _)| &**set)
    }
}
