//! Aggregates: prefixes that we originate while there are routes inside them (RFC 4271 §9.2.2.2).
//!
//! Each decision says of a prefix as what ORIGIN it counts, if it has a route at all; an aggregate keeps how many
//! routes of each kind lie inside it, so that a change costs one look at the list of aggregates and nothing else.

use std::sync::Arc;

use turnpike_bgp_wire::{Aggregator, Attributes, Origin};

use super::Shared;
use super::nexthops::NexthopId;
use super::table::{FamilyRib, Origination, Path, TablePrefix};
use crate::config;

/// The path identifier of our own path that is an aggregate; that of a network is 0, and comes first.
pub(super) const AGGREGATE: u32 = 1;

/// The aggregates of a family, none inside itself.
#[derive(Debug)]
pub(super) struct Aggregates<P>(Vec<Aggregate<P>>);

#[derive(Debug)]
struct Aggregate<P> {
    prefix: P,
    config: config::Aggregate,
    /// Routes strictly inside it, by ORIGIN.
    members: [usize; 3],
}

impl<P> Default for Aggregates<P> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<P: TablePrefix> Aggregates<P> {
    /// A prefix counts as something else than before; answers which aggregates may look different now.
    pub(super) fn count(&mut self, prefix: P, before: Option<Origin>, now: Option<Origin>) -> Vec<usize> {
        let mut touched = Vec::new();
        for (index, aggregate) in self.0.iter_mut().enumerate() {
            if aggregate.is_around(prefix) {
                let worst = aggregate.worst();
                aggregate.take(before, usize::saturating_sub);
                aggregate.take(now, usize::saturating_add);
                if worst != aggregate.worst() {
                    touched.push(index);
                }
            }
        }
        touched
    }
}

impl<P: TablePrefix> Aggregate<P> {
    fn is_around(&self, prefix: P) -> bool {
        self.prefix != prefix && self.prefix.into().covers(prefix.into())
    }

    fn take(&mut self, origin: Option<Origin>, step: fn(usize, usize) -> usize) {
        let Some(origin) = origin else { return };
        if let Some(count) = self.members.get_mut(origin as usize) {
            *count = step(*count, 1);
        }
    }

    /// The ORIGIN to announce it with; `None`: there is nothing inside.
    fn worst(&self) -> Option<Origin> {
        let kinds = [Origin::Igp, Origin::Egp, Origin::Incomplete];
        kinds.into_iter().zip(self.members).filter(|(_, count)| *count > 0).map(|(origin, _)| origin).max()
    }
}

impl<P: TablePrefix> FamilyRib<P> {
    /// Replaces the aggregates.
    pub(super) fn set_aggregates(&mut self, shared: &mut Shared, new: &[config::Aggregate]) {
        let gone: Vec<P> = self.aggregates.0.iter().map(|aggregate| aggregate.prefix).collect();
        let own = new.iter().filter_map(|config| {
            let prefix = P::from_prefix(config.network.prefix)?;
            Some(Aggregate { prefix, config: config.clone(), members: [0; 3] })
        });
        self.aggregates = Aggregates(own.collect());
        if !self.aggregates.0.is_empty() {
            for (_, prefix, dest) in self.table.iter() {
                self.aggregates.count(prefix, None, dest.counted);
            }
        }
        let stays = |prefix: &P| self.aggregates.0.iter().any(|aggregate| aggregate.prefix == *prefix);
        for prefix in gone.into_iter().filter(|prefix| !stays(prefix)).collect::<Vec<P>>() {
            self.remove(shared, Origination::LOCAL, prefix, AGGREGATE);
        }
        for index in 0..self.aggregates.0.len() {
            self.originate_aggregate(shared, index);
        }
    }

    /// Has an aggregate announced, or not, as its members have it.
    pub(super) fn originate_aggregate(&mut self, shared: &mut Shared, index: usize) {
        let Some(aggregate) = self.aggregates.0.get(index) else { return };
        let (prefix, network) = (aggregate.prefix, &aggregate.config.network);
        match aggregate.worst() {
            None => self.remove(shared, Origination::LOCAL, prefix, AGGREGATE),
            Some(origin) => {
                let attributes = Attributes {
                    origin,
                    med: network.med,
                    local_pref: network.local_pref,
                    atomic_aggregate: true,
                    aggregator: Some(Aggregator { asn: shared.local.asn, router_id: shared.local.router_id }),
                    communities: network.communities.clone().into(),
                    large_communities: network.large_communities.clone().into(),
                    ..Attributes::default()
                };
                let raw = shared.attrs.intern(attributes, None);
                let used = Ok(Arc::clone(&raw));
                let path = Path::new(Origination::LOCAL, AGGREGATE, raw, used, NexthopId::NONE, 0);
                self.put(shared, prefix, path);
            }
        }
        self.networks_touched = true;
    }
}
