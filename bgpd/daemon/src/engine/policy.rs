//! Policies tried on a path.

use turnpike_bgp_core::config::{Config as CoreConfig, PolicyChoice, Source, Verdict};
use turnpike_bgp_core::query::PathView;
use turnpike_bgp_core::{Nexthop, Probe, probe};
use turnpike_bgp_wire::AsPath;
use turnpike_bgpd_api::view::{PolicyTrace, RuleTrace};
use turnpike_bgpd_api::{ErrorReply, PolicyTest, Reply};

use super::Engine;
use super::requests::{conflict, find_peer, names, not_found};
use crate::views;

/// What the core says of such a path.
const REFUSED: &str = "refused by import policy";

impl Engine {
    /// Tries a policy of `config`, or of the one in force, on a path.
    pub(super) fn policy_test(
        &self,
        test: &PolicyTest,
        config: Option<&CoreConfig>,
    ) -> Result<Reply, ErrorReply> {
        let speaker = self.speaker()?;
        let config = config.unwrap_or(speaker.config());
        let peer = test.peer.as_deref().map(|peer| find_peer(speaker, peer)).transpose()?;
        let peer = peer.and_then(|id| speaker.peer(id));
        let policy = match (&test.policy, &peer) {
            (Some(policy), _) => policy.clone(),
            (None, Some(peer)) => imported_with(config, peer.remote, &peer.name)?,
            (None, None) => {
                return Err(conflict("name a policy, or a peer to take the import policy of".to_owned()));
            }
        };
        let held = speaker.received(test.prefix, peer.as_ref().map(|peer| peer.id));
        let (mut attributes, next_hop) = held.unwrap_or_default();
        if let Some(path) = &test.as_path {
            attributes.as_path = AsPath::sequence(path.iter().copied());
        }
        if let Some(communities) = &test.communities {
            attributes.communities = communities.clone().into();
        }
        if let Some(communities) = &test.large_communities {
            attributes.large_communities = communities.clone().into();
        }
        attributes.local_pref = test.local_pref.or(attributes.local_pref);
        attributes.med = test.med.or(attributes.med);
        let remote = peer.as_ref().map(|peer| peer.remote);
        let candidate = Probe {
            prefix: test.prefix,
            source: match &peer {
                None => Source::Local,
                Some(peer) if peer.internal => Source::Internal,
                Some(_) => Source::External,
            },
            peer: remote,
            next_hop: test.next_hop.or(next_hop).or(remote),
            attributes,
        };
        let Some(answer) = probe(config, &policy, &candidate) else {
            return Err(not_found(format!("there is no policy `{policy}`")));
        };
        let names = names(speaker);
        let id = peer.as_ref().map(|peer| peer.id);
        let show =
            |path: PathView| views::path(PathView { from: id, from_address: remote, ..path }, &names, false);
        let hop = candidate.next_hop.map(Nexthop::global);
        let path = show(PathView::of(candidate.prefix, &candidate.attributes, hop));
        let accepted = answer.result.is_some();
        let default = config.policies.get(&policy).map(|policy| word(policy.default)).unwrap_or_default();
        Ok(Reply::PolicyTrace(Box::new(PolicyTrace {
            path,
            rules: answer
                .rules
                .into_iter()
                .map(|rule| RuleTrace {
                    rule: rule.rule,
                    missed: rule.missed.map(str::to_owned),
                    verdict: rule.verdict.map(|verdict| word(verdict).to_owned()),
                })
                .collect(),
            accepted,
            decided_by: match answer.decided_by {
                Some(rule) => format!("rule {rule}"),
                None => format!("the default of the policy, {default}"),
            },
            result: answer.result.map(show),
            policy,
        })))
    }
}

impl Engine {
    /// Names the rule for a path that its peer's import policy refused; `None` for any other path. With several paths of
    /// one peer it is the first of them that is tried.
    pub(super) fn refusal(&self, refused: &PathView) -> Option<String> {
        let address = refused.from_address.filter(|_| refused.why.as_deref() == Some(REFUSED))?;
        let peer = self.speaker.as_ref()?.config().peers.iter().find(|peer| peer.remote == address)?;
        match &peer.import {
            PolicyChoice::Named(_) => {
                let test = PolicyTest::of_peer(refused.prefix, address);
                let Ok(Reply::PolicyTrace(trace)) = self.policy_test(&test, None) else { return None };
                (!trace.accepted).then(|| format!("{REFUSED} `{}`: {}", trace.policy, trace.decided_by))
            }
            PolicyChoice::RejectAll => Some(format!("{REFUSED} `reject-all`")),
            PolicyChoice::Default => Some(format!("{REFUSED}: an external peer without one (RFC 8212)")),
            PolicyChoice::AcceptAll => None,
        }
    }
}

fn imported_with(config: &CoreConfig, remote: std::net::IpAddr, name: &str) -> Result<String, ErrorReply> {
    let peer = config.peers.iter().find(|peer| peer.remote == remote);
    let word = match peer.map(|peer| &peer.import) {
        Some(PolicyChoice::Named(policy)) => return Ok(policy.clone()),
        Some(PolicyChoice::AcceptAll) => "accept-all",
        Some(PolicyChoice::RejectAll) => "reject-all",
        Some(PolicyChoice::Default) => "default",
        None => return Err(not_found(format!("there is no peer `{name}` in that file"))),
    };
    Err(conflict(format!("{name} imports with `{word}`, which has no rules to show")))
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "accept",
        Verdict::Reject => "reject",
    }
}
