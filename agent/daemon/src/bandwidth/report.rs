//! The report behind `turnpike bw show` and `turnpike bw top`.

use turnpike_agent_api::{
    BwBurst, BwClass, BwDirection, BwPod, BwReport, BwShadow, BwSource, BwUplink, Rates,
};
use turnpike_calc::{
    BurstSource, Decision, Extras, Meter, Series, class_of, explain, explain_extras, explain_shadow,
    node_tree,
};
use turnpike_dataplane::{HOST_CLASS, LeafQueue, Pacer, PodUsage, QueueUsage, UplinkUsage};
use turnpike_model::burst::Burst;
use turnpike_model::desired::NodeTree;

use crate::agent::Agent;
use crate::books::PodEntry;
use crate::clock;

use super::Seen;

/// The limit in force, and the one that would be if resources in shadow were.
type Decided = (Decision, Option<Decision>);

/// Everything about bandwidth on this node.
pub(crate) fn report(agent: &Agent) -> BwReport {
    let trial = super::trial::pending(agent);
    let books = agent.books();
    let (resources, at) = (books.resources(), books.node());
    let decide = |entry: &PodEntry| {
        let asked = &entry.record.asked;
        let namespace = entry.record.pod.namespace.as_deref().unwrap_or_default();
        let [to, from] = explain(resources, at, asked, namespace);
        let [shadow_to, shadow_from] = explain_shadow(resources, at, asked, namespace);
        let extras = explain_extras(resources, at, asked);
        (entry.clone(), [(to, shadow_to), (from, shadow_from)], extras)
    };
    let decisions: Vec<(PodEntry, [Decided; 2], Extras)> = books.pods().values().map(decide).collect();
    let node = books.node().name.clone();
    let tree = node_tree(books.resources(), books.node());
    drop(books);
    let seen = agent.bandwidth.seen();
    let (meter, latest) = (&seen.meter, &seen.latest);
    let mut pods: Vec<BwPod> = decisions
        .into_iter()
        .map(|(entry, decided, extras)| {
            let usage = latest.pods.get(entry.record.host_link.as_str()).copied().unwrap_or_default();
            let class = class_name(tree.as_ref(), &entry);
            with_extras(BwPod { class, ..pod(&entry, decided, usage, meter) }, &extras)
        })
        .collect();
    pods.sort_by(|a, b| name(a).cmp(&name(b)));
    let uplinks: Vec<BwUplink> = latest
        .uplinks
        .iter()
        .map(|uplink| {
            let sent = rates(meter, &Series::UplinkOut(uplink.name.clone()));
            let configured = tree.as_ref().and_then(|tree| tree.speed).filter(|_| !uplink.classes.is_empty());
            let speed = configured.or(uplink.speed).map(|speed| speed.0);
            BwUplink {
                name: uplink.name.clone(),
                speed,
                sent,
                received: rates(meter, &Series::UplinkIn(uplink.name.clone())),
                free: speed.zip(sent.last_1s).map(|(speed, sent)| speed.saturating_sub(sent)),
                classes: classes(uplink, tree.as_ref(), &pods, meter),
            }
        })
        .collect();
    let age = meter.read_at().map(|then| clock::now().saturating_sub(then));
    BwReport {
        node,
        age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        history_s: u64::try_from(meter.depth()).unwrap_or(u64::MAX),
        held_by: held_by(&seen).to_owned(),
        class_queues: seen.latest.leaf_queue.map_or("", LeafQueue::words).to_owned(),
        trial,
        uplinks,
        pods,
    }
}

/// What holds packets back at limits, once the kernel was looked at.
pub(crate) fn held_by(seen: &Seen) -> &'static str {
    seen.latest.pacer.map_or("", Pacer::words)
}

fn class_name(tree: Option<&NodeTree>, entry: &PodEntry) -> Option<String> {
    let tree = tree?;
    let number = {
        let namespace = entry.record.pod.namespace.as_deref().unwrap_or_default();
        class_of(tree, entry.record.asked.class.as_deref(), namespace)?
    };
    tree.classes.get(&number).map(|class| class.name.clone())
}

