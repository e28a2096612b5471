//! Metrics and health over HTTP.

mod datapath;
mod host;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use turnpike_agent_api::Health as AgentHealth;

use crate::agent::Agent;
use crate::status;

/// Upper bounds of the durations' buckets, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Verbs that are counted.
const VERBS: [&str; 8] = ["ADD", "DEL", "CHECK", "STATUS", "GC", "status", "bw", "ipam"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabel {
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GateLabels {
    gate: &'static str,
    outcome: &'static str,
}

/// What is counted as it happens; all else is read when asked for.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<VerbLabel, Histogram>,
    gates: Family<GateLabels, Counter>,
    applies: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            gates: Family::default(),
            applies: Counter::default(),
        }
    }
}

impl Metrics {
    /// Counts a request.
    pub(crate) fn request(&self, verb: &'static str, succeeded: bool, took: Duration) {
        let result = if succeeded { "ok" } else { "error" };
        self.requests.get_or_create(&RequestLabels { verb, result }).inc();
        self.durations.get_or_create(&VerbLabel { verb }).observe(took.as_secs_f64());
    }

    /// Counts an ADD at a gate.
    pub(crate) fn gate(&self, gate: &'static str, outcome: &'static str) {
        self.gates.get_or_create(&GateLabels { gate, outcome }).inc();
    }

    /// Counts a comparison of the whole node with its desired state.
    pub(crate) fn applied(&self) {
        self.applies.inc();
    }

