//! From UPDATEs to paths: what may be used, and as what.

use std::fmt;
use std::sync::Arc;

use turnpike_bgp_wire::{
    Attributes, Cause, Cease, Family, NextHop, Nlri, Notification, Prefix, Prefix4, Prefix6, Role,
};

use super::attrs::PathAttrs;
use super::leaks;
use super::nexthops::NexthopId;
use super::peer::RibPeer;
use super::policy::{Answer, Candidate, PrefixMatcher, is_going, prepend};
use super::table::{FamilyRib, Path, TablePrefix};
use super::{NodeGuard, RibOutput, Shared};
use crate::config::{Config, MaxPrefixAction, PrefixRule, SetNextHop, Source};
use crate::query::PeerId;

/// The most paths of one prefix taken from one peer (RFC 7911 sets no bound): each change of one looks at them all.
const PATHS_PER_PREFIX: usize = 1024;

/// Why a path that is held may not be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// RFC 4271 §9: our AS stands in the AS_PATH.
    OwnAs,
    /// RFC 4456 §8: we originated it.
    Originator,
    /// RFC 4456 §8: it has been through our cluster.
    Cluster,
    /// RFC 9234 §5: its OTC attribute says that it must not come from this neighbour.
    Leak,
    /// RFC 4271 §6.3: the first AS is not the external peer's.
    FirstAs,
    /// RFC 4271 §5.1.3: the next hop is ourselves.
    OwnNextHop,
    /// Not a prefix that is ever routed.
    Martian,
    /// The node's own blocks, or inside them.
    OwnBlock,
    /// Not in the node's accepted ranges.
    NotAccepted,
    /// The import policy, or its absence (RFC 8212).
    Policy,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::OwnAs => "our AS is in its AS_PATH",
            Refused::Originator => "we are its originator",
            Refused::Cluster => "our cluster is in its CLUSTER_LIST",
            Refused::Leak => "a route leak: it was only for customers (OTC)",
            Refused::FirstAs => "its AS_PATH does not begin with the peer's AS",
            Refused::OwnNextHop => "its next hop is this host",
            Refused::Martian => "never a routed prefix",
            Refused::OwnBlock => "lies in a network of our own",
            Refused::NotAccepted => "not in the ranges that this node accepts",
            Refused::Policy => "refused by import policy",
        })
    }
}

impl NodeGuard {
    pub(super) fn of(config: &Config) -> Option<Self> {
        let node = config.node.as_ref()?;
        // A range that merely covers it does not let the default route in.
        let explicit = |rule: &&PrefixRule| rule.prefix.prefix_len() > 0 || rule.lengths() == (0, 0);
        let own: Vec<PrefixRule> =
            config.networks.iter().map(|network| PrefixRule::within(network.prefix)).collect();
        Some(Self {
            accept: PrefixMatcher::new(node.accept.iter().filter(explicit)),
            own: PrefixMatcher::new(&own),
        })
    }

    fn check(&self, prefix: Prefix) -> Result<(), Refused> {
        if self.own.matches(prefix) {
            return Err(Refused::OwnBlock);
        }
        if !self.accept.matches(prefix) {
            return Err(Refused::NotAccepted);
        }
        Ok(())
    }
}

/// Loopback, multicast, link-local and "this host" ranges. The default route is not among them.
fn is_martian(prefix: Prefix) -> bool {
    const V4: [(u32, u8); 4] = [(0, 8), (0x7f00_0000, 8), (0xa9fe_0000, 16), (0xe000_0000, 3)];
    const V6: [(u128, u8); 3] = [(1, 128), (0xfe80 << 112, 10), (0xff00 << 112, 8)];
    if prefix.prefix_len() == 0 {
        return false;
    }
    match prefix {
        Prefix::V4(_) => V4
            .iter()
            .filter_map(|(bits, len)| Prefix4::new(*bits, *len))
            .any(|bad| Prefix::V4(bad).covers(prefix)),
        Prefix::V6(_) => V6
            .iter()
            .filter_map(|(bits, len)| Prefix6::new(*bits, *len))
            .any(|bad| Prefix::V6(bad).covers(prefix)),
    }
}

/// A path as its peer announced it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) peer: PeerId,
    pub(super) path_id: u32,
    pub(super) raw: Arc<PathAttrs>,
    pub(super) generation: u16,
}

impl Kept {
    pub(super) fn of(peer: PeerId, path: &Path) -> Self {
        Self { peer, path_id: path.path_id, raw: Arc::clone(&path.raw), generation: path.generation }
    }
}

