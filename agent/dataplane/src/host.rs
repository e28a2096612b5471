//! The host side of a pod's link: sysctls, MAC, gateway address, neighbours. Needs nothing from inside the pod, so
//! it is also what [`crate::Dataplane::apply`] brings back after somebody changed it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::address::AddressScope;
use turnpike_model::desired::Endpoint;

use crate::devconf::{LinkSysctl, V4, V6};
use crate::endpoint::{self, GATEWAY_V6, HOST_MAC, LINK_PREFIX};
use crate::links::{self, Link, Mac};
use crate::netlink::{Netlink, Request};
use crate::{DataplaneError, Uplink, neighbours, sysctl};

/// Kinds of links that lead to other hosts, beside hardware, before they have an address.
const OUTER_KINDS: [&str; 3] = ["bond", "team", "vlan"];
/// Prefix length of every link-local address.
const LINK_LOCAL_LENGTH: u8 = 64;

/// Addresses, permanent neighbours and neighbour tables of all links, read once for many endpoints.
#[derive(Debug, Default)]
pub(crate) struct HostTables {
    /// Links that answer ARP for others without delay.
    prompt: BTreeSet<u32>,
    addresses: BTreeSet<(u32, IpNetwork)>,
    neighbours: BTreeSet<(u32, IpAddr, Mac)>,
}

impl HostTables {
    /// Dumps all of them.
    pub(crate) fn read(netlink: &mut Netlink) -> Result<Self, DataplaneError> {
        let addresses = links::all_addresses(netlink).map_err(|refusal| refusal.doing("list addresses"))?;
        let neighbours =
            neighbours::permanent_neighbours(netlink).map_err(|refusal| refusal.doing("list neighbours"))?;
        let prompt =
            neighbours::prompt_proxies(netlink).map_err(|refusal| refusal.doing("list neighbour tables"))?;
        Ok(Self {
            prompt: prompt.into_iter().collect(),
            addresses: addresses.into_iter().map(|(index, net, _)| (index, net)).collect(),
            neighbours: neighbours.into_iter().collect(),
        })
    }
}

impl HostTables {
    /// Addresses of the pod without a permanent neighbour entry on its link.
    pub(crate) fn missing_neighbours(&self, endpoint: &Endpoint, link: &Link) -> Vec<IpAddr> {
        let mac = endpoint::mac_of(endpoint);
        let missing = |address: &&IpAddr| !self.neighbours.contains(&(link.index, **address, mac));
        endpoint.addresses.iter().filter(missing).copied().collect()
    }
}

/// Keeps IPv6 off a link that only queues.
pub(crate) fn quieten(name: &str) -> Result<(), DataplaneError> {
    if sysctl::has_ipv6() {
        sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
    }
    Ok(())
}

/// Turns forwarding on for the whole namespace. Interfaces that listen to router advertisements go on doing so:
/// forwarding would silence `accept_ra=1`, and the node would lose its default route.
pub(crate) fn enable_forwarding() -> Result<(), DataplaneError> {
    sysctl::ensure("net/ipv4/ip_forward", "1")?;
    let all = "net/ipv6/conf/all/forwarding";
    if sysctl::read(all)?.as_deref() != Some("0") {
        return Ok(());
    }
    for name in sysctl::interfaces("ipv6").iter().filter(|name| !name.starts_with(LINK_PREFIX)) {
        if sysctl::read(&LinkSysctl::V6(V6::AcceptRa).key(name))?.as_deref() == Some("1") {
            listen(name)?;
        }
    }
    sysctl::ensure(all, "1").map(|_| ())
}

/// Lets uplinks that came when forwarding was on already hear router advertisements, too. Others stay deaf: what a bridge
/// or a link of somebody else's container says must not become the node's default route.
pub(crate) fn let_late_uplinks_listen(
    links: &BTreeMap<String, Link>,
    uplinks: &[Uplink],
) -> Result<(), DataplaneError> {
    let deaf = |link: &&Link| {
        let is = |name| link.devconf.get(LinkSysctl::V6(name)) == Some(1);
        is(V6::Forwarding) && is(V6::AcceptRa)
    };
    let leads_out = |link: &&Link| {
        let named = uplinks.iter().any(|uplink| uplink.ifindex == link.index);
        named || link.kind.as_deref().is_none_or(|kind| OUTER_KINDS.contains(&kind))
    };
    let ours = |link: &&Link| link.loopback || link.name.starts_with(LINK_PREFIX);
    links
        .values()
        .filter(deaf)
        .filter(leads_out)
        .filter(|link| !ours(link))
        .try_for_each(|link| listen(&link.name))
}