/// The host's share first, then the classes in order of their names.
fn classes(uplink: &UplinkUsage, tree: Option<&NodeTree>, pods: &[BwPod], meter: &Meter) -> Vec<BwClass> {
    let mut classes: Vec<BwClass> = uplink
        .classes
        .iter()
        .map(|(number, class)| {
            let known = tree.and_then(|tree| tree.classes.get(number));
            let name = match known {
                Some(known) => known.name.clone(),
                None if *number == HOST_CLASS => "host".to_owned(),
                None => format!("{number:x}"),
            };
            let pods = pods.iter().filter(|pod| known.is_some() && pod.class.as_ref() == Some(&name)).count();
            BwClass {
                pods: u64::try_from(pods).unwrap_or(u64::MAX),
                guarantee: class.guarantee,
                ceiling: class.ceiling,
                sent: rates(meter, &Series::Class(uplink.name.clone(), *number)),
                drops: class.usage.drops,
                queue_us: over(class.usage.backlog, 8_000_000, class.guarantee),
                name,
            }
        })
        .collect();
    classes.sort_by(|a, b| (a.name != "host", &a.name).cmp(&(b.name != "host", &b.name)));
    classes
}

fn over(amount: u64, unit: u64, rate: u64) -> u64 {
    let scaled = u128::from(amount) * u128::from(unit) / u128::from(rate.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn name(pod: &BwPod) -> (Option<&str>, Option<&str>, &str) {
    (pod.pod.namespace.as_deref(), pod.pod.name.as_deref(), &pod.attachment.container_id)
}

fn pod(entry: &PodEntry, [to, from]: [Decided; 2], usage: PodUsage, meter: &Meter) -> BwPod {
    let record = &entry.record;
    let link = record.host_link.clone();
    BwPod {
        attachment: record.attachment.clone(),
        pod: record.pod.clone(),
        addresses: record.addresses(),
        to_workload: direction(to, usage.to_workload, rates(meter, &Series::ToPod(link.clone()))),
        from_workload: direction(from, usage.from_workload, rates(meter, &Series::FromPod(link.clone()))),
        host_link: link,
        class: None,
        exempt: Vec::new(),
        exempt_refused: Vec::new(),
    }
}

fn with_extras(mut pod: BwPod, extras: &Extras) -> BwPod {
    let Extras { bursts, decided_by: [to_by, from_by], exempt, refused } = extras;
    let burst = |limit: Option<u64>, burst: Burst, by: &BurstSource| {
        limit.map(|limit| BwBurst {
            time: burst.to_string(),
            bytes: over(limit / 8, u64::try_from(burst.time().as_micros()).unwrap_or(u64::MAX), 1_000_000),
            decided_by: by.to_string(),
        })
    };
    pod.to_workload.burst = burst(pod.to_workload.limit, bursts.to_workload, to_by);
    pod.from_workload.burst = burst(pod.from_workload.limit, bursts.from_workload, from_by);
    pod.exempt = exempt.iter().map(ToString::to_string).collect();
    pod.exempt_refused = refused.iter().map(ToString::to_string).collect();
    pod
}

fn direction((decision, shadow): Decided, usage: QueueUsage, rates: Rates) -> BwDirection {
    let limit = decision.limit.map(|limit| limit.0);
    let sources = decision.candidates.into_iter();
    BwDirection {
        limit,
        decided_by: decision.source.to_string(),
        sources: sources
            .map(|(source, rate)| BwSource { source: source.to_string(), rate: rate.0 })
            .collect(),
        rates,
        share_permille: limit.zip(rates.last_1s).map(|(limit, rate)| over(rate, 1000, limit)),
        bytes: usage.bytes,
        marked: usage.marked,
        not_capable: usage.not_capable,
        drops: usage.drops,
        queue_us: limit.map_or(0, |limit| over(usage.backlog, 8_000_000, limit)),
        burst: None,
        shadow: shadow.and_then(|decision| shadow_of(&decision, usage)),
    }
}

fn shadow_of(decision: &Decision, usage: QueueUsage) -> Option<BwShadow> {
    let counted = usage.shadow.unwrap_or_default();
    Some(BwShadow {
        limit: decision.limit?.0,
        decided_by: decision.source.to_string(),
        packets: counted.packets,
        marked: counted.marked,
        not_capable: counted.not_capable,
        drops: counted.dropped,
    })
}

fn rates(meter: &Meter, series: &Series) -> Rates {
    match meter.rates(series) {
        Some((last_1s, last_10s)) => Rates { last_1s: Some(last_1s), last_10s: Some(last_10s) },
        None => Rates::default(),
    }
}
