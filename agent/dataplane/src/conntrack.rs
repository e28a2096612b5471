//! Connection tracking: how full it is and who fills it; and forgetting what it remembers of a pod's address, so that
//! the next pod with it starts clean.

mod usage;

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::netlink::attr::{self, Attributes};
use crate::netlink::{Netlink, Refusal, Request};

pub use usage::{ConntrackByAddress, ConntrackUsage};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const HEADER: usize = 4;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// `CTA_IP_V4_SRC`; the destination is one more, IPv6 two more.
const IP_SOURCE: u16 = 1;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_DESTINATION_PORT: u16 = 3;

/// Deletes every entry in which one of the addresses takes part; answers how many there were.
///
/// # Errors
/// The table cannot be read. Entries that vanish meanwhile are no error.
pub(crate) fn forget(netlink: &mut Netlink, addresses: &BTreeSet<IpAddr>) -> Result<usize, Refusal> {
    let concerned = |attributes: &[u8]| {
        let mut tuples =
            [TUPLE_ORIGINAL, TUPLE_REPLY].iter().filter_map(|tuple| attr::find(attributes, *tuple));
        tuples.any(|tuple| {
            let ends = [IP_SOURCE, IP_SOURCE + 1].map(|kind| address_at(tuple, kind));
            ends.iter().flatten().any(|end| addresses.contains(end))
        })
    };
    let mut count = 0;
    for is_ipv6 in [false, true] {
        if addresses.iter().any(|address| address.is_ipv6() == is_ipv6) {
            count += forget_where(netlink, is_ipv6, concerned)?;
        }
    }
    Ok(count)
}

/// Deletes the entries of UDP flows to one of the ports at an address that `is_ours`, and that nobody translates.
///
/// # Errors
/// The table cannot be read.
pub(crate) fn forget_udp_to(
    netlink: &mut Netlink,
    ports: &BTreeSet<u16>,
    mut is_ours: impl FnMut(IpAddr) -> bool,
) -> Result<usize, Refusal> {
    let mut count = 0;
    for is_ipv6 in [false, true] {
        count += forget_where(netlink, is_ipv6, |attributes| {
            let original = attr::find(attributes, TUPLE_ORIGINAL).unwrap_or_default();
            let Some((destination, port)) = udp_destination(original) else { return false };
            // Translated, it would be answered by somebody else.
            let reply = attr::find(attributes, TUPLE_REPLY).unwrap_or_default();
            ports.contains(&port) && address_at(reply, IP_SOURCE) == Some(destination) && is_ours(destination)
        })?;
    }
    Ok(count)
}

fn forget_where(
    netlink: &mut Netlink,
    is_ipv6: bool,
    mut concerned: impl FnMut(&[u8]) -> bool,
) -> Result<usize, Refusal> {
    let family = if is_ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    let header = vec![u8::try_from(family).unwrap_or_default(), 0, 0, 0];
    let entries = netlink.dump(&Request { kind: GET, flags: 0, body: header.clone() })?;
    let mut requests = Vec::new();
    for entry in &entries {
        let attributes = entry.body.get(HEADER..).unwrap_or_default();
        if !concerned(attributes) {
            continue;
        }
        let mut list = Attributes::default();
        for (kind, nested) in [(TUPLE_ORIGINAL, true), (ID, false), (ZONE, false)] {
            if let Some(value) = attr::find(attributes, kind) {
                list = if nested { list.put(kind | 0x8000, value) } else { list.put(kind, value) };
            }
        }
        let mut body = header.clone();
        body.extend(list.bytes());
        requests.push(Request { kind: DELETE, flags: 0, body });
    }
    Ok(netlink.batch(&requests).iter().filter(|result| result.is_ok()).count())
}

/// Where a UDP flow goes; `None` for other protocols.
fn udp_destination(tuple: &[u8]) -> Option<(IpAddr, u16)> {
    let protocol = attr::find(tuple, TUPLE_PROTOCOL)?;
    if attr::find(protocol, PROTOCOL_NUMBER)? != [17] {
        return None;
    }
    let port = attr::find(protocol, PROTOCOL_DESTINATION_PORT)?.first_chunk::<2>()?;
    let offset = IP_SOURCE + 1;
    Some((address_at(tuple, offset)?, u16::from_be_bytes(*port)))
}

/// An address of a tuple: `kind` is that of IPv4, IPv6's is two more.
fn address_at(tuple: &[u8], kind: u16) -> Option<IpAddr> {
    let addresses = attr::find(tuple, TUPLE_IP)?;
    if let Some(octets) = attr::find(addresses, kind) {
        return <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    }
    attr::find(addresses, kind + 2).and_then(|octets| <[u8; 16]>::try_from(octets).ok()).map(IpAddr::from)
}
