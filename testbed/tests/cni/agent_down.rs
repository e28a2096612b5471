//! The agent dies, in the worst moments that there are; nothing that it promised is lost.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use turnpike_testbed::turnpike_node::TurnpikeNode;
use turnpike_testbed::{Lab, PodSpec};

use super::{DEADLINE, NODE, config, start, wire};

/// Addresses that the agent says are in use, by its blocks' own count.
fn used(turnpike: &TurnpikeNode) -> Result<u64> {
    Ok(turnpike.status()?.blocks.iter().map(|block| block.used).sum())
}

/// Verifies: an address that a pod got is still its own after the agent's SIGKILL, no other pod gets it, the pod's
/// traffic does not stop meanwhile, and new pods start once the agent is back.
#[test]
fn an_address_survives_the_agents_death_and_so_does_the_pods_traffic() -> Result<()> {
    let lab = Lab::new("cni-durable")?;
    let (turnpike, outside) = start(&lab)?;
    let mut pod = turnpike.run_pod(PodSpec::busybox("kept"))?;
    let known = turnpike.pod_status(&pod)?.context("the agent does not know the pod")?;
    let target = pod.ipv4()?.to_string();
    let mut ping = outside.command("ping")?;
    ping.args(["-q", "-i", "0.001", "-c", "3000", "-W", "5", &target]);
    let ping = outside.spawn("ping", ping)?;
    turnpike.kill_agent()?;
    turnpike.start_agent()?;
    let again = turnpike.pod_status(&pod)?.context("the agent forgot the pod")?;
    assert_eq!((&again.addresses, &again.host_link), (&known.addresses, &known.host_link));
    let mut other = turnpike.run_pod(PodSpec::busybox("other"))?;
    assert!(other.ips().iter().all(|ip| !pod.ips().contains(ip)), "{:?} {:?}", other.ips(), pod.ips());
    ping.wait_exit(DEADLINE)?;
    assert!(ping.log().contains(" 3000 received"), "{}", ping.log());
    pod.remove()?;
    other.remove()?;
    assert_eq!(used(&turnpike)?, 0);
    lab.finish()
}

/// Verifies: a pod can be deleted while the agent is down: every DEL is spooled and succeeds without delay, and the
/// agent that comes back takes the pod's link, route and address away.
#[test]
fn a_pod_is_deleted_while_the_agent_is_down() -> Result<()> {
    let lab = Lab::new("cni-spool")?;
    let (turnpike, _outside) = start(&lab)?;
    let links = turnpike.node().links()?;
    let mut pod = turnpike.run_pod(PodSpec::busybox("doomed"))?;
    let mut staying = turnpike.run_pod(PodSpec::busybox("staying"))?;
    turnpike.kill_agent()?;
    let began = Instant::now();
    pod.remove()?;
    assert!(began.elapsed() < Duration::from_secs(20), "three DELs took {:?}", began.elapsed());
    let spooled = turnpike.node().text(&["ls", turnpike_agent_api::DEFAULT_SPOOL])?;
    assert_eq!(spooled.lines().count(), 1, "{spooled}");
    turnpike.start_agent()?;
    turnpike.wait_status("the spooled DEL's effect", |status| {
        ensure!(status.pods.len() == 1, "{:?}", status.pods);
        let now = turnpike.node().links()?;
        ensure!(now.len() == links.len() + 1, "{now:?}");
        Ok(())
    })?;
    assert_eq!(turnpike.node().text(&["ls", turnpike_agent_api::DEFAULT_SPOOL])?, "");
    assert_eq!(used(&turnpike)?, 2);
    staying.remove()?;
    lab.finish()
}

/// Verifies: an ADD that finds no agent does not hang: it says so after some seconds, and works once the agent is up.
#[test]
fn a_pod_that_starts_while_the_agent_is_down_is_told_to_try_again() -> Result<()> {
    let lab = Lab::new("cni-add-down")?;
    let (turnpike, _outside) = start(&lab)?;
    turnpike.kill_agent()?;
    let began = Instant::now();
    let error = turnpike.run_pod(PodSpec::busybox("early")).map(drop).expect_err("a pod without an agent");
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    assert!(format!("{error:#}").contains("turnpike-agent"), "{error:#}");
    turnpike.start_agent()?;
    let mut pod = turnpike.run_pod(PodSpec::busybox("early"))?;
    pod.remove()?;
    assert_eq!(used(&turnpike)?, 0);
    lab.finish()
}

