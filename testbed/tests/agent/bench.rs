//! A node with an agent, and network namespaces that stand for pods.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use turnpike_agent_api::{
    AddReply, AddRequest, Attachment, CheckRequest, Client, ClientError, DEFAULT_SOCKET, DelRequest,
    ErrorReply, GcRequest, Health, IpamFinding, IpamReply, IpamRequest, PodInfo, Reply, Request,
    StatusReport,
};
use turnpike_testbed::{Lab, Node, Process, binary, poll_result};

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const CONFIG: &str = "/etc/turnpike/agent.toml";
const RESOURCES: &str = "/etc/turnpike/resources";
const STATE: &str = "/var/lib/turnpike";

/// A node with blocks of 64 addresses of each family.
const POOLS: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: IPPool
metadata: {name: v4}
spec: {cidr: 10.244.0.0/16}
---
apiVersion: turnpike.io/v1alpha1
kind: IPPool
metadata: {name: v6}
spec: {cidr: \"fd00:244::/48\"}
---
apiVersion: turnpike.io/v1alpha1
kind: IPBlock
metadata: {name: n1-v4}
spec: {cidr: 10.244.1.0/26, pool: v4, node: n1}
---
apiVersion: turnpike.io/v1alpha1
kind: IPBlock
metadata: {name: n1-v6}
spec: {cidr: \"fd00:244::100/122\", pool: v6, node: n1}
";

/// The node.
pub(crate) struct Bench {
    pub(crate) node: Node,
    /// The node's gateway; it knows nothing of pods.
    pub(crate) outside: Node,
    agent: Mutex<Process>,
}

impl Bench {
    /// A node with a running agent, whose released addresses rest for no time.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, "")
    }

    /// The same with more of agent.toml.
    pub(crate) fn start_with(lab: &Lab, more: &str) -> Result<Self> {
        let (node, outside) = (lab.node("n1")?, lab.node("outside")?);
        lab.link(&node, "eth0", &outside, "eth0")?;
        node.addr("eth0", "10.1.1.11/24")?;
        outside.addr("eth0", "10.1.1.1/24")?;
        node.route("default via 10.1.1.1")?;
        node.write_file(CONFIG, config(more))?;
        node.write_file(format!("{RESOURCES}/pools.yaml"), POOLS)?;
        let agent = launch(&node)?;
        let bench = Self { node, outside, agent: Mutex::new(agent) };
        bench.wait_ready()?;
        Ok(bench)
    }

    fn wait_ready(&self) -> Result<()> {
        poll_result(DEADLINE, "turnpike-agent to be ready", || match self.status()?.health {
            Health::Ready => Ok(()),
            Health::NotReady(reason) => bail!("{reason}"),
        })
    }

    /// SIGKILL, and the next agent at once.
    pub(crate) fn crash_and_restart(&self) -> Result<()> {
        self.crash()?;
        self.restart()
    }

    pub(crate) fn crash(&self) -> Result<()> {
        let agent = self.agent.lock().expect("nobody panicked with it");
        agent.kill(Signal::SIGKILL)?;
        agent.wait_exit(DEADLINE).map(drop)
    }

    pub(crate) fn restart(&self) -> Result<()> {
        self.restart_with(&[])
    }

    /// The next agent, with this in its environment, and in nobody else's on the way to it.
    pub(crate) fn restart_with(&self, environment: &[(&str, &str)]) -> Result<()> {
        let mut command = self.node.command("env")?;
        command.args(environment.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(binary("turnpike-agent")?).args(["--config", CONFIG]);
        let agent = self.node.spawn("turnpike-agent", command)?;
        *self.agent.lock().expect("nobody panicked with it") = agent;
        self.wait_ready()
    }

    /// What the agents have logged so far.
    pub(crate) fn log(&self) -> String {
        self.agent.lock().expect("nobody panicked with it").log()
    }

    /// What the next agent is configured with.
    pub(crate) fn configure(&self, more: &str) -> Result<()> {
        self.node.write_file(CONFIG, config(more))
    }

    /// Starts an agent that dies at a failpoint before it is ready.
    pub(crate) fn die_at(&self, failpoint: &str) -> Result<()> {
        let mut command = agent_command(&self.node)?;
        command.env("TURNPIKE_FAILPOINT", failpoint);
        let agent = self.node.spawn("turnpike-agent", command)?;
        agent.wait_exit(DEADLINE).map(drop)
    }

    /// Ends the agent, and starts it with another configuration.
    pub(crate) fn reconfigure(&self, more: &str) -> Result<()> {
        self.configure(more)?;
        self.agent.lock().expect("nobody panicked with it").stop()?;
        self.restart()
    }

    /// Ends the agent as an upgrade does, and starts another build of it.
    pub(crate) fn replace(&self, program: &Path) -> Result<()> {
        {
            let mut agent = self.agent.lock().expect("nobody panicked with it");
            agent.stop()?;
            let mut command = self.node.command(program)?;
            command.args(["--config", CONFIG]);
            *agent = self.node.spawn("turnpike-agent", command)?;
        }
        self.wait_ready()
    }

    /// The next agent, which will die at a failpoint.
    pub(crate) fn restart_armed(&self, failpoint: &str) -> Result<()> {
        self.restart_with(&[("TURNPIKE_FAILPOINT", failpoint)])
    }

    /// Stops every thread of the agent where it is; a system call under way ends first.
    pub(crate) fn stand_still(&self) -> Result<()> {
        let agent = self.agent.lock().expect("nobody panicked with it");
        agent.kill(Signal::SIGSTOP)?;
        poll_result(DEADLINE, "the agent to stand still", || {
            for task in std::fs::read_dir(format!("/proc/{}/task", agent.pid()))? {
                let status = std::fs::read_to_string(task?.path().join("status"))?;
                ensure!(status.lines().any(|line| line.starts_with("State:\tT")), "{status}");
            }
            Ok(())
        })
    }

    /// Waits for the agent to end by itself.
    pub(crate) fn wait_death(&self) -> Result<()> {
        self.agent.lock().expect("nobody panicked with it").wait_exit(DEADLINE).map(drop)
    }

    /// ADD, asked once; `None` when the agent died over it.
    pub(crate) fn try_add(&self, container: &str, netns: &str) -> Result<Option<AddReply>> {
        let request = Request::Add(Box::new(self.add_request(container, netns)));
        match self.ask_once(&request, Some(&format!("/run/netns/{netns}")))? {
            Some(Reply::Added(reply)) => Ok(Some(reply)),
            Some(other) => bail!("{other:?}"),
            None => Ok(None),
        }
    }

    /// DEL, asked once; false when the agent died over it.
    pub(crate) fn try_del(&self, container: &str) -> Result<bool> {
        let request = DelRequest { attachment: attachment(container), network: "turnpike".to_owned() };
        match self.ask_once(&Request::Del(request), None)? {
            Some(reply) => Ok(expect_done(reply).map(|()| true)?),
            None => Ok(false),
        }
    }

    fn ask_once(&self, request: &Request, netns: Option<&str>) -> Result<Option<Reply>> {
        let netns =
            netns.map(|path| File::open(self.node.path(path)?).context("the namespace")).transpose()?;
        let files: Vec<_> = netns.iter().map(AsFd::as_fd).collect();
        let socket = self.node.path(DEFAULT_SOCKET)?;
        match Client::connect(&socket).and_then(|client| client.request(request, &files, DEADLINE)) {
            Ok(reply) => Ok(Some(reply)),
            Err(ClientError::Unreachable { .. } | ClientError::NoAnswer(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the agent finds when it compares its books, its disk and the kernel.
    pub(crate) fn ipam_check(&self) -> Result<Vec<IpamFinding>> {
        match self.ask(&Request::Ipam(IpamRequest::Check), None)? {
            Reply::Ipam(reply) => match *reply {
                IpamReply::Findings { findings, .. } => Ok(findings),
                other => bail!("{other:?}"),
            },
            other => bail!("{other:?}"),
        }
    }

    /// Makes the network namespace of a pod.
    pub(crate) fn netns(&self, name: &str) -> Result<()> {
        self.node.run(&["ip", "netns", "add", name])?;
        Ok(())
    }

    /// Something run inside a pod's namespace.
    pub(crate) fn inside(&self, netns: &str, argv: &[&str]) -> Result<String> {
        let mut all = vec!["ip", "netns", "exec", netns];
        all.extend(argv);
        self.node.text(&all)
    }

    pub(crate) fn set_resource(&self, file: &str, yaml: &str) -> Result<()> {
        self.node.write_file(format!("{RESOURCES}/{file}"), yaml)
    }

    pub(crate) fn resource(&self, file: &str) -> Result<String> {
        self.node.read_file(format!("{RESOURCES}/{file}"))
    }

    /// Files of the agent's books.
    pub(crate) fn records(&self) -> Result<Vec<PathBuf>> {
        let folder = self.node.path(format!("{STATE}/pods"))?;
        let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    pub(crate) fn add_request(&self, container: &str, netns: &str) -> AddRequest {
        AddRequest {
            attachment: attachment(container),
            network: "turnpike".to_owned(),
            netns_path: format!("/run/netns/{netns}"),
            pod: PodInfo::default(),
            bandwidth: None,
            annotations: std::collections::BTreeMap::new(),
            cgroup_path: None,
            port_mappings: Vec::new(),
            ips: Vec::new(),
            mac: None,
        }
    }

    /// ADD, asked until some agent answers, as turnpike-cni does.
    pub(crate) fn add(&self, request: AddRequest) -> Result<Result<AddReply, ErrorReply>> {
        let netns = Some(request.netns_path.clone());
        match self.ask(&Request::Add(Box::new(request)), netns.as_deref())? {
            Reply::Added(reply) => Ok(Ok(reply)),
            Reply::Error(error) => Ok(Err(error)),
            other => bail!("{other:?}"),
        }
    }

    /// ADD without wishes, which has to succeed.
    pub(crate) fn attach(&self, container: &str, netns: &str) -> Result<AddReply> {
        Ok(self.add(self.add_request(container, netns))??)
    }

    pub(crate) fn del(&self, container: &str) -> Result<()> {
        let request = DelRequest { attachment: attachment(container), network: "turnpike".to_owned() };
        expect_done(self.ask(&Request::Del(request), None)?)?;
        Ok(())
    }

    pub(crate) fn check(&self, container: &str, netns: &str) -> Result<Result<(), ErrorReply>> {
        let request = CheckRequest { attachment: attachment(container), addresses: Vec::new() };
        let reply = self.ask(&Request::Check(request), Some(&format!("/run/netns/{netns}")))?;
        Ok(match reply {
            Reply::Error(error) => Err(error),
            other => Ok(expect_done(other)?),
        })
    }

    pub(crate) fn gc(&self, valid: &[&str]) -> Result<()> {
        let valid = valid.iter().map(|container| attachment(container)).collect();
        let request = GcRequest { network: "turnpike".to_owned(), valid };
        Ok(expect_done(self.ask(&Request::Gc(request), None)?)?)
    }

    pub(crate) fn status(&self) -> Result<StatusReport> {
        let client = Client::connect(&self.node.path(DEFAULT_SOCKET)?)?;
        match client.request(&Request::Status, &[], DEADLINE)? {
            Reply::Status(report) => Ok(*report),
            other => bail!("{other:?}"),
        }
    }

    pub(crate) fn wait_status<T>(
        &self,
        what: &str,
        wanted: impl Fn(&StatusReport) -> Result<T>,
    ) -> Result<T> {
        poll_result(DEADLINE, what, || wanted(&self.status()?))
    }

    /// No pod is known, no address in use, and no link of ours there.
    pub(crate) fn wait_all_free(&self) -> Result<()> {
        self.wait_status("everything to be free", |status| {
            let used: u64 = status.blocks.iter().map(|block| block.used).sum();
            ensure!(used == 0 && status.pods.is_empty(), "{used} in use by {:?}", status.pods);
            let links = self.links()?;
            ensure!(links.is_empty(), "links are left: {links:?}");
            Ok(())
        })
    }

    /// No link of ours is there any more.
    pub(crate) fn wait_no_links(&self) -> Result<()> {
        self.wait_no_links_but(0)
    }

    /// So many links of ours are there.
    pub(crate) fn wait_no_links_but(&self, count: usize) -> Result<()> {
        self.wait_status("links to go", |_| {
            let links = self.links()?;
            ensure!(links.len() == count, "links are left: {links:?}");
            Ok(())
        })
    }

    /// Links of ours on the node.
    pub(crate) fn links(&self) -> Result<Vec<String>> {
        let links = self.node.links()?;
        Ok(links.into_iter().filter(|name| name.starts_with("tpk")).collect())
    }

    fn ask(&self, request: &Request, netns: Option<&str>) -> Result<Reply> {
        let socket = self.node.path(DEFAULT_SOCKET)?;
        let netns = match netns {
            Some(path) => Some(File::open(self.node.path(path)?).with_context(|| path.to_owned())?),
            None => None,
        };
        let files: Vec<_> = netns.iter().map(AsFd::as_fd).collect();
        let deadline = Instant::now() + DEADLINE;
        loop {
            match Client::connect(&socket).and_then(|client| client.request(request, &files, DEADLINE)) {
                Ok(reply) => return Ok(reply),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

fn config(more: &str) -> String {
    let bgpd = if more.contains("[bgpd]") { "" } else { "[bgpd]\nenabled = false\n" };
    let ipam = if more.contains("[ipam]") { "" } else { "[ipam]\ncooldown_seconds = 0\n" };
    format!("[node]\nname = \"n1\"\n{ipam}{bgpd}{more}")
}

fn launch(node: &Node) -> Result<Process> {
    node.spawn("turnpike-agent", agent_command(node)?)
}

fn agent_command(node: &Node) -> Result<Command> {
    let mut command = node.command(binary("turnpike-agent")?)?;
    command.args(["--config", CONFIG]);
    Ok(command)
}

fn attachment(container: &str) -> Attachment {
    Attachment { container_id: container.to_owned(), ifname: "eth0".to_owned() }
}

fn expect_done(reply: Reply) -> Result<(), ErrorReply> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Error(error) => Err(error),
        other => Err(ErrorReply::new(0, format!("{other:?}"))),
    }
}
