//! Metrics and health over HTTP, read-only.
//!
//! Every scrape asks the engine for its state and renders that; but for how long things take, nothing is counted twice,
//! and nothing is counted while nobody looks.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{info, warn};
use turnpike_bgpd_api::view::{PeerView, StationView, StatusView};
use turnpike_bgpd_api::{Reply, Request};

use crate::control::{Ask, ask};

/// An engine that takes longer than this to answer is not healthy.
const PATIENCE: Duration = Duration::from_secs(5);

type Labels = Vec<(&'static str, String)>;

/// Serves on `address`.
pub(crate) async fn serve(
    address: SocketAddr,
    engine: mpsc::Sender<Ask>,
    propagation: Histogram,
) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for metrics; set metrics.listen or metrics.enabled")
    })?;
    info!(%address, "serving metrics");
    let router = Router::new()
        .route("/metrics", get(move |engine| metrics(engine, propagation)))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .with_state(engine);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            warn!(%error, "metrics server ended");
        }
    });
    Ok(())
}

async fn status(engine: &mpsc::Sender<Ask>) -> Option<StatusView> {
    match timeout(PATIENCE, ask(engine, Request::Status)).await {
        Ok(Some(Reply::Status(status))) => Some(*status),
        _ => None,
    }
}

async fn health(State(engine): State<mpsc::Sender<Ask>>) -> Response {
    match status(&engine).await {
        Some(_) => (StatusCode::OK, "ok\n").into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the engine does not answer\n").into_response(),
    }
}

