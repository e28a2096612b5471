//! What a node has to do, from resources, facts about the node, and its pods.
//!
//! - [`validate()`] finds what is wrong in a set of resources, before any of it is put in force;
//! - [`AddressPlan`] says which blocks new pods of this node may use, and [`Ipam`] hands out their addresses;
//! - [`node_state`] makes the data plane's [`DesiredState`](turnpike_model::desired::DesiredState) and bgpd's part.
//!
//! Pure: time is an input ([`Time`]), and the same inputs give the same answers, whatever happened before.

mod bandwidth;
mod drain;
mod ipam;
mod node;
mod plan;
mod ports;
mod validate;
mod wishes;

pub use bandwidth::{
    AskedBursts, AskedLimits, BadWish, BandwidthError, BurstSource, CLASS_ANNOTATION, Decision, Demand,
    EGRESS_ANNOTATION, EGRESS_BURST_ANNOTATION, EXEMPT_ANNOTATION, Extras, FromRuntime, HISTORY_SECONDS,
    INGRESS_ANNOTATION, INGRESS_BURST_ANNOTATION, LimitSource, Meter, NodeLimits, Past, Reading,
    RuntimeBandwidth, Series, Throttled, asked_limits, class_of, explain, explain_extras, explain_shadow,
    node_tree, tree_throttles,
};
pub use drain::{Drain, Draining};
pub use ipam::{Ipam, IpamError, Known, Lease, Remembered, Use};
pub use node::{LocalPod, Node, NodeState, node_state};
pub use plan::{AddressPlan, Family, FamilyPlan, PlannedBlock};
pub use ports::{AskedPort, PortError, asked_ports, taken};
pub use validate::{Issue, validate};
pub use wishes::{ADDRESSES_ANNOTATION, AskedAddresses, WishError, asked_addresses, check_grant};

/// A moment, as the time since an arbitrary fixed start that never jumps.
pub type Time = std::time::Duration;
