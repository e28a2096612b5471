//! UPDATE (RFC 4271 §4.3) for IPv4 and IPv6 unicast, with the error handling of RFC 7606.
//!
//! [`Update::decode`] answers with what the speaker must do: mistakes that cost prefixes have already moved them
//! to `unreach`, so that a caller cannot forget to. The functions of `update/encode.rs` pack many prefixes with
//! the same attributes into few messages.

mod encode;

pub use encode::{EncodeError, encode_end_of_rib, encode_reach, encode_unreach};

use crate::attribute::{self, Attributes, NextHop, Parsed, Problem, Severity};
use crate::context::DecodeContext;
use crate::nlri::{self, Nlri};
use crate::notification::{Cause, Notification, UpdateError};
use crate::reader::Reader;
use crate::{Family, Prefix};

/// Prefixes of one family, announced with one next hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reach {
    /// Family of all the prefixes.
    pub family: Family,
    /// Their next hop.
    pub next_hop: NextHop,
    /// The prefixes.
    pub nlri: Vec<Nlri>,
}

/// What an UPDATE means.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Update {
    /// Announced, with [`Update::attributes`].
    pub reach: Vec<Reach>,
    /// Withdrawn, or to be treated so.
    pub unreach: Vec<Nlri>,
    /// Of everything in `reach`.
    pub attributes: Attributes,
    /// End-of-RIB (RFC 4724 §2).
    pub end_of_rib: Option<Family>,
    /// Mistakes that did not end the session.
    pub problems: Vec<Problem>,
}

impl Update {
    /// Decodes a message body. An error is a session reset.
    pub fn decode(body: &[u8], context: &DecodeContext) -> Result<Self, Notification> {
        let list_error = || Notification::new(Cause::Update(UpdateError::MalformedAttributeList));
        let mut reader = Reader::new(body);
        let withdrawn_len = reader.u16().ok_or_else(list_error)?;
        let withdrawn = reader.take(usize::from(withdrawn_len)).ok_or_else(list_error)?;
        let attributes_len = reader.u16().ok_or_else(list_error)?;
        let attributes = reader.take(usize::from(attributes_len)).ok_or_else(list_error)?;
        let announced = reader.rest();

        if withdrawn.is_empty() && attributes.is_empty() && announced.is_empty() {
            let end_of_rib = context.families.ipv4.then_some(Family::Ipv4);
            return Ok(Self { end_of_rib, ..Self::default() });
        }
        let mut update = Self::default();
        decode_ipv4(withdrawn, context, &mut update.unreach)?;
        let mut nlri = Vec::new();
        decode_ipv4(announced, context, &mut nlri)?;
        update.assemble(attribute::parse(attributes, context)?, nlri)?;
        Ok(update)
    }

    fn assemble(&mut self, mut parsed: Parsed, nlri: Vec<Nlri>) -> Result<(), Notification> {
        let mp_reach = parsed.mp_reach.take().filter(|mp| !mp.nlri.is_empty());
        let announces = !nlri.is_empty() || mp_reach.is_some();
        if announces {
            parsed.check_mandatory(!nlri.is_empty());
        }
        if let Some((family, withdrawn)) = parsed.mp_unreach.take() {
            let alone = !parsed.has_more_than_unreach() && self.unreach.is_empty() && nlri.is_empty();
            self.end_of_rib = (alone && withdrawn.is_empty()).then_some(family);
            self.unreach.extend(withdrawn);
        }
        let withdraw = parsed.worst() >= Some(Severity::Withdraw);
        if withdraw && !announces && parsed.may_hide_prefixes() {
            // RFC 7606 §5.2: nothing to withdraw was found, so the mistake may be hiding it.
            return Err(Notification::new(Cause::Update(UpdateError::MalformedAttributeList)));
        }
        if withdraw {
            self.unreach.extend(nlri);
            self.unreach.extend(mp_reach.into_iter().flat_map(|mp| mp.nlri));
        } else {
            if let Some(next_hop) = parsed.next_hop.filter(|_| !nlri.is_empty()) {
                self.reach.push(Reach { family: Family::Ipv4, next_hop, nlri });
            }
            self.reach.extend(mp_reach.map(|mp| Reach {
                family: mp.family,
                next_hop: mp.next_hop,
                nlri: mp.nlri,
            }));
            self.attributes = parsed.attributes;
        }
        self.problems = parsed.problems;
        Ok(())
    }

    /// Prefixes announced, of all families.
    pub fn announced(&self) -> impl Iterator<Item = Prefix> {
        self.reach.iter().flat_map(|reach| reach.nlri.iter().map(|nlri| nlri.prefix))
    }
}

/// Reads a field of IPv4 prefixes; keeps them only if the session carries IPv4.
fn decode_ipv4(bytes: &[u8], context: &DecodeContext, into: &mut Vec<Nlri>) -> Result<(), Notification> {
    nlri::decode_list(bytes, Family::Ipv4, context.add_path.ipv4, into)
        .map_err(|_| Notification::new(Cause::Update(UpdateError::InvalidNetworkField)))?;
    if !context.families.ipv4 {
        into.clear();
    }
    Ok(())
}
