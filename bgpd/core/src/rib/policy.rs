//! Policies, ready for use.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prefix_trie::PrefixMap;
use turnpike_bgp_wire::{AnyCommunity, AsPathPattern, Asn, Attributes, Community, Prefix, Prefix4, Prefix6};

use crate::config::{Actions, Config, Match, Policy, PolicyChoice, PrefixRule, SetNextHop, Source, Verdict};

/// A set of prefixes with length bounds, looked up by walking up from the prefix in question.
#[derive(Debug, Default)]
pub(super) struct PrefixMatcher {
    v4: PrefixMap<Prefix4, Vec<(u8, u8)>>,
    v6: PrefixMap<Prefix6, Vec<(u8, u8)>>,
}

impl PrefixMatcher {
    pub(super) fn new<'a>(rules: impl IntoIterator<Item = &'a PrefixRule>) -> Self {
        let mut matcher = Self::default();
        for rule in rules {
            match rule.prefix {
                Prefix::V4(prefix) => matcher.v4.entry(prefix).or_default().push(rule.lengths()),
                Prefix::V6(prefix) => matcher.v6.entry(prefix).or_default().push(rule.lengths()),
            }
        }
        matcher
    }

    pub(super) fn matches(&self, prefix: Prefix) -> bool {
        let len = prefix.prefix_len();
        let fits = |bounds: &Vec<(u8, u8)>| bounds.iter().any(|(low, high)| (*low..=*high).contains(&len));
        match prefix {
            Prefix::V4(prefix) => self.v4.cover_values(&prefix).any(fits),
            Prefix::V6(prefix) => self.v6.cover_values(&prefix).any(fits),
        }
    }
}

/// A path on its way through a policy.
pub(super) struct Candidate<'a> {
    pub(super) prefix: Prefix,
    pub(super) source: Source,
    pub(super) peer: Option<IpAddr>,
    pub(super) next_hop: Option<IpAddr>,
    pub(super) attributes: &'a Attributes,
}

/// The answer of a policy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Reject,
    /// As it is.
    Accept,
    /// Changed.
    Change(Box<Change>),
}

/// What an accepted path becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) attributes: Attributes,
    /// So many more of the AS that the direction calls for in front.
    pub(super) prepend: u8,
    pub(super) next_hop: Option<SetNextHop>,
}

#[derive(Debug)]
struct CompiledRule {
    prefixes: Option<PrefixMatcher>,
    /// Of all community sets that the rule names.
    communities: Option<Vec<AnyCommunity>>,
    as_paths: Option<Vec<AsPathPattern>>,
    when: Match,
    set: Actions,
    verdict: Option<Verdict>,
}

/// One policy.
#[derive(Debug)]
pub(super) struct CompiledPolicy {
    rules: Vec<CompiledRule>,
    default: Verdict,
    /// Two paths with equal attributes from one peer may get different answers.
    pub(super) asks_for_prefix: bool,
}

/// All policies by name.
#[derive(Debug, Default)]
pub(super) struct Policies(BTreeMap<String, CompiledPolicy>);

impl Policies {
    pub(super) fn get(&self, name: &str) -> Option<&CompiledPolicy> {
        self.0.get(name)
    }
}

/// A policy as a peer refers to it.
#[derive(Clone, Copy)]
pub(super) enum Chosen<'a> {
    Accept,
    Reject,
    Policy(&'a CompiledPolicy),
}

impl Policies {
    pub(super) fn compile(config: &Config) -> Self {
        let compile =
            |(name, policy): (&String, &Policy)| (name.clone(), CompiledPolicy::new(policy, config));
        Self(config.policies.iter().map(compile).collect())
    }

    pub(super) fn choose(&self, choice: &PolicyChoice, internal: bool) -> Chosen<'_> {
        match choice {
            PolicyChoice::AcceptAll => Chosen::Accept,
            PolicyChoice::RejectAll => Chosen::Reject,
            // RFC 8212 §2: an external peer without a policy gets and gives nothing.
            PolicyChoice::Default if internal => Chosen::Accept,
            PolicyChoice::Default => Chosen::Reject,
            PolicyChoice::Named(name) => self.0.get(name).map_or(Chosen::Reject, Chosen::Policy),
        }
    }
}

impl Chosen<'_> {
    pub(super) fn apply(self, candidate: &Candidate<'_>) -> Answer {
        match self {
            Chosen::Accept => Answer::Accept,
            Chosen::Reject => Answer::Reject,
            Chosen::Policy(policy) => policy.apply(candidate),
        }
    }

    pub(super) const fn asks_for_prefix(self) -> bool {
        match self {
            Chosen::Accept | Chosen::Reject => false,
            Chosen::Policy(policy) => policy.asks_for_prefix,
        }
    }
}

