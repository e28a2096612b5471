//! The attributes of one UPDATE, read with the care of RFC 7606.

use super::fault::{Fault, Problem, Severity};
use super::rows::{self, EXTENDED_LENGTH, OPTIONAL, PARTIAL, Row, Scope, TRANSITIVE};
use super::{Aggregator, AsPath, AttrCode, Attributes, NextHop, UnknownAttribute};
use crate::context::DecodeContext;
use crate::nlri::{self, Nlri};
use crate::notification::{Cause, Notification};
use crate::reader::Reader;
use crate::{AfiSafi, Asn, Family};

/// What MP_REACH_NLRI said, for a family that is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MpReach {
    pub(crate) family: Family,
    pub(crate) next_hop: NextHop,
    pub(crate) nlri: Vec<Nlri>,
}

/// The attributes as read so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) attributes: Attributes,
    pub(crate) next_hop: Option<NextHop>,
    pub(crate) mp_reach: Option<MpReach>,
    pub(crate) mp_unreach: Option<(Family, Vec<Nlri>)>,
    pub(super) as4_path: Option<AsPath>,
    pub(super) as4_aggregator: Option<Aggregator>,
    pub(crate) problems: Vec<Problem>,
    unknown: Vec<UnknownAttribute>,
    seen: Seen,
}

/// Which codes have stood in the UPDATE, faulty ones too.
#[derive(Clone, Copy, Debug, Default)]
struct Seen([u64; 4]);

impl Seen {
    /// Notes a code; true the first time.
    fn insert(&mut self, code: u8) -> bool {
        let Some(word) = self.0.get_mut(usize::from(code / 64)) else { return false };
        let bit = 1 << (code % 64);
        let first = *word & bit == 0;
        *word |= bit;
        first
    }

    fn contains(&self, code: AttrCode) -> bool {
        let code = code.as_u8();
        self.0.get(usize::from(code / 64)).is_some_and(|word| word & (1 << (code % 64)) != 0)
    }
}

/// Reads all attributes. An error is a session reset; other mistakes are in [`Parsed::problems`].
pub(crate) fn parse(bytes: &[u8], context: &DecodeContext) -> Result<Parsed, Notification> {
    let mut parsed = Parsed::default();
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        let whole = reader.rest();
        let Some((flags, code, value)) = read_one(&mut reader) else {
            let code = whole.get(1).map_or(AttrCode::Unknown(0), |code| AttrCode::from_u8(*code));
            // RFC 7606 §4: the end of the attributes is known from their total length, so the NLRI behind are safe;
            // those inside a multiprotocol attribute are not (§3 j).
            let multiprotocol = matches!(code, AttrCode::MpReach | AttrCode::MpUnreach);
            let severity = if multiprotocol { Severity::Reset } else { Severity::Withdraw };
            parsed.fail(code, Fault::Truncated, severity, &[])?;
            break;
        };
        let raw = whole.get(..whole.len() - reader.len()).unwrap_or(whole);
        parsed.take_one(flags, code, value, raw, context)?;
    }
    parsed.merge_four_octet();
    parsed.attributes.unknown = std::mem::take(&mut parsed.unknown).into();
    Ok(parsed)
}

fn read_one<'a>(reader: &mut Reader<'a>) -> Option<(u8, u8, &'a [u8])> {
    let flags = reader.u8()?;
    let code = reader.u8()?;
    let len = if flags & EXTENDED_LENGTH != 0 { reader.u16()? } else { u16::from(reader.u8()?) };
    Some((flags, code, reader.take(usize::from(len))?))
}

impl Parsed {
    fn note(&mut self, attribute: AttrCode, fault: Fault, severity: Severity) {
        self.problems.push(Problem { attribute, fault, severity });
    }

    /// The worst cost of all mistakes; never `Reset`, which ends the reading.
    pub(crate) fn worst(&self) -> Option<Severity> {
        self.problems.iter().map(|problem| problem.severity).max()
    }

