//! Bandwidth of pods on a node.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::burst::Burst;
use crate::cidr::Cidr;
use crate::rate::Rate;
use crate::selector::Selector;

/// Defaults and ceilings of pods' bandwidth on the nodes selected.
///
/// A pod asks with `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth`. It can lower its limit
/// that way; over `defaults` it gets as much as a `NamespaceGrant` gives to its namespace, and never more than `limits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeBandwidthSpec {
    /// Nodes that it is for; all, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    /// `Shadow` holds `defaults` and `limits` against the traffic, counts what they would have done, and changes nothing.
    #[serde(default, skip_serializing_if = "Mode::is_enforce")]
    pub mode: Mode,
    /// For pods that ask for nothing, and the most for pods whose namespace is granted no more.
    #[serde(default)]
    pub defaults: DirectionRates,
    /// No pod gets more, whatever it asks for.
    #[serde(default)]
    pub limits: DirectionRates,
    /// No pod's burst is longer, a time of its limit; 50ms, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_burst: Option<Burst>,
    /// Ranges that pods may exempt from their limits by annotation; none, unless given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub exemptible: BTreeSet<Cidr>,
    /// How what leaves through the uplinks is shared between the host and classes of pods; not at all, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeSpec>,
}

impl NodeBandwidthSpec {
    /// True where its limits are in force.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.mode.is_enforce()
    }
}

/// Whether limits are in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// They hold.
    #[default]
    Enforce,
    /// What they would have done is counted.
    Shadow,
}

impl Mode {
    /// True for the default.
    #[must_use]
    pub fn is_enforce(&self) -> bool {
        *self == Self::Enforce
    }
}

/// Shares of each uplink, for what leaves through it. What comes in cannot be queued here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TreeSpec {
    /// Interfaces; those with a default route, unless given. All figures are for each of them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub uplinks: BTreeSet<String>,
    /// The uplink's speed; what its driver says, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Rate>,
    /// The node's own traffic: kubelet, SSH, BGP.
    pub host: HostShare,
    /// All pods together.
    #[serde(default)]
    pub pods: PodsShare,
    /// Classes of pods by name; all pods are in one class, unless given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, ClassShare>,
    /// Class of pods that ask for none, or for one that is not here. Needed where there is more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_class: Option<String>,
}

/// The host's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostShare {
    /// What it gets whatever the pods do; it borrows what they leave.
    pub guarantee: Rate,
}

/// The share of all pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodsShare {
    /// They never get more; the uplink's speed, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Rate>,
}

/// A class's share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClassShare {
    /// What its pods get together whatever others do.
    pub guarantee: Rate,
    /// What they get at most when others leave it; the pods' ceiling, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Rate>,
    /// Namespaces whose pods may ask for it; all, unless given. The default class is everybody's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
}

/// A rate for each direction, seen from the pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectionRates {
    /// Traffic that the pod receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Rate>,
    /// Traffic that the pod sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Rate>,
}
