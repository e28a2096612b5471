//! Who changed what, from what, to what: one JSON line each, only ever appended.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::agent::Agent;

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
    #[serde(flatten)]
    change: &'a Change,
}

/// Appends a line to `audit.log` in the state folder. A change is not refused because it cannot be noted.
pub(super) fn note(agent: &Agent, action: &str, who: &str, change: &Change) {
    let line = Line { unix_s: agent.stamp().unix_s, action, who, change };
    let path = agent.config.paths.state.join("audit.log");
    if let Err(error) = append(&path, &line) {
        tracing::error!(path = %path.display(), %error, "the audit log cannot be written");
    }
}

fn append(path: &Path, line: &Line<'_>) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut file = File::options().create(true).append(true).open(path)?;
    file.write_all(&text)?;
    file.sync_data()
}
