//! Where the versions of a run begin: beyond all that any earlier run has told, whatever the wall clock says by now.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::replace;

/// Version of the file's format.
const FORMAT: u32 = 1;
/// More changes than any run lives to tell.
const RUN: u64 = 1 << 32;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    version: u64,
}

/// The file in the state folder that remembers it.
pub(crate) fn path(state: &Path) -> PathBuf {
    state.join("events.json")
}

/// The version that this run begins with. The first run on a node takes the wall clock, in microseconds: where the state
/// folder was lost, that is beyond the earlier ones, too. A file that cannot be read or written is no reason not to start.
pub(super) fn begin(state: &Path) -> u64 {
    let path = path(state);
    let before = read(&path).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "versions of events begin by the wall clock");
        None
    });
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let version =
        before.map_or_else(|| u64::try_from(clock()).unwrap_or(0), |before| before.saturating_add(RUN));
    if let Err(error) = write(&path, version) {
        tracing::warn!(path = %path.display(), %error, "a later run may tell versions of events again");
    }
    version
}

fn read(path: &Path) -> io::Result<Option<u64>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let record: Record = serde_json::from_slice(&bytes)?;
    if record.format != FORMAT {
        return Err(io::Error::other(format!("format {} is not known here", record.format)));
    }
    Ok(Some(record.version))
}

fn write(path: &Path, version: u64) -> io::Result<()> {
    replace::durably(path, &serde_json::to_vec(&Record { format: FORMAT, version })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_begins_beyond_the_one_before_however_the_clock_was_set() {
        let folder = tempfile::tempdir().unwrap();
        let first = begin(folder.path());
        assert!(first > 0);
        let second = begin(folder.path());
        assert_eq!(second, first + RUN);
        // As after a run whose clock was ahead by centuries.
        write(&path(folder.path()), 1 << 60).unwrap();
        assert_eq!(begin(folder.path()), (1 << 60) + RUN);
        fs::write(path(folder.path()), "{").unwrap();
        assert!(begin(folder.path()) >= first, "a damaged file is no reason not to start");
        assert!(begin(folder.path()) > first + RUN, "and was replaced");
    }
}
