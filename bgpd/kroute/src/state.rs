//! Desired against actual: what has to be written so that the kernel holds what callers asked for.
//!
//! Pure bookkeeping without sockets. One entry for each prefix says what is wanted and what the kernel is known to
//! hold; prefixes where the two may differ wait in a queue.

mod entries;
#[cfg(test)]
mod model;
mod objects;
mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::error::Subject;
use crate::message::nexthop::NexthopMessage;
use crate::message::route::{Place, Shape};
use crate::requests::Refusal;
use crate::{Failure, Gateway, Hop, Owner, Target};

use entries::{Entries, Queue};
pub(crate) use objects::Put;
use objects::{Objects, SetId};
pub(crate) use observe::Reread;

/// A [`Shape`] in eight bytes: source addresses are few and are kept aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compact {
    Nexthop(u32),
    Blackhole,
    Device { ifindex: u32, source: u16 },
}

/// Stands for "no preferred source" among [`Compact::Device`]'s.
const NO_SOURCE: u16 = u16::MAX;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Nothing,
    Via(SetId),
    Fixed(Compact),
}

#[derive(Debug, Default)]
struct Entry {
    wanted: Wanted,
    actual: Option<Compact>,
    queued: bool,
}

/// A write to the routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteOp {
    /// Add; refused where anybody's route stands there already.
    Add(IpNetwork, Shape),
    /// Put in the place of our own.
    Replace(IpNetwork, Shape),
    /// Delete.
    Delete(IpNetwork),
}

impl RouteOp {
    fn prefix(&self) -> IpNetwork {
        match self {
            Self::Add(prefix, _) | Self::Replace(prefix, _) | Self::Delete(prefix) => *prefix,
        }
    }
}

/// See the module's documentation.
pub(crate) struct State {
    owner: Owner,
    entries: Entries,
    queue: Queue,
    objects: Objects,
    sources: Vec<IpAddr>,
    failures: BTreeMap<Subject, Failure>,
    /// Grows with every change of `failures`.
    failures_version: u64,
    /// Entries with something in the kernel.
    installed: usize,
    /// Own routes of another table or metric, left by a predecessor that was configured otherwise.
    strays: BTreeSet<Place>,
    swept: bool,
    /// The kernel contradicted our picture of it.
    suspicious: bool,
    /// Next hops taken into use and out of it, for whoever resolves them.
    changes: Vec<Change>,
}

