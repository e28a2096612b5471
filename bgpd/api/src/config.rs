//! The configuration: a TOML file, and parts in the same types that other programs push.
//!
//! Durations are whole seconds. Unknown fields are mistakes. [`load()`] and [`parse`] name file, line, field and,
//! where there is one, the remedy.

mod add_path;
mod advice;
mod bfd;
mod check;
mod group;
mod load;
mod local_as;
mod peer;
mod pieces;
mod policy;
mod range;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::{AnyCommunity, AsPathPattern, Asn, Community, LargeCommunity, Prefix, RouterId};

pub use add_path::{AddPath, SendPaths};
pub use bfd::{Bfd, BfdDaemon};
pub use load::{Problem, Problems, load, parse, warnings};
pub use local_as::LocalAs;
pub use peer::{MaxPrefix, MaxPrefixAction, NextHop, Peer, RemoteAs};
pub use policy::{
    Actions, Lengths, Match, Policy, PolicyChoice, PrefixRule, Rule, SetNextHop, Source, Verdict,
};
pub use range::ListenRange;

/// The file `/etc/turnpike/bgpd.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Our autonomous system. May be left to a part.
    pub asn: Option<Asn>,
    /// Our BGP identifier; unless given, by a part or here, the lowest IPv4 address of the host when first started.
    pub router_id: Option<RouterId>,
    /// CLUSTER_ID when we reflect (RFC 4456 §7); the router id unless given.
    pub cluster_id: Option<RouterId>,
    /// Our addresses as next hops, for sessions that run over the other family.
    pub addresses: Addresses,
    /// Addresses to accept connections on. Empty: accept none.
    pub listen: Vec<SocketAddr>,
    /// Other programs that push parts.
    pub parts: Parts,
    /// Kernel routes.
    pub kernel: Kernel,
    /// The control socket.
    pub control: Control,
    /// What must survive the daemon.
    pub state: State,
    /// Metrics and health over HTTP.
    pub metrics: Metrics,
    /// Graceful restart (RFC 4724, RFC 8538).
    pub graceful_restart: GracefulRestart,
    /// Where the BFD sessions of peers are kept.
    pub bfd: BfdDaemon,
    /// BMP stations (RFC 7854) that are told what peers announce, `[[bmp]]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bmp: Vec<BmpStation>,
    /// A log of what peers say.
    pub mrt: Mrt,
    /// Equal-cost paths.
    pub multipath: Multipath,
    /// Present on a cluster node: closed by default, inside the AS too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// Peers, `[[peer]]`.
    #[serde(rename = "peer")]
    pub peers: Vec<Peer>,
    /// Peers that connect by themselves, `[[listen_range]]`.
    #[serde(rename = "listen_range")]
    pub listen_ranges: Vec<ListenRange>,
    /// Prefixes that we originate, `[[network]]`.
    #[serde(rename = "network")]
    pub networks: Vec<Network>,
    /// Prefixes that we originate while there are routes inside them, `[[aggregate]]`.
    #[serde(rename = "aggregate")]
    pub aggregates: Vec<Aggregate>,
    /// Named sets of prefixes, `[prefix_sets]`.
    pub prefix_sets: BTreeMap<String, Vec<PrefixRule>>,
    /// Named sets of communities of any kind, `[community_sets]`.
    pub community_sets: BTreeMap<String, Vec<AnyCommunity>>,
    /// Named sets of AS path patterns, `[as_path_sets]`.
    pub as_path_sets: BTreeMap<String, Vec<AsPathPattern>>,
    /// Named policies, `[policies.NAME]`.
    pub policies: BTreeMap<String, Policy>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            asn: None,
            router_id: None,
            cluster_id: None,
            addresses: Addresses::default(),
            listen: vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, BGP_PORT)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, BGP_PORT)),
            ],
            parts: Parts::default(),
            kernel: Kernel::default(),
            control: Control::default(),
            state: State::default(),
            metrics: Metrics::default(),
            graceful_restart: GracefulRestart::default(),
            bfd: BfdDaemon::default(),
            bmp: Vec::new(),
            mrt: Mrt::default(),
            multipath: Multipath::default(),
            node: None,
            peers: Vec::new(),
            listen_ranges: Vec::new(),
            networks: Vec::new(),
            aggregates: Vec::new(),
            prefix_sets: BTreeMap::new(),
            community_sets: BTreeMap::new(),
            as_path_sets: BTreeMap::new(),
            policies: BTreeMap::new(),
        }
    }
}

/// IANA's port for BGP.
pub const BGP_PORT: u16 = 179;

/// What one other program contributes. The file wins over parts, and an earlier owner (by name) over a later one;
/// what loses is refused and shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Part {
    /// Who pushes it: a word of letters, digits, `-`, `_` and `.`, such as `turnpike-agent`; not `file`.
    pub owner: String,
    /// Our autonomous system, unless the file says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asn: Option<Asn>,
    /// Our BGP identifier, unless the file says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_id: Option<RouterId>,
    /// Present on a cluster node; accepted ranges of all owners add up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// Peers.
    pub peers: Vec<Peer>,
    /// Prefixes that we originate.
    pub networks: Vec<Network>,
    /// Peers of any owner that are kept down, by address, with the text for their operators (RFC 9003).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<IpAddr, String>,
}

