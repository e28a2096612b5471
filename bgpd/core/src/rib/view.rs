//! Paths for people.

use turnpike_bgp_wire::{NextHop, Nlri, Prefix, encode_reach};

use super::Shared;
use super::attrs::PathAttrs;
use super::decide::{lost_at, select};
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
        chosen(&self.table, which, after).flat_map(move |(prefix, dest)| {
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
            .flat_map(move |group| chosen(&group.out, which, after).map(|entry| (&group.key, entry)))
            .flat_map(|(key, (prefix, told))| {
                told.adverts().iter().map(move |advert| (key, (prefix, advert)))
            })
            .filter(move |(key, (prefix, advert))| advert.from != peer.into() && fits(key, *prefix, advert))
            .map(|(_, entry)| entry)
            .map(move |(prefix, advert)| PathView {
                best: true,
                path_id: advert.path_id,
                ..view_attrs(prefix.into(), advert.from, &advert.attrs, None, shared)
            })
    }
}

/// False for what its peers were never told because no message of theirs holds it (RFC 8654 §5).
fn fits<P: TablePrefix>(key: &GroupKey, prefix: P, advert: &Advert) -> bool {
    let attrs = &advert.attrs;
    let nlri = [Nlri { prefix: prefix.into(), path_id: advert.path_id }];
    attrs.next_hop.is_some_and(|next_hop| {
        encode_reach(&attrs.attributes, key.family, next_hop, &nlri, &key.encode, &mut Vec::new()).is_ok()
    })
}

/// Entries of a map, in prefix order, behind `after`.
fn chosen<'a, P: TablePrefix, T>(
    map: &'a prefix_trie::PrefixMap<P, T>,
    which: Select,
    after: Option<Prefix>,
) -> impl Iterator<Item = (P, &'a T)> + 'a {
    let one = |prefix: Prefix| P::from_prefix(prefix);
    let all: Box<dyn Iterator<Item = (P, &'a T)> + 'a> = match which {
        Select::Family(_) => Box::new(map.iter()),
        Select::Exact(prefix) => {
            Box::new(one(prefix).and_then(|prefix| map.get_key_value(&prefix)).into_iter())
        }
        Select::Within(prefix) => Box::new(one(prefix).into_iter().flat_map(|prefix| map.children(&prefix))),
        Select::Longest(addr) => {
            Box::new(one(Prefix::host(addr)).and_then(|prefix| map.get_lpm(&prefix)).into_iter())
        }
    };
    all.skip_while(move |(prefix, _)| after.is_some_and(|after| (*prefix).into() <= after))
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