impl State {
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            objects: Objects::new(&owner),
            owner,
            entries: Entries::default(),
            queue: Queue::default(),
            sources: Vec::new(),
            failures: BTreeMap::new(),
            failures_version: 0,
            installed: 0,
            strays: BTreeSet::new(),
            swept: false,
            suspicious: false,
            changes: Vec::new(),
        }
    }

    /// Wants `target` for `prefix`.
    pub(crate) fn set(&mut self, prefix: IpNetwork, target: &Target) {
        let mut change = Change::default();
        let wanted = match target {
            Target::Blackhole => Wanted::Fixed(Compact::Blackhole),
            Target::Device { ifindex, source } => Wanted::Fixed(self.compact_device(*ifindex, *source)),
            Target::Via(hops) => {
                let (id, fresh) = self.objects.hold(&canonical(hops));
                change.held = fresh;
                Wanted::Via(id)
            }
        };
        let actual = self.entries.get(prefix).and_then(|entry| entry.actual);
        if let (Wanted::Via(set), Some(Compact::Nexthop(id))) = (wanted, actual) {
            self.objects.hint(set, id);
        }
        change.released = self.want(prefix, wanted);
        self.note(change);
    }

    /// Wants no route for `prefix`.
    pub(crate) fn remove(&mut self, prefix: IpNetwork) {
        if self.entries.get(prefix).is_some() {
            let released = self.want(prefix, Wanted::Nothing);
            self.note(Change { held: Vec::new(), released });
        }
    }

    fn note(&mut self, change: Change) {
        if change != Change::default() {
            self.changes.push(change);
        }
    }

    /// Which next hops came into use and went out of it since the last call, in order.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn want(&mut self, prefix: IpNetwork, wanted: Wanted) -> Vec<Hop> {
        let entry = self.entries.hold(prefix);
        let before = std::mem::replace(&mut entry.wanted, wanted);
        // An adopted route that nobody wanted so far must go when a caller says so, hence no test for equality.
        self.enqueue(prefix);
        match before {
            Wanted::Via(set) => self.objects.release(set),
            Wanted::Nothing | Wanted::Fixed(_) => Vec::new(),
        }
    }

    /// From now on what nobody wants is removed, a predecessor's routes included.
    pub(crate) fn sweep(&mut self) {
        self.swept = true;
        self.objects.sweep();
        for prefix in self.entries.which(|_, entry| entry.wanted == Wanted::Nothing) {
            self.enqueue(prefix);
        }
    }

    /// Every prefix that somebody wants, in order.
    pub(crate) fn wanted(&self) -> Vec<IpNetwork> {
        self.entries.which(|_, entry| entry.wanted != Wanted::Nothing)
    }

    /// A next hop of some route was resolved.
    pub(crate) fn resolved(&mut self, hop: Hop, gateways: &[Gateway]) {
        self.objects.resolved(hop, gateways);
    }

    /// Objects to write first.
    pub(crate) fn plan_singles(&mut self) -> Vec<Put> {
        self.objects.plan_singles()
    }

    /// Objects to write second.
    pub(crate) fn plan_groups(&mut self) -> Vec<Put> {
        self.objects.plan_groups()
    }

    /// Notes how a write of an object went.
    pub(crate) fn record_put(&mut self, put: &Put, outcome: &Result<(), Refusal>) {
        self.objects.record(put, outcome);
        let subject = Subject::Nexthop(put.message.id);
        match outcome {
            Ok(()) => {
                self.mend(subject);
            }
            Err(refusal) => {
                self.suspicious |= matches!(refusal.errno, libc::EEXIST | libc::ENOENT);
                self.fail(subject, refusal);
            }
        }
    }

    /// Queues the routes whose object is another one now.
    pub(crate) fn settle(&mut self) {
        let changed = self.objects.settle();
        if changed.is_empty() {
            return;
        }
        let affected = |entry: &Entry| matches!(entry.wanted, Wanted::Via(set) if changed.contains(&set));
        for prefix in self.entries.which(|_, entry| affected(entry)) {
            self.enqueue(prefix);
        }
    }

    /// The next writes, at most `limit`; empty when the queue is.
    pub(crate) fn plan_routes(&mut self, limit: usize) -> Vec<RouteOp> {
        let mut ops = Vec::new();
        while ops.len() < limit
            && let Some(prefix) = self.queue.pop()
        {
            ops.extend(self.plan_route(prefix));
        }
        ops
    }

    fn plan_route(&mut self, prefix: IpNetwork) -> Option<RouteOp> {
        let entry = self.entries.get_mut(prefix)?;
        entry.queued = false;
        let wanted = match entry.wanted {
            Wanted::Nothing => None,
            Wanted::Fixed(compact) => Some(compact),
            // Without an object yet: what stands there stays until there is one.
            Wanted::Via(set) => Some(Compact::Nexthop(self.objects.handle(set)?)),
        };
        match (wanted, entry.actual) {
            (None, None) => {
                self.entries.remove(prefix);
                self.mend(Subject::Route(prefix));
                None
            }
            (None, Some(_)) => Some(RouteOp::Delete(prefix)),
            (Some(wanted), Some(actual)) if wanted == actual => {
                self.mend(Subject::Route(prefix));
                None
            }
            (Some(wanted), Some(_)) => Some(RouteOp::Replace(prefix, self.expand(wanted))),
            (Some(wanted), None) => Some(RouteOp::Add(prefix, self.expand(wanted))),
        }
    }

    /// Notes how a write of a route went; true if it succeeded.
    pub(crate) fn record_route(&mut self, op: &RouteOp, outcome: &Result<(), Refusal>) -> bool {
        let prefix = op.prefix();
        match (op, outcome) {
            (RouteOp::Add(_, shape) | RouteOp::Replace(_, shape), Ok(())) => {
                let compact = self.compact(*shape);
                self.set_actual(prefix, Some(compact));
                self.mend(Subject::Route(prefix));
            }
            (RouteOp::Delete(_), Ok(())) => self.forget(prefix),
            (RouteOp::Delete(_), Err(refusal)) if refusal.errno == libc::ESRCH => self.forget(prefix),
            (RouteOp::Replace(..), Err(refusal)) if refusal.errno == libc::ENOENT => {
                // Somebody deleted it and the event is still on its way.
                self.set_actual(prefix, None);
                self.enqueue(prefix);
            }
            (_, Err(refusal)) => {
                let subject = Subject::Route(prefix);
                let known = self.failures.get(&subject).is_some_and(|failure| failure.errno == refusal.errno);
                // EEXIST: is it ours after all? EINVAL: does our nexthop object still exist?
                self.suspicious |= !known && matches!(refusal.errno, libc::EEXIST | libc::EINVAL);
                self.fail(subject, refusal);
            }
        }
        outcome.is_ok()
    }

    fn forget(&mut self, prefix: IpNetwork) {
        self.set_actual(prefix, None);
        // Removes the entry, unless it is wanted again by now.
        self.enqueue(prefix);
    }

    /// Objects to delete, in this order.
    pub(crate) fn plan_garbage(&mut self) -> Vec<u32> {
        self.objects.plan_garbage()
    }

    /// An object was deleted.
    pub(crate) fn object_gone(&mut self, id: u32) {
        self.objects.gone(id);
        self.mend(Subject::Nexthop(id));
    }

    /// Own routes in the wrong place, once they may go.
    pub(crate) fn take_strays(&mut self) -> Vec<Place> {
        if self.swept { std::mem::take(&mut self.strays).into_iter().collect() } else { Vec::new() }
    }

    /// True once after the kernel contradicted our picture of it.
    pub(crate) fn take_suspicion(&mut self) -> bool {
        std::mem::take(&mut self.suspicious)
    }

    /// What the kernel refused and still lacks.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.failures.values()
    }

    /// Another number after every change of [`Self::failures`].
    pub(crate) fn failures_version(&self) -> u64 {
        self.failures_version
    }

    /// Prefixes whose write is due.
    pub(crate) fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Routes of ours that the kernel is known to hold.
    pub(crate) fn installed(&self) -> usize {
        self.installed
    }

    /// Queues every failed write again.
    pub(crate) fn retry(&mut self) {
        let failed: Vec<Subject> = self.failures.keys().copied().collect();
        for subject in failed {
            match subject {
                Subject::Route(prefix) => self.enqueue(prefix),
                Subject::Nexthop(_) => self.objects.retry(),
            }
        }
    }

    /// Takes the kernel's objects as just dumped; routes on vanished ones have vanished with them.
    pub(crate) fn reload_objects(&mut self, dumped: Vec<NexthopMessage>, adopt: bool) {
        self.objects.reload(dumped, adopt);
        let lost =
            |entry: &Entry| matches!(entry.actual, Some(Compact::Nexthop(id)) if !self.objects.exists(id));
        for prefix in self.entries.which(|_, entry| lost(entry)) {
            self.set_actual(prefix, None);
            self.enqueue(prefix);
        }
    }

    /// Takes our routes as just dumped. Call [`Self::reload_objects`] before.
    pub(crate) fn reload_routes(&mut self, dumped: Vec<(Place, Shape)>) {
        self.strays.clear();
        let mut present: BTreeMap<IpNetwork, Shape> = BTreeMap::new();
        for (place, shape) in dumped {
            if place == Place::own(&self.owner, place.prefix) {
                present.insert(place.prefix, shape);
            } else {
                self.strays.insert(place);
            }
        }
        let lost =
            |prefix: IpNetwork, entry: &Entry| entry.actual.is_some() && !present.contains_key(&prefix);
        for prefix in self.entries.which(lost) {
            self.set_actual(prefix, None);
            self.enqueue(prefix);
        }
        for (prefix, shape) in present {
            self.found(prefix, shape);
        }
        // A write whose outcome is unknown is in neither picture. (A lost deletion before the sweep waits for that.)
        let swept = self.swept;
        for prefix in self.entries.which(|_, entry| swept || entry.wanted != Wanted::Nothing) {
            self.enqueue(prefix);
        }
    }

    /// The kernel holds a route of ours in this shape.
    fn found(&mut self, prefix: IpNetwork, shape: Shape) {
        let compact = self.compact(shape);
        let entry = self.entries.hold(prefix);
        if entry.actual == Some(compact) {
            return;
        }
        let keep = entry.wanted == Wanted::Nothing && !self.swept;
        self.set_actual(prefix, Some(compact));
        if !keep {
            self.enqueue(prefix);
        }
    }

    fn set_actual(&mut self, prefix: IpNetwork, actual: Option<Compact>) {
        let Some(entry) = self.entries.get_mut(prefix) else { return };
        let before = std::mem::replace(&mut entry.actual, actual);
        if before == actual {
            return;
        }
        self.installed = self.installed + usize::from(actual.is_some()) - usize::from(before.is_some());
        if let Some(Compact::Nexthop(id)) = before {
            self.objects.count_route(id, false);
        }
        if let Some(Compact::Nexthop(id)) = actual {
            self.objects.count_route(id, true);
        }
    }

    fn enqueue(&mut self, prefix: IpNetwork) {
        if let Some(entry) = self.entries.get_mut(prefix)
            && !entry.queued
        {
            entry.queued = true;
            self.queue.push(prefix);
        }
    }

    fn fail(&mut self, subject: Subject, refusal: &Refusal) {
        let failure = Failure { subject, errno: refusal.errno, message: refusal.message.clone() };
        if self.failures.get(&subject) != Some(&failure) {
            self.failures.insert(subject, failure);
            self.failures_version += 1;
        }
    }

    fn mend(&mut self, subject: Subject) {
        if self.failures.remove(&subject).is_some() {
            self.failures_version += 1;
        }
    }

    fn compact(&mut self, shape: Shape) -> Compact {
        match shape {
            Shape::Nexthop(id) => Compact::Nexthop(id),
            Shape::Blackhole => Compact::Blackhole,
            Shape::Device { ifindex, source } => self.compact_device(ifindex, source),
        }
    }

    fn compact_device(&mut self, ifindex: u32, source: Option<IpAddr>) -> Compact {
        let Some(source) = source else { return Compact::Device { ifindex, source: NO_SOURCE } };
        let known = self.sources.iter().position(|known| *known == source);
        let index = known.unwrap_or_else(|| {
            self.sources.push(source);
            self.sources.len() - 1
        });
        Compact::Device { ifindex, source: u16::try_from(index).unwrap_or(NO_SOURCE) }
    }

    fn expand(&self, compact: Compact) -> Shape {
        match compact {
            Compact::Nexthop(id) => Shape::Nexthop(id),
            Compact::Blackhole => Shape::Blackhole,
            Compact::Device { ifindex, source } => {
                Shape::Device { ifindex, source: self.sources.get(usize::from(source)).copied() }
            }
        }
    }
}

/// Next hops that a change took into use, and out of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) held: Vec<Hop>,
    pub(crate) released: Vec<Hop>,
}

/// Sorted, without duplicates; the same allocation where it already is.
fn canonical(hops: &Arc<[Hop]>) -> Arc<[Hop]> {
    if hops.is_sorted_by(|a, b| a < b) {
        return hops.clone();
    }
    let mut list = hops.to_vec();
    list.sort_unstable();
    list.dedup();
    Arc::from(list)
}
