//! TCP options that the director adds, lowers or blanks, each with the checksum updated by difference.

use super::{
    checksum::Change,
    octets::{self, u16_at},
    packet::{Ip, TCP_HEADER, TCP_OPTION_ROOM, TcpHeader, tcp_options},
    toa::ToaOption,
};

const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const EXPERIMENT: u8 = 254;
/// RFC 7413's experimental form of TCP Fast Open: kind 254 with this identifier, on SYNs only.
const FAST_OPEN_IDENTIFIER: u16 = 0xf989;

/// What became of an option that should be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Insertion {
    Done,
    /// Fewer option bytes are free than needed.
    NoRoom,
    /// The packet would be longer than allowed.
    TooLong,
}

/// Puts `option` right after the 20-byte header, unless the room for options or `mtu` forbids it.
///
/// `None` only for a packet that `ip` and `tcp` were not parsed from.
pub(super) fn insert(
    packet: &mut Vec<u8>,
    ip: &Ip,
    tcp: &TcpHeader,
    option: &ToaOption,
    mtu: usize,
) -> Option<Insertion> {
    let bytes = option.as_slice();
    let header = tcp.length + bytes.len();
    if header > TCP_HEADER + TCP_OPTION_ROOM {
        return Some(Insertion::NoRoom);
    }
    let length = packet.len() + bytes.len();
    if length > mtu {
        return Some(Insertion::TooLong);
    }
    let segment = packet.len().checked_sub(ip.payload)?;
    let at = ip.payload + TCP_HEADER;
    if at > packet.len() {
        return None;
    }
    let offset_and_flags = octets::get::<2>(packet, ip.payload + 12)?;
    let [offset, flags] = offset_and_flags;
    let new_offset = u8::try_from(header / 4).ok()? << 4 | offset & 0x0f;

    let mut change = Change::default();
    change.replace(12, &offset_and_flags, &[new_offset, flags]);
    // The pseudo-header holds the segment's length.
    change.replace(0, &length_word(segment), &length_word(segment + bytes.len()));
    change.insert(TCP_HEADER, bytes);
    octets::put(packet, ip.payload + 12, &[new_offset])?;
    ip.change_transport_checksum(packet, change);
    packet.splice(at..at, bytes.iter().copied());
    ip.set_length(packet, length)?;
    Some(Insertion::Done)
}

fn length_word(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// Lowers the MSS option to `limit`; whether there was one above it.
pub(super) fn clamp_mss(packet: &mut [u8], ip: &Ip, tcp: &TcpHeader, limit: u16) -> bool {
    let (start, end) = option_space(ip, tcp);
    let found = tcp_options(packet, start, end)
        .find(|option| option.kind == MAXIMUM_SEGMENT_SIZE && option.length == 4)
        .and_then(|option| Some((option.at + 2, u16_at(packet, option.at + 2)?)));
    let Some((at, announced)) = found else { return false };
    if announced <= limit || octets::put(packet, at, &limit.to_be_bytes()).is_none() {
        return false;
    }
    let mut change = Change::default();
    change.replace(at - ip.payload, &announced.to_be_bytes(), &limit.to_be_bytes());
    ip.change_transport_checksum(packet, change);
    true
}

/// Overwrites the client's own options of `kind` with no-ops; how many there were.
///
/// A client that fills the option room keeps the director's option out, and its own would then be believed.
pub(super) fn blank(packet: &mut [u8], ip: &Ip, tcp: &TcpHeader, kind: u8) -> u64 {
    let (start, end) = option_space(ip, tcp);
    let mut blanked = 0;
    loop {
        let found = tcp_options(packet, start, end)
            .find(|option| option.kind == kind && !(tcp.syn && is_fast_open(packet, option.at, kind)));
        let Some(option) = found else { return blanked };
        let Some(old) = packet.get_mut(option.at..option.at + option.length) else { return blanked };
        let no_operations = [NO_OPERATION; TCP_OPTION_ROOM];
        let Some(new) = no_operations.get(..option.length) else { return blanked };
        let mut change = Change::default();
        change.replace(option.at - ip.payload, old, new);
        old.copy_from_slice(new);
        ip.change_transport_checksum(packet, change);
        blanked += 1;
    }
}

fn is_fast_open(packet: &[u8], at: usize, kind: u8) -> bool {
    kind == EXPERIMENT && u16_at(packet, at + 2) == Some(FAST_OPEN_IDENTIFIER)
}

fn option_space(ip: &Ip, tcp: &TcpHeader) -> (usize, usize) {
    (ip.payload + TCP_HEADER, ip.payload + tcp.length)
}
