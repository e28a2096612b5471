//! What operators changed, when, and which process asked: one JSON line each, only ever appended, in the state folder's
//! `audit.log`. A full file becomes `audit.log.1`, in place of the one before it.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::clock::Stamp;

/// Bytes at which a file is full: years of an operator's work.
const FULL: u64 = 4 << 20;

/// Who asks, as the kernel vouches for it (SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) pid: i32,
}

thread_local! {
    /// Requests have a thread each, from their first byte to their answer.
    static CALLER: Cell<Option<Caller>> = const { Cell::new(None) };
}

/// All changes of this thread are asked for by `caller` while `work` runs.
pub(crate) fn on_behalf<R>(caller: Caller, work: impl FnOnce() -> R) -> R {
    CALLER.set(Some(caller));
    let result = work();
    CALLER.set(None);
    result
}

/// Who asked for what this thread does; `None` for what the agent does by itself.
pub(crate) fn caller() -> Option<Caller> {
    CALLER.get()
}

#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    at: u64,
    caller: Option<Caller>,
    what: &'a str,
    before: &'a str,
    after: &'a str,
}

/// Appends a line and waits until it is on disk.
pub(crate) fn append(state: &Path, stamp: &Stamp, what: &str, before: &str, after: &str) -> io::Result<()> {
    append_line(state, &Line { at: stamp.unix_s, caller: caller(), what, before, after })
}

/// Appends any line.
pub(crate) fn append_line<L: Serialize>(state: &Path, line: &L) -> io::Result<()> {
    let path = state.join("audit.log");
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() >= FULL) {
        std::fs::rename(&path, state.join("audit.log.1"))?;
    }
    let mut file = File::options().create(true).append(true).open(path)?;
    file.write_all(&text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootId;

    #[test]
    fn lines_are_added_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let stamp = Stamp::now(&BootId("b".into()));
        append(folder.path(), &stamp, "pool drain", "Active", "Draining").unwrap();
        append(folder.path(), &stamp, "ipam release", "10.0.0.1 resting", "free at once").unwrap();
        let text = std::fs::read_to_string(folder.path().join("audit.log")).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["before"], "Active");
        assert_eq!(lines[1]["what"], "ipam release");
        assert!(lines[1]["caller"].is_null(), "the agent's own doing");
    }

    #[test]
    fn the_caller_is_named_and_a_full_file_makes_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        File::create(&path).unwrap().set_len(FULL).unwrap();
        let stamp = Stamp::now(&BootId("b".into()));
        on_behalf(Caller { uid: 0, pid: 4242 }, || append(folder.path(), &stamp, "x", "", "")).unwrap();
        let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(line["caller"]["pid"], 4242);
        assert_eq!(std::fs::metadata(folder.path().join("audit.log.1")).unwrap().len(), FULL);
        assert_eq!(caller(), None);
    }
}
