//! `turnpike routes export`: every block and its node as static routes, for routers that speak no BGP.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use turnpike_agent_api::{PlannedRoute, Reply, Request};
use turnpike_bgpd_api::{Client, Select};

use crate::Global;
use crate::agent::show;
use crate::lb::{ask, other_release};

/// Longest wait for bgpd.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Static routes of the cluster's blocks.
#[derive(Debug, Subcommand)]
pub(crate) enum RoutesCommand {
    /// Print them in a router's own words.
    Export {
        /// Whose words.
        #[arg(long, value_enum)]
        format: Format,
        /// Where a node is reached: NODE=ADDRESS, once for each family. Unless given, the next hop is asked of bgpd.
        #[arg(long = "node", value_name = "NODE=ADDRESS", value_parser = parse_node)]
        nodes: Vec<(String, IpAddr)>,
    },
}

/// A router's syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// FRRouting (staticd).
    Frr,
    /// BIRD 2.
    Bird,
    /// Cisco IOS and those that imitate it.
    Ios,
    /// Junos, as set commands.
    Junos,
}

/// A route with its next hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Static {
    #[serde(flatten)]
    planned: PlannedRoute,
    next_hop: IpAddr,
}

fn parse_node(text: &str) -> Result<(String, IpAddr), String> {
    let (name, address) = text.split_once('=').ok_or("write NODE=ADDRESS, like n1=10.1.1.11")?;
    let address = address.parse().map_err(|_| format!("`{address}` is no address"))?;
    Ok((name.to_owned(), address))
}

/// Carries out `turnpike routes …`.
pub(crate) fn run(global: &Global, command: &RoutesCommand) -> Result<ExitCode> {
    let RoutesCommand::Export { format, nodes } = command;
    let Reply::Routes { routes } = ask(global, &Request::Routes)? else { return Err(other_release()) };
    let routes = with_next_hops(routes, nodes, |prefix| learnt(global, prefix))?;
    show(global.output, &routes, |routes| render(routes, *format))?;
    Ok(ExitCode::SUCCESS)
}

/// Where bgpd would send packets for a block of another node.
fn learnt(global: &Global, prefix: &str) -> Option<IpAddr> {
    let prefix = prefix.parse().ok()?;
    let decision = Client::connect(&global.bgpd_socket, TIMEOUT).ok()?.why(Select::Exact(prefix)).ok()?;
    decision.paths.first()?.next_hop
}

fn with_next_hops(
    planned: Vec<PlannedRoute>,
    nodes: &[(String, IpAddr)],
    learnt: impl Fn(&str) -> Option<IpAddr>,
) -> Result<Vec<Static>> {
    let mut missing = Vec::new();
    let mut routes = Vec::new();
    for planned in planned {
        let is_v6 = planned.prefix.contains(':');
        let told = nodes.iter().find(|(name, address)| *name == planned.node && address.is_ipv6() == is_v6);
        let next_hop = told.map(|(_, address)| *address);
        match next_hop.or_else(|| learnt(&planned.prefix).filter(|address| address.is_ipv6() == is_v6)) {
            Some(next_hop) => routes.push(Static { planned, next_hop }),
            None => missing.push(format!("{} ({})", planned.node, if is_v6 { "IPv6" } else { "IPv4" })),
        }
    }
    missing.sort();
    missing.dedup();
    if !missing.is_empty() {
        bail!(
            "where these nodes are reached is not known: {}; add --node NODE=ADDRESS for each",
            missing.join(", ")
        );
    }
    Ok(routes)
}

fn render(routes: &[Static], format: Format) -> String {
    match format {
        Format::Frr => lines(routes, "!", |route| {
            let verb = if route.next_hop.is_ipv6() { "ipv6" } else { "ip" };
            format!("{verb} route {} {}", route.planned.prefix, route.next_hop)
        }),
        Format::Ios => lines(routes, "!", |route| match split(&route.planned.prefix) {
            Some((network, mask)) => format!("ip route {network} {mask} {}", route.next_hop),
            None => format!("ipv6 route {} {}", route.planned.prefix.to_uppercase(), route.next_hop),
        }),
        Format::Junos => lines(routes, "#", |route| {
            let rib = if route.next_hop.is_ipv6() { "rib inet6.0 " } else { "" };
            let PlannedRoute { prefix, .. } = &route.planned;
            format!("set routing-options {rib}static route {prefix} next-hop {}", route.next_hop)
        }),
        Format::Bird => bird(routes),
    }
}

