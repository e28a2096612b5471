//! How nodes speak BGP.

use std::net::{IpAddr, Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::Selector;

/// A node's own side of its BGP sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpConfigurationSpec {
    /// The nodes' autonomous system number, 1 to 4294967294.
    pub as_number: u32,
    /// BGP identifier; only for a configuration that selects one node. bgpd chooses it from the node's addresses
    /// unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<Ipv4Addr>,
    /// Nodes that it is for; all, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
}

/// A remote speaker that the nodes selected peer with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpPeerSpec {
    /// The peer's address.
    pub peer_address: IpAddr,
    /// The peer's autonomous system number.
    pub as_number: u32,
    /// The one node that peers with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The nodes that peer with it; all, unless this or `node` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    /// Address from which the node connects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<IpAddr>,
    /// TCP port of the peer; 179 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// File on the node that holds the TCP-MD5 password; never the password itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// Which next hop the peer is told for paths that were learned elsewhere.
    #[serde(default)]
    pub next_hop: NextHopMode,
    /// Hold time in seconds: 0, or 3 and more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<u16>,
    /// Policy on what is taken from the peer: `accept-all`, `reject-all`, or a policy of bgpd's own file. Unless
    /// given, an internal peer is believed within the pools' ranges, and an external one not at all (RFC 8212).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_policy: Option<String>,
    /// Policy on what the peer is told, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export_policy: Option<String>,
    /// Routers between the node and an external peer are allowed up to this TTL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multihop_ttl: Option<u8>,
}

/// Next hop of paths sent to a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NextHopMode {
    /// As the protocol's rules have it: own address to external peers, unchanged to internal ones.
    #[default]
    Standard,
    /// The node's own address, always.
    #[serde(rename = "Self")]
    SelfAddress,
    /// As it was received, always.
    Unchanged,
}
