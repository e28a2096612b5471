//! Load-balancer traffic, TOA and connection tracking, read when asked for.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use turnpike_agent_api::{Count, LbReport};

use crate::agent::Agent;
use crate::lb;

/// Values with their labels.
pub(super) type Values = Vec<(Vec<(&'static str, String)>, u64)>;

/// Reads the eBPF maps and the kernel's table for each scrape.
#[derive(Debug)]
pub(super) struct Datapath(pub(super) Arc<Agent>);

impl Collector for Datapath {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Ok(report) = lb::flows(&self.0) {
            let (packets, bytes) = traffic(&report);
            counter(&mut encoder, "turnpike_lb_packets", "Load-balancer packets by way taken", &packets)?;
            counter(&mut encoder, "turnpike_lb_bytes", "Load-balancer bytes by way taken", &bytes)?;
        }
        let programs =
            self.0.plane().ok().and_then(|plane| plane.call(|plane| plane.counters()).ok().flatten());
        if let Some(programs) = programs {
            let events = programs.into_iter().map(|(name, count)| (vec![("event", name.to_owned())], count));
            let help = "Events that the eBPF programs count: bypass, anti-spoofing, TOA";
            counter(&mut encoder, "turnpike_ebpf_events", help, &events.collect::<Values>())?;
        }
        conntrack(&self.0, &mut encoder)
    }
}

fn conntrack(agent: &Agent, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let report = lb::conntrack(agent);
    if report.max == 0 {
        return Ok(());
    }
    let plain = |value| vec![(Vec::new(), value)];
    gauge(encoder, "turnpike_conntrack_entries", "Connection tracking entries", &plain(report.entries))?;
    gauge(encoder, "turnpike_conntrack_max", "Connection tracking entries that fit", &plain(report.max))?;
    let events =
        report.events.into_iter().map(|(name, count)| (vec![("event", name)], count)).collect::<Values>();
    counter(encoder, "turnpike_conntrack_events", "Connection tracking events since boot", &events)?;
    let pods = report.pods.into_iter().map(|pod| {
        let labels = vec![
            ("namespace", pod.pod.namespace.unwrap_or_default()),
            ("pod", pod.pod.name.unwrap_or(pod.container_id)),
        ];
        (labels, pod.entries)
    });
    let help = "Connection tracking entries of the ten pods that have the most";
    gauge(encoder, "turnpike_conntrack_pod_entries", help, &pods.collect::<Values>())
}

/// Packets and bytes by source, prefix, direction and way.
fn traffic(report: &LbReport) -> (Values, Values) {
    let (mut packets, mut bytes) = (Vec::new(), Vec::new());
    for source in report.sources.iter().filter(|source| source.bypass) {
        for (direction, counts) in [("to_pods", &source.to_pods), ("from_pods", &source.from_pods)] {
            let mut put = |way: &str, count: Count| {
                let labels = vec![
                    ("source", source.name.clone()),
                    ("cidr", source.cidr.clone()),
                    ("direction", direction.to_owned()),
                    ("way", way.to_owned()),
                ];
                packets.push((labels.clone(), count.packets));
                bytes.push((labels, count.bytes));
            };
            put("bypassed", counts.bypassed);
            for fell_back in &counts.fell_back {
                put(&fell_back.reason, fell_back.count);
            }
        }
    }
    // The same prefix may drain beside a source that still lists it: one line for the two, as the kernel counts.
    packets.dedup_by(|a, b| a.0 == b.0);
    bytes.dedup_by(|a, b| a.0 == b.0);
    (packets, bytes)
}

pub(super) fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &Values,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(*value).encode(metric.encode_family(labels)?)?;
    }
    Ok(())
}

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &Values,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        let value = ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX));
        if labels.is_empty() {
            return value.encode(metric);
        }
        value.encode(metric.encode_family(labels)?)?;
    }
    Ok(())
}
