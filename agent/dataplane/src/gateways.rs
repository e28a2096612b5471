//! Do the node's gateways answer? The kernel itself is asked to prove each gateway's neighbour entry (ARP, ND), and its
//! verdict is read with the next look. Nothing is sent by hand, and nothing of an entry is changed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use netlink_packet_core::ParseableParametrized;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use crate::links::{self, KernelRoute};
use crate::netlink::{self, Netlink, Refusal, Request};

/// What the kernel knows of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It answered a moment ago.
    Answers,
    /// It was asked and did not answer.
    Silent,
    /// It is being asked, or has not been asked for long.
    Unproved,
}

/// A default route's gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Interface that leads to it.
    pub link: String,
    /// Its index.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Does it answer?
    pub reach: Reach,
}

/// Reads the gateways' entries, and has the kernel prove each of them.
pub(crate) fn look(netlink: &mut Netlink, defaults: &[KernelRoute]) -> Result<Vec<Gateway>, Refusal> {
    let mut known = BTreeMap::new();
    let mut found = Vec::new();
    let mut requests = Vec::new();
    for route in defaults {
        // Several next hops do not tell which address is on which link; each has its own metric then, as routers
        // advertise them, or BGP proves them.
        let (Some(address), [index]) = (route.gateway, route.links.as_slice()) else { continue };
        let Some(link) = links::by_index(netlink, *index)? else { continue };
        if link.is_kind("veth") && link.name.starts_with(crate::endpoint::LINK_PREFIX) {
            continue;
        }
        let known = match known.entry(*index) {
            Entry::Occupied(read) => read.into_mut(),
            Entry::Vacant(new) => new.insert(states(netlink, *index)?),
        };
        let state = known.iter().find(|(ip, _)| *ip == address).map(|(_, state)| *state);
        requests.push(prove(*index, address));
        found.push(Gateway { link: link.name, index: *index, address, reach: reach(state) });
    }
    // An entry that cannot be proved is read as such with the next look.
    drop(netlink.batch(&requests));
    Ok(found)
}

/// The states of a link's neighbour entries by address.
fn states(netlink: &mut Netlink, index: u32) -> Result<Vec<(IpAddr, NeighbourState)>, Refusal> {
    let mut request = NeighbourMessage::default();
    request.attributes.push(NeighbourAttribute::IfIndex(index));
    let request = Request::route(&RouteNetlinkMessage::GetNeighbour(request), 0);
    netlink.rows(&request, |kind, body| {
        let Ok(RouteNetlinkMessage::NewNeighbour(message)) =
            RouteNetlinkMessage::parse_with_param(body, kind)
        else {
            return None;
        };
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
            _ => None,
        });
        (message.header.ifindex == index).then_some((address?, message.header.state))
    })
}

fn reach(state: Option<NeighbourState>) -> Reach {
    match state {
        Some(NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp) => Reach::Answers,
        Some(NeighbourState::Failed) => Reach::Silent,
        _ => Reach::Unproved,
    }
}

/// `ip neigh add … use`: as if a packet went there.
fn prove(index: u32, address: IpAddr) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = links::family(address);
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Use;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }));
    Request::route(&RouteNetlinkMessage::NewNeighbour(message), netlink::CREATE)
}
