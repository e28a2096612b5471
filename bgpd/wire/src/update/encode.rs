//! Packing prefixes into UPDATEs.

use std::net::Ipv4Addr;

use crate::attribute::{self, AttrCode, Attributes, NextHop};
use crate::context::EncodeContext;
use crate::message::{Header, MessageType};
use crate::nlri::Nlri;
use crate::{AfiSafi, Family};

/// The attributes leave no room for a prefix in a message of the size allowed (RFC 8654 §5, RFC 4271 §9.2):
/// the path cannot be announced to this peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("attributes of {attributes} octets do not fit a message of {max_message}")]
pub struct EncodeError {
    /// Octets of the attributes.
    pub attributes: usize,
    /// Longest message allowed.
    pub max_message: u16,
}

/// Header, and the two length fields of an UPDATE.
const FIXED: usize = Header::LEN + 4;
/// Optional, Extended Length.
const MP_FLAGS: u8 = 0x90;
/// Flags, code and two octets of length.
const MP_HEADER: usize = 4;

/// Appends the UPDATEs that announce `nlri`, all of `family`; answers how many.
///
/// IPv4 with an IPv4 next hop uses the fields of RFC 4271, everything else MP_REACH_NLRI, as the first attribute
/// (RFC 7606 §5.1).
pub fn encode_reach(
    attributes: &Attributes,
    family: Family,
    next_hop: NextHop,
    nlri: &[Nlri],
    context: &EncodeContext,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let plain = match (family, next_hop) {
        (Family::Ipv4, NextHop::V4(addr)) => Some(addr),
        _ => None,
    };
    let mut encoded = Vec::with_capacity(256);
    attribute::encode_all(attributes, plain, context, &mut encoded);
    let mp_fixed = if plain.is_some() { 0 } else { MP_HEADER + 5 + next_hop_octets(next_hop).len() };
    let max = usize::from(context.max_message);
    let largest =
        nlri.iter().map(|nlri| nlri.encoded_len(context.add_path(family))).max().unwrap_or_default();
    let room = max.saturating_sub(FIXED + mp_fixed + encoded.len());
    if room < largest {
        return Err(EncodeError { attributes: encoded.len() + mp_fixed, max_message: context.max_message });
    }
    let mut messages = 0;
    let mut rest = nlri;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(count_fitting(rest, context.add_path(family), room));
        match plain {
            Some(_) => write_plain(&encoded, now, context, out),
            None => write_multiprotocol(&encoded, family, next_hop, now, context, out),
        }
        rest = later;
        messages += 1;
    }
    Ok(messages)
}

/// Appends the UPDATEs that withdraw `nlri`, all of `family`; answers how many.
pub fn encode_unreach(family: Family, nlri: &[Nlri], context: &EncodeContext, out: &mut Vec<u8>) -> usize {
    let mp_fixed = if family == Family::Ipv4 { 0 } else { MP_HEADER + 3 };
    let room = usize::from(context.max_message).saturating_sub(FIXED + mp_fixed);
    let add_path = context.add_path(family);
    let mut messages = 0;
    let mut rest = nlri;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(count_fitting(rest, add_path, room));
        let at = Header::begin(out, MessageType::Update);
        if family == Family::Ipv4 {
            let field = begin_field(out);
            now.iter().for_each(|nlri| nlri.encode(add_path, out));
            end_field(out, field);
            out.extend_from_slice(&[0, 0]);
        } else {
            out.extend_from_slice(&[0, 0]);
            let field = begin_field(out);
            write_unreach_attribute(family, now, add_path, out);
            end_field(out, field);
        }
        Header::end(out, at);
        rest = later;
        messages += 1;
    }
    messages
}

/// Appends the End-of-RIB marker (RFC 4724 §2).
pub fn encode_end_of_rib(family: Family, out: &mut Vec<u8>) {
    let at = Header::begin(out, MessageType::Update);
    out.extend_from_slice(&[0, 0]);
    let field = begin_field(out);
    if family != Family::Ipv4 {
        // So short that no peer should have to know Extended Length to recognise it.
        out.extend_from_slice(&[0x80, AttrCode::MpUnreach.as_u8(), 3]);
        write_code(family, out);
    }
    end_field(out, field);
    Header::end(out, at);
}

/// How many of the first prefixes fit into `room`; at least one, so that callers make progress.
fn count_fitting(nlri: &[Nlri], add_path: bool, room: usize) -> usize {
    let mut used = 0;
    let fitting = nlri.iter().take_while(|nlri| {
        used += nlri.encoded_len(add_path);
        used <= room
    });
    fitting.count().max(1)
}

fn write_plain(encoded: &[u8], nlri: &[Nlri], context: &EncodeContext, out: &mut Vec<u8>) {
    let at = Header::begin(out, MessageType::Update);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&(encoded.len() as u16).to_be_bytes());
    out.extend_from_slice(encoded);
    nlri.iter().for_each(|nlri| nlri.encode(context.add_path_ipv4, out));
    Header::end(out, at);
}

fn write_multiprotocol(
    encoded: &[u8],
    family: Family,
    next_hop: NextHop,
    nlri: &[Nlri],
    context: &EncodeContext,
    out: &mut Vec<u8>,
) {
    let at = Header::begin(out, MessageType::Update);
    out.extend_from_slice(&[0, 0]);
    let field = begin_field(out);
    out.extend_from_slice(&[MP_FLAGS, AttrCode::MpReach.as_u8()]);
    let value = begin_field(out);
    write_code(family, out);
    let octets = next_hop_octets(next_hop);
    out.push(octets.len() as u8);
    out.extend_from_slice(&octets);
    out.push(0);
    nlri.iter().for_each(|nlri| nlri.encode(context.add_path(family), out));
    end_field(out, value);
    out.extend_from_slice(encoded);
    end_field(out, field);
    Header::end(out, at);
}

fn write_unreach_attribute(family: Family, nlri: &[Nlri], add_path: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&[MP_FLAGS, AttrCode::MpUnreach.as_u8()]);
    let value = begin_field(out);
    write_code(family, out);
    nlri.iter().for_each(|nlri| nlri.encode(add_path, out));
    end_field(out, value);
}

fn write_code(family: Family, out: &mut Vec<u8>) {
    let AfiSafi { afi, safi } = family.code();
    out.extend_from_slice(&afi.to_be_bytes());
    out.push(safi);
}

/// The next hop field of MP_REACH_NLRI.
fn next_hop_octets(next_hop: NextHop) -> Vec<u8> {
    match next_hop {
        NextHop::V4(addr) => Ipv4Addr::octets(&addr).to_vec(),
        NextHop::V6(addr) => addr.octets().to_vec(),
        NextHop::V6WithLinkLocal(global, local) => [global.octets(), local.octets()].concat(),
    }
}

/// Appends a two-octet length field to be filled in by [`end_field`].
fn begin_field(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0, 0]);
    at
}

fn end_field(out: &mut [u8], at: usize) {
    let len = (out.len() - at - 2) as u16;
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}
