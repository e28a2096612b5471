//! ROUTE-REFRESH (RFC 2918) with demarcation (RFC 7313).

use crate::AfiSafi;
use crate::message::{Header, MessageType};
use crate::notification::{Cause, Notification, RouteRefreshError};
use crate::reader::Reader;

/// A ROUTE-REFRESH message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteRefresh {
    /// Of which family.
    pub family: AfiSafi,
    /// What it says.
    pub kind: RouteRefreshKind,
}

/// The message subtype, in the octet that RFC 2918 reserved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RouteRefreshKind {
    /// 0: send everything again.
    Request,
    /// 1: everything follows (BoRR).
    Begin,
    /// 2: that was everything (EoRR); what was not repeated is gone.
    End,
    /// Others, to be ignored (RFC 7313 §5).
    Unknown(u8),
}

impl RouteRefresh {
    /// Decodes a message body of at least four octets.
    ///
    /// A longer body is an ORF (RFC 5291), which we never announce: `Ok(None)`. For the subtypes of RFC 7313 it is
    /// an error.
    pub fn decode(body: &[u8]) -> Result<Option<Self>, Notification> {
        let mut reader = Reader::new(body);
        let fields = (|| Some((reader.u16()?, reader.u8()?, reader.u8()?)))();
        let error = || {
            let mut message = Vec::with_capacity(Header::LEN + body.len());
            let at = Header::begin(&mut message, MessageType::RouteRefresh);
            message.extend_from_slice(body);
            Header::end(&mut message, at);
            Notification::with_data(Cause::RouteRefresh(RouteRefreshError::InvalidLength), message)
        };
        let (afi, code, safi) = fields.ok_or_else(error)?;
        let kind = match code {
            0 => RouteRefreshKind::Request,
            1 => RouteRefreshKind::Begin,
            2 => RouteRefreshKind::End,
            other => RouteRefreshKind::Unknown(other),
        };
        match (reader.is_empty(), kind) {
            (true, _) => Ok(Some(Self { family: AfiSafi { afi, safi }, kind })),
            (false, RouteRefreshKind::Begin | RouteRefreshKind::End) => Err(error()),
            (false, _) => Ok(None),
        }
    }

    /// Appends the whole message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = Header::begin(out, MessageType::RouteRefresh);
        let code = match self.kind {
            RouteRefreshKind::Request => 0,
            RouteRefreshKind::Begin => 1,
            RouteRefreshKind::End => 2,
            RouteRefreshKind::Unknown(code) => code,
        };
        out.extend_from_slice(&self.family.afi.to_be_bytes());
        out.extend_from_slice(&[code, self.family.safi]);
        Header::end(out, at);
    }
}
