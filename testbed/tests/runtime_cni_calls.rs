//! What a real containerd says to a CNI plugin: the ground on which turnpike-cni's parser stands.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use turnpike_testbed::containerd::{CNI_BIN_DIR, CniNetwork, REFERENCE_PLUGINS};
use turnpike_testbed::{Containerd, Lab, Node, PodSpec, RuntimeConfig};

const CALLS: &str = "/run/spy";

/// Keeps each call's environment and stdin, then becomes ptp.
const SPY: &str = r#"#!/bin/sh
call=/run/spy/$(printf %03d "$(ls /run/spy | wc -l)")
mkdir "$call"
printf %s "$CNI_COMMAND" > "$call/command"
printf %s "$CNI_NETNS" > "$call/netns"
printf %s "$CNI_CONTAINERID" > "$call/id"
printf %s "$CNI_ARGS" > "$call/args"
cat > "$call/stdin"
exec /usr/lib/cni/ptp < "$call/stdin"
"#;

struct Call {
    command: String,
    netns: String,
    id: String,
    args: Vec<String>,
    stdin: Value,
}

fn calls(node: &Node) -> Result<Vec<Call>> {
    let folders = node.text(&["ls", CALLS])?;
    let read = |folder: &str| -> Result<Call> {
        let file = |name: &str| node.read_file(format!("{CALLS}/{folder}/{name}"));
        let mut args: Vec<String> = file("args")?.split(';').map(str::to_owned).collect();
        args.sort();
        let stdin = serde_json::from_str(&file("stdin")?)?;
        Ok(Call { command: file("command")?, netns: file("netns")?, id: file("id")?, args, stdin })
    };
    folders.lines().map(read).collect()
}

fn spied_network() -> CniNetwork {
    let conflist = json!({
        "cniVersion": "1.0.0",
        "name": "spied",
        "plugins": [{
            "type": "spy",
            "capabilities": {
                "portMappings": true, "bandwidth": true, "dns": true, "io.kubernetes.cri.pod-annotations": true,
            },
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.66.0.0/24" }]] },
        }],
    });
    CniNetwork {
        conflist: Some(("10-spied.conflist".to_owned(), conflist.to_string())),
        plugins: vec![format!("{REFERENCE_PLUGINS}/host-local").into()],
    }
}

/// Verifies: one ADD with the pod's identity, annotations, limits and ports in containerd's own spelling; then, from
/// StopPodSandbox twice and RemovePodSandbox, three DELs, of which the last two lack the namespace.
#[test]
fn containerd_sends_one_add_and_three_dels() -> Result<()> {
    let lab = Lab::new("runtime-calls")?;
    let node = lab.node("n1")?;
    let spy = format!("{CNI_BIN_DIR}/spy");
    node.write_file(&spy, SPY)?;
    node.run(&["chmod", "755", &spy])?;
    node.run(&["mkdir", CALLS])?;
    let containerd = Containerd::start(&node, &RuntimeConfig::new(spied_network()))?;

    let spec = PodSpec::busybox("web-0").namespace("shop").bandwidth("10M", "20M").host_port(8080, 80);
    let mut pod = containerd.run_pod(spec)?;
    let sandbox = pod.sandbox_id().to_owned();
    let netns = pod.netns_path()?.to_string_lossy().into_owned();
    let uid = pod.spec().uid.clone();
    pod.remove()?;

    let calls = calls(&node)?;
    let commands: Vec<&str> = calls.iter().map(|call| call.command.as_str()).collect();
    assert_eq!(commands, ["ADD", "DEL", "DEL", "DEL"]);
    let namespaces: Vec<&str> = calls.iter().map(|call| call.netns.as_str()).collect();
    assert_eq!(namespaces, [&netns, &netns, "", ""]);
    for call in &calls {
        assert_eq!(call.id, sandbox);
        let expected = [
            "IgnoreUnknown=1".to_owned(),
            format!("K8S_POD_INFRA_CONTAINER_ID={sandbox}"),
            "K8S_POD_NAME=web-0".to_owned(),
            "K8S_POD_NAMESPACE=shop".to_owned(),
            format!("K8S_POD_UID={uid}"),
        ];
        assert_eq!(call.args, expected);
    }
    let results: Vec<bool> = calls.iter().map(|call| call.stdin.get("prevResult").is_some()).collect();
    assert_eq!(results, [false, true, false, false]);
    let add = calls.first().context("an ADD")?;
    assert_eq!(
        add.stdin["runtimeConfig"],
        json!({
            "bandwidth": {
                "IngressRate": 10_000_000, "IngressBurst": u32::MAX,
                "EgressRate": 20_000_000, "EgressBurst": u32::MAX,
            },
            "portMappings": [{ "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }],
            "io.kubernetes.cri.pod-annotations": {
                "kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M",
            },
        })
    );
    lab.finish()
}

/// Verifies: containerd picks up a network that appears while it runs, as the agent writes it: by rename, then a write.
#[test]
fn a_conflist_that_appears_later_makes_the_network_ready() -> Result<()> {
    let lab = Lab::new("runtime-late-network")?;
    let node = lab.node("n1")?;
    let CniNetwork { conflist, plugins } = CniNetwork::reference(&["10.66.0.0/24"]);
    let containerd = Containerd::start(&node, &RuntimeConfig::new(CniNetwork { conflist: None, plugins }))?;
    let problem = containerd.network_problem()?.context("the network is ready without a conflist")?;
    assert!(problem.contains("cni plugin not initialized"), "{problem}");
    let (name, text) = conflist.context("a conflist")?;
    node.write_file(format!("/etc/cni/net.d/.{name}.new"), text)?;
    let appear = format!("cd /etc/cni/net.d && mv .{name}.new {name} && : >> {name} && touch {name}");
    node.run(&["sh", "-c", &appear])?;
    containerd.wait_network_ready(Duration::from_secs(30))?;
    let mut pod = containerd.run_pod(PodSpec::busybox("web-0"))?;
    pod.remove()?;
    lab.finish()
}
