//! The lab: the owner of nodes and of the folder that keeps what a failure needs, and the guard at the end.

mod cgroup;
mod diagnosis;
mod keep;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};

use self::cgroup::Cgroups;
use crate::leak::{Host, Leak};
use crate::link::Link;
use crate::node::Node;
use crate::place::labs_folder;

/// A set of nodes on this machine, sharing its kernel and nothing else with it or with other labs.
///
/// End a test with [`Lab::finish`]. A lab that is dropped without it counts as failed: logs, captures and the state of
/// every node stay in [`Lab::folder`], and the folder is named on stderr. Either way the nodes end, and whatever
/// escaped from them is an error: returned by `finish`, a panic on drop (unless the thread panics already).
pub struct Lab {
    name: String,
    folder: PathBuf,
    cgroups: Cgroups,
    host: Host,
    nodes: Mutex<Vec<Node>>,
    finished: bool,
}

impl Lab {
    /// Begins a lab. The name is for people: any number of labs of one name may run at a time.
    ///
    /// What killed runs left behind is removed where that is safe, and named on stderr.
    ///
    /// # Errors
    /// Without root, or without a place to write to.
    pub fn new(name: &str) -> Result<Self> {
        check_name(name)?;
        ensure!(nix::unistd::geteuid().is_root(), "a lab needs root: run the tests with sudo");
        for line in cgroup::sweep()? {
            eprintln!("lab {name}: {line}");
        }
        let folder = new_folder(&labs_folder()?, name)?;
        let host = Host::look().context("look at the host")?;
        let cgroups = Cgroups::new(name, next_number())?;
        Ok(Self { name: name.to_owned(), folder, cgroups, host, nodes: Mutex::default(), finished: false })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of this lab, removed by [`Lab::finish`] when all is well; one subfolder per node.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a node. Its name is also its host name.
    ///
    /// # Errors
    /// When the name is taken or unfit, or the namespaces cannot be made.
    pub fn node(&self, name: &str) -> Result<Node> {
        check_name(name)?;
        ensure!(self.nodes().iter().all(|node| node.name() != name), "there is a node {name} already");
        let cgroup = self.cgroups.make(name)?;
        let node = Node::start(name, &self.folder.join(name), cgroup, self.cgroups.v2_root())?;
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(node.clone());
        Ok(node)
    }

    /// Connects two nodes (or one with itself) by a veth pair with these interface names, both ends up.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn link(&self, a: &Node, a_interface: &str, b: &Node, b_interface: &str) -> Result<Link> {
        Link::create(a, a_interface, b, b_interface)
    }

    /// The nodes so far, in the order of their making.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the state of every node (links, addresses, routes, nftables, BPF pins, processes, what
    /// [`Node::on_failure`] asked for) into the folder.
    pub fn diagnose(&self) {
        for node in self.nodes() {
            diagnosis::collect(&node);
        }
    }

    /// Ends the lab after a success: stops the nodes and asserts that nothing is left of them.
    /// With `TURNPIKE_LAB_KEEP=1` it first leaves the lab up until it is told to go on: processes that shall be looked at
    /// must not have been dropped before. Dropping them afterwards is fine.
    ///
    /// # Errors
    /// When something is left behind; the folder is kept then.
    pub fn finish(mut self) -> Result<()> {
        self.finished = true;
        keep::wait_if_asked(&self);
        let left = self.end();
        if left.is_empty() {
            fs::remove_dir_all(&self.folder).with_context(|| format!("remove {}", self.folder.display()))?;
            return Ok(());
        }
        bail!("{}", self.report(&left))
    }

    fn end(&self) -> Vec<Leak> {
        let (mut left, mut held) = (Vec::new(), Vec::new());
        for node in self.nodes() {
            left.extend(node.leaks());
            match node.end() {
                Ok(namespaces) => held.extend(namespaces),
                Err(error) => left.push(Leak::Unstoppable(format!("{error:#}"))),
            }
        }
        left.extend(self.host.leaks(held));
        left.extend(self.cgroups.remove().into_iter().map(Leak::Cgroup));
        left
    }

    fn report(&self, left: &[Leak]) -> String {
        let lines: Vec<String> = left.iter().map(|leak| format!("\n  {leak}")).collect();
        let text = format!("lab {} left something behind:{}", self.name, lines.concat());
        if let Err(error) = fs::write(self.folder.join("leaks.txt"), &text) {
            eprintln!("cannot write leaks.txt: {error}");
        }
        format!("{text}\nsee {}", self.folder.display())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.diagnose();
        eprintln!("lab {} did not finish: logs and state are in {}", self.name, self.folder.display());
        keep::wait_if_asked(self);
        let left = self.end();
        if left.is_empty() {
            return;
        }
        let report = self.report(&left);
        if thread::panicking() {
            eprintln!("{report}");
        } else {
            #[expect(clippy::panic, reason = "a guard that only wrote a line would let a leak pass")]
            {
                panic!("{report}");
            }
        }
    }
}

impl std::fmt::Debug for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lab").field("name", &self.name).field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Names become host names, folders and cgroups.
fn check_name(name: &str) -> Result<()> {
    let fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    ensure!(
        !name.is_empty() && name.len() <= 40 && name.chars().all(fit),
        "{name:?} is no name for a lab or a node: use a-z, 0-9, - and _"
    );
    Ok(())
}

/// Makes the first of `<name>-1`, `<name>-2`, … that is not there yet.
fn new_folder(parent: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    for number in 1..u32::MAX {
        let folder = parent.join(format!("{name}-{number}"));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("make {}", folder.display())),
        }
    }
    bail!("{} is full", parent.display())
}

fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