impl<P: TablePrefix> FamilyRib<P> {
    /// Takes in prefixes announced with the same attributes.
    pub(super) fn announce(
        &mut self,
        shared: &mut Shared,
        peer: PeerId,
        attributes: Attributes,
        next_hop: NextHop,
        nlri: &[Nlri],
    ) {
        let raw = shared.attrs.intern(attributes, Some(next_hop));
        let Some(held) = shared.peer(peer) else { return };
        let generation = *held.generation.get(P::FAMILY);
        let verdict = shared.judge_attributes(held, &raw);
        for nlri in nlri {
            let Some(prefix) = P::from_prefix(nlri.prefix) else { continue };
            if !self.has_room(shared, peer, prefix, nlri.path_id)
                || self.is_crowded(shared, peer, prefix, nlri.path_id)
            {
                continue;
            }
            let used = match verdict {
                Ok(()) => shared.import(peer, nlri.prefix, &raw),
                Err(refused) => Err(refused),
            };
            let nexthop = shared.watch(peer, &used);
            let path = Path::new(peer.into(), nlri.path_id, Arc::clone(&raw), used, nexthop, generation);
            self.put(shared, prefix, path);
        }
    }

    /// Applies the limit on the number of prefixes to one more.
    fn has_room(&self, shared: &mut Shared, peer: PeerId, prefix: P, path_id: u32) -> bool {
        let Some(held) = shared.peer(peer) else { return false };
        let Some(max) = held.max_prefix else { return true };
        if *held.received.get(P::FAMILY) < max.limit as usize || self.holds(prefix, peer.into(), path_id) {
            return true;
        }
        shared.over_limit(peer, P::FAMILY);
        max.action == MaxPrefixAction::Warn
    }

    /// The peer has announced more paths of the prefix than anybody has a use for, and this is one more.
    fn is_crowded(&self, shared: &mut Shared, peer: PeerId, prefix: P, path_id: u32) -> bool {
        // Without add-path there is one.
        if path_id == 0 {
            return false;
        }
        let Some(dest) = self.table.find(prefix).filter(|dest| dest.paths.len() >= PATHS_PER_PREFIX) else {
            return false;
        };
        let from = peer.into();
        let crowded = dest.paths.iter().filter(|path| path.from == from).count() >= PATHS_PER_PREFIX
            && !self.holds(prefix, from, path_id);
        if crowded {
            shared.crowded(peer, prefix.into());
        }
        crowded
    }

    /// Judges the paths of a peer, or of all, once more, after policies have changed.
    pub(super) fn import_again(&mut self, shared: &mut Shared, only: Option<PeerId>) {
        let mut again: Vec<(P, Kept)> = Vec::new();
        for (_, prefix, dest) in self.table.iter() {
            for path in &dest.paths {
                let Some(peer) = path.from.peer().filter(|peer| only.is_none_or(|only| only == *peer)) else {
                    continue;
                };
                again.push((prefix, Kept::of(peer, path)));
            }
        }
        for (prefix, kept) in again {
            self.judge(shared, prefix, kept);
        }
    }

    /// Puts a path in as import sees it.
    pub(super) fn judge(&mut self, shared: &mut Shared, prefix: P, kept: Kept) {
        let Kept { peer, path_id, raw, generation } = kept;
        let verdict = shared.peer(peer).map_or(Ok(()), |held| shared.judge_attributes(held, &raw));
        let mut used = verdict.and_then(|()| shared.import(peer, prefix.into(), &raw));
        if shared.peer(peer).is_some_and(|held| held.keeps_for_long(P::FAMILY, generation)) {
            used = used.map(|used| shared.marked(&used));
        }
        let nexthop = shared.watch(peer, &used);
        self.put(shared, prefix, Path::new(peer.into(), path_id, raw, used, nexthop, generation));
    }
}

impl Shared {
    /// The checks that look at attributes alone.
    fn judge_attributes(&self, peer: &RibPeer, raw: &PathAttrs) -> Result<(), Refused> {
        let attributes = &raw.attributes;
        // A route server does not stand in the path (RFC 7947 §2.2.2.1).
        let first_as = !peer.internal && peer.import.role != Some(Role::RsClient);
        if first_as && raw.neighbour != Some(peer.remote_as) {
            return Err(Refused::FirstAs);
        }
        let too_often = |asn| attributes.as_path.count(asn) > usize::from(peer.import.allow_own_as);
        if too_often(self.local.asn) || peer.import.local_as.is_some_and(|other| too_often(other.asn)) {
            return Err(Refused::OwnAs);
        }
        if !leaks::may_come_in(attributes, peer.import.role, peer.remote_as) {
            return Err(Refused::Leak);
        }
        if attributes.originator_id == Some(self.local.router_id) {
            return Err(Refused::Originator);
        }
        if attributes.cluster_list.contains(&self.local.cluster_id) {
            return Err(Refused::Cluster);
        }
        if raw.next_hop.is_some_and(|next_hop| self.is_own_address(next_hop.addr(), peer)) {
            return Err(Refused::OwnNextHop);
        }
        Ok(())
    }

    fn is_own_address(&self, addr: std::net::IpAddr, peer: &RibPeer) -> bool {
        peer.session.as_ref().is_some_and(|session| session.local == addr)
            || self.local.addresses.iter().any(|(_, own)| *own == Some(addr))
    }

