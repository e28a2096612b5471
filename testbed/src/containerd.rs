//! A real containerd with runc in a lab node, driven over CRI as the kubelet drives it.
//!
//! Everything that it keeps lies in the node's private folders and cgroups, so it ends with the node: shims and
//! containers are in the node's pid namespace, network namespaces and mounts in its mount namespace.
//!
//! Pods are put under `pods` in the node's sub-cgroup, as the kubelet puts them under `kubepods`: cgroup hooks that
//! are attached there see every pod of this node and nothing else of the machine.
//!
//! Leaves out: pulling images (see [`crate::images`]), other runtimes, restart policies (there is no kubelet).

mod pod;
mod spec;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::signal::Signal;

pub use self::pod::{Pod, PodTimings, RemoveTimings};
pub use self::spec::{ContainerSpec, PodSpec, PortMapping};
use crate::cri::Cri;
use crate::images::Image;
use crate::node::Node;
use crate::place;
use crate::poll::poll_result;
use crate::process::Process;

/// The CRI and containerd socket, as the node sees it.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// Where containerd looks for CNI plugins.
pub const CNI_BIN_DIR: &str = "/opt/cni/bin";
/// Where containerd looks for the network configuration.
pub const CNI_CONF_DIR: &str = "/etc/cni/net.d";
/// Where Debian's containernetworking-plugins are.
pub const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

const CONFIG_FILE: &str = "/etc/containerd/lab.toml";
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A CNI network configuration and the plugins that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniNetwork {
    /// The conflist's file name and text; `None` when somebody else (the agent) writes it.
    pub conflist: Option<(String, String)>,
    /// Plugins that are linked into [`CNI_BIN_DIR`], as paths of the host. `loopback` always is.
    pub plugins: Vec<PathBuf>,
}

impl CniNetwork {
    /// The reference plugins ptp and host-local, with an address from each of the given subnets.
    #[must_use]
    pub fn reference(subnets: &[&str]) -> Self {
        let ranges: Vec<_> = subnets.iter().map(|subnet| serde_json::json!([{ "subnet": subnet }])).collect();
        let routes: Vec<_> = subnets
            .iter()
            .map(|subnet| serde_json::json!({ "dst": if subnet.contains(':') { "::/0" } else { "0.0.0.0/0" } }))
            .collect();
        let conflist = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": "reference",
            "plugins": [{
                "type": "ptp",
                "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
            }],
        });
        Self {
            conflist: Some(("20-reference.conflist".to_owned(), conflist.to_string())),
            plugins: ["ptp", "host-local"].map(|name| Path::new(REFERENCE_PLUGINS).join(name)).to_vec(),
        }
    }

    /// turnpike-cni, with the given conflist text; `None` leaves writing it to the agent.
    ///
    /// # Errors
    /// When turnpike-cni is not built.
    pub fn turnpike(conflist: Option<String>) -> Result<Self> {
        Ok(Self {
            conflist: conflist.map(|text| ("10-turnpike.conflist".to_owned(), text)),
            plugins: vec![place::binary("turnpike-cni")?],
        })
    }
}

/// How containerd is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// The pods' network.
    pub network: CniNetwork,
    /// Images that are imported at the start; others are when a pod first asks for them.
    pub images: Vec<Image>,
    /// containerd's snapshotter: `overlayfs`, or `native`, which copies the image for each container.
    pub snapshotter: String,
}

impl RuntimeConfig {
    /// With nothing but the pause image imported, on overlayfs.
    #[must_use]
    pub fn new(network: CniNetwork) -> Self {
        Self { network, images: vec![Image::Pause], snapshotter: "overlayfs".to_owned() }
    }
}

/// A running containerd: a handle, clones are handles on the same one. It is killed with its last handle or pod.
#[derive(Debug, Clone)]
pub struct Containerd {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: Node,
    cri: Cri,
    process: Mutex<Process>,
    imported: Mutex<BTreeSet<Image>>,
    snapshotter: String,
    awaits_network: bool,
}

