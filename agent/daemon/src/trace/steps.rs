//! The stations of a packet, each put into words as it is passed.

use std::net::IpAddr;

use turnpike_agent_api::{TraceHop, TraceWay};
use turnpike_dataplane::{Dataplane, TracePacket, TraceRoute, TraceTransport, TraceVerdict};
use turnpike_model::desired::{BitsPerSecond, Endpoint, LbSource, Protocol};

use super::Scene;

/// From the pod to wherever it leads.
pub(super) fn from_pod(plane: &mut Dataplane, scene: &Scene, packet: &TracePacket) -> TraceWay {
    let mut way = begin(packet);
    pass(
        &mut way,
        format!("pod {}", scene.pod),
        "sends it through eth0; its default route leads to the node",
    );
    match plane.trace_from_pod(&scene.host_link, packet) {
        Ok(verdict) if verdict.dropped => return refused(way, scene, packet, &verdict),
        Ok(verdict) => {
            pass(
                &mut way,
                &scene.host_link,
                format!("anti-spoofing: {} is the pod's own address", packet.source),
            );
            if verdict.redirected {
                return bypassed_out(plane, way, scene, packet);
            }
            if let Some((name, _)) = source_of(scene, packet.destination) {
                let why = crate::lb::way_words(verdict.ways.first().copied());
                pass(&mut way, format!("LoadBalancerSource {name}"), format!("no bypass: {why}"));
            }
        }
        Err(error) => pass(&mut way, &scene.host_link, format!("no eBPF program looks at it: {error}")),
    }
    limit(&mut way, scene, |endpoint| endpoint.limits.from_workload, "sends");
    untracked(&mut way, scene, packet.destination, packet.source_port, packet.transport);
    let route = match plane.trace_route(packet.destination, Some((packet.source, &scene.host_link))) {
        Ok(route) => route,
        Err(error) => return unreachable(way, &error),
    };
    pass(&mut way, "routes", route_words(&route, packet.destination));
    let decided = route_name(&route);
    if let Some(end) = local_end(&mut way, scene, packet.destination, &route) {
        return finish(way, "delivered", &end);
    }
    if route.kind != "unicast" {
        return finish(way, "unreachable", &decided);
    }
    masquerade(&mut way, scene, packet);
    pass(&mut way, &route.link, "it leaves the node here");
    finish(way, "leaves", &decided)
}

/// From outside, or from another pod of this node, to the pod.
pub(super) fn towards_pod(plane: &mut Dataplane, scene: &Scene, packet: &TracePacket) -> TraceWay {
    let mut way = begin(packet);
    // Where the peer's packets come in is where the node would send its own to it.
    let back = match plane.trace_route(packet.source, None) {
        Ok(route) => route,
        Err(error) => return unreachable(way, &error),
    };
    pass(&mut way, &back.link, format!("it comes in here: {}", route_words(&back, packet.source)));
    match plane.trace_uplink(&back.link, packet) {
        Ok(Some(TraceVerdict { redirected: true, .. })) => {
            let name = source_of(scene, packet.source).map_or("?", |(name, _)| name);
            let object = format!("LoadBalancerSource {name}");
            pass(&mut way, &object, "admits it: past netfilter and conntrack, straight into the pod");
            limit(&mut way, scene, |endpoint| endpoint.limits.to_workload, "receives");
            return finish(way, "bypassed", &object);
        }
        Ok(Some(verdict)) => {
            if let Some((name, _)) = source_of(scene, packet.source) {
                let why = crate::lb::way_words(verdict.ways.first().copied());
                pass(&mut way, format!("LoadBalancerSource {name}"), format!("no bypass: {why}"));
            }
        }
        Ok(None) => {}
        Err(error) => pass(&mut way, &back.link, format!("no eBPF program looks at it: {error}")),
    }
    untracked(&mut way, scene, packet.source, packet.destination_port, packet.transport);
    let from = (back.kind == "unicast").then_some((packet.source, back.link.as_str()));
    let route = match plane.trace_route(packet.destination, from) {
        Ok(route) => route,
        Err(error) => return unreachable(way, &error),
    };
    pass(&mut way, "routes", route_words(&route, packet.destination));
    limit(&mut way, scene, |endpoint| endpoint.limits.to_workload, "receives");
    match local_end(&mut way, scene, packet.destination, &route) {
        Some(end) => finish(way, "delivered", &end),
        None => finish(way, "unreachable", &route_name(&route)),
    }
}

