//! `turnpike bw` and `NodeBandwidth` on a node with real pods.

#![cfg(test)]

mod apply;
mod extras;
mod shadow;
mod show;
mod tree;

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use turnpike_testbed::place::binary;
use turnpike_testbed::turnpike_node::{TurnpikeConfig, TurnpikeNode};
use turnpike_testbed::{ContainerSpec, Image, Lab, Node, PodSpec, Process};

/// Generous: machines that run these tests are small and shared.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// ```text
///   outside 10.1.1.1 ─── eth0 10.1.1.11 n1 ── tpk… ── pods
/// ```
/// An iperf3 server listens outside.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) node: Node,
    pub(crate) outside: Node,
    pub(crate) turnpike: TurnpikeNode,
    server: Process,
}

impl Scene {
    pub(crate) fn set(name: &str, config: TurnpikeConfig) -> Result<Self> {
        Self::set_up(name, config, |_| Ok(()))
    }

    /// With something done to the node before the agent starts.
    pub(crate) fn set_up(
        name: &str,
        config: TurnpikeConfig,
        prepare: impl FnOnce(&Node) -> Result<()>,
    ) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (node, outside) = (lab.node("n1")?, lab.node("outside")?);
        lab.link(&node, "eth0", &outside, "eth0")?;
        node.addr("eth0", "10.1.1.11/24")?;
        outside.addr("eth0", "10.1.1.1/24")?;
        node.route("default via 10.1.1.1")?;
        outside.route("10.244.1.0/26 via 10.1.1.11")?;
        node.addr("eth0", "fd00:1:1::11/64")?;
        outside.addr("eth0", "fd00:1:1::1/64")?;
        node.route("default via fd00:1:1::1")?;
        outside.route("fd00:244::100/122 via fd00:1:1::11")?;
        prepare(&node)?;
        let config = config.with_blocks(
            "n1",
            ("10.244.0.0/16", "10.244.1.0/26"),
            ("fd00:244::/48", "fd00:244::100/122"),
        );
        let turnpike = TurnpikeNode::start(&node, &config)?;
        let server = serve(&outside, "5201")?;
        Ok(Self { lab, node, outside, turnpike, server })
    }

    /// Ends everything and looks for leftovers.
    pub(crate) fn leave(self) -> Result<()> {
        drop((self.server, self.turnpike));
        self.lab.finish()
    }

    /// `turnpike …` on the node: its standard output.
    pub(crate) fn ctl(&self, args: &[&str]) -> Result<String> {
        let program = binary("turnpike")?.to_string_lossy().into_owned();
        let argv: Vec<&str> = std::iter::once(program.as_str()).chain(args.iter().copied()).collect();
        self.node.text(&argv)
    }

    /// `turnpike -o json …`.
    pub(crate) fn ask(&self, args: &[&str]) -> Result<Value> {
        let argv: Vec<&str> = ["-o", "json"].into_iter().chain(args.iter().copied()).collect();
        serde_json::from_str(&self.ctl(&argv)?).context("turnpike's JSON")
    }
}

/// An iperf3 server on a node.
pub(crate) fn serve(node: &Node, port: &str) -> Result<Process> {
    let mut server = node.command("iperf3")?;
    server.args(["-s", "-p", port, "--forceflush"]);
    let server = node.spawn("iperf3", server)?;
    server.wait_log("Server listening", DEADLINE)?;
    Ok(server)
}

/// A pod that can send.
pub(crate) fn pod(name: &str) -> PodSpec {
    PodSpec::new(name, ContainerSpec::new(Image::Iperf3).capability("NET_ADMIN"))
}
