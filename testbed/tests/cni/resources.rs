//! Pools as operators change them while pods run.

use anyhow::{Context as _, Result, ensure};
use turnpike_testbed::turnpike_node::{RESOURCES, TurnpikeConfig, TurnpikeNode};
use turnpike_testbed::{Lab, PodSpec};

use super::{start, wire};

/// A pool, in its own file, with one block that node n1 owns.
fn pool(name: &str, range: &str, block_size: u8, state: &str, block: &str) -> String {
    format!(
        "apiVersion: turnpike.io/v1alpha1\nkind: IPPool\nmetadata: {{ name: {name} }}\n\
         spec: {{ cidr: {range}, blockSize: {block_size}, state: {state} }}\n\
         ---\napiVersion: turnpike.io/v1alpha1\nkind: IPBlock\nmetadata: {{ name: {name}-n1 }}\n\
         spec: {{ cidr: {block}, pool: {name}, node: n1 }}\n"
    )
}

fn wait_pool_state(turnpike: &TurnpikeNode, name: &str, state: &str) -> Result<()> {
    turnpike.wait_status(&format!("pool {name} to be {state}"), |status| {
        let pool = status.pools.iter().find(|pool| pool.name == name).context("no such pool")?;
        ensure!(pool.state == state, "it is {}", pool.state);
        Ok(())
    })
}

/// Verifies: an exhausted pool is an error that names it, the node stays Ready for the runtime, and the address of a
/// pod that goes serves the next one.
#[test]
fn an_exhausted_pool_is_named_and_serves_again() -> Result<()> {
    let lab = Lab::new("cni-exhausted")?;
    let (n1, _outside) = wire(&lab)?;
    let tiny = pool("tiny", "10.50.0.0/24", 30, "Active", "10.50.0.4/30");
    let turnpike = TurnpikeNode::start(&n1, &TurnpikeConfig::default().with_resource("tiny.yaml", &tiny))?;
    let total = turnpike.status()?.blocks.first().context("a block")?.total;
    let mut pods = (0..total)
        .map(|number| turnpike.run_pod(PodSpec::busybox(&format!("p{number}"))))
        .collect::<Result<Vec<_>>>()?;
    let error = turnpike.run_pod(PodSpec::busybox("late")).map(drop).expect_err("one pod too many");
    assert!(format!("{error:#}").contains("tiny"), "{error:#}");
    assert_eq!(turnpike.containerd().network_problem()?, None);
    let freed = pods.pop().context("a pod")?.ips().to_vec();
    let late = turnpike.run_pod(PodSpec::busybox("late"))?;
    assert_eq!(late.ips(), freed);
    drop((pods, late));
    lab.finish()
}

/// Verifies: a pod of a draining pool keeps its address and its traffic; a new pod's address comes from another pool.
#[test]
fn a_draining_pool_keeps_its_pods_and_takes_no_new_ones() -> Result<()> {
    let lab = Lab::new("cni-draining")?;
    let (n1, _outside) = wire(&lab)?;
    let old = |state| pool("old", "10.50.0.0/16", 26, state, "10.50.1.0/26");
    let config = TurnpikeConfig::default().with_resource("old.yaml", &old("Active"));
    let turnpike = TurnpikeNode::start(&n1, &config)?;
    let mut first = turnpike.run_pod(PodSpec::busybox("first"))?;
    turnpike.set_resource("new.yaml", &pool("new", "10.60.0.0/16", 26, "Active", "10.60.1.0/26"))?;
    turnpike.set_resource("old.yaml", &old("Draining"))?;
    wait_pool_state(&turnpike, "old", "Draining")?;
    wait_pool_state(&turnpike, "new", "Active")?;
    let mut second = turnpike.run_pod(PodSpec::busybox("second"))?;
    assert!(first.ipv4()?.to_string().starts_with("10.50.1."), "{:?}", first.ips());
    assert!(second.ipv4()?.to_string().starts_with("10.60.1."), "{:?}", second.ips());
    first.exec(&["ping", "-c", "1", "-W", "5", &second.ipv4()?.to_string()])?;
    second.remove()?;
    first.remove()?;
    lab.finish()
}

/// Verifies: a released address rests before another pod gets it, and the rest outlives the agent.
#[test]
fn a_released_address_rests_even_over_the_agents_death() -> Result<()> {
    let lab = Lab::new("cni-cooldown")?;
    let (n1, _outside) = wire(&lab)?;
    let tiny = pool("tiny", "10.50.0.0/24", 30, "Active", "10.50.0.4/30");
    let mut config = TurnpikeConfig::default().with_resource("tiny.yaml", &tiny);
    config.agent = "[ipam]\ncooldown_seconds = 3600\n".parse()?;
    let turnpike = TurnpikeNode::start(&n1, &config)?;
    let total = turnpike.status()?.blocks.first().context("a block")?.total;
    for number in 0..total {
        turnpike.run_pod(PodSpec::busybox(&format!("p{number}")))?.remove()?;
    }
    turnpike.kill_agent()?;
    turnpike.start_agent()?;
    let block = turnpike.status()?.blocks.into_iter().next().context("a block")?;
    assert_eq!((block.used, block.cooling), (0, total));
    let error = turnpike.run_pod(PodSpec::busybox("late")).map(drop).expect_err("a resting address");
    assert!(format!("{error:#}").contains("tiny"), "{error:#}");
    lab.finish()
}

/// Verifies: a mistake in a resource is named by file, line and field, and what was in force stays in force.
#[test]
fn a_wrong_resource_is_named_and_the_last_good_state_stays() -> Result<()> {
    let lab = Lab::new("cni-mistake")?;
    let (turnpike, _outside) = start(&lab)?;
    let good = turnpike.node().read_file(format!("{RESOURCES}/pools.yaml"))?;
    turnpike.set_resource("pools.yaml", &good.replacen("cidr:", "cdir:", 1))?;
    let complaint = turnpike.wait_status("the complaint", |status| {
        ensure!(!status.source.errors.is_empty(), "no complaint");
        Ok(status.source.errors.join("\n"))
    })?;
    for part in ["pools.yaml", "5", "cdir"] {
        assert!(complaint.contains(part), "{part} is not in {complaint}");
    }
    let mut pod = turnpike.run_pod(PodSpec::busybox("unmoved"))?;
    assert_eq!(pod.ips().len(), 2);
    turnpike.set_resource("pools.yaml", &good)?;
    turnpike.wait_status("the end of the complaint", |status| {
        ensure!(status.source.errors.is_empty(), "{:?}", status.source.errors);
        Ok(())
    })?;
    pod.remove()?;
    lab.finish()
}
