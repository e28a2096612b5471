//! The screen.

use std::net::IpAddr;

use turnpike_agent_api::{GatewayStatus, Health, PodStatus, ProblemStatus, StatusReport};
use turnpike_bgpd_api::view::PeerView;

use super::{BgpdStatus, NodeStatus};
use crate::table::{duration, rate, table};

pub(super) fn render(status: &NodeStatus) -> String {
    let mut screen = String::new();
    match &status.agent {
        Some(agent) => {
            head(&mut screen, agent);
            addresses(&mut screen, agent);
            pods(&mut screen, agent);
        }
        None => {
            let error = status.agent_error.as_deref().unwrap_or("no answer");
            screen.push_str(&format!("agent: {error}\n"));
        }
    }
    bgp(&mut screen, status);
    if let Some(agent) = &status.agent {
        gateways(&mut screen, agent);
        list(&mut screen, "problems", &agent.problems);
        list(&mut screen, "last errors", &agent.last_errors);
    }
    screen
}

fn head(screen: &mut String, agent: &StatusReport) {
    let health = match &agent.health {
        Health::Ready => "ready".to_owned(),
        Health::NotReady(reason) => format!("NOT READY: {reason}"),
    };
    let uptime = duration(agent.uptime_s);
    screen.push_str(&format!("node {}: agent {} up {uptime}, {health}\n", agent.node, agent.version));
    let source = &agent.source;
    let (count, age) = (source.resources, duration(source.age_s));
    screen.push_str(&format!("resources: {count} from {}, read {age} ago\n", source.folder));
    if !agent.limits_held_by.is_empty() {
        screen.push_str(&format!("limits: held by {}\n", agent.limits_held_by));
    }
    for error in &source.errors {
        screen.push_str(&format!("  REFUSED {error}\n"));
    }
}

fn addresses(screen: &mut String, agent: &StatusReport) {
    let pools: Vec<_> = agent
        .pools
        .iter()
        .map(|pool| [pool.name.clone(), pool.cidr.clone(), pool.state.clone(), in_use(pool.used, pool.total)])
        .collect();
    section(screen, "pools", &table(["NAME", "CIDR", "STATE", "USED HERE"], &pools));
    let blocks: Vec<_> = agent
        .blocks
        .iter()
        .map(|block| {
            let cooling = block.cooling.to_string();
            [block.cidr.clone(), block.pool.clone(), in_use(block.used, block.total), cooling]
        })
        .collect();
    section(screen, "blocks", &table(["CIDR", "POOL", "USED", "COOLING"], &blocks));
}

/// Only those that do not answer: the others are no news.
fn gateways(screen: &mut String, agent: &StatusReport) {
    let line = |gateway: &GatewayStatus| {
        let ping = gateway.ping.as_ref().filter(|ping| ping.state == "silent");
        let (what, age_s) = match (gateway.state.as_str(), ping) {
            ("silent", _) => ("does not answer ARP or ND", gateway.age_s),
            (_, Some(ping)) => ("does not answer pings", ping.age_s),
            _ => return None,
        };
        Some(format!("  {} on {} {what} ({})\n", gateway.address, gateway.link, duration(age_s)))
    };
    let lines: String = agent.gateways.iter().filter_map(line).collect();
    section(screen, "gateways", &lines);
}

fn in_use(used: u64, total: u64) -> String {
    format!("{used}/{total}")
}

fn pods(screen: &mut String, agent: &StatusReport) {
    let rows: Vec<_> = agent
        .pods
        .iter()
        .map(|pod| {
            [
                pod_name(pod),
                join(&pod.addresses),
                pod.host_link.clone(),
                pod.mtu.to_string(),
                rate(pod.to_workload),
                rate(pod.from_workload),
                pod.state.clone(),
                duration(pod.age_s),
            ]
        })
        .collect();
    let heading = ["POD", "ADDRESSES", "LINK", "MTU", "INGRESS", "EGRESS", "STATE", "AGE"];
    section(screen, &format!("pods ({})", agent.pods.len()), &table(heading, &rows));
}

fn pod_name(pod: &PodStatus) -> String {
    match (&pod.pod.namespace, &pod.pod.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => pod.attachment.container_id.chars().take(12).collect(),
    }
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn bgp(screen: &mut String, status: &NodeStatus) {
    match &status.bgpd {
        Some(bgpd) => {
            screen.push_str(&format!("\nbgp: {}\n", daemon(bgpd)));
            let rows: Vec<_> = bgpd.peer_list.iter().map(peer).collect();
            let heading = ["PEER", "ADDRESS", "AS", "STATE", "FOR", "ACCEPTED", "ADVERTISED", "LAST ERROR"];
            screen.push_str(&table(heading, &rows));
            for problem in &bgpd.daemon.problems {
                screen.push_str(&format!("  PROBLEM {problem}\n"));
            }
        }
        None => {
            let error = status.bgpd_error.as_deref().unwrap_or("no answer");
            screen.push_str(&format!("\nbgp: {error}\n"));
        }
    }
    if let Some(handed) = status.agent.as_ref().map(|agent| &agent.bgp) {
        let state = if handed.delivered { "bgpd has them" } else { "bgpd has NOT got them" };
        screen.push_str(&format!("  blocks to announce: {} ({state})\n", list_or_none(&handed.networks)));
        if let Some(error) = &handed.error {
            screen.push_str(&format!("  {error}\n"));
        }
    }
}

fn daemon(bgpd: &BgpdStatus) -> String {
    let daemon = &bgpd.daemon;
    let asn = daemon.asn.map_or("no AS number yet".to_owned(), |asn| format!("AS {asn}"));
    let router = daemon.router_id.map_or(String::new(), |id| format!(", router ID {id}"));
    let peers = format!("{} of {} peers up", daemon.established, daemon.peers);
    format!("bgpd {} up {}, {asn}{router}, {peers}", daemon.version, duration(daemon.uptime))
}

fn peer(peer: &PeerView) -> [String; 8] {
    let sum = |count: &turnpike_bgpd_api::PerFamily<usize>| (count.ipv4 + count.ipv6).to_string();
    [
        peer.name.clone(),
        peer.address.to_string(),
        peer.autonomous_system(),
        peer.state.clone(),
        duration(peer.since),
        sum(&peer.accepted),
        sum(&peer.advertised),
        peer.last_error.clone().unwrap_or_default(),
    ]
}

fn list(screen: &mut String, name: &str, problems: &[ProblemStatus]) {
    let lines: String = problems
        .iter()
        .map(|problem| {
            let ago = duration(problem.age_s);
            format!("  {} {}: {} ({ago} ago)\n", problem.severity, problem.subject, problem.message)
        })
        .collect();
    section(screen, name, &lines);
}

fn list_or_none(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

/// A named part of the screen; nothing when it has no content.
fn section(screen: &mut String, name: &str, content: &str) {
    if !content.is_empty() {
        screen.push_str(&format!("\n{name}\n{content}"));
    }
}

#[cfg(test)]
mod tests;
