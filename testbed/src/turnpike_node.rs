//! A lab node as a user would install it in standalone mode: turnpike-agent with a folder of resources, turnpike-bgpd
//! where asked for, and containerd whose pods get their network from turnpike-cni.
//!
//! Owns the three processes and their configuration files; [`crate::containerd`] and [`crate::process`] do the work.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use turnpike_agent_api::{Client, DEFAULT_SOCKET, Health, PodStatus, Reply, Request, StatusReport};

use crate::containerd::{CniNetwork, Containerd, Pod, PodSpec, RuntimeConfig};
use crate::images::Image;
use crate::node::Node;
use crate::place::binary;
use crate::poll::poll_result;
use crate::process::Process;

/// The agent's configuration file in a node.
pub const AGENT_CONFIG: &str = "/etc/turnpike/agent.toml";
/// The folder of resources in a node.
pub const RESOURCES: &str = "/etc/turnpike/resources";
/// bgpd's configuration file in a node.
pub const BGPD_CONFIG: &str = "/etc/turnpike/bgpd.toml";

const DEADLINE: Duration = Duration::from_secs(30);

/// What runs on a node, and with what.
#[derive(Debug, Clone, Default)]
pub struct TurnpikeConfig {
    /// YAML files of the resources folder, by file name.
    pub resources: BTreeMap<String, String>,
    /// The text of bgpd.toml; `None` runs no bgpd.
    pub bgpd: Option<String>,
    /// Labels of the node, which resources select by.
    pub labels: BTreeMap<String, String>,
    /// Sections of agent.toml; each of their fields goes before the node's own choice.
    pub agent: toml::Table,
    /// Environment of the first agent that is started, such as a failpoint; later ones have none.
    pub agent_env: Vec<(String, String)>,
    /// Images to import at the start.
    pub images: Vec<Image>,
}

impl TurnpikeConfig {
    /// With one resource file.
    #[must_use]
    pub fn with_resource(mut self, file: &str, yaml: &str) -> Self {
        self.resources.insert(file.to_owned(), yaml.to_owned());
        self
    }

    /// With a dual-stack pair of pools and this node's block of each.
    #[must_use]
    pub fn with_blocks(self, node: &str, v4: (&str, &str), v6: (&str, &str)) -> Self {
        let of_family = |(pool, (range, block)): (&str, (&str, &str))| {
            format!(
                "---\napiVersion: turnpike.io/v1alpha1\nkind: IPPool\nmetadata: {{ name: {pool} }}\n\
                 spec: {{ cidr: \"{range}\" }}\n\
                 ---\napiVersion: turnpike.io/v1alpha1\nkind: IPBlock\nmetadata: {{ name: {pool}-{node} }}\n\
                 spec: {{ cidr: \"{block}\", pool: {pool}, node: {node} }}\n"
            )
        };
        let yaml: String = [("pods-v4", v4), ("pods-v6", v6)].into_iter().map(of_family).collect();
        self.with_resource("pools.yaml", &yaml)
    }
}

/// A node on which Turnpike runs. Its processes end with it, or with the node.
#[derive(Debug)]
pub struct TurnpikeNode {
    node: Node,
    containerd: Containerd,
    agent: Mutex<Process>,
    bgpd: Option<Mutex<Process>>,
}

impl TurnpikeNode {
    /// Writes the configuration, starts bgpd, the agent and containerd, and waits until pods can be started.
    ///
    /// # Errors
    /// When a program is not built, or does not become ready within half a minute; the error says why it thinks so.
    pub fn start(node: &Node, config: &TurnpikeConfig) -> Result<Self> {
        for (file, yaml) in &config.resources {
            node.write_file(Path::new(RESOURCES).join(file), yaml)?;
        }
        node.run(&["mkdir", "-p", RESOURCES])?;
        // The agent attaches its socket hooks here at its start; the runtime would make it with the first pod.
        let pods = node.cgroup_path().join("pods");
        fs::create_dir_all(&pods).with_context(|| format!("make {}", pods.display()))?;
        node.write_file(AGENT_CONFIG, agent_toml(node, config).to_string())?;
        let bgpd = match &config.bgpd {
            Some(text) => {
                node.write_file(BGPD_CONFIG, text)?;
                Some(Mutex::new(launch_bgpd(node)?))
            }
            None => None,
        };
        let agent = launch_agent(node, &config.agent_env)?;
        wait_agent_ready(node, &agent)?;
        let mut runtime = RuntimeConfig::new(CniNetwork::turnpike(Some(conflist()))?);
        runtime.images.extend(&config.images);
        let containerd = Containerd::start(node, &runtime)?;
        let ctl = binary("turnpike")?;
        node.on_failure("turnpike-status.txt", &[ctl.to_string_lossy().as_ref(), "status"]);
        Ok(Self { node: node.clone(), containerd, agent: Mutex::new(agent), bgpd })
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its container runtime.
    #[must_use]
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// Runs a pod, see [`Containerd::run_pod`].
    ///
    /// # Errors
    /// When any step fails; what was made until then is removed again.
    pub fn run_pod(&self, spec: PodSpec) -> Result<Pod> {
        self.containerd.run_pod(spec)
    }

    /// What the agent says of itself and of the node.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<StatusReport> {
        status(&self.node)
    }

