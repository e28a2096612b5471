//! One row for each attribute: flags, cost of a mistake, how to read it, how to write it.

use super::decode::Parsed;
use super::fault::{Fault, Severity};
use super::{Aggregator, AsPath, AttrCode, Attributes, NextHop, Origin};
use crate::context::{DecodeContext, EncodeContext};
use crate::reader::Reader;
use crate::{Asn, Community, ExtendedCommunity, LargeCommunity, RouterId};

pub(super) const OPTIONAL: u8 = 0x80;
pub(super) const TRANSITIVE: u8 = 0x40;
pub(super) const PARTIAL: u8 = 0x20;
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

const WELL_KNOWN: u8 = TRANSITIVE;
const NON_TRANSITIVE: u8 = OPTIONAL;
const OPTIONAL_TRANSITIVE: u8 = OPTIONAL | TRANSITIVE;

/// From whom the attribute counts; from others it is dropped without a word (RFC 7606 §7.5, §7.9, §7.10).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Any,
    Internal,
}

/// Reads a value into what has been parsed so far.
type Decode = fn(&[u8], &DecodeContext, &mut Parsed) -> Result<(), Fault>;
/// Writes the value, or answers `false` if there is nothing to write.
type Encode = fn(&Attributes, &EncodeContext, &mut Vec<u8>) -> bool;

pub(super) struct Row {
    pub(super) code: AttrCode,
    /// Optional and Transitive bits as specified.
    pub(super) flags: u8,
    /// Cost of a malformed value, by the attribute's section of RFC 7606 §7 or its own RFC.
    pub(super) severity: Severity,
    pub(super) scope: Scope,
    pub(super) decode: Decode,
    encode: Encode,
}

const fn row(code: AttrCode, flags: u8, severity: Severity, decode: Decode, encode: Encode) -> Row {
    Row { code, flags, severity, scope: Scope::Any, decode, encode }
}

const fn internal(code: AttrCode, flags: u8, severity: Severity, decode: Decode, encode: Encode) -> Row {
    Row { code, flags, severity, scope: Scope::Internal, decode, encode }
}

use Severity::{Discard, Reset, Withdraw};

/// In the order of the codes, which is the order on the wire (RFC 4271 §5).
pub(super) static ROWS: [Row; 17] = [
    row(AttrCode::Origin, WELL_KNOWN, Withdraw, decode_origin, encode_origin),
    row(AttrCode::AsPath, WELL_KNOWN, Withdraw, decode_as_path, encode_as_path),
    row(AttrCode::NextHop, WELL_KNOWN, Withdraw, decode_next_hop, encode_elsewhere),
    row(AttrCode::MultiExitDisc, NON_TRANSITIVE, Withdraw, decode_med, encode_med),
    internal(AttrCode::LocalPref, WELL_KNOWN, Withdraw, decode_local_pref, encode_local_pref),
    row(AttrCode::AtomicAggregate, WELL_KNOWN, Discard, decode_atomic, encode_atomic),
    row(AttrCode::Aggregator, OPTIONAL_TRANSITIVE, Discard, decode_aggregator, encode_aggregator),
    row(AttrCode::Communities, OPTIONAL_TRANSITIVE, Withdraw, decode_communities, encode_communities),
    internal(AttrCode::OriginatorId, NON_TRANSITIVE, Withdraw, decode_originator, encode_originator),
    internal(AttrCode::ClusterList, NON_TRANSITIVE, Withdraw, decode_clusters, encode_clusters),
    row(AttrCode::MpReach, NON_TRANSITIVE, Reset, Parsed::decode_mp_reach, encode_elsewhere),
    row(AttrCode::MpUnreach, NON_TRANSITIVE, Reset, Parsed::decode_mp_unreach, encode_elsewhere),
    row(AttrCode::ExtendedCommunities, OPTIONAL_TRANSITIVE, Withdraw, decode_extended, encode_extended),
    row(AttrCode::As4Path, OPTIONAL_TRANSITIVE, Discard, decode_as4_path, encode_as4_path),
    row(AttrCode::As4Aggregator, OPTIONAL_TRANSITIVE, Discard, decode_as4_aggregator, encode_as4_aggregator),
    row(AttrCode::LargeCommunities, OPTIONAL_TRANSITIVE, Withdraw, decode_large, encode_large),
    row(AttrCode::OnlyToCustomer, OPTIONAL_TRANSITIVE, Withdraw, decode_otc, encode_otc),
];

pub(super) fn find(code: AttrCode) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.code == code)
}

