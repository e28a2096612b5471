//! What the programs should say of a frame, written anew from the design (datapath promises 1 to 3 of `ebpf/DESIGN.md`)
//! on slices of bytes; nothing is shared with the programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frames::ip;
use crate::mutation::{LINK_LOCAL, POD, POD_MAC, POD6};

/// tc's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Drop,
    Redirect,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

/// A director as the maps have it.
struct Source {
    any_tcp_port: bool,
    named_uplink: bool,
}

fn source(address: IpAddr) -> Option<Source> {
    let plain = Source { any_tcp_port: false, named_uplink: false };
    match address {
        IpAddr::V4(ip) => match ip.octets() {
            [10, 1, 3, _] => Some(plain),
            [10, 1, 4, 30] => Some(Source { any_tcp_port: true, ..plain }),
            [10, 1, 5, 30] => Some(Source { named_uplink: true, ..plain }),
            _ => None,
        },
        IpAddr::V6(ip) => (ip.segments()[..4] == [0xfd00, 1, 3, 0]).then_some(plain),
    }
}

fn ethertype(frame: &[u8]) -> u16 {
    word(frame, 12).unwrap_or(0)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Source and destination of an IP packet whose base header is whole; a mapped address on the wire is nobody's.
fn ends(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let packet = frame.get(14..)?;
    match ethertype(frame) {
        IPV4 => {
            let part = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            Some((part(12)?.into(), part(16)?.into()))
        }
        IPV6 => {
            let part = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            let (source, destination) = (part(8)?, part(24)?);
            if source.to_ipv4_mapped().is_some() || destination.to_ipv4_mapped().is_some() {
                return None;
            }
            Some((source.into(), destination.into()))
        }
        _ => None,
    }
}

/// Protocol, ports and TCP flags of a packet that can be forwarded past the stack.
fn transport(frame: &[u8]) -> Option<(u8, u16, u16, u8)> {
    let packet = &frame[14..];
    let (protocol, start) = if ethertype(frame) == IPV4 {
        let fragmented = word(packet, 6)? & 0x3fff != 0;
        if packet[0] != 0x45 || fragmented || packet[8] <= 1 {
            return None;
        }
        (packet[9], 20)
    } else {
        if packet[0] >> 4 != 6 || packet[7] <= 1 {
            return None;
        }
        (packet[6], 40)
    };
    let ports = (word(packet, start)?, word(packet, start + 2)?);
    match protocol {
        6 => Some((6, ports.0, ports.1, *packet.get(start + 13)?)),
        17 => Some((17, ports.0, ports.1, 0)),
        _ => None,
    }
}

fn allowed(source: &Source, protocol: u8, pod_port: u16) -> bool {
    match (source.any_tcp_port, protocol) {
        (true, 6) => true,
        (true, _) => false,
        (false, _) => matches!((protocol, pod_port), (6, 80) | (17, 53)),
    }
}

/// tc ingress on the uplink.
pub(crate) fn uplink(frame: &[u8]) -> Verdict {
    let qualifies = || -> Option<bool> {
        let (from, to) = ends(frame)?;
        let pod = [POD, POD6, "10.244.1.6"].iter().any(|text| ip(text) == to);
        let source = source(from)?;
        let (protocol, _, pod_port, _) = transport(frame)?;
        let fits = frame.len() - 14 <= 1500;
        Some(pod && !source.named_uplink && allowed(&source, protocol, pod_port) && fits)
    };
    if qualifies() == Some(true) { Verdict::Redirect } else { Verdict::Pass }
}

/// tc ingress on the pod's veth.
pub(crate) fn from_pod(frame: &[u8]) -> Verdict {
    match own(frame) {
        None => Verdict::Drop,
        Some(false) => Verdict::Pass,
        Some(true) => {
            if reply(frame) == Some(true) {
                Verdict::Redirect
            } else {
                Verdict::Pass
            }
        }
    }
}

fn reply(frame: &[u8]) -> Option<bool> {
    let (_, to) = ends(frame)?;
    let source = source(to)?;
    let (protocol, pod_port, _, flags) = transport(frame)?;
    let opens = protocol == 6 && flags & 0x12 == 0x02;
    let fits = frame.len() - 14 <= 1400;
    Some(!opens && !source.named_uplink && allowed(&source, protocol, pod_port) && fits)
}

/// The connection that the pod opens with this frame to a director with any port: pod, peer and their ports.
pub(crate) fn opens(frame: &[u8]) -> Option<(IpAddr, IpAddr, u16, u16)> {
    if own(frame) != Some(true) {
        return None;
    }
    let (pod, peer) = ends(frame)?;
    let any = source(peer)?.any_tcp_port;
    let (protocol, pod_port, peer_port, flags) = transport(frame)?;
    (any && protocol == 6 && flags & 0x12 == 0x02).then_some((pod, peer, pod_port, peer_port))
}

/// Whether the pod may send it: `None` no, `Some(false)` yes and it stays on the link, `Some(true)` yes, as IP.
fn own(frame: &[u8]) -> Option<bool> {
    let packet = &frame[14..];
    match ethertype(frame) {
        IPV4 => (packet.len() >= 20 && packet[0] >> 4 == 4 && ip(POD) == v4(&packet[12..16])).then_some(true),
        IPV6 => own6(packet),
        ARP => {
            let whole = packet.get(..28)?;
            let sender = v4(&whole[14..18]);
            let honest = whole[..6] == [0, 1, 8, 0, 6, 4]
                && whole[8..14] == POD_MAC
                && (sender == ip("0.0.0.0") || sender == ip(POD));
            honest.then_some(false)
        }
        _ => None,
    }
}

fn own6(packet: &[u8]) -> Option<bool> {
    let (source, destination) = (v6(packet.get(8..24)?), v6(packet.get(24..40)?));
    let IpAddr::V6(to) = destination else { return None };
    let on_link = to.is_multicast() || to.is_unicast_link_local();
    let pods_own = source == ip(POD6);
    let link_local = on_link && source == ip(LINK_LOCAL);
    let unspecified = source == ip("::");
    if !pods_own && !link_local && !unspecified {
        return None;
    }
    if packet[6] == 58 {
        let kind = *packet.get(40)?;
        packet.get(41)?;
        let about_itself =
            packet.get(48..64).is_some_and(|target| v6(target) == ip(POD6) || v6(target) == ip(LINK_LOCAL));
        let may = match kind {
            134 | 137 => false,
            136 => about_itself,
            135 => !unspecified || about_itself,
            _ => !unspecified,
        };
        return may.then_some(pods_own);
    }
    (!unspecified).then_some(pods_own)
}

fn v4(bytes: &[u8]) -> IpAddr {
    Ipv4Addr::from(<[u8; 4]>::try_from(bytes).expect("four")).into()
}

fn v6(bytes: &[u8]) -> IpAddr {
    Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("sixteen")).into()
}

