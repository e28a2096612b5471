//! Limits in shadow.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::poll::poll_result;
use turnpike_testbed::turnpike_node::TurnpikeConfig;

use crate::{DEADLINE, Scene, pod};

const SHADOW: &str = "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: { name: try }\n\
                      spec: { mode: Shadow, limits: { ingress: 5M, egress: 5M } }\n";

fn qdiscs(scene: &Scene) -> Result<String> {
    scene.node.text(&["sh", "-c", "tc qdisc show; ip -o link show type ifb"])
}

fn counted(scene: &Scene, direction: &str, what: &str) -> Result<u64> {
    let shown = scene.ask(&["bw", "show", "sender"])?;
    let value = shown.pointer(&format!("/{direction}/shadow/{what}")).and_then(Value::as_u64);
    value.with_context(|| format!("no {direction} shadow {what} in {shown:#}"))
}

/// Verifies: a `NodeBandwidth` in shadow makes no queue and no ifb and marks and drops nothing, while `bw show`, `bw top`
/// and the metrics count what its limits would have done in either direction; put in force it limits, taken away it
/// leaves nothing.
#[test]
fn a_limit_in_shadow_counts_and_changes_nothing() -> Result<()> {
    let scene = Scene::set("bw-shadow", TurnpikeConfig::default())?;
    let mut pod = scene.turnpike.run_pod(pod("sender"))?;
    let before = qdiscs(&scene)?;
    scene.turnpike.set_resource("try.yaml", SHADOW)?;
    poll_result(DEADLINE, "the shadow", || counted(&scene, "from_workload", "limit"))?;
    ensure!(counted(&scene, "to_workload", "limit")? == 5_000_000, "another limit");

    // 30 MiB are 50 s of the limit, and its queue holds far less.
    let send = ["iperf3", "-c", "10.1.1.1", "-n", "30M"];
    let receive = ["iperf3", "-c", "10.1.1.1", "-n", "30M", "-R"];
    for (direction, transfer) in [("from_workload", send.as_slice()), ("to_workload", &receive)] {
        poll_result(DEADLINE, "what would have been dropped", || -> Result<()> {
            // Again and again: the agent says what it decides before it is in the maps.
            pod.exec(transfer)?;
            ensure!(counted(&scene, direction, "drops")? > 0, "nothing {direction}");
            let marks = counted(&scene, direction, "marked")? + counted(&scene, direction, "not_capable")?;
            ensure!(marks > 0, "no marks {direction}");
            Ok(())
        })?;
    }
    let shown = scene.ask(&["bw", "show", "sender"])?;
    for direction in ["from_workload", "to_workload"] {
        let direction = &shown[direction];
        ensure!(
            direction["limit"].is_null() && direction["drops"] == 0 && direction["marked"] == 0,
            "{shown:#}"
        );
    }
    ensure!(qdiscs(&scene)? == before, "a limit in shadow made something:\n{}\n{before}", qdiscs(&scene)?);
    let text = scene.ctl(&["bw", "show", "sender"])?;
    ensure!(text.contains("by NodeBandwidth/try spec.limits, not in force"), "{text}");
    let top = scene.ctl(&["bw", "top", "--once"])?;
    println!("{text}\n{top}");
    ensure!(top.contains("shadow default/sender, from the pod: 5M by NodeBandwidth/try"), "{top}");
    let metrics = scene.node.in_netns(crate::show::metrics)??;
    let dropped = "turnpike_pod_bandwidth_shadow_dropped_packets_total{namespace=\"default\",pod=\"sender\"";
    ensure!(metrics.contains(dropped), "{metrics}");

    scene.turnpike.set_resource("try.yaml", &SHADOW.replace("Shadow", "Enforce"))?;
    poll_result(DEADLINE, "the limit", || -> Result<()> {
        let shown = scene.ask(&["bw", "show", "sender"])?;
        ensure!(shown["from_workload"]["limit"] == 5_000_000, "{shown:#}");
        ensure!(shown["from_workload"]["shadow"].is_null(), "{shown:#}");
        ensure!(qdiscs(&scene)?.contains("tbf"), "no queue");
        Ok(())
    })?;
    scene.turnpike.remove_resource("try.yaml")?;
    poll_result(DEADLINE, "nothing left", || -> Result<()> {
        ensure!(qdiscs(&scene)? == before, "{}", qdiscs(&scene)?);
        Ok(())
    })?;
    pod.remove()?;
    drop(pod);
    scene.leave()
}
