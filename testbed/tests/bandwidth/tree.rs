//! The node tree under load.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::poll::poll_result;
use turnpike_testbed::turnpike_node::TurnpikeConfig;
use turnpike_testbed::{Pod, Process};

use crate::{DEADLINE, Scene, pod, serve};

const M: u64 = 1_000_000;
const HOST: u64 = 40 * M;
const ONLINE: u64 = 40 * M;
const OFFLINE: u64 = 10 * M;

fn tree(offline_ceiling: &str) -> String {
    format!(
        "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: {{ name: shares }}\nspec:\n  tree:\n    \
         speed: 100M\n    host: {{ guarantee: {HOST} }}\n    defaultClass: online\n    classes:\n      \
         online: {{ guarantee: {ONLINE} }}\n      \
         offline: {{ guarantee: {OFFLINE}, ceiling: {offline_ceiling} }}\n"
    )
}

/// Bits per second of every class in the last second, by name.
struct Classes(Value);

impl Classes {
    fn now(scene: &Scene) -> Result<Self> {
        Ok(Self(scene.ask(&["bw", "top"])?["uplinks"][0]["classes"].clone()))
    }

    fn rate(&self, name: &str) -> Result<u64> {
        let class = self.0.as_array().into_iter().flatten().find(|class| class["name"] == name);
        let class = class.with_context(|| format!("no class {name} in {:#}", self.0))?;
        class["sent"]["last_1s"].as_u64().with_context(|| format!("no rate yet: {class:#}"))
    }
}

fn root(scene: &Scene) -> Result<String> {
    let all = scene.node.text(&["tc", "qdisc", "show", "dev", "eth0"])?;
    let root = all.lines().find(|line| line.contains(" root ")).context("a root qdisc")?;
    Ok(root.split(" refcnt").next().unwrap_or_default().to_owned())
}

fn send(from: &Pod, to: &str, port: &str) -> Result<Process> {
    from.spawn("iperf3", &["iperf3", "-c", to, "-p", port, "-P", "4", "-t", "300"])
}

/// Verifies: a class borrows up to its ceiling; host and classes keep their guarantees while pods saturate the uplink,
/// IPv4 and IPv6; a changed ceiling is in force without resetting the flow; the tree outlives the agent; without the
/// resource the uplink has the qdisc that was found.
#[test]
fn shares_of_the_uplink_hold_and_go_without_a_trace() -> Result<()> {
    let scene = Scene::set_up("bw-tree", TurnpikeConfig::default(), |node| {
        node.run(&[
            "tc", "qdisc", "replace", "dev", "eth0", "root", "handle", "12:", "pfifo", "limit", "77",
        ])?;
        Ok(())
    })?;
    let found = root(&scene)?;
    ensure!(found.contains("pfifo 12: root"), "{found}");
    scene.turnpike.set_resource("shares.yaml", &tree("30M"))?;
    let annotation = "turnpike.io/bandwidth-class";
    let mut online = scene.turnpike.run_pod(pod("online"))?;
    let mut offline = scene.turnpike.run_pod(pod("offline").annotation(annotation, "offline"))?;
    let servers = [serve(&scene.outside, "5202")?, serve(&scene.outside, "5203")?];

    let borrower = send(&offline, "fd00:1:1::1", "5201")?;
    poll_result(DEADLINE, "the offline class to borrow, up to its ceiling", || -> Result<()> {
        let rate = Classes::now(&scene)?.rate("offline")?;
        ensure!(rate > 2 * OFFLINE && rate < 33 * M, "offline sends {rate}");
        Ok(())
    })?;

    let busy = send(&online, "10.1.1.1", "5202")?;
    let mut host = scene.node.command("iperf3")?;
    host.args(["-c", "10.1.1.1", "-p", "5203", "-t", "300"]);
    let host = scene.node.spawn("iperf3", host)?;
    poll_result(DEADLINE, "everybody to have its guarantee", || -> Result<()> {
        let classes = Classes::now(&scene)?;
        for (name, guarantee) in [("host", HOST), ("online", ONLINE), ("offline", OFFLINE)] {
            let rate = classes.rate(name)?;
            ensure!(rate * 100 > guarantee * 85, "{name} sends {rate} of {guarantee}: {:#}", classes.0);
        }
        Ok(())
    })?;
    println!("{}", scene.ctl(&["bw", "top", "--once"])?);
    drop((busy, host));

    scene.turnpike.set_resource("shares.yaml", &tree("70M"))?;
    poll_result(DEADLINE, "the new ceiling", || -> Result<()> {
        let rate = Classes::now(&scene)?.rate("offline")?;
        ensure!(rate > 40 * M, "offline sends {rate}");
        Ok(())
    })?;
    ensure!(borrower.try_wait()?.is_none(), "the flow was reset: {}", borrower.log());

    scene.turnpike.kill_agent()?;
    ensure!(root(&scene)?.contains("htb 7470: root"), "the tree went with the agent");
    scene.turnpike.start_agent()?;
    scene.turnpike.remove_resource("shares.yaml")?;
    scene.turnpike.set_resource("nothing.yaml", "# no bandwidth\n")?;
    poll_result(DEADLINE, "the qdisc that was found", || -> Result<()> {
        let now = root(&scene)?;
        ensure!(now == found, "{now} instead of {found}");
        Ok(())
    })?;
    drop((borrower, servers));
    online.remove()?;
    offline.remove()?;
    drop((online, offline));
    scene.leave()
}
