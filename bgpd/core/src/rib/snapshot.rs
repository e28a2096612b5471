//! Another configuration tried on what peers have announced, without touching anything.
//!
//! The outcome of the RIBs is a function of their final state, not of history. So a shadow of them, filled with the
//! paths as received and run to its end under the new configuration, says what the real ones would come to; a second
//! one under the present configuration is what it is compared with. A [`Snapshot`] shares the attributes with the
//! speaker and may be worked on in another thread.
//!
//! Left out: prefix limits (what was discarded is not known), and paths that new peers will bring.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use turnpike_bgp_wire::{Families, Family, Prefix};

use super::attrs::PathAttrs;
use super::import::Kept;
use super::table::{FamilyRib, Origination, TablePrefix};
use super::{Rib, RibOutput, RibPeer};
use crate::config::{Config, PeerConfig};
use crate::input::Resolution;
use crate::output::Nexthop;
use crate::query::{PathView, PeerId, Select, Table};

/// What peers have announced, and all else that decides what becomes of it.
#[derive(Debug)]
pub struct Snapshot {
    config: Config,
    peers: Vec<RibPeer>,
    paths: Vec<(Prefix, Kept)>,
    resolutions: HashMap<Nexthop, Resolution>,
}

/// What another configuration changes in the RIBs.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Comparison {
    /// Best paths, and what shares the kernel's route with them.
    pub loc: TableChange,
    /// What is taken from each peer, by address: refused paths count as none.
    pub received: Vec<PeerTable>,
    /// What each peer with a session is told, by address.
    pub sent: Vec<PeerTable>,
    /// Next hops that nothing is known of yet, taken for reachable.
    pub assumed: Vec<Nexthop>,
}

/// One peer's table.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerTable {
    /// The peer's address.
    pub remote: IpAddr,
    /// Its differences.
    pub change: TableChange,
}

/// Differences of a table.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TableChange {
    /// Prefixes that appear.
    pub added: usize,
    /// Prefixes that go.
    pub removed: usize,
    /// Prefixes that change.
    pub changed: usize,
    /// The first of them in order of family and prefix.
    pub prefixes: Vec<PrefixChange>,
}

/// One prefix before and after.
#[derive(Clone, PartialEq, Debug)]
pub struct PrefixChange {
    /// Which.
    pub prefix: Prefix,
    /// The path before.
    pub before: Option<PathView>,
    /// The path after.
    pub after: Option<PathView>,
}

impl TableChange {
    /// Nothing differs.
    pub const fn is_empty(&self) -> bool {
        self.added + self.removed + self.changed == 0
    }

    fn note(&mut self, prefix: Prefix, before: Option<&PathView>, after: Option<&PathView>, limit: usize) {
        match (before, after) {
            (None, Some(_)) => self.added += 1,
            (Some(_), None) => self.removed += 1,
            _ => self.changed += 1,
        }
        if self.prefixes.len() < limit {
            self.prefixes.push(PrefixChange { prefix, before: before.cloned(), after: after.cloned() });
        }
    }
}

impl Rib {
    pub(crate) fn snapshot(&self, config: &Config) -> Snapshot {
        let mut paths = Vec::new();
        self.v4.collect_received(&mut paths);
        self.v6.collect_received(&mut paths);
        Snapshot {
            config: config.clone(),
            peers: self.shared.peers.iter().flatten().cloned().collect(),
            paths,
            resolutions: self.shared.nexthops.known(),
        }
    }

    pub(crate) fn received(
        &self,
        prefix: Prefix,
        from: Option<PeerId>,
    ) -> Option<(turnpike_bgp_wire::Attributes, Option<IpAddr>)> {
        let raw = match prefix {
            Prefix::V4(prefix) => self.v4.raw_of(prefix, from),
            Prefix::V6(prefix) => self.v6.raw_of(prefix, from),
        }?;
        Some((raw.attributes.clone(), raw.next_hop.map(turnpike_bgp_wire::NextHop::addr)))
    }

    /// See [`crate::Speaker::clients_without_another_reflector`].
    pub(crate) fn clients_without_another_reflector(&self) -> Vec<PeerId> {
        let mut speaking = BTreeSet::new();
        let mut reflected = BTreeSet::new();
        self.v4.look_for_reflectors(&mut speaking, &mut reflected);
        self.v6.look_for_reflectors(&mut speaking, &mut reflected);
        let clients = self.shared.peers.iter().flatten().filter(|peer| peer.client && peer.session.is_some());
        clients
            .filter(|peer| speaking.contains(&peer.id) && !reflected.contains(&peer.router_id))
            .map(|peer| peer.id)
            .collect()
    }

