//! What a lab may leave behind on the host, and how it is recognised as the lab's own.
//!
//! Links and pins: new since the lab began, since nothing of ours makes any on the host itself. Processes, mounts and open
//! files: those that hold one of the lab's namespaces besides the guard itself, which holds them while it looks because the
//! kernel gives the number of a namespace that is gone to the next one. Cgroups: those below the lab's own (see `lab/cgroup.rs`).
//! "The host" means the namespaces of the thread that calls: a test of this guard plants its leaks in namespaces
//! of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nameindex;

use crate::place::mounts;
use crate::poll::poll_result;

/// How long the kernel may take to let go of what a lab had (namespaces are torn down after their last process).
const GRACE: Duration = Duration::from_secs(3);

/// Folders of the host in which a new mount can only be ours, when it is made while a lab runs.
const TELLING_FOLDERS: [&str; 5] =
    ["/run/netns", "/run/containerd", "/var/lib/containerd", "/var/lib/kubelet", "/sys/fs/bpf"];

/// Something that outlived its lab.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leak {
    /// A network interface on the host.
    Link(String),
    /// A mount on the host.
    Mount(PathBuf),
    /// A pinned BPF object (or a folder of pins) in a bpffs of the host.
    Pin(PathBuf),
    /// A process in a namespace of a node.
    Process {
        /// Its pid on the host.
        pid: u32,
        /// Its name.
        name: String,
        /// How it holds the namespace: a path below `/proc/PID`.
        through: String,
        /// The node and the kind of namespace.
        namespace: String,
    },
    /// A cgroup that cannot be removed, with the processes in it.
    Cgroup(String),
    /// A node that did not end, with the reason.
    Unstoppable(String),
    /// The host could not be looked at, with the reason: nothing passes unseen.
    Unknown(String),
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link {name} on the host"),
            Self::Mount(path) => write!(f, "mount {} on the host", path.display()),
            Self::Pin(path) => write!(f, "BPF pin {}", path.display()),
            Self::Process { pid, name, through, namespace } => {
                write!(f, "process {pid} ({name}) holds the {namespace} through {through}")
            }
            Self::Cgroup(what) => write!(f, "cgroup {what}"),
            Self::Unstoppable(reason) => write!(f, "node: {reason}"),
            Self::Unknown(reason) => write!(f, "unknown: {reason}"),
        }
    }
}

/// The host as it was when a lab began.
pub(crate) struct Host {
    links: BTreeSet<(u32, String)>,
    mounts: BTreeSet<PathBuf>,
    pins: BTreeSet<PathBuf>,
}

impl Host {
    pub(crate) fn look() -> Result<Self> {
        let all = mounts()?;
        let pins = all
            .iter()
            .filter(|mount| mount.kind == "bpf")
            .flat_map(|mount| pins_below(&mount.point))
            .collect();
        let telling = |path: &Path| TELLING_FOLDERS.iter().any(|folder| path.starts_with(folder));
        let mounts = all.into_iter().map(|mount| mount.point).filter(|point| telling(point)).collect();
        Ok(Self { links: links()?, mounts, pins })
    }

    /// What is there now that was not when `self` was taken, or that holds one of these namespaces too.
    /// What the kernel is still about to remove gets a few seconds.
    pub(crate) fn leaks(&self, held: Vec<Held>) -> Vec<Leak> {
        awaited("the host to be as before", || {
            let mut found = self.new_things()?;
            found.extend(holders(&held)?);
            Ok(found)
        })
    }

    fn new_things(&self) -> Result<Vec<Leak>> {
        let now = Self::look()?;
        let links = now.links.difference(&self.links).map(|(_, name)| Leak::Link(name.clone()));
        let mounts = now.mounts.difference(&self.mounts).cloned().map(Leak::Mount);
        let pins = now.pins.difference(&self.pins).cloned().map(Leak::Pin);
        Ok(links.chain(mounts).chain(pins).collect())
    }
}

/// A namespace of an ended node that this guard holds.
pub(crate) struct Held {
    file: File,
    /// As the kernel shows it wherever it is held: `net:[4026531840]`.
    target: String,
    /// For people.
    name: String,
}

impl Held {
    pub(crate) fn open(node: &str, kind: &str, pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/{kind}");
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        let target = format!("{kind}:[{}]", file.metadata()?.ino());
        Ok(Self { file, target, name: format!("{kind} namespace of node {node}") })
    }
}

/// Lets go of namespaces when nobody else holds them, and says who does after a few seconds.
pub(crate) fn released(held: Vec<Held>) -> Vec<Leak> {
    awaited("the namespaces to be free", || holders(&held))
}

fn awaited(what: &str, look: impl Fn() -> Result<Vec<Leak>>) -> Vec<Leak> {
    let mut last = Vec::new();
    let clean = poll_result(GRACE, what, || {
        last = look().unwrap_or_else(|error| vec![Leak::Unknown(format!("{error:#}"))]);
        if last.is_empty() { Ok(()) } else { Err("they are not") }
    });
    if clean.is_ok() { Vec::new() } else { last }
}

fn links() -> Result<BTreeSet<(u32, String)>> {
    let all = if_nameindex().context("list links")?;
    Ok(all.iter().map(|link| (link.index(), link.name().to_string_lossy().into_owned())).collect())
}

fn pins_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        // The kernel's own files at the root of every bpffs.
        if path.ends_with("maps.debug") || path.ends_with("progs.debug") {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(pins_below(&path));
        }
        found.push(path);
    }
    found
}

/// Who else holds these namespaces: mounts, and processes that are in them or have them open.
fn holders(held: &[Held]) -> Result<Vec<Leak>> {
    let bound = |root: &str| held.iter().any(|namespace| namespace.target == root);
    let mut found: Vec<Leak> = mounts()?
        .into_iter()
        .filter(|mount| bound(&mount.root))
        .map(|mount| Leak::Mount(mount.point))
        .collect();
    for entry in fs::read_dir("/proc").context("read /proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|text| text.parse::<u32>().ok()) else { continue };
        found.extend(holding(held, pid));
    }
    Ok(found)
}

fn holding(held: &[Held], pid: u32) -> Option<Leak> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let mut folders = vec![process.join("ns"), process.join("fd")];
    let mut ours = Vec::new();
    if pid == std::process::id() {
        // A thread of this program that joined a namespace. Others are single-minded enough.
        folders.extend(fs::read_dir(process.join("task")).ok()?.flatten().map(|task| task.path().join("ns")));
        ours.extend(
            held.iter().map(|namespace| process.join("fd").join(namespace.file.as_raw_fd().to_string())),
        );
    }
    let links = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    links.map(|entry| entry.path()).filter(|path| !ours.contains(path)).find_map(|path| {
        let target = fs::read_link(&path).ok()?;
        let namespace = held.iter().find(|namespace| target.as_os_str() == namespace.target.as_str())?;
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
        Some(Leak::Process {
            pid,
            name,
            through: path.display().to_string(),
            namespace: namespace.name.clone(),
        })
    })
}
