//! What one node's kernel shall look like: the single input of the data plane.
//!
//! `turnpike-calc` makes it from resources and local pods; `turnpike-dataplane` reconciles the kernel with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::burst::Burst;

/// A pod interface: the runtime's container ID and the interface name inside the pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointId {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME, usually `eth0`.
    pub ifname: String,
}

/// A rate in bits per second, counted on Ethernet frames (L2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BitsPerSecond(pub u64);

/// A pod's bandwidth limits; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Traffic that the pod receives (`kubernetes.io/ingress-bandwidth`).
    pub to_workload: Option<BitsPerSecond>,
    /// Traffic that the pod sends (`kubernetes.io/egress-bandwidth`).
    pub from_workload: Option<BitsPerSecond>,
}

impl Limits {
    /// True where neither direction has one.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// How much may pass at once, as times of the limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bursts {
    /// Of what the pod receives.
    pub to_workload: Burst,
    /// Of what the pod sends.
    pub from_workload: Burst,
}

/// One pod's attachment to the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Which pod interface this is.
    pub id: EndpointId,
    /// Host side of the veth pair: `tpk` and a hash, at most 15 characters.
    pub host_link: String,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// Bandwidth limits in force.
    pub limits: Limits,
    /// Limits that are held against the traffic and change nothing, where they are stricter than those in force.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub shadow: Limits,
    /// How much may pass at once.
    #[serde(default)]
    pub bursts: Bursts,
    /// Traffic with these is not limited.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub exempt: BTreeSet<IpNetwork>,
    /// Ports of the node that lead to the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// Its class in the node tree: a key of [`NodeTree::classes`].
    #[serde(default)]
    pub class: Option<u16>,
    /// Its servers see load balancers' addresses, not clients' (annotation `turnpike.io/toa: "off"`).
    #[serde(default)]
    pub toa_off: bool,
    /// What it exchanges with load balancers is filtered and tracked (annotation `turnpike.io/lb-bypass: "off"`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bypass_off: bool,
    /// Its namespace by the runtime's word; empty where that says none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// MAC address that the runtime asked for; derived from the host link's name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<[u8; 6]>,
    /// Where the runtime said that its network namespace is; empty where that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub netns_path: String,
}

/// How what leaves through the uplinks is shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTree {
    /// Name of the `NodeBandwidth` that it comes from.
    pub source: String,
    /// Interfaces; empty is those with a default route. The figures are for each of them.
    pub uplinks: BTreeSet<String>,
    /// Speed; `None` is what the driver says.
    pub speed: Option<BitsPerSecond>,
    /// The host's guarantee.
    pub host: BitsPerSecond,
    /// Ceiling of all pods together; `None` is the speed.
    pub pods_ceiling: Option<BitsPerSecond>,
    /// Name of the class of pods that ask for none of these.
    pub default_class: String,
    /// Classes of pods by number, at least one.
    pub classes: BTreeMap<u16, TreeClass>,
}

/// A class of pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeClass {
    /// As the resource calls it.
    pub name: String,
    /// What its pods get together whatever others do.
    pub guarantee: BitsPerSecond,
    /// What they get at most; `None` is the pods' ceiling.
    pub ceiling: Option<BitsPerSecond>,
    /// Namespaces whose pods may ask for it; all if there are none.
    #[serde(default)]
    pub namespaces: Vec<String>,
}

/// A port of the node that leads to a port of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// Only this address of the node, if given; `0.0.0.0` and `::` are all addresses of that family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// `TCP` or `UDP`.
    pub protocol: Protocol,
    /// Port on the node, never 0.
    pub host_port: u16,
    /// Port in the pod, never 0.
    pub container_port: u16,
}

/// A block of addresses that this node owns: a blackhole route here, and one BGP announcement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Block {
    /// The block's prefix.
    pub prefix: IpNetwork,
    /// Name of the pool that it was cut from.
    pub pool: String,
}

/// Traffic from `sources` to anywhere outside `except_to` leaves with the node's address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Masquerade {
    /// Pool prefixes whose pods are masqueraded.
    pub sources: BTreeSet<IpNetwork>,
    /// The data centre's own ranges, never masqueraded (the sources themselves are always added).
    pub except_to: BTreeSet<IpNetwork>,
}

