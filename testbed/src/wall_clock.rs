//! A wall clock of a process's own, by libfaketime. The machine's clock is left alone, and so are the clocks that nobody can
//! set: CLOCK_MONOTONIC and CLOCK_BOOTTIME.

use std::fs;

use anyhow::{Context as _, Result};

use crate::node::Node;

/// What the clock is off by: see libfaketime's `FAKETIME_TIMESTAMP_FILE`.
const OFFSET: &str = "/run/clock";

/// The wall clock of those that run in its environment, on one node.
#[derive(Debug)]
pub struct WallClock {
    node: Node,
    library: String,
}

impl WallClock {
    /// One that is right as yet.
    ///
    /// # Errors
    /// When libfaketime is not installed.
    pub fn new(node: &Node) -> Result<Self> {
        let folders = fs::read_dir("/usr/lib")?.filter_map(Result::ok).map(|entry| entry.path());
        let mut libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
        let library =
            libraries.find(|path| path.exists()).context("no libfaketime; run: cargo xtask setup")?;
        // The library leaves files here when its process is killed: they go with the node.
        node.run(&["mount", "-t", "tmpfs", "none", "/dev/shm"])?;
        let clock = Self { node: node.clone(), library: library.display().to_string() };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Sets it, for what runs and what is to come: `+10y`, `-2h`.
    ///
    /// # Errors
    /// When the node's files cannot be written.
    pub fn set(&self, offset: &str) -> Result<()> {
        let fresh = format!("{OFFSET}.new");
        self.node.write_file(&fresh, format!("{offset}\n"))?;
        self.node.run(&["mv", &fresh, OFFSET]).map(drop)
    }

    /// What a process runs with to have this clock.
    #[must_use]
    pub fn environment(&self) -> [(&str, &str); 4] {
        [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", OFFSET),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }
}