fn listen(name: &str) -> Result<(), DataplaneError> {
    sysctl::ensure(&LinkSysctl::V6(V6::AcceptRa).key(name), "2")?;
    tracing::info!(link = name, "accept_ra is 2 from now on: with forwarding, 1 would be deaf");
    Ok(())
}

/// Brings the host side to what it should be; writes only differences. Answers whether it wrote anything.
pub(crate) fn reconcile(
    netlink: &mut Netlink,
    endpoint: &Endpoint,
    link: &Link,
    tables: &HostTables,
) -> Result<bool, DataplaneError> {
    let name = &link.name;
    let mut wrote = sysctls(endpoint, link, tables)?;
    let requests = differences(endpoint, link, tables);
    wrote |= !requests.is_empty();
    netlink.all(&requests).map_err(|refusal| refusal.doing(format!("set up host side {name}")))?;
    Ok(wrote)
}

/// Reads the host side's MAC back: udev and network managers like to change it behind our back.
pub(crate) fn verify_mac(netlink: &mut Netlink, name: &str) -> Result<Link, DataplaneError> {
    let link = links::by_name(netlink, name).map_err(|refusal| refusal.doing(format!("read {name}")))?;
    let Some(link) = link else {
        return Err(DataplaneError::LinkGone { link: name.to_owned() });
    };
    if link.mac == Some(HOST_MAC) {
        return Ok(link);
    }
    Err(DataplaneError::HostMac {
        link: name.to_owned(),
        found: link.mac.map_or_else(|| "none".to_owned(), format_mac),
        wanted: format_mac(HOST_MAC),
    })
}

/// A MAC address in its usual writing.
pub(crate) fn format_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Sysctls of the host side.
pub(crate) fn wanted_sysctls(endpoint: &Endpoint, link: &Link) -> Vec<(LinkSysctl, u32)> {
    let mut wanted = vec![
        (LinkSysctl::V4(V4::Forwarding), 1),
        // Answers ARP as Calico does, for pods whose permanent entry was lost.
        (LinkSysctl::V4(V4::ProxyArp), 1),
        (LinkSysctl::ProxyDelay, 0),
        (LinkSysctl::V4(V4::RpFilter), 1),
        (LinkSysctl::V4(V4::AcceptLocal), 0),
    ];
    if !endpoint.host_ports.is_empty() && endpoint.addresses.iter().any(IpAddr::is_ipv4) {
        // The node's own processes reach a host port at 127.0.0.1; `nft/host_ports.rs` keeps the pod from using it.
        wanted.push((LinkSysctl::V4(V4::RouteLocalnet), 1));
    }
    if link.devconf.has_ipv6() || sysctl::has_ipv6() {
        // The link-local address is added by hand: other address generation modes would not yield the EUI-64 one.
        wanted.extend([(V6::AddrGenMode, 1), (V6::AcceptRa, 0), (V6::AcceptDad, 0)].map(v6));
        if endpoint.addresses.iter().any(IpAddr::is_ipv6) {
            wanted.extend([(V6::DisableIpv6, 0), (V6::Forwarding, 1)].map(v6));
        }
    }
    wanted
}

fn v6((name, value): (V6, u32)) -> (LinkSysctl, u32) {
    (LinkSysctl::V6(name), value)
}

fn sysctls(endpoint: &Endpoint, link: &Link, tables: &HostTables) -> Result<bool, DataplaneError> {
    let mut wrote = false;
    for (name, value) in wanted_sysctls(endpoint, link) {
        let known = match name {
            LinkSysctl::ProxyDelay => tables.prompt.contains(&link.index).then_some(0),
            _ => link.devconf.get(name),
        };
        if known != Some(value) {
            wrote |= sysctl::ensure(&name.key(&link.name), &value.to_string())?;
        }
    }
    Ok(wrote)
}

fn differences(endpoint: &Endpoint, link: &Link, tables: &HostTables) -> Vec<Request> {
    let mut requests = Vec::new();
    if link.mac != Some(HOST_MAC) {
        requests.push(links::set_mac(link.index, HOST_MAC));
    }
    if link.mtu != endpoint.mtu {
        requests.push(links::set_mtu(link.index, endpoint.mtu));
    }
    if !link.up {
        requests.push(links::set_up(link.index));
    }
    if endpoint.addresses.iter().any(IpAddr::is_ipv6)
        && let Ok(gateway) = IpNetwork::new(GATEWAY_V6.into(), LINK_LOCAL_LENGTH)
        && !tables.addresses.contains(&(link.index, gateway))
    {
        requests.push(links::add_address(link.index, gateway, AddressScope::Link));
    }
    let mac = endpoint::mac_of(endpoint);
    let missing = tables.missing_neighbours(endpoint, link);
    requests.extend(missing.into_iter().map(|address| neighbours::set_neighbour(link.index, address, mac)));
    requests
}
