//! One policy tried on one path, to see which rule decides.

use std::net::IpAddr;

use turnpike_bgp_wire::{Attributes, NextHop, Prefix};

use super::policy::{Answer, Candidate, Policies, prepend};
use crate::config::{Config, SetNextHop, Source, Verdict};
use crate::output::Nexthop;
use crate::query::PathView;

/// The path to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Destination.
    pub prefix: Prefix,
    /// Where it came from.
    pub source: Source,
    /// From which peer.
    pub peer: Option<IpAddr>,
    /// Its next hop.
    pub next_hop: Option<IpAddr>,
    /// Everything else.
    pub attributes: Attributes,
}

/// What one rule said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeRule {
    /// Its name, or its number from 1.
    pub rule: String,
    /// The first condition that did not hold; `None`: it matched.
    pub missed: Option<&'static str>,
    /// Its verdict, if it matched and has one.
    pub verdict: Option<Verdict>,
}

/// How the policy decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeAnswer {
    /// The rules in order, as far as they were asked.
    pub rules: Vec<ProbeRule>,
    /// The rule that decided; `None`: the policy's default did.
    pub decided_by: Option<String>,
    /// The path as it comes out; `None`: it is refused.
    pub result: Option<PathView>,
}

/// Tries the policy `name` of `config`; `None` if there is no such policy. Prepending is shown as on import.
pub fn probe(config: &Config, name: &str, probe: &Probe) -> Option<ProbeAnswer> {
    let policies = Policies::compile(config);
    let policy = policies.get(name)?;
    let written = &config.policies.get(name)?.rules;
    let candidate = Candidate {
        prefix: probe.prefix,
        source: probe.source,
        peer: probe.peer,
        next_hop: probe.next_hop,
        attributes: &probe.attributes,
    };
    let mut rules = Vec::new();
    let answer = policy.apply_and_tell(&candidate, |said| {
        let index = rules.len();
        let given = written.get(index).and_then(|rule| rule.name.clone());
        let rule = given.unwrap_or_else(|| (index + 1).to_string());
        rules.push(ProbeRule { rule, missed: said.missed, verdict: said.verdict });
    });
    let decided_by = rules.last().filter(|rule| rule.verdict.is_some()).map(|rule| rule.rule.clone());
    let hop = |addr: Option<IpAddr>| addr.map(Nexthop::global);
    let result = match answer {
        Answer::Reject => None,
        Answer::Accept => Some(PathView::of(probe.prefix, &probe.attributes, hop(probe.next_hop))),
        Answer::Change(mut change) => {
            if let Some(asn) = probe.attributes.as_path.neighbour() {
                prepend(&mut change.attributes, asn, change.prepend);
            }
            let set = match change.next_hop {
                Some(SetNextHop::Peer) => probe.peer,
                Some(SetNextHop::Address(addr)) => Some(addr),
                Some(SetNextHop::Ourselves) | None => None,
            };
            let next_hop = set.or(probe.next_hop).map(NextHop::from).map(NextHop::addr);
            Some(PathView::of(probe.prefix, &change.attributes, hop(next_hop)))
        }
    };
    let result = result.map(|path| PathView { from_address: probe.peer, accepted: true, ..path });
    Some(ProbeAnswer { rules, decided_by, result })
}
