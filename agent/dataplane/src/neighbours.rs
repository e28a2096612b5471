//! Neighbour entries, and the tables that they are in.

use std::net::IpAddr;

use netlink_packet_core::ParseableParametrized;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::links::{Mac, family};
use crate::netlink::{self, Netlink, Refusal, Request, attr};

/// Offset of `ndm_state` in `struct ndmsg`.
const NEIGHBOUR_STATE: usize = 8;
const NUD_PERMANENT: u16 = 0x80;
const RTM_GETNEIGHTBL: u16 = 66;
const NEIGHBOUR_TABLE_HEADER: usize = 4;
const NDTA_PARMS: u16 = 6;
const NDTPA_IFINDEX: u16 = 1;
const NDTPA_PROXY_DELAY: u16 = 13;

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
    netlink.rows(&request, |kind, body| {
        // Each link has several entries for groups, which need no further look.
        if attr::u16_at(body, NEIGHBOUR_STATE)? != NUD_PERMANENT {
            return None;
        }
        let Ok(RouteNetlinkMessage::NewNeighbour(message)) =
            RouteNetlinkMessage::parse_with_param(body, kind)
        else {
            return None;
        };
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
        Some((message.header.ifindex, address?, mac?))
    })
}

/// Links that answer ARP for others without delay, as the neighbour tables say.
pub(crate) fn prompt_proxies(netlink: &mut Netlink) -> Result<Vec<u32>, Refusal> {
    // struct ndtmsg: family and padding.
    let body = vec![u8::from(AddressFamily::Inet), 0, 0, 0];
    netlink.rows(&Request { kind: RTM_GETNEIGHTBL, flags: 0, body }, |_, body| {
        let parameters = attr::find(body.get(NEIGHBOUR_TABLE_HEADER..)?, NDTA_PARMS)?;
        let delay = attr::u64_at(attr::find(parameters, NDTPA_PROXY_DELAY)?, 0)?;
        attr::find_u32(parameters, NDTPA_IFINDEX).filter(|_| delay == 0)
    })
}
