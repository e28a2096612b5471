//! The MRT export format (RFC 6396, path identifiers by RFC 8050): dumps of tables and logs of messages, encoding only.

use std::net::IpAddr;
use std::time::Duration;

use crate::attribute::{self, AttrCode, Attributes, NextHop};
use crate::context::EncodeContext;
use crate::nlri::Nlri;
use crate::{Asn, Family, Prefix, RouterId};

const TABLE_DUMP_V2: u16 = 13;
const BGP4MP_ET: u16 = 17;

const PEER_INDEX_TABLE: u16 = 1;
const RIB_IPV4_UNICAST: u16 = 2;
const RIB_IPV6_UNICAST: u16 = 4;
const RIB_IPV4_UNICAST_ADDPATH: u16 = 8;
const RIB_IPV6_UNICAST_ADDPATH: u16 = 10;

const MESSAGE: u16 = 1;
const MESSAGE_AS4: u16 = 4;
const STATE_CHANGE_AS4: u16 = 5;
const MESSAGE_ADDPATH: u16 = 8;
const MESSAGE_AS4_ADDPATH: u16 = 9;

/// States by their numbers in §4.4.1.
const IDLE: u16 = 1;
const OPEN_CONFIRM: u16 = 5;
const ESTABLISHED: u16 = 6;

const PEER_IPV6: u8 = 1;
const PEER_FOUR_OCTET_AS: u8 = 2;

/// A peer as the index of a table dump and messages name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MrtPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its autonomous system.
    pub asn: Asn,
    /// Its BGP identifier; 0.0.0.0 while there is no session.
    pub router_id: RouterId,
}

/// A path of a table dump.
#[derive(Clone, Copy, Debug)]
pub struct MrtPath<'a> {
    /// The peer's place in the index.
    pub peer: u16,
    /// Path identifier; zero on sessions without.
    pub path_id: u32,
    /// Its attributes.
    pub attributes: &'a Attributes,
    /// Its next hop.
    pub next_hop: Option<NextHop>,
}

/// The two ends of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MrtSession {
    /// The peer's AS.
    pub peer_as: Asn,
    /// Ours.
    pub local_as: Asn,
    /// The peer's address.
    pub peer: IpAddr,
    /// Ours, of the same family.
    pub local: IpAddr,
}

/// Appends the index that every table dump begins with (§4.3.1). `at` is since the Unix epoch.
pub fn encode_peer_index(collector: RouterId, peers: &[MrtPeer], at: Duration, out: &mut Vec<u8>) {
    record((TABLE_DUMP_V2, PEER_INDEX_TABLE), at, false, out, |out| {
        out.extend_from_slice(&collector.0.octets());
        // No view name.
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(peers.len() as u16).to_be_bytes());
        for peer in peers {
            let family = if peer.address.is_ipv6() { PEER_IPV6 } else { 0 };
            out.push(PEER_FOUR_OCTET_AS | family);
            out.extend_from_slice(&peer.router_id.0.octets());
            address(peer.address, out);
            out.extend_from_slice(&peer.asn.0.to_be_bytes());
        }
    });
}

