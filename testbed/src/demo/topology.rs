//! The data centre of the demo: boxes, wires, underlay addresses and the few static routes that an operator would set.
//!
//! ```text
//!   client 192.0.2.10 ── gw1 (AS 65001) ══eBGP══ gw2 (AS 65002) ── far 10.2.0.10
//!                         │
//!   rr1 (BIRD) ─┐         │
//!   rr2 (ours) ─┼─ lan ─ tor ─┬─ 10.1.1.0/24 ─ node1
//!   director   ─┘             └─ 10.1.2.0/24 ─ node2
//! ```

use anyhow::Result;

use crate::{Lab, Link, Node};

/// The virtual address that trusted and rogue directors answer on.
pub(super) const VIP: &str = "10.9.0.1";
pub(super) const VIP6: &str = "fd00:9::1";
/// A virtual address whose local addresses no node trusts.
pub(super) const ROGUE_VIP: &str = "10.9.0.2";
/// The director's local addresses: trusted ones, and one that is not.
pub(super) const LOCAL: &str = "10.9.1.1";
pub(super) const LOCAL6: &str = "fd00:9:1::1";
pub(super) const ROGUE_LOCAL: &str = "10.9.2.1";
/// The client outside, and the host in the other data centre.
pub(super) const CLIENT: &str = "192.0.2.10";
pub(super) const CLIENT6: &str = "fd99::10";
pub(super) const FAR: &str = "10.2.0.10";
pub(super) const FAR6: &str = "fd00:2::10";

/// All boxes, wired and addressed; no daemon runs yet.
pub(super) struct Network {
    pub(super) node1: Node,
    pub(super) node2: Node,
    pub(super) tor: Node,
    pub(super) rr1: Node,
    pub(super) rr2: Node,
    pub(super) director: Node,
    pub(super) gw1: Node,
    pub(super) gw2: Node,
    pub(super) client: Node,
    pub(super) far: Node,
    _links: Vec<Link>,
}

impl Network {
    pub(super) fn build(lab: &Lab) -> Result<Self> {
        let [node1, node2, tor] = [lab.node("node1")?, lab.node("node2")?, lab.node("tor")?];
        let [rr1, rr2, director] = [lab.node("rr1")?, lab.node("rr2")?, lab.node("director")?];
        let [gw1, gw2] = [lab.node("gw1")?, lab.node("gw2")?];
        let [client, far] = [lab.node("client")?, lab.node("far")?];
        let links = vec![
            lab.link(&node1, "eth0", &tor, "node1")?,
            lab.link(&node2, "eth0", &tor, "node2")?,
            lab.link(&rr1, "eth0", &tor, "rr1")?,
            lab.link(&rr2, "eth0", &tor, "rr2")?,
            lab.link(&director, "eth0", &tor, "director")?,
            lab.link(&gw1, "tor", &tor, "gw1")?,
            lab.link(&gw1, "gw2", &gw2, "gw1")?,
            lab.link(&gw1, "out", &client, "eth0")?,
            lab.link(&gw2, "lan", &far, "eth0")?,
        ];
        let network = Self { node1, node2, tor, rr1, rr2, director, gw1, gw2, client, far, _links: links };
        network.tor()?;
        network.leaves()?;
        network.gateways()?;
        Ok(network)
    }

    fn tor(&self) -> Result<()> {
        let tor = &self.tor;
        tor.forward()?;
        tor.bridge("lan", &["rr1", "rr2", "director"])?;
        for (interface, third) in [("node1", "1"), ("node2", "2"), ("lan", "3"), ("gw1", "4")] {
            address(tor, interface, &format!("10.1.{third}.1/24"), &format!("fd00:1:{third}::1/64"))?;
        }
        default_via(tor, "10.1.4.2", "fd00:1:4::2")?;
        for (v4, v6) in [("10.9.0.0/24", "fd00:9::/64"), ("10.9.1.0/24", "fd00:9:1::/64")] {
            tor.route(&format!("{v4} via 10.1.3.30"))?;
            tor.route(&format!("{v6} via fd00:1:3::30"))?;
        }
        tor.route("10.9.2.0/24 via 10.1.3.30")
    }

    fn leaves(&self) -> Result<()> {
        let leaves = [
            (&self.node1, "10.1.1", "fd00:1:1:", "11"),
            (&self.node2, "10.1.2", "fd00:1:2:", "12"),
            (&self.rr1, "10.1.3", "fd00:1:3:", "21"),
            (&self.rr2, "10.1.3", "fd00:1:3:", "22"),
            (&self.director, "10.1.3", "fd00:1:3:", "30"),
        ];
        for (node, v4, v6, host) in leaves {
            address(node, "eth0", &format!("{v4}.{host}/24"), &format!("{v6}:{host}/64"))?;
            default_via(node, &format!("{v4}.1"), &format!("{v6}:1"))?;
        }
        address(&self.client, "eth0", &format!("{CLIENT}/24"), &format!("{CLIENT6}/64"))?;
        default_via(&self.client, "192.0.2.1", "fd99::1")?;
        address(&self.far, "eth0", &format!("{FAR}/24"), &format!("{FAR6}/64"))?;
        default_via(&self.far, "10.2.0.1", "fd00:2::1")
    }

    fn gateways(&self) -> Result<()> {
        self.gw1.forward()?;
        self.gw2.forward()?;
        address(&self.gw1, "tor", "10.1.4.2/24", "fd00:1:4::2/64")?;
        address(&self.gw1, "gw2", "10.3.0.1/24", "fd00:3::1/64")?;
        address(&self.gw1, "out", "192.0.2.1/24", "fd99::1/64")?;
        address(&self.gw2, "gw1", "10.3.0.2/24", "fd00:3::2/64")?;
        address(&self.gw2, "lan", "10.2.0.1/24", "fd00:2::1/64")?;
        for (v4, v6) in [("10.1.0.0/16", "fd00:1::/32"), ("10.9.0.0/16", "fd00:9::/32")] {
            self.gw1.route(&format!("{v4} via 10.1.4.1"))?;
            self.gw1.route(&format!("{v6} via fd00:1:4::1"))?;
        }
        Ok(())
    }
}

fn address(node: &Node, interface: &str, v4: &str, v6: &str) -> Result<()> {
    // The lab has no duplicate addresses, and detecting them costs seconds.
    node.sysctl(&format!("net.ipv6.conf.{interface}.accept_dad"), "0")?;
    node.addr(interface, v4)?;
    node.addr(interface, v6)
}

fn default_via(node: &Node, v4: &str, v6: &str) -> Result<()> {
    node.route(&format!("default via {v4}"))?;
    node.route(&format!("default via {v6}"))
}
