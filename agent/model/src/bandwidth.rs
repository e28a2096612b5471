//! Bandwidth of pods on a node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rate::Rate;
use crate::selector::Selector;

/// Defaults and ceilings of pods' bandwidth on the nodes selected.
///
/// A pod asks with `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth`. It can lower its limit
/// that way and never raise it over `limits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeBandwidthSpec {
    /// Nodes that it is for; all, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    /// For pods that ask for nothing.
    #[serde(default)]
    pub defaults: DirectionRates,
    /// No pod gets more, whatever it asks for.
    #[serde(default)]
    pub limits: DirectionRates,
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