/// The owner of what an operator announces and keeps down from the command line.
pub const OPERATOR: &str = "operator";

/// `[parts]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parts {
    /// Owners whose part must be known (pushed, or kept from before a restart) before peers hear that they have
    /// been told everything (End-of-RIB). Without this a helper would sweep prefixes that are only late.
    pub expect: BTreeSet<String>,
}

/// `[addresses]`: unless given, addresses of the interface that holds the router id, else of any other one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Addresses {
    /// For IPv4 prefixes over an IPv6 session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// For IPv6 prefixes over an IPv4 session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
}

/// `[kernel]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// Program routes; a reflector that does not forward says false.
    pub enabled: bool,
    /// Routing table; 254 is main.
    pub table: u32,
    /// Route protocol number, one that nobody has been assigned.
    pub protocol: u8,
    /// Metric of every route.
    pub metric: u32,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { enabled: true, table: 254, protocol: 202, metric: 32 }
    }
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// Path of the control socket; only root may use it (mode 0600).
    pub socket: PathBuf,
}

impl Default for Control {
    fn default() -> Self {
        Self { socket: PathBuf::from(crate::DEFAULT_SOCKET) }
    }
}

/// `[state]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// Folder for parts that were pushed and for what a restart needs to know.
    pub dir: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        Self { dir: PathBuf::from(crate::DEFAULT_STATE_DIR) }
    }
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Serve `/metrics`, `/healthz` and `/readyz`.
    pub enabled: bool,
    /// Address to serve them on.
    pub listen: SocketAddr,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: true, listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9472)) }
    }
}

/// `[graceful_restart]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GracefulRestart {
    /// Announce the capability and keep the paths of peers that restart.
    pub enabled: bool,
    /// Seconds for which peers shall keep our paths while we are away; at most 4095.
    pub restart_time: u16,
    /// Longest time in seconds for which a path may stay stale here.
    pub stale_time: u32,
    /// After our own restart: longest wait in seconds for peers' End-of-RIB and for expected parts.
    pub deferral: u32,
    /// After our own restart: longest wait in seconds for a peer to come up at all.
    pub peer_wait: u32,
    /// NOTIFICATIONs and hold timer expiry keep the paths too (RFC 8538).
    pub notification: bool,
    /// Long-lived graceful restart (RFC 9494): seconds for which peers shall keep our paths as a last resort once the
    /// restart time is over, and the most for which we keep theirs. 0: off.
    pub long_lived_time: u32,
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            enabled: true,
            restart_time: 120,
            stale_time: 360,
            deferral: 120,
            peer_wait: 20,
            notification: true,
            long_lived_time: 0,
        }
    }
}

/// A monitoring station. It is told everything from the beginning on each connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BmpStation {
    /// Address and port to connect to, such as `10.0.0.9:5000`.
    pub station: SocketAddr,
}

/// `[mrt]`: a log of UPDATEs as they come, and of sessions, in MRT format (RFC 6396), in `mrt/` of the state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mrt {
    /// Keep it.
    pub updates: bool,
    /// Most MiB of one file.
    pub size_mib: u32,
    /// Most files; the oldest goes.
    pub files: u32,
}

impl Default for Mrt {
    fn default() -> Self {
        Self { updates: false, size_mib: 64, files: 4 }
    }
}

/// `[multipath]`: upper bounds on the paths of one kernel route; 1 turns ECMP off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// `[node]`: what a cluster node accepts from any peer, before the peer's own import policy is asked. Whatever the
/// ranges say, our own networks and everything inside them are refused, and so is the default route unless a rule
/// names exactly it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Ranges of pools and VIPs, such as `10.244.0.0/16 le 26`.
    pub accept: Vec<PrefixRule>,
}

/// A prefix that we originate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// What is announced.
    pub prefix: Prefix,
    /// Keep a blackhole route for it in the kernel, so that traffic to parts of it that do not exist stops here.
    /// Not needed where the prefix's owner does this itself, as the agent does for blocks.
    #[serde(default)]
    pub blackhole: bool,
    /// MULTI_EXIT_DISC to announce with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// LOCAL_PREF to announce with inside the AS; 100 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// COMMUNITIES to announce with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITIES to announce with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<LargeCommunity>,
}

impl Network {
    /// A network without further attributes.
    #[must_use]
    pub fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            blackhole: false,
            med: None,
            local_pref: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
        }
    }
}

/// A prefix that we originate as long as there is a route inside it, ours or a peer's. The kernel gets a blackhole route
/// for it, so that traffic to what is not there stops here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// What is announced.
    pub prefix: Prefix,
    /// Do not announce what is inside it (FRR's `summary-only`).
    #[serde(default)]
    pub summary_only: bool,
    /// MULTI_EXIT_DISC to announce with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// LOCAL_PREF to announce with inside the AS; 100 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// COMMUNITIES to announce with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITIES to announce with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<LargeCommunity>,
}