/// One statement for each route, under a comment for each node.
fn lines(routes: &[Static], comment: &str, statement: impl Fn(&Static) -> String) -> String {
    let mut text =
        format!("{comment} pod blocks of the cluster, by node; made by `turnpike routes export`\n");
    for (node, routes) in by_node(routes) {
        text.push_str(&format!("{comment} node {node}\n"));
        for route in routes {
            text.push_str(&statement(route));
            text.push('\n');
        }
    }
    text
}

fn by_node(routes: &[Static]) -> BTreeMap<&str, Vec<&Static>> {
    let mut nodes: BTreeMap<&str, Vec<&Static>> = BTreeMap::new();
    for route in routes {
        nodes.entry(route.planned.node.as_str()).or_default().push(route);
    }
    nodes
}

fn bird(routes: &[Static]) -> String {
    let mut text = "# pod blocks of the cluster, by node; made by `turnpike routes export`\n".to_owned();
    for (family, is_v6) in [("ipv4", false), ("ipv6", true)] {
        let own: Vec<Static> =
            routes.iter().filter(|route| route.next_hop.is_ipv6() == is_v6).cloned().collect();
        if own.is_empty() {
            continue;
        }
        text.push_str(&format!("protocol static turnpike_{family} {{\n    {family};\n"));
        for (node, routes) in by_node(&own) {
            text.push_str(&format!("    # node {node}\n"));
            for route in routes {
                text.push_str(&format!("    route {} via {};\n", route.planned.prefix, route.next_hop));
            }
        }
        text.push_str("}\n");
    }
    text
}

/// Network and mask of an IPv4 prefix.
fn split(prefix: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (network, length) = prefix.split_once('/')?;
    let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    let network = network.parse().context("an IPv6 prefix").ok()?;
    Some((network, Ipv4Addr::from(mask)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned() -> Vec<PlannedRoute> {
        let one = |prefix: &str, node: &str, pool: &str| PlannedRoute {
            prefix: prefix.into(),
            node: node.into(),
            pool: pool.into(),
        };
        vec![
            one("10.244.1.0/26", "n1", "v4"),
            one("10.244.2.0/26", "n2", "v4"),
            one("10.244.3.0/24", "n1", "v4"),
            one("fd00:244::100/122", "n1", "v6"),
        ]
    }

    fn nodes() -> Vec<(String, IpAddr)> {
        ["n1=10.1.1.11", "n1=fd00:1::11"].iter().map(|text| parse_node(text).unwrap()).collect()
    }

    fn export(format: Format) -> String {
        let learnt = |prefix: &str| (prefix == "10.244.2.0/26").then(|| "10.1.2.12".parse().unwrap());
        render(&with_next_hops(planned(), &nodes(), learnt).unwrap(), format)
    }

    #[test]
    fn ios_takes_masks_and_junos_set_commands() {
        assert_eq!(
            export(Format::Ios),
            "! pod blocks of the cluster, by node; made by `turnpike routes export`\n\
             ! node n1\n\
             ip route 10.244.1.0 255.255.255.192 10.1.1.11\n\
             ip route 10.244.3.0 255.255.255.0 10.1.1.11\n\
             ipv6 route FD00:244::100/122 fd00:1::11\n\
             ! node n2\n\
             ip route 10.244.2.0 255.255.255.192 10.1.2.12\n"
        );
        assert_eq!(
            export(Format::Junos),
            "# pod blocks of the cluster, by node; made by `turnpike routes export`\n\
             # node n1\n\
             set routing-options static route 10.244.1.0/26 next-hop 10.1.1.11\n\
             set routing-options static route 10.244.3.0/24 next-hop 10.1.1.11\n\
             set routing-options rib inet6.0 static route fd00:244::100/122 next-hop fd00:1::11\n\
             # node n2\n\
             set routing-options static route 10.244.2.0/26 next-hop 10.1.2.12\n"
        );
    }

    #[test]
    fn frr_and_bird_have_both_families() {
        assert!(export(Format::Frr).contains("ipv6 route fd00:244::100/122 fd00:1::11\n"));
        let bird = export(Format::Bird);
        assert!(bird.contains("protocol static turnpike_ipv6 {\n    ipv6;\n    # node n1\n"), "{bird}");
    }

    #[test]
    fn a_node_that_cannot_be_placed_is_named_with_its_family() {
        let error = with_next_hops(planned(), &nodes(), |_| None).unwrap_err().to_string();
        assert!(error.contains("n2 (IPv4)") && error.contains("--node"), "{error}");
        let wrong = with_next_hops(planned(), &nodes(), |_| Some("fd00::1".parse().unwrap()));
        assert!(wrong.is_err(), "a next hop of the other family is none");
    }
}