    /// What the agent says of a pod; `None` when it does not know it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn pod_status(&self, pod: &Pod) -> Result<Option<PodStatus>> {
        let report = self.status()?;
        Ok(report.pods.into_iter().find(|known| known.attachment.container_id == pod.sandbox_id()))
    }

    /// Waits until the agent's status is as wanted; `wanted` says why it is not.
    ///
    /// # Errors
    /// When half a minute passes.
    pub fn wait_status<T>(&self, what: &str, wanted: impl Fn(&StatusReport) -> Result<T>) -> Result<T> {
        poll_result(DEADLINE, what, || wanted(&self.status()?))
    }

    /// Writes a file of the resources folder, as an editor does: beside it, then renamed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_resource(&self, file: &str, yaml: &str) -> Result<()> {
        let (fresh, path) = (format!("{RESOURCES}/.{file}.new"), format!("{RESOURCES}/{file}"));
        self.node.write_file(&fresh, yaml)?;
        self.node.run(&["mv", &fresh, &path]).map(drop)
    }

    /// Removes a file of the resources folder.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_resource(&self, file: &str) -> Result<()> {
        self.node.run(&["rm", &format!("{RESOURCES}/{file}")]).map(drop)
    }

    /// Kills the agent with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_agent(&self) -> Result<()> {
        kill(&guard(&self.agent))
    }

    /// Ends the agent with SIGTERM, as an upgrade does.
    ///
    /// # Errors
    /// When it does not heed that.
    pub fn stop_agent(&self) -> Result<()> {
        guard(&self.agent).stop().map(drop)
    }

    /// Waits for the agent to end by itself.
    ///
    /// # Errors
    /// When it still runs after `deadline`.
    pub fn wait_agent_end(&self, deadline: Duration) -> Result<()> {
        guard(&self.agent).wait_exit(deadline).map(drop)
    }

    /// Starts the agent again, without the environment of the first start, and waits until it is ready.
    ///
    /// # Errors
    /// When it still runs, or does not become ready.
    pub fn start_agent(&self) -> Result<()> {
        let mut agent = guard(&self.agent);
        ensure!(agent.try_wait()?.is_some(), "turnpike-agent still runs on {}", self.node.name());
        *agent = launch_agent(&self.node, &[])?;
        wait_agent_ready(&self.node, &agent)
    }

    /// Ends the agent and has it remove everything that it has on this node.
    ///
    /// # Errors
    /// When it cannot; the error holds its output.
    pub fn uninstall_agent(&self) -> Result<()> {
        self.stop_agent()?;
        let agent = binary("turnpike-agent")?;
        self.node
            .run(&[agent.as_os_str(), "--config".as_ref(), AGENT_CONFIG.as_ref(), "uninstall".as_ref()])
            .map(drop)
    }

    /// The agent's pid in the host's pid namespace.
    #[must_use]
    pub fn agent_pid(&self) -> u32 {
        guard(&self.agent).pid()
    }

    /// What the agent has logged, earlier runs included.
    #[must_use]
    pub fn agent_log(&self) -> String {
        guard(&self.agent).log()
    }

    /// Kills bgpd with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When there is none, or it does not end.
    pub fn kill_bgpd(&self) -> Result<()> {
        let bgpd = self.bgpd_guard()?;
        kill(&bgpd)
    }

    /// Starts bgpd again.
    ///
    /// # Errors
    /// When there is none, or it still runs.
    pub fn start_bgpd(&self) -> Result<()> {
        let mut bgpd = self.bgpd_guard()?;
        ensure!(bgpd.try_wait()?.is_some(), "turnpike-bgpd still runs on {}", self.node.name());
        *bgpd = launch_bgpd(&self.node)?;
        Ok(())
    }

    /// What bgpd has logged, earlier runs included.
    ///
    /// # Errors
    /// When there is none.
    pub fn bgpd_log(&self) -> Result<String> {
        Ok(self.bgpd_guard()?.log())
    }

    fn bgpd_guard(&self) -> Result<MutexGuard<'_, Process>> {
        self.bgpd
            .as_ref()
            .map(guard)
            .with_context(|| format!("no bgpd was asked for on {}", self.node.name()))
    }
}

