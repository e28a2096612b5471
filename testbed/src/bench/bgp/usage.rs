//! What processes have used, as /proc tells it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::Node;

/// Use of all processes of a node, but for the lab's own.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// CPU time of all threads that live.
    pub(super) cpu: Duration,
    /// Largest resident size so far, in bytes, each process at its own largest.
    pub(super) peak: u64,
    /// Resident size now, in bytes.
    pub(super) resident: u64,
}

impl Usage {
    pub(super) fn of(node: &Node) -> Result<Self> {
        let list = node.cgroup_path().join("host/cgroup.procs");
        let pids = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
        let mut usage = Self::default();
        for pid in pids.split_whitespace() {
            // A process that ends meanwhile is not the daemon.
            usage.add(pid);
        }
        Ok(usage)
    }

    fn add(&mut self, pid: &str) -> Option<()> {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        if comm.trim() == "lab-init" {
            return None;
        }
        for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            // First field: nanoseconds on a CPU. Finer than the ticks of `stat`.
            let spent = fs::read_to_string(task.path().join("schedstat")).ok();
            let spent = spent.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
            self.cpu += Duration::from_nanos(spent.unwrap_or_default());
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        self.peak += kib(&status, "VmHWM:").unwrap_or_default() << 10;
        self.resident += kib(&status, "VmRSS:").unwrap_or_default() << 10;
        Some(())
    }
}

fn kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Routes in the main table of a node, counted by the kernel itself.
pub(super) fn kernel_routes(node: &Node) -> Result<usize> {
    let path = format!("/proc/{}/net/fib_triestat", node.pid()?);
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let main = text.split("Main:").nth(1).context("no main table")?;
    let line = main.lines().find_map(|line| line.trim().strip_prefix("Prefixes:"));
    line.context("no count of prefixes")?.trim().parse().context("count of prefixes")
}
