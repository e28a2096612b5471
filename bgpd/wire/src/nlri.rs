//! NLRI: prefixes as UPDATEs carry them (RFC 4271 §4.3, RFC 7911 §3).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::reader::Reader;
use crate::{Family, Prefix};

/// A prefix, and which of the sender's paths to it is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nlri {
    /// The prefix.
    pub prefix: Prefix,
    /// Path identifier; zero where the session has none.
    pub path_id: u32,
}

impl Nlri {
    /// Without a path identifier.
    pub fn new(prefix: impl Into<Prefix>) -> Self {
        Self { prefix: prefix.into(), path_id: 0 }
    }

    /// Octets on the wire.
    pub(crate) fn encoded_len(&self, add_path: bool) -> usize {
        1 + usize::from(self.prefix.prefix_len().div_ceil(8)) + if add_path { 4 } else { 0 }
    }

    pub(crate) fn encode(&self, add_path: bool, out: &mut Vec<u8>) {
        if add_path {
            out.extend_from_slice(&self.path_id.to_be_bytes());
        }
        let len = self.prefix.prefix_len();
        out.push(len);
        let octets = usize::from(len.div_ceil(8));
        match self.prefix {
            Prefix::V4(prefix) => {
                out.extend_from_slice(prefix.bits().to_be_bytes().get(..octets).unwrap_or_default());
            }
            Prefix::V6(prefix) => {
                out.extend_from_slice(prefix.bits().to_be_bytes().get(..octets).unwrap_or_default());
            }
        }
    }
}

impl<P: Into<Prefix>> From<P> for Nlri {
    fn from(prefix: P) -> Self {
        Nlri::new(prefix)
    }
}

/// A prefix that is too long for its family, or cut off: RFC 7606 §5.3 calls for a session reset, because what
/// follows cannot be located.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BrokenNlri;

/// Reads a whole field of NLRI. Host bits are ignored (RFC 4271 §4.3).
pub(crate) fn decode_list(
    bytes: &[u8],
    family: Family,
    add_path: bool,
    into: &mut Vec<Nlri>,
) -> Result<(), BrokenNlri> {
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        into.push(decode_one(&mut reader, family, add_path).ok_or(BrokenNlri)?);
    }
    Ok(())
}

fn decode_one(reader: &mut Reader<'_>, family: Family, add_path: bool) -> Option<Nlri> {
    let path_id = if add_path { reader.u32()? } else { 0 };
    let len = reader.u8()?;
    if len > family.max_len() {
        return None;
    }
    let octets = reader.take(usize::from(len.div_ceil(8)))?;
    let addr = match family {
        Family::Ipv4 => Ipv4Addr::from(padded::<4>(octets)).into(),
        Family::Ipv6 => Ipv6Addr::from(padded::<16>(octets)).into(),
    };
    Some(Nlri { prefix: Prefix::new(addr, len)?, path_id })
}

fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    for (to, from) in array.iter_mut().zip(octets) {
        *to = *from;
    }
    array
}
