//! Groups of peers that are told the same (RFC 4271 §9.1.3, Adj-RIBs-Out).
//!
//! A group holds one Adj-RIB-Out, of slots (`rib/told.rs`). What a member has been told follows from it: everything but the entries whose
//! path came from that member. A change is encoded once and its bytes go to all members in step. A member that is
//! not in step (new, asking again, or slow to read) has a place in a walk over the Adj-RIB-Out and a set of
//! slots that changed behind it; it is told their present state when it has room, so a slow peer costs a set of
//! slots and delays nobody.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::dests::{DestId, Dests};
use super::export::{ExportCache, GroupKey};
use super::flush::Packer;
use super::pending::Pending;
use super::table::{FamilyRib, Origination, TablePrefix};
use super::told::{self, AdjOut, Told};
use super::{RibOutput, Shared};
use crate::config::SendPaths;
use crate::query::PeerId;
use crate::time::Time;

/// Prefixes handled in one step.
pub(super) const PIECE: usize = 8192;

/// Members from which on a group waits before it is told of changes. One change costs as many writes as there are
/// members; what comes in meanwhile goes with it.
const CROWD: usize = 128;
/// How long a crowd waits, for each of its members: about what telling it takes, so that it is told late by half.
const WAIT_PER_MEMBER: Duration = Duration::from_micros(5);
/// How long it waits at most.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// A group's number; groups are served in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct GroupId(u32);

/// A place in a walk over the destinations, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cursor {
    Start,
    After(DestId),
    Done,
}

impl Cursor {
    /// The walk has been past the destination.
    pub(super) fn has_passed(self, id: DestId) -> bool {
        match self {
            Cursor::Start => false,
            Cursor::After(last) => id <= last,
            Cursor::Done => true,
        }
    }

    /// The row from which it goes on.
    const fn row(self) -> Option<usize> {
        match self {
            Cursor::Start => Some(0),
            Cursor::After(last) => Some(last.row() + 1),
            Cursor::Done => None,
        }
    }
}

/// A peer in a group.
#[derive(Debug)]
pub(super) struct Member<P> {
    pub(super) walk: Cursor,
    /// Slots behind the walk that are not yet told.
    pub(super) pending: Pending<P>,
    /// The walk is not the first: what is ahead of it has been told before.
    again: bool,
    /// BoRR is to be sent before the walk (RFC 7313).
    begin_refresh: bool,
    /// EoRR is to be sent after it.
    end_refresh: bool,
    /// End-of-RIB is to be sent once the member is in step.
    end_of_rib: bool,
}

impl<P: TablePrefix> Member<P> {
    fn new() -> Self {
        Self {
            walk: Cursor::Start,
            pending: Pending::default(),
            again: false,
            begin_refresh: false,
            end_refresh: false,
            end_of_rib: true,
        }
    }

    fn in_step(&self) -> bool {
        self.walk == Cursor::Done && self.pending.is_empty()
    }

    /// Notes a change for a member that cannot be told at once.
    fn note(&mut self, id: DestId, prefix: P, path_id: u32, withdrawn: bool) {
        if self.walk.has_passed(id) || withdrawn && self.again {
            self.pending.note(id, prefix, path_id);
        }
    }
}

/// Peers that are told the same.
#[derive(Debug)]
pub(super) struct Group<P: TablePrefix> {
    pub(super) key: GroupKey,
    /// The Adj-RIB-Out.
    pub(super) out: AdjOut,
    /// How many paths stand in it.
    slots: usize,
    /// How many of them came from each source.
    by_source: HashMap<Origination, usize>,
    pub(super) members: BTreeMap<PeerId, Member<P>>,
    /// The walk over the Loc-RIB that fills `out` for the first time.
    build: Cursor,
    dirty: Vec<DestId>,
    /// When a crowd is told.
    due: Option<Time>,
    /// `dirty` is in order and without repetitions: sorting it for each piece would be quadratic.
    sorted: bool,
}

