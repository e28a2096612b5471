//! What `turnpike status` shows of the agent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::message::{Attachment, PodInfo};

/// A node's state as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Node name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// The agent's process.
    pub pid: u32,
    /// Seconds since the agent's start.
    pub uptime_s: u64,
    /// Can it do its work?
    pub health: Health,
    /// Where resources come from and how fresh they are.
    pub source: SourceStatus,
    /// Pools that this node may use.
    pub pools: Vec<PoolStatus>,
    /// Blocks of this node.
    pub blocks: Vec<BlockStatus>,
    /// Pods with their addresses and limits.
    pub pods: Vec<PodStatus>,
    /// What bgpd was handed.
    pub bgp: BgpStatus,
    /// Gateways of the default routes.
    #[serde(default)]
    pub gateways: Vec<GatewayStatus>,
    /// What holds packets back at limits on this kernel, in words.
    #[serde(default)]
    pub limits_held_by: String,
    /// What is not as it should be, now.
    pub problems: Vec<ProblemStatus>,
    /// The latest errors of requests, newest first.
    pub last_errors: Vec<ProblemStatus>,
    /// Requests served by verb and result.
    pub requests: BTreeMap<String, u64>,
}

/// The agent's own health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// ADD works.
    Ready,
    /// ADD does not work, for this reason.
    NotReady(String),
}

/// The source of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The folder.
    pub folder: String,
    /// Number of resources in force.
    pub resources: usize,
    /// Seconds since the state in force was read.
    pub age_s: u64,
    /// Why the folder's present state is not in force; empty when it is.
    pub errors: Vec<String>,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Name.
    pub name: String,
    /// Range.
    pub cidr: String,
    /// `Active`, `Draining` or `Retired`.
    pub state: String,
    /// This node's addresses in use.
    pub used: u64,
    /// This node's addresses waiting for the end of their cooldown.
    pub cooling: u64,
    /// This node's addresses altogether.
    pub total: u64,
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStatus {
    /// Prefix.
    pub cidr: String,
    /// Pool.
    pub pool: String,
    /// Addresses in use.
    pub used: u64,
    /// Addresses waiting for the end of their cooldown.
    pub cooling: u64,
    /// Addresses altogether.
    pub total: u64,
}

/// A pod interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Container and interface.
    pub attachment: Attachment,
    /// The pod, where known.
    pub pod: PodInfo,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Host side.
    pub host_link: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Limit in bits per second of what the pod receives.
    pub to_workload: Option<u64>,
    /// Limit in bits per second of what the pod sends.
    pub from_workload: Option<u64>,
    /// Ports of the node that lead to it: `TCP 8080→80`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<String>,
    /// `ready`, `attaching`, `removing` or `missing`.
    pub state: String,
    /// Seconds since its ADD.
    pub age_s: u64,
}

/// The hand-over to bgpd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpStatus {
    /// bgpd's socket.
    pub socket: String,
    /// bgpd has taken the latest part.
    pub delivered: bool,
    /// Why not.
    pub error: Option<String>,
    /// Prefixes asked to be announced.
    pub networks: Vec<String>,
    /// Peers asked for.
    pub peers: Vec<String>,
}

/// A default route's gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Interface that leads to it.
    pub link: String,
    /// Its address.
    pub address: IpAddr,
    /// `answers`, `silent` or `not proved yet`: by ARP or ND.
    pub state: String,
    /// Seconds since it was first seen so.
    pub age_s: u64,
    /// Whether it answers echoes; nothing where it is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping: Option<PingStatus>,
}

/// A gateway's answer to ICMP echoes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingStatus {
    /// `answers` or `silent`.
    pub state: String,
    /// Seconds since it was first seen so.
    pub age_s: u64,
}

/// Something for a person to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemStatus {
    /// `degraded` or `failed`.
    pub severity: String,
    /// What it is about.
    pub subject: String,
    /// What is wrong and, where known, the remedy.
    pub message: String,
    /// Seconds since it was seen first.
    pub age_s: u64,
}
