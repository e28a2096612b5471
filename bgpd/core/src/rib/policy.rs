//! Policies, ready for use.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prefix_trie::PrefixMap;
use turnpike_bgp_wire::{Asn, Attributes, Community, Prefix, Prefix4, Prefix6};

use crate::config::{Actions, Config, Match, Policy, PolicyChoice, PrefixRule, Source, Verdict};

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
    /// With these attributes, and so many more of our AS in front.
    Change(Box<Attributes>, u8),
}

#[derive(Debug)]
struct CompiledRule {
    prefixes: Option<PrefixMatcher>,
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

impl CompiledPolicy {
    fn new(policy: &Policy, config: &Config) -> Self {
        let compile = |rule: &crate::config::Rule| {
            let sets = rule.when.prefix_sets.iter().filter_map(|name| config.prefix_sets.get(name)).flatten();
            let asks = !rule.when.prefix_sets.is_empty() || !rule.when.prefixes.is_empty();
            CompiledRule {
                prefixes: asks.then(|| PrefixMatcher::new(sets.chain(&rule.when.prefixes))),
                when: rule.when.clone(),
                set: rule.set.clone(),
                verdict: rule.verdict,
            }
        };
        let rules: Vec<CompiledRule> = policy.rules.iter().map(compile).collect();
        let asks_for_prefix = rules.iter().any(|rule| rule.prefixes.is_some());
        Self { rules, default: policy.default, asks_for_prefix }
    }

    fn apply(&self, candidate: &Candidate<'_>) -> Answer {
        let mut changed: Option<Box<Attributes>> = None;
        let mut prepend = 0_u8;
        let mut verdict = self.default;
        for rule in &self.rules {
            let attributes = changed.as_deref().unwrap_or(candidate.attributes);
            if !rule.matches(candidate, attributes) {
                continue;
            }
            if rule.set.change_attributes() {
                let mut next = changed.take().unwrap_or_else(|| Box::new(candidate.attributes.clone()));
                rule.set.apply(&mut next);
                changed = Some(next);
            }
            prepend = prepend.saturating_add(rule.set.prepend);
            if let Some(decided) = rule.verdict {
                verdict = decided;
                break;
            }
        }
        match (verdict, changed, prepend) {
            (Verdict::Reject, ..) => Answer::Reject,
            (Verdict::Accept, None, 0) => Answer::Accept,
            (Verdict::Accept, changed, prepend) => {
                Answer::Change(changed.unwrap_or_else(|| Box::new(candidate.attributes.clone())), prepend)
            }
        }
    }
}

impl CompiledRule {
    fn matches(&self, candidate: &Candidate<'_>, attributes: &Attributes) -> bool {
        let when = &self.when;
        let any = |empty: bool, found: bool| empty || found;
        self.prefixes.as_ref().is_none_or(|prefixes| prefixes.matches(candidate.prefix))
            && when.family.is_none_or(|family| family == candidate.prefix.family())
            && when.source.is_none_or(|source| source == candidate.source)
            && any(when.peers.is_empty(), candidate.peer.is_some_and(|peer| when.peers.contains(&peer)))
            && any(
                when.communities.is_empty(),
                attributes.communities.iter().any(|community| when.communities.contains(community)),
            )
            && any(
                when.large_communities.is_empty(),
                attributes
                    .large_communities
                    .iter()
                    .any(|community| when.large_communities.contains(community)),
            )
            && any(
                when.next_hops.is_empty(),
                candidate
                    .next_hop
                    .is_some_and(|addr| when.next_hops.iter().any(|range| range.contains(addr))),
            )
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
            prepend: _,
        } = self;
        local_pref.is_some()
            || med.is_some()
            || !remove_communities.is_empty()
            || !add_communities.is_empty()
            || !remove_large_communities.is_empty()
            || !add_large_communities.is_empty()
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

/// Puts our AS in front so many times.
pub(super) fn prepend(attributes: &mut Attributes, asn: Asn, times: u8) {
    if times > 0 {
        attributes.as_path = attributes.as_path.prepended(asn, usize::from(times));
    }
}