impl<P: TablePrefix> FamilyRib<P> {
    /// A peer is to be told everything.
    pub(super) fn join(&mut self, shared: &mut Shared, peer: PeerId) {
        self.join_as(shared, peer, Member::new());
    }

    fn join_as(&mut self, shared: &mut Shared, peer: PeerId, member: Member<P>) {
        let Some(key) = shared.peer(peer).and_then(|held| GroupKey::of(held, P::FAMILY, shared)) else {
            return;
        };
        if let Some(group) = self.groups.values_mut().find(|group| group.key == key) {
            group.members.insert(peer, member);
            return;
        }
        let mut group = Group {
            key,
            out: AdjOut::default(),
            slots: 0,
            by_source: HashMap::new(),
            members: BTreeMap::new(),
            build: Cursor::Start,
            dirty: Vec::new(),
            due: None,
            sorted: true,
        };
        group.members.insert(peer, member);
        self.groups.insert(GroupId(self.next_group), group);
        self.next_group += 1;
    }

    /// A peer's session is over.
    pub(super) fn leave(&mut self, _: &mut Shared, peer: PeerId) {
        for group in self.groups.values_mut() {
            group.members.remove(&peer);
        }
        self.drop_empty_groups();
    }

    /// Nobody is left to be told: what only they needed to know is let go.
    fn drop_empty_groups(&mut self) {
        for (_, group) in self.groups.extract_if(.., |_, group| group.members.is_empty()) {
            for (id, _) in group.out.iter_from(0) {
                if let Some(dest) = self.table.get_mut(id) {
                    dest.told_by_one_less();
                    self.table.let_go(id);
                }
            }
        }
    }

    /// Moves a peer to the group that its configuration now calls for. What it was told before and would not be
    /// told there is withdrawn.
    pub(super) fn regroup(&mut self, shared: &mut Shared, peer: PeerId) {
        let Some(held) = shared.peer(peer) else { return };
        let Some(key) = GroupKey::of(held, P::FAMILY, shared) else { return };
        let Some(group) = self.groups.values_mut().find(|group| group.members.contains_key(&peer)) else {
            return;
        };
        if group.key == key {
            return;
        }
        let Some(mut member) = group.members.remove(&peer) else { return };
        let table = &self.table;
        for (id, told) in group.out.iter_from(0) {
            let Some(prefix) = table.prefix(id) else { continue };
            told.adverts().iter().for_each(|advert| member.pending.note(id, prefix, advert.path_id()));
        }
        member.walk = Cursor::Start;
        member.again = true;
        self.drop_empty_groups();
        self.join_as(shared, peer, member);
    }

    /// The peer asks for everything again (RFC 2918).
    pub(super) fn send_again(&mut self, shared: &mut Shared, peer: PeerId) {
        let enhanced = shared
            .peer(peer)
            .and_then(|held| held.session.as_ref())
            .is_some_and(|session| session.enhanced_refresh);
        if let Some(member) = self.groups.values_mut().find_map(|group| group.members.get_mut(&peer)) {
            member.walk = Cursor::Start;
            member.again = true;
            // Before End-of-RIB there are no markers (RFC 7313 §4); it closes this walk as well.
            let marked = enhanced && !member.end_of_rib;
            member.begin_refresh = marked;
            member.end_refresh = marked;
        }
    }

    /// Paths announced to a peer.
    pub(super) fn advertised(&self, peer: PeerId) -> usize {
        let group = self.groups.values().find(|group| group.members.contains_key(&peer));
        group.map_or(0, |group| {
            let own = group.by_source.get(&peer.into()).copied().unwrap_or_default();
            group.slots - own
        })
    }

    /// Fills every Adj-RIB-Out, and tells nobody.
    pub(super) fn build_all(&mut self, shared: &mut Shared) {
        for group in self.groups.values_mut() {
            while group.build_some(&mut self.table, shared) {}
        }
    }

