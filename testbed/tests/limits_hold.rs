//! Bandwidth annotations hold, for one flow and for eight, in both directions, on one node and beyond it.
//!
//! ```text
//!   outside 10.1.1.1 ─── eth0 10.1.1.11 n1 ─┬─ tpk… ── limited 100M/100M
//!   (asks for no ECN)                       └─ tpk… ── free
//! ```
//!
//! A limit counts Ethernet frames. That it is never exceeded is read from the kernel: between any two looks at the
//! queue's counter no more has left it than the time between them allows. That holds on a busy machine too, and so do
//! counts of what was lost; how close to the limit traffic comes is claimed by the demo and by `cargo xtask bench`.

#![cfg(test)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;
use turnpike_testbed::turnpike_node::{TurnpikeConfig, TurnpikeNode};
use turnpike_testbed::{ContainerSpec, Image, Lab, Node, Pod, PodSpec, Process, poll_result};

/// Bytes of frames in a second.
const LIMIT: f64 = 100e6 / 8.0;
/// What may leave at once: the bucket's 10 ms, and a few frames.
const BURST: f64 = LIMIT * 0.010 + 6.0 * 1514.0;
/// The kernel rounds the time that a byte takes.
const ROUNDING: f64 = 1.005;
/// Of a second's bytes: enough to have filled the queue many times.
const LEAST_SECONDS: f64 = 1.0;
/// Retransmitted segments per segment sent.
const MOST_RETRANSMITS: f64 = 0.02;
/// A busy machine loses packets of its own.
const ATTEMPTS: usize = 4;
const SECONDS: &str = "3";
const DEADLINE: Duration = Duration::from_secs(60);

/// Where iperf3 runs.
#[derive(Clone, Copy)]
enum Side<'a> {
    Pod(&'a Pod),
    Node(&'a Node),
}

impl Side<'_> {
    fn run(self, argv: &[&str]) -> Result<String> {
        match self {
            Self::Pod(pod) => pod.exec(argv),
            Self::Node(node) => node.text(argv),
        }
    }

    /// Retransmitted segments per segment sent, of one run of iperf3.
    fn send(self, to: IpAddr, flows: u32) -> Result<f64> {
        let (to, flows) = (to.to_string(), flows.to_string());
        let text = self.run(&["iperf3", "-J", "-C", "cubic", "-t", SECONDS, "-P", &flows, "-c", &to])?;
        let report: Value = serde_json::from_str(&text).context("iperf3's report")?;
        let number = |path: &str| {
            report.pointer(path).and_then(Value::as_f64).with_context(|| format!("iperf3: no {path}"))
        };
        Ok(number("/end/sum_sent/retransmits")? / (number("/end/sum_sent/bytes")? / 1448.0))
    }
}

/// A look at a queue's counter: it stood at `bytes` at some time between the two.
#[derive(Debug, Clone, Copy)]
struct Look {
    before: Instant,
    bytes: f64,
    after: Instant,
}

impl Look {
    /// At the queue of the pod's only limit in this direction.
    fn at(node: &Node, link_prefix: &str) -> Result<Self> {
        let before = Instant::now();
        let text = node.text(&["tc", "-j", "-s", "qdisc", "show"])?;
        let after = Instant::now();
        let all: Vec<Value> = serde_json::from_str(&text).context("tc's answer")?;
        let ours: Vec<&Value> = all
            .iter()
            .filter(|qdisc| {
                let link = qdisc["dev"].as_str().unwrap_or_default();
                let rest = link.strip_prefix(link_prefix).unwrap_or_default();
                qdisc["kind"] == "tbf" && !rest.is_empty() && !rest.starts_with('i')
            })
            .collect();
        let [queue] = ours.as_slice() else { bail!("not one queue on {link_prefix}…: {ours:?}") };
        let bytes = queue["bytes"].as_f64().context("a queue without a count")?;
        Ok(Self { before, bytes, after })
    }
}

