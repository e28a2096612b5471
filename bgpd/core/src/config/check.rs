//! What is wrong with a configuration, in words that name the place.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use turnpike_bgp_wire::{Asn, LongLivedFamily, Prefix};

use super::{Config, PeerConfig, Policy, PolicyChoice, PrefixRule, SendPaths};

/// One mistake in a [`Config`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// RFC 7607: AS 0 is never used.
    #[error("the AS number is 0")]
    AsnZero,
    /// RFC 6286.
    #[error("the router id is 0.0.0.0")]
    RouterIdZero,
    /// Names are how people and policies refer to peers.
    #[error("two peers are called `{0}`")]
    PeerNameTwice(String),
    /// The address is the peer's identity.
    #[error("two peers have the address {0}")]
    PeerAddressTwice(IpAddr),
    /// RFC 4271 §4.2.
    #[error("peer `{peer}`: a hold time of {hold:?} is not allowed: 0, or 3 s to 65535 s")]
    HoldTime {
        /// The peer's name.
        peer: String,
        /// The value refused.
        hold: Duration,
    },
    /// RFC 4456 reflects inside one AS.
    #[error("peer `{0}`: a route reflector client must be known to be internal")]
    ClientNotInternal(String),
    /// RFC 9494 §3.1: 24 bits of seconds.
    #[error("peer `{peer}`: the long-lived stale time of {time:?} is longer than 16777215 s")]
    LongLivedLong {
        /// The peer's name.
        peer: String,
        /// The value refused.
        time: Duration,
    },
    /// RFC 7911: a peer that is told paths is told the best at least.
    #[error("peer `{0}`: add-path with no path to send")]
    NoPathToSend(String),
    /// A session without a family carries nothing.
    #[error("peer `{0}`: no address family")]
    NoFamily(String),
    /// RFC 9003 §2.
    #[error("peer `{0}`: the shutdown message is longer than 255 octets")]
    ShutdownMessageLong(String),
    /// A reference without a definition.
    #[error("peer `{peer}`: there is no policy called `{policy}`")]
    UnknownPolicy {
        /// The peer's name.
        peer: String,
        /// The name without a policy.
        policy: String,
    },
    /// A reference without a definition.
    #[error("policy `{policy}`: there is no prefix set called `{set}`")]
    UnknownPrefixSet {
        /// The policy's name.
        policy: String,
        /// The name without a set.
        set: String,
    },
    /// A reference without a definition.
    #[error("policy `{policy}`: there is no community set called `{set}`")]
    UnknownCommunitySet {
        /// The policy's name.
        policy: String,
        /// The name without a set.
        set: String,
    },
    /// A reference without a definition.
    #[error("policy `{policy}`: there is no AS path set called `{set}`")]
    UnknownAsPathSet {
        /// The policy's name.
        policy: String,
        /// The name without a set.
        set: String,
    },
    /// `ge` and `le` must lie between the prefix's own length and the family's longest, in order.
    #[error("{place}: lengths {ge:?} to {le:?} do not fit {prefix}")]
    Lengths {
        /// Where the rule stands.
        place: String,
        /// The rule's range.
        prefix: Prefix,
        /// Its `ge`.
        ge: Option<u8>,
        /// Its `le`.
        le: Option<u8>,
    },
    /// RFC 7705 §3, RFC 9234 §4: both are about what one AS is to another.
    #[error("peer `{0}`: only an external peer can have a local AS number or a role")]
    InternalWithLocalAs(String),
    /// The number must be another one than those of both sides.
    #[error("peer `{peer}`: {asn} cannot be its local AS number")]
    LocalAs {
        /// The peer.
        peer: String,
        /// The number.
        asn: Asn,
    },
    /// Announced once or not at all.
    #[error("network {0} is listed twice")]
    NetworkTwice(Prefix),
    /// Announced once or not at all.
    #[error("aggregate {0} is listed twice")]
    AggregateTwice(Prefix),
    /// Nothing lies inside a single address.
    #[error("aggregate {0} is a single address: nothing can be inside it")]
    AggregateHost(Prefix),
    /// RFC 4724 §3: twelve bits of seconds.
    #[error("the restart time of {0:?} is longer than 4095 s")]
    RestartTimeLong(Duration),
}

