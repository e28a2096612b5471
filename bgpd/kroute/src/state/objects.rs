//! Nexthop objects: which next hop and which set of next hops stands on which kernel object.
//!
//! Every next hop has objects of its own, one for each gateway it resolves to, even where two next hops share a
//! gateway: when the underlay moves one of them, one replaced object moves all its routes. A set of next hops that
//! comes down to one object is that object; otherwise it is a group. Groups hold objects and not groups (the kernel
//! allows no more), so all gateways of all next hops stand side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::message::nexthop::{Member, NexthopKind, NexthopMessage};
use crate::requests::Refusal;
use crate::{Gateway, Hop, Owner};

/// A set of next hops that routes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetId(u32);

/// Create an object, or replace the content of an existing one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) message: NexthopMessage,
    pub(crate) exists: bool,
}

#[derive(Debug, Default)]
struct HopState {
    /// Sets that contain it.
    sets: usize,
    reachable: bool,
    gateways: Vec<Gateway>,
    /// Objects for the gateways, in their order.
    ids: Vec<u32>,
    /// Adopted objects that routes of this next hop used.
    hints: BTreeSet<u32>,
}

#[derive(Debug)]
struct SetState {
    hops: Arc<[Hop]>,
    routes: usize,
    /// The object that routes refer to, once it is in the kernel.
    handle: Option<u32>,
    group: Option<u32>,
    hint: Option<u32>,
}

#[derive(Debug)]
struct KernelObject {
    kind: NexthopKind,
    /// Routes of ours on it.
    routes: usize,
    /// Left by a predecessor and not yet swept.
    adopted: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Objects {
    protocol: u8,
    first: u32,
    last: u32,
    cursor: u32,
    hops: BTreeMap<Hop, HopState>,
    sets: BTreeMap<SetId, SetState>,
    by_hops: BTreeMap<Arc<[Hop]>, SetId>,
    next_set: u32,
    kernel: BTreeMap<u32, KernelObject>,
    claimed: BTreeSet<u32>,
    /// Something may have to be written.
    dirty: bool,
    /// It is being written. What is wanted anew meanwhile is for the next time.
    writing: bool,
    /// Something may have to be deleted.
    garbage: bool,
}

impl Objects {
    pub(crate) fn new(owner: &Owner) -> Self {
        Self {
            protocol: owner.protocol,
            first: *owner.nexthop_ids.start(),
            last: *owner.nexthop_ids.end(),
            cursor: *owner.nexthop_ids.start(),
            hops: BTreeMap::new(),
            sets: BTreeMap::new(),
            by_hops: BTreeMap::new(),
            next_set: 0,
            kernel: BTreeMap::new(),
            claimed: BTreeSet::new(),
            dirty: false,
            writing: false,
            garbage: false,
        }
    }

    /// One more route through `hops` (sorted, without duplicates). Also tells which of them are new.
    pub(crate) fn hold(&mut self, hops: &Arc<[Hop]>) -> (SetId, Vec<Hop>) {
        if let Some(id) = self.by_hops.get(hops).copied() {
            if let Some(set) = self.sets.get_mut(&id) {
                set.routes += 1;
            }
            return (id, Vec::new());
        }
        let id = SetId(self.next_set);
        self.next_set = self.next_set.wrapping_add(1);
        let state = SetState { hops: hops.clone(), routes: 1, handle: None, group: None, hint: None };
        self.sets.insert(id, state);
        self.by_hops.insert(hops.clone(), id);
        let mut fresh = Vec::new();
        for hop in hops.iter() {
            let state = self.hops.entry(*hop).or_default();
            if state.sets == 0 {
                fresh.push(*hop);
            }
            state.sets += 1;
        }
        self.dirty = true;
        (id, fresh)
    }

    /// One route less; the next hops that nobody uses any more.
    pub(crate) fn release(&mut self, id: SetId) -> Vec<Hop> {
        let Some(set) = self.sets.get_mut(&id) else { return Vec::new() };
        set.routes = set.routes.saturating_sub(1);
        if set.routes > 0 {
            return Vec::new();
        }
        let Some(set) = self.sets.remove(&id) else { return Vec::new() };
        self.by_hops.remove(&set.hops);
        if let Some(group) = set.group {
            self.claimed.remove(&group);
        }
        let mut unused = Vec::new();
        for hop in set.hops.iter() {
            let Some(state) = self.hops.get_mut(hop) else { continue };
            state.sets -= 1;
            if state.sets == 0 {
                for id in &state.ids {
                    self.claimed.remove(id);
                }
                self.hops.remove(hop);
                unused.push(*hop);
            }
        }
        self.garbage = true;
        unused
    }

    /// A route that shall go through `set` goes through the adopted object `id`: use it where it fits.
    pub(crate) fn hint(&mut self, set: SetId, id: u32) {
        let Some(object) = self.kernel.get(&id).filter(|object| object.adopted) else { return };
        let Some(set) = self.sets.get_mut(&set).filter(|set| set.handle.is_none()) else { return };
        let members: Vec<u32> = match &object.kind {
            NexthopKind::Group(members) => {
                set.hint = Some(id);
                members.iter().map(|member| member.id).collect()
            }
            _ => vec![id],
        };
        for hop in set.hops.iter() {
            if let Some(state) = self.hops.get_mut(hop) {
                state.hints.extend(members.iter().copied());
            }
        }
    }