/// Appends all paths of a prefix (§4.3.2); with path identifiers if any path has one (RFC 8050 §4). When a path came is
/// not known: `at` stands for it.
pub fn encode_rib(sequence: u32, prefix: Prefix, paths: &[MrtPath<'_>], at: Duration, out: &mut Vec<u8>) {
    let add_path = paths.iter().any(|path| path.path_id != 0);
    let subtype = match (prefix.family(), add_path) {
        (Family::Ipv4, false) => RIB_IPV4_UNICAST,
        (Family::Ipv4, true) => RIB_IPV4_UNICAST_ADDPATH,
        (Family::Ipv6, false) => RIB_IPV6_UNICAST,
        (Family::Ipv6, true) => RIB_IPV6_UNICAST_ADDPATH,
    };
    record((TABLE_DUMP_V2, subtype), at, false, out, |out| {
        out.extend_from_slice(&sequence.to_be_bytes());
        Nlri { prefix, path_id: 0 }.encode(false, out);
        out.extend_from_slice(&(paths.len() as u16).to_be_bytes());
        for path in paths {
            out.extend_from_slice(&path.peer.to_be_bytes());
            out.extend_from_slice(&(at.as_secs() as u32).to_be_bytes());
            if add_path {
                out.extend_from_slice(&path.path_id.to_be_bytes());
            }
            let field = out.len();
            out.extend_from_slice(&[0, 0]);
            path_attributes(path, prefix.family(), out);
            let len = (out.len() - field - 2) as u16;
            if let Some(field) = out.get_mut(field..field + 2) {
                field.copy_from_slice(&len.to_be_bytes());
            }
        }
    });
}

/// Attributes as table dumps have them: AS numbers of four octets, and of MP_REACH_NLRI the next hop alone (§4.3.4).
fn path_attributes(path: &MrtPath<'_>, family: Family, out: &mut Vec<u8>) {
    let plain = match (family, path.next_hop) {
        (Family::Ipv4, Some(NextHop::V4(address))) => Some(address),
        _ => None,
    };
    attribute::encode_all(path.attributes, plain, &EncodeContext::default(), out);
    let octets = match path.next_hop {
        Some(next_hop) if plain.is_none() => match next_hop {
            NextHop::V4(address) => address.octets().to_vec(),
            NextHop::V6(address) => address.octets().to_vec(),
            NextHop::V6WithLinkLocal(global, local) => [global.octets(), local.octets()].concat(),
        },
        _ => return,
    };
    out.extend_from_slice(&[0x80, AttrCode::MpReach.as_u8(), octets.len() as u8 + 1, octets.len() as u8]);
    out.extend_from_slice(&octets);
}

/// Appends a BGP message as it was received, header included (§4.4.2, §4.4.3; RFC 8050 §3 where NLRI carry path
/// identifiers).
pub fn encode_message(
    session: &MrtSession,
    (four_octet_as, add_path): (bool, bool),
    at: Duration,
    message: &[u8],
    out: &mut Vec<u8>,
) {
    let subtype = match (four_octet_as, add_path) {
        (false, false) => MESSAGE,
        (true, false) => MESSAGE_AS4,
        (false, true) => MESSAGE_ADDPATH,
        (true, true) => MESSAGE_AS4_ADDPATH,
    };
    record((BGP4MP_ET, subtype), at, true, out, |out| {
        ends(session, four_octet_as, out);
        out.extend_from_slice(message);
    });
}

/// Appends that a session has come up or ended (§4.4.4).
pub fn encode_state_change(session: &MrtSession, at: Duration, up: bool, out: &mut Vec<u8>) {
    let [from, to] = if up { [OPEN_CONFIRM, ESTABLISHED] } else { [ESTABLISHED, IDLE] };
    record((BGP4MP_ET, STATE_CHANGE_AS4), at, true, out, |out| {
        ends(session, true, out);
        out.extend_from_slice(&from.to_be_bytes());
        out.extend_from_slice(&to.to_be_bytes());
    });
}

fn ends(session: &MrtSession, four_octet_as: bool, out: &mut Vec<u8>) {
    for asn in [session.peer_as, session.local_as] {
        match four_octet_as {
            true => out.extend_from_slice(&asn.0.to_be_bytes()),
            false => out.extend_from_slice(&asn.as_u16_or_trans().to_be_bytes()),
        }
    }
    // Interface index unknown; AFI.
    out.extend_from_slice(&[0, 0, 0, if session.peer.is_ipv6() { 2 } else { 1 }]);
    address(session.peer, out);
    match (session.peer, session.local) {
        (IpAddr::V6(_), IpAddr::V4(local)) => out.extend_from_slice(&local.to_ipv6_mapped().octets()),
        (IpAddr::V4(_), IpAddr::V6(_)) => out.extend_from_slice(&[0; 4]),
        (_, local) => address(local, out),
    }
}

fn address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
}

/// The common header (§2), with microseconds where the type is an extended one (§3).
fn record(
    (kind, subtype): (u16, u16),
    at: Duration,
    extended: bool,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let begin = out.len();
    out.extend_from_slice(&(at.as_secs() as u32).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&subtype.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    if extended {
        out.extend_from_slice(&at.subsec_micros().to_be_bytes());
    }
    body(out);
    let len = u32::try_from(out.len() - begin - 12).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(begin + 8..begin + 12) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}
