//! The report behind `turnpike status`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use turnpike_agent_api::{
    BgpStatus, BlockStatus, Health as AgentHealth, PodStatus, PoolStatus, SourceStatus, StatusReport,
};
use turnpike_calc::{NodeState, PlannedBlock, Time};
use turnpike_model::desired::{HostPort, Protocol};

use crate::agent::Agent;
use crate::bandwidth::report::held_by;
use crate::books::{Books, PodEntry, PodState};
use crate::clock;

/// Everything about this node.
pub(crate) fn report(agent: &Agent) -> StatusReport {
    let now = clock::now();
    let present = agent.stamp();
    let age = |entry: &PodEntry| now.saturating_sub(entry.record.created.on_time_line(&present)).as_secs();
    let books = agent.books();
    let state = books.node_state();
    let blocks = blocks(&books, &state, now);
    let pods = books
        .pods()
        .iter()
        .map(|(id, entry)| {
            let limits = state.desired.endpoints.get(id).map(|endpoint| endpoint.limits).unwrap_or_default();
            PodStatus {
                attachment: entry.record.attachment.clone(),
                pod: entry.record.pod.clone(),
                addresses: entry.record.addresses(),
                host_link: entry.record.host_link.clone(),
                mtu: entry.record.mtu,
                to_workload: limits.to_workload.map(|rate| rate.0),
                from_workload: limits.from_workload.map(|rate| rate.0),
                host_ports: entry.record.host_ports.iter().map(host_port).collect(),
                state: match (entry.missing_since, entry.state) {
                    (Some(_), _) => "missing",
                    (None, PodState::Attaching) => "attaching",
                    (None, PodState::Ready) => "ready",
                    (None, PodState::Removing) => "removing",
                }
                .to_owned(),
                age_s: age(entry),
            }
        })
        .collect();
    let pools = pools(&books, &blocks);
    let resources = books.resources().len();
    let node = books.node().name.clone();
    drop(books);

    let health_of_agent =
        agent.ready().map_or_else(|error| AgentHealth::NotReady(error.message), |()| AgentHealth::Ready);
    let health = agent.health();
    let mut source_errors = health.source.errors.clone();
    if health.source.from_copy {
        source_errors.push("the copy of an earlier run is in force".to_owned());
    }
    StatusReport {
        node,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: now.saturating_sub(agent.started).as_secs(),
        health: health_of_agent,
        source: SourceStatus {
            folder: agent.config.paths.resources.display().to_string(),
            resources,
            age_s: health.source.loaded_at.map_or(0, |at| now.saturating_sub(at).as_secs()),
            errors: source_errors,
        },
        pools,
        blocks,
        pods,
        bgp: bgp(agent, &health, &state),
        gateways: health.gateways.report(now),
        limits_held_by: held_by(&agent.bandwidth.seen()).to_owned(),
        problems: health.problems(now),
        last_errors: health.errors(now),
        requests: agent.metrics.totals(),
    }
}

fn host_port(port: &HostPort) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let at = port.host_ip.map_or_else(
        || port.host_port.to_string(),
        |ip| std::net::SocketAddr::new(ip, port.host_port).to_string(),
    );
    format!("{protocol} {at}→{}", port.container_port)
}

fn blocks(books: &Books, state: &NodeState, now: Time) -> Vec<BlockStatus> {
    let reserved = |prefix: IpNetwork| {
        let first: IpAddr = prefix.network();
        books.ipam().plan().block_of(first).map_or(0, PlannedBlock::unavailable)
    };
    state
        .desired
        .blocks
        .iter()
        .map(|block| {
            let usage = books.ipam().usage(block.prefix, reserved(block.prefix), now);
            BlockStatus {
                cidr: block.prefix.to_string(),
                pool: block.pool.clone(),
                used: usage.used,
                cooling: usage.cooling,
                total: usage.total,
            }
        })
        .collect()
}

fn pools(books: &Books, blocks: &[BlockStatus]) -> Vec<PoolStatus> {
    let labels = &books.node().labels;
    let selected = books.resources().pools.iter().filter(|(name, pool)| {
        pool.node_selector.as_ref().is_none_or(|selector| selector.matches(labels))
            || blocks.iter().any(|block| block.pool == **name)
    });
    selected
        .map(|(name, pool)| {
            let own = blocks.iter().filter(|block| block.pool == *name);
            let sum = own.fold((0, 0, 0), |(used, cooling, total), block| {
                (used + block.used, cooling + block.cooling, block.total.saturating_add(total))
            });
            PoolStatus {
                name: name.clone(),
                cidr: pool.cidr.to_string(),
                state: format!("{:?}", pool.state),
                used: sum.0,
                cooling: sum.1,
                total: sum.2,
            }
        })
        .collect()
}

fn bgp(agent: &Agent, health: &crate::agent::Health, state: &NodeState) -> BgpStatus {
    let refused =
        (!health.bgp.refused.is_empty()).then(|| format!("refused: {}", health.bgp.refused.join("; ")));
    BgpStatus {
        socket: agent.config.bgpd.socket.display().to_string(),
        delivered: health.bgp.error.is_none() && health.bgp.delivered.as_ref() == Some(&state.bgp),
        error: health.bgp.error.clone().or(refused),
        networks: state.bgp.networks.iter().map(ToString::to_string).collect(),
        peers: state.bgp.peers.iter().map(|(name, peer)| format!("{name} {}", peer.peer_address)).collect(),
    }
}