/// What one rule had to say, for those who ask how a policy came to its answer.
#[derive(Debug)]
pub(super) struct Said {
    /// The first condition that did not hold.
    pub(super) missed: Option<&'static str>,
    pub(super) verdict: Option<Verdict>,
}

impl CompiledPolicy {
    fn new(policy: &Policy, config: &Config) -> Self {
        let rules: Vec<CompiledRule> =
            policy.rules.iter().map(|rule| CompiledRule::new(rule, config)).collect();
        let asks_for_prefix = rules.iter().any(|rule| rule.prefixes.is_some());
        Self { rules, default: policy.default, asks_for_prefix }
    }

    fn apply(&self, candidate: &Candidate<'_>) -> Answer {
        self.apply_and_tell(candidate, |_| {})
    }

    /// The answer, and what each rule said on the way to it.
    pub(super) fn apply_and_tell(&self, candidate: &Candidate<'_>, mut tell: impl FnMut(Said)) -> Answer {
        let mut changed: Option<Box<Attributes>> = None;
        let mut prepend = 0_u8;
        let mut next_hop = None;
        let mut verdict = self.default;
        for rule in &self.rules {
            let attributes = changed.as_deref().unwrap_or(candidate.attributes);
            let missed = rule.misses(candidate, attributes);
            tell(Said { missed, verdict: rule.verdict.filter(|_| missed.is_none()) });
            if missed.is_some() {
                continue;
            }
            if rule.set.change_attributes() {
                let mut next = changed.take().unwrap_or_else(|| Box::new(candidate.attributes.clone()));
                rule.set.apply(&mut next);
                changed = Some(next);
            }
            prepend = prepend.saturating_add(rule.set.prepend);
            next_hop = rule.set.next_hop.or(next_hop);
            if let Some(decided) = rule.verdict {
                verdict = decided;
                break;
            }
        }
        match (verdict, changed, prepend, next_hop) {
            (Verdict::Reject, ..) => Answer::Reject,
            (Verdict::Accept, None, 0, None) => Answer::Accept,
            (Verdict::Accept, changed, prepend, next_hop) => {
                let attributes = changed.map_or_else(|| candidate.attributes.clone(), |changed| *changed);
                Answer::Change(Box::new(Change { attributes, prepend, next_hop }))
            }
        }
    }
}

impl CompiledRule {
    fn new(rule: &crate::config::Rule, config: &Config) -> Self {
        let when = &rule.when;
        let sets = when.prefix_sets.iter().filter_map(|name| config.prefix_sets.get(name)).flatten();
        let asks = !when.prefix_sets.is_empty() || !when.prefixes.is_empty();
        let communities =
            when.community_sets.iter().filter_map(|name| config.community_sets.get(name)).flatten();
        let as_paths = when.as_path_sets.iter().filter_map(|name| config.as_path_sets.get(name)).flatten();
        let asks_as_paths = !when.as_path_sets.is_empty() || !when.as_paths.is_empty();
        Self {
            prefixes: asks.then(|| PrefixMatcher::new(sets.chain(&when.prefixes))),
            communities: (!when.community_sets.is_empty()).then(|| communities.copied().collect()),
            as_paths: asks_as_paths.then(|| as_paths.chain(&when.as_paths).cloned().collect()),
            when: when.clone(),
            set: rule.set.clone(),
            verdict: rule.verdict,
        }
    }