    /// The checks that look at the prefix, and the peer's policy.
    fn import(
        &mut self,
        peer: PeerId,
        prefix: Prefix,
        raw: &Arc<PathAttrs>,
    ) -> Result<Arc<PathAttrs>, Refused> {
        if is_martian(prefix) {
            return Err(Refused::Martian);
        }
        if let Some(node) = &self.node {
            node.check(prefix)?;
        }
        let Some(held) = self.peer(peer) else { return Err(Refused::Policy) };
        let external = (!held.internal).then_some(held.remote_as);
        let role = held.import.role;
        let otc = external.and_then(|remote_as| leaks::mark_coming_in(&raw.attributes, role, remote_as));
        let local_as = held.import.local_as.filter(|other| !other.no_prepend);
        // RFC 8326 §4: an external peer's path that is about to go is the last choice; a policy may still say else.
        let going = external.is_some() && is_going(&raw.attributes);
        let changed = (going || otc.is_some() || local_as.is_some()).then(|| {
            let mut attributes = raw.attributes.clone();
            if going {
                attributes.local_pref = Some(0);
            }
            attributes.otc = attributes.otc.or(otc);
            if let Some(local_as) = local_as {
                prepend(&mut attributes, local_as.asn, 1);
            }
            self.attrs.intern(attributes, raw.next_hop)
        });
        let raw = changed.as_ref().unwrap_or(raw);
        let Some(held) = self.peer(peer) else { return Err(Refused::Policy) };
        let addr = held.addr;
        let candidate = Candidate {
            prefix,
            source: if held.internal { Source::Internal } else { Source::External },
            peer: Some(addr),
            next_hop: raw.next_hop.map(NextHop::addr),
            attributes: &raw.attributes,
        };
        match self.policies.choose(&held.import.policy, held.internal).apply(&candidate) {
            Answer::Reject => Err(Refused::Policy),
            Answer::Accept => Ok(Arc::clone(raw)),
            Answer::Change(mut change) => {
                if let Some(asn) = external {
                    prepend(&mut change.attributes, asn, change.prepend);
                }
                let next_hop = match change.next_hop {
                    Some(SetNextHop::Peer) => Some(NextHop::from(addr)),
                    Some(SetNextHop::Address(addr)) => Some(NextHop::from(addr)),
                    Some(SetNextHop::Ourselves) | None => None,
                };
                // An IPv4 next hop never leads to IPv6; the other way round the kernel can (RFC 8950).
                let fits = |hop: &NextHop| prefix.family() == Family::Ipv4 || !matches!(hop, NextHop::V4(_));
                Ok(self.attrs.intern(change.attributes, next_hop.filter(fits).or(raw.next_hop)))
            }
        }
    }

    /// Puts the next hop of a path that may be used under watch.
    fn watch(&mut self, peer: PeerId, used: &Result<Arc<PathAttrs>, Refused>) -> NexthopId {
        let scope = self.peer(peer).map_or(0, |held| held.scope);
        match used {
            Ok(used) => self.acquire_nexthop(used.next_hop, scope),
            Err(_) => NexthopId::NONE,
        }
    }

    fn over_limit(&mut self, peer: PeerId, family: Family) {
        let Some(held) = self.peer_mut(peer) else { return };
        let Some(max) = held.max_prefix else { return };
        if max.action == MaxPrefixAction::Discard {
            *held.discarded.get_mut(family) = true;
        }
        if std::mem::replace(held.over_limit.get_mut(family), true) {
            return;
        }
        self.out.push_back(RibOutput::OverLimit { peer, family, limit: max.limit });
        if max.action == MaxPrefixAction::Restart {
            // RFC 4486 §4: family and limit.
            let code = family.code();
            let mut data = code.afi.to_be_bytes().to_vec();
            data.push(code.safi);
            data.extend_from_slice(&max.limit.to_be_bytes());
            let notification = Notification::with_data(Cause::Cease(Cease::MaximumPrefixes), data);
            self.out.push_back(RibOutput::Fail { peer, notification });
        }
    }

    fn crowded(&mut self, peer: PeerId, prefix: Prefix) {
        let Some(held) = self.peer_mut(peer) else { return };
        if !std::mem::replace(&mut held.crowded, true) {
            self.out.push_back(RibOutput::Crowded { peer, prefix, limit: PATHS_PER_PREFIX });
        }
    }

    /// Once a tenth of the limit is free again, what was discarded is asked for.
    pub(super) fn ask_again_if_room(&mut self, peer: PeerId, family: Family) {
        let Some(held) = self.peer_mut(peer) else { return };
        let Some(max) = held.max_prefix else { return };
        let tenth = (max.limit / 10).max(1);
        // Full is no room, however small the limit is: asking would never end.
        let room = max.limit > 0 && *held.received.get(family) <= (max.limit - tenth) as usize;
        if room && std::mem::take(held.discarded.get_mut(family)) {
            *held.over_limit.get_mut(family) = false;
            self.out.push_back(RibOutput::AskAgain { peer, family });
        }
    }
}
