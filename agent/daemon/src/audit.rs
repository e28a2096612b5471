//! What operators changed: one JSON line each, only ever appended, in the state folder's `audit.log`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::clock::Stamp;

#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    at: u64,
    what: &'a str,
    before: &'a str,
    after: &'a str,
}

/// Appends a line and waits until it is on disk.
pub(crate) fn append(state: &Path, stamp: &Stamp, what: &str, before: &str, after: &str) -> io::Result<()> {
    let mut text = serde_json::to_vec(&Line { at: stamp.unix_s, what, before, after })?;
    text.push(b'\n');
    let mut file = File::options().create(true).append(true).open(state.join("audit.log"))?;
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
    }
}