impl Containerd {
    /// Starts containerd in the node and waits until it serves: the CRI, and the network when a conflist is given.
    ///
    /// # Errors
    /// When containerd, runc or a plugin is not installed, or it does not become ready within a minute; the error
    /// holds the end of its log.
    pub fn start(node: &Node, config: &RuntimeConfig) -> Result<Self> {
        install_network(node, &config.network).context("install the CNI network")?;
        node.write_file(CONFIG_FILE, config_toml(&config.snapshotter))?;
        let process = launch(node)?;
        let cri = connect(node, &process)?;
        let this = Self {
            inner: Arc::new(Inner {
                node: node.clone(),
                cri,
                process: Mutex::new(process),
                imported: Mutex::default(),
                snapshotter: config.snapshotter.clone(),
                awaits_network: config.network.conflist.is_some(),
            }),
        };
        this.import(Image::Pause)?;
        config.images.iter().try_for_each(|&image| this.import(image))?;
        if this.inner.awaits_network {
            this.wait_network_ready(START_DEADLINE)?;
        }
        Ok(this)
    }

    /// The node that it runs in.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    /// The CRI itself, for what has no method here.
    #[must_use]
    pub fn cri(&self) -> &Cri {
        &self.inner.cri
    }

    /// The cgroup of all pods of this node, as a path from the root of any hierarchy.
    #[must_use]
    pub fn pods_cgroup(&self) -> String {
        pods_cgroup(&self.inner.node)
    }

    /// What containerd has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.inner.process.lock().unwrap_or_else(PoisonError::into_inner).log()
    }

    /// Waits until the runtime reports `NetworkReady`.
    ///
    /// # Errors
    /// When `deadline` passes; the error holds the runtime's own reason.
    pub fn wait_network_ready(&self, deadline: Duration) -> Result<()> {
        poll_result(deadline, "the runtime's NetworkReady", || match self.network_problem() {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => Err(anyhow!(reason)),
            Err(error) => Err(error),
        })
    }

    /// Why the network is not ready, in the runtime's words; `None` when it is.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub fn network_problem(&self) -> Result<Option<String>> {
        let status = self.inner.cri.status()?;
        let network = status.conditions.into_iter().find(|condition| condition.r#type == "NetworkReady");
        let network = network.context("the runtime reports no NetworkReady")?;
        Ok((!network.status).then(|| format!("{}: {}", network.reason, network.message)))
    }

    /// Imports an image, unless it is there.
    ///
    /// # Errors
    /// When it cannot be made or imported.
    pub fn import(&self, image: Image) -> Result<()> {
        let mut imported = self.inner.imported.lock().unwrap_or_else(PoisonError::into_inner);
        if imported.contains(&image) {
            return Ok(());
        }
        let archive = image.archive()?;
        let archive = archive.to_str().context("the archive's path is UTF-8")?;
        let snapshotter = self.inner.snapshotter.as_str();
        let import = ["ctr", "-n", "k8s.io", "images", "import", "--snapshotter", snapshotter, archive];
        self.inner.node.run(&import).with_context(|| format!("import {}", image.reference()))?;
        // The CRI part of containerd learns of images by events of the rest of it.
        poll_result(START_DEADLINE, &format!("{} in the CRI", image.reference()), || {
            let known = self.inner.cri.images()?;
            ensure!(known.iter().any(|name| name == image.reference()), "the CRI has {known:?}");
            Ok::<_, anyhow::Error>(())
        })?;
        imported.insert(image);
        Ok(())
    }

    /// Runs a pod: the sandbox with its network, then its containers. It is removed when the guard is dropped.
    ///
    /// # Errors
    /// When any step fails; what was made until then is removed again.
    pub fn run_pod(&self, spec: PodSpec) -> Result<Pod> {
        Pod::run(self.clone(), spec)
    }

    /// Kills containerd with SIGKILL and starts it again: containers live on under their shims.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart(&self) -> Result<()> {
        let mut process = self.inner.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.kill(Signal::SIGKILL)?;
        process.wait_exit(START_DEADLINE)?;
        *process = launch(&self.inner.node)?;
        wait_serving(&process, || Ok(self.inner.cri.version().map(drop)?))?;
        drop(process);
        if self.inner.awaits_network {
            self.wait_network_ready(START_DEADLINE)?;
        }
        Ok(())
    }
}

