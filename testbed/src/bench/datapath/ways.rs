//! The nodes that are compared: one with Turnpike, four by hand.

use std::net::IpAddr;

use anyhow::Result;

use super::super::pod;
use super::{SINK_PORT, TCP_PORT, UDP_PORT};
use crate::{Lab, Node, TurnpikeConfig, TurnpikeNode};

/// Services of the kube-like rule set.
const SERVICES: u32 = 500;

/// A node with a pod behind it.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) forwards: bool,
    /// The director's address on its link to this node.
    pub(super) director: IpAddr,
    pub(super) pod: IpAddr,
    node: Node,
    turnpike: Option<TurnpikeNode>,
}

impl Way {
    /// Runs something on a thread in the pod's network namespace.
    pub(super) fn in_pod<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        pod::in_pod(&self.node, work)
    }

    /// The agent, where this way is ours.
    pub(super) fn agent_pid(&self) -> Option<u32> {
        self.turnpike.as_ref().map(TurnpikeNode::agent_pid)
    }

    /// Conntrack entries of the node.
    pub(super) fn tracked(&self) -> Result<f64> {
        Ok(self.node.text(&["conntrack", "-C"])?.trim().parse()?)
    }
}

/// All of them; ours is the first.
pub(super) fn build(lab: &Lab, director: &Node) -> Result<Vec<Way>> {
    let mut ways = vec![ours(lab, director)?];
    for (number, name) in
        (1..).zip(["plain L3", "kube-like rule set", "kube-like rule set and raw notrack", "none"])
    {
        ways.push(by_hand(lab, director, number, name)?);
    }
    Ok(ways)
}

fn wire(lab: &Lab, director: &Node, number: u8, name: &str) -> Result<Node> {
    let node = lab.node(name)?;
    lab.link(&node, "eth0", director, name)?;
    node.addr("eth0", &format!("10.1.{number}.11/24"))?;
    director.addr(name, &format!("10.1.{number}.1/24"))?;
    node.route(&format!("default via 10.1.{number}.1"))?;
    node.forward()?;
    node.run(&["ip", "netns", "add", "pod"])?;
    Ok(node)
}

fn ours(lab: &Lab, director: &Node) -> Result<Way> {
    let name = "ours";
    let node = wire(lab, director, 0, name)?;
    let source = format!(
        "apiVersion: turnpike.io/v1alpha1\nkind: LoadBalancerSource\nmetadata: {{name: lvs}}\n\
         spec:\n  cidrs: [10.1.0.1/32]\n  bypass: true\n  toa: Toa254\n  ports:\n\
         \x20 - {{protocol: TCP, port: {TCP_PORT}}}\n  - {{protocol: UDP, port: {UDP_PORT}}}\n\
         \x20 - {{protocol: UDP, port: {SINK_PORT}}}\n"
    );
    let config = TurnpikeConfig::default()
        .with_blocks("ours", ("10.244.0.0/16", "10.244.0.0/26"), ("fd00:244::/48", "fd00:244::/122"))
        .with_resource("balancer.yaml", &source);
    let turnpike = TurnpikeNode::start(&node, &config)?;
    let pod = pod::attach(&node)?;
    director.route(&format!("{pod}/32 via 10.1.0.11"))?;
    sinks(&node, director, name)?;
    Ok(Way { name, forwards: true, director: "10.1.0.1".parse()?, pod, node, turnpike: Some(turnpike) })
}

fn by_hand(lab: &Lab, director: &Node, number: u8, name: &'static str) -> Result<Way> {
    let link = format!("way{number}");
    let node = wire(lab, director, number, &link)?;
    let (gateway, pod) = (format!("10.245.{number}.1"), format!("10.245.{number}.2"));
    pod::make(&node, &gateway, &pod)?;
    let rules = match number {
        1 => String::new(),
        2 => kube(),
        3 => kube() + &notrack(&format!("10.1.{number}.1")),
        _ => ["eth0", "vpod"].map(sink).concat(),
    };
    node.write_file("/tmp/rules.nft", rules)?;
    node.run(&["nft", "-f", "/tmp/rules.nft"])?;
    director.route(&format!("{pod}/32 via 10.1.{number}.11"))?;
    sinks(&node, director, &link)?;
    Ok(Way {
        name,
        forwards: number < 4,
        director: format!("10.1.{number}.1").parse()?,
        pod: pod.parse()?,
        node,
        turnpike: None,
    })
}

/// kube-proxy's and a policy engine's chains, as iptables would have them: a rule for each Service.
fn kube() -> String {
    let mut services = String::new();
    for number in 0..SERVICES {
        let address = format!("10.96.{}.{}", number / 250, number % 250 + 1);
        services.push_str(&format!("    ip daddr {address} tcp dport 80 counter jump marked\n"));
    }
    format!(
        "table ip kube {{\n  chain marked {{\n    counter meta mark set meta mark or 0x4000\n  }}\n\
         \x20 chain services {{\n{services}  }}\n\
         \x20 chain prerouting {{\n    type nat hook prerouting priority -100;\n    counter jump services\n  }}\n\
         \x20 chain postrouting {{\n    type nat hook postrouting priority 100;\n\
         \x20   meta mark and 0x4000 == 0x4000 counter masquerade\n  }}\n\
         \x20 chain mangle {{\n    type filter hook prerouting priority -150;\n\
         \x20   counter meta mark set meta mark and 0xffffbfff\n  }}\n\
         \x20 chain forward {{\n    type filter hook forward priority 0;\n\
         \x20   ct state new counter jump services\n    ct state invalid counter drop\n\
         \x20   meta mark and 0x4000 == 0x4000 counter accept\n\
         \x20   ct state established,related counter accept\n  }}\n}}\n"
    )
}

fn notrack(director: &str) -> String {
    format!(
        "table ip raw {{\n  chain prerouting {{\n    type filter hook prerouting priority -300;\n\
         \x20   ip saddr {director} counter notrack\n    ip daddr {director} counter notrack\n  }}\n}}\n"
    )
}

/// Ends the datagrams that need no socket on the links where they arrive: in the pod, and at the director.
fn sinks(node: &Node, director: &Node, link: &str) -> Result<()> {
    node.write_file("/tmp/sink.nft", sink("eth0"))?;
    node.run(&["ip", "netns", "exec", "pod", "nft", "-f", "/tmp/sink.nft"])?;
    director.write_file("/tmp/sink.nft", sink(link))?;
    director.run(&["nft", "-f", "/tmp/sink.nft"]).map(drop)
}

fn sink(link: &str) -> String {
    format!(
        "table netdev {link} {{\n  chain sink {{\n    type filter hook ingress device {link} priority 0;\n\
         \x20   udp dport {SINK_PORT} drop\n    udp sport {SINK_PORT} drop\n  }}\n}}\n"
    )
}
