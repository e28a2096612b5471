//! A running pod: a guard on its sandbox, its addresses, and ways to look and act inside it.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::spec::{ContainerSpec, PodSpec};
use super::{Containerd, pods_cgroup};
use crate::cri::{ExecOutput, v1};
use crate::node::Node;
use crate::place;
use crate::process::Process;

/// How long [`Pod::exec`] lets a command run.
const EXEC_DEADLINE: Duration = Duration::from_secs(60);

/// How long the steps of a pod's start took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodTimings {
    /// RunPodSandbox: namespaces, CNI ADD, the pause container.
    pub sandbox: Duration,
    /// Create and start of all containers.
    pub containers: Duration,
}

/// How long the steps of a pod's end took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveTimings {
    /// The first StopPodSandbox: containers killed, CNI DEL.
    pub stop: Duration,
    /// The second StopPodSandbox, and RemovePodSandbox.
    pub remove: Duration,
}

/// A pod. Dropping it removes it, without looking at the outcome: a test that cares calls [`Pod::remove`].
#[derive(Debug)]
pub struct Pod {
    containerd: Containerd,
    spec: PodSpec,
    sandbox: String,
    /// IDs in the order of the spec's containers.
    containers: Vec<String>,
    ips: Vec<IpAddr>,
    /// The runtime's details about the sandbox, once it runs.
    info: Value,
    timings: PodTimings,
    removed: bool,
}

impl Pod {
    pub(super) fn run(containerd: Containerd, spec: PodSpec) -> Result<Self> {
        for container in &spec.containers {
            containerd.import(container.image)?;
        }
        let config = spec.sandbox_config(cgroup_of(containerd.node(), &spec));
        let start = Instant::now();
        let sandbox = containerd
            .cri()
            .run_pod_sandbox(config.clone())
            .with_context(|| {
                format!("start pod {}/{} on {}", spec.namespace, spec.name, containerd.node().name())
            })
            .inspect_err(|_| remove_refused(&containerd, &spec))?;
        let mut pod = Self {
            timings: PodTimings { sandbox: start.elapsed(), containers: Duration::ZERO },
            containerd,
            spec,
            sandbox,
            containers: Vec::new(),
            ips: Vec::new(),
            info: Value::Null,
            removed: false,
        };
        let (status, info) = pod.containerd.cri().pod_sandbox_status(&pod.sandbox)?;
        pod.ips = addresses(&status)?;
        pod.info = serde_json::from_str(&info).context("the runtime's details of the sandbox")?;
        let start = Instant::now();
        for container in pod.spec.containers.clone() {
            pod.start_container(&container, &config)
                .with_context(|| format!("start container {} of pod {}", container.name, pod.spec.name))?;
        }
        pod.timings.containers = start.elapsed();
        Ok(pod)
    }

    fn start_container(&mut self, container: &ContainerSpec, sandbox: &v1::PodSandboxConfig) -> Result<()> {
        let cri = self.containerd.cri();
        let config = self.spec.container_config(container);
        let id = cri.create_container(&self.sandbox, config, sandbox.clone())?;
        cri.start_container(&id)?;
        self.containers.push(id);
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it was asked to be.
    #[must_use]
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// The node that it runs on.
    #[must_use]
    pub fn node(&self) -> &Node {
        self.containerd.node()
    }

    /// The runtime's ID of its sandbox, which CNI calls the container ID.
    #[must_use]
    pub fn sandbox_id(&self) -> &str {
        &self.sandbox
    }

    /// The runtime's ID of its first container.
    ///
    /// # Errors
    /// When it has none.
    pub fn container_id(&self) -> Result<&str> {
        self.containers.first().map(String::as_str).context("the pod has no container")
    }

    /// Its addresses as the runtime reports them, the first is the one that the kubelet takes.
    #[must_use]
    pub fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// Its IPv4 address.
    ///
    /// # Errors
    /// When it has none.
    pub fn ipv4(&self) -> Result<IpAddr> {
        self.ips.iter().copied().find(IpAddr::is_ipv4).context("the pod has no IPv4 address")
    }

    /// Its IPv6 address.
    ///
    /// # Errors
    /// When it has none.
    pub fn ipv6(&self) -> Result<IpAddr> {
        self.ips.iter().copied().find(IpAddr::is_ipv6).context("the pod has no IPv6 address")
    }

    /// How long its start took.
    #[must_use]
    pub fn timings(&self) -> PodTimings {
        self.timings
    }

    /// The CNI result as the runtime keeps it, in its own spelling.
    #[must_use]
    pub fn cni_result(&self) -> &Value {
        self.info.get("cniResult").unwrap_or(&Value::Null)
    }

    /// Runs a command in its first container to the end, for at most a minute, and gives its standard output.
    ///
    /// # Errors
    /// When it cannot be run, or exits with anything but 0; the error holds its output.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        let output = self.exec_unchecked(command, EXEC_DEADLINE)?;
        ensure!(
            output.success(),
            "`{}` in pod {}: exit code {}\n{}{}",
            command.join(" "),
            self.spec.name,
            output.exit_code,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Like [`Pod::exec`] with a deadline, and any exit code will do.
    ///
    /// # Errors
    /// When it cannot be run, or still ran at the deadline and was killed.
    pub fn exec_unchecked(&self, command: &[&str], deadline: Duration) -> Result<ExecOutput> {
        self.containerd
            .cri()
            .exec(self.container_id()?, command, deadline)
            .with_context(|| format!("`{}` in pod {}", command.join(" "), self.spec.name))
    }

    /// What the container of this name has written to stdout and stderr, in the runtime's log format.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn log(&self, container: &str) -> Result<String> {
        self.node().read_file(Path::new(&self.spec.log_directory()).join(container).join("0.log"))
    }

    /// Its network namespace, as the node sees it: `/var/run/netns/cni-…`.
    ///
    /// # Errors
    /// When the runtime's details do not name it.
    pub fn netns_path(&self) -> Result<PathBuf> {
        let namespaces = self.info.pointer("/runtimeSpec/linux/namespaces").and_then(Value::as_array);
        let network = namespaces.into_iter().flatten().find(|namespace| namespace["type"] == "network");
        let path = network.and_then(|namespace| namespace["path"].as_str());
        path.map(PathBuf::from).context("the runtime does not name the pod's network namespace")
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// When it is gone.
    pub fn netns(&self) -> Result<OwnedFd> {
        let path = self.node().path(self.netns_path()?)?;
        Ok(File::open(&path).with_context(|| format!("open {}", path.display()))?.into())
    }

    /// Runs a closure on a fresh thread in its network namespace; sockets opened there stay there.
    ///
    /// # Errors
    /// When the namespace is gone or cannot be joined.
    pub fn in_netns<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let netns = self.netns()?;
        let inside = move || {
            setns(netns, CloneFlags::CLONE_NEWNET).context("join the pod's network namespace")?;
            Ok(work())
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// A command of the node that will run in the pod's network namespace, but in none of its other namespaces nor
    /// in its cgroup: for tools that the image lacks. Start it with [`Node::spawn`] or [`Pod::spawn`].
    ///
    /// # Errors
    /// When the namespace is not known.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = self.node().command("nsenter")?;
        command.arg(format!("--net={}", self.netns_path()?.display())).arg("--").arg(program);
        Ok(command)
    }

    /// Starts a program of the node in the pod's network namespace, see [`Pod::command`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, name: &str, argv: &[&str]) -> Result<Process> {
        let (program, args) = argv.split_first().context("an empty command")?;
        let mut command = self.command(program)?;
        command.args(args);
        self.node().spawn(name, command)
    }

    /// The pid of its pause container, in the node's pid namespace.
    ///
    /// # Errors
    /// When the runtime's details do not say.
    pub fn pid(&self) -> Result<u32> {
        let pid = self.info.get("pid").and_then(Value::as_u64).context("the runtime does not say the pid")?;
        Ok(u32::try_from(pid)?)
    }

    /// Its cgroup, as a path from the root of any hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        cgroup_of(self.node(), &self.spec)
    }