impl Config {
    /// Every mistake; empty if the configuration can be used.
    pub fn check(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        if self.asn.0 == 0 {
            errors.push(ConfigError::AsnZero);
        }
        if self.router_id.0.is_unspecified() {
            errors.push(ConfigError::RouterIdZero);
        }
        if self.graceful_restart.restart_time > Duration::from_secs(4095) {
            errors.push(ConfigError::RestartTimeLong(self.graceful_restart.restart_time));
        }
        let mut names = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for peer in &self.peers {
            if !names.insert(peer.name.as_str()) {
                errors.push(ConfigError::PeerNameTwice(peer.name.clone()));
            }
            if !addresses.insert(peer.remote) {
                errors.push(ConfigError::PeerAddressTwice(peer.remote));
            }
            self.check_peer(peer, &mut errors);
        }
        for range in &self.listen_ranges {
            self.check_peer(&range.peer, &mut errors);
        }
        let mut networks = BTreeSet::new();
        for network in &self.networks {
            if !networks.insert(network.prefix) {
                errors.push(ConfigError::NetworkTwice(network.prefix));
            }
        }
        let mut aggregates = BTreeSet::new();
        for prefix in self.aggregates.iter().map(|aggregate| aggregate.network.prefix) {
            if !aggregates.insert(prefix) {
                errors.push(ConfigError::AggregateTwice(prefix));
            }
            if prefix.prefix_len() == prefix.family().max_len() {
                errors.push(ConfigError::AggregateHost(prefix));
            }
        }
        self.check_policies(&mut errors);
        errors
    }

    fn check_peer(&self, peer: &PeerConfig, errors: &mut Vec<ConfigError>) {
        let name = || peer.name.clone();
        let hold = peer.hold_time.as_secs();
        if matches!(hold, 1 | 2) || hold > 65535 || peer.hold_time.subsec_nanos() != 0 {
            errors.push(ConfigError::HoldTime { peer: name(), hold: peer.hold_time });
        }
        let internal = peer.remote_as.is_internal(self.asn);
        if peer.rr_client && internal != Some(true) {
            errors.push(ConfigError::ClientNotInternal(name()));
        }
        if internal != Some(false) && (peer.local_as.is_some() || peer.role.is_some()) {
            errors.push(ConfigError::InternalWithLocalAs(name()));
        }
        let taken = [Some(Asn(0)), Some(self.asn), peer.remote_as.number()];
        if let Some(other) = peer.local_as.filter(|other| taken.contains(&Some(other.asn))) {
            errors.push(ConfigError::LocalAs { peer: name(), asn: other.asn });
        }
        if let Some(time) = peer.long_lived.filter(|time| time.as_secs() > LongLivedFamily::LONGEST.into()) {
            errors.push(ConfigError::LongLivedLong { peer: name(), time });
        }
        if peer.add_path.iter().any(|(_, add_path)| add_path.send == SendPaths::Most(0)) {
            errors.push(ConfigError::NoPathToSend(name()));
        }
        if peer.families.is_empty() {
            errors.push(ConfigError::NoFamily(name()));
        }
        if peer.shutdown.as_ref().is_some_and(|text| text.len() > 255) {
            errors.push(ConfigError::ShutdownMessageLong(name()));
        }
        for choice in [&peer.import, &peer.export] {
            if let PolicyChoice::Named(policy) = choice
                && !self.policies.contains_key(policy)
            {
                errors.push(ConfigError::UnknownPolicy { peer: name(), policy: policy.clone() });
            }
        }
    }