/// How a load balancer writes the client's address into TCP options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ToaFormat {
    /// Option 254, length 8 (IPv4) or 20 (IPv6): port, address. Alibaba LVS v4, Huawei ELB, DPVS.
    Toa254,
    /// Option 253, length 20: port, IPv6 address. Alibaba LVS v6.
    Toa253V6,
    /// Option 252, length 20: client port and address, VPC ID, VIP, VIP port, pad. Alibaba vtoa.
    Vtoa252,
    /// Option 200, length 8: port, IPv4 address. UCloud, TGW.
    Toa200,
    /// Option 28, length 7 or 19: version, address, no port. Alibaba CDN.
    Cdn28,
}

/// Directors whose traffic is trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LbSource {
    /// The directors' local addresses (FULLNAT source addresses).
    pub cidrs: BTreeSet<IpNetwork>,
    /// Past netfilter and conntrack, in both directions.
    pub bypass: bool,
    /// TOA format that these directors insert; `None` trusts no option from them.
    pub toa: Option<ToaFormat>,
    /// The option comes in the SYN only.
    #[serde(default)]
    pub toa_in_syn: bool,
    /// getsockopt() tells IPv6 clients of IPv4 sockets.
    #[serde(default)]
    pub toa_nat64: bool,
    /// Clients of UDP sessions are told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uoa: bool,
    /// Destination ports at the pod that qualify; empty is every TCP port and no UDP port.
    pub ports: BTreeSet<ServicePort>,
    /// Interfaces through which they reach the node; empty is every uplink.
    #[serde(default)]
    pub uplinks: BTreeSet<String>,
    /// Whose pods it is for; empty is those of all namespaces.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub namespaces: BTreeSet<String>,
    /// Whose pods it is not for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub except_namespaces: BTreeSet<String>,
    /// Seconds for which a range that was taken out goes on bypassing.
    #[serde(default)]
    pub drain_s: u32,
}

impl LbSource {
    /// Drain time of a source that names none.
    pub const DRAIN_S: u32 = 15 * 60;
    /// The longest drain time.
    pub const MAX_DRAIN_S: u32 = 24 * 3600;

    /// Whether it is for the pods of a namespace. Where that is not known (empty), it is only if it is for all.
    #[must_use]
    pub fn is_for(&self, namespace: &str) -> bool {
        let all = self.namespaces.is_empty();
        if namespace.is_empty() {
            return all && self.except_namespaces.is_empty();
        }
        (all || self.namespaces.contains(namespace)) && !self.except_namespaces.contains(namespace)
    }
}

/// A port of a pod's service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// `TCP` or `UDP`.
    pub protocol: Protocol,
    /// Port number.
    pub port: u16,
}

/// Transport protocols that a load balancer forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
}

/// What this node's BGP daemon is asked for; bgpd adds it to what its own file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpPart {
    /// Autonomous system number, unless bgpd's file has it.
    pub asn: Option<u32>,
    /// BGP identifier.
    pub router_id: Option<std::net::Ipv4Addr>,
    /// Remote speakers by resource name.
    pub peers: BTreeMap<String, crate::bgp::BgpPeerSpec>,
    /// Prefixes to announce: the node's blocks.
    pub networks: BTreeSet<IpNetwork>,
    /// Ranges that may be learned from peers, with the longest prefix length in each: the pools and their blocks.
    pub accept: BTreeMap<IpNetwork, u8>,
}

/// Everything the data plane has to bring about on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredState {
    /// Pods by identity.
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Blocks owned by this node.
    pub blocks: BTreeSet<Block>,
    /// Masquerade rules, one for each pool that asks for it.
    pub masquerade: Vec<Masquerade>,
    /// Load-balancer sources by resource name.
    pub lb_sources: BTreeMap<String, LbSource>,
    /// Shares of the uplinks.
    #[serde(default)]
    pub tree: Option<NodeTree>,
    /// Interfaces through which directors reach the node; empty is every interface with a default or on-link route.
    pub uplinks: BTreeSet<String>,
}
