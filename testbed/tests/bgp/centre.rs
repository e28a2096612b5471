//! A small data centre: two nodes in different subnets behind a router, two route reflectors of different makers, a
//! gateway.
//!
//! ```text
//!  node1 10.1.1.11 ── 10.1.1.1 ┐                       ┌ rr1 10.1.3.21  BIRD
//!                              ├─ tor ─ 10.1.3.1 ─ lan ┼ rr2 10.1.3.22  turnpike-bgpd
//!  node2 10.1.2.12 ── 10.1.2.1 ┘                       └ gw  10.1.3.30  FRR
//! ```
//!
//! The same with fd00:1:1::11 and so on. Everybody's default route leads to the router, which speaks no BGP: it knows
//! the nodes' blocks by static routes, as a stand-in for the sessions that a ToR would have. A node's next hop for the
//! other node's block is that node's address, reached through the router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use turnpike_testbed::speakers::{GracefulRestart, Kind, PeerConfig, Speaker, SpeakerConfig};
use turnpike_testbed::{Lab, Link, Node, poll_result};

use crate::daemon::{DEADLINE, Daemon};

/// Restart time that everybody announces, in seconds: longer than a test takes.
pub(crate) const RESTART_TIME: u16 = 240;

/// The nodes and their links.
pub(crate) struct Centre {
    pub(crate) node1: Node,
    pub(crate) node2: Node,
    pub(crate) tor: Node,
    pub(crate) rr1: Node,
    pub(crate) rr2: Node,
    pub(crate) gw: Node,
    _links: Vec<Link>,
}

impl Centre {
    pub(crate) fn build(lab: &Lab) -> Result<Self> {
        let node = |name: &str| lab.node(name);
        let (node1, node2, tor) = (node("node1")?, node("node2")?, node("tor")?);
        let (rr1, rr2, gw) = (node("rr1")?, node("rr2")?, node("gw")?);
        let mut links = Vec::new();
        for (leaf, port) in [(&node1, "node1"), (&node2, "node2"), (&rr1, "rr1"), (&rr2, "rr2"), (&gw, "gw")]
        {
            links.push(lab.link(&tor, port, leaf, "eth0")?);
        }
        tor.forward()?;
        tor.bridge("lan", &["rr1", "rr2", "gw"])?;
        for (port, third) in [("node1", 1), ("node2", 2), ("lan", 3)] {
            address(&tor, port, third, 1)?;
        }
        for (leaf, third, host) in
            [(&node1, 1, 11), (&node2, 2, 12), (&rr1, 3, 21), (&rr2, 3, 22), (&gw, 3, 30)]
        {
            address(leaf, "eth0", third, host)?;
            leaf.route(&format!("default via 10.1.{third}.1"))?;
            leaf.route(&format!("default via fd00:1:{third}::1"))?;
        }
        for (number, host) in [(1, 11), (2, 12)] {
            tor.route(&format!("10.244.{number}.0/26 via 10.1.{number}.{host}"))?;
            tor.route(&format!("fd00:244:{number}::/64 via fd00:1:{number}::{host}"))?;
        }
        for (node, number) in [(&node1, 1), (&node2, 2)] {
            node.forward()?;
            // A pod's address, held by the node itself.
            node.sysctl("net.ipv6.conf.lo.accept_dad", "0")?;
            node.addr("lo", &format!("10.244.{number}.1/32"))?;
            node.addr("lo", &format!("fd00:244:{number}::1/128"))?;
        }
        Ok(Self { node1, node2, tor, rr1, rr2, gw, _links: links })
    }

    /// The reflectors, of these makers, and the gateway.
    pub(crate) fn start_reflectors(&self, first: Kind, second: Kind) -> Result<[Box<dyn Speaker>; 3]> {
        let rr1 = first.start(&self.rr1, &reflector(21))?;
        let rr2 = second.start(&self.rr2, &reflector(22))?;
        let mut gateway = SpeakerConfig::new(65001, Ipv4Addr::new(10, 1, 3, 30)).kernel();
        for host in [21, 22] {
            gateway = gateway.peer(peer(v4(3, host))).peer(peer(v6(3, host)));
        }
        let gateway = Kind::Frr.start(&self.gw, &gateway)?;
        Ok([rr1, rr2, gateway])
    }

