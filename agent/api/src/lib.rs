//! How other programs talk to `turnpike-agent`: one request and one answer over its unix socket.
//!
//! A frame is a big-endian `u32` length and that many bytes of JSON. The request carries [`FORMAT`]; ADD and CHECK
//! pass the pod's network namespace as an open file (SCM_RIGHTS) with the frame's first byte, so the agent never
//! opens a path that a caller names. The agent answers with [`Reply`] and closes.
//!
//! Few dependencies and no async: `turnpike-cni` is started for every pod and links this crate.

mod bandwidth;
mod client;
mod clock;
mod frame;
mod heartbeat;
mod ipam;
mod lb;
mod message;
mod spool;
mod status;
mod trace;

pub use bandwidth::{
    BwBurst, BwClass, BwDirection, BwPlan, BwPlanRow, BwPod, BwReply, BwReport, BwRequest, BwShadow,
    BwSource, BwTrial, BwUplink, Rates,
};
pub use client::{Client, ClientError};
pub use clock::boottime;
pub use frame::{FrameError, Receiver, write_frame};
pub use heartbeat::{beat, heartbeat_path, since_heartbeat};
pub use ipam::{AddressStatus, Collected, Explanation, Fact, IpamBook, IpamFinding, IpamReply, IpamRequest};
pub use lb::{
    ConntrackPod, ConntrackReport, Count, FellBack, LbDirection, LbReport, LbSourceReport, ToaCheckRequest,
    ToaConnectionReport, ToaReport, ToaSource,
};
pub use message::{
    AddReply, AddRequest, Attachment, Bandwidth, CheckRequest, DelRequest, ErrorReply, FORMAT, Frame,
    GcRequest, PodInfo, PortMapping, Reply, Request, code,
};
pub use spool::{SpoolEntry, SpoolError, read_spool, spool, spool_path};
pub use status::{
    BgpStatus, BlockStatus, GatewayStatus, Health, PingStatus, PodStatus, PoolStatus, ProblemStatus,
    SourceStatus, StatusReport,
};
pub use trace::{PlannedRoute, TraceHop, TraceReport, TraceRequest, TraceWay};

/// Where the agent listens unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/turnpike/agent.sock";
/// Where DELs wait while the agent is down, unless configured otherwise.
pub const DEFAULT_SPOOL: &str = "/var/lib/turnpike/spool";
