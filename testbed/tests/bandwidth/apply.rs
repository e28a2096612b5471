//! Plan, trial, confirmation, and the way back.

use anyhow::{Context as _, Result, ensure};
use turnpike_testbed::poll::poll_result;
use turnpike_testbed::turnpike_node::{RESOURCES, TurnpikeConfig};

use crate::{DEADLINE, Scene, pod};

fn ceiling(rate: &str) -> String {
    format!(
        "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: {{ name: base }}\n\
         spec: {{ limits: {{ egress: {rate} }} }}\n"
    )
}

fn limit(scene: &Scene) -> Result<u64> {
    let shown = scene.ask(&["bw", "show", "sender"])?;
    shown["from_workload"]["limit"].as_u64().with_context(|| format!("no limit: {shown:#}"))
}

fn wait_limit(scene: &Scene, wanted: u64) -> Result<()> {
    poll_result(DEADLINE, "the limit", || -> Result<()> {
        let limit = limit(scene)?;
        ensure!(limit == wanted, "{limit} instead of {wanted}");
        Ok(())
    })
}

const FILE: &str = "bandwidth.yaml";

/// Verifies: `bw plan` names the pod that a lower limit would have held back and changes nothing; a restart of the agent
/// loses none of the history; `bw apply` is taken
/// back by itself, also when the agent was dead meanwhile; with `bw confirm` it stays; each is in the audit log.
#[test]
fn a_change_is_planned_tried_and_taken_back_unless_confirmed() -> Result<()> {
    let before = ceiling("80M");
    let scene = Scene::set("bw-apply", TurnpikeConfig::default().with_resource(FILE, &before))?;
    let mut pod = scene.turnpike.run_pod(pod("sender"))?;
    for (file, rate) in [("/tmp/low.yaml", "5M"), ("/tmp/middle.yaml", "60M"), ("/tmp/slip.yaml", "10MB")] {
        scene.node.write_file(file, ceiling(rate))?;
    }

    let sender = pod.spawn("iperf3", &["iperf3", "-c", "10.1.1.1", "-t", "300"])?;
    poll_result(DEADLINE, "history of a busy pod", || -> Result<()> {
        let plan = scene.ask(&["bw", "plan", "-f", "/tmp/low.yaml"])?;
        let rows = plan["rows"].as_array().context("rows")?;
        let row =
            rows.iter().find(|row| row["name"] == "default/sender" && row["direction"] == "from the pod");
        let row = row.with_context(|| format!("no row of the sender's in {plan:#}"))?;
        ensure!(row["seconds"].as_u64() >= Some(2), "{row:#}");
        ensure!(row["before"] == 80_000_000 && row["after"] == 5_000_000, "{row:#}");
        Ok(())
    })?;
    let seconds = |plan: &serde_json::Value| plan["history_s"].as_u64().context("seconds of history");
    let recorded = seconds(&scene.ask(&["bw", "plan", "-f", "/tmp/low.yaml"])?)?;
    scene.turnpike.stop_agent()?;
    scene.turnpike.start_agent()?;
    let after = seconds(&scene.ask(&["bw", "plan", "-f", "/tmp/low.yaml"])?)?;
    ensure!(after >= recorded, "{after} of {recorded} seconds are left after a restart");
    let plan = scene.ctl(&["bw", "plan", "-f", "/tmp/low.yaml"])?;
    println!("{plan}");
    ensure!(plan.contains("default/sender  from the pod  80M        5M"), "{plan}");
    ensure!(limit(&scene)? == 80_000_000, "a plan changed something");
    let slip = scene.ctl(&["bw", "apply", "-f", "/tmp/slip.yaml", "--confirm", "0"]);
    let slip = format!("{:#}", slip.err().context("10MB was taken")?);
    println!("{slip}");
    ensure!(slip.contains("write 80M for 10 MB/s"), "{slip}");
    drop(sender);

    let said = scene.ctl(&["bw", "apply", "-f", "/tmp/low.yaml", "--confirm", "2s"])?;
    println!("{said}");
    ensure!(said.contains("on trial") && said.contains("turnpike bw confirm"), "{said}");
    scene.turnpike.kill_agent()?;
    scene.turnpike.start_agent()?;
    wait_limit(&scene, 80_000_000)?;
    let path = format!("{RESOURCES}/{FILE}");
    ensure!(scene.node.read_file(&path)? == before, "the file is not what it was");

    scene.ctl(&["bw", "apply", "-f", "/tmp/low.yaml", "--confirm", "1h"])?;
    wait_limit(&scene, 5_000_000)?;
    let top = scene.ctl(&["bw", "top", "--once"])?;
    ensure!(top.contains("ON TRIAL by"), "{top}");
    scene.ctl(&["bw", "rollback"])?;
    wait_limit(&scene, 80_000_000)?;

    scene.ctl(&["bw", "apply", "-f", "/tmp/middle.yaml", "--confirm", "1h"])?;
    scene.ctl(&["bw", "confirm"])?;
    wait_limit(&scene, 60_000_000)?;
    ensure!(scene.node.read_file(&path)? == ceiling("60M"), "the file is not what was applied");
    ensure!(scene.ctl(&["bw", "confirm"]).is_err(), "nothing is on trial any more");

    let audit = scene.node.read_file("/var/lib/turnpike/audit.log")?;
    let actions: Vec<String> = audit
        .lines()
        .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["action"].to_string()))
        .collect::<Result<_>>()?;
    let expected =
        ["apply", "expired", "apply", "rollback", "apply", "confirm"].map(|action| format!("\"{action}\""));
    ensure!(actions == expected, "{audit}");
    pod.remove()?;
    drop(pod);
    scene.leave()
}
