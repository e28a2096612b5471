//! IPv4, IPv6, TCP and UDP headers as the director needs them: parsed once, then rewritten in place.
//!
//! Sources: RFC 791, RFC 8200, RFC 9293 §3.1, RFC 768. IPv6 hop-by-hop and destination options are walked;
//! routing headers and IPsec are not translated (the pseudo-header would need the final address).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    checksum::{self, Change},
    flow::{Flow, Protocol},
    octets::{self, u8_at, u16_at, u32_at},
};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

/// Length of a TCP header without options.
pub(super) const TCP_HEADER: usize = 20;
/// Longest room for TCP options: a data offset of 15 words minus the header.
pub(super) const TCP_OPTION_ROOM: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// More extension headers than this are an attack, not a packet.
const MAX_EXTENSIONS: usize = 6;

/// Why bytes are not a packet that can be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParseError {
    /// Lengths that contradict each other, or too few bytes.
    Malformed,
    /// Well formed as far as looked at, but of a kind that is left out on purpose.
    Unsupported,
}

/// Whether the bytes are a packet of their own or the beginning of one, quoted in an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    Quoted,
}

/// The IP header, and where what it carries begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// Offset of the transport header.
    pub(super) payload: usize,
    /// Bytes of the packet that are present: its length, or less where it is quoted.
    pub(super) length: usize,
    pub(super) fragment: Option<Fragment>,
}

/// A fragment's place in its datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fragment {
    pub(super) first: bool,
    pub(super) identification: u32,
    /// Offset of the identification field: 2 bytes wide in IPv4, 4 in IPv6.
    pub(super) identification_at: usize,
}

impl Ip {
    pub(super) fn parse(packet: &[u8], extent: Extent) -> Result<Self, ParseError> {
        match u8_at(packet, 0).map(|first| first >> 4) {
            Some(4) => Self::parse_v4(packet, extent),
            Some(6) => Self::parse_v6(packet, extent),
            _ => Err(ParseError::Malformed),
        }
    }

    fn parse_v4(packet: &[u8], extent: Extent) -> Result<Self, ParseError> {
        let field = |value: Option<u16>| value.ok_or(ParseError::Malformed);
        let header = usize::from(u8_at(packet, 0).ok_or(ParseError::Malformed)? & 0x0f) * 4;
        let length = usize::from(field(u16_at(packet, 2))?);
        let fragment = field(u16_at(packet, 6))?;
        let identification = u32::from(field(u16_at(packet, 4))?);
        if header < 20 || length < header || header > packet.len() {
            return Err(ParseError::Malformed);
        }
        Ok(Self {
            source: Ipv4Addr::from(octets::get::<4>(packet, 12).ok_or(ParseError::Malformed)?).into(),
            destination: Ipv4Addr::from(octets::get::<4>(packet, 16).ok_or(ParseError::Malformed)?).into(),
            protocol: u8_at(packet, 9).ok_or(ParseError::Malformed)?,
            payload: header,
            length: present(length, packet.len(), extent)?,
            // RFC 791: more fragments, or an offset.
            fragment: (fragment & 0x3fff != 0).then_some(Fragment {
                first: fragment & 0x1fff == 0,
                identification,
                identification_at: 4,
            }),
        })
    }

    fn parse_v6(packet: &[u8], extent: Extent) -> Result<Self, ParseError> {
        let length = 40 + usize::from(u16_at(packet, 4).ok_or(ParseError::Malformed)?);
        let mut ip = Self {
            source: Ipv6Addr::from(octets::get::<16>(packet, 8).ok_or(ParseError::Malformed)?).into(),
            destination: Ipv6Addr::from(octets::get::<16>(packet, 24).ok_or(ParseError::Malformed)?).into(),
            protocol: u8_at(packet, 6).ok_or(ParseError::Malformed)?,
            payload: 40,
            length: present(length, packet.len(), extent)?,
            fragment: None,
        };
        for _ in 0..MAX_EXTENSIONS {
            match ip.protocol {
                HOP_BY_HOP | DESTINATION_OPTIONS => ip.skip_options(packet)?,
                FRAGMENT => ip.enter_fragment(packet)?,
                ROUTING => return Err(ParseError::Unsupported),
                _ => return Ok(ip),
            }
            if ip.payload > ip.length {
                return Err(ParseError::Malformed);
            }
            // Behind the header of a later fragment comes data, whatever its next-header field says.
            if ip.fragment.is_some_and(|fragment| !fragment.first) {
                return Ok(ip);
            }
        }
        Err(ParseError::Unsupported)
    }

