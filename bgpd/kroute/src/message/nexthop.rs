//! Nexthop objects: `struct nhmsg` and the NHA_* attributes of `linux/nexthop.h`.

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, Emitable, Nla, NlasIterator, Parseable};

use super::{AF_INET, AF_INET6, AF_UNSPEC, bytes_at, u32_at};
use crate::target::Gateway;

const HEADER_LEN: usize = 8;
const GROUP_ENTRY_LEN: usize = 8;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

const RTNH_F_ONLINK: u32 = 4;

/// One member of a group: the ID of a single nexthop, chosen with probability weight ÷ sum of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Member {
    pub(crate) id: u32,
    /// 1 to 256; the kernel stores it less one in a byte.
    pub(crate) weight: u16,
}

/// What a nexthop object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NexthopKind {
    /// One neighbour.
    Single(Gateway),
    /// Several objects, one of which a flow's hash picks.
    Group(Vec<Member>),
    /// A link without a neighbour: read, never written.
    Link(u32),
    /// Something else that is read and never written: a blackhole, an encapsulation.
    Other,
}

/// A nexthop object as it stands in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NexthopMessage {
    pub(crate) protocol: u8,
    pub(crate) id: u32,
    pub(crate) kind: NexthopKind,
}

impl NexthopMessage {
    /// A message that names an object only, for requests to delete or show it.
    pub(crate) fn named(id: u32) -> Self {
        Self { protocol: 0, id, kind: NexthopKind::Other }
    }

    fn family(&self) -> u8 {
        match &self.kind {
            NexthopKind::Single(gateway) if gateway.address.is_ipv4() => AF_INET,
            NexthopKind::Single(_) => AF_INET6,
            NexthopKind::Group(_) | NexthopKind::Link(_) | NexthopKind::Other => AF_UNSPEC,
        }
    }

    fn flags(&self) -> u32 {
        match &self.kind {
            NexthopKind::Single(gateway) if gateway.onlink => RTNH_F_ONLINK,
            _ => 0,
        }
    }

    fn attributes(&self) -> Vec<Attribute> {
        let mut list = vec![Attribute::Id(self.id)];
        match &self.kind {
            NexthopKind::Single(gateway) => {
                list.push(Attribute::Oif(gateway.ifindex));
                list.push(Attribute::Gateway(gateway.address));
            }
            NexthopKind::Group(members) => list.push(Attribute::Group(members.clone())),
            NexthopKind::Link(_) | NexthopKind::Other => {}
        }
        list
    }
}

impl Emitable for NexthopMessage {
    fn buffer_len(&self) -> usize {
        HEADER_LEN + self.attributes().as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        let Some((header, rest)) = buffer.split_first_chunk_mut::<HEADER_LEN>() else { return };
        let [f0, f1, f2, f3] = self.flags().to_ne_bytes();
        *header = [self.family(), 0, self.protocol, 0, f0, f1, f2, f3];
        self.attributes().as_slice().emit(rest);
    }
}

impl Parseable<[u8]> for NexthopMessage {
    fn parse(buffer: &[u8]) -> Result<Self, DecodeError> {
        let header: [u8; HEADER_LEN] =
            bytes_at(buffer, 0).ok_or_else(|| DecodeError::buffer_too_small(buffer.len(), HEADER_LEN))?;
        let [_family, _scope, protocol, _, f0, f1, f2, f3] = header;
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);

        let mut found = Found::default();
        for attribute in NlasIterator::new(buffer.get(HEADER_LEN..).unwrap_or_default()) {
            let attribute = attribute?;
            found.take(attribute.kind(), attribute.value());
        }
        let id = found.id.ok_or_else(|| DecodeError::from("nexthop object without NHA_ID"))?;
        Ok(Self { protocol, id, kind: found.kind(flags & RTNH_F_ONLINK != 0) })
    }
}

/// The attributes of one message while it is read.
#[derive(Default)]
struct Found {
    id: Option<u32>,
    group: Option<Vec<Member>>,
    blackhole: bool,
    oif: Option<u32>,
    gateway: Option<IpAddr>,
}

