//! The whole desired configuration, as one value.
//!
//! The shell hands over a complete [`Config`] every time; the speaker finds the differences and resets only the
//! sessions whose peers changed in a way that the wire must show. [`Config::check`] names every mistake.

mod check;
mod peer;
mod policy;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::{Asn, Community, Families, LargeCommunity, Prefix, RouterId};

pub use check::ConfigError;
pub use peer::{
    AddPath, ExportNextHop, ListenRange, LocalAs, MaxPrefix, MaxPrefixAction, PeerConfig, RemoteAs,
    SendPaths, Transport,
};
pub use policy::{
    Actions, AsPathSet, CommunitySet, Match, Policy, PolicyChoice, PrefixRule, PrefixSet, Rule, SetNextHop,
    Source, Verdict,
};

/// Everything that decides what the speaker does.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Our autonomous system.
    pub asn: Asn,
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// CLUSTER_ID when we reflect (RFC 4456 §7); the router id if `None`.
    #[serde(default)]
    pub cluster_id: Option<RouterId>,
    /// Our addresses as a next hop, for sessions that run over the other family.
    #[serde(default)]
    pub addresses: OwnAddresses,
    /// Peers with a known address.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
    /// Ranges from which unknown peers may connect ("dynamic neighbours").
    #[serde(default)]
    pub listen_ranges: Vec<ListenRange>,
    /// Prefixes that we originate.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Prefixes that we originate while there are routes inside them.
    #[serde(default)]
    pub aggregates: Vec<Aggregate>,
    /// True once every owner of networks and peers has said its part. Until then (or until the deferral timer)
    /// no End-of-RIB is sent, so that no helper sweeps prefixes that are only late.
    #[serde(default = "yes")]
    pub complete: bool,
    /// Present on a cluster node: closed by default, inside the AS too.
    #[serde(default)]
    pub node: Option<NodeRole>,
    /// Named sets of prefixes.
    #[serde(default)]
    pub prefix_sets: BTreeMap<String, PrefixSet>,
    /// Named sets of communities.
    #[serde(default)]
    pub community_sets: BTreeMap<String, CommunitySet>,
    /// Named sets of AS path patterns.
    #[serde(default)]
    pub as_path_sets: BTreeMap<String, AsPathSet>,
    /// We are about to go: everything is announced with GRACEFUL_SHUTDOWN, and inside the AS with the lowest
    /// LOCAL_PREF (RFC 8326 §4).
    #[serde(default)]
    pub graceful_shutdown: bool,
    /// Named policies.
    #[serde(default)]
    pub policies: BTreeMap<String, Policy>,
    /// Graceful restart (RFC 4724, RFC 8538).
    #[serde(default)]
    pub graceful_restart: GracefulRestart,
    /// How many equal paths go into the kernel.
    #[serde(default)]
    pub multipath: Multipath,
    /// UPDATE bytes that may wait in the shell for one peer. A peer that has so many unread is told no more until it
    /// reads, and then only how things are.
    #[serde(default = "default_unsent_limit")]
    pub unsent_limit: usize,
}

impl Config {
    /// Policies of both mean the same, as far as the sets that they name are concerned.
    pub(crate) fn same_policies(&self, other: &Self) -> bool {
        self.policies == other.policies
            && self.prefix_sets == other.prefix_sets
            && self.community_sets == other.community_sets
            && self.as_path_sets == other.as_path_sets
    }

    /// A speaker with no peers and no networks.
    pub fn new(asn: Asn, router_id: RouterId) -> Self {
        Self {
            asn,
            router_id,
            cluster_id: None,
            addresses: OwnAddresses::default(),
            peers: Vec::new(),
            listen_ranges: Vec::new(),
            networks: Vec::new(),
            aggregates: Vec::new(),
            complete: true,
            node: None,
            prefix_sets: BTreeMap::new(),
            community_sets: BTreeMap::new(),
            as_path_sets: BTreeMap::new(),
            graceful_shutdown: false,
            policies: BTreeMap::new(),
            graceful_restart: GracefulRestart::default(),
            multipath: Multipath::default(),
            unsent_limit: default_unsent_limit(),
        }
    }

    /// The CLUSTER_ID in force.
    pub fn cluster_id(&self) -> RouterId {
        self.cluster_id.unwrap_or(self.router_id)
    }
}

const fn default_unsent_limit() -> usize {
    512 * 1024
}

const fn yes() -> bool {
    true
}

