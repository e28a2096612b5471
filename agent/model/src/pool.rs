//! Where pods' addresses come from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::selector::Selector;

/// A range of pod addresses, cut into blocks that nodes own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpPoolSpec {
    /// The range; of one family. A dual-stack cluster has one pool for each family.
    pub cidr: Cidr,
    /// Prefix length of the blocks; 26 for IPv4 and 122 for IPv6 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    /// Whether new pods get addresses from here.
    #[serde(default)]
    pub state: PoolState,
    /// Nodes that may use the pool; all, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    /// Namespaces whose pods get addresses from here, and from pools like this only: ranges that can be told to a firewall.
    /// All others get theirs from pools that name none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// When given, pods of this pool leave with their node's address, except towards the ranges named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<MasqueradeSpec>,
    /// Addresses that pods get only by asking for them, and some not at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<ReservationSpec>,
}

impl IpPoolSpec {
    /// Prefix length of the pool's blocks.
    #[must_use]
    pub fn block_len(&self) -> u8 {
        self.block_size.unwrap_or(if self.cidr.is_ipv6() { 122 } else { 26 })
    }
}

/// Addresses kept out of the pool's ordinary use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReservationSpec {
    /// The addresses.
    pub cidr: Cidr,
    /// Namespaces whose pods may ask for one of them (`turnpike.io/ip-addresses`); nobody, unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
}

/// A pool's life: Active → Draining → Retired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum PoolState {
    /// New pods get addresses from it.
    #[default]
    Active,
    /// Pods keep their addresses and routes; new pods get none from it.
    Draining,
    /// As Draining, and blocks without pods are no longer announced.
    Retired,
}

/// Masquerade beyond the data centre.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MasqueradeSpec {
    /// Ranges that see the pod's own address: the data centre's. Every pool is added by itself.
    #[serde(default)]
    pub except_to: Vec<Cidr>,
}

/// A block of a pool, and the node that owns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlockSpec {
    /// The block; its length is the pool's block size.
    pub cidr: Cidr,
    /// Name of the pool that it is cut from.
    pub pool: String,
    /// Name of the node that owns it.
    pub node: String,
}
