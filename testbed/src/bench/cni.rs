//! turnpike-cni beside Debian's plugins, called as a runtime calls them: one pod after the other, sixteen at once, and
//! a node that fills up.
//!
//! Namespaces are made before and deleted after all measuring: the kernel takes long to clean up behind a namespace, and
//! whoever comes next would wait for it.

mod callers;

use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::callers::{Call, Network, Wish};
use super::Options;
use super::rows::{Comparison, tell};
use crate::{Lab, Node, TurnpikeConfig, TurnpikeNode, poll_result};

/// Alternating runs of each.
const RUNS: usize = 31;
/// Calls at the same time.
const AT_ONCE: usize = 16;
/// Rounds of that.
const ROUNDS: usize = 5;
/// Pods of a full node.
const FULL_NODE: usize = 250;
/// How many pods at either end are compared.
const EDGE: usize = 50;
/// Idle time over which the agent's CPU is measured.
const IDLE: Duration = Duration::from_secs(60);
/// How long the agent is looked at to see whether it is at rest,
const LOOK: Duration = Duration::from_secs(2);
/// which it is below so many percent of a CPU,
const AT_REST: f64 = 2.0;
/// and has to be within this time.
const DEADLINE: Duration = Duration::from_secs(120);

const POOLS: &str = "
apiVersion: turnpike.io/v1alpha1
kind: IPPool
metadata: { name: pods-v4 }
spec: { cidr: 10.244.0.0/16, blockSize: 21 }
---
apiVersion: turnpike.io/v1alpha1
kind: IPBlock
metadata: { name: pods-v4-n1 }
spec: { cidr: 10.244.0.0/21, pool: pods-v4, node: n1 }
---
apiVersion: turnpike.io/v1alpha1
kind: IPPool
metadata: { name: pods-v6 }
spec: { cidr: 'fd00:244::/48', blockSize: 117 }
---
apiVersion: turnpike.io/v1alpha1
kind: IPBlock
metadata: { name: pods-v6-n1 }
spec: { cidr: 'fd00:244::/117', pool: pods-v6, node: n1 }
";

pub(super) fn run(options: &Options) -> Result<()> {
    let runs = options.runs.unwrap_or(RUNS);
    let lab = Lab::new("bench-cni")?;
    let node = lab.node("n1")?;
    let config = TurnpikeConfig::default().with_resource("pools.yaml", POOLS);
    let turnpike = TurnpikeNode::start(&node, &config)?;
    let mut rows = Vec::new();
    let asked = |case: &str| options.case.is_empty() || options.case.iter().any(|part| case.contains(part));
    for wish in [Wish::Plain, Wish::LimitsAndPort].into_iter().filter(|wish| asked(wish.case())) {
        one_by_one(&node, wish, runs, &mut rows)?;
    }
    let case = format!("{AT_ONCE} at once");
    if asked(&case) {
        at_once(&node, &case, &mut rows)?;
    }
    let pods = if options.full { 2 * FULL_NODE } else { FULL_NODE };
    for (wish, kind) in [(Wish::Plain, "pods"), (Wish::Limits, "limited pods")] {
        let case = format!("a node that fills up to {pods} {kind}");
        if asked(&case) {
            filling(&node, &turnpike, (&case, pods, wish), &mut rows)?;
        }
    }
    ensure!(!rows.is_empty(), "no case of cni contains any of {:?}", options.case);
    let title = format!(
        "CNI calls, median and 99th percentile of {runs} alternating runs (ours IPv4 and IPv6, the peers IPv4)"
    );
    tell(&title, &rows, options.json.as_deref())?;
    drop(turnpike);
    lab.finish()
}

/// Times of one verb by one network, in milliseconds.
#[derive(Debug, Default)]
struct Times(Vec<f64>);

impl Times {
    fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (sorted.len().saturating_sub(1) * percent).div_ceil(100);
        sorted.get(at).copied().unwrap_or_default()
    }
}

/// VERSION, ADD and DEL of one network.
#[derive(Debug, Default)]
struct Verbs {
    version: Times,
    add: Times,
    del: Times,
}

