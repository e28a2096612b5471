//! From the best path to what a group of peers is told.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use turnpike_bgp_wire::{Attributes, EncodeContext, ExtendedCommunity, Family, NextHop, Prefix, Role};

use super::Shared;
use super::attrs::{ByAddress, PathAttrs};
use super::decide::DEFAULT_LOCAL_PREF;
use super::leaks;
use super::long_lived::{StalePaths, disguise};
use super::peer::RibPeer;
use super::policy::{Answer, Candidate, kept_back, mark_going, prepend};
use super::table::{Origination, Path};
use crate::config::{ExportNextHop, LocalAs, PolicyChoice, SendPaths, SetNextHop, Source};

/// All that decides what a peer is told and how. Peers with equal keys are told the same, but for the paths that
/// came from themselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct GroupKey {
    pub(super) family: Family,
    internal: bool,
    client: bool,
    next_hop: ExportNextHop,
    /// Ourselves as a next hop, where that is possible in this family.
    own: Option<NextHop>,
    policy: PolicyChoice,
    extended_next_hop: bool,
    local_as: Option<LocalAs>,
    role: Option<Role>,
    stale: StalePaths,
    /// Which paths of a prefix; other than the best only where the session has path identifiers.
    pub(super) paths: SendPaths,
    pub(super) encode: EncodeContext,
}

impl GroupKey {
    /// The key of a peer with an Established session.
    pub(super) fn of(peer: &RibPeer, family: Family, shared: &Shared) -> Option<Self> {
        let session = peer.session.as_ref()?;
        let fallback = *shared.local.addresses.get(family);
        let own = match (family, session.local) {
            (Family::Ipv4, IpAddr::V4(local)) => Some(NextHop::V4(local)),
            (Family::Ipv6, IpAddr::V6(local)) => Some(NextHop::V6(local)),
            (Family::Ipv4, IpAddr::V6(local)) if session.extended_next_hop => Some(NextHop::V6(local)),
            _ => fallback.map(NextHop::from),
        };
        Some(Self {
            family,
            internal: peer.internal,
            client: peer.client,
            next_hop: peer.next_hop,
            own,
            policy: peer.export.clone(),
            extended_next_hop: session.extended_next_hop,
            local_as: peer.import.local_as,
            role: peer.import.role,
            stale: StalePaths::of(peer, family),
            paths: match session.encode.add_path(family) {
                true => *peer.send_paths.get(family),
                false => SendPaths::Best,
            },
            encode: session.encode,
        })
    }
}

/// Answers of [`Shared::export`] that hold for all prefixes with the same attributes from the same source.
/// Valid while the paths it was asked about stay alive.
#[derive(Debug, Default)]
pub(super) struct ExportCache(HashMap<(*const PathAttrs, Origination), Option<Arc<PathAttrs>>, ByAddress>);

impl Shared {
    /// What the group is told about a path; `None`: nothing.
    pub(super) fn export(
        &mut self,
        key: &GroupKey,
        prefix: Prefix,
        path: &Path,
        cache: &mut ExportCache,
    ) -> Option<Arc<PathAttrs>> {
        let used = path.used.as_ref().ok()?;
        if self.policies.choose(&key.policy, key.internal).asks_for_prefix() {
            return self.export_afresh(key, prefix, path.from, used);
        }
        let place = (Arc::as_ptr(used), path.from);
        if let Some(known) = cache.0.get(&place) {
            return known.clone();
        }
        let answer = self.export_afresh(key, prefix, path.from, used);
        cache.0.insert(place, answer.clone());
        answer
    }

