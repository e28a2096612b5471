//! What `turnpike bw` asks and hears.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::message::{Attachment, PodInfo};

/// Questions and orders about bandwidth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum BwRequest {
    /// Limits and rates of all pods, and the uplinks.
    Report,
    /// What a `NodeBandwidth` would have done to the traffic of the last minutes.
    Plan {
        /// Name of its file, for messages.
        file: String,
        /// Its text.
        yaml: String,
    },
    /// Put a `NodeBandwidth` in force.
    Apply {
        /// Name of its file, for messages.
        file: String,
        /// Its text.
        yaml: String,
        /// Seconds after which it is taken back unless confirmed; 0 is for good.
        confirm_s: u64,
        /// Who asks, for the audit log.
        who: String,
    },
    /// Let the change on trial stay.
    Confirm {
        /// Who asks.
        who: String,
    },
    /// Take the change on trial back now.
    RollBack {
        /// Who asks.
        who: String,
    },
}

/// Answers to a [`BwRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum BwReply {
    /// To [`BwRequest::Report`].
    Report(BwReport),
    /// To [`BwRequest::Plan`].
    Plan(BwPlan),
    /// To the other requests.
    Trial(BwTrial),
}

/// A change that was made, confirmed or taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwTrial {
    /// Kind and name.
    pub resource: String,
    /// Its file on the node.
    pub file: String,
    /// Seconds until it is taken back; 0 when it is on trial no more.
    pub left_s: u64,
    /// Who put it in force.
    pub who: String,
}

/// What would have been held back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwPlan {
    /// Kind and name.
    pub resource: String,
    /// Seconds of history that it was held against.
    pub history_s: u64,
    /// Pods by direction, then the host and the classes.
    pub rows: Vec<BwPlanRow>,
    /// What to keep in mind.
    pub notes: Vec<String>,
}

/// One pod and direction, or a share of an uplink. Rates are bits per second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwPlanRow {
    /// The pod, `host`, or `class` and a name.
    pub name: String,
    /// `to the pod`, `from the pod`, or `out of` an uplink.
    pub direction: String,
    /// Limit in force.
    pub before: Option<u64>,
    /// Limit or ceiling that is planned.
    pub after: Option<u64>,
    /// Seconds in which something would have been held back.
    pub seconds: u64,
    /// Of so many.
    pub of_seconds: u64,
    /// Held back on average of these seconds.
    pub mean_excess: u64,
    /// Held back in the worst of them.
    pub worst_excess: u64,
}

/// Bandwidth of a node at one moment. Rates and limits are bits per second on Ethernet frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwReport {
    /// Node name.
    pub node: String,
    /// Milliseconds since the counters were read; `None` before the first time.
    pub age_ms: Option<u64>,
    /// Seconds of history there are.
    pub history_s: u64,
    /// What holds packets back at limits on this kernel, in words.
    #[serde(default)]
    pub held_by: String,
    /// What stands in the queues of a node tree's classes; empty before the kernel was looked at.
    #[serde(default)]
    pub class_queues: String,
    /// A change that waits for its confirmation.
    pub trial: Option<BwTrial>,
    /// Interfaces with a default route.
    pub uplinks: Vec<BwUplink>,
    /// Pods in order of their names.
    pub pods: Vec<BwPod>,
}

/// An uplink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwUplink {
    /// Interface name.
    pub name: String,
    /// As its driver says.
    pub speed: Option<u64>,
    /// What leaves through it.
    pub sent: Rates,
    /// What comes in through it.
    pub received: Rates,
    /// Speed less what is sent in the last second.
    pub free: Option<u64>,
    /// Shares of what leaves, where there is a node tree: the host's first.
    pub classes: Vec<BwClass>,
}

/// A share of an uplink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwClass {
    /// As the resource calls it; `host` for the node's own traffic.
    pub name: String,
    /// Pods in it; 0 for the host.
    pub pods: u64,
    /// What it gets whatever others do.
    pub guarantee: u64,
    /// What it gets at most.
    pub ceiling: u64,
    /// What leaves in it.
    pub sent: Rates,
    /// Packets dropped by its queue.
    pub drops: u64,
    /// How long what waits in its queue takes at its guarantee, in microseconds.
    pub queue_us: u64,
}

/// A rate over two windows; `None` before there are two readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Over the last second.
    pub last_1s: Option<u64>,
    /// Over the last ten.
    pub last_10s: Option<u64>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwPod {
    /// Container and interface.
    pub attachment: Attachment,
    /// The pod, where known.
    pub pod: PodInfo,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Host side.
    pub host_link: String,
    /// Class in the node tree, where there is one.
    pub class: Option<String>,
    /// Ranges whose traffic its limits do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<String>,
    /// Ranges that it asks to exempt and that no `NodeBandwidth` allows, not as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt_refused: Vec<String>,
    /// What it receives.
    pub to_workload: BwDirection,
    /// What it sends.
    pub from_workload: BwDirection,
}

/// One direction of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwDirection {
    /// In force; `None` is unlimited.
    pub limit: Option<u64>,
    /// Which source decided it.
    pub decided_by: String,
    /// All sources that say something, in order of precedence, with what they say.
    pub sources: Vec<BwSource>,
    /// Rates.
    pub rates: Rates,
    /// The last second's rate in thousandths of the limit.
    pub share_permille: Option<u64>,
    /// Bytes since the queue (or, without a limit, the link) was made.
    pub bytes: u64,
    /// Packets given a CE mark.
    pub marked: u64,
    /// Packets of those dropped that went early, because they cannot carry a mark.
    pub not_capable: u64,
    /// Packets dropped.
    pub drops: u64,
    /// How long what waits in the queue will take, in microseconds.
    pub queue_us: u64,
    /// How much may pass at once, where there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<BwBurst>,
    /// A limit that is held against the traffic and changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<BwShadow>,
}

/// How much may pass at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwBurst {
    /// As a time of the limit, like `20ms`.
    pub time: String,
    /// The same in bytes.
    pub bytes: u64,
    /// Which source decided it.
    pub decided_by: String,
}

/// What a limit in shadow would have done since it was set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwShadow {
    /// Bits per second.
    pub limit: u64,
    /// Which source would decide it.
    pub decided_by: String,
    /// Packets seen; a GSO packet is one, here and below.
    pub packets: u64,
    /// Packets that would have got a CE mark.
    pub marked: u64,
    /// Packets of those dropped that would have gone early, because they cannot carry a mark.
    pub not_capable: u64,
    /// Packets of which something would have been dropped.
    pub drops: u64,
}

/// What one source says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BwSource {
    /// Which.
    pub source: String,
    /// Bits per second.
    pub rate: u64,
}