fn compare(case: &str, ours: &Verbs, peers: &[(Verbs, Network)]) -> Vec<Comparison> {
    let mut rows = Vec::new();
    for (verb, of) in [
        ("VERSION", (|verbs| &verbs.version) as fn(&Verbs) -> &Times),
        ("ADD", |verbs| &verbs.add),
        ("DEL", |verbs| &verbs.del),
    ] {
        for percent in [50, 99] {
            for (peer, beside) in peers.iter().filter(|_| !of(ours).0.is_empty()) {
                let metric = format!("{verb} p{percent}, ms");
                let (own, other) = (of(ours).percentile(percent), of(peer).percentile(percent));
                rows.push(Comparison::new(case, &metric, own, beside.name, other));
            }
        }
    }
    rows
}

/// One pod after the other, networks in turn.
fn one_by_one(node: &Node, wish: Wish, runs: usize, rows: &mut Vec<Comparison>) -> Result<()> {
    let mut networks = vec![Network::ours(), Network::chain()];
    if wish == Wish::Plain {
        networks.extend([Network::ptp(), Network::bridge()]);
    }
    let names = namespaces(node, "s", networks.len() * runs)?;
    let measured = node.inside_with_children(|| -> Result<Vec<Verbs>> {
        let mut measured: Vec<Verbs> = networks.iter().map(|_| Verbs::default()).collect();
        let mut names = names.iter().zip(0..);
        for _ in 0..runs {
            for (network, verbs) in networks.iter().zip(&mut measured) {
                let (id, number) = names.next().context("a namespace for each")?;
                let call = Call { id, wish, number };
                verbs.version.add(timed(|| network.version())?.1);
                let (result, took) = timed(|| network.add(call))?;
                verbs.add.add(took);
                verbs.del.add(timed(|| network.del(call, &result))?.1);
            }
        }
        Ok(measured)
    })??;
    remove(node, &names)?;
    let mut all = measured.into_iter().zip(networks);
    let (ours, _) = all.next().context("ours")?;
    rows.extend(compare(wish.case(), &ours, &all.collect::<Vec<_>>()));
    Ok(())
}

/// Sixteen ADDs at once, then sixteen DELs.
fn at_once(node: &Node, case: &str, rows: &mut Vec<Comparison>) -> Result<()> {
    let networks = [Network::ours(), Network::chain()];
    let names = namespaces(node, "m", networks.len() * AT_ONCE * ROUNDS)?;
    let mut measured: Vec<Verbs> = networks.iter().map(|_| Verbs::default()).collect();
    let mut groups = names.chunks(AT_ONCE);
    for _ in 0..ROUNDS {
        for (network, verbs) in networks.iter().zip(&mut measured) {
            let ids = groups.next().context("namespaces for each round")?;
            let added = all_at_once(node, ids, |id| network.add(Call::plain(id)))?;
            let results: Vec<_> = added.iter().map(|(result, _)| result.clone()).collect();
            added.iter().for_each(|(_, took)| verbs.add.add(*took));
            let ids: Vec<_> = ids.iter().zip(results).collect();
            let gone = all_at_once(node, &ids, |(id, result)| network.del(Call::plain(id), result))?;
            gone.iter().for_each(|((), took)| verbs.del.add(*took));
        }
    }
    remove(node, &names)?;
    let mut all = measured.into_iter().zip(networks);
    let (ours, _) = all.next().context("ours")?;
    rows.extend(compare(case, &ours, &all.collect::<Vec<_>>()));
    Ok(())
}