fn pods_cgroup(node: &Node) -> String {
    format!("{}/pods", node.cgroup())
}

fn launch(node: &Node) -> Result<Process> {
    let mut command = node.command("containerd")?;
    command.args(["--config", CONFIG_FILE]);
    node.spawn("containerd", command)
}

fn connect(node: &Node, process: &Process) -> Result<Cri> {
    let socket = node.path(SOCKET)?;
    let mut client = None;
    wait_serving(process, || {
        let cri = Cri::connect(&socket)?;
        cri.version()?;
        client = Some(cri);
        Ok(())
    })?;
    client.context("containerd serves without a client")
}

fn wait_serving(process: &Process, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    loop {
        let attempt = poll_result(Duration::from_millis(500), "containerd's CRI socket", &mut probe);
        let ended = process.try_wait()?;
        match (attempt, ended) {
            (Ok(()), _) => return Ok(()),
            (Err(error), None) if start.elapsed() < START_DEADLINE => drop(error),
            (Err(error), ended) => {
                let state =
                    ended.map_or_else(|| "still runs".to_owned(), |status| format!("ended: {status}"));
                let log = process.log();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                return Err(error.context(format!("containerd {state}; its log:\n{}", tail.join("\n"))));
            }
        }
    }
}

fn install_network(node: &Node, network: &CniNetwork) -> Result<()> {
    let loopback = Path::new(REFERENCE_PLUGINS).join("loopback");
    for plugin in network.plugins.iter().chain([&loopback]) {
        ensure!(plugin.is_file(), "the CNI plugin {} is not installed", plugin.display());
        let name = plugin.file_name().context("a plugin has a name")?;
        // A link to a link: what it leads to may be rebuilt or swapped under a running node.
        let source = plugin.to_str().context("a plugin's path is UTF-8")?;
        let target = Path::new(CNI_BIN_DIR).join(name);
        node.run(&["ln", "-sfn", source, target.to_str().context("UTF-8")?])?;
    }
    forget_host_networks(node)?;
    if let Some((name, text)) = &network.conflist {
        node.write_file(Path::new(CNI_CONF_DIR).join(name), text)?;
    }
    Ok(())
}

/// A node sees the host's `/etc`; a network that the host has for its own containers must not become the pods'.
fn forget_host_networks(node: &Node) -> Result<()> {
    let Ok(entries) = fs::read_dir(CNI_CONF_DIR) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        node.run(&["rm", "-rf", path.to_str().context("UTF-8")?])?;
    }
    Ok(())
}

/// The score of the out-of-memory killer stays as it is: lowering it takes CAP_SYS_RESOURCE, which a container on a
/// build machine may lack.
fn config_toml(snapshotter: &str) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing",
]

[grpc]
  address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  disable_apparmor = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_BIN_DIR}"
    conf_dir = "{CNI_CONF_DIR}"
    max_conf_num = 1
"#,
        pause = Image::Pause.reference(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_configuration_is_toml_with_the_pause_image() {
        let config: toml::Table = config_toml("native").parse().unwrap();
        let cri = &config["plugins"]["io.containerd.grpc.v1.cri"];
        assert_eq!(cri["sandbox_image"].as_str(), Some(Image::Pause.reference()));
        assert_eq!(cri["containerd"]["snapshotter"].as_str(), Some("native"));
    }

    #[test]
    fn the_reference_network_has_a_range_and_a_default_route_for_each_subnet() {
        let network = CniNetwork::reference(&["10.66.0.0/24", "fd00:66::/64"]);
        let conflist: serde_json::Value = serde_json::from_str(&network.conflist.unwrap().1).unwrap();
        let ipam = &conflist["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"][1][0]["subnet"], "fd00:66::/64");
        assert_eq!(ipam["routes"][1]["dst"], "::/0");
    }
}