    /// Decides and fills every Adj-RIB-Out, with next hops as they are known.
    fn settle(&mut self, known: &HashMap<Nexthop, Resolution>, assumed: &mut BTreeSet<Nexthop>) {
        loop {
            while let Some(output) = self.shared.out.pop_front() {
                let RibOutput::Track(nexthop) = output else { continue };
                let resolution = known.get(&nexthop).copied().unwrap_or_else(|| {
                    assumed.insert(nexthop);
                    Resolution::Reachable { metric: 0 }
                });
                self.resolve(nexthop, resolution);
            }
            let decided = self.v4.decide_some(&mut self.shared) || self.v6.decide_some(&mut self.shared);
            if !decided && self.shared.out.is_empty() {
                return;
            }
        }
    }
}

impl<P: TablePrefix> FamilyRib<P> {
    fn collect_received(&self, into: &mut Vec<(Prefix, Kept)>) {
        for (_, prefix, dest) in self.table.iter() {
            let from_peers = dest.paths.iter().filter_map(|path| Some(Kept::of(path.from.peer()?, path)));
            into.extend(from_peers.map(|kept| (prefix.into(), kept)));
        }
    }

    fn raw_of(&self, prefix: P, from: Option<PeerId>) -> Option<&PathAttrs> {
        let from = from.map_or(Origination::LOCAL, Origination::from);
        let path = self.table.find(prefix)?.paths.iter().find(|path| path.from == from)?;
        Some(&path.raw)
    }

    /// Peers with paths of their own, and originators of paths that a reflector has passed on.
    fn look_for_reflectors(
        &self,
        speaking: &mut BTreeSet<PeerId>,
        reflected: &mut BTreeSet<turnpike_bgp_wire::RouterId>,
    ) {
        for (_, _, dest) in self.table.iter() {
            for path in &dest.paths {
                let attributes = &path.raw.attributes;
                match (path.from.peer(), attributes.originator_id) {
                    (Some(_), Some(originator)) if !attributes.cluster_list.is_empty() => {
                        reflected.insert(originator);
                    }
                    (Some(peer), _) => {
                        speaking.insert(peer);
                    }
                    (None, _) => {}
                }
            }
        }
    }
}

impl Snapshot {
    /// What `new` in the place of the present configuration would change; at most `limit` prefixes are named in each
    /// table.
    pub fn compare(&self, new: &Config, limit: usize) -> Comparison {
        let mut assumed = BTreeSet::new();
        let before = self.shadow(&self.config, &mut BTreeSet::new());
        let after = self.shadow(new, &mut assumed);
        let mut comparison = Comparison { assumed: assumed.into_iter().collect(), ..Comparison::default() };
        let mut received: BTreeMap<IpAddr, TableChange> = BTreeMap::new();
        for family in Family::ALL {
            let paths = |rib| all(rib, Table::Loc, family);
            join(paths(&before), paths(&after), |prefix, old, new| {
                note_loc(prefix, old, new, limit, &mut comparison.loc);
                note_received(prefix, old, new, limit, &mut received);
            });
        }
        comparison.received = tables(received);
        let mut sent: BTreeMap<IpAddr, TableChange> = BTreeMap::new();
        for peer in self.peers.iter().filter(|peer| peer.session.is_some()) {
            let change = sent.entry(peer.addr).or_default();
            for family in Family::ALL {
                let paths = |rib| all(rib, Table::Out(peer.id), family);
                join(paths(&before), paths(&after), |prefix, old, new| {
                    let (old, new) = (told(old), told(new));
                    if old != new {
                        change.note(prefix, old.first(), new.first(), limit);
                    }
                });
            }
        }
        comparison.sent = tables(sent);
        comparison
    }

