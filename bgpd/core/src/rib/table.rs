//! The table of one family: all paths of each prefix, the best first.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use smallvec::SmallVec;
use turnpike_bgp_wire::{Attributes, Family, NextHop, Origin, Prefix, Prefix4, Prefix6};

use super::aggregates::Aggregates;
use super::attrs::PathAttrs;
use super::decide;
use super::dests::{DestId, Dests};
use super::group::{Group, GroupId};
use super::import::Refused;
use super::install::KernelRoute;
use super::nexthops::{News, NexthopId, SetId};
use super::{RibOutput, Shared};
use crate::config::Network;
use crate::output::Nexthop;
use crate::query::PeerId;

/// Decisions made in one step.
const DECISIONS: usize = 4096;

/// A prefix of one family.
pub(super) trait TablePrefix: Copy + Ord + Hash + fmt::Debug + Into<Prefix> {
    const FAMILY: Family;

    fn from_prefix(prefix: Prefix) -> Option<Self>;
}

impl TablePrefix for Prefix4 {
    const FAMILY: Family = Family::Ipv4;

    fn from_prefix(prefix: Prefix) -> Option<Self> {
        match prefix {
            Prefix::V4(prefix) => Some(prefix),
            Prefix::V6(_) => None,
        }
    }
}

impl TablePrefix for Prefix6 {
    const FAMILY: Family = Family::Ipv6;

    fn from_prefix(prefix: Prefix) -> Option<Self> {
        match prefix {
            Prefix::V6(prefix) => Some(prefix),
            Prefix::V4(_) => None,
        }
    }
}

/// Where a path came from: a peer's number, or ourselves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Origination(u32);

impl Origination {
    pub(super) const LOCAL: Origination = Origination(u32::MAX);

    pub(super) const fn peer(self) -> Option<PeerId> {
        match self {
            Origination::LOCAL => None,
            Origination(id) => Some(PeerId(id)),
        }
    }
}

impl From<PeerId> for Origination {
    fn from(peer: PeerId) -> Self {
        Origination(peer.0)
    }
}

/// A path to a prefix.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) from: Origination,
    pub(super) path_id: u32,
    /// As received.
    pub(super) raw: Arc<PathAttrs>,
    /// After import; `None` if it may not be used.
    pub(super) used: Result<Arc<PathAttrs>, Refused>,
    pub(super) nexthop: NexthopId,
    pub(super) generation: u16,
    /// The identifier under which peers with add-path are told this path, unlike that of any other path of the
    /// prefix and the same for as long as the path is held. Zero: all are taken.
    label: u16,
}

impl Path {
    pub(super) const fn new(
        from: Origination,
        path_id: u32,
        raw: Arc<PathAttrs>,
        used: Result<Arc<PathAttrs>, Refused>,
        nexthop: NexthopId,
        generation: u16,
    ) -> Self {
        Self { from, path_id, raw, used, nexthop, generation, label: 0 }
    }

    /// The path identifier towards peers.
    pub(super) fn told_as(&self) -> Option<u16> {
        (self.label > 0).then_some(self.label)
    }
}

/// A prefix with its paths.
#[derive(Debug, Default)]
pub(super) struct Dest {
    pub(super) paths: SmallVec<[Path; 1]>,
    /// What the kernel was told.
    pub(super) installed: SetId,
    /// The last decision found a best path, and put it first.
    has_best: bool,
    /// That path was changed or removed since.
    best_touched: bool,
    /// Waits for a decision.
    dirty: bool,
    /// The ORIGIN of the best path, as aggregates around the prefix count it.
    pub(super) counted: Option<Origin>,
    /// How many groups of peers have been told something of it.
    told: u32,
}

/// The RIB of one family.
#[derive(Debug)]
pub(super) struct FamilyRib<P: TablePrefix> {
    pub(super) table: Dests<P>,
    pub(super) dirty: Vec<DestId>,
    pub(super) groups: BTreeMap<GroupId, Group<P>>,
    pub(super) next_group: u32,
    /// Next hops whose resolution has changed: their paths must be found and decided on again.
    changed_nexthops: Vec<NexthopId>,
    /// Prefixes with a path whose next hop has not been reported on.
    waiting: HashMap<NexthopId, Vec<DestId>>,
    /// Prefixes with a best path.
    pub(super) reachable: usize,
    /// All paths held.
    pub(super) held: usize,
    pub(super) aggregates: Aggregates<P>,
    /// What we originate has changed since it was last decided on.
    pub(super) networks_touched: bool,
}

