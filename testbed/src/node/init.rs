//! The life of a node's pid 1, the program `lab-init`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, unshare};

use super::on_thread;
use crate::leak::Held;
use crate::place::{binary, visible_folders};
use crate::poll::poll;

const END_DEADLINE: Duration = Duration::from_secs(10);

pub(super) struct Init {
    child: Child,
    /// The node lives as long as the other end can be read without end of file.
    lifeline: ChildStdin,
    pub(super) net: OwnedFd,
    pub(super) pids: OwnedFd,
}

impl Init {
    pub(super) fn start(name: &str, log: &Path, cgroup: &Path) -> Result<Self> {
        let mut command = Command::new(binary("lab-init")?);
        command.arg("init").arg(name).arg(cgroup).args(visible_folders()?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(log)?);
        let mut child = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWPID).context("make a pid namespace (the lab needs root)")?;
            command.spawn().context("start lab-init")
        })?;
        let lifeline = child.stdin.take().context("stdin of lab-init")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout of lab-init")?).read_line(&mut line)?;
        if line != "ready\n" {
            drop(lifeline);
            child.wait()?;
            bail!("{}", fs::read_to_string(log).unwrap_or_default().trim_end());
        }
        let folder = format!("/proc/{}/ns", child.id());
        let net = File::open(format!("{folder}/net"))?.into();
        let pids = File::open(format!("{folder}/pid"))?.into();
        Ok(Self { child, lifeline, net, pids })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Holds its namespaces, for as long as their numbers must not be given to others.
    pub(super) fn hold(&self, node: &str) -> Result<Vec<Held>> {
        ["net", "mnt", "pid", "uts", "ipc"]
            .into_iter()
            .map(|kind| Held::open(node, kind, self.pid()))
            .collect()
    }

    pub(super) fn stop(self) -> Result<()> {
        let Self { mut child, lifeline, net, pids } = self;
        drop((lifeline, net, pids));
        let ended = poll(END_DEADLINE, "the end of its pid 1", || child.try_wait().ok().flatten());
        if ended.is_err() {
            child.kill()?;
            poll(END_DEADLINE, "the end of its killed pid 1", || child.try_wait().ok().flatten())?;
        }
        Ok(())
    }
}
