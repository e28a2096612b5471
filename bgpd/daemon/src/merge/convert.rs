//! From the types that people write to the ones that the speaker takes.

use std::time::Duration;

use turnpike_bgp_core::config as core;
use turnpike_bgp_wire::AnyCommunity;
use turnpike_bgpd_api::config as api;
use turnpike_bgpd_api::{Asn, Config, Families, Family, Network, Peer, PerFamily, RouterId};

use crate::connection::Transport;

/// TTL for peers that are directly connected.
const TTL_EXTERNAL: u8 = 1;
/// TTL for peers anywhere in our AS.
const TTL_INTERNAL: u8 = 64;
/// TTL that GTSM demands of the sender (RFC 5082 §3).
const TTL_SECURE: u8 = 255;

/// Everything but peers, networks and the node's role.
pub(super) fn skeleton(file: &Config, asn: Asn, router_id: RouterId, host: &api::Addresses) -> core::Config {
    let mut whole = core::Config::new(asn, router_id);
    whole.addresses = core::OwnAddresses {
        ipv4: file.addresses.ipv4.or(host.ipv4),
        ipv6: file.addresses.ipv6.or(host.ipv6),
    };
    whole.cluster_id = file.cluster_id;
    whole.graceful_restart = graceful_restart(&file.graceful_restart);
    whole.multipath = core::Multipath { ebgp: file.multipath.ebgp.max(1), ibgp: file.multipath.ibgp.max(1) };
    whole.prefix_sets = file
        .prefix_sets
        .iter()
        .map(|(name, rules)| (name.clone(), rules.iter().map(prefix_rule).collect()))
        .collect();
    whole.community_sets = file.community_sets.clone();
    whole.as_path_sets = file.as_path_sets.clone();
    whole.aggregates = file.aggregates.iter().map(aggregate).collect();
    whole.policies = file.policies.iter().map(|(name, body)| (name.clone(), policy(body, file))).collect();
    whole
}

fn graceful_restart(from: &api::GracefulRestart) -> core::GracefulRestart {
    core::GracefulRestart {
        enabled: from.enabled,
        restart_time: Duration::from_secs(from.restart_time.into()),
        stale_time: Duration::from_secs(from.stale_time.into()),
        deferral: Duration::from_secs(from.deferral.into()),
        peer_wait: Duration::from_secs(from.peer_wait.into()),
        notification: from.notification,
    }
}

/// The node's role if anybody gives it one: ranges add up.
pub(super) fn node<'a>(from: impl Iterator<Item = &'a api::Node>) -> Option<core::NodeRole> {
    let mut role: Option<core::NodeRole> = None;
    for node in from {
        let accept = &mut role.get_or_insert_default().accept;
        for rule in node.accept.iter().map(prefix_rule) {
            if !accept.contains(&rule) {
                accept.push(rule);
            }
        }
    }
    role
}

pub(super) fn remote_as(from: api::RemoteAs, own: Asn) -> core::RemoteAs {
    match from {
        api::RemoteAs::Internal => core::RemoteAs::Number(own),
        api::RemoteAs::External => core::RemoteAs::External,
        api::RemoteAs::Auto => core::RemoteAs::Auto,
        api::RemoteAs::Number(asn) => core::RemoteAs::Number(asn),
    }
}

/// A peer that may be external counts as directly connected.
pub(super) fn transport(peer: &Peer, internal: bool, md5: Option<Vec<u8>>) -> Transport {
    let usual = if internal { TTL_INTERNAL } else { TTL_EXTERNAL };
    match peer.ttl_security {
        // Each hop takes one: `hops` away means that 255 has become 256 − hops at least.
        Some(hops) => Transport { ttl: TTL_SECURE, min_ttl: Some(TTL_SECURE - (hops.max(1) - 1)), md5 },
        None => Transport { ttl: peer.ttl.unwrap_or(usual), min_ttl: None, md5 },
    }
}

/// `long_lived` is the global time in seconds.
pub(super) fn peer(
    from: &Peer,
    remote_as: core::RemoteAs,
    scope: u32,
    ttl: u8,
    long_lived: u32,
) -> core::PeerConfig {
    let mut peer = core::PeerConfig::new(from.label(), from.address, remote_as);
    peer.local_as = from.local_as.map(|other| core::LocalAs {
        asn: other.asn,
        no_prepend: other.no_prepend,
        replace_as: other.replace_as,
    });
    (peer.role, peer.role_strict) = (from.role, from.role_strict);
    peer.shutdown = from.shutdown.clone();
    peer.transport = core::Transport {
        local: from.local_address,
        scope,
        port: from.port,
        passive: from.passive,
        ttl: Some(ttl),
    };
    peer.wait_for_path = from.bfd.as_ref().is_some_and(|bfd| bfd.strict);
    peer.hold_time = Duration::from_secs(from.hold_time.into());
    peer.connect_retry = Duration::from_secs(from.connect_retry.into());
    peer.families = families(&from.families);
    peer.rr_client = from.rr_client;
    peer.next_hop = match from.next_hop {
        api::NextHop::Auto => core::ExportNextHop::Auto,
        api::NextHop::SelfExternal => core::ExportNextHop::SelfExternal,
        api::NextHop::SelfAlways => core::ExportNextHop::SelfAlways,
        api::NextHop::Unchanged => core::ExportNextHop::Unchanged,
    };
    peer.graceful_restart = from.graceful_restart;
    let long_lived = Some(from.long_lived_time.unwrap_or(long_lived)).filter(|time| *time > 0);
    peer.long_lived = long_lived.map(|time| Duration::from_secs(time.into()));
    peer.long_lived_fallback = from.long_lived_fallback;
    peer.extended_next_hop = from.extended_next_hop;
    peer.add_path = PerFamily::from_fn(|family| add_path(from.add_path.as_ref(), family));
    peer.allow_own_as = from.allow_own_as;
    peer.import = choice(&from.import);
    peer.export = choice(&from.export);
    peer.max_prefix = from.max_prefix.map(|max| core::MaxPrefix {
        limit: max.limit,
        action: match max.action {
            api::MaxPrefixAction::Warn => core::MaxPrefixAction::Warn,
            api::MaxPrefixAction::Discard => core::MaxPrefixAction::Discard,
            api::MaxPrefixAction::Restart => core::MaxPrefixAction::Restart,
        },
    });
    peer
}