    /// The object for routes through this set; `None` while there is none.
    pub(crate) fn handle(&self, set: SetId) -> Option<u32> {
        self.sets.get(&set)?.handle
    }

    /// A next hop was resolved. While it is unreachable its objects stay as they are: routes through it are for
    /// the routing protocol to move.
    pub(crate) fn resolved(&mut self, hop: Hop, gateways: &[Gateway]) {
        let Some(state) = self.hops.get_mut(&hop) else { return };
        state.reachable = !gateways.is_empty();
        if state.reachable {
            state.gateways = gateways.to_vec();
            self.dirty = true;
        }
    }

    /// Single objects to write, so that groups can be made of them next.
    pub(crate) fn plan_singles(&mut self) -> Vec<Put> {
        self.writing |= std::mem::take(&mut self.dirty);
        if !self.writing {
            return Vec::new();
        }
        let mut puts = Vec::new();
        let hops: Vec<Hop> =
            self.hops.iter().filter(|(_, state)| state.reachable).map(|(hop, _)| *hop).collect();
        for hop in hops {
            self.plan_hop(hop, &mut puts);
        }
        puts
    }

    fn plan_hop(&mut self, hop: Hop, puts: &mut Vec<Put>) {
        let Some(mut state) = self.hops.remove(&hop) else { return };
        for surplus in state.ids.drain(state.gateways.len().min(state.ids.len())..) {
            self.claimed.remove(&surplus);
            self.garbage = true;
        }
        for (index, gateway) in state.gateways.iter().enumerate() {
            let wanted = NexthopKind::Single(*gateway);
            let kept = state.ids.get(index).copied().filter(|id| self.can_become(*id, *gateway));
            let id = match kept {
                Some(id) => id,
                None => {
                    let hinted = state.hints.iter().copied().find(|id| self.is_free_and(*id, &wanted));
                    let Some(id) = hinted.or_else(|| self.fresh_id()) else { break };
                    self.claimed.insert(id);
                    match state.ids.get_mut(index) {
                        Some(slot) => {
                            self.claimed.remove(slot);
                            *slot = id;
                            self.garbage = true;
                        }
                        None => state.ids.push(id),
                    }
                    id
                }
            };
            self.put(id, wanted, puts);
        }
        self.hops.insert(hop, state);
    }

    /// Groups to write, after the singles have been recorded.
    pub(crate) fn plan_groups(&mut self) -> Vec<Put> {
        if !self.writing {
            return Vec::new();
        }
        let mut puts = Vec::new();
        let ids: Vec<SetId> = self.sets.keys().copied().collect();
        for id in ids {
            let members = self.members(id);
            if members.len() > 1 {
                self.plan_group(id, members, &mut puts);
            }
        }
        puts
    }

    fn plan_group(&mut self, set: SetId, members: Vec<Member>, puts: &mut Vec<Put>) {
        let Some(state) = self.sets.get(&set) else { return };
        let hint = state.hint;
        let wanted = NexthopKind::Group(members);
        let id = match state.group {
            Some(id) => Some(id),
            None => hint.filter(|id| self.is_free_and(*id, &wanted)).or_else(|| self.fresh_id()),
        };
        let Some(id) = id else { return };
        self.claimed.insert(id);
        if let Some(state) = self.sets.get_mut(&set) {
            state.group = Some(id);
        }
        self.put(id, wanted, puts);
    }

    /// After groups have been recorded: settles what routes refer to; the sets for which that changed.
    pub(crate) fn settle(&mut self) -> BTreeSet<SetId> {
        let mut changed = BTreeSet::new();
        if !self.writing {
            return changed;
        }
        let ids: Vec<SetId> = self.sets.keys().copied().collect();
        for id in ids {
            let members = self.members(id);
            let Some(set) = self.sets.get_mut(&id) else { continue };
            let single = members.first().filter(|_| members.len() == 1).map(|member| member.id);
            if single.is_some()
                && let Some(group) = set.group.take()
            {
                self.claimed.remove(&group);
                self.garbage = true;
            }
            let group = set.group.filter(|group| {
                matches!(self.kernel.get(group), Some(KernelObject { kind: NexthopKind::Group(_), .. }))
            });
            let handle = single.or(group);
            if handle != set.handle {
                set.handle = handle;
                changed.insert(id);
            }
        }
        self.writing = false;
        changed
    }

    /// Notes the outcome of a [`Put`].
    pub(crate) fn record(&mut self, put: &Put, outcome: &Result<(), Refusal>) {
        let id = put.message.id;
        if outcome.is_ok() {
            let kind = put.message.kind.clone();
            match self.kernel.get_mut(&id) {
                Some(object) => object.kind = kind,
                None => {
                    self.kernel.insert(id, KernelObject { kind, routes: 0, adopted: false });
                }
            }
        }
    }