/// A node whose first agent kills itself at a failpoint.
fn doomed(lab: &Lab, failpoint: &str) -> Result<TurnpikeNode> {
    let (n1, _outside) = wire(lab)?;
    let mut config = config();
    config.agent_env.push(("TURNPIKE_FAILPOINT".to_owned(), failpoint.to_owned()));
    TurnpikeNode::start(&n1, &config)
}

fn wait_all_free(turnpike: &TurnpikeNode) -> Result<()> {
    turnpike.wait_status("all addresses to be free, and no link left", |status| {
        let used: u64 = status.blocks.iter().map(|block| block.used).sum();
        ensure!(used == 0 && status.pods.is_empty(), "{used} addresses are in use by {:?}", status.pods);
        // DEL cuts a pod off, and its link is deleted a little later.
        let links = turnpike.node().links()?;
        ensure!(!links.iter().any(|name| name.starts_with("tpk")), "{links:?}");
        Ok(())
    })
}

/// Verifies: the agent is killed by SIGKILL after the addresses are durable and before ADD is answered. Back within
/// the plugin's patience, it answers the same ADD, and the pod starts as if nothing had been.
#[test]
fn an_add_that_the_agent_died_over_succeeds_when_it_is_soon_back() -> Result<()> {
    for failpoint in ["add-stored", "add-attached"] {
        let lab = Lab::new("cni-add-retried")?;
        let turnpike = doomed(&lab, failpoint)?;
        let mut pod = thread::scope(|scope| {
            let pod = scope.spawn(|| turnpike.run_pod(PodSpec::busybox("cut")));
            turnpike.wait_agent_end(DEADLINE)?;
            turnpike.start_agent()?;
            pod.join().expect("the starter panicked")
        })
        .with_context(|| failpoint.to_owned())?;
        pod.exec(&["ping", "-c", "1", "-W", "5", NODE[0]])?;
        assert_eq!(used(&turnpike)?, 2, "{failpoint}");
        pod.remove()?;
        wait_all_free(&turnpike)?;
        lab.finish()?;
    }
    Ok(())
}

/// Verifies: the same death, but the agent stays away longer than the plugin waits: the runtime gives the sandbox up,
/// its DEL is spooled; the kubelet's retry gets an address, and in the end none is lost.
#[test]
fn an_add_that_the_agent_died_over_loses_no_address_when_it_is_given_up() -> Result<()> {
    for failpoint in ["add-stored", "add-attached"] {
        let lab = Lab::new("cni-add-given-up")?;
        let turnpike = doomed(&lab, failpoint)?;
        let error =
            turnpike.run_pod(PodSpec::busybox("cut")).map(drop).expect_err("the agent should have died");
        turnpike.wait_agent_end(DEADLINE).with_context(|| format!("{failpoint}: {error:#}"))?;
        turnpike.start_agent()?;
        let mut pod = turnpike.run_pod(PodSpec::busybox("cut"))?;
        assert_eq!(pod.ips().len(), 2);
        pod.remove()?;
        wait_all_free(&turnpike).with_context(|| failpoint.to_owned())?;
        lab.finish()?;
    }
    Ok(())
}

/// Verifies: the agent is killed in the middle of a DEL; the runtime's DEL succeeds, by the spool, and is finished
/// when the agent is back.
#[test]
fn a_del_that_the_agent_died_over_is_finished_later() -> Result<()> {
    for failpoint in ["del-detached", "del-released"] {
        let lab = Lab::new("cni-del-cut")?;
        let turnpike = doomed(&lab, failpoint)?;
        let mut pod = turnpike.run_pod(PodSpec::busybox("cut"))?;
        pod.remove().with_context(|| failpoint.to_owned())?;
        turnpike.wait_agent_end(DEADLINE)?;
        turnpike.start_agent()?;
        wait_all_free(&turnpike)?;
        lab.finish()?;
    }
    Ok(())
}