fn begin(packet: &TracePacket) -> TraceWay {
    let (source, destination) = (packet.source, packet.destination);
    let with = |address: IpAddr, port: u16| std::net::SocketAddr::new(address, port);
    let ends =
        || format!("{} → {}", with(source, packet.source_port), with(destination, packet.destination_port));
    let packet = match packet.transport {
        TraceTransport::Tcp { answer: false } => format!("TCP SYN {}", ends()),
        TraceTransport::Tcp { answer: true } => format!("TCP SYN-ACK {}", ends()),
        TraceTransport::Udp => format!("UDP {}", ends()),
        TraceTransport::Icmp { answer: false } => format!("ICMP echo {source} → {destination}"),
        TraceTransport::Icmp { answer: true } => format!("ICMP echo reply {source} → {destination}"),
    };
    TraceWay { packet, ..TraceWay::default() }
}

fn pass(way: &mut TraceWay, at: impl AsRef<str>, text: impl Into<String>) {
    way.hops.push(TraceHop { at: at.as_ref().to_owned(), text: text.into() });
}

fn finish(way: TraceWay, verdict: &str, decided_by: &str) -> TraceWay {
    TraceWay { verdict: verdict.to_owned(), decided_by: decided_by.to_owned(), ..way }
}

fn refused(mut way: TraceWay, scene: &Scene, packet: &TracePacket, verdict: &TraceVerdict) -> TraceWay {
    let object = format!("anti-spoof map, entry of {}", scene.host_link);
    let why = match verdict.counters.first().copied() {
        Some("spoofed_v4" | "spoofed_v6") => {
            format!("refuses it: {} is not an address of pod {}", packet.source, scene.pod)
        }
        Some("pod_no_config") => "refuses it: there is no entry yet; `turnpike status` says why".to_owned(),
        other => format!("refuses it ({})", other.unwrap_or("no counter moved")),
    };
    pass(&mut way, &object, why);
    finish(way, "refused", &object)
}

fn bypassed_out(plane: &mut Dataplane, mut way: TraceWay, scene: &Scene, packet: &TracePacket) -> TraceWay {
    let name = source_of(scene, packet.destination).map_or("?", |(name, _)| name);
    let object = format!("LoadBalancerSource {name}");
    pass(&mut way, &object, "admits it: past netfilter and conntrack, straight to the uplink");
    if let Ok(route) = plane.trace_route(packet.destination, Some((packet.source, &scene.host_link))) {
        pass(&mut way, "routes", route_words(&route, packet.destination));
    }
    finish(way, "bypassed", &object)
}

fn unreachable(mut way: TraceWay, error: &turnpike_dataplane::DataplaneError) -> TraceWay {
    let cause = std::error::Error::source(error)
        .and_then(|cause| cause.downcast_ref::<std::io::Error>())
        .and_then(std::io::Error::raw_os_error);
    // ip_route_input(9): what the kernel's lookup answers for each kind of refusal.
    let why = match cause {
        Some(101) => "no route leads there (ENETUNREACH)".to_owned(),
        Some(113) => "an unreachable route, or forwarding is off (EHOSTUNREACH)".to_owned(),
        Some(13) => "a prohibit route (EACCES)".to_owned(),
        Some(22) => "a blackhole route, or a source that cannot be (EINVAL)".to_owned(),
        Some(18) => "the reverse path filter (rp_filter) does not take this source here (EXDEV)".to_owned(),
        _ => error.to_string(),
    };
    pass(&mut way, "routes", format!("the kernel refuses it: {why}"));
    finish(way, "unreachable", &why)
}