    fn take_one(
        &mut self,
        flags: u8,
        code: u8,
        value: &[u8],
        raw: &[u8],
        context: &DecodeContext,
    ) -> Result<(), Notification> {
        let attribute = AttrCode::from_u8(code);
        if !self.seen.insert(code) {
            // RFC 7606 §3 g.
            let multiprotocol = matches!(attribute, AttrCode::MpReach | AttrCode::MpUnreach);
            let severity = if multiprotocol { Severity::Reset } else { Severity::Discard };
            return self.fail(attribute, Fault::Duplicate, severity, &[]);
        }
        let Some(row) = rows::find(attribute) else {
            self.take_unknown(flags, code, value);
            return Ok(());
        };
        if row.scope == Scope::Internal && !context.internal {
            return Ok(());
        }
        let wrong_flags = (flags ^ row.flags) & (OPTIONAL | TRANSITIVE) != 0;
        let faulty = match self.decode_row(row, value, context) {
            Ok(()) if flags & PARTIAL != 0 => {
                self.attributes.partial.set(attribute);
                None
            }
            Ok(()) => None,
            Err(fault) => Some((fault, cost(row, fault))),
        };
        // RFC 7606 §3 c, after the value was read: prefixes must be known in order to be withdrawn.
        if wrong_flags {
            self.note(attribute, Fault::Flags(flags), Severity::Withdraw);
        }
        match faulty {
            None => Ok(()),
            Some((fault, severity)) => self.fail(attribute, fault, severity, raw),
        }
    }

    fn decode_row(&mut self, row: &Row, value: &[u8], context: &DecodeContext) -> Result<(), Fault> {
        (row.decode)(value, context, self)
    }

    fn fail(
        &mut self,
        attribute: AttrCode,
        fault: Fault,
        severity: Severity,
        raw: &[u8],
    ) -> Result<(), Notification> {
        if severity == Severity::Reset {
            let cause = Cause::Update(fault.subcode(attribute));
            return Err(Notification::with_data(cause, raw.to_vec()));
        }
        self.note(attribute, fault, severity);
        Ok(())
    }

    fn take_unknown(&mut self, flags: u8, code: u8, value: &[u8]) {
        if flags & OPTIONAL == 0 {
            return self.note(AttrCode::Unknown(code), Fault::UnknownWellKnown, Severity::Withdraw);
        }
        if flags & TRANSITIVE == 0 {
            return;
        }
        let flags = flags & (OPTIONAL | TRANSITIVE) | PARTIAL;
        let at = self.unknown.partition_point(|other| other.code < code);
        self.unknown.insert(at, UnknownAttribute { flags, code, value: value.into() });
    }

    /// RFC 6793 §4.2.3.
    fn merge_four_octet(&mut self) {
        let (as4_path, as4_aggregator) = (self.as4_path.take(), self.as4_aggregator.take());
        match self.attributes.aggregator {
            // Somebody on the way aggregated without knowing four octets: both are out of date.
            Some(aggregator) if as4_aggregator.is_some() && aggregator.asn != Asn::TRANS => return,
            Some(_) => {
                if let Some(true_one) = as4_aggregator {
                    self.attributes.aggregator = Some(true_one);
                }
            }
            None => {}
        }
        if let Some(as4_path) = as4_path {
            self.attributes.as_path = self.attributes.as_path.merged_with_as4(&as4_path);
        }
    }

    /// Notes mandatory attributes that prefixes need but the UPDATE lacks (RFC 7606 §3 d).
    pub(crate) fn check_mandatory(&mut self, needs_next_hop: bool) {
        let needed = [AttrCode::Origin, AttrCode::AsPath]
            .into_iter()
            .chain(needs_next_hop.then_some(AttrCode::NextHop));
        for code in needed {
            if !self.seen.contains(code) {
                self.note(code, Fault::Missing, Severity::Withdraw);
            }
        }
    }

    /// True if an UPDATE in which nothing is announced may have been meant to announce something: attributes other than
    /// MP_UNREACH_NLRI stand in it, or one was cut off (RFC 7606 §5.2). What is announced for a family that is not in
    /// force was found, if not read.
    pub(crate) fn may_hide_prefixes(&self) -> bool {
        let any = |fault| self.problems.iter().any(|problem| problem.fault == fault);
        (self.has_more_than_unreach() || any(Fault::Truncated)) && !any(Fault::Family)
    }

