//! The operators' changes, one JSON object a line, in a file that is only ever appended to. Full, it becomes
//! `audit.jsonl.1`, in place of the one before it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tracing::info;
use turnpike_bgpd_api::view::{AuditEntry, Caller};

use crate::disk::{self, Disk};

/// The file, in the state folder.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
}

/// One change: what, details in words, before and after.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) what: &'a str,
    pub(crate) detail: String,
    pub(crate) before: Value,
    pub(crate) after: Value,
}

impl Audit {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("audit.jsonl") }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes a change, on the disk's thread.
    pub(crate) fn note(&self, disk: &Disk, who: Option<Caller>, change: Change<'_>) {
        info!(
            who = who.as_ref().map_or_else(|| "turnpike-bgpd".to_owned(), ToString::to_string),
            what = change.what,
            detail = change.detail,
            "changed by an operator"
        );
        if let Some(line) = line(who, change) {
            // A failure is logged where it happens.
            drop(disk.append(self.path.clone(), line));
        }
    }

    /// Notes a change at once, before there is a disk's thread.
    pub(crate) fn note_now(&self, change: Change<'_>) -> io::Result<()> {
        line(None, change).map_or(Ok(()), |line| disk::append(&self.path, &line))
    }
}

fn line(who: Option<Caller>, change: Change<'_>) -> Option<Vec<u8>> {
    let Change { what, detail, before, after } = change;
    let entry = AuditEntry { time: now(), who, what: what.to_owned(), detail, before, after };
    let mut line = serde_json::to_vec(&entry).ok()?;
    line.push(b'\n');
    Some(line)
}

/// Seconds since 1970, UTC.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The last entries, the oldest first; lines that are none are left out.
pub(crate) fn read(path: &Path, limit: usize) -> io::Result<Vec<AuditEntry>> {
    let text = |path: &Path| match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    };
    let (former, present) = (text(&disk::former(path))?, text(path)?);
    let lines = present.lines().rev().chain(former.lines().rev());
    let mut entries: Vec<AuditEntry> =
        lines.filter_map(|line| serde_json::from_str(line).ok()).take(limit).collect();
    entries.reverse();
    Ok(entries)
}