/// Our addresses as a next hop where the session's own address is of the other family. A family without one is not
/// announced over such a session where the next hop would be ourselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OwnAddresses {
    /// For IPv4 prefixes over an IPv6 session (without RFC 8950).
    pub ipv4: Option<Ipv4Addr>,
    /// For IPv6 prefixes over an IPv4 session.
    pub ipv6: Option<Ipv6Addr>,
}

/// A prefix that we originate. It reaches peers only; the kernel's route for it is its owner's affair.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// What is announced.
    pub prefix: Prefix,
    /// MULTI_EXIT_DISC to announce with.
    #[serde(default)]
    pub med: Option<u32>,
    /// LOCAL_PREF to announce with inside the AS; 100 if `None`.
    #[serde(default)]
    pub local_pref: Option<u32>,
    /// COMMUNITIES to announce with.
    #[serde(default)]
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITIES to announce with.
    #[serde(default)]
    pub large_communities: Vec<LargeCommunity>,
}

impl Network {
    /// A network without further attributes.
    pub fn new(prefix: Prefix) -> Self {
        Self { prefix, med: None, local_pref: None, communities: Vec::new(), large_communities: Vec::new() }
    }
}

/// A prefix that we originate as long as the Loc-RIB has a route strictly inside it, ours or a peer's (RFC 4271
/// §9.2.2.2). Its AS_PATH is empty (an AS_SET is not to be made, RFC 9774), so it says ATOMIC_AGGREGATE and AGGREGATOR;
/// its ORIGIN is the worst of those routes'. The kernel gets a blackhole route for it: traffic to what is not there must
/// stop here, and not follow a less specific route back to where it came from (RFC 4632 §5.1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The prefix, and what it is announced with.
    pub network: Network,
    /// Routes inside it are told to nobody.
    #[serde(default)]
    pub summary_only: bool,
}

/// What a cluster node accepts, from any peer, before the peer's own import policy is asked.
///
/// Accepted is what one of the rules covers. Refused whatever the rules say: our own networks and everything
/// inside them, and (unless a rule names exactly it) the default route.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRole {
    /// Ranges of pools and VIPs, each with the prefix lengths that may come out of it.
    pub accept: Vec<PrefixRule>,
}

/// Graceful restart, both roles.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GracefulRestart {
    /// Announce the capability and keep the paths of peers that restart.
    pub enabled: bool,
    /// Restart Time in our OPEN: how long peers keep our paths while we are away. At most 4095 s.
    pub restart_time: Duration,
    /// As a helper: the longest time that a path may stay stale, over any number of restarts of its peer that
    /// never reach End-of-RIB.
    pub stale_time: Duration,
    /// As the restarting side: the longest wait for peers' End-of-RIB and our own configuration
    /// (the Selection_Deferral_Timer of RFC 4724 §4.1).
    pub deferral: Duration,
    /// As the restarting side: the longest wait for a peer to get Established at all; a dead peer must not
    /// hold up the living ones for the whole deferral.
    pub peer_wait: Duration,
    /// Announce the N bit: NOTIFICATIONs and hold timer expiry keep the paths too (RFC 8538).
    pub notification: bool,
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            enabled: true,
            restart_time: Duration::from_secs(120),
            stale_time: Duration::from_secs(360),
            deferral: Duration::from_secs(120),
            peer_wait: Duration::from_secs(20),
            notification: true,
        }
    }
}

/// Upper bounds on the paths of one kernel route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Multipath {
    /// Paths learnt from other ASes.
    pub ebgp: u16,
    /// Paths learnt inside our AS.
    pub ibgp: u16,
}

impl Default for Multipath {
    fn default() -> Self {
        Self { ebgp: 16, ibgp: 16 }
    }
}

/// How the speaker was started; the shell knows, the wire must say (RFC 4724 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Start {
    /// An earlier process of ours held sessions on this boot of the host: sets the R bit, and defers route
    /// selection until peers have told us everything.
    pub restarted: bool,
    /// Families whose forwarding outlived that process: the F bits. True also where nothing needed forwarding
    /// (a reflector), because a cleared F bit makes helpers drop our paths at once.
    pub forwarding_preserved: Families,
}

impl Start {
    /// The first start on this boot.
    pub const FRESH: Start = Start { restarted: false, forwarding_preserved: Families::NONE };
    /// A restart with forwarding kept for all families.
    pub const RESTARTED: Start = Start { restarted: true, forwarding_preserved: Families::BOTH };
}