    /// bgpd on a node as the node agent would configure it: two reflectors over both families, one block each.
    pub(crate) fn start_node(&self, number: u8) -> Result<Daemon> {
        let node = if number == 1 { &self.node1 } else { &self.node2 };
        Daemon::start(node, &node_config(number))
    }
}

/// A node's configuration.
pub(crate) fn node_config(number: u8) -> String {
    let mut text = format!(
        "asn = 65001\n\
         [graceful_restart]\nrestart_time = {RESTART_TIME}\n\
         [node]\naccept = [\"10.244.0.0/16 le 26\", \"fd00:244::/32 le 64\"]\n\
         [[network]]\nprefix = \"10.244.{number}.0/26\"\nblackhole = true\n\
         [[network]]\nprefix = \"fd00:244:{number}::/64\"\nblackhole = true\n"
    );
    for (name, host) in [("rr1", 21), ("rr2", 22)] {
        for (family, address) in [("ipv4", v4(3, host)), ("ipv6", v6(3, host))] {
            text.push_str(&format!(
                "[[peer]]\nname = \"{name}-{family}\"\naddress = \"{address}\"\nremote_as = \"internal\"\n\
                 families = [\"{family}\"]\nconnect_retry = 1\n"
            ));
        }
    }
    text
}

/// Names of a node's peers.
pub(crate) const PEERS: [&str; 4] = ["rr1-ipv4", "rr1-ipv6", "rr2-ipv4", "rr2-ipv6"];

/// Waits until the kernel of a node has the other node's blocks, through the router.
pub(crate) fn wait_block(node: &Node, own: u8, other: u8) -> Result<()> {
    let expected = [
        format!("10.244.{other}.0/26 via 10.1.{own}.1 dev eth0"),
        format!("fd00:244:{other}::/64 via fd00:1:{own}::1 dev eth0"),
    ];
    poll_result(DEADLINE, &format!("the block of node{other} in the kernel of {}", node.name()), || {
        let routes = kernel_routes(node)?;
        for route in &expected {
            ensure!(routes.iter().any(|line| line.starts_with(route.as_str())), "{routes:#?}");
        }
        Ok(())
    })
}

/// bgpd's kernel routes without nexthop numbers.
pub(crate) fn kernel_routes(node: &Node) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let text = node.text(&["ip", family, "-o", "route", "show", "proto", "202"])?;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let nhid = words.iter().position(|word| *word == "nhid");
            let shown =
                words.iter().enumerate().filter(|(at, _)| nhid.is_none_or(|n| *at != n && *at != n + 1));
            lines.push(shown.map(|(_, word)| *word).collect::<Vec<_>>().join(" "));
        }
    }
    lines.sort();
    Ok(lines)
}

fn reflector(host: u8) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(65001, Ipv4Addr::new(10, 1, 3, host));
    for address in [v4(1, 11), v6(1, 11), v4(2, 12), v6(2, 12), v4(3, 30), v6(3, 30)] {
        config = config.peer(peer(address).rr_client());
    }
    config
}

fn peer(address: IpAddr) -> PeerConfig {
    PeerConfig::new(address, 65001).graceful_restart(GracefulRestart::Restarting(RESTART_TIME))
}

pub(crate) fn v4(third: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(10, 1, third, host).into()
}

pub(crate) fn v6(third: u8, host: u8) -> IpAddr {
    format!("fd00:1:{third}::{host}")
        .parse::<Ipv6Addr>()
        .map(IpAddr::V6)
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

fn address(node: &Node, interface: &str, third: u8, host: u8) -> Result<()> {
    // The lab has no duplicate addresses, and detecting them costs seconds.
    node.sysctl(&format!("net.ipv6.conf.{interface}.accept_dad"), "0")?;
    node.addr(interface, &format!("10.1.{third}.{host}/24"))?;
    node.addr(interface, &format!("fd00:1:{third}::{host}/64"))
}
