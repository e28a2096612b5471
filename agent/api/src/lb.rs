//! What `turnpike lb flows`, `turnpike toa check` and `turnpike conntrack` show.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::message::PodInfo;

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets; a packet that the card merged counts as those that it was made of.
    pub packets: u64,
    /// Bytes of layer 2.
    pub bytes: u64,
}

/// Load-balancer traffic of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LbReport {
    /// One entry for each prefix of each source in force here.
    pub sources: Vec<LbSourceReport>,
    /// Uplinks with the bypass on their way in, as `eth0 (TCX)`.
    pub uplinks: Vec<String>,
    /// Why there are no figures.
    pub error: Option<String>,
}

/// One prefix of a LoadBalancerSource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LbSourceReport {
    /// The resource's name.
    pub name: String,
    /// The prefix.
    pub cidr: String,
    /// Past netfilter and conntrack.
    pub bypass: bool,
    /// TOA format, where its options are believed.
    pub toa: Option<String>,
    /// It was taken out, and bypasses for this many seconds more.
    pub draining_s: Option<u64>,
    /// Load balancer to pods.
    pub to_pods: LbDirection,
    /// Pods to load balancer.
    pub from_pods: LbDirection,
}

/// One direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LbDirection {
    /// Past netfilter and conntrack.
    pub bypassed: Count,
    /// Those of `bypassed` that went through a limited pod's queue.
    pub queued: Count,
    /// What took the stack, by reason.
    pub fell_back: Vec<FellBack>,
}

/// Packets that took the stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FellBack {
    /// The reason's name, as in metrics.
    pub reason: String,
    /// The reason in words.
    pub words: String,
    /// How many.
    pub count: Count,
}

/// Whom `turnpike toa check` is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToaCheckRequest {
    /// `namespace/name`, a name, an address, or the beginning of a container ID.
    pub pod: String,
}

/// A pod's client addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToaReport {
    /// The pod.
    pub pod: PodInfo,
    /// Its container ID.
    pub container_id: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its author wants none of it (annotation `turnpike.io/toa: "off"`).
    pub opted_out: bool,
    /// Sources whose options are believed, and in which format.
    pub sources: Vec<ToaSource>,
    /// The cgroup whose sockets are served, and below it all others.
    pub cgroup: Option<String>,
    /// Programs attached there, of three.
    pub programs: usize,
    /// getsockopt() tells IPv6 clients of IPv4 sockets there.
    #[serde(default)]
    pub nat64: bool,
    /// Sources that name clients of UDP sessions.
    #[serde(default)]
    pub uoa_sources: Vec<String>,
    /// Those clients are told there.
    #[serde(default)]
    pub uoa: bool,
    /// Processes of the pod outside of that cgroup: theirs see no client addresses. At most five, as `nginx (7)`.
    pub outside: Vec<String>,
    /// Connections by outcome: `hit`, `late`, `miss`, `untrusted`, `malformed`, `opted_out`.
    pub counters: BTreeMap<String, u64>,
    /// The latest connections, newest first.
    pub connections: Vec<ToaConnectionReport>,
    /// What is wrong, and what to do about it; empty when all is well.
    pub findings: Vec<String>,
}

/// A source with a format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToaSource {
    /// The resource's name.
    pub name: String,
    /// Its prefixes.
    pub cidrs: Vec<String>,
    /// The format's name.
    pub format: String,
    /// The option's kind.
    pub kind: u8,
    /// Servers on IPv4 sockets may ask for IPv6 clients (`spec.toaNat64`).
    #[serde(default)]
    pub nat64: bool,
}

/// A connection that TOA has looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToaConnectionReport {
    /// Seconds since it was looked at last.
    pub ago_s: u64,
    /// The pod's end.
    pub pod: SocketAddr,
    /// The director's end.
    pub peer: SocketAddr,
    /// The client that the server sees, if it is not the director.
    pub client: Option<String>,
    /// The outcome's name, as in `counters`, or `pending`.
    pub outcome: String,
    /// Why, in words.
    pub words: String,
}

/// The connection tracking table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackReport {
    /// Entries now.
    pub entries: u64,
    /// Entries that fit.
    pub max: u64,
    /// Events since boot: `drop`, `early_drop`, `insert_failed`, `invalid`…
    pub events: BTreeMap<String, u64>,
    /// Pods with the most entries, most first.
    pub pods: Vec<ConntrackPod>,
    /// Entries read to count those of pods.
    pub read: u64,
    /// The whole table was read.
    pub complete: bool,
    /// Why there are no figures.
    pub error: Option<String>,
}

/// A pod's share of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackPod {
    /// The pod.
    pub pod: PodInfo,
    /// Its container ID.
    pub container_id: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Entries that name it.
    pub entries: u64,
}
