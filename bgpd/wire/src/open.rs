//! OPEN (RFC 4271 §4.2, with the extended parameter length of RFC 9072).

use bytes::Bytes;

use crate::capability::Capability;
use crate::message::{Header, MessageType};
use crate::notification::{Cause, Notification, OpenError};
use crate::reader::Reader;
use crate::{Asn, RouterId};

const VERSION: u8 = 4;
const PARAMETER_CAPABILITIES: u8 = 2;
const PARAMETER_EXTENDED_LENGTH: u8 = 255;

/// An OPEN message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// The sender's AS: the four-octet one where it announces it.
    pub asn: Asn,
    /// Proposed hold time in seconds; zero, or at least three.
    pub hold_time: u16,
    /// The sender's BGP identifier, not zero.
    pub router_id: RouterId,
    /// Everything announced, in order, repetitions too.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// Decodes a message body, with the checks of RFC 4271 §6.2 that need no configuration.
    pub fn decode(body: &[u8]) -> Result<Self, Notification> {
        let error = |error| Notification::new(Cause::Open(error));
        let malformed = || error(OpenError::Other(0));
        let mut reader = Reader::new(body);
        let version = reader.u8().ok_or_else(malformed)?;
        if version != VERSION {
            let highest = u16::from(VERSION).to_be_bytes().to_vec();
            return Err(Notification::with_data(Cause::Open(OpenError::UnsupportedVersion), highest));
        }
        let two_octet_as = reader.u16().ok_or_else(malformed)?;
        let hold_time = reader.u16().ok_or_else(malformed)?;
        let router_id = RouterId::from_u32(reader.u32().ok_or_else(malformed)?);
        let capabilities = decode_parameters(&mut reader)?;
        if matches!(hold_time, 1 | 2) {
            return Err(error(OpenError::UnacceptableHoldTime));
        }
        if router_id.to_u32() == 0 {
            return Err(error(OpenError::BadIdentifier));
        }
        let four_octet_as = capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        let asn = four_octet_as.unwrap_or(Asn(u32::from(two_octet_as)));
        // RFC 7607 §2.
        if asn.0 == 0 {
            return Err(error(OpenError::BadPeerAs));
        }
        Ok(Self { asn, hold_time, router_id, capabilities })
    }

    /// Appends the whole message. The four-octet AS capability goes out if it is in `capabilities`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = Header::begin(out, MessageType::Open);
        out.push(VERSION);
        out.extend_from_slice(&self.asn.as_u16_or_trans().to_be_bytes());
        out.extend_from_slice(&self.hold_time.to_be_bytes());
        out.extend_from_slice(&self.router_id.0.octets());

        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities);
        }
        match u8::try_from(capabilities.len()) {
            Ok(0) => out.push(0),
            Ok(len @ ..=253) => out.extend_from_slice(&[len + 2, PARAMETER_CAPABILITIES, len]),
            // RFC 9072 §2: 255, 255, then two-octet lengths.
            _ => {
                let len = capabilities.len() as u16;
                out.extend_from_slice(&[255, PARAMETER_EXTENDED_LENGTH]);
                out.extend_from_slice(&(len + 3).to_be_bytes());
                out.push(PARAMETER_CAPABILITIES);
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
        out.extend_from_slice(&capabilities);
        Header::end(out, at);
    }

    /// True if `wanted` holds for one of the capabilities.
    pub fn has(&self, wanted: impl Fn(&Capability) -> bool) -> bool {
        self.capabilities.iter().any(wanted)
    }
}

fn decode_parameters(reader: &mut Reader<'_>) -> Result<Vec<Capability>, Notification> {
    let malformed = || Notification::new(Cause::Open(OpenError::Other(0)));
    let short_len = reader.u8().ok_or_else(malformed)?;
    let extended = short_len != 0 && reader.rest().first() == Some(&PARAMETER_EXTENDED_LENGTH);
    let len = if extended {
        reader.u8().ok_or_else(malformed)?;
        reader.u16().ok_or_else(malformed)?
    } else {
        u16::from(short_len)
    };
    if reader.len() != usize::from(len) {
        return Err(malformed());
    }
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u8().ok_or_else(malformed)?;
        let len = if extended { reader.u16() } else { reader.u8().map(u16::from) }.ok_or_else(malformed)?;
        let value = reader.take(usize::from(len)).ok_or_else(malformed)?;
        if kind != PARAMETER_CAPABILITIES {
            let data = Bytes::copy_from_slice(&[kind]);
            return Err(Notification::with_data(Cause::Open(OpenError::UnsupportedParameter), data));
        }
        let mut values = Reader::new(value);
        while !values.is_empty() {
            let code = values.u8().ok_or_else(malformed)?;
            let len = values.u8().ok_or_else(malformed)?;
            let value = values.take(usize::from(len)).ok_or_else(malformed)?;
            capabilities.push(Capability::decode(code, value));
        }
    }
    Ok(capabilities)
}