/// The longest prefix of a bypassing source that holds the address.
fn source_of(scene: &Scene, address: IpAddr) -> Option<(&str, &LbSource)> {
    let holding =
        scene.desired.lb_sources.iter().filter(|(_, source)| source.bypass).flat_map(|(name, source)| {
            source
                .cidrs
                .iter()
                .filter(|cidr| cidr.contains(address))
                .map(move |cidr| (cidr.prefix(), name, source))
        });
    holding.max_by_key(|(length, _, _)| *length).map(|(_, name, source)| (name.as_str(), source))
}

fn untracked(way: &mut TraceWay, scene: &Scene, director: IpAddr, pod_port: u16, transport: TraceTransport) {
    let Some((name, source)) = source_of(scene, director) else { return };
    let protocol = match transport {
        TraceTransport::Tcp { .. } => Protocol::Tcp,
        TraceTransport::Udp => Protocol::Udp,
        TraceTransport::Icmp { .. } => return,
    };
    let any_tcp = source.ports.is_empty() && protocol == Protocol::Tcp;
    if any_tcp || source.ports.iter().any(|port| port.protocol == protocol && port.port == pod_port) {
        let set = if director.is_ipv4() { "lb_services4" } else { "lb_services6" };
        let text = format!("{name} is in it: not tracked, unless the pod itself opens the connection");
        pass(way, format!("nftables set {set}"), text);
    }
}

fn limit(way: &mut TraceWay, scene: &Scene, of: fn(&Endpoint) -> Option<BitsPerSecond>, verb: &str) {
    let endpoint = scene.desired.endpoints.values().find(|endpoint| endpoint.host_link == scene.host_link);
    if let Some(rate) = endpoint.and_then(of) {
        pass(
            way,
            format!("limit on {}", scene.host_link),
            format!("the pod {verb} at most {} bit/s", rate.0),
        );
    }
}

fn masquerade(way: &mut TraceWay, scene: &Scene, packet: &TracePacket) {
    for rule in &scene.desired.masquerade {
        if !rule.sources.iter().any(|source| source.contains(packet.source)) {
            continue;
        }
        let set = if packet.source.is_ipv4() { "masq_except4" } else { "masq_except6" };
        match rule.except_to.iter().find(|range| range.contains(packet.destination)) {
            Some(range) => {
                pass(way, format!("nftables set {set}"), format!("{range}: the pod's own address stays"))
            }
            None => pass(
                way,
                format!("nftables set {set}"),
                "does not hold the receiver: masquerade applies, it shows the node's address",
            ),
        }
        return;
    }
}

/// A pod of this node, or the node itself.
fn local_end(way: &mut TraceWay, scene: &Scene, destination: IpAddr, route: &TraceRoute) -> Option<String> {
    if route.kind == "local" {
        pass(way, format!("node {}", scene.node), "the address is the node's own: its processes get it");
        return Some(format!("node {}", scene.node));
    }
    let name = scene.pods.get(&destination)?;
    pass(way, &route.link, format!("into pod {name}"));
    Some(route_name(route))
}

fn route_name(route: &TraceRoute) -> String {
    match route.prefix {
        Some(prefix) if prefix.prefix() == 0 => "default route".to_owned(),
        Some(prefix) => format!("route {prefix}"),
        None => "route".to_owned(),
    }
}

fn route_words(route: &TraceRoute, destination: IpAddr) -> String {
    let by = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let link = if route.link.is_empty() { String::new() } else { format!(" dev {}", route.link) };
    let of = match route.protocol {
        2 => ", the kernel's own".to_owned(),
        3 | 4 => ", set by hand".to_owned(),
        9 => ", from router advertisements".to_owned(),
        16 => ", from DHCP".to_owned(),
        201 => ", turnpike-agent's".to_owned(),
        202 => ", learnt by turnpike-bgpd".to_owned(),
        other => format!(", protocol {other}"),
    };
    let table =
        if [254, 255].contains(&route.table) { String::new() } else { format!(" of table {}", route.table) };
    let several = if route.hops > 1 { format!(", one of {} next hops", route.hops) } else { String::new() };
    let kind = if route.kind == "unicast" { String::new() } else { format!(" ({})", route.kind) };
    format!("{}{kind}{by}{link}{table}{of}{several} leads to {destination}", route_name(route))
}