/// Between no two looks has more left the queue than the limit lets go.
fn check_ceiling(looks: &[Look]) -> Result<()> {
    for (number, late) in looks.iter().enumerate() {
        for early in &looks[..number] {
            let most = (late.after - early.before).as_secs_f64() * LIMIT * ROUNDING + BURST;
            let left = late.bytes - early.bytes;
            ensure!(left <= most, "{left} bytes where {most:.0} may leave, between {early:?} and {late:?}");
        }
    }
    Ok(())
}

/// Sends until the limiter has had its chance, and prints each attempt.
fn prove(scene: &Scene, what: &str, from: Side<'_>, to: IpAddr, flows: u32) -> Result<()> {
    let towards_pod = to == scene.limited.ipv4()? || to == scene.limited.ipv6()?;
    let queue = if towards_pod { "tpk" } else { "tpki" };
    for _ in 0..ATTEMPTS {
        let mut looks = vec![Look::at(scene.turnpike.node(), queue)?];
        let lost = thread::scope(|scope| {
            let transfer = scope.spawn(|| from.send(to, flows));
            poll_result(DEADLINE, "iperf3 to end", || {
                let over = transfer.is_finished();
                looks.push(Look::at(scene.turnpike.node(), queue)?);
                ensure!(over, "it still runs");
                Ok(())
            })?;
            transfer.join().map_err(|_| anyhow!("iperf3's thread panicked"))?
        })
        .with_context(|| what.to_owned())?;
        check_ceiling(&looks).with_context(|| format!("{what}, {flows} flows"))?;
        let (Some(first), Some(last)) = (looks.first(), looks.last()) else { bail!("no looks") };
        let sent = (last.bytes - first.bytes) / LIMIT;
        println!(
            "{what}, {flows} flows: {sent:.2} s of the limit in {} looks, {:.2} % retransmitted",
            looks.len(),
            lost * 100.0
        );
        if sent >= LEAST_SECONDS && lost <= MOST_RETRANSMITS {
            return Ok(());
        }
    }
    bail!("{what}, {flows} flows: too little or too much lost in {ATTEMPTS} attempts")
}

struct Scene {
    lab: Lab,
    turnpike: TurnpikeNode,
    outside: Node,
    limited: Pod,
    free: Pod,
    _server: Process,
}

impl Scene {
    fn set(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (n1, outside) = (lab.node("n1")?, lab.node("outside")?);
        lab.link(&n1, "eth0", &outside, "eth0")?;
        for (inner, outer, block) in [
            ("10.1.1.11/24", "10.1.1.1/24", "10.244.1.0/26"),
            ("fd00:1:1::11/64", "fd00:1:1::1/64", "fd00:244::100/122"),
        ] {
            n1.addr("eth0", inner)?;
            outside.addr("eth0", outer)?;
            let ip = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
            n1.route(&format!("default via {}", ip(outer)))?;
            outside.route(&format!("{block} via {}", ip(inner)))?;
        }
        let config = TurnpikeConfig::default().with_blocks(
            "n1",
            ("10.244.0.0/16", "10.244.1.0/26"),
            ("fd00:244::/48", "fd00:244::100/122"),
        );
        let turnpike = TurnpikeNode::start(&n1, &config)?;
        // Choosing a congestion control that is not the machine's default takes CAP_NET_ADMIN.
        let pod = |name| PodSpec::new(name, ContainerSpec::new(Image::Iperf3).capability("NET_ADMIN"));
        let limited = turnpike.run_pod(pod("limited").bandwidth("100M", "100M"))?;
        let free = turnpike.run_pod(pod("free"))?;
        let mut server = outside.command("iperf3")?;
        server.args(["-s", "--forceflush"]);
        let server = outside.spawn("iperf3", server)?;
        server.wait_log("Server listening", Duration::from_secs(10))?;
        Ok(Self { lab, turnpike, outside, limited, free, _server: server })
    }

