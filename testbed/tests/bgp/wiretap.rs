//! BGP messages out of a packet capture, read by a few lines of their own: the codec under test has no part in it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use turnpike_testbed::capture::Frame;

const MARKER: [u8; 16] = [0xff; 16];
const HEADER_LEN: usize = 19;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const CEASE: u8 = 6;
const CONNECTION_COLLISION: u8 = 7;
const MP_UNREACH_NLRI: u8 = 15;

/// One BGP message on the wire.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) kind: u8,
    body: Vec<u8>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {} type {} {:02x?}", self.from, self.to, self.kind, self.body)
    }
}

impl Message {
    /// A NOTIFICATION that ends a session. The loser of a collision (RFC 4271 §6.8, RFC 4486) was none yet: two that
    /// connect to each other at once after a restart need one of the two connections.
    pub(crate) fn is_notification(&self) -> bool {
        self.kind == NOTIFICATION && !self.body.starts_with(&[CEASE, CONNECTION_COLLISION])
    }

    /// An UPDATE that takes at least one prefix back (RFC 4271 §4.3, RFC 4760 §4). End-of-RIB takes back nothing.
    pub(crate) fn withdraws(&self) -> bool {
        if self.kind != UPDATE {
            return false;
        }
        let Some((&length, rest)) = self.body.split_first_chunk::<2>() else { return false };
        let length = usize::from(u16::from_be_bytes(length));
        if length > 0 {
            return true;
        }
        let Some((&length, rest)) = rest.split_first_chunk::<2>() else { return false };
        let mut attributes = rest.get(..usize::from(u16::from_be_bytes(length))).unwrap_or_default();
        while let [flags, kind, rest @ ..] = attributes {
            let extended = flags & 0x10 != 0;
            let (length, rest) = match rest {
                [high, low, rest @ ..] if extended => (usize::from(u16::from_be_bytes([*high, *low])), rest),
                [length, rest @ ..] if !extended => (usize::from(*length), rest),
                _ => return false,
            };
            // AFI and SAFI are three octets; what follows are prefixes.
            if *kind == MP_UNREACH_NLRI && length > 3 {
                return true;
            }
            attributes = rest.get(length..).unwrap_or_default();
        }
        false
    }
}

#[derive(Default)]
struct Stream {
    started: bool,
    first: u32,
    /// Payload by its distance from the first octet.
    segments: BTreeMap<u32, Vec<u8>>,
}

/// All complete messages of a capture, connection by connection.
pub(crate) fn messages(frames: &[Frame]) -> Result<Vec<Message>> {
    let mut streams: BTreeMap<(IpAddr, u16, IpAddr, u16, u32), Stream> = BTreeMap::new();
    let mut generations: BTreeMap<(IpAddr, u16, IpAddr, u16), u32> = BTreeMap::new();
    for frame in frames {
        let Ok(packet) = SlicedPacket::from_ethernet(&frame.bytes) else { continue };
        let (from, to) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                (IpAddr::V4(ip.header().source_addr()), ip.header().destination_addr().into())
            }
            Some(NetSlice::Ipv6(ip)) => {
                (IpAddr::V6(ip.header().source_addr()), ip.header().destination_addr().into())
            }
            _ => continue,
        };
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { continue };
        let ends = (from, tcp.source_port(), to, tcp.destination_port());
        let generation = generations.entry(ends).or_default();
        // The same ports again are another connection.
        *generation += u32::from(tcp.syn());
        let stream = streams.entry((ends.0, ends.1, ends.2, ends.3, *generation)).or_default();
        if tcp.syn() {
            stream.started = true;
            stream.first = tcp.sequence_number().wrapping_add(1);
        } else if !stream.started && stream.segments.is_empty() {
            stream.first = tcp.sequence_number();
        }
        if !tcp.payload().is_empty() {
            let distance = tcp.sequence_number().wrapping_sub(stream.first);
            // Before the first octet seen: a retransmission from before the capture.
            if distance < u32::MAX / 2 {
                let segment = stream.segments.entry(distance).or_default();
                if tcp.payload().len() > segment.len() {
                    *segment = tcp.payload().to_vec();
                }
            }
        }
    }
    let mut found = Vec::new();
    for ((from, _, to, _, _), stream) in streams {
        split(from, to, &stream, &mut found)?;
    }
    Ok(found)
}

fn split(from: IpAddr, to: IpAddr, stream: &Stream, found: &mut Vec<Message>) -> Result<()> {
    let mut bytes: Vec<u8> = Vec::new();
    for (distance, segment) in &stream.segments {
        let distance = usize::try_from(*distance)?;
        ensure!(distance <= bytes.len(), "{from} → {to}: the capture has a hole at octet {}", bytes.len());
        let fresh = segment.get(bytes.len() - distance..).unwrap_or_default();
        bytes.extend_from_slice(fresh);
    }
    // A capture that begins within a connection may begin within a message.
    let start = bytes.windows(MARKER.len()).position(|window| window == MARKER).unwrap_or(bytes.len());
    ensure!(start == 0 || !stream.started, "{from} → {to}: no marker at the start");
    let mut rest = bytes.get(start..).unwrap_or_default();
    while rest.len() >= HEADER_LEN {
        ensure!(rest.starts_with(&MARKER), "{from} → {to}: lost the thread");
        let (length, kind) = (u16::from_be_bytes([rest[16], rest[17]]), rest[18]);
        let Some((message, after)) = rest.split_at_checked(usize::from(length)) else { break };
        let body = message.get(HEADER_LEN..).context("a message shorter than its header")?.to_vec();
        found.push(Message { from, to, kind, body });
        rest = after;
    }
    Ok(())
}

/// Fails if anybody took a prefix back or sent a NOTIFICATION; how many UPDATEs there were.
pub(crate) fn check_calm(place: &str, frames: &[Frame]) -> Result<usize> {
    let messages = messages(frames)?;
    let bad: Vec<_> =
        messages.iter().filter(|message| message.withdraws() || message.is_notification()).collect();
    ensure!(bad.is_empty(), "seen by {place}: {bad:#?}");
    Ok(messages.iter().filter(|message| message.kind == UPDATE).count())
}

#[test]
fn withdraws_are_told_from_end_of_rib() {
    let update = |body: &[u8]| Message {
        from: [10, 0, 0, 1].into(),
        to: [10, 0, 0, 2].into(),
        kind: UPDATE,
        body: body.to_vec(),
    };
    assert!(!update(&[0, 0, 0, 0]).withdraws(), "End-of-RIB for IPv4");
    assert!(!update(&[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]).withdraws(), "End-of-RIB for IPv6");
    assert!(update(&[0, 2, 8, 10, 0, 0]).withdraws());
    assert!(update(&[0, 0, 0, 7, 0x80, 15, 4, 0, 2, 1, 0]).withdraws());
    assert!(update(&[0, 0, 0, 8, 0x90, 15, 0, 4, 0, 2, 1, 0]).withdraws());
}
