//! What the agent decides about the data plane, once, at its start.

use std::path::PathBuf;

/// Names, numbers and switches of one node's data plane. `Default` is what README and `agent.toml` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataplaneConfig {
    /// Our folder in bpffs: pinned programs and maps live below it.
    pub bpffs: PathBuf,
    /// Root of the cgroup v2 subtree whose sockets see the client's address (TOA); `None` attaches no socket hook.
    pub cgroup_root: Option<PathBuf>,
    /// Protocol number of our routes (`proto 201` in `ip route`).
    pub route_protocol: u8,
    /// Routing table that holds our routes; 254 is `main`.
    pub route_table: u32,
    /// Name of our nftables table, family `inet`.
    pub nft_table: String,
    /// MTU of pod links in bytes; `None` takes the smallest of the uplinks'.
    pub mtu: Option<u32>,
    /// Pods ask for ECN on their TCP connections (`net.ipv4.tcp_ecn=1` in the pod), so that a limit marks instead of
    /// dropping.
    pub pod_ecn: bool,
    /// Folder that outlives the process, for what cannot be derived again: root qdiscs that a node tree took the
    /// place of. `None` builds no tree where one would have to be remembered.
    pub state: Option<PathBuf>,
}

impl Default for DataplaneConfig {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from("/sys/fs/bpf/turnpike"),
            cgroup_root: None,
            route_protocol: 201,
            route_table: 254,
            nft_table: "turnpike".to_owned(),
            mtu: None,
            pod_ecn: true,
            state: None,
        }
    }
}
