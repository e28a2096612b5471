//! Many pods at once, with an agent that keeps dying.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use turnpike_testbed::Lab;

use super::bench::Bench;

const PODS: usize = 24;

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
