//! Many pods at once, with an agent that keeps dying.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use turnpike_agent_api::PortMapping;
use turnpike_testbed::Lab;

use super::bench::Bench;

const PODS: usize = 50;

/// Verifies: pods that come at the same moment all get addresses of both families, each its own, and leave nothing.
#[test]
fn pods_that_come_at_once_get_addresses_of_their_own() -> Result<()> {
    let lab = Lab::new("agent-parallel")?;
    let bench = Bench::start(&lab)?;
    let names: Vec<String> = (0..PODS).map(|index| format!("p{index}")).collect();
    names.iter().try_for_each(|name| bench.netns(name))?;
    let addresses: Vec<_> = thread::scope(|scope| {
        let adds: Vec<_> = names.iter().map(|name| scope.spawn(|| bench.attach(name, name))).collect();
        adds.into_iter().map(|add| add.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flat_map(|reply| reply.addresses)
    .collect();
    assert_eq!(addresses.len(), 2 * PODS);
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 2 * PODS, "{addresses:?}");
    bench.inside("p0", &["ping", "-c", "1", "-W", "5", &addresses[PODS].to_string()])?;
    thread::scope(|scope| {
        let dels: Vec<_> = names.iter().map(|name| scope.spawn(|| bench.del(name))).collect();
        dels.into_iter().try_for_each(|del| del.join().expect("no panic"))
    })?;
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: while pods come and go all the time, the agent is killed by SIGKILL again and again, at no chosen moment.
/// No address is ever with two pods, every answer given stays true, and in the end nothing is lost.
#[test]
fn no_death_of_the_agent_loses_or_doubles_an_address() -> Result<()> {
    let lab = Lab::new("agent-churn")?;
    let bench = Bench::start(&lab)?;
    let names: Vec<String> = (0..6).map(|index| format!("p{index}")).collect();
    names.iter().try_for_each(|name| bench.netns(name))?;
    let done = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let workers: Vec<_> = names
            .iter()
            .map(|name| {
                scope.spawn(|| {
                    let mut rounds = 0;
                    while !done.load(Ordering::Relaxed) {
                        come_and_go(&bench, name, rounds)?;
                        rounds += 1;
                    }
                    Ok(rounds)
                })
            })
            .collect();
        let crashes = (0..6).try_for_each(|_| bench.crash_and_restart());
        done.store(true, Ordering::Relaxed);
        let rounds = workers.into_iter().map(|worker| worker.join().expect("no panic"));
        let rounds = rounds.collect::<Result<Vec<u32>>>();
        crashes.and(rounds)
    })?;
    assert!(rounds.iter().all(|count| *count > 0), "{rounds:?}");
    bench.wait_all_free()?;
    lab.finish()
}

/// Pods that come and go in `cargo xtask test`.
const MANY: usize = 200;
/// The same in `cargo xtask test --full`.
const VERY_MANY: usize = 10_000;

/// Verifies: of pods with limits both ways and a host port nothing is left, however many came and went: no link, ifb, qdisc,
/// filter, pin, route, neighbour or nftables element, and of records no more than there are addresses.
#[test]
fn nothing_is_left_of_many_limited_pods() -> Result<()> {
    let lab = Lab::new("agent-leaks")?;
    let bench = Bench::start(&lab)?;
    let pods = if std::env::var_os("TURNPIKE_TEST_FULL").is_some() { VERY_MANY } else { MANY };
    let names: Vec<String> = (0..8).map(|index| format!("p{index}")).collect();
    names.iter().try_for_each(|name| bench.netns(name))?;
    let before = leftovers(&bench)?;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..)
            .zip(&names)
            .map(|(worker, name)| {
                let (bench, rounds) = (&bench, pods / names.len());
                scope
                    .spawn(move || (0..rounds).try_for_each(|round| limited_life(bench, name, worker, round)))
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    bench.wait_all_free()?;
    assert_eq!(leftovers(&bench)?, before);
    // The last record of an address carries its generation.
    assert!(bench.records()?.len() <= 64, "{:?}", bench.records()?);
    assert_eq!(bench.ipam_check()?, []);
    lab.finish()
}

fn limited_life(bench: &Bench, netns: &str, worker: u16, round: usize) -> Result<()> {
    let container = format!("{netns}-{round}");
    let mut request = bench.add_request(&container, netns);
    for direction in ["ingress", "egress"] {
        request.annotations.insert(format!("kubernetes.io/{direction}-bandwidth"), "50M".to_owned());
    }
    request.port_mappings.push(PortMapping {
        host_port: 20_000 + worker,
        container_port: 80,
        protocol: "tcp".to_owned(),
        host_ip: String::new(),
    });
    bench.add(request)??;
    bench.del(&container)
}

/// What pods may leave behind, as text, without numbers that differ from run to run.
fn leftovers(bench: &Bench) -> Result<BTreeMap<&'static str, String>> {
    let mut left = BTreeMap::new();
    for (what, line) in [
        ("links", "ip -br link | sed 's/@.*//; s/ .*//' | sort"),
        ("qdiscs", "tc qdisc show | grep -v 'dev eth0\\|dev lo' | sort"),
        ("routes", "ip route show table all proto 201; ip -6 route show table all proto 201"),
        ("neighbours", "ip neigh show nud permanent | grep -v 'dev lo' | sort"),
        ("nftables", "nft -s list table inet turnpike"),
        ("pins", "find /sys/fs/bpf/turnpike | sort"),
    ] {
        left.insert(what, bench.node.text(&["sh", "-c", &format!("{line}; true")])?);
    }
    Ok(left)
}

/// One pod's life: what ADD answered is in the pod, and what another ADD of the same container answers.
fn come_and_go(bench: &Bench, netns: &str, round: u32) -> Result<()> {
    let container = format!("{netns}-{round}");
    let reply = bench.attach(&container, netns)?;
    let again = bench.attach(&container, netns)?;
    ensure!(again == reply, "{again:?} is not {reply:?}");
    let seen = bench.inside(netns, &["ip", "-o", "addr", "show", "dev", "eth0"])?;
    for address in &reply.addresses {
        ensure!(seen.contains(&format!(" {address}/")), "{address} is not in {netns}: {seen}");
    }
    bench.del(&container)
}