    /// The RIBs as `config` would have them.
    fn shadow(&self, config: &Config, assumed: &mut BTreeSet<Nexthop>) -> Rib {
        let mut rib = Rib::new(config);
        let wanted: HashMap<IpAddr, &PeerConfig> =
            config.peers.iter().map(|peer| (peer.remote, peer)).collect();
        let known: HashMap<IpAddr, &PeerConfig> =
            self.config.peers.iter().map(|peer| (peer.remote, peer)).collect();
        let mut families: HashMap<PeerId, Families> = HashMap::new();
        for held in &self.peers {
            let peer = match (wanted.get(&held.addr), known.contains_key(&held.addr)) {
                (Some(new), _) if new.shutdown.is_some() => continue,
                (Some(new), _) => {
                    families.insert(held.id, new.families);
                    held.under(RibPeer::new(held.id, new, config.asn), new.families)
                }
                // A dynamic peer: its template stays.
                (None, false) => {
                    families.insert(held.id, Families::BOTH);
                    held.clone()
                }
                (None, true) => continue,
            };
            rib.set_peer(peer);
        }
        for (prefix, kept) in &self.paths {
            let carried = families.get(&kept.peer);
            if !carried.is_some_and(|families| families.contains(prefix.family())) {
                continue;
            }
            match *prefix {
                Prefix::V4(prefix) => rib.v4.judge(&mut rib.shared, prefix, kept.clone()),
                Prefix::V6(prefix) => rib.v6.judge(&mut rib.shared, prefix, kept.clone()),
            }
        }
        rib.settle(&self.resolutions, assumed);
        for peer in &self.peers {
            let session = rib.shared.peer(peer.id).and_then(|held| held.session.as_ref());
            let Some(carried) = session.map(|session| session.families) else { continue };
            for family in carried.members() {
                match family {
                    Family::Ipv4 => rib.v4.join(&mut rib.shared, peer.id),
                    Family::Ipv6 => rib.v6.join(&mut rib.shared, peer.id),
                }
            }
        }
        rib.v4.build_all(&mut rib.shared);
        rib.v6.build_all(&mut rib.shared);
        rib
    }
}

fn all(rib: &Rib, table: Table, family: Family) -> Box<dyn Iterator<Item = PathView> + '_> {
    let which = Select::Family(family);
    match (family, table) {
        (Family::Ipv4, Table::Out(peer)) => Box::new(rib.v4.view_out(&rib.shared, peer, which, None)),
        (Family::Ipv6, Table::Out(peer)) => Box::new(rib.v6.view_out(&rib.shared, peer, which, None)),
        (Family::Ipv4, table) => Box::new(rib.v4.view_paths(&rib.shared, table, which, None)),
        (Family::Ipv6, table) => Box::new(rib.v6.view_paths(&rib.shared, table, which, None)),
    }
}

fn tables(by_peer: BTreeMap<IpAddr, TableChange>) -> Vec<PeerTable> {
    let changed = by_peer.into_iter().filter(|(_, change)| !change.is_empty());
    changed.map(|(remote, change)| PeerTable { remote, change }).collect()
}

/// Walks through two tables in prefix order, prefix by prefix.
fn join(
    old: impl Iterator<Item = PathView>,
    new: impl Iterator<Item = PathView>,
    mut each: impl FnMut(Prefix, &[PathView], &[PathView]),
) {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    loop {
        let next = |path: Option<&PathView>| path.map(|path| path.prefix);
        let Some(prefix) = next(old.peek()).into_iter().chain(next(new.peek())).min() else { return };
        let mut before = Vec::new();
        while let Some(path) = old.next_if(|path| path.prefix == prefix) {
            before.push(path);
        }
        let mut after = Vec::new();
        while let Some(path) = new.next_if(|path| path.prefix == prefix) {
            after.push(path);
        }
        each(prefix, &before, &after);
    }
}

/// Without what is another path's affair.
fn bare(path: &PathView) -> PathView {
    PathView { best: false, multipath: false, stale: false, why: None, ..path.clone() }
}

/// As a peer hears it. Which identifier a path gets (RFC 7911) says nothing.
fn told(paths: &[PathView]) -> Vec<PathView> {
    paths.iter().map(|path| PathView { path_id: 0, ..bare(path) }).collect()
}

fn note_loc(prefix: Prefix, old: &[PathView], new: &[PathView], limit: usize, into: &mut TableChange) {
    let best = |paths: &[PathView]| paths.iter().find(|path| path.best).map(bare);
    let shared = |paths: &[PathView]| -> BTreeSet<(Option<PeerId>, Option<Nexthop>)> {
        paths.iter().filter(|path| path.multipath).map(|path| (path.from, path.next_hop)).collect()
    };
    let (before, after) = (best(old), best(new));
    if before != after || shared(old) != shared(new) {
        into.note(prefix, before.as_ref(), after.as_ref(), limit);
    }
}

fn note_received(
    prefix: Prefix,
    old: &[PathView],
    new: &[PathView],
    limit: usize,
    into: &mut BTreeMap<IpAddr, TableChange>,
) {
    let peers: BTreeSet<IpAddr> = old.iter().chain(new).filter_map(|path| path.from_address).collect();
    for peer in peers {
        let of = |paths: &[PathView]| -> Vec<PathView> {
            let taken = |path: &&PathView| path.from_address == Some(peer) && path.accepted;
            // The metric is the next hop's affair.
            paths.iter().filter(taken).map(|path| PathView { metric: None, ..bare(path) }).collect()
        };
        let (before, after) = (of(old), of(new));
        if before != after {
            into.entry(peer).or_default().note(prefix, before.first(), after.first(), limit);
        }
    }
}