fn guard(process: &Mutex<Process>) -> MutexGuard<'_, Process> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(process: &Process) -> Result<()> {
    process.kill(Signal::SIGKILL)?;
    process.wait_exit(DEADLINE).map(drop)
}

fn status(node: &Node) -> Result<StatusReport> {
    let client = Client::connect(&node.path(DEFAULT_SOCKET)?)?;
    match client.request(&Request::Status, &[], DEADLINE)? {
        Reply::Status(report) => Ok(*report),
        other => bail!("the agent answered {other:?} to a question for its status"),
    }
}

fn wait_agent_ready(node: &Node, agent: &Process) -> Result<()> {
    let probe = || match status(node)?.health {
        Health::Ready => Ok(()),
        Health::NotReady(reason) => bail!("it is not ready: {reason}"),
    };
    let outcome = poll_result(DEADLINE, "turnpike-agent to be ready", || {
        // An agent that ended will not become ready: waiting longer would only hide why.
        if let Ok(Some(end)) = agent.try_wait() {
            return Ok(Err(anyhow::anyhow!("turnpike-agent ended: {end}")));
        }
        probe().map(Ok)
    });
    outcome
        .and_then(|ended| ended)
        .with_context(|| format!("its log on {}:\n{}", node.name(), tail(&agent.log())))
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.len().saturating_sub(20);
    lines.get(last..).unwrap_or_default().join("\n")
}

fn launch_agent(node: &Node, env: &[(String, String)]) -> Result<Process> {
    let mut command = node.command(binary("turnpike-agent")?)?;
    command.args(["--config", AGENT_CONFIG]).env("TURNPIKE_LOG", "info").envs(env.iter().cloned());
    node.spawn("turnpike-agent", command)
}

fn launch_bgpd(node: &Node) -> Result<Process> {
    let mut command = node.command(binary("turnpike-bgpd")?)?;
    command.args(["--config", BGPD_CONFIG]);
    node.spawn("turnpike-bgpd", command)
}

/// The network configuration of the pods, see `deploy/10-turnpike.conflist`.
fn conflist() -> String {
    include_str!("../../deploy/10-turnpike.conflist").to_owned()
}

/// What a lab node needs to be told: its name, and the part of the cgroup tree that is its own. Released addresses do
/// not rest, so that a test may fill a block twice; a test of the rest says so.
fn agent_toml(node: &Node, config: &TurnpikeConfig) -> toml::Table {
    let pods = node.cgroup_path().join("pods");
    let labels: toml::Table =
        config.labels.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    let mut sections = toml::Table::new();
    for (section, field, value) in [
        ("ipam", "cooldown_seconds", toml::Value::from(0)),
        ("node", "name", node.name().into()),
        ("node", "labels", labels.into()),
        ("paths", "cgroup_root", pods.to_string_lossy().into_owned().into()),
        ("bgpd", "enabled", config.bgpd.is_some().into()),
    ] {
        merge(&mut sections, section, [(field.to_owned(), value)].into_iter().collect());
    }
    for (section, fields) in &config.agent {
        match fields.as_table() {
            Some(fields) => merge(&mut sections, section, fields.clone()),
            None => drop(sections.insert(section.clone(), fields.clone())),
        }
    }
    sections
}

fn merge(sections: &mut toml::Table, section: &str, fields: toml::Table) {
    let entry = sections.entry(section.to_owned()).or_insert_with(|| toml::Table::new().into());
    if let Some(table) = entry.as_table_mut() {
        table.extend(fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conflist_names_our_plugin_and_every_version() {
        let conflist: serde_json::Value = serde_json::from_str(&conflist()).unwrap();
        assert_eq!(conflist["plugins"][0]["type"], "turnpike-cni");
        assert_eq!(conflist["cniVersions"], serde_json::json!(["0.4.0", "1.0.0", "1.1.0"]));
    }

    #[test]
    fn a_field_of_the_test_goes_before_the_nodes_own() {
        let mut sections: toml::Table =
            "[ipam]\ncooldown_seconds = 0\n[node]\nname = \"n1\"\n".parse().unwrap();
        merge(&mut sections, "ipam", "cooldown_seconds = 9".parse().unwrap());
        assert_eq!(sections["ipam"]["cooldown_seconds"].as_integer(), Some(9));
        assert_eq!(sections["node"]["name"].as_str(), Some("n1"));
    }
}
