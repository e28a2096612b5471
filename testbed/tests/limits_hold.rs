//! Bandwidth annotations hold, for one flow and for eight, in both directions, on one node and beyond it.
//!
//! ```text
//!   outside 10.1.1.1 ─── eth0 10.1.1.11 n1 ─┬─ tpk… ── limited 100M/100M
//!   (asks for no ECN)                       └─ tpk… ── free
//! ```
//!
//! A limit counts Ethernet frames: 100 Mbit/s of them carry 95.6 Mbit/s of TCP payload. What the machine's other work
//! takes away is no fault of the limiter, so a measurement that falls short is repeated; one that goes over is not.

#![cfg(test)]

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::turnpike_node::{TurnpikeConfig, TurnpikeNode};
use turnpike_testbed::{ContainerSpec, Image, Lab, Node, Pod, PodSpec, Process};

/// Mbit/s of frames.
const LIMIT: f64 = 100.0;
/// TCP payload of a frame: 1448 bytes of 1514 (timestamps on, no frame check sequence).
const PAYLOAD: f64 = 1448.0 / 1514.0;
/// Of the possible payload.
const LEAST_SHARE: f64 = 0.97;
/// Retransmitted segments per segment sent.
const MOST_RETRANSMITS: f64 = 0.02;
/// Of the possible payload, in the first second too.
const MOST_SHARE: f64 = 1.05;
const ATTEMPTS: usize = 4;
const SECONDS: &str = "5";

/// One run of iperf3.
#[derive(Debug)]
struct Transfer {
    /// Payload as received over the whole run, Mbit/s.
    received: f64,
    /// Payload as received in the first second, Mbit/s.
    first_second: f64,
    /// Retransmitted segments per segment sent.
    retransmits: f64,
}

impl Transfer {
    fn share(&self) -> f64 {
        self.received / (LIMIT * PAYLOAD)
    }

    /// What must hold however busy the machine is.
    fn check_ceiling(&self, what: &str) -> Result<()> {
        let most = LIMIT * PAYLOAD * MOST_SHARE;
        ensure!(self.received <= most, "{what}: more than the limit: {self:?}");
        ensure!(self.first_second <= most, "{what}: more than the limit in the first second: {self:?}");
        Ok(())
    }
}

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
}

fn transfer(from: Side<'_>, to: IpAddr, flows: u32) -> Result<Transfer> {
    let (to, flows) = (to.to_string(), flows.to_string());
    let text = from.run(&[
        "iperf3",
        "-J",
        "--get-server-output",
        "-C",
        "cubic",
        "-t",
        SECONDS,
        "-P",
        &flows,
        "-c",
        &to,
    ])?;
    let report: Value = serde_json::from_str(&text).context("iperf3's report")?;
    let number = |path: &str| {
        report.pointer(path).and_then(Value::as_f64).with_context(|| format!("iperf3: no {path}"))
    };
    let server = report
        .pointer("/server_output_text")
        .and_then(Value::as_str)
        .with_context(|| format!("no report of the server's in {text}"))?;
    Ok(Transfer {
        received: number("/end/sum_received/bits_per_second")? / 1e6,
        first_second: first_second(server).with_context(|| format!("no first second in:\n{server}"))?,
        retransmits: number("/end/sum_sent/retransmits")? / (number("/end/sum_sent/bytes")? / 1448.0),
    })
}

/// Mbit/s of the first second in the server's table: the sum line where there are several flows.
fn first_second(table: &str) -> Option<f64> {
    let lines: Vec<&str> = table.lines().filter(|line| line.contains(" 0.00-1.00 ")).collect();
    let line = lines.iter().find(|line| line.contains("[SUM]")).or(lines.first())?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit = words.iter().position(|word| word.ends_with("bits/sec"))?;
    let number: f64 = words.get(unit.checked_sub(1)?)?.parse().ok()?;
    let scale = match *words.get(unit)? {
        "Gbits/sec" => 1000.0,
        "Kbits/sec" => 0.001,
        _ => 1.0,
    };
    Some(number * scale)
}

/// Measures until the limiter has had its chance, and prints each attempt.
fn prove(what: &str, from: Side<'_>, to: IpAddr, flows: u32) -> Result<()> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let seen = transfer(from, to, flows).with_context(|| what.to_owned())?;
        println!(
            "{what}, {flows} flows: {:.2} Mbit/s ({:.1} %), first second {:.1}, {:.2} % retransmitted",
            seen.received,
            seen.share() * 100.0,
            seen.first_second,
            seen.retransmits * 100.0
        );
        seen.check_ceiling(what)?;
        if seen.share() >= LEAST_SHARE && seen.retransmits <= MOST_RETRANSMITS {
            return Ok(());
        }
        last = Some(seen);
    }
    anyhow::bail!("{what}, {flows} flows: {last:?} after {ATTEMPTS} attempts")
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
        server.wait_log("Server listening", std::time::Duration::from_secs(10))?;
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

/// Verifies: between 97 % and 105 % of the limit, at most 2 % retransmitted, for traffic that leaves the node. What
/// comes from outside asks for no ECN; what the pod sends does.
#[test]
fn a_limit_holds_beyond_the_node() -> Result<()> {
    let scene = Scene::set("limits-outside")?;
    let (limited, _, outside) = addresses(&scene)?;
    for flows in [1, 8] {
        prove("outside to pod", Side::Node(&scene.outside), limited, flows)?;
        prove("pod to outside", Side::Pod(&scene.limited), outside, flows)?;
    }
    prove("outside to pod, IPv6", Side::Node(&scene.outside), scene.limited.ipv6()?, 1)?;
    scene.leave()
}

/// Verifies: the same between two pods of one node, where no traffic passes an uplink.
#[test]
fn a_limit_holds_between_pods_of_one_node() -> Result<()> {
    let scene = Scene::set("limits-inside")?;
    let (limited, free, _) = addresses(&scene)?;
    for flows in [1, 8] {
        prove("pod to limited pod", Side::Pod(&scene.free), limited, flows)?;
        prove("limited pod to pod", Side::Pod(&scene.limited), free, flows)?;
    }
    scene.leave()
}

/// Verifies: a limit stays while the agent is dead, and when it comes back.
#[test]
fn a_limit_outlives_the_agent() -> Result<()> {
    let scene = Scene::set("limits-restart")?;
    let (limited, free, _) = addresses(&scene)?;
    scene.turnpike.kill_agent()?;
    prove("to the pod, agent dead", Side::Pod(&scene.free), limited, 1)?;
    scene.turnpike.start_agent()?;
    prove("from the pod, agent back", Side::Pod(&scene.limited), free, 1)?;
    scene.leave()
}

#[test]
fn the_first_second_is_read_from_the_servers_table() {
    let one = "[ ID] Interval           Transfer     Bitrate\n\
               [  5]   0.00-1.00   sec  11.5 MBytes  96.5 Mbits/sec\n\
               [  5]   1.00-2.00   sec  11.4 MBytes  95.6 Mbits/sec\n";
    assert_eq!(first_second(one), Some(96.5));
    let two = "[  5]   0.00-1.00   sec  5.5 MBytes  46.5 Mbits/sec\n\
               [SUM]   0.00-1.00   sec  1.1 GBytes  9.65 Gbits/sec\n";
    assert_eq!(first_second(two), Some(9650.0));
    assert_eq!(first_second("nothing"), None);
}
