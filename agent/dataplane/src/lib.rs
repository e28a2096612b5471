//! The data plane of one node: brings the kernel to what `turnpike-model`'s `DesiredState` says.
//!
//! Managers translate the desired state into kernel objects; drivers read what is there and write only the
//! difference (links, routes, neighbours, nftables, traffic control, eBPF). Every driver may be killed between any
//! two system calls: the next [`Dataplane::apply`] converges. Nothing is ever flushed, and nothing that is not ours
//! is touched. Ours means: link names `tpk…`, our route protocol, table `inet turnpike`, our folder in bpffs.
//!
//! **Blocking.** Every call does system calls and returns when the kernel has answered. The owner runs a
//! [`Dataplane`] on one dedicated thread and sends it work over a channel; the type is `Send`, not shared.

mod bpf;
mod config;
mod conntrack;
mod devconf;
mod endpoint;
mod error;
mod facts;
mod gateways;
mod host;
mod links;
mod neighbours;
mod netlink;
mod netns;
mod nft;
mod plane;
mod pod;
pub mod probe;
mod report;
mod routes;
mod sysctl;
mod tc;
mod watch;

pub use bpf::{HooksInForce, LbTraffic, ToaConnection, ToaOfPod};
pub use config::DataplaneConfig;
pub use conntrack::{ConntrackByAddress, ConntrackUsage};
pub use error::DataplaneError;
pub use gateways::{Gateway, Reach};
pub use plane::{
    ClassUsage, Dataplane, HOST_CLASS, PodUsage, QueueUsage, ShadowUsage, TracePacket, TraceRoute,
    TraceTransport, TraceVerdict, UplinkUsage, UsageSample,
};
pub use report::{
    AttachReport, Finding, LimitsInForce, MtuDecision, MtuRule, NodeFacts, Problem, Severity, Uplink,
};

pub use tc::leaf::LeafQueue;
pub use tc::pacer::Pacer;
/// Counters and records of the eBPF programs, as they are in the kernel.
pub use turnpike_ebpf_loader::abi::{LbPath, LbStats, Tally, ToaEvent, ToaFormat, ToaOutcome, ToaTally};
pub use watch::{Concern, OwnPorts, Watch};
