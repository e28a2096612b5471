//! containerd and runc in a lab node, with the reference CNI plugins: the ground that turnpike-cni's tests stand on.
//!
//! ```text
//!   node n1:  containerd ── runc ── pods
//!             ptp + host-local: one veth pair to each pod, 10.66.0.0/24 and fd00:66::/64
//! ```

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use turnpike_testbed::containerd::CniNetwork;
use turnpike_testbed::{ContainerSpec, Containerd, Image, Lab, Node, PodSpec, RuntimeConfig, poll_result};

const SUBNETS: [&str; 2] = ["10.66.0.0/24", "fd00:66::/64"];
const DEADLINE: Duration = Duration::from_secs(30);

fn start(node: &Node) -> Result<Containerd> {
    Containerd::start(node, &RuntimeConfig::new(CniNetwork::reference(&SUBNETS)))
}

fn get(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").context("an HTTP answer")?;
    Ok(body.to_owned())
}

/// Files of a folder of the node, sorted; an absent folder is empty.
fn list(node: &Node, folder: &str) -> Result<Vec<String>> {
    let text = node.text(&["sh", "-c", &format!("ls -A {folder} 2>/dev/null || true")])?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Verifies: a pod gets an address of each family, runs a program, and its removal leaves no sandbox, link,
/// namespace, cgroup or reserved address behind.
#[test]
fn a_pod_runs_busybox_and_its_removal_leaves_nothing() -> Result<()> {
    let lab = Lab::new("runtime-busybox")?;
    let node = lab.node("n1")?;
    let containerd = start(&node)?;
    let links = node.links()?;

    let mut pod = containerd.run_pod(PodSpec::busybox("web-0").sysctl("net.ipv4.tcp_ecn", "1"))?;
    let addresses: Vec<String> = pod.ips().iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.66.0.2", "fd00:66::2"]);
    assert_eq!(pod.exec(&["hostname"])?.trim(), "web-0");
    assert_eq!(pod.exec(&["cat", "/proc/sys/net/ipv4/tcp_ecn"])?.trim(), "1");
    assert!(pod.exec(&["ip", "addr", "show", "eth0"])?.contains("10.66.0.2/"));
    pod.exec(&["ping", "-c", "1", "-W", "5", "10.66.0.1"])?;
    let failed = pod.exec_unchecked(&["sh", "-c", "echo out; echo err >&2; exit 3"], DEADLINE)?;
    assert_eq!((failed.stdout.as_str(), failed.stderr.as_str(), failed.exit_code), ("out\n", "err\n", 3));
    assert_eq!(node.links()?.len(), links.len() + 1);

    let timings = pod.timings();
    assert!(timings.sandbox > Duration::ZERO && timings.containers > Duration::ZERO);
    pod.remove()?;
    assert_eq!(containerd.cri().pod_sandboxes()?, []);
    assert_eq!(node.links()?, links);
    assert_eq!(list(&node, "/run/netns")?, Vec::<String>::new());
    assert_eq!(list(&node, "/var/lib/cni/results")?, Vec::<String>::new());
    let reserved = list(&node, "/var/lib/cni/networks/reference")?;
    assert!(!reserved.iter().any(|name| name.parse::<IpAddr>().is_ok()), "{reserved:?}");
    let cgroup = node.cgroup_path().join("pods");
    let pods = std::fs::read_dir(cgroup)?.flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(pods, 0);
    lab.finish()
}

/// Verifies: Debian's nginx serves from a pod on both families, and logs whom it served.
#[test]
fn nginx_serves_in_a_pod_and_logs_its_clients() -> Result<()> {
    let lab = Lab::new("runtime-nginx")?;
    let node = lab.node("n1")?;
    let containerd = start(&node)?;
    let pod = containerd.run_pod(PodSpec::nginx("www"))?;
    for (ip, port) in [(pod.ipv4()?, 80), (pod.ipv6()?, 80), (pod.ipv4()?, 8080)] {
        let address = SocketAddr::new(ip, port);
        let body = poll_result(DEADLINE, "nginx", || node.in_netns(|| get(address))?)?;
        let (client, client_port) = body.trim().split_once(' ').context("address and port")?;
        let line = format!("{client} {client_port} {ip} {port} \"GET / HTTP/1.0\" 200");
        let line = line.replace(&format!("{} 8080", pod.ipv4()?), &format!("::ffff:{} 8080", pod.ipv4()?));
        let log = pod.exec(&["cat", turnpike_testbed::images::NGINX_ACCESS_LOG])?;
        assert!(log.lines().any(|logged| logged == line), "no {line:?} in\n{log}");
    }
    assert!(pod.log("main")?.contains("start worker process"));
    drop(pod);
    lab.finish()
}

/// Verifies: the programs of the other images find their libraries, and two containers of a pod share its network.
#[test]
fn iperf3_and_python_run_and_two_containers_share_the_pods_network() -> Result<()> {
    let lab = Lab::new("runtime-images")?;
    let node = lab.node("n1")?;
    let containerd = start(&node)?;
    let python = ContainerSpec::new(Image::Python).named("client");
    let client = PodSpec::new("client", python).container(ContainerSpec::new(Image::Iperf3).named("server"));
    let pod = containerd.run_pod(client)?;
    let script = "import socket, ssl, json, ctypes; print(socket.create_connection(('127.0.0.1', 5201)).getpeername())";
    let said = poll_result(DEADLINE, "iperf3 to listen", || pod.exec(&["python3", "-c", script]))?;
    assert_eq!(said.trim(), "('127.0.0.1', 5201)");
    drop(pod);
    lab.finish()
}

/// Verifies: containers outlive containerd, and a containerd that came back can still run and remove pods.
#[test]
fn a_pod_outlives_the_death_of_containerd() -> Result<()> {
    let lab = Lab::new("runtime-restart")?;
    let node = lab.node("n1")?;
    let containerd = start(&node)?;
    let mut pod = containerd.run_pod(PodSpec::busybox("web-0"))?;
    let started = pod.exec(&["stat", "-c", "%Y", "/proc/1"])?;
    containerd.restart()?;
    assert_eq!(pod.exec(&["stat", "-c", "%Y", "/proc/1"])?, started);
    let mut other = containerd.run_pod(PodSpec::busybox("web-1"))?;
    pod.remove()?;
    other.remove()?;
    assert_eq!(containerd.cri().pod_sandboxes()?, []);
    lab.finish()
}

/// Verifies: what a plugin says when it refuses reaches the caller, and nothing is left of the pod.
#[test]
fn a_plugins_error_reaches_the_caller_and_leaves_nothing() -> Result<()> {
    let lab = Lab::new("runtime-refused")?;
    let node = lab.node("n1")?;
    // Of four addresses one is the network, one the gateway's, one the broadcast address: room for one pod.
    let containerd = Containerd::start(&node, &RuntimeConfig::new(CniNetwork::reference(&["10.66.0.0/30"])))?;
    let mut first = containerd.run_pod(PodSpec::busybox("web-0"))?;
    let links = node.links()?;
    let Err(error) = containerd.run_pod(PodSpec::busybox("web-1")) else {
        bail!("two pods share one address")
    };
    let error = format!("{error:#}");
    assert!(error.contains("no IP addresses available"), "{error}");
    assert_eq!(node.links()?, links);
    assert_eq!(containerd.cri().pod_sandboxes()?.len(), 1);
    first.remove()?;
    lab.finish()
}
