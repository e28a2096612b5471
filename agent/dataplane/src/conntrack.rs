//! Forgets what conntrack remembers of a pod's address, so that the next pod with it starts clean.

use std::net::IpAddr;

use crate::netlink::attr::{self, Attributes};
use crate::netlink::{Netlink, Refusal, Request};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const HEADER: usize = 4;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;

/// Deletes every entry in which the address takes part; answers how many there were.
///
/// # Errors
/// The table cannot be read. Entries that vanish meanwhile are no error.
pub(crate) fn forget(netlink: &mut Netlink, address: IpAddr) -> Result<usize, Refusal> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let header = vec![u8::try_from(family).unwrap_or_default(), 0, 0, 0];
    let entries = netlink.dump(&Request { kind: GET, flags: 0, body: header.clone() })?;
    let mut requests = Vec::new();
    for entry in &entries {
        let attributes = entry.body.get(HEADER..).unwrap_or_default();
        let concerned = [TUPLE_ORIGINAL, TUPLE_REPLY]
            .iter()
            .filter_map(|tuple| attr::find(attributes, *tuple))
            .any(|tuple| names(tuple, address));
        if !concerned {
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
    let deleted = netlink.batch(&requests).iter().filter(|result| result.is_ok()).count();
    Ok(deleted)
}

/// True where source or destination of a tuple is the address.
fn names(tuple: &[u8], address: IpAddr) -> bool {
    let octets = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let addresses = attr::find(tuple, TUPLE_IP).unwrap_or_default();
    attr::iter(addresses).any(|(_, value)| value == octets)
}
