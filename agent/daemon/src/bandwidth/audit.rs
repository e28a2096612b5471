//! Who changed what, from what, to what: one JSON line each, only ever appended.

use serde::Serialize;

use crate::agent::Agent;
use crate::audit::{Caller, append_line, caller};

/// A change of one resource.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Change {
    pub(super) resource: String,
    /// Text of its file before; `None` for no file.
    pub(super) before: Option<String>,
    /// And after.
    pub(super) after: Option<String>,
}

impl Change {
    /// The way back.
    pub(super) fn reversed(self) -> Self {
        Self { before: self.after, after: self.before, ..self }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    unix_s: u64,
    action: &'a str,
    who: &'a str,
    caller: Option<Caller>,
    #[serde(flatten)]
    change: &'a Change,
}

/// Appends a line to `audit.log` in the state folder. A change is not refused because it cannot be noted.
pub(super) fn note(agent: &Agent, action: &str, who: &str, change: &Change) {
    let line = Line { unix_s: agent.stamp().unix_s, action, who, caller: caller(), change };
    let state = &agent.config.paths.state;
    if let Err(error) = append_line(state, &line) {
        tracing::error!(state = %state.display(), %error, "the audit log cannot be written");
    }
}