    /// RFC 8200 §4.3: next header, then the length in 8-byte units beyond the first.
    fn skip_options(&mut self, packet: &[u8]) -> Result<(), ParseError> {
        let [next, units] = octets::get(packet, self.payload).ok_or(ParseError::Malformed)?;
        self.protocol = next;
        self.payload += 8 * (usize::from(units) + 1);
        Ok(())
    }

    /// RFC 8200 §4.5. An atomic fragment (RFC 6946) is an ordinary packet with a longer header.
    fn enter_fragment(&mut self, packet: &[u8]) -> Result<(), ParseError> {
        let [next, _, high, low] = octets::get(packet, self.payload).ok_or(ParseError::Malformed)?;
        let place = u16::from_be_bytes([high, low]);
        let identification_at = self.payload + 4;
        let identification = u32_at(packet, identification_at).ok_or(ParseError::Malformed)?;
        if place & 0xfff9 != 0 {
            self.fragment = Some(Fragment { first: place & 0xfff8 == 0, identification, identification_at });
        }
        self.protocol = next;
        self.payload += 8;
        Ok(())
    }

    /// The sum of the pseudo-header for `length` bytes of `self.protocol` (RFC 9293 §3.1, RFC 8200 §8.1).
    pub(super) fn pseudo_header(&self, length: usize) -> u64 {
        let addresses = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                checksum::raw_sum(0, &source.octets()) + checksum::raw_sum(0, &destination.octets())
            }
            (source, destination) => v6_sum(source) + v6_sum(destination),
        };
        addresses + u64::from(self.protocol) + u64::try_from(length).unwrap_or(u64::MAX >> 1)
    }

    /// The bytes after the IP headers.
    pub(super) fn body<'a>(&self, packet: &'a [u8]) -> Option<&'a [u8]> {
        packet.get(self.payload..self.length)
    }

    /// The flow that the packet belongs to; only the first 8 bytes of the transport header are needed.
    pub(super) fn flow(&self, packet: &[u8]) -> Result<Flow, ParseError> {
        let protocol = match self.protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            _ => return Err(ParseError::Unsupported),
        };
        // A quoted packet holds at least 8 bytes of its transport header (RFC 792); no port lies beyond.
        if self.length < self.payload + 8 {
            return Err(ParseError::Malformed);
        }
        let port = |at| u16_at(packet, at).ok_or(ParseError::Malformed);
        Ok(Flow {
            protocol,
            source: SocketAddr::new(self.source, port(self.payload)?),
            destination: SocketAddr::new(self.destination, port(self.payload + 2)?),
        })
    }

    /// Gives the packet new addresses, ports and (for fragments) identification, with right checksums.
    ///
    /// The transport checksum changes where it is present: a quoted packet may end before it.
    pub(super) fn readdress(&self, packet: &mut [u8], to: &Flow) -> Option<()> {
        let mut change = self.readdress_header(packet, to.source.ip(), to.destination.ip())?;
        for (offset, port) in [(0, to.source.port()), (2, to.destination.port())] {
            let at = self.payload + offset;
            change.replace(offset, &octets::get::<2>(packet, at)?, &port.to_be_bytes());
            octets::put(packet, at, &port.to_be_bytes())?;
        }
        self.change_transport_checksum(packet, change);
        Some(())
    }

    /// Gives the IP header new addresses and answers what that does to the pseudo-header.
    pub(super) fn readdress_header(
        &self,
        packet: &mut [u8],
        source: IpAddr,
        destination: IpAddr,
    ) -> Option<Change> {
        let mut change = Change::default();
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) if self.source.is_ipv4() => {
                for (at, new) in [(12, source.octets()), (16, destination.octets())] {
                    change.replace(at, &octets::get::<4>(packet, at)?, &new);
                    octets::put(packet, at, &new)?;
                }
                self.change_header_checksum(packet, change)?;
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) if self.source.is_ipv6() => {
                for (at, new) in [(8, source.octets()), (24, destination.octets())] {
                    change.replace(at, &octets::get::<16>(packet, at)?, &new);
                    octets::put(packet, at, &new)?;
                }
            }
            _ => return None,
        }
        Some(change)
    }

    /// Gives a fragment's datagram a new identification.
    pub(super) fn reidentify(&self, packet: &mut [u8], fragment: &Fragment, new: u32) -> Option<()> {
        let new = new.to_be_bytes();
        if self.source.is_ipv6() {
            return octets::put(packet, fragment.identification_at, &new);
        }
        let [_, _, high, low] = new;
        let mut change = Change::default();
        change.replace(4, &octets::get::<2>(packet, fragment.identification_at)?, &[high, low]);
        octets::put(packet, fragment.identification_at, &[high, low])?;
        self.change_header_checksum(packet, change)
    }

    /// Writes a new total length (IPv4) or payload length (IPv6).
    pub(super) fn set_length(&self, packet: &mut [u8], length: usize) -> Option<()> {
        if self.source.is_ipv6() {
            return octets::put(packet, 4, &u16::try_from(length.checked_sub(40)?).ok()?.to_be_bytes());
        }
        let new = u16::try_from(length).ok()?.to_be_bytes();
        let mut change = Change::default();
        change.replace(2, &octets::get::<2>(packet, 2)?, &new);
        octets::put(packet, 2, &new)?;
        self.change_header_checksum(packet, change)
    }

    fn change_header_checksum(&self, packet: &mut [u8], change: Change) -> Option<()> {
        if self.source.is_ipv6() {
            return Some(());
        }
        octets::put(packet, 10, &change.apply(u16_at(packet, 10)?).to_be_bytes())
    }

    /// Applies `change` to the TCP or UDP checksum. A UDP checksum of zero means "none" and stays (RFC 768).
    pub(super) fn change_transport_checksum(&self, packet: &mut [u8], change: Change) {
        let at = self.payload + if self.protocol == UDP { 6 } else { 16 };
        let Some(old) = (at + 2 <= self.length).then(|| u16_at(packet, at)).flatten() else { return };
        if self.protocol == UDP && old == 0 {
            return;
        }
        let new = match change.apply(old) {
            0 if self.protocol == UDP => 0xffff,
            new => new,
        };
        // Cannot miss: the old value was read from the same place.
        let _written = octets::put(packet, at, &new.to_be_bytes());
    }
}

