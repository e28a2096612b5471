//! The pod's end of its link. Every function here runs on a thread inside the pod's network namespace, with a
//! netlink socket that was opened there.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::address::AddressScope;
use turnpike_model::desired::Endpoint;

use crate::endpoint::{self, HOST_MAC};
use crate::host::format_mac;
use crate::links::{self, Link, Mac};
use crate::netlink::{Netlink, Refusal, Request};
use crate::{DataplaneError, Finding, neighbours, sysctl};

/// Prefix length of every link-local address.
const LINK_LOCAL_LENGTH: u8 = 64;
const TCP_ECN: &str = "net/ipv4/tcp_ecn";

/// What the pod's end needs besides the endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PodOptions {
    /// Ask for ECN on outgoing connections.
    pub(crate) ecn: bool,
    /// Largest burst that the pod's stack hands over at once, in bytes; `None` leaves the kernel's default.
    pub(crate) gso_max_size: Option<u32>,
}

/// Opens a route socket in the namespace of the calling thread.
pub(crate) fn socket() -> Result<Netlink, DataplaneError> {
    Netlink::open(libc::NETLINK_ROUTE).map_err(DataplaneError::EnterNetns)
}

/// The pod's interface, if it is there.
pub(crate) fn link(netlink: &mut Netlink, ifname: &str) -> Result<Option<Link>, DataplaneError> {
    links::by_name(netlink, ifname).map_err(|refusal| refusal.doing(format!("read {ifname} in the pod")))
}

/// True where the two are the ends of one veth pair.
pub(crate) fn is_pair(host: &Link, pod: &Link) -> bool {
    host.is_kind("veth")
        && pod.is_kind("veth")
        && host.peer == Some(pod.index)
        && pod.peer == Some(host.index)
        && host.peer_netns.is_some()
}

/// Sysctls, addresses, routes and neighbours of the pod's end; completes what is there already.
pub(crate) fn configure(
    netlink: &mut Netlink,
    endpoint: &Endpoint,
    options: PodOptions,
) -> Result<(u32, Mac), DataplaneError> {
    let ifname = &endpoint.id.ifname;
    let Some(pod) = link(netlink, ifname)? else {
        return Err(DataplaneError::LinkGone { link: format!("{ifname} in the pod") });
    };
    sysctls(endpoint, options)?;
    let mac = endpoint::mac_of(endpoint);
    let mut requests = Vec::new();
    if pod.mac != Some(mac) {
        requests.push(links::set_mac(pod.index, mac));
    }
    if pod.mtu != endpoint.mtu {
        requests.push(links::set_mtu(pod.index, endpoint.mtu));
    }
    if let Some(bytes) = options.gso_max_size.filter(|bytes| pod.gso_max_size != Some(*bytes)) {
        requests.push(links::set_gso_max_size(pod.index, bytes));
    }
    if let Some(lo) = link(netlink, "lo")?.filter(|lo| !lo.up) {
        requests.push(links::set_up(lo.index));
    }
    requests.extend(endpoint.addresses.iter().map(|address| {
        links::add_address(pod.index, endpoint::host_prefix(*address), AddressScope::Universe)
    }));
    if endpoint.addresses.iter().any(IpAddr::is_ipv6)
        && let Ok(local) = IpNetwork::new(endpoint::link_local(mac).into(), LINK_LOCAL_LENGTH)
    {
        requests.push(links::add_address(pod.index, local, AddressScope::Link));
    }
    requests.push(links::set_up(pod.index));
    let doing = |refusal: Refusal| refusal.doing(format!("set up {ifname} in the pod"));
    netlink.all(&requests).map_err(doing)?;
    // What is there already is left: a second interface does not take the default route from the first.
    for result in netlink.batch(&paths(endpoint, pod.index)) {
        result
            .or_else(|refusal| if refusal.is(libc::EEXIST) { Ok(()) } else { Err(refusal) })
            .map_err(doing)?;
    }
    Ok((pod.index, mac))
}