    /// Tells some peers something; `false` if there was nothing to tell, or nobody with room to take it.
    pub(super) fn tell_some(&mut self, shared: &mut Shared) -> bool {
        self.groups.values_mut().any(|group| {
            group.build_some(&mut self.table, shared)
                || group.tell_changes(&mut self.table, shared)
                || group.walk_some(&self.table, shared)
                || group.catch_up_some(&self.table, shared)
                || group.dirty.is_empty() && group.finish_some(shared)
        })
    }

    /// When the next crowd is told.
    pub(super) fn next_telling(&self) -> Option<Time> {
        self.groups.values().filter_map(|group| group.due).min()
    }
}

impl<P: TablePrefix> Group<P> {
    /// Its members are told several paths of a prefix.
    pub(super) fn is_told_several(&self) -> bool {
        self.key.paths != SendPaths::Best
    }

    /// What the group is told of a prefix may have changed.
    pub(super) fn mark(&mut self, id: DestId) {
        if self.build.has_passed(id) {
            self.dirty.push(id);
            self.sorted = false;
        }
    }

    fn build_some(&mut self, table: &mut Dests<P>, shared: &mut Shared) -> bool {
        let Some(first) = self.build.row() else { return false };
        let mut cache = ExportCache::default();
        let mut seen = 0;
        let mut last = None;
        let mut told_of = Vec::new();
        for (id, prefix, dest) in table.iter_from(first).take(PIECE) {
            seen += 1;
            last = Some(id);
            if let Some(told) = Told::wanted(&self.key, prefix, dest, shared, &mut cache) {
                for advert in told.adverts() {
                    *self.by_source.entry(advert.from).or_default() += 1;
                    self.slots += 1;
                }
                if matches!(self.out.replace(id, Some(&told)), Ok(None)) {
                    told_of.push(id);
                }
            }
        }
        for id in told_of {
            if let Some(dest) = table.get_mut(id) {
                dest.told_by_one_more();
            }
        }
        self.build = match last {
            Some(last) if seen == PIECE => Cursor::After(last),
            _ => Cursor::Done,
        };
        true
    }

    /// Works out what changed for the group, tells the members in step, and notes it for the others.
    fn tell_changes(&mut self, table: &mut Dests<P>, shared: &mut Shared) -> bool {
        if self.dirty.is_empty() {
            self.due = None;
            return false;
        }
        if self.members.len() >= CROWD {
            let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
            let wait = WAIT_PER_MEMBER.saturating_mul(members).min(LONGEST_WAIT);
            if shared.now < *self.due.get_or_insert(shared.now + wait) {
                return false;
            }
        }
        if !std::mem::replace(&mut self.sorted, true) {
            self.dirty.sort_unstable();
            self.dirty.dedup();
        }
        let rest = self.dirty.len().saturating_sub(PIECE);
        let batch = self.dirty.split_off(rest);
        let audience: Vec<PeerId> = self
            .members
            .iter()
            .filter(|(peer, member)| member.in_step() && shared.has_room(**peer))
            .map(|(peer, _)| *peer)
            .collect();
        let late: Vec<PeerId> =
            self.members.keys().filter(|peer| audience.binary_search(peer).is_err()).copied().collect();
        let mut packer = Packer::new();
        let mut cache = ExportCache::default();
        for id in batch {
            let Some((prefix, dest)) = table.entry(id) else { continue };
            let new = Told::wanted(&self.key, prefix, dest, shared, &mut cache);
            let Ok(old) = self.out.replace(id, new.as_ref()) else { continue };
            if let Some(dest) = table.get_mut(id) {
                match (old.is_some(), new.is_some()) {
                    (false, true) => dest.told_by_one_more(),
                    (true, false) => dest.told_by_one_less(),
                    _ => {}
                }
            }
            for (old, new) in told::differences(old.as_ref(), new.as_ref()) {
                self.count(old.map(|old| old.from), new.map(|new| new.from));
                let Some(path_id) = new.or(old).map(|advert| advert.path_id()) else { continue };
                for peer in &late {
                    if let Some(member) = self.members.get_mut(peer) {
                        let from_itself = new.is_some_and(|new| new.from == (*peer).into());
                        member.note(id, prefix, path_id, new.is_none() || from_itself);
                    }
                }
                packer.change(prefix, old, new);
            }
            if new.is_none() {
                table.let_go(id);
            }
        }
        packer.send(&self.key, &audience, shared);
        true
    }

