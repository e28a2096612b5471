//! Policies as people write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use turnpike_bgp_wire::{AsPathPattern, Asn, Community, ExtendedCommunity, Family, LargeCommunity, Prefix};

/// Prefixes out of a range, written as in a router's prefix list: `10.244.0.0/16`, `10.244.0.0/16 le 26`,
/// `10.244.0.0/16 ge 24 le 28`.
///
/// Without `ge` and `le` only the prefix itself matches; with `ge` alone every length from it to the family's
/// longest; with `le` alone every length from the prefix's own to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixRule {
    /// The range.
    pub prefix: Prefix,
    /// Shortest length that matches.
    pub ge: Option<u8>,
    /// Longest length that matches.
    pub le: Option<u8>,
}

/// The text is not a prefix rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePrefixRuleError {
    /// Not the form.
    #[error("`{0}` is not of the form `PREFIX [ge LENGTH] [le LENGTH]`")]
    Syntax(String),
    /// The prefix.
    #[error(transparent)]
    Prefix(#[from] turnpike_bgp_wire::ParsePrefixError),
    /// The lengths.
    #[error("`{text}` matches nothing: lengths must rise from {own} over ge and le to {longest}")]
    Lengths {
        /// What was given.
        text: String,
        /// The prefix's own length.
        own: u8,
        /// The family's longest.
        longest: u8,
    },
}

impl FromStr for PrefixRule {
    type Err = ParsePrefixRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || ParsePrefixRuleError::Syntax(text.to_owned());
        let mut words = text.split_whitespace();
        let prefix: Prefix = words.next().ok_or_else(syntax)?.parse()?;
        let (mut ge, mut le) = (None, None);
        while let Some(word) = words.next() {
            let slot = match word {
                "ge" if ge.is_none() && le.is_none() => &mut ge,
                "le" if le.is_none() => &mut le,
                _ => return Err(syntax()),
            };
            *slot = Some(words.next().and_then(|length| length.parse::<u8>().ok()).ok_or_else(syntax)?);
        }
        let (own, longest) = (prefix.prefix_len(), prefix.family().max_len());
        let (shortest, last) = (ge.unwrap_or(own), le.unwrap_or(longest));
        if own <= shortest && shortest <= last && last <= longest {
            Ok(Self { prefix, ge, le })
        } else {
            Err(ParsePrefixRuleError::Lengths { text: text.to_owned(), own, longest })
        }
    }
}

impl fmt::Display for PrefixRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.prefix)?;
        if let Some(ge) = self.ge {
            write!(f, " ge {ge}")?;
        }
        if let Some(le) = self.le {
            write!(f, " le {le}")?;
        }
        Ok(())
    }
}

impl Serialize for PrefixRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PrefixRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Which policy a peer uses in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PolicyChoice {
    /// `default`. Internal peers: everything. External peers: nothing (RFC 8212).
    #[default]
    Default,
    /// `accept-all`.
    AcceptAll,
    /// `reject-all`.
    RejectAll,
    /// Any other word: the policy of this name.
    Named(String),
}

impl PolicyChoice {
    /// Words that no policy can be called by.
    pub(crate) const RESERVED: [&'static str; 3] = ["default", "accept-all", "reject-all"];
}

impl Serialize for PolicyChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Default => "default",
            Self::AcceptAll => "accept-all",
            Self::RejectAll => "reject-all",
            Self::Named(name) => name,
        })
    }
}

impl<'de> Deserialize<'de> for PolicyChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(match name.as_str() {
            "default" => Self::Default,
            "accept-all" => Self::AcceptAll,
            "reject-all" => Self::RejectAll,
            _ => Self::Named(name),
        })
    }
}

/// `[policies.NAME]`: rules in order; the first rule that matches and has a verdict decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The rules, `[[policies.NAME.rule]]`.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
    /// The verdict when no rule decided.
    pub default: Verdict,
}

/// The answer for a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Take it.
    Accept,
    /// Leave it.
    #[default]
    Reject,
}