/// The frame as it is redirected: one hop further, and addressed to the pod when it goes there.
pub(crate) fn forwarded(frame: &[u8], to_pod: bool) -> Vec<u8> {
    let mut out = frame.to_vec();
    if to_pod {
        out[..6].copy_from_slice(&POD_MAC);
        out[6..12].copy_from_slice(&HOST_MAC);
    }
    if ethertype(frame) == IPV6 {
        out[21] -= 1;
        return out;
    }
    // RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m').
    let old = u16::from_be_bytes([out[22], out[23]]);
    out[22] -= 1;
    let new = u16::from_be_bytes([out[22], out[23]]);
    let check = u16::from_be_bytes([out[24], out[25]]);
    let mut sum = u32::from(!check) + u32::from(!old) + u32::from(new);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let check = !u16::try_from(sum).expect("folded");
    out[24..26].copy_from_slice(&check.to_be_bytes());
    out
}

/// Equal but for the ECN field and what of IPv4's checksum comes with it.
pub(crate) fn same_but_for_ecn(found: &[u8], sent: &[u8]) -> bool {
    let without = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        let ecn = match ethertype(&frame) {
            IPV4 => 15..16,
            IPV6 => 14..16,
            _ => return frame,
        };
        if let Some(field) = frame.get_mut(ecn.clone()) {
            // In IPv6 it lies across two bytes, below the version and above the flow label.
            let mask: &[u8] = if ecn.len() == 1 { &[0xfc] } else { &[0xff, 0xcf] };
            field.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask);
        }
        if ecn.len() == 1
            && let Some(check) = frame.get_mut(24..26)
        {
            check.fill(0);
        }
        frame
    };
    without(found) == without(sent)
}

/// Equal bytes; in one's complement the two zeros of IPv4's checksum are one.
pub(crate) fn same_frame(found: &[u8], wanted: &[u8]) -> bool {
    let normal = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        if ethertype(&frame) == IPV4
            && let Some(check) = frame.get_mut(24..26)
            && *check == [0xff, 0xff]
        {
            check.fill(0);
        }
        frame
    };
    normal(found) == normal(wanted)
}
