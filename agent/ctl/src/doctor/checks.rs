//! The checks: each a function of the facts. Pure.

mod firewall;
mod machine;

use std::net::IpAddr;

use serde::Serialize;

use super::facts::{Facts, Link, Route};

/// Links of ours begin with this.
const OURS: &str = "tpk";

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Good,
    Warn,
    Bad,
    /// The facts could not be read.
    Unknown,
}

/// One check's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    /// What was found, in words.
    pub(super) found: String,
    /// What to do, unless it is good.
    pub(super) remedy: Option<String>,
}

type Outcome = (Verdict, String, Option<String>);
type Judge = fn(&Facts) -> Outcome;

/// All checks in the order in which a person mends things.
pub(super) fn all(facts: &Facts) -> Vec<Check> {
    let checks: [(&'static str, Judge); 22] = [
        ("agent", agent),
        ("resources", resources),
        ("kernel", kernel),
        ("kernel features", machine::features),
        ("clock", machine::clock),
        ("bpffs", bpffs),
        ("cgroup v2", cgroup2),
        ("forwarding", forwarding),
        ("rp_filter", rp_filter),
        ("accept_ra", accept_ra),
        ("default route", default_route),
        ("overlap", overlap),
        ("MTU", mtu),
        ("networkd", networkd),
        ("NetworkManager", network_manager),
        ("FORWARD policy", firewall::forward_policy),
        ("firewalld", firewall::firewalld),
        ("route protocol", route_protocol),
        ("next hops", next_hops),
        ("softnet", machine::softnet),
        ("receive queues", machine::receive_queues),
        ("CNI conflist", conflist),
    ];
    checks
        .into_iter()
        .map(|(name, check)| {
            let (verdict, found, remedy) = check(facts);
            Check { name, verdict, found, remedy }
        })
        .collect()
}

fn good(found: impl Into<String>) -> Outcome {
    (Verdict::Good, found.into(), None)
}

fn warn(found: impl Into<String>, remedy: impl Into<String>) -> Outcome {
    (Verdict::Warn, found.into(), Some(remedy.into()))
}

fn bad(found: impl Into<String>, remedy: impl Into<String>) -> Outcome {
    (Verdict::Bad, found.into(), Some(remedy.into()))
}

fn agent(facts: &Facts) -> Outcome {
    match (&facts.agent, &facts.agent_error) {
        (Some(agent), _) => match &agent.not_ready {
            Some(reason) => bad(format!("it runs, but is not ready: {reason}"), "turnpike status"),
            None => good("it runs and is ready"),
        },
        (None, error) => bad(
            error.clone().unwrap_or_else(|| "it does not answer".to_owned()),
            "systemctl start turnpike-agent; journalctl -u turnpike-agent",
        ),
    }
}

fn resources(facts: &Facts) -> Outcome {
    match &facts.agent {
        None => (Verdict::Unknown, "the agent was not asked".to_owned(), None),
        Some(agent) if agent.source_errors.is_empty() => good("the folder is in force as it is"),
        Some(agent) => {
            bad(agent.source_errors.join("; "), "mend the file; what was in force before stays until then")
        }
    }
}

fn kernel(facts: &Facts) -> Outcome {
    let release = &facts.kernel.release;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return (Verdict::Unknown, format!("release `{release}` is not understood"), None);
    };
    if (major, minor) < (5, 10) {
        return bad(
            format!("{release} is older than 5.10"),
            "boot a newer kernel: nftables and eBPF need it",
        );
    }
    if !facts.kernel.btf {
        return warn(
            format!("{release} has no BTF"),
            "boot a kernel with CONFIG_DEBUG_INFO_BTF: without it the bypass and TOA cannot be loaded",
        );
    }
    good(format!("{release} with BTF"))
}

fn bpffs(facts: &Facts) -> Outcome {
    if facts.kernel.bpffs {
        return good("mounted at /sys/fs/bpf");
    }
    warn(
        "not mounted at /sys/fs/bpf",
        "mount -t bpf bpf /sys/fs/bpf (the agent tries; in a container give it the host's mount)",
    )
}

