//! What the data plane tells its owner.

use std::fmt;

use turnpike_model::desired::BitsPerSecond;

/// How much a [`Problem`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// A feature works in a lesser way; traffic flows.
    Degraded,
    /// Something that was asked for is not in force.
    Failed,
}

/// One thing that [`crate::Dataplane::apply`] could not bring about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about: a link name, `nftables`, `ebpf`, `route 10.0.0.1/32`…
    pub subject: String,
    /// What is wrong and, where known, the remedy; for a person.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)
    }
}

/// One way in which a pod's link differs from what it should be (CNI CHECK).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is checked: `link`, `address`, `route`, `neighbour`, `limit`…
    pub subject: String,
    /// Expected against found, for a person.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)
    }
}

/// The limits that the kernel enforces for a pod right now, in L2 bits per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsInForce {
    /// Traffic that the pod receives.
    pub to_workload: Option<BitsPerSecond>,
    /// Traffic that the pod sends.
    pub from_workload: Option<BitsPerSecond>,
}

/// What [`crate::Dataplane::attach`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachReport {
    /// Interface index of the host side, in the host's network namespace.
    pub host_ifindex: u32,
    /// MAC address of the host side, as read back.
    pub host_mac: [u8; 6],
    /// Interface index of the pod's end, in the pod's network namespace.
    pub pod_ifindex: u32,
    /// MAC address of the pod's end.
    pub pod_mac: [u8; 6],
    /// MTU of both ends in bytes, as read back.
    pub mtu: u32,
    /// Features that are in force in a lesser way than asked for.
    pub problems: Vec<Problem>,
}

/// An interface through which the node reaches the rest of the network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uplink {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// A default route of either family leaves through it.
    pub has_default_route: bool,
}

/// Which rule decided the MTU of pod links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MtuRule {
    /// The agent's configuration sets it.
    Configured,
    /// The smallest MTU of the interfaces with a default route; names the interface.
    DefaultRoute(String),
    /// No default route: the smallest MTU of the interfaces with an on-link prefix; names the interface.
    OnLink(String),
    /// No uplink found: Ethernet's 1500.
    Fallback,
}

impl fmt::Display for MtuRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured => f.write_str("set in the agent's configuration"),
            Self::DefaultRoute(link) => write!(f, "smallest MTU among links with a default route ({link})"),
            Self::OnLink(link) => {
                write!(f, "no default route; smallest MTU among links with an address ({link})")
            }
            Self::Fallback => f.write_str("no uplink found; Ethernet's default"),
        }
    }
}

/// The MTU of new pod links, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MtuDecision {
    /// Bytes.
    pub mtu: u32,
    /// The rule that decided.
    pub rule: MtuRule,
}

/// What the data plane found out about its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Interfaces that lead out of the node, by name.
    pub uplinks: Vec<Uplink>,
    /// MTU of new pod links.
    pub mtu: MtuDecision,
}
