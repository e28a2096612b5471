//! Paths that are kept for long after their peer has gone (RFC 9494).
//!
//! The mark of such a path is the LLGR_STALE community in what is made of it: so it is the last choice of the decision
//! process (here and wherever it goes), and so peers that would not know are kept from it. Which of a peer's paths
//! have it follows from the peer's state, so that a changed policy finds them again.

use std::sync::Arc;

use turnpike_bgp_wire::{Attributes, Community, Family};

use super::attrs::PathAttrs;
use super::peer::RibPeer;
use super::table::{FamilyRib, Origination, Path, TablePrefix};
use super::{Rib, Shared};
use crate::query::PeerId;

/// What a group of peers is told of long-lived stale paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StalePaths {
    /// What any other path is: they know (RFC 9494 §4.3).
    Told,
    /// Nothing.
    Withheld,
    /// Not to be exported, and without preference (§4.6).
    Disguised,
}

impl StalePaths {
    pub(super) fn of(peer: &RibPeer, family: Family) -> Self {
        match peer.session.as_ref().is_some_and(|session| session.long_lived.contains(family)) {
            true => Self::Told,
            false if peer.long_lived_fallback => Self::Disguised,
            false => Self::Withheld,
        }
    }
}

impl Rib {
    /// The peer has been away for too long for its paths of a family to count as before. Those that may not be kept are
    /// removed; answers how many stay and how many went.
    pub(crate) fn keep_for_long(&mut self, peer: PeerId, family: Family) -> (usize, usize) {
        if let Some(held) = self.shared.peer_mut(peer) {
            held.set_long_lived(family, true);
        }
        match family {
            Family::Ipv4 => self.v4.keep_for_long(&mut self.shared, peer),
            Family::Ipv6 => self.v6.keep_for_long(&mut self.shared, peer),
        }
    }
}

impl<P: TablePrefix> FamilyRib<P> {
    fn keep_for_long(&mut self, shared: &mut Shared, peer: PeerId) -> (usize, usize) {
        let gone = self.remove_where(shared, peer, is_barred);
        let from = Origination::from(peer);
        let mut kept = 0;
        for (id, dest) in self.table.iter_mut() {
            for index in 0..dest.paths.len() {
                let Some(path) = dest.paths.get_mut(index).filter(|path| path.from == from) else { continue };
                kept += 1;
                if let Ok(used) = &path.used
                    && !used.long_lived
                {
                    path.used = Ok(shared.marked(used));
                    dest.touch(index, id, &mut self.dirty);
                }
            }
        }
        (kept, gone)
    }
}

/// NO_LLGR, by the peer or by our import policy.
fn is_barred(path: &Path) -> bool {
    let has = |attrs: &PathAttrs| attrs.attributes.communities.contains(&Community::NO_LLGR);
    has(&path.raw) || path.used.as_ref().is_ok_and(|used| has(used))
}

impl Shared {
    /// The same with LLGR_STALE.
    pub(super) fn marked(&mut self, used: &Arc<PathAttrs>) -> Arc<PathAttrs> {
        let mut attributes = used.attributes.clone();
        add(&mut attributes, Community::LLGR_STALE);
        self.attrs.intern(attributes, used.next_hop)
    }
}

/// What a peer that does not know LLGR_STALE is told instead.
pub(super) fn disguise(attributes: &mut Attributes) {
    add(attributes, Community::NO_EXPORT);
    attributes.local_pref = Some(0);
}

fn add(attributes: &mut Attributes, community: Community) {
    if !attributes.communities.contains(&community) {
        let with = attributes.communities.iter().copied().chain([community]);
        attributes.communities = with.collect();
    }
}