/// If everything in `when` matches, apply `set`; then decide, or go on without a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Shown as the one that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Conditions; an absent one always holds.
    pub when: Match,
    /// Changes to the path.
    pub set: Actions,
    /// The verdict; absent: go on with the next rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// Conditions of a rule. All that are present must hold; within a list one is enough. A list and the sets of the
/// same thing (`prefixes` and `prefix_sets`, `as_paths` and `as_path_sets`) count as one list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// In any of these prefix sets, by name.
    pub prefix_sets: Vec<String>,
    /// Matched by any of these.
    pub prefixes: Vec<PrefixRule>,
    /// Of this family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Learnt from any of these peers, by address.
    pub peers: Vec<IpAddr>,
    /// Learnt in this way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Carries any of these.
    pub communities: Vec<Community>,
    /// Carries any of these.
    pub large_communities: Vec<LargeCommunity>,
    /// Carries any of these, such as `rt:65001:7`.
    pub extended_communities: Vec<ExtendedCommunity>,
    /// Carries any of any of these community sets, by name.
    pub community_sets: Vec<String>,
    /// AS_PATH in any of these sets, by name.
    pub as_path_sets: Vec<String>,
    /// AS_PATH matched by any of these patterns.
    pub as_paths: Vec<AsPathPattern>,
    /// Length of AS_PATH, an AS_SET counting as one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_path_length: Option<Lengths>,
    /// Originated by any of these ASes. What our own AS originates has none.
    pub origin_as: Vec<Asn>,
    /// Next hop inside any of these.
    pub next_hops: Vec<Prefix>,
}

/// Bounds of a length, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lengths {
    /// At least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// At most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// Where a path came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// We originate it.
    Local,
    /// From a peer of another AS.
    External,
    /// From a peer of our AS.
    Internal,
}

/// Changes that a rule makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Actions {
    /// Sets LOCAL_PREF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// Sets MULTI_EXIT_DISC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// Takes these away, before anything is added.
    pub remove_communities: Vec<Community>,
    /// Adds these.
    pub add_communities: Vec<Community>,
    /// Takes these away, before anything is added.
    pub remove_large_communities: Vec<LargeCommunity>,
    /// Adds these.
    pub add_large_communities: Vec<LargeCommunity>,
    /// Takes these away, before anything is added.
    pub remove_extended_communities: Vec<ExtendedCommunity>,
    /// Adds these.
    pub add_extended_communities: Vec<ExtendedCommunity>,
    /// Takes everything in these community sets away, before anything is added.
    pub remove_community_sets: Vec<String>,
    /// Sets the next hop: `self` (ourselves, on export), `peer` (the peer, on import), or an address. One that does
    /// not fit the family changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<SetNextHop>,
    /// Prepends our AS so many times more.
    pub prepend: u8,
}

/// `next_hop` of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetNextHop {
    /// `self`.
    Ourselves,
    /// `peer`.
    Peer,
    /// An address.
    Address(IpAddr),
}

impl Serialize for SetNextHop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ourselves => serializer.serialize_str("self"),
            Self::Peer => serializer.serialize_str("peer"),
            Self::Address(address) => serializer.collect_str(address),
        }
    }
}

impl<'de> Deserialize<'de> for SetNextHop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "self" => Ok(Self::Ourselves),
            "peer" => Ok(Self::Peer),
            address => address
                .parse()
                .map(Self::Address)
                .map_err(|_| de::Error::custom(format!("`{text}` is neither `self`, `peer` nor an address"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_rules_read_as_on_a_router() {
        for text in ["10.244.0.0/16", "10.244.0.0/16 le 26", "fd00:244::/48 ge 64", "10.0.0.0/8 ge 24 le 28"]
        {
            assert_eq!(text.parse::<PrefixRule>().unwrap().to_string(), text);
        }
        for text in
            ["", "10.0.0.0/8 le", "10.0.0.0/8 le 26 ge 24", "10.0.0.0/8 le 33", "10.0.0.0/8 ge 7", "x le 3"]
        {
            assert!(text.parse::<PrefixRule>().is_err(), "{text}");
        }
        let error = "10.0.0.0/8 ge 28 le 24".parse::<PrefixRule>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`10.0.0.0/8 ge 28 le 24` matches nothing: lengths must rise from 8 over ge and le to 32"
        );
    }
}