    /// The first condition that does not hold, by its name in the file; `None`: the rule matches.
    fn misses(&self, candidate: &Candidate<'_>, attributes: &Attributes) -> Option<&'static str> {
        let when = &self.when;
        if !self.prefixes.as_ref().is_none_or(|prefixes| prefixes.matches(candidate.prefix)) {
            return Some("prefixes");
        }
        if when.family.is_some_and(|family| family != candidate.prefix.family()) {
            return Some("family");
        }
        if when.source.is_some_and(|source| source != candidate.source) {
            return Some("source");
        }
        if !when.peers.is_empty() && !candidate.peer.is_some_and(|peer| when.peers.contains(&peer)) {
            return Some("peers");
        }
        if !when.communities.is_empty()
            && !attributes.communities.iter().any(|held| when.communities.contains(held))
        {
            return Some("communities");
        }
        if !when.large_communities.is_empty()
            && !attributes.large_communities.iter().any(|held| when.large_communities.contains(held))
        {
            return Some("large_communities");
        }
        if !when.extended_communities.is_empty()
            && !attributes.extended_communities.iter().any(|held| when.extended_communities.contains(held))
        {
            return Some("extended_communities");
        }
        if !self.communities.as_ref().is_none_or(|any| any.iter().any(|wanted| carries(attributes, *wanted)))
        {
            return Some("community_sets");
        }
        if !self.as_path_holds(attributes) {
            return Some("as_path");
        }
        let inside = |addr| when.next_hops.iter().any(|range| range.contains(addr));
        if !when.next_hops.is_empty() && !candidate.next_hop.is_some_and(inside) {
            return Some("next_hops");
        }
        None
    }

    fn as_path_holds(&self, attributes: &Attributes) -> bool {
        let (when, path) = (&self.when, &attributes.as_path);
        let hops = || path.hops() as u32;
        when.as_path_min.is_none_or(|least| hops() >= least)
            && when.as_path_max.is_none_or(|most| hops() <= most)
            && (when.origin_as.is_empty() || path.origin().is_some_and(|asn| when.origin_as.contains(&asn)))
            && self.as_paths.as_ref().is_none_or(|any| any.iter().any(|pattern| pattern.matches(path)))
    }
}

fn carries(attributes: &Attributes, wanted: AnyCommunity) -> bool {
    match wanted {
        AnyCommunity::Standard(wanted) => attributes.communities.contains(&wanted),
        AnyCommunity::Large(wanted) => attributes.large_communities.contains(&wanted),
        AnyCommunity::Extended(wanted) => attributes.extended_communities.contains(&wanted),
    }
}

impl Actions {
    fn change_attributes(&self) -> bool {
        let Actions {
            local_pref,
            med,
            remove_communities,
            add_communities,
            remove_large_communities,
            add_large_communities,
            remove_extended_communities,
            add_extended_communities,
            next_hop: _,
            prepend: _,
        } = self;
        local_pref.is_some()
            || med.is_some()
            || !remove_communities.is_empty()
            || !add_communities.is_empty()
            || !remove_large_communities.is_empty()
            || !add_large_communities.is_empty()
            || !remove_extended_communities.is_empty()
            || !add_extended_communities.is_empty()
    }

    fn apply(&self, attributes: &mut Attributes) {
        if let Some(local_pref) = self.local_pref {
            attributes.local_pref = Some(local_pref);
        }
        if let Some(med) = self.med {
            attributes.med = Some(med);
        }
        edit(&mut attributes.communities, &self.remove_communities, &self.add_communities);
        edit(&mut attributes.large_communities, &self.remove_large_communities, &self.add_large_communities);
        edit(
            &mut attributes.extended_communities,
            &self.remove_extended_communities,
            &self.add_extended_communities,
        );
    }
}

fn edit<T: Copy + PartialEq>(list: &mut Box<[T]>, remove: &[T], add: &[T]) {
    if remove.is_empty() && add.is_empty() {
        return;
    }
    let mut edited: Vec<T> = list.iter().filter(|item| !remove.contains(item)).copied().collect();
    for item in add {
        if !edited.contains(item) {
            edited.push(*item);
        }
    }
    *list = edited.into();
}

/// True if a path with these communities must not go to a peer (RFC 1997).
pub(super) fn kept_back(attributes: &Attributes, to_internal: bool) -> bool {
    attributes.communities.iter().any(|community| match *community {
        Community::NO_ADVERTISE => true,
        Community::NO_EXPORT | Community::NO_EXPORT_SUBCONFED => !to_internal,
        _ => false,
    })
}

/// The path is about to go, and wants to be the last choice (RFC 8326).
pub(super) fn is_going(attributes: &Attributes) -> bool {
    attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN)
}

/// Marks a path as one that is about to go (RFC 8326 §4.1). Inside the AS it also gets the lowest LOCAL_PREF, for those
/// who do not look at the community.
pub(super) fn mark_going(attributes: &mut Attributes, internal: bool) {
    edit(&mut attributes.communities, &[], &[Community::GRACEFUL_SHUTDOWN]);
    if internal {
        attributes.local_pref = Some(0);
    }
}

/// Puts our AS in front so many times.
pub(super) fn prepend(attributes: &mut Attributes, asn: Asn, times: u8) {
    if times > 0 {
        attributes.as_path = attributes.as_path.prepended(asn, usize::from(times));
    }
}
