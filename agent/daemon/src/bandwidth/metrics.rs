//! The same numbers for Prometheus.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use turnpike_agent_api::{BwClass, BwDirection, BwPod, BwReport, BwUplink};

use super::report;
use crate::agent::Agent;

/// Metrics of pods' limits, their queues, and the uplinks.
#[derive(Debug)]
pub(crate) struct Metrics(pub(crate) Arc<Agent>);

type Labels = Vec<(&'static str, String)>;
type Row<'a> = (Labels, &'a BwDirection);
/// What a column reads from a direction.
type Column = fn(&BwDirection) -> Option<u64>;

const COUNTERS: [(&str, &str, Column); 7] = [
    ("turnpike_pod_bandwidth_bytes", "Bytes of pods by direction", |d| Some(d.bytes)),
    ("turnpike_pod_bandwidth_marked_packets", "Packets given a CE mark by a pod's limit", |d| {
        d.limit.map(|_| d.marked)
    }),
    (
        "turnpike_pod_bandwidth_unmarkable_packets",
        "Packets dropped early by a pod's limit because they cannot carry a CE mark; among those dropped",
        |d| d.limit.map(|_| d.not_capable),
    ),
    ("turnpike_pod_bandwidth_dropped_packets", "Packets dropped by a pod's limit", |d| {
        d.limit.map(|_| d.drops)
    }),
    (
        "turnpike_pod_bandwidth_shadow_marked_packets",
        "Packets that a limit in shadow would have marked",
        |d| d.shadow.as_ref().map(|shadow| shadow.marked),
    ),
    (
        "turnpike_pod_bandwidth_shadow_unmarkable_packets",
        "Packets that a limit in shadow would have dropped early because they cannot carry a CE mark; among those dropped",
        |d| d.shadow.as_ref().map(|shadow| shadow.not_capable),
    ),
    (
        "turnpike_pod_bandwidth_shadow_dropped_packets",
        "Packets that a limit in shadow would have dropped",
        |d| d.shadow.as_ref().map(|shadow| shadow.drops),
    ),
];

const GAUGES: [(&str, &str, Column); 4] = [
    ("turnpike_pod_bandwidth_limit_bits_per_second", "Limits in force", |d| d.limit),
    ("turnpike_pod_bandwidth_bits_per_second", "Rate of pods in the last second", |d| d.rates.last_1s),
    ("turnpike_pod_bandwidth_queue_microseconds", "Time that a pod's queue will take to drain", |d| {
        d.limit.map(|_| d.queue_us)
    }),
    (
        "turnpike_pod_bandwidth_shadow_limit_bits_per_second",
        "Limits that are counted and not in force",
        |d| d.shadow.as_ref().map(|shadow| shadow.limit),
    ),
];

type UplinkColumn = fn(&BwUplink) -> Option<u64>;

const UPLINK_GAUGES: [(&str, &str, UplinkColumn); 4] = [
    ("turnpike_uplink_speed_bits_per_second", "Speed of uplinks", |u| u.speed),
    ("turnpike_uplink_sent_bits_per_second", "Sent through uplinks in the last second", |u| u.sent.last_1s),
    ("turnpike_uplink_received_bits_per_second", "Received through uplinks in the last second", |u| {
        u.received.last_1s
    }),
    ("turnpike_uplink_free_bits_per_second", "Speed of uplinks less what is sent", |u| u.free),
];

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let report = report::report(&self.0);
        pods(&report, &mut encoder)?;
        for (name, help, column) in UPLINK_GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for uplink in &report.uplinks {
                if let Some(value) = column(uplink) {
                    let labels = [("link", uplink.name.clone())];
                    gauge(value).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        classes(&report, &mut encoder)
    }
}

type ClassColumn = fn(&BwClass) -> Option<u64>;

const CLASS_GAUGES: [(&str, &str, ClassColumn); 4] = [
    ("turnpike_class_guarantee_bits_per_second", "Guarantees of the node tree", |c| Some(c.guarantee)),
    ("turnpike_class_ceiling_bits_per_second", "Ceilings of the node tree", |c| Some(c.ceiling)),
    ("turnpike_class_sent_bits_per_second", "Sent in a class of the node tree in the last second", |c| {
        c.sent.last_1s
    }),
    ("turnpike_class_queue_microseconds", "Time that a class's queue takes at its guarantee", |c| {
        Some(c.queue_us)
    }),
];

fn classes(report: &BwReport, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let all =
        || report.uplinks.iter().flat_map(|uplink| uplink.classes.iter().map(move |class| (uplink, class)));
    let labels =
        |uplink: &BwUplink, class: &BwClass| [("link", uplink.name.clone()), ("class", class.name.clone())];
    for (name, help, column) in CLASS_GAUGES {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (uplink, class) in all() {
            if let Some(value) = column(class) {
                gauge(value).encode(metric.encode_family(&labels(uplink, class))?)?;
            }
        }
    }
    let help = "Packets dropped by the queue of a class of the node tree";
    let mut metric =
        encoder.encode_descriptor("turnpike_class_dropped_packets", help, None, MetricType::Counter)?;
    for (uplink, class) in all() {
        ConstCounter::new(class.drops).encode(metric.encode_family(&labels(uplink, class))?)?;
    }
    Ok(())
}

fn pods(report: &BwReport, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let rows: Vec<Row<'_>> = report.pods.iter().flat_map(rows).collect();
    for (name, help, column) in COUNTERS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, direction) in &rows {
            if let Some(value) = column(direction) {
                ConstCounter::new(value).encode(metric.encode_family(labels)?)?;
            }
        }
    }
    for (name, help, column) in GAUGES {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, direction) in &rows {
            if let Some(value) = column(direction) {
                gauge(value).encode(metric.encode_family(labels)?)?;
            }
        }
    }
    Ok(())
}

/// Directions are seen from the pod, as the annotations are.
fn rows(pod: &BwPod) -> [Row<'_>; 2] {
    let labels = |direction: &str| {
        vec![
            ("namespace", pod.pod.namespace.clone().unwrap_or_default()),
            ("pod", pod.pod.name.clone().unwrap_or_default()),
            ("link", pod.host_link.clone()),
            ("direction", direction.to_owned()),
        ]
    };
    [(labels("ingress"), &pod.to_workload), (labels("egress"), &pod.from_workload)]
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