    /// Requests so far by `VERB result`.
    pub(crate) fn totals(&self) -> std::collections::BTreeMap<String, u64> {
        let count = |verb, result| {
            let count = self.requests.get(&RequestLabels { verb, result }).map_or(0, |counter| counter.get());
            (format!("{verb} {result}"), count)
        };
        VERBS
            .into_iter()
            .flat_map(|verb| [count(verb, "ok"), count(verb, "error")])
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// A gauge's values, each with its labels.
type Values = Vec<(Vec<(&'static str, String)>, u64)>;

/// Gauges of the present state.
#[derive(Debug)]
struct Present(Arc<Agent>);

impl Collector for Present {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let report = status::report(&self.0);
        let mut pools = Vec::new();
        for pool in &report.pools {
            for (state, value) in [("used", pool.used), ("cooling", pool.cooling), ("total", pool.total)] {
                pools.push((vec![("pool", pool.name.clone()), ("state", state.to_owned())], value));
            }
        }
        let flag = |value: bool| vec![(Vec::new(), u64::from(value))];
        let applied =
            self.0.health().last_apply.map_or(0, |took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let gateways = report.gateways.iter().map(|gateway| {
            let labels = vec![("link", gateway.link.clone()), ("address", gateway.address.to_string())];
            (labels, u64::from(gateway.state == "answers"))
        });
        let gateways: Values = gateways.collect();
        let pinged = report.gateways.iter().filter_map(|gateway| {
            let ping = gateway.ping.as_ref()?;
            let labels = vec![("link", gateway.link.clone()), ("address", gateway.address.to_string())];
            Some((labels, u64::from(ping.state == "answers")))
        });
        let pinged: Values = pinged.collect();
        let rounds = self.0.progress.ages();
        let rounds: Values =
            rounds.into_iter().map(|(name, age)| (vec![("loop", name.to_owned())], age.as_secs())).collect();
        let gauges: [(&str, &str, Values); 12] = [
            ("turnpike_loop_age_seconds", "Since the latest round of each of the agent's loops", rounds),
            ("turnpike_gateway_answers", "A gateway answers ARP or ND", gateways),
            ("turnpike_gateway_answers_ping", "A gateway answers ICMP echoes, where it is asked", pinged),
            ("turnpike_pods", "Pod interfaces in the books", vec![(Vec::new(), report.pods.len() as u64)]),
            ("turnpike_ipam_addresses", "This node's addresses by pool and state", pools),
            (
                "turnpike_problems",
                "What is not as it should be",
                vec![(Vec::new(), report.problems.len() as u64)],
            ),
            (
                "turnpike_source_errors",
                "Mistakes in the resources",
                vec![(Vec::new(), report.source.errors.len() as u64)],
            ),
            (
                "turnpike_source_age_seconds",
                "Age of the resources in force",
                vec![(Vec::new(), report.source.age_s)],
            ),
            ("turnpike_bgpd_delivered", "bgpd has the node's part", flag(report.bgp.delivered)),
            ("turnpike_ready", "ADD can work", flag(report.health == AgentHealth::Ready)),
            (
                "turnpike_apply_duration_milliseconds",
                "Time taken by the latest apply",
                vec![(Vec::new(), applied)],
            ),
            ("turnpike_uptime_seconds", "Since the agent's start", vec![(Vec::new(), report.uptime_s)]),
        ];
        for (name, help, values) in gauges {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            if let [(labels, value)] = values.as_slice()
                && labels.is_empty()
            {
                gauge(*value).encode(metric)?;
                continue;
            }
            for (labels, value) in values {
                gauge(value).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

#[derive(Clone)]
struct Http {
    agent: Arc<Agent>,
    registry: Arc<Registry>,
}

/// `/metrics`, `/healthz` and `/readyz`.
pub(crate) fn router(agent: Arc<Agent>) -> Router {
    let mut registry = Registry::default();
    registry.register("turnpike_requests", "Requests by verb and result", agent.metrics.requests.clone());
    registry.register(
        "turnpike_request_duration_seconds",
        "Time taken by requests",
        agent.metrics.durations.clone(),
    );
    registry.register("turnpike_gates", "ADDs at gates by outcome", agent.metrics.gates.clone());
    let applies = agent.metrics.applies.clone();
    registry.register("turnpike_applies", "Comparisons of the whole node with its desired state", applies);
    registry.register_collector(Box::new(Present(Arc::clone(&agent))));
    registry.register_collector(Box::new(crate::bandwidth::Metrics(Arc::clone(&agent))));
    registry.register_collector(Box::new(datapath::Datapath(Arc::clone(&agent))));
    registry.register_collector(Box::new(host::Host(Arc::clone(&agent))));
    let state = Http { agent, registry: Arc::new(registry) };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/readyz/network", get(readyz_network))
        .with_state(state)
}

/// `/healthz` and `/readyz` alone.
pub(crate) fn router_for_pods(agent: Arc<Agent>) -> Router {
    let state = Http { agent, registry: Arc::new(Registry::default()) };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz_short))
        .route("/readyz/network", get(readyz_network))
        .with_state(state)
}

/// Fails when one of the agent's loops stands still, and for nothing else: whoever asks restarts the agent.
async fn healthz(State(http): State<Http>) -> impl IntoResponse {
    let (alive, text) = http.agent.progress.report();
    (if alive { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

/// As [`readyz`], without the node's problems: they are not for tenants.
async fn readyz_short(State(http): State<Http>) -> impl IntoResponse {
    match http.agent.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", error.message)),
    }
}

async fn metrics(State(http): State<Http>) -> impl IntoResponse {
    let mut body = String::new();
    match text::encode(&mut body, &http.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], body)
        }
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], format!("{error}\n"))
        }
    }
}

/// Fails when ADD cannot work, as CNI STATUS does; the lines behind say what else is not as it should be.
async fn readyz(State(http): State<Http>) -> impl IntoResponse {
    let report = status::report(&http.agent);
    let (code, head) = match &report.health {
        AgentHealth::Ready => (StatusCode::OK, "ok\n".to_owned()),
        AgentHealth::NotReady(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    };
    (code, head + &reasons(&report))
}

/// Fails also when no gateway answers, to pings too where those count: for who decides whether this node takes part in
/// a service.
async fn readyz_network(State(http): State<Http>) -> impl IntoResponse {
    let lost = http.agent.health().gateways.lost(http.agent.config.readiness.ping);
    match http.agent.ready().map_err(|error| error.message).and_then(|()| lost.map_or(Ok(()), Err)) {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// What a person wants to know of a node that is ready, or of one that is not.
fn reasons(report: &turnpike_agent_api::StatusReport) -> String {
    let gateways = report.gateways.iter().map(|gateway| {
        let ping = gateway.ping.as_ref().map(|ping| format!(", pings: {} ({} s)", ping.state, ping.age_s));
        format!(
            "gateway {} on {}: {} ({} s){}\n",
            gateway.address,
            gateway.link,
            gateway.state,
            gateway.age_s,
            ping.unwrap_or_default()
        )
    });
    let source = report.source.errors.iter().map(|error| format!("resources: {error}\n"));
    let bgp = report.bgp.error.iter().map(|error| format!("bgpd: {error}\n"));
    let problems = report
        .problems
        .iter()
        .map(|problem| format!("{} {}: {}\n", problem.severity, problem.subject, problem.message));
    gateways.chain(source).chain(bgp).chain(problems).collect()
}
