//! The report behind `turnpike bw show` and `turnpike bw top`.

use turnpike_agent_api::{BwDirection, BwPod, BwReport, BwSource, BwUplink, Rates};
use turnpike_calc::{Decision, Meter, Series, explain};
use turnpike_dataplane::{PodUsage, QueueUsage};

use crate::agent::Agent;
use crate::books::PodEntry;
use crate::clock;

/// Everything about bandwidth on this node.
pub(crate) fn report(agent: &Agent) -> BwReport {
    let books = agent.books();
    let decisions: Vec<(PodEntry, [Decision; 2])> = books
        .pods()
        .values()
        .map(|entry| (entry.clone(), explain(books.resources(), books.node(), &entry.record.asked)))
        .collect();
    let node = books.node().name.clone();
    drop(books);
    let seen = agent.bandwidth.seen();
    let (meter, latest) = (&seen.meter, &seen.latest);
    let mut pods: Vec<BwPod> = decisions
        .into_iter()
        .map(|(entry, decided)| {
            let usage = latest.pods.get(&entry.record.host_link).copied().unwrap_or_default();
            pod(&entry, decided, usage, meter)
        })
        .collect();
    pods.sort_by(|a, b| name(a).cmp(&name(b)));
    let uplinks = latest.uplinks.iter().map(|uplink| {
        let sent = rates(meter, &Series::UplinkOut(uplink.name.clone()));
        let speed = uplink.speed.map(|speed| speed.0);
        BwUplink {
            name: uplink.name.clone(),
            speed,
            sent,
            received: rates(meter, &Series::UplinkIn(uplink.name.clone())),
            free: speed.zip(sent.last_1s).map(|(speed, sent)| speed.saturating_sub(sent)),
        }
    });
    let age = meter.read_at().map(|then| clock::now().saturating_sub(then));
    BwReport {
        node,
        age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        history_s: u64::try_from(meter.depth()).unwrap_or(u64::MAX),
        uplinks: uplinks.collect(),
        pods,
    }
}

fn name(pod: &BwPod) -> (Option<&str>, Option<&str>, &str) {
    (pod.pod.namespace.as_deref(), pod.pod.name.as_deref(), &pod.attachment.container_id)
}

fn pod(entry: &PodEntry, [to, from]: [Decision; 2], usage: PodUsage, meter: &Meter) -> BwPod {
    let record = &entry.record;
    let link = record.host_link.clone();
    BwPod {
        attachment: record.attachment.clone(),
        pod: record.pod.clone(),
        addresses: record.addresses(),
        to_workload: direction(to, usage.to_workload, rates(meter, &Series::ToPod(link.clone()))),
        from_workload: direction(from, usage.from_workload, rates(meter, &Series::FromPod(link.clone()))),
        host_link: link,
    }
}

fn direction(decision: Decision, usage: QueueUsage, rates: Rates) -> BwDirection {
    let limit = decision.limit.map(|limit| limit.0);
    let over = |amount: u64, unit: u64, rate: u64| {
        let scaled = u128::from(amount) * u128::from(unit) / u128::from(rate.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    };
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
    }
}

fn rates(meter: &Meter, series: &Series) -> Rates {
    match meter.rates(series) {
        Some((last_1s, last_10s)) => Rates { last_1s: Some(last_1s), last_10s: Some(last_10s) },
        None => Rates::default(),
    }
}
