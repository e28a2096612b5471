//! Paths for people.

use turnpike_bgp_wire::{NextHop, Nlri, Prefix, encode_reach};

use super::Shared;
use super::attrs::PathAttrs;
use super::decide::{lost_at, select};
use super::dests::DestId;
use super::export::GroupKey;
use super::table::{Dest, FamilyRib, Origination, Path, TablePrefix};
use super::told::Advert;
use crate::output::Nexthop;
use crate::query::{PathView, PeerId, Select, Table};

impl Select {
    pub(super) const fn family(self) -> turnpike_bgp_wire::Family {
        match self {
            Select::Family(family) => family,
            Select::Exact(prefix) | Select::Within(prefix) => prefix.family(),
            Select::Longest(addr) => Prefix::host(addr).family(),
        }
    }
}

impl<P: TablePrefix> FamilyRib<P> {
    pub(super) fn view(
        &self,
        shared: &Shared,
        table: Table,
        which: Select,
        after: Option<Prefix>,
        limit: usize,
    ) -> Vec<PathView> {
        match table {
            Table::Out(peer) => self.view_out(shared, peer, which, after).take(limit).collect(),
            _ => self.view_paths(shared, table, which, after).take(limit).collect(),
        }
    }

    pub(super) fn view_paths<'a>(
        &'a self,
        shared: &'a Shared,
        table: Table,
        which: Select,
        after: Option<Prefix>,
    ) -> impl Iterator<Item = PathView> + 'a {
        let chosen = self.chosen(which, after, |dest, _| !dest.paths.is_empty());
        chosen.filter_map(|id| self.table.entry(id)).flat_map(move |(prefix, dest)| {
            let wanted = move |(_, path): &(usize, &Path)| match table {
                Table::In(peer) => path.from == peer.into(),
                Table::Accepted => path.used.is_ok(),
                Table::Loc | Table::Out(_) => true,
            };
            let equal = select(&dest.paths, shared).equal;
            dest.paths.iter().enumerate().filter(wanted).map(move |(index, path)| {
                let as_received = matches!(table, Table::In(_));
                let multipath = equal.contains(&index) && path.from != Origination::LOCAL;
                PathView { multipath, ..view_path(prefix.into(), index, path, dest, shared, as_received) }
            })
        })
    }

    pub(super) fn view_out<'a>(
        &'a self,
        shared: &'a Shared,
        peer: PeerId,
        which: Select,
        after: Option<Prefix>,
    ) -> impl Iterator<Item = PathView> + 'a {
        let group = self.groups.values().find(|group| group.members.contains_key(&peer));
        group
            .into_iter()
            .flat_map(move |group| {
                let told = move |id| Some((self.table.prefix(id)?, group.out.get(id)?));
                let is_told = move |_: &Dest, id| group.out.get(id).is_some();
                self.chosen(which, after, is_told).filter_map(told).map(|entry| (&group.key, entry))
            })
            .flat_map(|(key, (prefix, told))| {
                told.adverts().iter().map(move |advert| (key, (prefix, advert)))
            })
            .filter(move |(key, (prefix, advert))| advert.from != peer.into() && fits(key, *prefix, advert))
            .map(|(_, entry)| entry)
            .map(move |(prefix, advert)| PathView {
                best: true,
                path_id: advert.path_id(),
                ..view_attrs(prefix.into(), advert.from, &advert.attrs, None, shared)
            })
    }

    /// Destinations that are wanted, in prefix order, behind `after`.
    fn chosen<'a>(
        &'a self,
        which: Select,
        after: Option<Prefix>,
        is_wanted: impl Fn(&Dest, DestId) -> bool + 'a,
    ) -> impl Iterator<Item = DestId> + 'a {
        let behind = move |prefix: P| after.is_none_or(|after| prefix.into() > after);
        let wanted = move |id: DestId| self.table.get(id).is_some_and(|dest| is_wanted(dest, id));
        let chosen: Box<dyn Iterator<Item = DestId> + 'a> = match which {
            Select::Family(_) => {
                Box::new(self.table.sorted(behind).map(|(_, id)| id).filter(move |id| wanted(*id)))
            }
            Select::Within(outer) => {
                let inside = move |prefix: P| outer.covers(prefix.into()) && behind(prefix);
                Box::new(self.table.sorted(inside).map(|(_, id)| id).filter(move |id| wanted(*id)))
            }
            Select::Exact(prefix) => {
                let prefix = P::from_prefix(prefix).filter(|prefix| behind(*prefix));
                Box::new(prefix.and_then(|prefix| self.table.id(prefix)).filter(|id| wanted(*id)).into_iter())
            }
            Select::Longest(addr) => {
                let lengths = (0..=Prefix::host(addr).prefix_len()).rev();
                let covering = lengths.filter_map(|len| P::from_prefix(Prefix::new(addr, len)?));
                let found = covering.filter_map(|prefix| self.table.id(prefix)).find(|id| wanted(*id));
                let found = found.filter(|id| self.table.prefix(*id).is_some_and(behind));
                Box::new(found.into_iter())
            }
        };
        chosen
    }
}

/// False for what its peers were never told because no message of theirs holds it (RFC 8654 §5).
fn fits<P: TablePrefix>(key: &GroupKey, prefix: P, advert: &Advert) -> bool {
    let attrs = &advert.attrs;
    let nlri = [Nlri { prefix: prefix.into(), path_id: advert.path_id() }];
    attrs.next_hop.is_some_and(|next_hop| {
        encode_reach(&attrs.attributes, key.family, next_hop, &nlri, &key.encode, &mut Vec::new()).is_ok()
    })
}

fn view_path(
    prefix: Prefix,
    index: usize,
    path: &Path,
    dest: &Dest,
    shared: &Shared,
    as_received: bool,
) -> PathView {
    let attrs = match &path.used {
        Ok(used) if !as_received => used,
        _ => &path.raw,
    };
    let best = index == 0 && dest.best().is_some();
    let peer = path.from.peer().and_then(|peer| shared.peer(peer));
    let why = match path.used {
        Err(refused) => Some(refused.to_string()),
        Ok(_) if best => None,
        Ok(_) => lost_at(index, &dest.paths, shared).map(|step| step.to_string()),
    };
    PathView {
        best,
        path_id: path.path_id,
        accepted: path.used.is_ok(),
        metric: shared.nexthops.metric(path.nexthop),
        stale: peer.is_some_and(|peer| {
            *peer.generation.get(prefix.family()) != path.generation || peer.session.is_none()
        }),
        why,
        ..view_attrs(prefix, path.from, attrs, shared.nexthops.get(path.nexthop), shared)
    }
}

fn view_attrs(
    prefix: Prefix,
    from: Origination,
    attrs: &PathAttrs,
    nexthop: Option<Nexthop>,
    shared: &Shared,
) -> PathView {
    let hop = nexthop.or(attrs.next_hop.map(NextHop::addr).map(Nexthop::global));
    PathView {
        from: from.peer(),
        from_address: from.peer().and_then(|peer| shared.peer(peer)).map(|peer| peer.addr),
        ..PathView::of(prefix, &attrs.attributes, hop)
    }
}