/// Ready: configured, every expected part known, initial route selection over.
async fn ready(State(engine): State<mpsc::Sender<Ask>>) -> Response {
    let Some(status) = status(&engine).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the engine does not answer\n").into_response();
    };
    let reason = if status.asn.is_none() {
        "not configured yet".to_owned()
    } else if !status.waiting_for.is_empty() {
        format!("waiting for the part of {}", status.waiting_for.join(", "))
    } else if status.starting {
        "initial route selection is not complete".to_owned()
    } else {
        return (StatusCode::OK, "ready\n").into_response();
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

async fn metrics(State(engine): State<mpsc::Sender<Ask>>, propagation: Histogram) -> Response {
    let Some(status) = status(&engine).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the engine does not answer\n").into_response();
    };
    let peers = match timeout(PATIENCE, ask(&engine, Request::Peers { peer: None })).await {
        Ok(Some(Reply::Peers { peers })) => peers,
        _ => Vec::new(),
    };
    let text = render(&status, &peers, &propagation);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn render(status: &StatusView, peers: &[PeerView], propagation: &Histogram) -> String {
    let mut registry = Registry::with_prefix("turnpike_bgpd");
    speaker(&mut registry, status);
    kernel(&mut registry, status);
    sessions(&mut registry, peers);
    stations(&mut registry, status);
    let help = "From an UPDATE's arrival until peers' queues hold what follows from it";
    registry.register_with_unit("propagation", help, Unit::Seconds, propagation.clone());
    let mut text = String::new();
    // Writing into a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn speaker(registry: &mut Registry, status: &StatusView) {
    single(registry, "starting", "Initial route selection is being waited for", flag(status.starting));
    single(registry, "peers", "Peers configured", count(status.peers));
    single(registry, "peers_established", "Peers Established", count(status.established));
    single(registry, "parts_missing", "Expected parts not yet known", count(status.waiting_for.len()));
    single(registry, "problems", "Mistakes in force", count(status.problems.len()));
    let families = |per: &turnpike_bgpd_api::PerFamily<usize>| {
        per.iter()
            .map(|(family, value)| (vec![("family", family.to_string())], count(*value)))
            .collect::<Vec<_>>()
    };
    gauge(registry, "rib_prefixes", "Prefixes with a usable path", families(&status.prefixes));
    gauge(registry, "rib_paths", "Paths held", families(&status.paths));
    single(registry, "attribute_sets", "Distinct attribute sets", count(status.attribute_sets));
    let unreachable = status.nexthops.iter().filter(|hop| !hop.reachable).count();
    single(registry, "nexthops", "Next hops followed", count(status.nexthops.len()));
    single(registry, "nexthops_unreachable", "Next hops without a route", count(unreachable));
}

fn kernel(registry: &mut Registry, status: &StatusView) {
    let kernel = &status.kernel;
    single(registry, "kernel_routes", "Routes in the kernel", count(kernel.routes));
    single(registry, "kernel_queue", "Prefixes waiting for the kernel", count(kernel.pending));
    single(registry, "kernel_failures", "Writes refused", count(kernel.failures.len()));
}

fn sessions(registry: &mut Registry, peers: &[PeerView]) {
    let of = |peer: &PeerView| vec![("peer", peer.name.clone())];
    let each = |value: &dyn Fn(&PeerView) -> i64| {
        peers.iter().map(|peer| (of(peer), value(peer))).collect::<Vec<_>>()
    };
    let up = each(&|peer| flag(peer.session.is_some()));
    gauge(registry, "peer_up", "The session is Established", up);
    gauge(
        registry,
        "peer_state_seconds",
        "Time in the present state",
        each(&|peer| peer.since.cast_signed()),
    );
    gauge(
        registry,
        "peer_stale",
        "Paths are kept for a restart",
        each(&|peer| flag(peer.stale_for.is_some())),
    );
    for (name, help, value) in [
        (
            "peer_received",
            "Paths held",
            (|peer| &peer.received) as fn(&PeerView) -> &turnpike_bgpd_api::PerFamily<usize>,
        ),
        ("peer_accepted", "Paths that policy accepted", |peer| &peer.accepted),
        ("peer_advertised", "Prefixes announced", |peer| &peer.advertised),
    ] {
        let rows = peers.iter().flat_map(|peer| {
            value(peer).iter().map(move |(family, number)| {
                (vec![("peer", peer.name.clone()), ("family", family.to_string())], count(*number))
            })
        });
        gauge(registry, name, help, rows);
    }
    for (name, help, value) in [
        ("peer_flaps", "Times the session left Established", (|peer| peer.flaps) as fn(&PeerView) -> u64),
        ("peer_messages_in", "Messages received", |peer| peer.messages_in),
        ("peer_messages_out", "Messages sent", |peer| peer.messages_out),
        ("peer_updates_in", "UPDATEs received", |peer| peer.updates_in),
        ("peer_updates_out", "UPDATEs sent", |peer| peer.updates_out),
        ("peer_malformed_in", "UPDATEs with mistakes (RFC 7606)", |peer| peer.malformed_in),
    ] {
        let family = Family::<Labels, Counter>::default();
        for peer in peers {
            family.get_or_create(&of(peer)).inc_by(value(peer));
        }
        registry.register(name, help, family);
    }
}

fn stations(registry: &mut Registry, status: &StatusView) {
    let each = |value: &dyn Fn(&StationView) -> i64| {
        let rows = status.stations.iter();
        rows.map(|station| (vec![("station", station.station.to_string())], value(station)))
            .collect::<Vec<_>>()
    };
    let up = each(&|station| flag(station.connected_for.is_some()));
    gauge(registry, "bmp_station_up", "The BMP station is connected", up);
    let queued = each(&|station| station.queued.cast_signed());
    gauge(registry, "bmp_queued_bytes", "Octets that wait for the BMP station", queued);
    let overflows = each(&|station| station.overflows.cast_signed());
    gauge(registry, "bmp_overflows", "Streams that ended because the BMP station did not keep up", overflows);
}

fn single(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, i64)>) {
    let family = Family::<Labels, Gauge>::default();
    for (labels, value) in rows {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn flag(value: bool) -> i64 {
    i64::from(value)
}
