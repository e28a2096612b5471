//! Driver for links, addresses, neighbours and a pod's own routes: requests out, tables in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnetwork::IpNetwork;
use netlink_packet_core::ParseableParametrized;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::devconf::Devconf;
use crate::netlink::{self, Netlink, Refusal, Request, attr};

/// A MAC address.
pub(crate) type Mac = [u8; 6];

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_INFO_KIND: u16 = 1;
const LINK_HEADER: usize = 16;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
/// `RTEXT_FILTER_SKIP_STATS`: the kernel neither sums up counters nor sends them, which is half of the answer.
const SKIP_STATS: u32 = 1 << 3;
/// Offset of `rtm_dst_len` in `struct rtmsg`.
const ROUTE_LENGTH: usize = 1;
/// Transmit queue length of our links, in packets: HTB's queues take it for their own, and what is let in is not theirs to
/// drop.
const QUEUE_PACKETS: u32 = 10_000;

/// One interface as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `veth`, `ifb`, `bridge`…; `None` for hardware.
    pub(crate) kind: Option<String>,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    /// Index of the other end of a veth, in the other end's namespace.
    pub(crate) peer: Option<u32>,
    /// Set where the other end lives in another network namespace.
    pub(crate) peer_netns: Option<u32>,
    pub(crate) gso_max_size: Option<u32>,
    /// Index of the bridge, bond… that it is a port of.
    pub(crate) master: Option<u32>,
    /// Number of the device group; 0 unless somebody set one.
    pub(crate) group: Option<u32>,
    /// Its sysctls.
    pub(crate) devconf: Devconf,
}

impl Link {
    /// Reads a link message's body.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let attributes = body.get(LINK_HEADER..)?;
        let flags = LinkFlags::from_bits_retain(attr::u32_at(body, 8)?);
        let info = attr::find(attributes, IFLA_LINKINFO).unwrap_or_default();
        Some(Self {
            index: attr::u32_at(body, 4)?,
            name: attr::text(attr::find(attributes, IFLA_IFNAME)?),
            kind: attr::find(info, IFLA_INFO_KIND).map(attr::text),
            mac: attr::find(attributes, IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
            mtu: attr::find_u32(attributes, IFLA_MTU).unwrap_or_default(),
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            peer: attr::find_u32(attributes, IFLA_LINK),
            peer_netns: attr::find_u32(attributes, IFLA_LINK_NETNSID),
            gso_max_size: attr::find_u32(attributes, IFLA_GSO_MAX_SIZE),
            master: attr::find_u32(attributes, IFLA_MASTER),
            group: attr::find_u32(attributes, IFLA_GROUP),
            devconf: attr::find(attributes, IFLA_AF_SPEC).map(Devconf::parse).unwrap_or_default(),
        })
    }