    /// True if any attribute but MP_UNREACH_NLRI stood in the UPDATE.
    pub(crate) fn has_more_than_unreach(&self) -> bool {
        let mut others = self.seen;
        if let Some(word) = others.0.first_mut() {
            *word &= !(1 << AttrCode::MpUnreach.as_u8());
        }
        others.0.iter().any(|word| *word != 0)
    }

    pub(super) fn decode_mp_reach(
        value: &[u8],
        context: &DecodeContext,
        parsed: &mut Parsed,
    ) -> Result<(), Fault> {
        let bad_length = || Fault::Length(value.len());
        let mut reader = Reader::new(value);
        let code =
            AfiSafi { afi: reader.u16().ok_or_else(bad_length)?, safi: reader.u8().ok_or_else(bad_length)? };
        let Some(family) = in_force(code, context) else { return Err(Fault::Family) };
        let next_hop_len = reader.u8().ok_or_else(bad_length)?;
        let mut octets = Reader::new(reader.take(usize::from(next_hop_len)).ok_or_else(bad_length)?);
        let next_hop = match (next_hop_len, family) {
            (4, Family::Ipv4) => octets.ipv4().map(NextHop::V4),
            (16, family) if may_be_ipv6(family, context) => octets.ipv6().map(NextHop::V6),
            (32, family) if may_be_ipv6(family, context) => read_two(&mut octets),
            // RFC 7606 §7.11: the prefixes behind it cannot be located.
            _ => None,
        };
        let next_hop = next_hop.ok_or(Fault::Length(usize::from(next_hop_len)))?;
        // One reserved octet (RFC 4760 §3).
        reader.u8().ok_or_else(bad_length)?;
        let mut nlri = Vec::new();
        nlri::decode_list(reader.rest(), family, context.add_path.contains(family), &mut nlri)
            .map_err(|_| Fault::Nlri)?;
        parsed.mp_reach = Some(MpReach { family, next_hop, nlri });
        if next_hop.is_plausible() { Ok(()) } else { Err(Fault::Address) }
    }

    pub(super) fn decode_mp_unreach(
        value: &[u8],
        context: &DecodeContext,
        parsed: &mut Parsed,
    ) -> Result<(), Fault> {
        let bad_length = || Fault::Length(value.len());
        let mut reader = Reader::new(value);
        let code =
            AfiSafi { afi: reader.u16().ok_or_else(bad_length)?, safi: reader.u8().ok_or_else(bad_length)? };
        let Some(family) = in_force(code, context) else { return Err(Fault::Family) };
        let mut nlri = Vec::new();
        nlri::decode_list(reader.rest(), family, context.add_path.contains(family), &mut nlri)
            .map_err(|_| Fault::Nlri)?;
        parsed.mp_unreach = Some((family, nlri));
        Ok(())
    }
}

/// What a fault in a row's value costs.
const fn cost(row: &Row, fault: Fault) -> Severity {
    match fault {
        // Prefixes of a family that nobody asked for touch nobody: ignored.
        Fault::Family => Severity::Discard,
        // The prefixes were read: only the paths cannot be used.
        Fault::Address => Severity::Withdraw,
        _ => row.severity,
    }
}

fn in_force(code: AfiSafi, context: &DecodeContext) -> Option<Family> {
    code.family().filter(|family| context.families.contains(*family))
}

const fn may_be_ipv6(family: Family, context: &DecodeContext) -> bool {
    matches!(family, Family::Ipv6) || context.extended_next_hop
}

/// Global and link-local (RFC 2545 §3). Some speakers put the link-local one into both places.
fn read_two(octets: &mut Reader<'_>) -> Option<NextHop> {
    let (global, local) = (octets.ipv6()?, octets.ipv6()?);
    Some(match () {
        () if !local.is_unicast_link_local() => NextHop::V6(global),
        () if global.is_unspecified() || global == local => NextHop::V6(local),
        () => NextHop::V6WithLinkLocal(global, local),
    })
}