    fn leave(mut self) -> Result<()> {
        self.limited.remove()?;
        self.free.remove()?;
        drop((self.limited, self.free, self._server, self.turnpike));
        self.lab.finish()
    }
}

fn addresses(scene: &Scene) -> Result<(IpAddr, IpAddr, IpAddr)> {
    Ok((scene.limited.ipv4()?, scene.free.ipv4()?, "10.1.1.1".parse()?))
}

/// Verifies: never more than the limit, at most 2 % retransmitted, for traffic that leaves the node. What comes from
/// outside asks for no ECN; what the pod sends does.
#[test]
fn a_limit_holds_beyond_the_node() -> Result<()> {
    let scene = Scene::set("limits-outside")?;
    let (limited, _, outside) = addresses(&scene)?;
    for flows in [1, 8] {
        prove(&scene, "outside to pod", Side::Node(&scene.outside), limited, flows)?;
        prove(&scene, "pod to outside", Side::Pod(&scene.limited), outside, flows)?;
    }
    prove(&scene, "outside to pod, IPv6", Side::Node(&scene.outside), scene.limited.ipv6()?, 1)?;
    scene.leave()
}

/// Verifies: the same between two pods of one node, where no traffic passes an uplink.
#[test]
fn a_limit_holds_between_pods_of_one_node() -> Result<()> {
    let scene = Scene::set("limits-inside")?;
    let (limited, free, _) = addresses(&scene)?;
    for flows in [1, 8] {
        prove(&scene, "pod to limited pod", Side::Pod(&scene.free), limited, flows)?;
        prove(&scene, "limited pod to pod", Side::Pod(&scene.limited), free, flows)?;
    }
    scene.leave()
}

/// Verifies: the agent makes a queue for each busy flow when a limit has begun to hold traffic back, and not before.
#[test]
fn busy_flows_get_queues_of_their_own() -> Result<()> {
    let scene = Scene::set("limits-queues")?;
    let node = scene.turnpike.node();
    let before = flow_queues(node)?;
    if before.is_empty() {
        ensure!(node.text(&["tc", "qdisc", "show"])?.contains("qdisc fq 7472:"), "neither HTB nor fq");
        return scene.leave();
    }
    ensure!(before.values().eq(&[2, 2]), "{before:?}");
    Side::Node(&scene.outside).send(scene.limited.ipv4()?, 8)?;
    poll_result(DEADLINE, "queues for flows to the pod", || {
        let now = flow_queues(node)?;
        ensure!(now.values().any(|count| *count == 18), "{now:?}");
        Ok(())
    })?;
    scene.leave()
}

/// Classes of limits, by the link that has them.
fn flow_queues(node: &Node) -> Result<BTreeMap<String, usize>> {
    let qdiscs = node.text(&["tc", "-j", "qdisc", "show"])?;
    let qdiscs: Vec<Value> = serde_json::from_str(&qdiscs).context("tc's answer")?;
    let links = qdiscs.iter().filter(|qdisc| qdisc["kind"] == "htb" && qdisc["handle"] == "7471:");
    links
        .filter_map(|qdisc| qdisc["dev"].as_str())
        .map(|link| {
            let classes = node.text(&["tc", "class", "show", "dev", link])?;
            Ok((link.to_owned(), classes.matches("class htb 7471:").count()))
        })
        .collect()
}

/// Verifies: a limit stays while the agent is dead, and when it comes back.
#[test]
fn a_limit_outlives_the_agent() -> Result<()> {
    let scene = Scene::set("limits-restart")?;
    let (limited, free, _) = addresses(&scene)?;
    scene.turnpike.kill_agent()?;
    prove(&scene, "to the pod, agent dead", Side::Pod(&scene.free), limited, 1)?;
    scene.turnpike.start_agent()?;
    prove(&scene, "from the pod, agent back", Side::Pod(&scene.limited), free, 1)?;
    scene.leave()
}