fn v6_sum(address: IpAddr) -> u64 {
    match address {
        IpAddr::V6(address) => checksum::raw_sum(0, &address.octets()),
        IpAddr::V4(address) => checksum::raw_sum(0, &address.octets()),
    }
}

fn present(length: usize, available: usize, extent: Extent) -> Result<usize, ParseError> {
    match extent {
        Extent::Whole if length > available => Err(ParseError::Malformed),
        Extent::Whole | Extent::Quoted => Ok(length.min(available)),
    }
}

/// The TCP header fields that decide about states and options (RFC 9293 §3.1).
#[derive(Debug, Clone, Copy)]
pub(super) struct TcpHeader {
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// Header length with options.
    pub(super) length: usize,
}

impl TcpHeader {
    pub(super) fn parse(packet: &[u8], ip: &Ip) -> Result<Self, ParseError> {
        let body = ip.body(packet).ok_or(ParseError::Malformed)?;
        let [offset, flags] = octets::get(body, 12).ok_or(ParseError::Malformed)?;
        let length = usize::from(offset >> 4) * 4;
        if length < TCP_HEADER || length > body.len() {
            return Err(ParseError::Malformed);
        }
        Ok(Self {
            sequence: u32_at(body, 4).ok_or(ParseError::Malformed)?,
            acknowledgement: u32_at(body, 8).ok_or(ParseError::Malformed)?,
            syn: flags & 0x02 != 0,
            ack: flags & 0x10 != 0,
            fin: flags & 0x01 != 0,
            rst: flags & 0x04 != 0,
            length,
        })
    }

    /// Whether this is a client's first packet.
    pub(super) fn opens(&self) -> bool {
        self.syn && !self.ack && !self.rst && !self.fin
    }
}

/// Checks a UDP header's own length; `fragment` says that the datagram is longer than this packet.
pub(super) fn check_udp(packet: &[u8], ip: &Ip) -> Result<(), ParseError> {
    let body = ip.body(packet).ok_or(ParseError::Malformed)?;
    let length = usize::from(u16_at(body, 4).ok_or(ParseError::Malformed)?);
    let fits = if ip.fragment.is_some() { length >= 8 } else { (8..=body.len()).contains(&length) };
    if fits { Ok(()) } else { Err(ParseError::Malformed) }
}

/// One TCP option: where it begins in the packet, its kind, and its whole length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcpOption {
    pub(super) at: usize,
    pub(super) kind: u8,
    pub(super) length: usize,
}

/// Walks the TCP options between `at` and `end`; stops at the end-of-list option and at nonsense.
pub(super) fn tcp_options(packet: &[u8], at: usize, end: usize) -> impl Iterator<Item = TcpOption> + '_ {
    let mut at = at;
    std::iter::from_fn(move || {
        while at < end {
            let kind = u8_at(packet, at)?;
            match kind {
                0 => return None,
                1 => at += 1,
                _ => {
                    let length = usize::from(u8_at(packet, at + 1)?);
                    if length < 2 || at + length > end {
                        return None;
                    }
                    let option = TcpOption { at, kind, length };
                    at += length;
                    return Some(option);
                }
            }
        }
        None
    })
}
