//! A walk through everything that peers have announced, a piece at a time: for dumps and monitoring stations.
//!
//! It goes by the destinations' numbers, so a piece costs what it holds. A destination that gets its number while the
//! walk goes on is seen or not; one that keeps it is seen once.

use std::sync::Arc;

use turnpike_bgp_wire::{Attributes, Family, NextHop, Prefix};

use super::Rib;
use super::Shared;
use super::attrs::PathAttrs;
use super::table::{FamilyRib, TablePrefix};
use crate::query::PeerId;

/// Rows looked at for each prefix wanted, where many have no path of a peer.
const ROWS: usize = 16;

/// Where a walk goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    family: Family,
    row: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self { family: Family::Ipv4, row: 0 }
    }
}

/// A prefix with what peers have announced of it.
#[derive(Clone, Debug)]
pub struct Walked {
    /// Which.
    pub prefix: Prefix,
    /// At least one.
    pub paths: Vec<WalkedPath>,
}

/// A path as it was received. Shares its attributes with the RIB.
#[derive(Clone, Debug)]
pub struct WalkedPath {
    /// From whom.
    pub from: PeerId,
    /// Path identifier; zero on sessions without.
    pub path_id: u32,
    /// From an earlier session: kept for a restarting peer.
    pub stale: bool,
    raw: Arc<PathAttrs>,
}

impl WalkedPath {
    /// Its attributes, before policy.
    pub fn attributes(&self) -> &Attributes {
        &self.raw.attributes
    }

    /// Its next hop.
    pub fn next_hop(&self) -> Option<NextHop> {
        self.raw.next_hop
    }
}

impl Rib {
    pub(crate) fn walk(&self, at: Place, limit: usize) -> (Vec<Walked>, Option<Place>) {
        let mut found = Vec::new();
        let row = match at.family {
            Family::Ipv4 => self.v4.walk(&self.shared, at.row, limit, &mut found),
            Family::Ipv6 => self.v6.walk(&self.shared, at.row, limit, &mut found),
        };
        let next = match (row, at.family) {
            (Some(row), family) => Some(Place { family, row }),
            (None, Family::Ipv4) => Some(Place { family: Family::Ipv6, row: 0 }),
            (None, Family::Ipv6) => None,
        };
        (found, next)
    }
}

impl<P: TablePrefix> FamilyRib<P> {
    /// Looks at the next destinations from a row on; answers where to go on.
    fn walk(&self, shared: &Shared, first: usize, limit: usize, found: &mut Vec<Walked>) -> Option<usize> {
        let last = first.saturating_add(limit.saturating_mul(ROWS));
        for (id, prefix, dest) in self.table.iter_from(first) {
            if found.len() >= limit || id.row() >= last {
                return Some(id.row());
            }
            let prefix: Prefix = prefix.into();
            let paths = dest.paths.iter().filter_map(|path| {
                let from = path.from.peer()?;
                let current = shared.peer(from).is_some_and(|peer| {
                    peer.session.is_some() && *peer.generation.get(prefix.family()) == path.generation
                });
                Some(WalkedPath { from, path_id: path.path_id, stale: !current, raw: Arc::clone(&path.raw) })
            });
            let paths: Vec<WalkedPath> = paths.collect();
            if !paths.is_empty() {
                found.push(Walked { prefix, paths });
            }
        }
        None
    }
}