impl Found {
    fn take(&mut self, kind: u16, value: &[u8]) {
        match kind {
            NHA_ID => self.id = u32_at(value, 0),
            NHA_GROUP => self.group = Some(value.chunks_exact(GROUP_ENTRY_LEN).filter_map(member).collect()),
            NHA_BLACKHOLE => self.blackhole = true,
            NHA_OIF => self.oif = u32_at(value, 0),
            NHA_GATEWAY => {
                self.gateway = bytes_at::<4>(value, 0)
                    .filter(|_| value.len() == 4)
                    .map(IpAddr::from)
                    .or_else(|| bytes_at::<16>(value, 0).map(IpAddr::from));
            }
            _ => {}
        }
    }

    fn kind(self, onlink: bool) -> NexthopKind {
        match (self.group, self.blackhole, self.oif, self.gateway) {
            (Some(members), ..) => NexthopKind::Group(members),
            (None, false, Some(ifindex), Some(address)) => {
                NexthopKind::Single(Gateway { address, ifindex, onlink })
            }
            (None, false, Some(ifindex), None) => NexthopKind::Link(ifindex),
            _ => NexthopKind::Other,
        }
    }
}

fn member(entry: &[u8]) -> Option<Member> {
    Some(Member { id: u32_at(entry, 0)?, weight: u16::from(*entry.get(4)?) + 1 })
}

/// Attributes as they are written.
#[derive(Debug)]
enum Attribute {
    Id(u32),
    Oif(u32),
    Gateway(IpAddr),
    Group(Vec<Member>),
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Id(_) | Self::Oif(_) | Self::Gateway(IpAddr::V4(_)) => 4,
            Self::Gateway(IpAddr::V6(_)) => 16,
            Self::Group(members) => members.len() * GROUP_ENTRY_LEN,
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Id(_) => NHA_ID,
            Self::Oif(_) => NHA_OIF,
            Self::Gateway(_) => NHA_GATEWAY,
            Self::Group(_) => NHA_GROUP,
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Id(value) | Self::Oif(value) => buffer.copy_from_slice(&value.to_ne_bytes()),
            Self::Gateway(IpAddr::V4(address)) => buffer.copy_from_slice(&address.octets()),
            Self::Gateway(IpAddr::V6(address)) => buffer.copy_from_slice(&address.octets()),
            Self::Group(members) => {
                for (entry, member) in buffer.chunks_exact_mut(GROUP_ENTRY_LEN).zip(members) {
                    let [i0, i1, i2, i3] = member.id.to_ne_bytes();
                    let weight = u8::try_from(member.weight.saturating_sub(1)).unwrap_or(u8::MAX);
                    entry.copy_from_slice(&[i0, i1, i2, i3, weight, 0, 0, 0]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emit(message: &NexthopMessage) -> Vec<u8> {
        let mut buffer = vec![0xff; message.buffer_len()];
        message.emit(&mut buffer);
        buffer
    }

    fn single(address: &str, onlink: bool) -> NexthopMessage {
        let gateway = Gateway { address: address.parse().unwrap(), ifindex: 3, onlink };
        NexthopMessage { protocol: 202, id: 0x7471_0001, kind: NexthopKind::Single(gateway) }
    }

    #[test]
    fn a_gateway_is_written_as_the_kernel_reads_it() {
        // struct nhmsg { AF_INET, 0, 202, 0, flags = 0 }, NHA_ID, NHA_OIF, NHA_GATEWAY
        let expected = [
            &[2, 0, 202, 0, 0, 0, 0, 0][..],
            &[8, 0, 1, 0, 0x01, 0x00, 0x71, 0x74],
            &[8, 0, 5, 0, 3, 0, 0, 0],
            &[8, 0, 6, 0, 10, 1, 1, 1],
        ]
        .concat();
        assert_eq!(emit(&single("10.1.1.1", false)), expected);
    }

    #[test]
    fn objects_survive_a_round_trip() {
        let group = NexthopKind::Group(vec![Member { id: 1, weight: 1 }, Member { id: 2, weight: 256 }]);
        for message in [
            single("10.1.1.1", true),
            single("fd00::1", false),
            NexthopMessage { protocol: 202, id: 9, kind: group },
        ] {
            assert_eq!(NexthopMessage::parse(&emit(&message)[..]).unwrap(), message);
        }
    }

    #[test]
    fn truncated_messages_are_errors_and_not_panics() {
        let whole = emit(&single("fd00::1", true));
        for length in 0..whole.len() {
            let _ = NexthopMessage::parse(&whole[..length]);
        }
        assert!(NexthopMessage::parse(&whole[..7]).is_err());
        assert!(NexthopMessage::parse(&whole[..8]).is_err(), "an object without an ID");
    }
}
