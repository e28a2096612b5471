//! Policies as data: sets, rules, verdicts.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::{
    AnyCommunity, AsPathPattern, Asn, Community, ExtendedCommunity, Family, LargeCommunity, Prefix,
};

/// Prefixes out of a range, as in a router's prefix list.
///
/// Without `ge` and `le` only the prefix itself matches; with `ge` alone every length from it to the family's
/// longest; with `le` alone every length from the prefix's own to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixRule {
    /// The range.
    pub prefix: Prefix,
    /// Shortest length that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ge: Option<u8>,
    /// Longest length that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub le: Option<u8>,
}

impl PrefixRule {
    /// Matches `prefix` alone.
    pub const fn exact(prefix: Prefix) -> Self {
        Self { prefix, ge: None, le: None }
    }

    /// Matches `prefix` and everything inside.
    pub const fn within(prefix: Prefix) -> Self {
        Self { prefix, ge: None, le: Some(prefix.family().max_len()) }
    }

    /// The shortest and the longest length that match.
    pub const fn lengths(&self) -> (u8, u8) {
        let own = self.prefix.prefix_len();
        match (self.ge, self.le) {
            (None, None) => (own, own),
            (Some(ge), None) => (ge, self.prefix.family().max_len()),
            (None, Some(le)) => (own, le),
            (Some(ge), Some(le)) => (ge, le),
        }
    }

    /// True if `prefix` matches.
    pub const fn matches(&self, prefix: Prefix) -> bool {
        let (shortest, longest) = self.lengths();
        let len = prefix.prefix_len();
        len >= shortest && len <= longest && self.prefix.covers(prefix)
    }
}

/// A set of prefixes: what any of its rules matches.
pub type PrefixSet = Vec<PrefixRule>;

/// Which policy a peer uses in one direction.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyChoice {
    /// Internal peers: everything. External peers: nothing (RFC 8212).
    #[default]
    Default,
    /// Everything.
    AcceptAll,
    /// Nothing.
    RejectAll,
    /// The policy of this name.
    Named(String),
}

/// Rules in order; the first rule that matches and has a verdict decides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The rules.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// The verdict when no rule decided.
    #[serde(default)]
    pub default: Verdict,
}

/// The answer for a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Take it.
    Accept,
    /// Leave it.
    #[default]
    Reject,
}

/// One rule: if everything in `when` matches, apply `set`; then decide, or go on without a verdict.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Shown as the one that decided.
    pub name: Option<String>,
    /// Conditions; an absent one always holds.
    pub when: Match,
    /// Changes to the path.
    pub set: Actions,
    /// The verdict, or `None` to go on with the next rule.
    pub verdict: Option<Verdict>,
}

/// Conditions of a rule. All that are present must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// In any of these prefix sets (by name).
    pub prefix_sets: Vec<String>,
    /// Matched by any of these.
    pub prefixes: Vec<PrefixRule>,
    /// Of this family.
    pub family: Option<Family>,
    /// Learnt from any of these peers.
    pub peers: Vec<IpAddr>,
    /// Learnt in this way.
    pub source: Option<Source>,
    /// Carries any of these.
    pub communities: Vec<Community>,
    /// Carries any of these.
    pub large_communities: Vec<LargeCommunity>,
    /// Carries any of any of these sets (by name).
    pub community_sets: Vec<String>,
    /// Carries any of these.
    pub extended_communities: Vec<ExtendedCommunity>,
    /// AS_PATH in any of these sets (by name).
    pub as_path_sets: Vec<String>,
    /// AS_PATH matched by any of these.
    pub as_paths: Vec<AsPathPattern>,
    /// AS_PATH at least so long; an AS_SET counts as one.
    pub as_path_min: Option<u32>,
    /// AS_PATH at most so long.
    pub as_path_max: Option<u32>,
    /// Originated by any of these; what our own AS originates has no origin here.
    pub origin_as: Vec<Asn>,
    /// Next hop inside any of these.
    pub next_hops: Vec<Prefix>,
}

/// Where a path came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// We originate it.
    Local,
    /// From a peer of another AS.
    External,
    /// From a peer of our AS.
    Internal,
}

/// Sets of communities of any kind.
pub type CommunitySet = Vec<AnyCommunity>;

/// Sets of AS path patterns.
pub type AsPathSet = Vec<AsPathPattern>;

/// The next hop that a rule sets. One that does not fit the path's family, or that means nothing in the direction in
/// question, changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetNextHop {
    /// On export: ourselves.
    Ourselves,
    /// On import: the peer.
    Peer,
    /// This address.
    Address(IpAddr),
}

/// Changes that a rule makes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Actions {
    /// Sets LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// Sets MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Takes these away (before `add`).
    pub remove_communities: Vec<Community>,
    /// Adds these.
    pub add_communities: Vec<Community>,
    /// Takes these away (before `add`).
    pub remove_large_communities: Vec<LargeCommunity>,
    /// Adds these.
    pub add_large_communities: Vec<LargeCommunity>,
    /// Takes these away (before `add`).
    pub remove_extended_communities: Vec<ExtendedCommunity>,
    /// Adds these.
    pub add_extended_communities: Vec<ExtendedCommunity>,
    /// Sets the next hop.
    pub next_hop: Option<SetNextHop>,
    /// Prepends so many times more: on export to external peers our AS, on import from them theirs. Without
    /// effect inside the AS, where every AS_PATH with our AS in it would be refused.
    pub prepend: u8,
}
