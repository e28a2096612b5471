//! A node for the resources of deploy/resources, and the reflectors that they name.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use turnpike_testbed::speakers::{Bird, PeerConfig, SpeakerConfig};
use turnpike_testbed::{Lab, Machine, Node, binary, place, poll_result};

use super::DEADLINE;

/// As deploy/resources and deploy/agent.toml have them.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 11);
pub(crate) const BLOCKS: [&str; 2] = ["10.244.1.0/26", "fd00:244:0:1::/122"];
const AS: u32 = 65001;
const REFLECTORS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 3, 21), Ipv4Addr::new(10, 1, 3, 22)];
const LINKS: [(&str, &str, &str); 2] =
    [("10.1.1.11/24", "10.1.1.1/24", "10.1.1.1"), ("fd00:1:1::11/64", "fd00:1:1::1/64", "fd00:1:1::1")];

/// The machine and what is around it.
pub(crate) struct Site {
    pub(crate) machine: Machine,
    pub(crate) tor: Node,
    pub(crate) reflectors: Vec<Bird>,
}

impl Site {
    /// A booted machine on which nothing of ours is installed yet.
    fn build(lab: &Lab) -> Result<Self> {
        let (node, tor) = (lab.node("node1")?, lab.node("tor")?);
        lab.link(&node, "eth0", &tor, "node1")?;
        tor.forward()?;
        for ((inner, outer, gateway), block) in LINKS.into_iter().zip(BLOCKS) {
            node.addr("eth0", inner)?;
            tor.addr("node1", outer)?;
            node.route(&format!("default via {gateway}"))?;
            tor.route(&format!("{block} via {}", inner.split('/').next().unwrap_or_default()))?;
        }
        tor.bridge("rack", &[])?;
        tor.addr("rack", "10.1.3.1/24")?;
        let mut reflectors = Vec::new();
        for (number, address) in (1..).zip(REFLECTORS) {
            let (name, port) = (format!("rr{number}"), format!("port{number}"));
            let reflector = lab.node(&name)?;
            lab.link(&reflector, "eth0", &tor, &port)?;
            tor.run(&["ip", "link", "set", &port, "master", "rack"])?;
            reflector.addr("eth0", &format!("{address}/24"))?;
            reflector.route("default via 10.1.3.1")?;
            let peer = PeerConfig::new(NODE, AS).rr_client();
            reflectors.push(Bird::start(&reflector, &SpeakerConfig::new(AS, address).peer(peer))?);
        }
        Ok(Self { machine: Machine::boot(&node)?, tor, reflectors })
    }

    /// The machine with what the commands of README.md install, run in their order; the last two of them are a look at
    /// the node, and their word is the answer.
    pub(crate) fn install(lab: &Lab) -> Result<(Self, Vec<String>)> {
        let site = Self::build(lab)?;
        // What the kubelet makes before the first pod.
        site.machine.run(&["mkdir", "-p", "/sys/fs/cgroup/kubepods.slice"])?;
        let programs = place::binary_folder()?;
        let mut answers = Vec::new();
        for line in documented()? {
            let line = line.replace("target/turnpike/bin", &programs.to_string_lossy());
            answers.push(site.shell(&line).with_context(|| format!("README.md: {line}"))?);
        }
        Ok((site, answers))
    }

    /// A line for bash, in the folder of the repository.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        let script = format!("cd {} && {line}", repository().display());
        self.machine.text(&["bash", "-euc", &script])
    }

    /// Calls the installed plugin as a runtime does, for the pod `name` in the network namespace of that name, with a limit of
    /// 100 Mbit/s for what it sends.
    pub(crate) fn cni(&self, verb: &str, name: &str) -> Result<Value> {
        let conflist: Value =
            serde_json::from_str(&self.machine.text(&["cat", "/etc/cni/net.d/10-turnpike.conflist"])?)?;
        let mut config = conflist["plugins"][0].clone();
        config["name"] = conflist["name"].clone();
        config["cniVersion"] = json!("1.0.0");
        config["runtimeConfig"] = json!({ "bandwidth": { "egressRate": 100_000_000, "egressBurst": 0 } });
        self.machine.node().write_file("/run/cni-stdin", config.to_string())?;
        let call = format!(
            "env -i CNI_PATH=/opt/cni/bin CNI_IFNAME=eth0 CNI_COMMAND={verb} CNI_CONTAINERID={name} \
             CNI_NETNS=/run/netns/{name} 'CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}' \
             /opt/cni/bin/turnpike-cni < /run/cni-stdin"
        );
        let answer = self.shell(&call)?;
        if answer.trim().is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&answer)?) }
    }

    /// A pod's namespace, and its addresses after an ADD.
    pub(crate) fn add(&self, name: &str) -> Result<Vec<IpAddr>> {
        self.machine.run(&["ip", "netns", "add", name])?;
        let result = self.cni("ADD", name)?;
        let of = |ip: &Value| Some(ip["address"].as_str()?.parse::<IpNetwork>().ok()?.ip());
        let addresses: Vec<IpAddr> = result["ips"].as_array().into_iter().flatten().filter_map(of).collect();
        ensure!(addresses.len() == 2, "{result}");
        Ok(addresses)
    }

    /// The ToR reaches every address, through the machine's kernel.
    pub(crate) fn reaches(&self, addresses: &[IpAddr]) -> Result<()> {
        addresses.iter().try_for_each(|address| {
            let address = address.to_string();
            poll_result(DEADLINE, &format!("{address} to answer"), || {
                self.tor.run(&["ping", "-n", "-c", "1", "-W", "2", &address]).map(drop)
            })
        })
    }

    /// A property of a unit, as `systemctl show` tells it.
    pub(crate) fn unit(&self, name: &str, property: &str) -> Result<String> {
        let text = self.machine.text(&["systemctl", "show", "--value", "--property", property, name])?;
        Ok(text.trim().to_owned())
    }

    /// What `turnpike status` says in JSON.
    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.shell("turnpike -o json status")?)?)
    }
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The commands of "One real node, standalone" but the build.
fn documented() -> Result<Vec<&'static str>> {
    // Its absence would show as a line of README.md that fails, which is not what is wrong.
    binary("turnpike-cni")?;
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("## One real node, standalone").context("the section")?;
    let block = section.split("```").nth(1).context("its commands")?;
    let lines = block.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let commands: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with("cargo ")).collect();
    ensure!(commands.len() > 5, "README.md tells no commands: {commands:?}");
    Ok(commands)
}