    fn export_afresh(
        &mut self,
        key: &GroupKey,
        prefix: Prefix,
        from: Origination,
        used: &Arc<PathAttrs>,
    ) -> Option<Arc<PathAttrs>> {
        if kept_back(&used.attributes, key.internal) || used.long_lived && key.stale == StalePaths::Withheld {
            return None;
        }
        if !leaks::may_go_out(&used.attributes, key.role) {
            return None;
        }
        let source = from.peer().and_then(|peer| self.peer(peer));
        let from_internal = source.is_some_and(|source| source.internal);
        let reflected = from_internal && key.internal;
        // RFC 4456 §6: between two that are not clients nothing is reflected.
        if reflected && !key.client && !source.is_some_and(|source| source.client) {
            return None;
        }
        let next_hop = next_hop(key, used.next_hop, from == Origination::LOCAL, reflected)?;
        let mut attributes = used.attributes.clone();
        if key.internal {
            attributes.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
        } else {
            strip_for_external(&mut attributes, from == Origination::LOCAL);
        }
        if let Some(source) = source.filter(|_| reflected) {
            // RFC 4456 §8.
            attributes.originator_id.get_or_insert(source.router_id);
            let clusters =
                std::iter::once(self.local.cluster_id).chain(attributes.cluster_list.iter().copied());
            attributes.cluster_list = clusters.collect();
        }
        let candidate = Candidate {
            prefix,
            source: match source {
                None => Source::Local,
                Some(source) if source.internal => Source::Internal,
                Some(_) => Source::External,
            },
            peer: source.map(|source| source.addr),
            next_hop: used.next_hop.map(NextHop::addr),
            attributes: &attributes,
        };
        let mut next_hop = next_hop;
        let times = match self.policies.choose(&key.policy, key.internal).apply(&candidate) {
            Answer::Reject => return None,
            Answer::Accept => 0,
            Answer::Change(change) => {
                let set = match change.next_hop {
                    Some(SetNextHop::Ourselves) => key.own,
                    Some(SetNextHop::Address(addr)) => Some(NextHop::from(addr)),
                    Some(SetNextHop::Peer) | None => None,
                };
                next_hop = set.filter(|hop| fits(key, *hop)).unwrap_or(next_hop);
                attributes = change.attributes;
                change.prepend
            }
        };
        if used.long_lived && key.stale == StalePaths::Disguised {
            disguise(&mut attributes);
        }
        if self.local.graceful_shutdown {
            mark_going(&mut attributes, key.internal);
        }
        // RFC 4271 §5.1.2: our AS goes in front towards external peers only.
        if !key.internal {
            let front = key.local_as.map_or(self.local.asn, |other| other.asn);
            if key.local_as.is_some_and(|other| !other.replace_as) {
                // RFC 7705 §3: behind the number that the peer knows stands the one that we have now.
                prepend(&mut attributes, self.local.asn, 1);
            }
            prepend(&mut attributes, front, times.saturating_add(1));
            leaks::mark_going_out(&mut attributes, key.role, front);
        }
        Some(self.attrs.intern(attributes, Some(next_hop)))
    }
}

/// Which next hop goes out; `None`: there is none that the peer could use.
fn next_hop(key: &GroupKey, received: Option<NextHop>, local: bool, reflected: bool) -> Option<NextHop> {
    let ourselves = match key.next_hop {
        _ if local => true,
        ExportNextHop::Auto => !key.internal,
        ExportNextHop::SelfExternal => !reflected,
        ExportNextHop::SelfAlways => true,
        ExportNextHop::Unchanged => false,
    };
    let kept = match received {
        // The link-local half means something on its own link only (RFC 2545 §3).
        Some(NextHop::V6WithLinkLocal(global, _)) => Some(NextHop::V6(global)),
        Some(NextHop::V6(addr)) if addr.is_unicast_link_local() => None,
        other => other,
    };
    let next_hop = match kept.filter(|_| !ourselves) {
        Some(kept) => kept,
        None => key.own?,
    };
    fits(key, next_hop).then_some(next_hop)
}

/// The group's peers can read the next hop.
const fn fits(key: &GroupKey, next_hop: NextHop) -> bool {
    match (key.family, next_hop) {
        (Family::Ipv4, NextHop::V4(_)) => true,
        (Family::Ipv4, _) => key.extended_next_hop,
        (Family::Ipv6, next_hop) => !matches!(next_hop, NextHop::V4(_)),
    }
}

/// What is only for our own AS stays in it.
fn strip_for_external(attributes: &mut Attributes, local: bool) {
    attributes.local_pref = None;
    attributes.originator_id = None;
    attributes.cluster_list = Box::default();
    // RFC 4271 §5.1.4: a neighbour's MED does not go on to another.
    if !local {
        attributes.med = None;
    }
    if attributes.extended_communities.iter().any(|community| !community.is_transitive()) {
        let transitive = |community: &&ExtendedCommunity| community.is_transitive();
        attributes.extended_communities =
            attributes.extended_communities.iter().filter(transitive).copied().collect();
    }
}
