//! Requests and replies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::bandwidth::{BwReply, BwRequest};
use crate::ipam::{IpamReply, IpamRequest};
use crate::lb::{ConntrackReport, LbReport, ToaCheckRequest, ToaReport};
use crate::status::StatusReport;
use crate::trace::{PlannedRoute, TraceReport, TraceRequest};

/// Version of the protocol. A receiver refuses another one by name.
pub const FORMAT: u32 = 1;

/// CNI error codes that the agent and `turnpike-cni` use.
pub mod code {
    /// The configuration's cniVersion is not spoken here.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is not known, or not any more.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO: u32 = 5;
    /// Text is no JSON of the expected shape.
    pub const DECODE: u32 = 6;
    /// The network configuration makes no sense.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace is unusable (specification 1.1, "invalid network namespace").
    pub const NETNS: u32 = 8;
    /// The caller should try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD cannot work.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD cannot work, and existing pods are limited.
    pub const LIMITED: u32 = 51;
    /// No free address.
    pub const EXHAUSTED: u32 = 100;
    /// The data plane could not bring about what was asked for.
    pub const DATAPLANE: u32 = 101;
    /// The agent's store could not be written.
    pub const STORE: u32 = 102;
    /// CHECK: the attachment differs from what it should be.
    pub const CHECK_FAILED: u32 = 103;
    /// GC: something that should be gone is still there.
    pub const GC_INCOMPLETE: u32 = 104;
    /// The interface or container is attached already, and alive.
    pub const ALREADY_ATTACHED: u32 = 105;
    /// The agent and its caller speak different protocols.
    pub const PROTOCOL: u32 = 106;
    /// Another pod of this node has the host port.
    pub const PORT_TAKEN: u32 = 107;
    /// The address asked for is another pod's, or not this node's to give.
    pub const ADDRESS_TAKEN: u32 = 108;
}

/// What travels in one direction: the format version beside the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame<T> {
    /// [`FORMAT`] of the sender.
    pub format: u32,
    /// The message.
    pub body: T,
}

impl<T> Frame<T> {
    /// A frame in this release's format.
    pub fn new(body: T) -> Self {
        Self { format: FORMAT, body }
    }
}

/// What the agent can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// CNI ADD; carries the network namespace.
    Add(Box<AddRequest>),
    /// CNI DEL.
    Del(DelRequest),
    /// CNI CHECK; carries the network namespace.
    Check(CheckRequest),
    /// CNI STATUS.
    Ready,
    /// CNI GC.
    Gc(GcRequest),
    /// Everything that `turnpike status` shows.
    Status,
    /// What `turnpike bw` asks.
    Bw(BwRequest),
    /// Addresses and pools, for operators.
    Ipam(IpamRequest),
    /// Who has and who gets which address: answered with JSON lines instead of a [`Reply`], until the caller hangs
    /// up.
    Events {
        /// Go on behind this resourceVersion; absent begins with a list.
        #[serde(default)]
        since: Option<u64>,
        /// Stay, and hear of each change.
        watch: bool,
    },
    /// A subscriber to events has acted upon everything up to a resourceVersion.
    Acknowledge {
        /// Who, as `gates.subscribers.names` has it.
        subscriber: String,
        /// Up to where.
        version: u64,
    },
    /// Load-balancer traffic by source and reason.
    LbFlows,
    /// Why a pod's connections did or did not get their clients' addresses.
    ToaCheck(ToaCheckRequest),
    /// The connection tracking table.
    Conntrack,
    /// One packet's way through the node.
    Trace(TraceRequest),
    /// Blocks and their nodes, for routers without BGP.
    Routes,
}

/// A pod interface, as the runtime names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME.
    pub ifname: String,
}

/// CNI ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddRequest {
    /// Which interface.
    pub attachment: Attachment,
    /// Name of the network configuration.
    pub network: String,
    /// CNI_NETNS, for people; the open file is what counts.
    pub netns_path: String,
    /// The pod, where the runtime tells.
    #[serde(default)]
    pub pod: PodInfo,
    /// runtimeConfig's bandwidth, where the runtime sends it.
    #[serde(default)]
    pub bandwidth: Option<Bandwidth>,
    /// The pod's annotations, where the runtime sends them.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// runtimeConfig's cgroupPath, where the runtime sends it.
    #[serde(default)]
    pub cgroup_path: Option<String>,
    /// runtimeConfig's portMappings, where the runtime sends them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// runtimeConfig's ips: addresses that the runtime asks for, with or without a prefix length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// runtimeConfig's mac: the address of the pod's interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// A port of the node that shall lead to the pod, in the runtime's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Port on the node; 0 maps nothing.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// `tcp`, `udp`, `sctp`, in any case; TCP when empty.
    #[serde(default)]
    pub protocol: String,
    /// Address of the node; all of them when empty.
    #[serde(default)]
    pub host_ip: String,
}

/// The pod behind a container, from CNI_ARGS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodInfo {
    /// K8S_POD_NAMESPACE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// K8S_POD_NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// K8S_POD_UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// Rates in bits per second and bursts in bits, seen from the pod; 0 and absent are unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// What the pod receives.
    #[serde(default)]
    pub ingress_rate: u64,
    /// Its burst; runtimes send nonsense here.
    #[serde(default)]
    pub ingress_burst: u64,
    /// What the pod sends.
    #[serde(default)]
    pub egress_rate: u64,
    /// Its burst; runtimes send nonsense here.
    #[serde(default)]
    pub egress_burst: u64,
}

/// CNI DEL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelRequest {
    /// Which interface.
    pub attachment: Attachment,
    /// Name of the network configuration.
    #[serde(default)]
    pub network: String,
}

/// CNI CHECK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// Which interface.
    pub attachment: Attachment,
    /// Addresses of our interface in prevResult.
    pub addresses: Vec<IpAddr>,
}

/// CNI GC: what the runtime still knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// Name of the network configuration.
    #[serde(default)]
    pub network: String,
    /// The valid attachments; whatever else is ours and dead is reclaimed.
    pub valid: Vec<Attachment>,
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// ADD is done, durable and in force.
    Added(AddReply),
    /// DEL, CHECK, STATUS or GC is done.
    Done,
    /// The report.
    Status(Box<StatusReport>),
    /// About bandwidth.
    Bw(Box<BwReply>),
    /// To [`Request::Ipam`].
    Ipam(Box<IpamReply>),
    /// Load-balancer traffic.
    LbFlows(Box<LbReport>),
    /// A pod's client addresses.
    Toa(Box<ToaReport>),
    /// The connection tracking table.
    Conntrack(Box<ConntrackReport>),
    /// A packet's way.
    Trace(Box<TraceReport>),
    /// To [`Request::Routes`], in order.
    Routes {
        /// All blocks.
        routes: Vec<PlannedRoute>,
    },
    /// It could not be done.
    Error(ErrorReply),
}

/// What ADD made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddReply {
    /// Host side's name.
    pub host_link: String,
    /// Host side's MAC address.
    pub host_mac: String,
    /// MAC address of the pod's end.
    pub pod_mac: String,
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Link-local gateways of the default routes, one for each family in `addresses`.
    pub gateways: Vec<IpAddr>,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct ErrorReply {
    /// A CNI error code: [`code`].
    pub code: u32,
    /// One sentence.
    pub message: String,
    /// More for a person, with the remedy where it is known.
    #[serde(default)]
    pub details: String,
}

impl ErrorReply {
    /// An error without details.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// The same with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }
}