/// A node that fills up: is the last ADD as fast as the first, and what does the agent need?
fn filling(
    node: &Node,
    turnpike: &TurnpikeNode,
    (case, pods, wish): (&str, usize, Wish),
    rows: &mut Vec<Comparison>,
) -> Result<()> {
    let network = Network::ours();
    let names = namespaces(node, "f", pods)?;
    let agent = turnpike.agent_pid();
    let empty = resident_mib(agent)?;
    let before = cpu_seconds(agent)?;
    let spent_since = |before: f64| Ok::<f64, anyhow::Error>((cpu_seconds(agent)? - before) * 1e3);
    let edge = pods.checked_sub(EDGE).context("more pods than at the edge")?;
    let add = |numbers: std::ops::Range<usize>| -> Result<(Vec<Duration>, f64)> {
        let pods = names.iter().zip(0..).skip(numbers.start).take(numbers.len());
        let calls = pods.map(|(id, number)| Call { id, wish, number });
        let times = node.inside_with_children(|| {
            calls.map(|call| Ok(timed(|| network.add(call))?.1)).collect::<Result<_>>()
        })??;
        Ok((times, spent_since(before)?))
    };
    let (first, early) = add(0..EDGE)?;
    let (middle, late) = add(EDGE..edge)?;
    let followed = rest(agent)?;
    let (last, spent) = add(edge..pods)?;
    let spent = spent - followed;
    let times: Vec<Duration> = [first.as_slice(), &middle, &last].concat();
    let (p50, each) =
        (format!("ADD p50 of the last {EDGE}, ms"), format!("agent's CPU for each of the last {EDGE}, ms"));
    let beside = format!("the first {EDGE}");
    rows.push(Comparison::new(case, &p50, median(&last), &beside, median(&first)));
    let per_edge = 1.0 / f64::from(u32::try_from(EDGE)?);
    rows.push(Comparison::new(case, &each, (spent - late) * per_edge, &beside, early * per_edge));
    let resident = resident_mib(agent)?;
    rows.push(Comparison::new(case, "agent's resident memory, MiB", resident, "without pods", empty));
    let per_add = spent / f64::from(u32::try_from(pods)?);
    rows.push(Comparison::new(case, "agent's CPU for each ADD, ms", per_add, "ADD p50, ms", median(&times)));
    let per_pod = followed / f64::from(u32::try_from(edge)?);
    rows.push(Comparison::new(case, "agent's CPU after each ADD, ms", per_pod, "for it, ms", per_add));
    rest(agent)?;
    let idle = busy(agent, IDLE)?;
    rows.push(Comparison::new(case, "agent's CPU when idle, % of one", idle, "target", 0.2));
    node.inside_with_children(|| -> Result<()> {
        names.iter().try_for_each(|id| network.del(Call::plain(id), &serde_json::Value::Null))
    })??;
    remove(node, &names)
}

/// Waits until the agent has done what could wait, so that pods come to a node that has all; returns its CPU time in
/// milliseconds.
fn rest(agent: u32) -> Result<f64> {
    let before = cpu_seconds(agent)?;
    poll_result(DEADLINE, "the agent to be at rest", || {
        let busy = busy(agent, LOOK)?;
        ensure!(busy <= AT_REST, "it takes {busy:.1} % of a CPU");
        Ok(())
    })?;
    Ok((cpu_seconds(agent)? - before) * 1e3)
}

/// The agent's CPU over a time, in percent of one. The time is what is measured: there is nothing to wait for.
fn busy(agent: u32, time: Duration) -> Result<f64> {
    let (begun, before) = (Instant::now(), cpu_seconds(agent)?);
    thread::sleep(time);
    Ok((cpu_seconds(agent)? - before) / begun.elapsed().as_secs_f64() * 100.0)
}

fn median(times: &[Duration]) -> f64 {
    let mut all = Times::default();
    times.iter().for_each(|took| all.add(*took));
    all.percentile(50)
}

fn namespaces(node: &Node, prefix: &str, count: usize) -> Result<Vec<String>> {
    let names: Vec<String> = (0..count).map(|number| format!("{prefix}{number}")).collect();
    for some in names.chunks(100) {
        let script: String = some.iter().map(|name| format!("ip netns add {name}\n")).collect();
        node.run(&["sh", "-ec", &script])?;
    }
    Ok(names)
}

fn remove(node: &Node, names: &[String]) -> Result<()> {
    for some in names.chunks(100) {
        let script: String = some.iter().map(|name| format!("ip netns del {name}\n")).collect();
        node.run(&["sh", "-ec", &script])?;
    }
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let done = work()?;
    Ok((done, begun.elapsed()))
}

/// Runs `work` in the node for all items at the same time.
fn all_at_once<I: Sync, T: Send>(
    node: &Node,
    items: &[I],
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<(T, Duration)>> {
    let (work, ready) = (&work, &Barrier::new(items.len()));
    thread::scope(|scope| {
        let call = |item| {
            node.inside_with_children(move || {
                ready.wait();
                timed(|| work(item))
            })
        };
        let running: Vec<_> = items.iter().map(|item| scope.spawn(move || call(item))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a caller failed"))??)
            .collect()
    })
}

fn resident_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}

/// User and system time of the process's threads, in seconds (proc(5): fields 14 and 15, in ticks).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a command in parentheses")?;
    let ticks: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    let each = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("ticks per second")?;
    Ok(ticks.iter().sum::<f64>() / f64::from(i32::try_from(each)?))
}