fn add_path(from: Option<&api::AddPath>, family: Family) -> core::AddPath {
    let Some(from) = from.filter(|from| from.covers(family)) else { return core::AddPath::default() };
    let send = match from.send {
        api::SendPaths::Best => core::SendPaths::Best,
        api::SendPaths::All => core::SendPaths::All,
        api::SendPaths::Most(most) => core::SendPaths::Most(most),
    };
    core::AddPath { receive: from.receive, send }
}

/// What the peers of a listen range are like. The stem of their names is the range's, or `range`.
pub(super) fn range_peer(
    range: &api::ListenRange,
    remote_as: core::RemoteAs,
    ttl: u8,
    long_lived: u32,
) -> core::PeerConfig {
    let mut peer = peer(&range.peer, remote_as, 0, ttl, long_lived);
    peer.name = range.peer.name.clone().unwrap_or_else(|| "range".to_owned());
    peer
}

pub(super) fn network(from: &Network) -> core::Network {
    core::Network {
        prefix: from.prefix,
        med: from.med,
        local_pref: from.local_pref,
        communities: from.communities.clone(),
        large_communities: from.large_communities.clone(),
    }
}

fn aggregate(from: &api::Aggregate) -> core::Aggregate {
    core::Aggregate {
        network: core::Network {
            prefix: from.prefix,
            med: from.med,
            local_pref: from.local_pref,
            communities: from.communities.clone(),
            large_communities: from.large_communities.clone(),
        },
        summary_only: from.summary_only,
    }
}

fn families(list: &[Family]) -> Families {
    PerFamily::from_fn(|family| list.contains(&family))
}

fn choice(from: &api::PolicyChoice) -> core::PolicyChoice {
    match from {
        api::PolicyChoice::Default => core::PolicyChoice::Default,
        api::PolicyChoice::AcceptAll => core::PolicyChoice::AcceptAll,
        api::PolicyChoice::RejectAll => core::PolicyChoice::RejectAll,
        api::PolicyChoice::Named(name) => core::PolicyChoice::Named(name.clone()),
    }
}

fn prefix_rule(from: &api::PrefixRule) -> core::PrefixRule {
    core::PrefixRule { prefix: from.prefix, ge: from.ge, le: from.le }
}

fn verdict(from: api::Verdict) -> core::Verdict {
    match from {
        api::Verdict::Accept => core::Verdict::Accept,
        api::Verdict::Reject => core::Verdict::Reject,
    }
}

fn policy(from: &api::Policy, file: &Config) -> core::Policy {
    core::Policy {
        rules: from.rules.iter().map(|one| rule(one, file)).collect(),
        default: verdict(from.default),
    }
}

fn rule(from: &api::Rule, file: &Config) -> core::Rule {
    core::Rule {
        name: from.name.clone(),
        when: conditions(&from.when),
        set: actions(&from.set, file),
        verdict: from.verdict.map(verdict),
    }
}

fn conditions(when: &api::Match) -> core::Match {
    let length = when.as_path_length.unwrap_or_default();
    core::Match {
        prefix_sets: when.prefix_sets.clone(),
        prefixes: when.prefixes.iter().map(prefix_rule).collect(),
        family: when.family,
        peers: when.peers.clone(),
        source: when.source.map(|source| match source {
            api::Source::Local => core::Source::Local,
            api::Source::External => core::Source::External,
            api::Source::Internal => core::Source::Internal,
        }),
        communities: when.communities.clone(),
        large_communities: when.large_communities.clone(),
        extended_communities: when.extended_communities.clone(),
        community_sets: when.community_sets.clone(),
        as_path_sets: when.as_path_sets.clone(),
        as_paths: when.as_paths.clone(),
        as_path_min: length.min,
        as_path_max: length.max,
        origin_as: when.origin_as.clone(),
        next_hops: when.next_hops.clone(),
    }
}

fn actions(set: &api::Actions, file: &Config) -> core::Actions {
    let mut actions = core::Actions {
        local_pref: set.local_pref,
        med: set.med,
        remove_communities: set.remove_communities.clone(),
        add_communities: set.add_communities.clone(),
        remove_large_communities: set.remove_large_communities.clone(),
        add_large_communities: set.add_large_communities.clone(),
        remove_extended_communities: set.remove_extended_communities.clone(),
        add_extended_communities: set.add_extended_communities.clone(),
        next_hop: set.next_hop.map(|next_hop| match next_hop {
            api::SetNextHop::Ourselves => core::SetNextHop::Ourselves,
            api::SetNextHop::Peer => core::SetNextHop::Peer,
            api::SetNextHop::Address(address) => core::SetNextHop::Address(address),
        }),
        prepend: set.prepend,
    };
    let sets = set.remove_community_sets.iter().filter_map(|name| file.community_sets.get(name));
    for community in sets.flatten() {
        match *community {
            AnyCommunity::Standard(community) => actions.remove_communities.push(community),
            AnyCommunity::Large(community) => actions.remove_large_communities.push(community),
            AnyCommunity::Extended(community) => actions.remove_extended_communities.push(community),
        }
    }
    actions
}
