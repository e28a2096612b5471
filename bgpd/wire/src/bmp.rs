//! The BGP Monitoring Protocol, version 3 (RFC 7854), from the router's side: encoding only.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::{Asn, RouterId};

const VERSION: u8 = 3;
const ROUTE_MONITORING: u8 = 0;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// V of RFC 7854 §4.2: the peer's address is IPv6.
const FLAG_IPV6: u8 = 0x80;
/// A: AS_PATH of the message has two-octet AS numbers.
const FLAG_TWO_OCTET_AS: u8 = 0x20;

const SYS_DESCR: u16 = 1;
const SYS_NAME: u16 = 2;
const TERMINATION_REASON: u16 = 1;
const ADMINISTRATIVELY_CLOSED: u16 = 0;

/// Whom a message is about (§4.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MonitoredPeer {
    /// The peer's address.
    pub address: IpAddr,
    /// Its autonomous system.
    pub asn: Asn,
    /// Its BGP identifier.
    pub router_id: RouterId,
    /// The session's AS numbers have four octets.
    pub four_octet_as: bool,
}

/// Why a session ended (§4.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerDown<'a> {
    /// We sent this NOTIFICATION, header included.
    Sent(&'a [u8]),
    /// We closed it without one, for the event of this number in RFC 4271 §8.1 (0: none of them).
    Local(u16),
    /// The peer sent this NOTIFICATION, header included.
    Received(&'a [u8]),
    /// The connection ended without one.
    Remote,
}

/// Appends the first message of a stream: who speaks.
pub fn encode_initiation(description: &str, name: &str, out: &mut Vec<u8>) {
    message(INITIATION, out, |out| {
        tlv(SYS_DESCR, description.as_bytes(), out);
        tlv(SYS_NAME, name.as_bytes(), out);
    });
}

/// Appends the last message of a stream that is closed on purpose.
pub fn encode_termination(out: &mut Vec<u8>) {
    message(TERMINATION, out, |out| {
        tlv(TERMINATION_REASON, &ADMINISTRATIVELY_CLOSED.to_be_bytes(), out);
    });
}

/// Appends that a session is up (§4.10), with both OPEN messages, headers included. `at` is since the Unix epoch.
pub fn encode_peer_up(
    peer: &MonitoredPeer,
    at: Duration,
    (local, remote): (SocketAddr, SocketAddr),
    (sent, received): (&[u8], &[u8]),
    out: &mut Vec<u8>,
) {
    message(PEER_UP, out, |out| {
        per_peer(peer, at, false, out);
        address(local.ip().to_canonical(), out);
        out.extend_from_slice(&local.port().to_be_bytes());
        out.extend_from_slice(&remote.port().to_be_bytes());
        out.extend_from_slice(sent);
        out.extend_from_slice(received);
    });
}

/// Appends that a session has ended (§4.9).
pub fn encode_peer_down(peer: &MonitoredPeer, at: Duration, reason: PeerDown<'_>, out: &mut Vec<u8>) {
    message(PEER_DOWN, out, |out| {
        per_peer(peer, at, false, out);
        match reason {
            PeerDown::Sent(notification) => {
                out.push(1);
                out.extend_from_slice(notification);
            }
            PeerDown::Local(event) => {
                out.push(2);
                out.extend_from_slice(&event.to_be_bytes());
            }
            PeerDown::Received(notification) => {
                out.push(3);
                out.extend_from_slice(notification);
            }
            PeerDown::Remote => out.push(4),
        }
    });
}

/// Appends an UPDATE as it was received, before policy (§4.6), header included. `four_octet_as` is the form of its
/// AS_PATH, which for a message of ours may differ from the session's.
pub fn encode_route_monitoring(
    peer: &MonitoredPeer,
    at: Duration,
    four_octet_as: bool,
    update: &[u8],
    out: &mut Vec<u8>,
) {
    message(ROUTE_MONITORING, out, |out| {
        per_peer(peer, at, !four_octet_as, out);
        out.extend_from_slice(update);
    });
}

fn message(kind: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(VERSION);
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    body(out);
    let len = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(at + 1..at + 5) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

fn per_peer(peer: &MonitoredPeer, at: Duration, two_octet_as: bool, out: &mut Vec<u8>) {
    let family = if peer.address.is_ipv6() { FLAG_IPV6 } else { 0 };
    let form = if two_octet_as { FLAG_TWO_OCTET_AS } else { 0 };
    // Type 0, a peer of the global instance, whose distinguisher is zero.
    out.extend_from_slice(&[0, family | form]);
    out.extend_from_slice(&[0; 8]);
    address(peer.address, out);
    out.extend_from_slice(&peer.asn.0.to_be_bytes());
    out.extend_from_slice(&peer.router_id.0.octets());
    // Seconds in four octets, as the protocol has it: until 2106.
    out.extend_from_slice(&(at.as_secs() as u32).to_be_bytes());
    out.extend_from_slice(&at.subsec_micros().to_be_bytes());
}

/// Sixteen octets; an IPv4 address at their end.
fn address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            out.extend_from_slice(&[0; 12]);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
}

fn tlv(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}
