//! What pods of a namespace may ask for beyond what every pod may.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bandwidth::DirectionRates;

/// More than the usual, for pods of some namespaces that ask for it.
///
/// Pools, classes and reservations name the namespaces that they are for themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceGrantSpec {
    /// Whose pods, by the runtime's word. `"*"` by itself: those of every namespace that no other grant names.
    pub namespaces: Vec<String>,
    /// A pod may ask for so much where the default of its node (`NodeBandwidth`) is less; the node's `limits` hold all the
    /// same.
    pub max_rate: DirectionRates,
}

impl NamespaceGrantSpec {
    /// Stands for every namespace.
    pub const EVERY: &'static str = "*";

    /// It is for every namespace that has no grant of its own.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.namespaces.iter().any(|namespace| namespace == Self::EVERY)
    }
}
