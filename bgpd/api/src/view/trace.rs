//! A policy at work on one path.

use serde::{Deserialize, Serialize};

use super::PathView;

/// How a policy decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyTrace {
    /// The policy's name.
    pub policy: String,
    /// The path that was tried.
    pub path: PathView,
    /// The rules in order, as far as they were asked.
    pub rules: Vec<RuleTrace>,
    /// The path was accepted.
    pub accepted: bool,
    /// What decided: a rule, or the policy's default.
    pub decided_by: String,
    /// The path as it comes out; `None` if it was refused.
    pub result: Option<PathView>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleTrace {
    /// Its name, or its number from 1.
    pub rule: String,
    /// The first condition that did not hold, by its name in the file; `None`: the rule matched.
    pub missed: Option<String>,
    /// What it said; `None`: nothing, or it did not match.
    pub verdict: Option<String>,
}
