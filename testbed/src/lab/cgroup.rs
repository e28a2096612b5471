//! The cgroups of labs: `turnpike-lab/<lab>.<pid>.<start time>.<number>/<node>` below the root of the v2 hierarchy,
//! and below those of v1 where a container runtime makes them. The name says which process owns them, so that
//! those of a killed run are recognised as stale, however long after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::place::{cgroup_roots, cgroup2_root};
use crate::poll::poll_result;

const TOP: &str = "turnpike-lab";

/// How long an emptied cgroup may take to become removable.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(5);

pub(super) struct Cgroups {
    v2_root: PathBuf,
    /// The lab's own folder, relative to any root.
    relative: PathBuf,
}

impl Cgroups {
    pub(super) fn new(lab: &str, number: u32) -> Result<Self> {
        let pid = std::process::id();
        let start = start_time(pid).context("start time of this process")?;
        let relative = Path::new(TOP).join(format!("{lab}.{pid}.{start}.{number}"));
        Ok(Self { v2_root: cgroup2_root()?, relative })
    }

    pub(super) fn v2_root(&self) -> &Path {
        &self.v2_root
    }

    /// Makes a node's cgroup and says its path from the root, with a leading slash.
    pub(super) fn make(&self, node: &str) -> Result<String> {
        let relative = self.relative.join(node);
        let host = self.v2_root.join(&relative).join("host");
        // Another lab may remove the common folder, empty for a moment, between two steps of this.
        poll_result(REMOVAL_DEADLINE, "a cgroup for the node", || fs::create_dir_all(&host))
            .with_context(|| format!("make {}", host.display()))?;
        Ok(Path::new("/").join(relative).to_string_lossy().into_owned())
    }

    /// Removes the lab's cgroups from all hierarchies and names those that cannot be removed, with their processes.
    pub(super) fn remove(&self) -> Vec<String> {
        let roots = match cgroup_roots() {
            Ok(roots) => roots,
            Err(error) => return vec![format!("{error:#}")],
        };
        roots.iter().filter_map(|root| remove_tree(root, &self.relative, REMOVAL_DEADLINE).err()).collect()
    }
}

/// Removes what killed runs left, where no process is in it. Says what was found, one line each.
pub(super) fn sweep() -> Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for root in cgroup_roots()? {
        for name in children(&root.join(TOP)) {
            if owner_lives(&name) {
                continue;
            }
            found.insert(match remove_tree(&root, &Path::new(TOP).join(&name), Duration::ZERO) {
                Ok(()) => format!("removed the cgroups of lab {name}, which was killed"),
                Err(reason) => format!("lab {name} was killed and is not gone: {reason}"),
            });
        }
    }
    Ok(found.into_iter().collect())
}

fn remove_tree(root: &Path, relative: &Path, deadline: Duration) -> Result<(), String> {
    let folder = root.join(relative);
    if !folder.exists() {
        return Ok(());
    }
    let outcome = poll_result(deadline, "its cgroups to be removable", || remove_below(&folder));
    // The last lab takes the common folder with it; others still need it otherwise.
    drop(fs::remove_dir(root.join(TOP)));
    outcome.map_err(|_| format!("{} with processes {}", folder.display(), processes(&folder).join(", ")))
}

fn remove_below(folder: &Path) -> std::io::Result<()> {
    for name in children(folder) {
        remove_below(&folder.join(name))?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn children(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn processes(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_to_string(folder.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{pid} ({})", name.trim_end())
        })
        .collect();
    for name in children(folder) {
        found.extend(processes(&folder.join(name)));
    }
    found
}

/// Whether the process named in a lab's cgroup is still the one that made it.
fn owner_lives(name: &str) -> bool {
    let mut fields = name.rsplit('.').skip(1);
    let start = fields.next().and_then(|text| text.parse::<u64>().ok());
    let pid = fields.next().and_then(|text| text.parse::<u32>().ok());
    // A name that is not ours to understand is not ours to remove.
    let (Some(start), Some(pid)) = (start, pid) else { return true };
    start_time(pid) == Some(start)
}

/// When a process started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_of_this_process_lives_and_one_of_an_earlier_process_of_this_pid_does_not() {
        let pid = std::process::id();
        let start = start_time(pid).unwrap();
        assert!(owner_lives(&format!("ping.{pid}.{start}.1")));
        assert!(!owner_lives(&format!("ping.{pid}.{}.1", start - 1)));
        assert!(owner_lives("somebody-elses"));
    }
}