fn cgroup2(facts: &Facts) -> Outcome {
    if facts.kernel.cgroup2 {
        return good("mounted at /sys/fs/cgroup");
    }
    warn(
        "/sys/fs/cgroup is not cgroup v2 alone",
        "boot with systemd.unified_cgroup_hierarchy=1: TOA attaches to the pods' cgroup v2",
    )
}

fn sysctl<'a>(facts: &'a Facts, key: &str) -> Option<&'a str> {
    facts.sysctls.get(key).map(String::as_str)
}

fn forwarding(facts: &Facts) -> Outcome {
    let v4 = sysctl(facts, "net/ipv4/ip_forward");
    let v6 = sysctl(facts, "net/ipv6/conf/all/forwarding");
    let has_v6_pool =
        facts.agent.as_ref().is_some_and(|agent| agent.pools.iter().any(|(_, ip, _)| ip.is_ipv6()));
    let remedy = "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1, and see which file in \
                  /etc/sysctl.d sets it back";
    match (v4, v6) {
        (Some("1"), Some("1")) => good("on for IPv4 and IPv6"),
        (Some("1"), _) if !has_v6_pool => good("on for IPv4; no IPv6 pool is here"),
        (Some("1"), _) => bad("off for IPv6: pods reach nothing by IPv6", remedy),
        (Some(_), _) => bad("off for IPv4: pods reach nothing", remedy),
        (None, _) => (Verdict::Unknown, "net.ipv4.ip_forward cannot be read".to_owned(), None),
    }
}

/// Interfaces that lead out of the node by a default route.
fn uplinks(facts: &Facts) -> Vec<&str> {
    let mut names: Vec<&str> = facts
        .routes
        .iter()
        .filter(|route| route.destination.is_none() && !route.device.is_empty())
        .map(|route| route.device.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn rp_filter(facts: &Facts) -> Outcome {
    let of = |link: &str| sysctl(facts, &format!("net/ipv4/conf/{link}/rp_filter"));
    let all = of("all");
    if all == Some("2") {
        return warn(
            "net.ipv4.conf.all.rp_filter is 2: loose on pods' links too, where strict keeps pods from lying",
            "sysctl -w net.ipv4.conf.all.rp_filter=0 (the agent sets each pod link to 1); look in /etc/sysctl.d",
        );
    }
    let uplinks = uplinks(facts);
    let strict: Vec<&str> =
        uplinks.iter().copied().filter(|link| all == Some("1") || of(link) == Some("1")).collect();
    if uplinks.len() > 1 && !strict.is_empty() {
        return warn(
            format!(
                "strict on {}, and the node has several ways out: answers may come by another",
                strict.join(", ")
            ),
            format!(
                "sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{}.rp_filter=2",
                strict.join(".rp_filter=2 net.ipv4.conf.")
            ),
        );
    }
    good("leaves every answer through")
}

fn accept_ra(facts: &Facts) -> Outcome {
    if sysctl(facts, "net/ipv6/conf/all/forwarding") != Some("1") {
        return good("IPv6 forwarding is off");
    }
    let deaf: Vec<&str> = facts
        .links
        .iter()
        .map(|link| link.name.as_str())
        .filter(|name| !name.starts_with(OURS) && *name != "lo")
        .filter(|name| sysctl(facts, &format!("net/ipv6/conf/{name}/accept_ra")) == Some("1"))
        .collect();
    let static_default = facts.routes.iter().any(|route| {
        // RTPROT_RA is 9: such a route ends when no router advertisement renews it.
        route.is_ipv6 && route.destination.is_none() && route.protocol != 9
    });
    if deaf.is_empty() || static_default {
        return good("router advertisements are heard where they are needed");
    }
    bad(
        format!(
            "accept_ra is 1 on {}, which forwarding turns into deaf: the IPv6 default route will run out",
            deaf.join(", ")
        ),
        format!(
            "sysctl -w net.ipv6.conf.{}.accept_ra=2, and in /etc/sysctl.d",
            deaf.join(".accept_ra=2 net.ipv6.conf.")
        ),
    )
}

fn default_route(facts: &Facts) -> Outcome {
    let has = |is_ipv6: bool| {
        facts
            .routes
            .iter()
            .any(|route| route.destination.is_none() && route.is_ipv6 == is_ipv6 && !route.blackhole)
    };
    let has_pool = |is_ipv6: bool| {
        facts.agent.as_ref().is_some_and(|agent| agent.pools.iter().any(|(_, ip, _)| ip.is_ipv6() == is_ipv6))
    };
    let missing: Vec<&str> = [(false, "IPv4"), (true, "IPv6")]
        .into_iter()
        .filter(|(v6, _)| !has(*v6) && (has_pool(*v6) || !*v6))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        return good("there is one for every family that pods have");
    }
    warn(
        format!("none for {}: pods reach only what BGP has taught", missing.join(" and ")),
        "ip route add default via GATEWAY, or have a peer announce 0.0.0.0/0",
    )
}

fn bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    }
}