/// Routes and neighbours: the gateway is nowhere, so the entry that names its MAC must be permanent.
fn paths(endpoint: &Endpoint, index: u32) -> Vec<Request> {
    let mut requests = Vec::new();
    for address in &endpoint.addresses {
        let gateway = endpoint::gateway(*address);
        if gateway.is_ipv4() {
            requests.push(links::add_gateway_route(index, gateway));
        }
        requests.push(neighbours::set_neighbour(index, gateway, HOST_MAC));
        requests.push(links::add_default_route(index, gateway));
    }
    requests
}

fn sysctls(endpoint: &Endpoint, options: PodOptions) -> Result<(), DataplaneError> {
    let ifname = &endpoint.id.ifname;
    if options.ecn {
        sysctl::ensure(TCP_ECN, "1")?;
    }
    if sysctl::has_ipv6() {
        sysctl::ensure(&format!("net/ipv6/conf/{ifname}/accept_ra"), "0")?;
        sysctl::ensure(&format!("net/ipv6/conf/{ifname}/accept_dad"), "0")?;
        if endpoint.addresses.iter().any(IpAddr::is_ipv6) {
            // Runtimes switch IPv6 off in new namespaces.
            sysctl::ensure("net/ipv6/conf/lo/disable_ipv6", "0")?;
            sysctl::ensure(&format!("net/ipv6/conf/{ifname}/disable_ipv6"), "0")?;
            // Anti-spoofing knows the EUI-64 link-local address, which we add ourselves, and no other.
            sysctl::ensure(&format!("net/ipv6/conf/{ifname}/addr_gen_mode"), "1")?;
        }
    }
    Ok(())
}

/// Compares the pod's end with what [`configure`] makes.
pub(crate) fn check(
    netlink: &mut Netlink,
    endpoint: &Endpoint,
    host: Option<&Link>,
) -> Result<Vec<Finding>, DataplaneError> {
    let ifname = &endpoint.id.ifname;
    let mut findings = Vec::new();
    let mut find = |subject: &str, message: String| {
        findings.push(Finding { subject: subject.to_owned(), message });
    };
    let Some(pod) = link(netlink, ifname)? else {
        find("link", format!("{ifname} is not in the pod"));
        return Ok(findings);
    };
    if host.is_some_and(|host| !is_pair(host, &pod)) {
        find("link", format!("{ifname} is not the other end of {}", endpoint.host_link));
    }
    if !pod.up {
        find("link", format!("{ifname} is down in the pod"));
    }
    if pod.mtu != endpoint.mtu {
        find("link", format!("MTU of {ifname} is {}, wanted {}", pod.mtu, endpoint.mtu));
    }
    let wanted_mac = endpoint::mac_of(endpoint);
    if pod.mac != Some(wanted_mac) {
        find("link", format!("MAC address of {ifname} is not {}", format_mac(wanted_mac)));
    }
    let read = |refusal: Refusal| refusal.doing("read the pod's network");
    let addresses = links::addresses(netlink, pod.index).map_err(read)?;
    let routes = links::default_routes(netlink).map_err(read)?;
    let neighbours = neighbours::permanent_neighbours(netlink).map_err(read)?;
    for address in &endpoint.addresses {
        let gateway = endpoint::gateway(*address);
        if !addresses.contains(&endpoint::host_prefix(*address)) {
            find("address", format!("{address} is not on {ifname}"));
        }
        let has_default =
            routes.iter().any(|route| route.gateway == Some(gateway) && route.links.contains(&pod.index));
        if !has_default {
            find("route", format!("no default route via {gateway} on {ifname}"));
        }
        if !neighbours.contains(&(pod.index, gateway, HOST_MAC)) {
            find("neighbour", format!("no permanent entry for {gateway} on {ifname}"));
        }
    }
    Ok(findings)
}
