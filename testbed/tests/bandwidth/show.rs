//! What an SRE sees.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Result, ensure};
use turnpike_testbed::poll::poll_result;
use turnpike_testbed::turnpike_node::TurnpikeConfig;

use crate::{DEADLINE, Scene, pod};

pub(crate) fn metrics() -> Result<String> {
    let mut stream = TcpStream::connect("127.0.0.1:9471")?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

const CEILING: &str = "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: { name: base }\n\
                       spec: { limits: { ingress: 50M } }\n";

/// Verifies: `bw show` names the source that decided each limit; rates of pod and uplink appear while traffic flows;
/// the same numbers are in `bw top` and among the metrics.
#[test]
fn show_and_top_tell_limits_sources_and_rates() -> Result<()> {
    let config = TurnpikeConfig::default().with_resource("bandwidth.yaml", CEILING);
    let scene = Scene::set("bw-show", config)?;
    let mut pod = scene.turnpike.run_pod(pod("sender").bandwidth("100M", "20M"))?;
    let address = pod.ipv4()?.to_string();

    let shown = scene.ask(&["bw", "show", &address])?;
    ensure!(shown["to_workload"]["limit"] == 50_000_000, "{shown:#}");
    ensure!(shown["to_workload"]["decided_by"] == "NodeBandwidth/base spec.limits", "{shown:#}");
    ensure!(shown["from_workload"]["limit"] == 20_000_000, "{shown:#}");
    let annotation = "annotation kubernetes.io/egress-bandwidth";
    ensure!(shown["from_workload"]["decided_by"] == annotation, "{shown:#}");
    let text = scene.ctl(&["bw", "show", "sender"])?;
    ensure!(text.contains("20Mbit/s = 2.50MB/s, decided by annotation"), "{text}");

    let sender = pod.spawn("iperf3", &["iperf3", "-c", "10.1.1.1", "-t", "60"])?;
    poll_result(DEADLINE, "rates of the pod and of its uplink", || -> Result<()> {
        let report = scene.ask(&["bw", "top"])?;
        let rate = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
        ensure!(rate(&report["pods"][0]["from_workload"]["rates"]["last_1s"]) > 1_000_000, "{report:#}");
        ensure!(rate(&report["uplinks"][0]["sent"]["last_1s"]) > 1_000_000, "{report:#}");
        ensure!(report["uplinks"][0]["name"] == "eth0", "{report:#}");
        Ok(())
    })?;
    let top = scene.ctl(&["bw", "top", "--once"])?;
    println!("{top}\n{}", scene.ctl(&["bw", "show", "sender"])?);
    ensure!(top.contains("uplink eth0: ") && top.contains("sender"), "{top}");
    let metrics = scene.node.in_netns(metrics)??;
    let limit = "turnpike_pod_bandwidth_limit_bits_per_second{namespace=\"default\",pod=\"sender\"";
    ensure!(metrics.lines().any(|line| line.starts_with(limit) && line.ends_with(" 20000000")), "{metrics}");
    ensure!(metrics.contains("turnpike_uplink_sent_bits_per_second{link=\"eth0\"}"), "{metrics}");
    drop(sender);
    pod.remove()?;
    drop(pod);
    scene.leave()
}
