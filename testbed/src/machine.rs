//! A node booted with systemd: pid, mount and cgroup namespaces of its own inside the node's, with the real systemd as
//! first program, so that unit files can be tried as a host would run them. Its network is the node's.
//!
//! `/usr/local/bin`, `/etc/systemd/system`, `/dev` and `/var/tmp` are its own, on top of what a node has for itself; the rest
//! of the host's files is read-only. There is one cgroup hierarchy, version 2, whatever the host has.

use std::ffi::OsStr;
use std::fs;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, ensure};

use crate::node::Node;
use crate::place::binary;
use crate::poll::poll_result;
use crate::process::{Process, tail};

const DEADLINE: Duration = Duration::from_secs(60);

/// A booted machine. It ends with its node, or by [`Machine::power_off`].
#[derive(Debug)]
pub struct Machine {
    node: Node,
    console: Process,
    /// systemd's pid in the node's pid namespace.
    pid: String,
}

impl Machine {
    /// Boots, and waits until systemd has started what every service may rely on.
    ///
    /// # Errors
    /// When systemd is not installed or does not come up; the error holds what it wrote to its console.
    pub fn boot(node: &Node) -> Result<Self> {
        let cgroup = node.cgroup_path().join("machine");
        fs::create_dir_all(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        let mut command = node.command_below(&cgroup, "unshare")?;
        command.args(["--fork", "--kill-child", "--pid", "--mount", "--cgroup"]);
        command.arg(binary("lab-init")?).arg("boot");
        let console = node.spawn("systemd", command)?;
        let pid = poll_result(DEADLINE, "systemd's process", || first_child(console.pid()))?;
        let machine = Self { node: node.clone(), console, pid };
        let up = poll_result(DEADLINE, "systemd to be up", || {
            // One that has ended will not come up: waiting longer would only hide why.
            if let Some(end) = machine.console.try_wait()? {
                return Ok::<_, Error>(Err(anyhow!("systemd ended: {end}")));
            }
            machine.run(&["systemctl", "is-active", "lab.target"]).map(Ok)
        });
        up.and_then(|ended| ended)
            .with_context(|| format!("its console:\n{}", tail(&machine.console.log())))?;
        // The journal is the node's, and there when the machine is gone.
        let journal = ["journalctl", "--no-pager", "--directory", "/run/log/journal"];
        machine.node.on_failure("journal.txt", &journal);
        Ok(machine)
    }

    /// The node that it runs in.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Runs a command on the machine to its end, see [`Node::run`].
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        self.node.run(&self.inside(argv))
    }

    /// Like [`Machine::run`], but any exit code will do.
    ///
    /// # Errors
    /// As [`Node::run_unchecked`].
    pub fn run_unchecked(&self, argv: &[&str]) -> Result<Output> {
        self.node.run_unchecked(&self.inside(argv))
    }

    /// The standard output of [`Machine::run`] as text.
    ///
    /// # Errors
    /// As [`Node::text`].
    pub fn text(&self, argv: &[&str]) -> Result<String> {
        self.node.text(&self.inside(argv))
    }

    /// Shuts the machine down as `systemctl poweroff` does, and waits for its end.
    ///
    /// # Errors
    /// When it does not come to an end.
    pub fn power_off(&self) -> Result<()> {
        self.run(&["systemctl", "poweroff"])?;
        self.console.wait_exit(DEADLINE).map(drop)
    }

    fn inside<S: AsRef<OsStr>>(&self, argv: &[S]) -> Vec<String> {
        let enter = ["nsenter", "--target", &self.pid, "--pid", "--mount", "--cgroup"].map(str::to_owned);
        let words = argv.iter().map(|word| word.as_ref().to_string_lossy().into_owned());
        enter.into_iter().chain(words).collect()
    }
}

/// The pid of a process's only child, in the process's own pid namespace.
fn first_child(parent: u32) -> Result<String> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let child = children.split_whitespace().next().context("it has no child yet")?;
    let status = fs::read_to_string(format!("/proc/{child}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).context("no NSpid")?;
    let pids: Vec<&str> = line.split_whitespace().collect();
    // Last comes the number in the child's own namespace, which is 1; before it the one that its parent knows.
    ensure!(pids.last() == Some(&"1"), "{child} is not the first process of a pid namespace");
    pids.iter().rev().nth(1).map(|pid| (*pid).to_owned()).context("a pid in the node")
}