impl<P: TablePrefix> Default for FamilyRib<P> {
    fn default() -> Self {
        Self {
            table: Dests::default(),
            dirty: Vec::new(),
            groups: BTreeMap::new(),
            next_group: 0,
            changed_nexthops: Vec::new(),
            waiting: HashMap::new(),
            reachable: 0,
            held: 0,
            aggregates: Aggregates::default(),
            networks_touched: false,
        }
    }
}

impl Dest {
    /// Notes that the path at `index` is no longer what it was.
    pub(super) fn touch(&mut self, index: usize, id: DestId, dirty: &mut Vec<DestId>) {
        self.best_touched |= index == 0 && self.has_best;
        self.mark(id, dirty);
    }

    pub(super) fn mark(&mut self, id: DestId, dirty: &mut Vec<DestId>) {
        if !self.dirty {
            self.dirty = true;
            dirty.push(id);
        }
    }

    /// Nothing is left of it, here or with peers.
    pub(super) fn is_forgotten(&self) -> bool {
        self.paths.is_empty() && !self.dirty && self.told == 0
    }

    /// A group has been told something of it, and nothing before.
    pub(super) const fn told_by_one_more(&mut self) {
        self.told += 1;
    }

    /// A group has withdrawn all that it was told.
    pub(super) const fn told_by_one_less(&mut self) {
        self.told = self.told.saturating_sub(1);
    }

    pub(super) fn best(&self) -> Option<&Path> {
        self.paths.first().filter(|_| self.has_best && !self.best_touched)
    }

    fn position(&self, from: Origination, path_id: u32) -> Option<usize> {
        self.paths.iter().position(|path| path.from == from && path.path_id == path_id)
    }

    /// The number to take for one more path. Nearly always the count of paths does: only where one in the middle
    /// has gone it may be taken, and the lowest that is free is looked for.
    fn free_label(&self) -> u16 {
        let next = u16::try_from(self.paths.len() + 1).unwrap_or(0);
        if next > 0 && self.paths.iter().all(|path| path.label != next) {
            return next;
        }
        let mut taken: Vec<u16> = self.paths.iter().map(|path| path.label).collect();
        taken.sort_unstable();
        let mut free = 1_u16;
        for label in taken.into_iter().filter(|label| *label > 0) {
            match label == free {
                true => free = free.checked_add(1).unwrap_or(0),
                false => break,
            }
        }
        free
    }

    /// Takes a path out. The first place stays the best path's, unless it was taken.
    fn take(&mut self, index: usize) -> Path {
        self.best_touched |= index == 0 && self.has_best;
        match index {
            0 => self.paths.remove(0),
            _ => self.paths.swap_remove(index),
        }
    }
}

impl<P: TablePrefix> FamilyRib<P> {
    /// Adds or replaces a path. One that is already there just the same only becomes fresh.
    pub(super) fn put(&mut self, shared: &mut Shared, prefix: P, mut path: Path) {
        let id = self.table.id_or_insert(prefix);
        if shared.nexthops.is_unknown(path.nexthop) {
            self.waiting.entry(path.nexthop).or_default().push(id);
        }
        let Some(dest) = self.table.get_mut(id) else { return };
        match dest.position(path.from, path.path_id) {
            Some(index) => {
                let Some(held) = dest.paths.get_mut(index) else { return };
                if Arc::ptr_eq(&held.raw, &path.raw)
                    && same_use(&held.used, &path.used)
                    && held.nexthop == path.nexthop
                {
                    held.generation = path.generation;
                    shared.nexthops.release(path.nexthop, &mut shared.out);
                    return;
                }
                path.label = held.label;
                let old = std::mem::replace(held, path);
                let new_accepted = held.used.is_ok();
                shared.forget::<P>(&old);
                shared.count(old.from, P::FAMILY, 1, isize::from(new_accepted));
                dest.touch(index, id, &mut self.dirty);
            }
            None => {
                shared.count(path.from, P::FAMILY, 1, isize::from(path.used.is_ok()));
                path.label = dest.free_label();
                dest.paths.push(path);
                self.held += 1;
                dest.mark(id, &mut self.dirty);
            }
        }
    }

    pub(super) fn holds(&self, prefix: P, from: Origination, path_id: u32) -> bool {
        self.table.find(prefix).is_some_and(|dest| dest.position(from, path_id).is_some())
    }

    /// Takes a path away, if it is there.
    pub(super) fn withdraw(&mut self, shared: &mut Shared, peer: PeerId, prefix: P, path_id: u32) {
        self.remove(shared, peer.into(), prefix, path_id);
        shared.ask_again_if_room(peer, P::FAMILY);
    }

