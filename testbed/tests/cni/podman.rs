//! Real podman as the caller: its network backend `cni`, with the conflist that containerd has beside it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::turnpike_node::TurnpikeNode;
use turnpike_testbed::{Image, Lab, Node, PodSpec, poll_result};

use super::pods::footprint;
use super::{DEADLINE, NODE, OUTSIDE, host, start};

/// Everything that podman keeps lies in the node's private folders; a lab has no systemd.
const CONFIG: &str = r#"
[containers]
log_driver = "k8s-file"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"

[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
"#;
const STORAGE: &str =
    "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/podman\"\ngraphroot = \"/var/lib/podman\"\n";

fn podman(node: &Node, line: &str) -> Result<String> {
    let argv: Vec<&str> = ["podman"].into_iter().chain(line.split_whitespace()).collect();
    Ok(node.text(&argv)?.trim().to_owned())
}

/// Starts a container in our network, and in the pods' cgroup.
fn run(node: &Node, name: &str, wishes: &str, image: Image) -> Result<String> {
    let parent = format!("{}/pods", node.cgroup());
    let image = image.reference();
    podman(
        node,
        &format!("run -d --name {name} --cgroup-parent {parent} --network turnpike {wishes} {image}"),
    )
}

/// podman with an image of the lab, in a node where containerd has the conflist already.
fn install(node: &Node) -> Result<()> {
    node.write_file("/etc/containers/containers.conf", CONFIG)?;
    node.write_file("/etc/containers/storage.conf", STORAGE)?;
    for image in [Image::Nginx, Image::Busybox] {
        let archive = image.archive()?;
        podman(node, &format!("load -q -i {}", archive.display()))?;
    }
    Ok(())
}

/// The container's addresses on our network, as podman has them from our result.
fn addresses(node: &Node, container: &str) -> Result<[String; 2]> {
    let found = node.json(&["podman", "inspect", container])?;
    let network =
        found.pointer("/0/NetworkSettings/Networks/turnpike").context("it is not in our network")?;
    let field = |name: &str| network.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok([field("IPAddress"), field("GlobalIPv6Address")])
}

/// Whom nginx behind a URL sees, asked from a box.
fn seen(place: &Node, address: &str, port: u16) -> Result<String> {
    let url = format!("http://{}:{port}/", host(address.parse()?));
    let body =
        poll_result(DEADLINE, &url, || place.text(&["timeout", "5", "busybox", "wget", "-qO-", &url]))?;
    Ok(body.split_whitespace().next().context("an address")?.to_owned())
}

fn reachable(turnpike: &TurnpikeNode, outside: &Node, ips: &[String; 2]) -> Result<()> {
    for ((ip, node), outer) in ips.iter().zip(NODE).zip(OUTSIDE) {
        assert_eq!(seen(outside, ip, 80)?, outer, "the container, from outside");
        assert_eq!(seen(turnpike.node(), ip, 80)?, node, "the container, from its node");
        assert_eq!(seen(outside, node, 18080)?, outer, "its host port");
    }
    Ok(())
}

fn wait_footprint(turnpike: &TurnpikeNode, before: &str) -> Result<()> {
    poll_result(DEADLINE, "nothing to be left", || -> Result<()> {
        let pods = turnpike.status()?.pods;
        ensure!(pods.is_empty(), "{pods:?}");
        let after = footprint(turnpike)?;
        ensure!(after == before, "{after}\ninstead of\n{before}");
        Ok(())
    })
}

/// Verifies: a container of podman's has an address of each family and a host port, and talks with a pod of containerd's
/// beside it; it keeps its addresses over `podman network reload`; a stopped one has nothing and gets it again; `rm -f`
/// releases all, and a second one finds nothing to do. An address and a MAC address that podman asks for are the container's.
#[test]
fn podman_runs_reloads_and_removes_containers() -> Result<()> {
    let lab = Lab::new("cni-podman")?;
    let (turnpike, outside) = start(&lab)?;
    let node = turnpike.node();
    install(node)?;
    // What stays after the first pod of a node is not podman's doing.
    run(node, "web", "-p 18080:80", Image::Nginx)?;
    podman(node, "rm -f -t 0 web")?;
    poll_result(DEADLINE, "the first container's link to go", || -> Result<()> {
        let links = node.links()?;
        ensure!(!links.iter().any(|link| link.starts_with("tpk")), "{links:?}");
        Ok(())
    })?;
    let before = footprint(&turnpike)?;

    run(node, "web", "-p 18080:80", Image::Nginx)?;
    let ips = addresses(node, "web")?;
    reachable(&turnpike, &outside, &ips)?;
    let mut pod = turnpike.run_pod(PodSpec::nginx("beside"))?;
    let url = format!("http://{}/", pod.ipv4()?);
    let answer =
        poll_result(DEADLINE, &url, || podman(node, &format!("exec web timeout 5 wget -qO- {url}")))?;
    assert!(answer.starts_with(&format!("{} ", ips[0])), "{answer}");
    pod.remove()?;

    podman(node, "network reload web")?;
    assert_eq!(addresses(node, "web")?, ips, "after a reload");
    reachable(&turnpike, &outside, &ips)?;

    podman(node, "stop -t 0 web")?;
    wait_footprint(&turnpike, &before)?;
    podman(node, "start web")?;
    reachable(&turnpike, &outside, &addresses(node, "web")?)?;

    podman(node, "rm -f -t 0 web")?;
    wait_footprint(&turnpike, &before)?;
    podman(node, "rm -f --ignore web")?;

    run(node, "fixed", "--ip 10.244.1.33 --mac-address 02:00:00:00:00:33", Image::Nginx)?;
    assert_eq!(addresses(node, "fixed")?[0], "10.244.1.33");
    let link = podman(node, "exec fixed cat /sys/class/net/eth0/address")?;
    assert_eq!(link, "02:00:00:00:00:33");
    podman(node, "network reload fixed")?;
    assert_eq!(addresses(node, "fixed")?[0], "10.244.1.33", "after a reload");
    podman(node, "rm -f -t 0 fixed")?;
    wait_footprint(&turnpike, &before)?;
    let left =
        node.text(&["sh", "-c", "ls /run/netns; ls -A /var/lib/turnpike/spool 2>/dev/null || true"])?;
    assert_eq!(left, "");
    lab.finish()
}

/// Verifies: a port that another has is refused in our words, and such a refusal leaves nothing.
#[test]
fn podman_hands_on_a_refusal() -> Result<()> {
    let lab = Lab::new("cni-podman-refused")?;
    let (turnpike, _outside) = start(&lab)?;
    let node = turnpike.node();
    install(node)?;
    run(node, "first", "-p 18080:80", Image::Busybox)?;
    let refused = run(node, "second", "-p 18080:80", Image::Busybox);
    let words = format!("{:#}", refused.err().context("the port is another's")?);
    assert!(words.contains("18080") && words.contains("first"), "{words}");
    podman(node, "rm -f -t 0 second")?;
    assert_eq!(turnpike.status()?.pods.len(), 1);
    podman(node, "rm -f -t 0 first")?;
    assert_eq!(turnpike.status()?.pods, []);
    lab.finish()
}