/// Appends all attributes but the multiprotocol ones, in the order of their codes, with NEXT_HOP if given.
pub(crate) fn encode_all(
    attributes: &Attributes,
    next_hop: Option<std::net::Ipv4Addr>,
    context: &EncodeContext,
    out: &mut Vec<u8>,
) {
    let mut unknown = attributes.unknown.iter().peekable();
    for row in &ROWS {
        while let Some(attribute) = unknown.next_if(|attribute| attribute.code < row.code.as_u8()) {
            write_attribute(attribute.flags, attribute.code, out, |out| {
                out.extend_from_slice(&attribute.value);
                true
            });
        }
        let partial = if attributes.partial.get(row.code) { PARTIAL } else { 0 };
        write_attribute(row.flags | partial, row.code.as_u8(), out, |out| match (row.code, next_hop) {
            (AttrCode::NextHop, Some(next_hop)) => {
                out.extend_from_slice(&next_hop.octets());
                true
            }
            _ => (row.encode)(attributes, context, out),
        });
    }
    for attribute in unknown {
        write_attribute(attribute.flags, attribute.code, out, |out| {
            out.extend_from_slice(&attribute.value);
            true
        });
    }
}

/// Appends header and value; takes the header back if there is no value.
pub(crate) fn write_attribute(
    flags: u8,
    code: u8,
    out: &mut Vec<u8>,
    value: impl FnOnce(&mut Vec<u8>) -> bool,
) {
    let at = out.len();
    out.extend_from_slice(&[flags, code, 0]);
    if !value(out) {
        out.truncate(at);
        return;
    }
    let len = out.len() - at - 3;
    if let Ok(short) = u8::try_from(len) {
        if let Some(field) = out.get_mut(at + 2) {
            *field = short;
        }
        return;
    }
    let [high, low] = (len as u16).to_be_bytes();
    out.insert(at + 3, low);
    if let Some(header) = out.get_mut(at..at + 3) {
        header.copy_from_slice(&[flags | EXTENDED_LENGTH, code, high]);
    }
}

fn encode_elsewhere(_: &Attributes, _: &EncodeContext, _: &mut Vec<u8>) -> bool {
    false
}

/// A value of exactly `N` octets.
fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], Fault> {
    value.try_into().map_err(|_| Fault::Length(value.len()))
}

/// A value of one or more items of `N` octets.
fn items<const N: usize, T>(value: &[u8], item: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Fault> {
    let (chunks, rest) = value.as_chunks::<N>();
    if chunks.is_empty() || !rest.is_empty() {
        return Err(Fault::Length(value.len()));
    }
    Ok(chunks.iter().map(|chunk| item(*chunk)).collect())
}

fn decode_origin(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    parsed.attributes.origin = match exactly::<1>(value)? {
        [0] => Origin::Igp,
        [1] => Origin::Egp,
        [2] => Origin::Incomplete,
        [other] => return Err(Fault::Value(other)),
    };
    Ok(())
}

fn encode_origin(attributes: &Attributes, _: &EncodeContext, out: &mut Vec<u8>) -> bool {
    out.push(match attributes.origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    });
    true
}

fn decode_as_path(value: &[u8], context: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    parsed.attributes.as_path = AsPath::decode(value, context.four_octet_as)?;
    Ok(())
}

fn encode_as_path(attributes: &Attributes, context: &EncodeContext, out: &mut Vec<u8>) -> bool {
    attributes.as_path.encode(context.four_octet_as, out);
    true
}

fn decode_next_hop(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    let next_hop = NextHop::V4(exactly::<4>(value)?.into());
    if !next_hop.is_plausible() {
        return Err(Fault::Address);
    }
    parsed.next_hop = Some(next_hop);
    Ok(())
}

fn decode_med(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    parsed.attributes.med = Some(u32::from_be_bytes(exactly(value)?));
    Ok(())
}

fn encode_med(attributes: &Attributes, _: &EncodeContext, out: &mut Vec<u8>) -> bool {
    attributes.med.inspect(|med| out.extend_from_slice(&med.to_be_bytes())).is_some()
}

fn decode_local_pref(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    parsed.attributes.local_pref = Some(u32::from_be_bytes(exactly(value)?));
    Ok(())
}

fn encode_local_pref(attributes: &Attributes, _: &EncodeContext, out: &mut Vec<u8>) -> bool {
    attributes.local_pref.inspect(|pref| out.extend_from_slice(&pref.to_be_bytes())).is_some()
}

fn decode_atomic(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    exactly::<0>(value)?;
    parsed.attributes.atomic_aggregate = true;
    Ok(())
}

fn encode_atomic(attributes: &Attributes, _: &EncodeContext, _: &mut Vec<u8>) -> bool {
    attributes.atomic_aggregate
}

fn aggregator(value: &[u8], four_octet: bool) -> Result<Aggregator, Fault> {
    let bad_length = || Fault::Length(value.len());
    let mut reader = Reader::new(value);
    let asn = if four_octet { reader.u32() } else { reader.u16().map(u32::from) }.ok_or_else(bad_length)?;
    let router_id = RouterId(reader.ipv4().ok_or_else(bad_length)?);
    if !reader.is_empty() {
        return Err(bad_length());
    }
    if asn == 0 {
        return Err(Fault::AsZero);
    }
    Ok(Aggregator { asn: Asn(asn), router_id })
}