    /// True for the given kind (`veth`…).
    pub(crate) fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

/// All interfaces of the socket's namespace, by name.
pub(crate) fn all(netlink: &mut Netlink) -> Result<BTreeMap<String, Link>, Refusal> {
    let parse = |kind, body: &[u8]| if kind == RTM_NEWLINK { Link::parse(body) } else { None };
    let links = netlink.rows(&get_link(0, None), parse)?;
    Ok(links.into_iter().map(|link| (link.name.clone(), link)).collect())
}

/// One interface by name.
pub(crate) fn by_name(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, Refusal> {
    match netlink.get(&get_link(0, Some(name))) {
        Ok(reply) => Ok(Link::parse(&reply.body).filter(|link| link.name == name)),
        Err(refusal) if refusal.is_absent() => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// One interface by index.
pub(crate) fn by_index(netlink: &mut Netlink, index: u32) -> Result<Option<Link>, Refusal> {
    match netlink.get(&get_link(index, None)) {
        Ok(reply) => Ok(Link::parse(&reply.body)),
        Err(refusal) if refusal.is_absent() => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn get_link(index: u32, name: Option<&str>) -> Request {
    let mut body = vec![0; LINK_HEADER];
    if let Some(place) = body.get_mut(4..8) {
        place.copy_from_slice(&index.to_ne_bytes());
    }
    let mut attributes = attr::Attributes::default().put(IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
    if let Some(name) = name {
        attributes = attributes.put_text(IFLA_IFNAME, name);
    }
    body.extend(attributes.bytes());
    Request { kind: RTM_GETLINK, flags: 0, body }
}

/// What a new veth pair looks like.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) host_mac: Mac,
    pub(crate) pod_name: &'a str,
    pub(crate) pod_mac: Mac,
    pub(crate) pod_netns: BorrowedFd<'a>,
    pub(crate) mtu: u32,
}

/// Creates a veth pair whose far end is made directly in the pod's namespace: it never exists in the host's.
pub(crate) fn create_veth(veth: &Veth<'_>) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(veth.pod_name.to_owned()),
        LinkAttribute::Address(veth.pod_mac.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::NetNsFd(veth.pod_netns.as_raw_fd()),
    ];
    let mut host = LinkMessage::default();
    host.attributes = vec![
        LinkAttribute::IfName(veth.host_name.to_owned()),
        LinkAttribute::Address(veth.host_mac.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::TxQueueLen(QUEUE_PACKETS),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    Request::route(&RouteNetlinkMessage::NewLink(host), netlink::CREATE | netlink::EXCL)
}

/// Creates an intermediate functional block device.
pub(crate) fn create_ifb(name: &str, mtu: u32) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::TxQueueLen(QUEUE_PACKETS),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
    ];
    Request::route(&RouteNetlinkMessage::NewLink(message), netlink::CREATE | netlink::EXCL)
}

/// A link to try things on; what is left of it goes with the strays.
const SPARE: &str = "tpkprobe";

/// Whether the kernel takes a request about a link that nobody uses, and that is gone when this returns.
pub(crate) fn try_on_spare(netlink: &mut Netlink, request: impl FnOnce(u32) -> Request) -> bool {
    // One that an earlier process left behind will do.
    drop(netlink.call(&create_ifb(SPARE, 1500)));
    let Ok(Some(link)) = by_name(netlink, SPARE) else { return false };
    let takes = netlink.call(&request(link.index)).is_ok();
    if let Err(refusal) = netlink.call(&delete(link.index)) {
        tracing::warn!(link = SPARE, error = refusal.words(), "cannot be removed");
    }
    takes
}

/// Removes a link by index.
pub(crate) fn delete(index: u32) -> Request {
    Request::route(&RouteNetlinkMessage::DelLink(with_index(index)), 0)
}

/// Puts a link into a device group.
pub(crate) fn set_group(index: u32, group: u32) -> Request {
    set(index, vec![LinkAttribute::Group(group)])
}

/// Removes all links of a device group at once.
pub(crate) fn delete_group(group: u32) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::Group(group)];
    Request::route(&RouteNetlinkMessage::DelLink(message), 0)
}

/// Brings a link up.
pub(crate) fn set_up(index: u32) -> Request {
    let mut message = with_index(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Request::route(&RouteNetlinkMessage::SetLink(message), 0)
}

/// Gives a link its MAC address.
pub(crate) fn set_mac(index: u32, mac: Mac) -> Request {
    set(index, vec![LinkAttribute::Address(mac.to_vec())])
}

/// Sets a link's MTU in bytes.
pub(crate) fn set_mtu(index: u32, mtu: u32) -> Request {
    set(index, vec![LinkAttribute::Mtu(mtu)])
}

/// Bounds what the stack hands to a link at once, in bytes; both families.
pub(crate) fn set_gso_max_size(index: u32, bytes: u32) -> Request {
    set(index, vec![LinkAttribute::GsoMaxSize(bytes), LinkAttribute::GsoIpv4MaxSize(bytes)])
}

fn set(index: u32, attributes: Vec<LinkAttribute>) -> Request {
    let mut message = with_index(index);
    message.attributes = attributes;
    Request::route(&RouteNetlinkMessage::SetLink(message), 0)
}

fn with_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Adds an address, without duplicate address detection.
pub(crate) fn add_address(index: u32, address: IpNetwork, scope: AddressScope) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip());
    message.header.prefix_len = address.prefix();
    message.header.scope = scope;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Address(address.ip()));
    message.attributes.push(AddressAttribute::Local(address.ip()));
    if address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Request::route(&RouteNetlinkMessage::NewAddress(message), netlink::CREATE | netlink::REPLACE)
}

/// Addresses of one link.
pub(crate) fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<IpNetwork>, Refusal> {
    Ok(all_addresses(netlink)?
        .into_iter()
        .filter(|(owner, ..)| *owner == index)
        .map(|(_, net, _)| net)
        .collect())
}

/// Addresses of all links: interface index, address with prefix length, scope.
pub(crate) fn all_addresses(netlink: &mut Netlink) -> Result<Vec<(u32, IpNetwork, AddressScope)>, Refusal> {
    let request = Request::route(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), 0);
    netlink.rows(&request, |kind, body| {
        let Ok(RouteNetlinkMessage::NewAddress(message)) = RouteNetlinkMessage::parse_with_param(body, kind)
        else {
            return None;
        };
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => address = Some(*ip),
                AddressAttribute::Address(ip) => address = address.or(Some(*ip)),
                _ => {}
            }
        }
        let net = IpNetwork::new(address?, message.header.prefix_len).ok()?;
        Some((message.header.index, net, message.header.scope))
    })
}

