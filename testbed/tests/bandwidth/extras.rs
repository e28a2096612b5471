//! Annotations besides the limits: bursts and exempt ranges.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::poll::poll_result;
use turnpike_testbed::turnpike_node::TurnpikeConfig;

use crate::{DEADLINE, Scene, pod};

fn resource(spec: &str) -> String {
    format!(
        "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: {{ name: base }}\nspec: {spec}\n"
    )
}

/// Bytes that went through the queue in a direction.
fn queued(scene: &Scene, direction: &str) -> Result<u64> {
    let shown = scene.ask(&["bw", "show", "sender"])?;
    let bytes = shown.pointer(&format!("/{direction}/bytes")).and_then(Value::as_u64);
    bytes.with_context(|| format!("no {direction} bytes in {shown:#}"))
}

fn links(scene: &Scene) -> Result<String> {
    scene.node.text(&["sh", "-c", "ip -o link show type ifb; tc qdisc show"])
}

/// Verifies: the annotation's burst is in the kernel's queues as far as `spec.maxBurst` goes, a changed maximum takes effect
/// on the running pod, and `bw show` names who decided; a burst in bytes is refused with the remedy.
#[test]
fn a_burst_is_the_annotations_up_to_the_nodes_maximum() -> Result<()> {
    let config = TurnpikeConfig::default();
    let scene = Scene::set("bw-burst", config)?;
    let spec = pod("sender").bandwidth("100M", "100M");
    let spec = spec.annotation("turnpike.io/ingress-burst", "40ms");
    let mut sender = scene.turnpike.run_pod(spec.annotation("turnpike.io/egress-burst", "900ms"))?;
    // tc shows a bucket in bytes: 40 ms and 50 ms of 100 Mbit/s, the latter less the quarter that goes past the queue.
    let bursts = |wanted: [u64; 2]| {
        poll_result(DEADLINE, "the buckets", || -> Result<()> {
            let all = scene.node.json(&["tc", "-j", "qdisc", "show"])?;
            let tbfs = all.as_array().into_iter().flatten().filter(|qdisc| qdisc["kind"] == "tbf");
            let mut found: Vec<u64> = tbfs
                .filter_map(|tbf| tbf.pointer("/options/burst")?.as_u64())
                .map(|b| b.div_ceil(1000))
                .collect();
            found.sort_unstable();
            ensure!(found == wanted, "{found:?} kB, not {wanted:?}");
            Ok(())
        })
    };
    bursts([469, 500])?;
    let text = scene.ctl(&["bw", "show", "sender"])?;
    println!("{text}");
    ensure!(
        text.contains("burst       40ms = 500kB at once, annotation turnpike.io/ingress-burst"),
        "{text}"
    );
    ensure!(text.contains("burst       50ms = 625kB at once, the longest without a spec.maxBurst"), "{text}");
    scene.turnpike.set_resource("base.yaml", &resource("{ maxBurst: 20ms }"))?;
    bursts([188, 250])?;
    scene.turnpike.remove_resource("base.yaml")?;
    bursts([469, 500])?;

    let wrong = pod("wrong").bandwidth("100M", "100M").annotation("turnpike.io/egress-burst", "10M");
    let refused = scene.turnpike.run_pod(wrong).map(drop);
    let refused = format!("{:#}", refused.err().context("a burst in bytes was taken")?);
    ensure!(refused.contains("turnpike.io/egress-burst: `10M` is not a burst"), "{refused}");
    sender.remove()?;
    drop(sender);
    scene.leave()
}

/// Verifies: traffic with an exempt range passes neither queue, in either direction and with limits in force for everybody
/// else; only what a `NodeBandwidth` allows is exempt, and what it does not is named; taken away it is limited, live;
/// nothing stays behind.
#[test]
fn exempt_ranges_are_not_limited_and_all_others_are() -> Result<()> {
    let allow = resource("{ exemptible: [10.1.1.1/32, \"fd00:1:1::/64\"] }");
    let config = TurnpikeConfig::default().with_resource("base.yaml", &allow);
    let scene = Scene::set("bw-exempt", config)?;
    scene.outside.addr("eth0", "10.1.1.2/24")?;
    let before = links(&scene)?;
    let spec = pod("sender").bandwidth("20M", "20M");
    let ranges = "10.1.1.0/24, fd00:1:1::1/128";
    let mut sender = scene.turnpike.run_pod(spec.annotation("turnpike.io/bandwidth-exempt-cidrs", ranges))?;
    let text = scene.ctl(&["bw", "show", "sender"])?;
    ensure!(text.contains("not limited with 10.1.1.1/32, fd00:1:1::1/128\n"), "{text}");
    ensure!(text.contains("asks to exempt 10.1.1.0/24, which no spec.exemptible holds"), "{text}");
    let issues = scene.ctl(&["status"])?;
    ensure!(issues.contains("asks to exempt 10.1.1.0/24"), "{issues}");

    // 20 MiB each way: what went through a queue would be in its count.
    for to in ["10.1.1.1", "fd00:1:1::1"] {
        for back in [&[][..], &["-R"]] {
            sender.exec(&[&["iperf3", "-c", to, "-n", "20M"], back].concat())?;
        }
    }
    for direction in ["to_workload", "from_workload"] {
        let bytes = queued(&scene, direction)?;
        ensure!(bytes < 1 << 20, "{bytes} bytes of exempt traffic were queued {direction}");
    }
    println!("{text}\n{}", links(&scene)?);
    for (direction, back) in [("from_workload", &[][..]), ("to_workload", &["-R"])] {
        sender.exec(&[&["iperf3", "-c", "10.1.1.2", "-n", "2M"], back].concat())?;
        poll_result(DEADLINE, "the others in the queue", || -> Result<()> {
            let bytes = queued(&scene, direction)?;
            ensure!(bytes > 1 << 20, "{bytes} {direction}");
            Ok(())
        })?;
    }

    scene.turnpike.remove_resource("base.yaml")?;
    poll_result(DEADLINE, "the limit on the host link", || -> Result<()> {
        let now = links(&scene)?;
        ensure!(!now.contains("tpkj"), "{now}");
        Ok(())
    })?;
    let queued_before = queued(&scene, "to_workload")?;
    poll_result(DEADLINE, "what was exempt in the queue", || -> Result<()> {
        sender.exec(&["iperf3", "-c", "10.1.1.1", "-n", "2M", "-R"])?;
        let bytes = queued(&scene, "to_workload")?;
        ensure!(bytes > queued_before && bytes > 1 << 20, "{bytes}");
        Ok(())
    })?;
    sender.remove()?;
    drop(sender);
    poll_result(DEADLINE, "nothing left", || -> Result<()> {
        let now = links(&scene)?;
        ensure!(now == before, "{now}\n{before}");
        Ok(())
    })?;
    scene.leave()
}