fn decode_aggregator(value: &[u8], context: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    parsed.attributes.aggregator = Some(aggregator(value, context.four_octet_as)?);
    Ok(())
}

fn encode_aggregator(attributes: &Attributes, context: &EncodeContext, out: &mut Vec<u8>) -> bool {
    let Some(aggregator) = attributes.aggregator else { return false };
    if context.four_octet_as {
        out.extend_from_slice(&aggregator.asn.0.to_be_bytes());
    } else {
        out.extend_from_slice(&aggregator.asn.as_u16_or_trans().to_be_bytes());
    }
    out.extend_from_slice(&aggregator.router_id.0.octets());
    true
}

fn decode_communities(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    let communities = items(value, |octets| Community(u32::from_be_bytes(octets)))?;
    parsed.attributes.communities = communities.into();
    Ok(())
}

fn encode_communities(attributes: &Attributes, _: &EncodeContext, out: &mut Vec<u8>) -> bool {
    out.extend(attributes.communities.iter().flat_map(|community| community.0.to_be_bytes()));
    !attributes.communities.is_empty()
}

fn decode_originator(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    parsed.attributes.originator_id = Some(RouterId(exactly::<4>(value)?.into()));
    Ok(())
}

fn encode_originator(attributes: &Attributes, _: &EncodeContext, out: &mut Vec<u8>) -> bool {
    attributes.originator_id.inspect(|id| out.extend_from_slice(&id.0.octets())).is_some()
}

fn decode_clusters(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    parsed.attributes.cluster_list = items(value, |octets: [u8; 4]| RouterId(octets.into()))?.into();
    Ok(())
}

fn encode_clusters(attributes: &Attributes, _: &EncodeContext, out: &mut Vec<u8>) -> bool {
    out.extend(attributes.cluster_list.iter().flat_map(|id| id.0.octets()));
    !attributes.cluster_list.is_empty()
}

fn decode_extended(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    parsed.attributes.extended_communities = items(value, ExtendedCommunity)?.into();
    Ok(())
}

fn encode_extended(attributes: &Attributes, _: &EncodeContext, out: &mut Vec<u8>) -> bool {
    out.extend(attributes.extended_communities.iter().flat_map(|community| community.0));
    !attributes.extended_communities.is_empty()
}

/// From a speaker of four-octet numbers the attribute is dropped without a word (RFC 6793 §6).
fn decode_as4_path(value: &[u8], context: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    if !context.four_octet_as {
        parsed.as4_path = Some(AsPath::decode_as4(value)?);
    }
    Ok(())
}

fn encode_as4_path(attributes: &Attributes, context: &EncodeContext, out: &mut Vec<u8>) -> bool {
    let needed = !context.four_octet_as && attributes.as_path.needs_four_octets();
    if needed {
        attributes.as_path.encode(true, out);
    }
    needed
}

fn decode_as4_aggregator(value: &[u8], context: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    if !context.four_octet_as {
        parsed.as4_aggregator = Some(aggregator(value, true)?);
    }
    Ok(())
}

fn encode_as4_aggregator(attributes: &Attributes, context: &EncodeContext, out: &mut Vec<u8>) -> bool {
    let Some(aggregator) = attributes.aggregator else { return false };
    if context.four_octet_as || aggregator.asn.0 <= 0xffff {
        return false;
    }
    out.extend_from_slice(&aggregator.asn.0.to_be_bytes());
    out.extend_from_slice(&aggregator.router_id.0.octets());
    true
}

fn decode_large(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    let all = items(value, |octets: [u8; 12]| {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = octets;
        LargeCommunity {
            global: u32::from_be_bytes([a, b, c, d]),
            local1: u32::from_be_bytes([e, f, g, h]),
            local2: u32::from_be_bytes([i, j, k, l]),
        }
    })?;
    // Repetitions are removed without a word (RFC 8092 §5).
    let mut seen = std::collections::HashSet::with_capacity(all.len());
    parsed.attributes.large_communities =
        all.into_iter().filter(|community| seen.insert(*community)).collect();
    Ok(())
}

fn encode_large(attributes: &Attributes, _: &EncodeContext, out: &mut Vec<u8>) -> bool {
    for community in &attributes.large_communities {
        out.extend_from_slice(&community.global.to_be_bytes());
        out.extend_from_slice(&community.local1.to_be_bytes());
        out.extend_from_slice(&community.local2.to_be_bytes());
    }
    !attributes.large_communities.is_empty()
}

fn decode_otc(value: &[u8], _: &DecodeContext, parsed: &mut Parsed) -> Result<(), Fault> {
    parsed.attributes.otc = Some(Asn(u32::from_be_bytes(exactly(value)?)));
    Ok(())
}

fn encode_otc(attributes: &Attributes, _: &EncodeContext, out: &mut Vec<u8>) -> bool {
    attributes.otc.inspect(|asn| out.extend_from_slice(&asn.0.to_be_bytes())).is_some()
}
