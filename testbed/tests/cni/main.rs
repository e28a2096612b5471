//! containerd → turnpike-cni → turnpike-agent → kernel, on one node.
//!
//! ```text
//!   outside 10.1.1.1 ─── eth0 10.1.1.11 n1 (containerd, turnpike-agent) ── tpk… ── pods 10.244.1.0/26
//!           fd00:1:1::1       fd00:1:1::11                                              fd00:244::100/122
//! ```

#![cfg(test)]

mod advertised;
mod agent_down;
mod firewalld;
mod host_ports;
mod install;
mod lifetime;
mod operator;
mod podman;
mod pods;
mod resources;
mod verbs;

use std::time::Duration;

use anyhow::Result;
use turnpike_testbed::turnpike_node::{TurnpikeConfig, TurnpikeNode};
use turnpike_testbed::{Lab, Node};

const DEADLINE: Duration = Duration::from_secs(30);
/// The node's addresses on its uplink, and those of the box behind it.
const NODE: [&str; 2] = ["10.1.1.11", "fd00:1:1::11"];
const OUTSIDE: [&str; 2] = ["10.1.1.1", "fd00:1:1::1"];
/// The pools, and the node's block of each.
const V4: (&str, &str) = ("10.244.0.0/16", "10.244.1.0/26");
const V6: (&str, &str) = ("fd00:244::/48", "fd00:244::100/122");

/// The box that stands for the rest of the world: it routes the node's blocks back to it.
fn wire(lab: &Lab) -> Result<(Node, Node)> {
    let (n1, outside) = wire_links(lab)?;
    for ((inner, outer), (length, block)) in NODE.iter().zip(OUTSIDE).zip([("24", V4.1), ("64", V6.1)]) {
        n1.addr("eth0", &format!("{inner}/{length}"))?;
        outside.addr("eth0", &format!("{outer}/{length}"))?;
        n1.route(&format!("default via {outer}"))?;
        outside.route(&format!("{block} via {inner}"))?;
    }
    Ok((n1, outside))
}

/// The same two without addresses and routes.
fn wire_links(lab: &Lab) -> Result<(Node, Node)> {
    let (n1, outside) = (lab.node("n1")?, lab.node("outside")?);
    lab.link(&n1, "eth0", &outside, "eth0")?;
    outside.forward()?;
    Ok((n1, outside))
}

fn config() -> TurnpikeConfig {
    TurnpikeConfig::default().with_blocks("n1", V4, V6)
}

fn start(lab: &Lab) -> Result<(TurnpikeNode, Node)> {
    let (n1, outside) = wire(lab)?;
    Ok((TurnpikeNode::start(&n1, &config())?, outside))
}

/// An address as it stands in a URL.
fn host(address: std::net::IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}