/// A route of the main table, as far as pods and uplink detection care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelRoute {
    pub(crate) gateway: Option<IpAddr>,
    /// Outgoing links, one or (multipath) several.
    pub(crate) links: Vec<u32>,
}

/// Adds a pod's route to its gateway, which is nowhere but on its link.
pub(crate) fn add_gateway_route(index: u32, gateway: IpAddr) -> Request {
    let mut message = route_message(gateway, index);
    message.header.destination_prefix_length = IpNetwork::from(gateway).prefix();
    message.header.scope = RouteScope::Link;
    message.attributes.push(RouteAttribute::Destination(gateway.into()));
    Request::route(&RouteNetlinkMessage::NewRoute(message), netlink::CREATE | netlink::EXCL)
}

/// Adds a pod's default route.
pub(crate) fn add_default_route(index: u32, gateway: IpAddr) -> Request {
    let mut message = route_message(gateway, index);
    message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    Request::route(&RouteNetlinkMessage::NewRoute(message), netlink::CREATE | netlink::EXCL)
}

fn route_message(gateway: IpAddr, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

/// Who has a single address, if a route to exactly this address exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The address is the node's own.
    Node,
    /// It is routed to the link with this index.
    Link(u32),
}

/// Asks the kernel's lookup who has `address`; a route to a wider prefix, a blackhole or no route is nobody.
pub(crate) fn holder(netlink: &mut Netlink, address: IpAddr) -> Option<Holder> {
    /// `RTM_F_FIB_MATCH`: answer with the matching entry of the table, not with the resolved path.
    const FIB_MATCH: u32 = 0x2000;
    let full = IpNetwork::from(address).prefix();
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = full;
    message.header.flags = RouteFlags::from_bits_retain(FIB_MATCH);
    message.attributes.push(RouteAttribute::Destination(address.into()));
    // No route and a blackhole are refusals here.
    let reply = netlink.get(&Request::route(&RouteNetlinkMessage::GetRoute(message), 0)).ok()?;
    let Ok(RouteNetlinkMessage::NewRoute(route)) =
        RouteNetlinkMessage::parse_with_param(&reply.body, reply.kind)
    else {
        return None;
    };
    match route.header.kind {
        RouteType::Local => Some(Holder::Node),
        _ if route.header.destination_prefix_length == full => {
            kernel_route(&route).links.first().map(|index| Holder::Link(*index))
        }
        _ => None,
    }
}

/// Default routes of the main table of both families.
pub(crate) fn default_routes(netlink: &mut Netlink) -> Result<Vec<KernelRoute>, Refusal> {
    let mut found = Vec::new();
    for address_family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family;
        let request = Request::route(&RouteNetlinkMessage::GetRoute(message), 0);
        found.extend(netlink.rows(&request, |kind, body| {
            // A node has two routes for each pod, which need no further look.
            if *body.get(ROUTE_LENGTH)? != 0 {
                return None;
            }
            let Ok(RouteNetlinkMessage::NewRoute(route)) = RouteNetlinkMessage::parse_with_param(body, kind)
            else {
                return None;
            };
            let wanted =
                route.header.table == RouteHeader::RT_TABLE_MAIN && route.header.kind == RouteType::Unicast;
            wanted.then(|| kernel_route(&route))
        })?);
    }
    Ok(found)
}

fn kernel_route(route: &RouteMessage) -> KernelRoute {
    let (mut gateway, mut links) = (None, Vec::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => gateway = ip_address(address),
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    KernelRoute { gateway, links }
}

fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// An address's family in netlink's words.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
