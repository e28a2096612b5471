//! ICMP for translated sessions: errors go through with the packet that they quote, echo requests to VIPs and
//! local addresses are answered (RFC 792, RFC 4443, RFC 5508 §4 for what a translator does).
//!
//! An error's outer source becomes the VIP or the local address: the router that sent it is inside, and its
//! address means nothing on the other side. Its quote is the packet as its sender sent it, except that a TOA
//! option stays in (no stack looks there).

use super::{
    checksum::{self, Change},
    flow::{Flow, Side},
    octets::{self, u8_at, u16_at, u32_at},
    packet::{Extent, ICMP, ICMPV6, Ip, ParseError, TCP_HEADER},
    session::Session,
};

/// Length of the ICMP header before the quoted packet.
const HEADER: usize = 8;

/// What an ICMP message is to a translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    EchoRequest,
    Error {
        /// Says the largest packet that fits ("fragmentation needed", "packet too big").
        names_mtu: bool,
    },
}

/// Reads an ICMP message whose checksum is right.
pub(super) fn parse(packet: &[u8], ip: &Ip) -> Result<Message, ParseError> {
    let body = ip.body(packet).ok_or(ParseError::Malformed)?;
    let [kind, code] = octets::get(body, 0).ok_or(ParseError::Malformed)?;
    let message = match (ip.protocol, ip.source.is_ipv4(), kind, code) {
        (ICMP, true, 8, 0) | (ICMPV6, false, 128, 0) => Message::EchoRequest,
        (ICMP, true, 3, 4) | (ICMPV6, false, 2, _) => Message::Error { names_mtu: true },
        (ICMP, true, 3 | 11 | 12, _) | (ICMPV6, false, 1 | 3 | 4, _) => Message::Error { names_mtu: false },
        _ => return Err(ParseError::Unsupported),
    };
    if checksum::is_valid(pseudo_sum(ip, body.len()), body) {
        Ok(message)
    } else {
        Err(ParseError::Malformed)
    }
}

/// The IP header that an error quotes, and the flow of the packet that it was about, reversed: the flow of an
/// answer to it, which is how the side that the error comes from would be found.
pub(super) fn quoted(packet: &[u8], ip: &Ip) -> Result<(Ip, Flow), ParseError> {
    let quote = packet.get(ip.payload + HEADER..ip.length).ok_or(ParseError::Malformed)?;
    let inner = Ip::parse(quote, Extent::Quoted)?;
    if inner.fragment.is_some_and(|fragment| !fragment.first) {
        return Err(ParseError::Unsupported);
    }
    // An error goes to the sender of the packet that it is about.
    if inner.source != ip.destination {
        return Err(ParseError::Malformed);
    }
    let Flow { protocol, source, destination } = inner.flow(quote)?;
    Ok((inner, Flow { protocol, source: destination, destination: source }))
}

/// Turns an error that came from `sender`'s side of `session` into one for the other side.
pub(super) fn translate(
    packet: &mut [u8],
    ip: &Ip,
    inner: &Ip,
    session: &Session,
    sender: Side,
) -> Option<()> {
    let outer = session.leaving(sender);
    let about = session.arriving(match sender {
        Side::Client => Side::Server,
        Side::Server => Side::Client,
    });
    inner.readdress(packet.get_mut(ip.payload + HEADER..ip.length)?, &about)?;
    ip.readdress_header(packet, outer.source.ip(), outer.destination.ip())?;
    let new = Ip { source: outer.source.ip(), destination: outer.destination.ip(), ..*ip };
    refresh_checksum(packet, &new)
}

/// The MTU that an error names.
pub(super) fn mtu(packet: &[u8], ip: &Ip) -> Option<u16> {
    if ip.source.is_ipv4() {
        return u16_at(packet, ip.payload + 6);
    }
    Some(u16::try_from(u32_at(packet, ip.payload + 4)?).unwrap_or(u16::MAX))
}

/// Writes another MTU into an error; [`translate`] makes the checksum right.
pub(super) fn set_mtu(packet: &mut [u8], ip: &Ip, mtu: u16) -> Option<()> {
    if ip.source.is_ipv4() {
        return octets::put(packet, ip.payload + 6, &mtu.to_be_bytes());
    }
    octets::put(packet, ip.payload + 4, &u32::from(mtu).to_be_bytes())
}

/// Whether the quoted packet carries exactly this TCP option in front, that is, was made longer here.
pub(super) fn quotes_option(packet: &[u8], ip: &Ip, inner: &Ip, option: &[u8]) -> bool {
    let at = ip.payload + HEADER + inner.payload + TCP_HEADER;
    packet.get(at..at + option.len()) == Some(option)
}

/// Turns an echo request into its reply.
pub(super) fn reply_to_echo(packet: &mut [u8], ip: &Ip) -> Option<()> {
    const HOPS: u8 = 64;
    ip.readdress_header(packet, ip.destination, ip.source)?;
    let reply = if ip.source.is_ipv4() {
        let mut change = Change::default();
        let old = u8_at(packet, 8)?;
        change.replace(8, &[old], &[HOPS]);
        octets::put(packet, 8, &[HOPS])?;
        octets::put(packet, 10, &change.apply(u16_at(packet, 10)?).to_be_bytes())?;
        0
    } else {
        octets::put(packet, 7, &[HOPS])?;
        129
    };
    octets::put(packet, ip.payload, &[reply])?;
    refresh_checksum(packet, &Ip { source: ip.destination, destination: ip.source, ..*ip })
}

fn refresh_checksum(packet: &mut [u8], ip: &Ip) -> Option<()> {
    octets::put(packet, ip.payload + 2, &[0, 0])?;
    let body = ip.body(packet)?;
    let checksum = checksum::of(pseudo_sum(ip, body.len()), body);
    octets::put(packet, ip.payload + 2, &checksum.to_be_bytes())
}

/// Only ICMPv6 has a pseudo-header (RFC 4443 §2.3).
fn pseudo_sum(ip: &Ip, length: usize) -> u64 {
    if ip.source.is_ipv4() { 0 } else { ip.pseudo_header(length) }
}