    /// Objects that nothing refers to: delete them in this order.
    pub(crate) fn plan_garbage(&mut self) -> Vec<u32> {
        if !std::mem::take(&mut self.garbage) {
            return Vec::new();
        }
        let idle = |id: &u32, object: &KernelObject| {
            object.routes == 0 && !object.adopted && !self.claimed.contains(id)
        };
        let groups: BTreeSet<u32> = self
            .kernel
            .iter()
            .filter(|(id, object)| matches!(object.kind, NexthopKind::Group(_)) && idle(id, object))
            .map(|(id, _)| *id)
            .collect();
        // A member goes only when no group that stays holds it: the kernel would shrink the group.
        let held: BTreeSet<u32> = self
            .kernel
            .iter()
            .filter(|(id, _)| !groups.contains(id))
            .flat_map(|(_, object)| match &object.kind {
                NexthopKind::Group(members) => members.as_slice(),
                _ => &[],
            })
            .map(|member| member.id)
            .collect();
        let singles = self
            .kernel
            .iter()
            .filter(|(id, object)| !matches!(object.kind, NexthopKind::Group(_)) && idle(id, object))
            .map(|(id, _)| *id)
            .filter(|id| !held.contains(id));
        groups.iter().copied().chain(singles).collect()
    }

    /// An object is no longer in the kernel.
    pub(crate) fn gone(&mut self, id: u32) {
        if self.kernel.remove(&id).is_some() {
            self.dirty = true;
        }
    }

    /// True if the kernel holds the object.
    pub(crate) fn exists(&self, id: u32) -> bool {
        self.kernel.contains_key(&id)
    }

    /// A route of ours now uses, or no longer uses, the object.
    pub(crate) fn count_route(&mut self, id: u32, used: bool) {
        if let Some(object) = self.kernel.get_mut(&id) {
            object.routes = if used { object.routes + 1 } else { object.routes.saturating_sub(1) };
            self.garbage |= object.routes == 0;
        }
    }

    /// The kernel's objects of ours as just dumped. `adopt`: they are a predecessor's.
    pub(crate) fn reload(&mut self, dumped: Vec<NexthopMessage>, adopt: bool) {
        let mut kernel = BTreeMap::new();
        for NexthopMessage { protocol, id, kind } in dumped {
            if protocol != self.protocol || !(self.first..=self.last).contains(&id) {
                continue;
            }
            let old = self.kernel.get(&id);
            let routes = old.map_or(0, |object| object.routes);
            let adopted = adopt || old.is_some_and(|object| object.adopted);
            kernel.insert(id, KernelObject { kind, routes, adopted });
        }
        self.kernel = kernel;
        self.dirty = true;
        self.garbage = true;
    }

    /// Writes what is missing again.
    pub(crate) fn retry(&mut self) {
        self.dirty = true;
    }

    /// True if an object of ours, or a resolution, leads over this link.
    pub(crate) fn uses_link(&self, ifindex: u32) -> bool {
        self.kernel
            .values()
            .any(|object| matches!(object.kind, NexthopKind::Single(gateway) if gateway.ifindex == ifindex))
    }

    /// A predecessor's objects may go when nothing uses them.
    pub(crate) fn sweep(&mut self) {
        for object in self.kernel.values_mut() {
            object.adopted = false;
        }
        self.garbage = true;
    }

    /// The objects of a set's next hops that are in the kernel as wanted.
    fn members(&self, set: SetId) -> Vec<Member> {
        let Some(set) = self.sets.get(&set) else { return Vec::new() };
        let mut ids: Vec<u32> = set
            .hops
            .iter()
            .filter_map(|hop| self.hops.get(hop))
            .flat_map(|state| state.ids.iter())
            .copied()
            .filter(|id| self.exists(*id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|id| Member { id, weight: 1 }).collect()
    }

    fn put(&self, id: u32, kind: NexthopKind, puts: &mut Vec<Put>) {
        let present = self.kernel.get(&id);
        if present.is_none_or(|object| object.kind != kind) {
            let message = NexthopMessage { protocol: self.protocol, id, kind };
            puts.push(Put { message, exists: present.is_some() });
        }
    }

    /// Whether an object of this ID can hold `gateway`: the kernel refuses to turn a single into a group, and
    /// routes of one family refuse a gateway of the other.
    fn can_become(&self, id: u32, gateway: Gateway) -> bool {
        match self.kernel.get(&id).map(|object| &object.kind) {
            None => true,
            Some(NexthopKind::Single(old)) => old.address.is_ipv4() == gateway.address.is_ipv4(),
            Some(_) => false,
        }
    }

    fn is_free_and(&self, id: u32, kind: &NexthopKind) -> bool {
        !self.claimed.contains(&id) && self.kernel.get(&id).is_some_and(|object| object.kind == *kind)
    }

    /// An ID that is neither in the kernel nor promised; `None` when the range is used up.
    fn fresh_id(&mut self) -> Option<u32> {
        let size = self.last - self.first + 1;
        for _ in 0..size {
            let id = self.cursor;
            self.cursor = if id == self.last { self.first } else { id + 1 };
            if !self.claimed.contains(&id) && !self.kernel.contains_key(&id) {
                return Some(id);
            }
        }
        None
    }
}
