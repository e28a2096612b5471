//! The agent killed at every step of ADD, DEL and the writing of its books, by seed.
//!
//! Each seed arms one failpoint at its first to third pass, drives pods until the agent has died there (or kills it at
//! the end), starts the next agent, repeats or gives up the verb that was cut off, as runtimes do, and then looks:
//! no address twice, none lost, no link without owner, every surviving pod reachable, DEL never stuck. A seed that
//! fails is run again alone by `TURNPIKE_CHAOS_SEED=n cargo xtask lab chaos`.

mod disks;

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use turnpike_testbed::{Lab, poll_result};

use super::bench::{Bench, DEADLINE};

/// Where agents die, see `failpoint.rs` of the agent.
const FAILPOINTS: [&str; 8] = [
    "add-reserved",
    "store-written",
    "store-synced",
    "store-renamed",
    "add-stored",
    "add-attached",
    "del-detached",
    "del-released",
];
const PODS: u64 = 4;
/// Verbs in one seed at most.
const VERBS: u64 = 12;
/// Seeds of `cargo xtask test --full`.
const FULL: u64 = 1000;

/// SplitMix64: a seed is a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What the runtime knows.
#[derive(Default)]
struct Runtime {
    /// Pods whose ADD has been answered, with their addresses.
    attached: BTreeMap<u64, Vec<IpAddr>>,
    /// Every pod is another container in its next life.
    lives: BTreeMap<u64, u64>,
}

impl Runtime {
    fn container(&self, seed: u64, pod: u64) -> String {
        format!("s{seed}-p{pod}-{}", self.lives.get(&pod).copied().unwrap_or(0))
    }

    fn ended(&mut self, pod: u64) {
        self.attached.remove(&pod);
        *self.lives.entry(pod).or_default() += 1;
    }
}

fn seeds() -> Vec<u64> {
    let chosen = std::env::var("TURNPIKE_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    match (chosen, std::env::var_os("TURNPIKE_TEST_FULL")) {
        (Some(seed), _) => vec![seed],
        (None, Some(_)) => (0..FULL).collect(),
        // Every failpoint once.
        (None, None) => (0..FAILPOINTS.len() as u64).collect(),
    }
}

#[test]
fn chaos_at_every_step_loses_nothing_and_doubles_nothing() -> Result<()> {
    let lab = Lab::new("agent-chaos")?;
    let bench = Bench::start(&lab)?;
    (0..PODS).try_for_each(|pod| bench.netns(&netns(pod)))?;
    for seed in seeds() {
        run(&bench, seed)
            .with_context(|| format!("seed {seed}: TURNPIKE_CHAOS_SEED={seed} cargo xtask lab chaos"))?;
    }
    lab.finish()
}

fn netns(pod: u64) -> String {
    format!("chaos{pod}")
}

fn run(bench: &Bench, seed: u64) -> Result<()> {
    let mut random = Random(seed);
    let failpoint = FAILPOINTS[(seed % FAILPOINTS.len() as u64) as usize];
    let pass = 1 + random.below(3);
    bench.crash()?;
    bench.restart_armed(&format!("{failpoint}:{pass}"))?;
    let mut runtime = Runtime::default();
    let cut_off = drive(bench, seed, &mut random, &mut runtime)?;
    match cut_off {
        Some(_) => bench.wait_death()?,
        None => bench.crash()?,
    }
    bench.restart()?;
    if let Some(pod) = cut_off {
        settle(bench, seed, pod, random.below(2) == 0, &mut runtime)?;
    }
    look(bench, &runtime)?;
    let left: Vec<u64> = runtime.attached.keys().copied().collect();
    left.iter().try_for_each(|pod| bench.del(&runtime.container(seed, *pod)))?;
    bench.wait_all_free()
}

/// ADDs and DELs until the agent dies; the pod whose verb was cut off.
fn drive(bench: &Bench, seed: u64, random: &mut Random, runtime: &mut Runtime) -> Result<Option<u64>> {
    for _ in 0..VERBS {
        let pod = random.below(PODS);
        let container = runtime.container(seed, pod);
        let is_attached = runtime.attached.contains_key(&pod);
        if is_attached {
            match bench.try_del(&container)? {
                true => runtime.ended(pod),
                false => return Ok(Some(pod)),
            }
        } else {
            match bench.try_add(&container, &netns(pod))? {
                Some(reply) => drop(runtime.attached.insert(pod, reply.addresses)),
                None => return Ok(Some(pod)),
            }
        }
    }
    Ok(None)
}

/// What a runtime does about a verb without an answer: a DEL is repeated, an ADD repeated or given up.
fn settle(bench: &Bench, seed: u64, pod: u64, repeat: bool, runtime: &mut Runtime) -> Result<()> {
    let container = runtime.container(seed, pod);
    if !runtime.attached.contains_key(&pod) && repeat {
        let reply = bench.attach(&container, &netns(pod))?;
        runtime.attached.insert(pod, reply.addresses);
        return Ok(());
    }
    bench.del(&container)?;
    runtime.ended(pod);
    Ok(())
}

fn look(bench: &Bench, runtime: &Runtime) -> Result<()> {
    let all: Vec<IpAddr> = runtime.attached.values().flatten().copied().collect();
    let mut different = all.clone();
    different.sort();
    different.dedup();
    ensure!(different.len() == all.len(), "an address is with two pods: {:?}", runtime.attached);
    poll_result(DEADLINE, "books, disk and kernel to agree", || {
        let findings = bench.ipam_check()?;
        ensure!(findings.is_empty(), "{findings:?}");
        let status = bench.status()?;
        let used: u64 = status.blocks.iter().map(|block| block.used).sum();
        ensure!(used == all.len() as u64, "{used} addresses in use, {all:?} given");
        let links = bench.links()?;
        ensure!(links.len() == runtime.attached.len(), "{links:?} for {:?}", runtime.attached);
        Ok(())
    })?;
    for (pod, addresses) in &runtime.attached {
        let shown = bench.inside(&netns(*pod), &["ip", "-o", "addr", "show", "dev", "eth0"])?;
        for address in addresses {
            ensure!(shown.contains(&format!("{address}/")), "pod {pod} lacks {address}: {shown}");
            bench.node.run(&["ping", "-c", "1", "-W", "5", &address.to_string()])?;
        }
    }
    Ok(())
}
