//! Routes: what we write, and what of a kernel route matters to us.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};

use crate::owner::Owner;
use crate::target::{Gateway, Hop};

/// `RT_TABLE_UNSPEC`: the table is in RTA_TABLE.
const TABLE_IN_ATTRIBUTE: u8 = 0;

/// A route of ours as the kernel holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Through a nexthop object.
    Nexthop(u32),
    /// RTN_BLACKHOLE.
    Blackhole,
    /// On a link.
    Device { ifindex: u32, source: Option<IpAddr> },
}

/// One way out of a kernel route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// `None` on a connected link.
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) ifindex: u32,
    pub(crate) onlink: bool,
}

/// A kernel route, reduced to what reconciling and resolving look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelRoute {
    pub(crate) prefix: IpNetwork,
    pub(crate) protocol: u8,
    pub(crate) table: u32,
    pub(crate) metric: u32,
    pub(crate) kind: RouteType,
    pub(crate) nexthop: Option<u32>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) ways: Vec<Way>,
    /// A cached exception of IPv6 (RTM_F_CLONED), not an entry of the table.
    pub(crate) cloned: bool,
    /// A route for one TOS value, or from one source prefix: never ours.
    pub(crate) special: bool,
}

impl KernelRoute {
    /// Reads the payload of an RTM_*ROUTE message.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, DecodeError> {
        let message = RouteMessage::parse(payload)?;
        let header = &message.header;
        let mut route = Self {
            prefix: unspecified(header)?,
            protocol: header.protocol.into(),
            table: u32::from(header.table),
            metric: 0,
            kind: header.kind,
            nexthop: None,
            source: None,
            ways: Vec::new(),
            cloned: header.flags.contains(RouteFlags::Cloned),
            special: header.tos != 0 || header.source_prefix_length != 0,
        };
        let onlink = header.flags.contains(RouteFlags::Onlink);
        let (mut gateway, mut oif) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => {
                    if let Some(address) = ip(address) {
                        route.prefix = network(address, header.destination_prefix_length)?;
                    }
                }
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::NhId(id) => route.nexthop = Some(*id),
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => gateway = gateway_of(attribute),
                RouteAttribute::Oif(index) => oif = Some(*index),
                RouteAttribute::MultiPath(hops) => route.ways.extend(hops.iter().map(way)),
                _ => {}
            }
        }
        if let Some(ifindex) = oif {
            route.ways.push(Way { gateway, ifindex, onlink });
        }
        Ok(route)
    }

    /// Where it stands.
    pub(crate) fn place(&self) -> Place {
        Place { prefix: self.prefix, table: self.table, metric: self.metric }
    }

    /// The form in which this crate would have written it, if it is one.
    pub(crate) fn shape(&self, owner: &Owner) -> Option<Shape> {
        if self.special {
            return None;
        }
        if let Some(id) = self.nexthop {
            return owner.nexthop_ids.contains(&id).then_some(Shape::Nexthop(id));
        }
        match (self.kind, self.ways.as_slice()) {
            (RouteType::BlackHole, _) => Some(Shape::Blackhole),
            (RouteType::Unicast, &[Way { gateway: None, ifindex, .. }]) => {
                Some(Shape::Device { ifindex, source: self.source })
            }
            _ => None,
        }
    }
}

/// Protocol and family of an RTM_*ROUTE payload without reading the rest.
pub(crate) fn peek(payload: &[u8]) -> Option<(u8, u8)> {
    Some((*payload.first()?, *payload.get(5)?))
}

/// The message that adds or replaces a route of ours.
pub(crate) fn write(owner: &Owner, prefix: IpNetwork, shape: Shape) -> RouteMessage {
    let mut message = address(owner.protocol, Place::own(owner, prefix));
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    match shape {
        Shape::Nexthop(id) => message.attributes.push(RouteAttribute::NhId(id)),
        Shape::Blackhole => message.header.kind = RouteType::BlackHole,
        Shape::Device { ifindex, source } => {
            if prefix.is_ipv4() {
                message.header.scope = RouteScope::Link;
            }
            message.attributes.push(RouteAttribute::Oif(ifindex));
            if let Some(source) = source {
                message.attributes.push(RouteAttribute::PrefSource(source.into()));
            }
        }
    }
    message
}

/// Where a route stands: what the kernel tells routes apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) prefix: IpNetwork,
    pub(crate) table: u32,
    pub(crate) metric: u32,
}

impl Place {
    /// Where our route for `prefix` stands.
    pub(crate) fn own(owner: &Owner, prefix: IpNetwork) -> Self {
        Self { prefix, table: owner.table, metric: owner.stored_metric(prefix.is_ipv6()) }
    }
}

/// The message that deletes a route of ours: the kernel matches prefix, table, metric and protocol.
pub(crate) fn delete(owner: &Owner, place: Place) -> RouteMessage {
    let mut message = address(owner.protocol, place);
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = RouteType::Unspec;
    message
}

/// A request for the routes of one family, all or those of one protocol (in every table). The kernel filters
/// where the socket asked for strict checks (Linux ≥ 4.20).
pub(crate) fn dump(family: AddressFamily, protocol: Option<u8>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    if let Some(protocol) = protocol {
        message.header.protocol = RouteProtocol::from(protocol);
    }
    message
}

/// A request for the table entry that packets to `hop` follow.
pub(crate) fn lookup(hop: Hop) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(hop.address);
    message.header.destination_prefix_length = if hop.address.is_ipv4() { 32 } else { 128 };
    message.header.flags = RouteFlags::FibMatch;
    message.attributes.push(RouteAttribute::Destination(hop.address.into()));
    if hop.scope != 0 {
        message.attributes.push(RouteAttribute::Oif(hop.scope));
    }
    message
}

fn address(protocol: u8, place: Place) -> RouteMessage {
    let Place { prefix, table, metric } = place;
    let mut message = RouteMessage::default();
    message.header.address_family = family(prefix.ip());
    message.header.destination_prefix_length = prefix.prefix();
    message.header.protocol = RouteProtocol::from(protocol);
    message.header.table = u8::try_from(table).unwrap_or(TABLE_IN_ATTRIBUTE);
    message.attributes.push(RouteAttribute::Destination(prefix.network().into()));
    message.attributes.push(RouteAttribute::Table(table));
    if metric != 0 {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The prefix of a route without RTA_DST: the default route.
fn unspecified(header: &RouteHeader) -> Result<IpNetwork, DecodeError> {
    match header.address_family {
        AddressFamily::Inet => network(IpAddr::from([0; 4]), header.destination_prefix_length),
        AddressFamily::Inet6 => network(IpAddr::from([0; 16]), header.destination_prefix_length),
        other => Err(DecodeError::from(format!("route of family {other:?}"))),
    }
}

fn network(address: IpAddr, length: u8) -> Result<IpNetwork, DecodeError> {
    IpNetwork::new(address, length).map_err(|error| DecodeError::from(error.to_string()))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn way(hop: &RouteNextHop) -> Way {
    Way {
        gateway: hop.attributes.iter().find_map(gateway_of),
        ifindex: hop.interface_index,
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
    }
}

/// Turns the ways of a route into gateways for `target`: on a connected link the target is its own gateway.
pub(crate) fn gateways(route: &KernelRoute, target: IpAddr) -> Vec<Gateway> {
    let mut list: Vec<Gateway> = route
        .ways
        .iter()
        .map(|way| Gateway {
            address: way.gateway.unwrap_or(target),
            ifindex: way.ifindex,
            onlink: way.onlink,
        })
        .collect();
    list.sort_unstable();
    list.dedup();
    list
}