    fn check_policies(&self, errors: &mut Vec<ConfigError>) {
        for (name, set) in &self.prefix_sets {
            check_lengths(&format!("prefix set `{name}`"), set, errors);
        }
        if let Some(node) = &self.node {
            check_lengths("the node's accepted ranges", &node.accept, errors);
        }
        for (name, policy) in &self.policies {
            self.check_policy(name, policy, errors);
        }
    }

    fn check_policy(&self, name: &str, policy: &Policy, errors: &mut Vec<ConfigError>) {
        for rule in &policy.rules {
            check_lengths(&format!("policy `{name}`"), &rule.when.prefixes, errors);
            for set in rule.when.prefix_sets.iter().filter(|set| !self.prefix_sets.contains_key(*set)) {
                errors.push(ConfigError::UnknownPrefixSet { policy: name.to_owned(), set: set.clone() });
            }
            for set in rule.when.community_sets.iter().filter(|set| !self.community_sets.contains_key(*set)) {
                errors.push(ConfigError::UnknownCommunitySet { policy: name.to_owned(), set: set.clone() });
            }
            for set in rule.when.as_path_sets.iter().filter(|set| !self.as_path_sets.contains_key(*set)) {
                errors.push(ConfigError::UnknownAsPathSet { policy: name.to_owned(), set: set.clone() });
            }
        }
    }
}

fn check_lengths(place: &str, rules: &[PrefixRule], errors: &mut Vec<ConfigError>) {
    for rule in rules {
        let (shortest, longest) = rule.lengths();
        let fits = rule.prefix.prefix_len() <= shortest
            && shortest <= longest
            && longest <= rule.prefix.family().max_len();
        if !fits {
            errors.push(ConfigError::Lengths {
                place: place.to_owned(),
                prefix: rule.prefix,
                ge: rule.ge,
                le: rule.le,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use turnpike_bgp_wire::RouterId;

    use super::*;

    fn config() -> Config {
        Config::new(Asn(65001), RouterId::from_u32(0x0a00_0001))
    }

    #[test]
    fn a_plain_configuration_has_no_mistakes() {
        let mut config = config();
        config.peers.push(PeerConfig::new("rr1", "10.1.3.21".parse().unwrap(), Asn(65001)));
        assert_eq!(config.check(), []);
    }

    #[test]
    fn mistakes_are_named_all_at_once() {
        let mut config = config();
        let mut peer = PeerConfig::new("gw", "10.0.0.1".parse().unwrap(), Asn(65002));
        peer.rr_client = true;
        peer.hold_time = Duration::from_secs(2);
        peer.import = PolicyChoice::Named("none".into());
        config.peers = vec![peer.clone(), peer];
        let text: Vec<String> = config.check().iter().map(ToString::to_string).collect();
        assert!(text.contains(&"two peers are called `gw`".to_owned()), "{text:?}");
        assert!(text.contains(&"peer `gw`: there is no policy called `none`".to_owned()), "{text:?}");
        assert!(text.iter().any(|line| line.contains("hold time of 2s")), "{text:?}");
        assert!(text.iter().any(|line| line.contains("route reflector client")), "{text:?}");
    }

    #[test]
    fn prefix_lengths_follow_the_router_convention() {
        let rule = |text: &str, ge, le| PrefixRule { prefix: text.parse().unwrap(), ge, le };
        let pool = rule("10.244.0.0/16", Some(26), Some(26));
        assert!(pool.matches("10.244.7.64/26".parse().unwrap()));
        assert!(!pool.matches("10.244.7.64/32".parse().unwrap()));
        assert!(!rule("10.244.0.0/16", None, None).matches("10.244.0.0/26".parse().unwrap()));
        assert!(rule("10.244.0.0/16", Some(24), None).matches("10.244.0.1/32".parse().unwrap()));
        assert!(rule("0.0.0.0/0", None, Some(0)).matches("0.0.0.0/0".parse().unwrap()));

        let mut config = config();
        config.prefix_sets.insert("bad".into(), vec![rule("10.0.0.0/16", Some(8), None)]);
        assert_eq!(config.check().len(), 1);
    }
}
