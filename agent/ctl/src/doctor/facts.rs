//! What a host is like, as far as the checks ask.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything that was read. What could not be read is empty or `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// By path below /proc/sys, like `net/ipv4/ip_forward`.
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) links: Vec<Link>,
    pub(super) routes: Vec<Route>,
    pub(super) kernel: Kernel,
    pub(super) managers: Managers,
    pub(super) cni: Cni,
    /// Base chains at the forward hook whose policy is drop.
    pub(super) dropping: Vec<DroppingChain>,
    /// `None` when it does not run.
    pub(super) firewalld: Option<Firewalld>,
    /// Of turnpike-agent; `None` when it does not answer.
    pub(super) agent: Option<AgentFacts>,
    pub(super) agent_error: Option<String>,
    /// BGP peers that are not established: name, address, last error.
    pub(super) peers_down: Vec<(String, IpAddr, String)>,
    pub(super) route_protocol: u8,
    pub(super) clock: Clock,
    /// One for each CPU.
    pub(super) softnet: Vec<Softnet>,
    /// One for each interface.
    pub(super) queues: Vec<Queues>,
}

/// The machine's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Clock {
    /// Seconds since 1970.
    pub(super) unix_s: u64,
    /// As systemd says; `None` where there is none.
    pub(super) synchronised: Option<bool>,
}

/// A CPU's line of /proc/net/softnet_stat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Softnet {
    pub(super) processed: u64,
    pub(super) dropped: u64,
}

/// How an interface receives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Queues {
    pub(super) link: String,
    /// There is a device behind it.
    pub(super) hardware: bool,
    pub(super) receive: usize,
    /// RPS or RFS spreads what it receives.
    pub(super) steered: bool,
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// Address and prefix length.
    pub(super) addresses: Vec<(IpAddr, u8)>,
}

/// A route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// `None` is the default route.
    pub(super) destination: Option<(IpAddr, u8)>,
    pub(super) is_ipv6: bool,
    pub(super) gateways: Vec<IpAddr>,
    pub(super) device: String,
    pub(super) protocol: u8,
    pub(super) blackhole: bool,
}

/// What the kernel offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Like `6.1.0-18-amd64`.
    pub(super) release: String,
    pub(super) btf: bool,
    pub(super) bpffs: bool,
    pub(super) cgroup2: bool,
}

/// Programs that manage interfaces, and whether ours are kept from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Managers {
    pub(super) networkd: bool,
    pub(super) networkd_snippets: bool,
    pub(super) network_manager: bool,
    pub(super) network_manager_snippet: bool,
}

/// The runtime's side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cni {
    pub(super) folder: String,
    /// Configuration files in the order in which a runtime takes them, each with the plugins that it names.
    pub(super) files: Vec<(String, Vec<String>)>,
    pub(super) binary: bool,
    /// Ours asks for portMappings.
    pub(super) maps_ports: bool,
}

/// A chain that drops what nobody accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DroppingChain {
    /// Family, table and chain.
    pub(super) name: String,
    /// Some rule of it names our links.
    pub(super) names_ours: bool,
}

/// What firewalld is configured with, as it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Firewalld {
    /// Empty when it does not answer.
    pub(super) zones: Vec<Zone>,
    pub(super) policies: Vec<Policy>,
}

/// A zone of firewalld.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Zone {
    pub(super) name: String,
    /// Its target is ACCEPT.
    pub(super) accepts: bool,
    pub(super) interfaces: Vec<String>,
    pub(super) sources: Vec<(IpAddr, u8)>,
}

/// A policy of firewalld, between zones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// Its target is ACCEPT.
    pub(super) accepts: bool,
    pub(super) ingress: Vec<String>,
    pub(super) egress: Vec<String>,
}

/// What the agent says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AgentFacts {
    /// Name and range.
    pub(super) pools: Vec<(String, IpAddr, u8)>,
    /// Largest MTU of its pods.
    pub(super) pod_mtu: Option<u32>,
    /// Why it is not ready.
    pub(super) not_ready: Option<String>,
    /// Mistakes in its resources.
    pub(super) source_errors: Vec<String>,
    /// What its eBPF programs lack on this kernel.
    pub(super) missing_features: Vec<String>,
}