    /// A slot has changed hands.
    fn count(&mut self, old: Option<Origination>, new: Option<Origination>) {
        if let Some(from) = new {
            *self.by_source.entry(from).or_default() += 1;
            self.slots += 1;
        }
        if let Some(from) = old
            && let Some(count) = self.by_source.get_mut(&from)
        {
            *count -= 1;
            self.slots -= 1;
        }
    }

    /// Takes members that stand at the same place of the walk a piece further.
    fn walk_some(&mut self, table: &Dests<P>, shared: &mut Shared) -> bool {
        let can_walk =
            |peer: &PeerId, member: &Member<P>| member.walk != Cursor::Done && shared.has_room(*peer);
        let Some(walk) =
            self.members.iter().find(|(peer, member)| can_walk(peer, member)).map(|(_, m)| m.walk)
        else {
            return false;
        };
        let audience: Vec<PeerId> = self
            .members
            .iter()
            .filter(|(peer, member)| member.walk == walk && can_walk(peer, member))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in &audience {
            let member = self.members.get_mut(peer);
            if member.is_some_and(|member| std::mem::take(&mut member.begin_refresh)) {
                super::flush::send_refresh_marker(*peer, P::FAMILY, true, shared);
            }
        }
        let mut packer = Packer::new();
        let mut seen = 0;
        let mut last = None;
        let first = walk.row().unwrap_or(usize::MAX);
        for (id, told) in self.out.iter_from(first).take(PIECE) {
            seen += 1;
            last = Some(id);
            let Some(prefix) = table.prefix(id) else { continue };
            told.adverts().iter().for_each(|advert| packer.change(prefix, None, Some(advert)));
        }
        packer.send(&self.key, &audience, shared);
        let next = match last {
            Some(last) if seen == PIECE => Cursor::After(last),
            _ => Cursor::Done,
        };
        for peer in &audience {
            if let Some(member) = self.members.get_mut(peer) {
                member.walk = next;
            }
        }
        true
    }

    /// Tells a member the present state of slots that changed while it was not in step.
    fn catch_up_some(&mut self, table: &Dests<P>, shared: &mut Shared) -> bool {
        let waiting = self
            .members
            .iter_mut()
            .find(|(peer, member)| !member.pending.is_empty() && shared.has_room(**peer));
        let Some((peer, member)) = waiting else { return false };
        let peer = *peer;
        let mut packer = Packer::new();
        for slot in member.pending.take(PIECE) {
            let told = slot.dest(table).and_then(|id| self.out.get(id));
            let advert = told.and_then(|told| told.slot(slot.path_id));
            match advert.filter(|advert| advert.from != peer.into()) {
                Some(advert) => packer.change(slot.prefix, None, Some(advert)),
                None => packer.withdraw(slot.prefix, slot.path_id),
            }
        }
        packer.send(&self.key, &[peer], shared);
        true
    }

    /// Sends the markers that close a walk.
    fn finish_some(&mut self, shared: &mut Shared) -> bool {
        let mut any = false;
        for (peer, member) in self.members.iter_mut().filter(|(_, member)| member.in_step()) {
            member.again = false;
            if std::mem::take(&mut member.end_refresh) {
                super::flush::send_refresh_marker(*peer, P::FAMILY, false, shared);
                any = true;
            }
            if member.end_of_rib && shared.may_end {
                member.end_of_rib = false;
                super::flush::send_end_of_rib(*peer, P::FAMILY, shared);
                shared.out.push_back(RibOutput::EndOfRibSent { peer: *peer, family: P::FAMILY });
                any = true;
            }
        }
        any
    }
}
