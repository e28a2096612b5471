//! How long the agent's programs themselves run for each packet, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};

/// Switches the kernel's count on for all programs (Documentation/admin-guide/sysctl/kernel.rst); costs some 20 ns a run.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The count is on until this is dropped.
pub(super) struct Counting {
    before: String,
}

impl Counting {
    pub(super) fn start() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("read {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("write {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, &self.before);
    }
}

/// Runs and nanoseconds of each program that a process holds, by the program's ID.
pub(super) fn times(pid: u32) -> Result<BTreeMap<u64, (f64, f64)>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut times = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        // A descriptor that was closed meanwhile is no program's.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let number = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        if let (Some(id), Some(runs), Some(took)) =
            (number("prog_id:"), number("run_cnt:"), number("run_time_ns:"))
        {
            times.insert(id, (runs as f64, took as f64));
        }
    }
    Ok(times)
}

/// Nanoseconds of a run of the program that ran most between the two.
pub(super) fn busiest(before: &BTreeMap<u64, (f64, f64)>, after: &BTreeMap<u64, (f64, f64)>) -> Option<f64> {
    let more = after.iter().map(|(id, (runs, took))| {
        let (old_runs, old_took) = before.get(id).copied().unwrap_or_default();
        (runs - old_runs, took - old_took)
    });
    let (runs, took) = more.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (runs > 0.0).then_some(took / runs)
}
