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
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{self, Netlink, Refusal, Request, attr};

/// A MAC address.
pub(crate) type Mac = [u8; 6];

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_GROUP: u16 = 27;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_INFO_KIND: u16 = 1;
const LINK_HEADER: usize = 16;
const RTM_NEWLINK: u16 = 16;
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
        })
    }

    /// True for the given kind (`veth`…).
    pub(crate) fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

/// All interfaces of the socket's namespace, by name.
pub(crate) fn all(netlink: &mut Netlink) -> Result<BTreeMap<String, Link>, Refusal> {
    let request = Request::route(&RouteNetlinkMessage::GetLink(LinkMessage::default()), 0);
    let replies = netlink.dump(&request)?;
    let links =
        replies.iter().filter(|reply| reply.kind == RTM_NEWLINK).filter_map(|reply| Link::parse(&reply.body));
    Ok(links.map(|link| (link.name.clone(), link)).collect())
}

/// One interface by name.
pub(crate) fn by_name(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, Refusal> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match netlink.get(&Request::route(&RouteNetlinkMessage::GetLink(message), 0)) {
        Ok(reply) => Ok(Link::parse(&reply.body).filter(|link| link.name == name)),
        Err(refusal) if refusal.is_absent() => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// One interface by index.
pub(crate) fn by_index(netlink: &mut Netlink, index: u32) -> Result<Option<Link>, Refusal> {
    match netlink.get(&Request::route(&RouteNetlinkMessage::GetLink(with_index(index)), 0)) {
        Ok(reply) => Ok(Link::parse(&reply.body)),
        Err(refusal) if refusal.is_absent() => Ok(None),
        Err(refusal) => Err(refusal),
    }
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
    let mut found = Vec::new();
    for reply in netlink.dump(&request)? {
        let Ok(RouteNetlinkMessage::NewAddress(message)) =
            RouteNetlinkMessage::parse_with_param(&reply.body, reply.kind)
        else {
            continue;
        };
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => address = Some(*ip),
                AddressAttribute::Address(ip) => address = address.or(Some(*ip)),
                _ => {}
            }
        }
        if let Some(net) = address.and_then(|ip| IpNetwork::new(ip, message.header.prefix_len).ok()) {
            found.push((message.header.index, net, message.header.scope));
        }
    }
    Ok(found)
}

/// Adds or replaces a permanent neighbour entry.
pub(crate) fn set_neighbour(index: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    Request::route(&RouteNetlinkMessage::NewNeighbour(message), netlink::CREATE | netlink::REPLACE)
}

/// Permanent neighbour entries: interface index, address, MAC.
pub(crate) fn permanent_neighbours(netlink: &mut Netlink) -> Result<Vec<(u32, IpAddr, Mac)>, Refusal> {
    let request = Request::route(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), 0);
    let mut found = Vec::new();
    for reply in netlink.dump(&request)? {
        let Ok(RouteNetlinkMessage::NewNeighbour(message)) =
            RouteNetlinkMessage::parse_with_param(&reply.body, reply.kind)
        else {
            continue;
        };
        if message.header.state != NeighbourState::Permanent {
            continue;
        }
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                    address = Some(IpAddr::V4(*ip))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    address = Some(IpAddr::V6(*ip))
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                _ => {}
            }
        }
        if let (Some(address), Some(mac)) = (address, mac) {
            found.push((message.header.ifindex, address, mac));
        }
    }
    Ok(found)
}

/// A route of the main table, as far as pods and uplink detection care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelRoute {
    /// Destination; `None` is the default route.
    pub(crate) destination: Option<IpNetwork>,
    pub(crate) is_ipv4: bool,
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
            let found = kernel_route(&route)?;
            found.links.first().map(|index| Holder::Link(*index))
        }
        _ => None,
    }
}

/// Unicast routes of the main table of both families.
pub(crate) fn main_routes(netlink: &mut Netlink) -> Result<Vec<KernelRoute>, Refusal> {
    let mut found = Vec::new();
    for address_family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family;
        for reply in netlink.dump(&Request::route(&RouteNetlinkMessage::GetRoute(message), 0))? {
            let Ok(RouteNetlinkMessage::NewRoute(route)) =
                RouteNetlinkMessage::parse_with_param(&reply.body, reply.kind)
            else {
                continue;
            };
            if route.header.table == RouteHeader::RT_TABLE_MAIN && route.header.kind == RouteType::Unicast {
                found.extend(kernel_route(&route));
            }
        }
    }
    Ok(found)
}

fn kernel_route(route: &RouteMessage) -> Option<KernelRoute> {
    let (mut destination, mut gateway, mut links) = (None, None, Vec::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_address(address),
            RouteAttribute::Gateway(address) => gateway = ip_address(address),
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    let destination = match (destination, route.header.destination_prefix_length) {
        (_, 0) => None,
        (address, length) => Some(IpNetwork::new(address?, length).ok()?),
    };
    Some(KernelRoute {
        destination,
        is_ipv4: route.header.address_family == AddressFamily::Inet,
        gateway,
        links,
    })
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
