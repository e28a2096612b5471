//! Was there a process of ours before this one, on this boot of the host and in this network namespace?
//!
//! The wire must say so (R and F bits of RFC 4724 §3), and peers that are told wrongly either drop our paths at once
//! or keep what has long gone. So the answer is not guessed from leftovers but written down: a record from the first
//! session on, removed when the daemon ends for good.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use turnpike_bgp_core::config::Start;

use crate::disk::Disk;

/// What identifies the kernel state that routes live in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    boot: String,
    netns: u64,
}

/// Which boot of the host this is.
///
/// # Errors
/// Without a mounted /proc.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The record on disk.
#[derive(Debug)]
pub(crate) struct RestartRecord {
    path: PathBuf,
    here: Place,
    start: Start,
    written: bool,
}

impl RestartRecord {
    /// Looks for a predecessor's record.
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let boot = boot_id().context("cannot read the boot ID")?;
        let netns = fs::metadata("/proc/self/ns/net").context("cannot identify the network namespace")?.ino();
        Self::open_at(state_dir.join("sessions.json"), Place { boot, netns })
    }

    fn open_at(path: PathBuf, here: Place) -> Result<Self> {
        let before: Option<Place> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let restarted = before.as_ref() == Some(&here);
        let start = if restarted { Start::RESTARTED } else { Start::FRESH };
        Ok(Self { path, here, start, written: restarted })
    }

    /// How this start looks to peers.
    pub(crate) fn start(&self) -> Start {
        self.start
    }

    /// A session is up: from now on a next process is a restart.
    pub(crate) fn session_up(&mut self, disk: &Disk) -> Result<()> {
        if !self.written {
            // A failure is logged where it happens: the next start will look like a first one.
            drop(disk.replace(self.path.clone(), serde_json::to_vec(&self.here)?));
            self.written = true;
        }
        Ok(())
    }

    /// Sessions end for good: the next start is a fresh one.
    pub(crate) fn forget(&mut self, disk: &Disk) {
        self.written = false;
        drop(disk.remove(self.path.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_one_only_after_a_session_on_the_same_boot() {
        let path = std::env::temp_dir().join(format!("turnpike-restart-{}", std::process::id()));
        let here = Place { boot: "a".to_owned(), netns: 1 };
        let open = |place: &Place| RestartRecord::open_at(path.clone(), place.clone()).unwrap();

        assert_eq!(open(&here).start(), Start::FRESH);
        // Dropping the queue waits for what is in it.
        open(&here).session_up(&Disk::start().unwrap()).unwrap();
        assert_eq!(open(&here).start(), Start::RESTARTED);
        for other in [Place { boot: "b".to_owned(), ..here.clone() }, Place { netns: 2, ..here.clone() }] {
            assert_eq!(open(&other).start(), Start::FRESH);
        }
        open(&here).forget(&Disk::start().unwrap());
        assert_eq!(open(&here).start(), Start::FRESH);
    }
}
