//! Chapter 1: real container runtimes start pods through turnpike-cni.

use anyhow::Result;

use super::probe::ask;
use super::story::{Story, ms};
use crate::{ContainerSpec, Containerd, Image, Node, Pod, PodSpec, TurnpikeNode};

/// A server that sends datagrams back.
const ECHO: &str = "\
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('0.0.0.0', 9000))
while True:
    s.sendto(*s.recvfrom(2048))
";

/// The pods of the story.
pub(super) struct Pods {
    pub(super) tool1: Pod,
    pub(super) www1: Pod,
    pub(super) www2: Pod,
    /// Echoes datagrams.
    pub(super) echo2: Pod,
    /// 100M in both directions.
    pub(super) limited1: Pod,
    pub(super) free1: Pod,
    pub(super) free2: Pod,
}

pub(super) fn chapter(story: &mut Story, nodes: [&TurnpikeNode; 2]) -> Result<Pods> {
    story.chapter("containerd starts pods through turnpike-cni");
    let [one, two] = nodes.map(TurnpikeNode::containerd);
    let start = |story: &mut Story, runtime: &Containerd, spec: PodSpec| -> Result<Pod> {
        let pod = runtime.run_pod(spec)?;
        let addresses: Vec<String> = pod.ips().iter().map(ToString::to_string).collect();
        story.claim(
            &format!("{} on {}", pod.name(), runtime.node().name()),
            &format!("{}, sandbox in {}", addresses.join(" and "), ms(pod.timings().sandbox)),
            addresses.len() == 2,
        );
        Ok(pod)
    };
    // The flows shall be cubic, and choosing a congestion control takes a privilege.
    let iperf3 = |name| PodSpec::new(name, ContainerSpec::new(Image::Iperf3).capability("NET_ADMIN"));
    let tool = PodSpec::new("tool-1", ContainerSpec::new(Image::Busybox));
    let echo = ContainerSpec::new(Image::Python).command(&["python3", "-c", ECHO]);
    let pods = Pods {
        tool1: start(story, one, tool)?,
        www1: start(story, one, PodSpec::nginx("www-1"))?,
        www2: start(story, two, PodSpec::nginx("www-2"))?,
        echo2: start(story, two, PodSpec::new("echo-2", echo))?,
        limited1: start(story, one, iperf3("limited-1").bandwidth("100M", "100M"))?,
        free1: start(story, one, iperf3("free-1"))?,
        free2: start(story, two, iperf3("free-2"))?,
    };
    for node in nodes {
        story.prove(&format!("{}: every ADD succeeded", node.node().name()), || adds(node.node()));
    }
    Ok(pods)
}

/// The agent's own account of ADD, from its metrics.
fn adds(node: &Node) -> Result<(String, bool)> {
    let metrics = ask(node, "127.0.0.1:9471".parse()?, "/metrics")?.body;
    let value = |name: &str| -> Result<f64> {
        let of_add = |line: &&str| line.starts_with(name) && line.contains("\"ADD\"");
        let lines = metrics.lines().filter(of_add);
        lines.map(|l| Ok(l.rsplit(' ').next().unwrap_or(l).parse::<f64>()?)).sum()
    };
    let (sum, count) =
        (value("turnpike_request_duration_seconds_sum")?, value("turnpike_request_duration_seconds_count")?);
    let all = value("turnpike_requests_total")?;
    Ok((format!("{count} of {all}, {:.1} ms each on average in the agent", sum / count * 1e3), count > 0.0))
}