    /// One StopPodSandbox: its containers are killed and its network is taken away, its record stays.
    ///
    /// # Errors
    /// When the runtime or a CNI plugin refuses.
    pub fn stop(&self) -> Result<()> {
        let cri = self.containerd.cri();
        cri.stop_pod_sandbox(&self.sandbox).with_context(|| format!("stop pod {}", self.spec.name))
    }

    /// Ends it as the kubelet does: StopPodSandbox, the same again (from the kubelet's garbage collection), then
    /// RemovePodSandbox. Can be tried again when it failed.
    ///
    /// # Errors
    /// When the runtime or a CNI plugin refuses.
    pub fn remove(&mut self) -> Result<RemoveTimings> {
        let start = Instant::now();
        self.stop()?;
        let stopped = start.elapsed();
        self.stop()?;
        let cri = self.containerd.cri();
        cri.remove_pod_sandbox(&self.sandbox).with_context(|| format!("remove pod {}", self.spec.name))?;
        remove_cgroups(&self.cgroup());
        self.removed = true;
        Ok(RemoveTimings { stop: stopped, remove: start.elapsed().saturating_sub(stopped) })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = self.remove()
        {
            eprintln!("pod {} could not be removed: {error:#}", self.spec.name);
        }
    }
}

/// The runtime keeps the record of a sandbox whose network could neither be made nor taken away again, for the kubelet
/// to find and to end. What cannot be removed goes with the node; the caller hears of the first error.
fn remove_refused(containerd: &Containerd, spec: &PodSpec) {
    let cri = containerd.cri();
    for sandbox in cri.pod_sandboxes().unwrap_or_default() {
        if sandbox.metadata.is_some_and(|metadata| metadata.uid == spec.uid) {
            let _ = cri.stop_pod_sandbox(&sandbox.id).and_then(|()| cri.remove_pod_sandbox(&sandbox.id));
        }
    }
    remove_cgroups(&cgroup_of(containerd.node(), spec));
}

fn cgroup_of(node: &Node, spec: &PodSpec) -> String {
    format!("{}/pod{}", pods_cgroup(node), spec.uid)
}

/// The runtime removes the cgroups of its containers; the pod's own is the kubelet's to remove. A folder that is
/// still in use stays, and goes with the node.
fn remove_cgroups(cgroup: &str) {
    for root in place::cgroup_roots().unwrap_or_default() {
        let _ = fs::remove_dir(root.join(cgroup.trim_start_matches('/')));
    }
}

fn addresses(status: &v1::PodSandboxStatus) -> Result<Vec<IpAddr>> {
    let network = status.network.as_ref().context("the sandbox has no network")?;
    let texts = [&network.ip].into_iter().chain(network.additional_ips.iter().map(|more| &more.ip));
    texts
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().with_context(|| format!("the sandbox's address {text:?}")))
        .collect()
}
