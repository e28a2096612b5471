//! agent.toml.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use turnpike_calc::Node;
use turnpike_dataplane::DataplaneConfig;
use turnpike_model::selector::Labels;

use crate::gates::{Gates, Mode};

/// The agent's configuration. Every field has a default; the sample in deploy/ documents them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) node: NodeConfig,
    pub(crate) paths: Paths,
    pub(crate) listen: Listen,
    pub(crate) ipam: IpamConfig,
    pub(crate) network: Network,
    pub(crate) bgpd: Bgpd,
    pub(crate) readiness: Readiness,
    pub(crate) gates: Gates,
}

/// Who this node is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NodeConfig {
    /// Name in resources; the host name unless given.
    pub(crate) name: Option<String>,
    /// Labels that selectors see.
    pub(crate) labels: Labels,
}

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Paths {
    /// Socket for turnpike-cni and turnpike.
    pub(crate) socket: PathBuf,
    /// Durable state.
    pub(crate) state: PathBuf,
    /// Folder of resource files.
    pub(crate) resources: PathBuf,
    /// DELs spooled by turnpike-cni; `spool` below the state folder unless given.
    pub(crate) spool: Option<PathBuf>,
    /// Our folder in bpffs.
    pub(crate) bpffs: PathBuf,
    /// Root of the pods' cgroups (v2), for TOA; none attaches no socket hook.
    pub(crate) cgroup_root: Option<PathBuf>,
}

/// Addresses that others can ask.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Listen {
    /// Metrics and health over HTTP.
    pub(crate) metrics: SocketAddr,
    /// Health and readiness, and nothing else, where pods reach it; off unless given.
    pub(crate) pods: Option<SocketAddr>,
}

/// How addresses are handed out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IpamConfig {
    /// Rest of a released address, in seconds.
    pub(crate) cooldown_seconds: u64,
}

/// The node's network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Network {
    /// MTU of pod links; found out unless given.
    pub(crate) mtu: Option<u32>,
    /// Interfaces that lead out of the node; found out unless given.
    pub(crate) uplinks: BTreeSet<String>,
    /// Protocol number of our routes.
    pub(crate) route_protocol: u8,
    /// Table of our routes.
    pub(crate) route_table: u32,
    /// Name of our nftables table.
    pub(crate) nft_table: String,
    /// Pods ask for ECN on their own connections.
    pub(crate) pod_ecn: bool,
}

/// What proves that the node reaches its network, beside ARP and ND.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Readiness {
    /// The gateways are pinged, and their silence is told, or counts.
    pub(crate) ping: Mode,
}

/// The BGP daemon.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Bgpd {
    /// Hand this node's peers and blocks to it.
    pub(crate) enabled: bool,
    /// Its control socket.
    pub(crate) socket: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            socket: turnpike_agent_api::DEFAULT_SOCKET.into(),
            state: "/var/lib/turnpike".into(),
            resources: "/etc/turnpike/resources".into(),
            spool: None,
            bpffs: "/sys/fs/bpf/turnpike".into(),
            cgroup_root: None,
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self { metrics: SocketAddr::from(([127, 0, 0, 1], 9471)), pods: None }
    }
}

impl Default for IpamConfig {
    fn default() -> Self {
        Self { cooldown_seconds: 120 }
    }
}

impl Default for Network {
    fn default() -> Self {
        let dataplane = DataplaneConfig::default();
        Self {
            mtu: dataplane.mtu,
            uplinks: BTreeSet::new(),
            route_protocol: dataplane.route_protocol,
            route_table: dataplane.route_table,
            nft_table: dataplane.nft_table,
            pod_ecn: dataplane.pod_ecn,
        }
    }
}

impl Default for Bgpd {
    fn default() -> Self {
        Self { enabled: true, socket: "/run/turnpike/bgpd.sock".into() }
    }
}

impl Config {
    /// Reads the file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not usable", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.gates.check()?;
        Ok(config)
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.paths.spool.clone().unwrap_or_else(|| self.paths.state.join("spool"))
    }

    /// How long a released address waits for acknowledgements at most.
    pub(crate) fn hold_of_released(&self) -> Duration {
        Duration::from_secs(self.gates.subscribers.hold_released_seconds)
    }

    pub(crate) fn cooldown(&self) -> Duration {
        Duration::from_secs(self.ipam.cooldown_seconds)
    }

    /// The node, as resources see it.
    pub(crate) fn node(&self) -> anyhow::Result<Node> {
        let name = match &self.node.name {
            Some(name) => name.clone(),
            None => rustix::system::uname()
                .nodename()
                .to_str()
                .context("the host name is no text; set node.name")?
                .to_owned(),
        };
        anyhow::ensure!(!name.is_empty(), "the node has no name; set node.name");
        Ok(Node { name, labels: self.node.labels.clone(), uplinks: self.network.uplinks.clone() })
    }

    pub(crate) fn dataplane(&self) -> DataplaneConfig {
        DataplaneConfig {
            bpffs: self.paths.bpffs.clone(),
            cgroup_root: self.paths.cgroup_root.clone(),
            route_protocol: self.network.route_protocol,
            route_table: self.network.route_table,
            nft_table: self.network.nft_table.clone(),
            mtu: self.network.mtu,
            pod_ecn: self.network.pod_ecn,
            state: Some(self.paths.state.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_defaults_spelled_out() {
        let sample = include_str!("../../../deploy/agent.toml");
        let mut parsed = Config::parse(sample).unwrap();
        assert_eq!(parsed.node.name.as_deref(), Some("node1"), "the sample names its node");
        parsed.node = NodeConfig::default();
        parsed.paths.cgroup_root = None;
        assert_eq!(parsed, Config::default());
    }

    #[test]
    fn an_unknown_field_is_refused_by_name_and_line() {
        let error = Config::parse("[paths]\nsokcet = \"/x\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("sokcet"), "{error}");
    }
}