    pub(super) fn remove(&mut self, shared: &mut Shared, from: Origination, prefix: P, path_id: u32) {
        let Some(id) = self.table.id(prefix) else { return };
        let Some(dest) = self.table.get_mut(id) else { return };
        let Some(index) = dest.position(from, path_id) else { return };
        let path = dest.take(index);
        self.held -= 1;
        shared.forget::<P>(&path);
        dest.mark(id, &mut self.dirty);
    }

    /// Removes a peer's paths, all of them or only those left over from before; answers how many.
    pub(super) fn remove_paths(&mut self, shared: &mut Shared, peer: PeerId, only_stale: bool) -> usize {
        let Some(held) = shared.peer(peer) else { return 0 };
        let generation = *held.generation.get(P::FAMILY);
        self.remove_where(shared, peer, |path| !(only_stale && path.generation == generation))
    }

    /// Removes those of a peer's paths for which `goes` holds; answers how many.
    pub(super) fn remove_where(
        &mut self,
        shared: &mut Shared,
        peer: PeerId,
        goes: impl Fn(&Path) -> bool,
    ) -> usize {
        if shared.peer(peer).is_none_or(|held| *held.received.get(P::FAMILY) == 0) {
            return 0;
        }
        let from = Origination::from(peer);
        let mut count = 0;
        for (id, dest) in self.table.iter_mut() {
            let gone = |path: &Path| path.from == from && goes(path);
            while let Some(index) = dest.paths.iter().position(gone) {
                let path = dest.take(index);
                shared.forget::<P>(&path);
                dest.mark(id, &mut self.dirty);
                count += 1;
            }
        }
        self.held -= count;
        shared.ask_again_if_room(peer, P::FAMILY);
        count
    }

    /// Replaces what we originate.
    pub(super) fn set_networks(&mut self, shared: &mut Shared, old: &[Network], new: &[Network]) {
        fn of_family<P: TablePrefix>(networks: &[Network]) -> BTreeMap<P, &Network> {
            networks.iter().filter_map(|network| Some((P::from_prefix(network.prefix)?, network))).collect()
        }
        let (held, wanted) = (of_family::<P>(old), of_family::<P>(new));
        for prefix in held.keys().filter(|prefix| !wanted.contains_key(prefix)) {
            self.remove(shared, Origination::LOCAL, *prefix, 0);
        }
        for (prefix, network) in
            wanted.into_iter().filter(|(prefix, network)| held.get(prefix) != Some(network))
        {
            let path = originated(network, shared);
            self.put(shared, prefix, path);
            self.networks_touched = true;
        }
    }

    /// Has every prefix decided on and told again, as far as something has changed.
    pub(super) fn everything_dirty(&mut self, shared: &mut Shared) {
        for (id, dest) in self.table.iter_mut() {
            dest.best_touched = true;
            dest.mark(id, &mut self.dirty);
        }
        let peers: Vec<PeerId> = shared.peers.iter().flatten().map(|peer| peer.id).collect();
        for peer in peers {
            self.regroup(shared, peer);
        }
    }

    /// The resolution of a next hop has changed, or is known at last.
    pub(super) fn take_news(&mut self, news: News) {
        match news {
            News::None => {}
            News::Change(id) => self.changed_nexthops.push(id),
            News::First(id) => {
                for id in self.waiting.remove(&id).unwrap_or_default() {
                    // Its number may be another prefix's by now: one decision too many.
                    if let Some(dest) = self.table.get_mut(id) {
                        dest.mark(id, &mut self.dirty);
                    }
                }
            }
        }
    }

    pub(super) fn is_decided(&self) -> bool {
        self.dirty.is_empty() && self.changed_nexthops.is_empty()
    }

    /// Decides on some of the prefixes that wait; `false` if none did.
    pub(super) fn decide_some(&mut self, shared: &mut Shared) -> bool {
        let changed = std::mem::take(&mut self.changed_nexthops);
        if !changed.is_empty() {
            for (id, dest) in self.table.iter_mut() {
                if dest.paths.iter().any(|path| changed.contains(&path.nexthop)) {
                    dest.mark(id, &mut self.dirty);
                }
            }
        }
        if self.dirty.is_empty() {
            return false;
        }
        let rest = self.dirty.len().saturating_sub(DECISIONS);
        let batch = self.dirty.split_off(rest);
        for id in batch {
            self.decide(shared, id);
        }
        true
    }