/// True where the prefix holds the address.
fn holds((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    network.is_ipv6() == address.is_ipv6() && (bits(network).0 ^ bits(address).0) & mask == 0
}

fn overlap_of(a: (IpAddr, u8), b: (IpAddr, u8)) -> bool {
    holds(a, b.0) && a.1 <= b.1 || holds(b, a.0) && b.1 <= a.1
}

fn overlap(facts: &Facts) -> Outcome {
    let Some(agent) = &facts.agent else {
        return (Verdict::Unknown, "the agent was not asked for its pools".to_owned(), None);
    };
    let mut found = Vec::new();
    for (pool, ip, length) in &agent.pools {
        let range = (*ip, *length);
        let networks = facts.links.iter().filter(|link| !link.name.starts_with(OURS));
        for link in networks {
            for (address, length) in
                link.addresses.iter().filter(|(address, length)| overlap_of(range, (*address, *length)))
            {
                found.push(format!("pool {pool} {ip}/{} and {} {address}/{length}", range.1, link.name));
            }
        }
        for (other, ip, length) in agent.pools.iter().filter(|(other, _, _)| other > pool) {
            if overlap_of(range, (*ip, *length)) {
                found.push(format!("pools {pool} and {other}"));
            }
        }
    }
    if found.is_empty() {
        return good("no pool overlaps a network of this host");
    }
    bad(
        format!("they share addresses: {}", found.join("; ")),
        "take another range for the pool, or give the interface another network (Docker: `bip` in daemon.json)",
    )
}

fn mtu(facts: &Facts) -> Outcome {
    let uplinks = uplinks(facts);
    let smallest =
        facts.links.iter().filter(|link| uplinks.contains(&link.name.as_str())).min_by_key(|link| link.mtu);
    let pod = facts.agent.as_ref().and_then(|agent| agent.pod_mtu);
    match (smallest, pod) {
        (Some(Link { name, mtu, .. }), Some(pod)) if pod > *mtu => bad(
            format!("pods have {pod}, uplink {name} has {mtu}: large packets are lost or cut up"),
            format!("set network.mtu = {mtu} in agent.toml, or raise the uplink's; then recreate the pods"),
        ),
        (Some(link), Some(pod)) => good(format!("pods {pod}, smallest uplink {} ({})", link.mtu, link.name)),
        (Some(link), None) => good(format!("smallest uplink {} ({}); no pods yet", link.mtu, link.name)),
        (None, _) => (Verdict::Unknown, "no uplink was found".to_owned(), None),
    }
}

fn networkd(facts: &Facts) -> Outcome {
    match (facts.managers.networkd, facts.managers.networkd_snippets) {
        (false, _) => good("systemd-networkd does not run"),
        (true, true) => good("it runs and leaves our links and routes alone"),
        (true, false) => bad(
            "it runs without our snippets: a restart of it deletes pods' and BGP's routes",
            "install deploy/networkd/* (10-turnpike.conf in /etc/systemd/networkd.conf.d, 10-turnpike.network in \
             /etc/systemd/network), then systemctl restart systemd-networkd",
        ),
    }
}

fn network_manager(facts: &Facts) -> Outcome {
    match (facts.managers.network_manager, facts.managers.network_manager_snippet) {
        (false, _) => good("it does not run"),
        (true, true) => good("it runs and leaves our links alone"),
        (true, false) => bad(
            "it runs without our snippet: it takes pods' links for its own",
            "install deploy/NetworkManager/10-turnpike.conf in /etc/NetworkManager/conf.d, then nmcli general reload",
        ),
    }
}

/// Ours go to pods' links or are blackholes for blocks.
fn route_protocol(facts: &Facts) -> Outcome {
    let strange = |route: &&Route| {
        route.protocol == facts.route_protocol && !route.blackhole && !route.device.starts_with(OURS)
    };
    let words = |route: &Route| {
        let to =
            route.destination.map_or_else(|| "default".to_owned(), |(ip, length)| format!("{ip}/{length}"));
        format!("{to} dev {}", route.device)
    };
    let strange: Vec<String> = facts.routes.iter().filter(strange).map(words).collect();
    if strange.is_empty() {
        return good(format!("nobody else uses {}", facts.route_protocol));
    }
    bad(
        format!("somebody else has routes of protocol {}: {}", facts.route_protocol, strange.join(", ")),
        "set network.route_protocol in agent.toml to a number that is not in /etc/iproute2/rt_protos",
    )
}

fn next_hops(facts: &Facts) -> Outcome {
    let on_link =
        |address: IpAddr| facts.links.iter().flat_map(|link| &link.addresses).any(|net| holds(*net, address));
    let routed = |address: IpAddr| {
        facts.routes.iter().any(|route| match route.destination {
            Some(net) => holds(net, address),
            None => route.is_ipv6 == address.is_ipv6(),
        })
    };
    let mut found: Vec<String> = Vec::new();
    for (name, address, error) in &facts.peers_down {
        let why = match (on_link(*address), routed(*address)) {
            (true, _) => continue,
            (false, true) => "is behind a router, not on a network of this node: give the peer multihopTtl",
            (false, false) => "cannot be reached: there is no route",
        };
        found.push(format!("BGP peer {name} {address} {why} ({error})"));
    }
    for route in &facts.routes {
        for gateway in
            route.gateways.iter().filter(|gateway| !is_link_local(**gateway) && !on_link(**gateway))
        {
            let to = route
                .destination
                .map_or_else(|| "default".to_owned(), |(ip, length)| format!("{ip}/{length}"));
            found.push(format!("route {to} goes by {gateway}, which is on no network of this node"));
        }
    }
    if found.is_empty() {
        return good("all on networks of this node");
    }
    warn(
        found.join("; "),
        "nodes in several subnets need their router as a peer, or `nextHop: Self` at the reflector's other side",
    )
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn conflist(facts: &Facts) -> Outcome {
    let cni = &facts.cni;
    let install = "turnpike-agent install-cni";
    if !cni.binary {
        return bad("turnpike-cni is not in the plugins' folder", install);
    }
    let is_ours =
        |(_, plugins): &&(String, Vec<String>)| plugins.iter().any(|plugin| plugin == "turnpike-cni");
    let Some((ours, plugins)) = cni.files.iter().find(is_ours) else {
        return bad(format!("no file in {} names turnpike-cni", cni.folder), install);
    };
    if let Some((first, _)) = cni.files.first().filter(|(first, _)| first != ours) {
        return bad(
            format!("{first} comes before {ours}: the runtime takes the first and never calls us"),
            format!("remove {}/{first}, or rename ours to come first", cni.folder),
        );
    }
    if cni.maps_ports && plugins.iter().any(|plugin| plugin == "portmap") {
        return warn(
            format!("{ours} asks for portMappings and names portmap: each host port is mapped twice"),
            "take portMappings out of turnpike-cni's capabilities, or portmap out of the chain",
        );
    }
    good(format!("{ours} comes first"))
}

#[cfg(test)]
mod tests;
