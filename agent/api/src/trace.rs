//! What `turnpike trace` and `turnpike routes export` ask and get.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A packet to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// `namespace/name`, a name, an address, or the beginning of a container ID.
    pub pod: String,
    /// The other end.
    pub peer: IpAddr,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// The server's port.
    pub port: u16,
    /// The client's port.
    pub client_port: u16,
    /// The peer begins, and the pod answers.
    pub reverse: bool,
    /// Sender's address instead of the pod's own: what would a pod that lies achieve?
    #[serde(default)]
    pub source: Option<IpAddr>,
}

/// What would become of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReport {
    /// The pod, for people.
    pub pod: String,
    /// The way of the packet, and with `reverse` also of the pod's answer.
    pub ways: Vec<TraceWay>,
}

/// One packet's way through the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceWay {
    /// The packet, for people.
    pub packet: String,
    /// In order.
    pub hops: Vec<TraceHop>,
    /// `delivered`, `leaves`, `bypassed`, `refused`, `unreachable`.
    pub verdict: String,
    /// The object that decided.
    pub decided_by: String,
}

/// One thing that looked at the packet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceHop {
    /// Where: an interface, a table, a set.
    pub at: String,
    /// What it did, in plain words.
    pub text: String,
}

/// A block and its node: what a router without BGP needs to be told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlannedRoute {
    /// The block.
    pub prefix: String,
    /// The node that owns it.
    pub node: String,
    /// Its pool.
    pub pool: String,
}