    /// While selection is deferred: decides on what we originate, which no peer's path can beat.
    pub(super) fn decide_local(&mut self, shared: &mut Shared) -> bool {
        if !std::mem::take(&mut self.networks_touched) {
            return false;
        }
        let table = &self.table;
        let is_ours = |id: &DestId| {
            table.get(*id).is_some_and(|dest| dest.paths.iter().any(|path| path.from == Origination::LOCAL))
        };
        let (ours, others) = std::mem::take(&mut self.dirty).into_iter().partition(is_ours);
        self.dirty = others;
        let ours: Vec<DestId> = ours;
        for id in ours {
            self.decide(shared, id);
        }
        true
    }

    fn decide(&mut self, shared: &mut Shared, id: DestId) {
        let Some(prefix) = self.table.prefix(id) else { return };
        let Some(dest) = self.table.get_mut(id) else { return };
        dest.dirty = false;
        let selection = decide::select(&dest.paths, shared);
        let (had_best, has_best) = (dest.has_best, selection.best.is_some());
        let tell = std::mem::take(&mut dest.best_touched) || had_best != has_best || selection.best > Some(0);
        let route = KernelRoute::of(&dest.paths, &selection, shared);
        if let Some(best) = selection.best {
            dest.paths.swap(0, best);
        }
        dest.has_best = has_best;
        self.reachable = self.reachable + usize::from(has_best) - usize::from(had_best);
        route.install(dest, prefix, shared);
        let counts_as =
            dest.best().and_then(|best| best.used.as_ref().ok()).map(|used| used.attributes.origin);
        let counted = std::mem::replace(&mut dest.counted, counts_as);
        if tell && shared.watched {
            shared.out.push_back(RibOutput::Best(prefix.into()));
        }
        // Those that are told several paths may have to hear of any change.
        let concerned = self.groups.values_mut().filter(|group| tell || group.is_told_several());
        concerned.for_each(|group| group.mark(id));
        if shared.holding && dest.paths.len() > 1 {
            // What peers have said of our prefix is decided on when the wait is over.
            dest.mark(id, &mut self.dirty);
        }
        if dest.is_forgotten() {
            self.table.let_go(id);
        }
        if counted != counts_as {
            for index in self.aggregates.count(prefix, counted, counts_as) {
                self.originate_aggregate(shared, index);
            }
        }
    }
}

fn originated(network: &Network, shared: &mut Shared) -> Path {
    let attributes = Attributes {
        origin: Origin::Igp,
        med: network.med,
        local_pref: network.local_pref,
        communities: network.communities.clone().into(),
        large_communities: network.large_communities.clone().into(),
        ..Attributes::default()
    };
    let raw = shared.attrs.intern(attributes, None);
    let used = Ok(Arc::clone(&raw));
    Path::new(Origination::LOCAL, 0, raw, used, NexthopId::NONE, 0)
}

fn same_use(one: &Result<Arc<PathAttrs>, Refused>, other: &Result<Arc<PathAttrs>, Refused>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => Arc::ptr_eq(one, other),
        (Err(one), Err(other)) => one == other,
        _ => false,
    }
}

impl Shared {
    pub(super) fn is_external(&self, from: Origination) -> bool {
        from.peer().and_then(|peer| self.peer(peer)).is_some_and(|peer| !peer.internal)
    }

    /// Adjusts a peer's counts.
    pub(super) fn count(&mut self, from: Origination, family: Family, received: isize, accepted: isize) {
        let Some(peer) = from.peer().and_then(|peer| self.peer_mut(peer)) else { return };
        let add = |count: &mut usize, change: isize| *count = count.saturating_add_signed(change);
        add(peer.received.get_mut(family), received);
        add(peer.accepted.get_mut(family), accepted);
    }

    fn forget<P: TablePrefix>(&mut self, path: &Path) {
        self.count(path.from, P::FAMILY, -1, -isize::from(path.used.is_ok()));
        self.nexthops.release(path.nexthop, &mut self.out);
    }

    /// The next hop of a path under watch, with the link it belongs to.
    pub(super) fn acquire_nexthop(&mut self, next_hop: Option<NextHop>, scope: u32) -> NexthopId {
        let Some(next_hop) = next_hop else { return NexthopId::NONE };
        let addr = next_hop.addr();
        let link_local = matches!(addr, std::net::IpAddr::V6(addr) if addr.is_unicast_link_local());
        let scope = if link_local { scope } else { 0 };
        self.nexthops.acquire(Nexthop { addr, scope }, &mut self.out)
    }
}
