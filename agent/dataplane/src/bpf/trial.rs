//! One packet shown to a program, and what the program did with it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use turnpike_ebpf_loader::abi::bypass::FlowKey;
use turnpike_ebpf_loader::abi::{Addr, LbPath};
use turnpike_ebpf_loader::{Error, Hook, Programs, Verdict};

use super::{Bpf, words};
use crate::plane::{TracePacket, TraceTransport, TraceVerdict};

/// Rounds at the most: other traffic moves counters, too, and only what moves each time is the packet's own.
const ROUNDS: usize = 8;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

impl Bpf {
    /// Runs the program of a hook on a packet. What it remembers of the packet is forgotten again; what it counts stays.
    pub(crate) fn trace(
        &mut self,
        hook: Hook,
        link: u32,
        packet: &TracePacket,
    ) -> Result<TraceVerdict, String> {
        let programs = self.programs.as_mut().map_err(|reason| reason.clone())?;
        run(programs, hook, link, packet).map_err(|error| words(&error))
    }
}

fn run(programs: &mut Programs, hook: Hook, link: u32, packet: &TracePacket) -> Result<TraceVerdict, Error> {
    let pod_address = if hook == Hook::Uplink { packet.destination } else { packet.source };
    let pod_mac =
        programs.maps().pods.get(&Addr::from(pod_address))?.map_or([2, 0, 0, 0, 0, 1], |pod| pod.pod_mac);
    let frame = frame(packet, pod_mac);
    let flow = flow(hook, packet);
    let was_known = programs.maps().pod_flows.get(&flow)?.is_some();
    let (mut counters, mut ways) = (BTreeSet::new(), BTreeSet::new());
    let mut verdict = Verdict::GoesOn;
    for round in 0..ROUNDS {
        let before = (programs.maps().counters()?, ways_so_far(programs, hook)?);
        verdict = programs.try_frame(hook, link, &frame)?;
        let after = (programs.maps().counters()?, ways_so_far(programs, hook)?);
        let moved: BTreeSet<&'static str> = after
            .0
            .iter()
            .filter(|(name, count)| before.0.get(*name) != Some(*count))
            .map(|(name, _)| *name)
            .collect();
        let moved_ways: BTreeSet<&'static str> = after
            .1
            .iter()
            .zip(&before.1)
            .filter(|(after, before)| after != before)
            .map(|(after, _)| after.0)
            .collect();
        if round == 0 {
            (counters, ways) = (moved, moved_ways);
        } else {
            counters.retain(|name| moved.contains(name));
            ways.retain(|name| moved_ways.contains(name));
        }
        if counters.len() <= 1 && ways.len() <= 1 {
            break;
        }
    }
    if !was_known {
        programs.maps().pod_flows.remove(&flow)?;
    }
    Ok(TraceVerdict {
        redirected: verdict == Verdict::Redirected,
        dropped: verdict == Verdict::Dropped,
        counters: counters.into_iter().collect(),
        ways: ways.into_iter().collect(),
    })
}

/// Packets by the way that they took, of all sources: name and count.
fn ways_so_far(programs: &Programs, hook: Hook) -> Result<Vec<(&'static str, u64)>, Error> {
    let maps = programs.maps();
    let groups: BTreeSet<u32> = maps.lb_sources.entries()?.values().map(|source| source.group).collect();
    let mut ways: Vec<(&'static str, u64)> = LbPath::ALL.iter().map(|(_, name)| (*name, 0)).collect();
    for group in groups {
        let Some(stats) = maps.lb_stats.get(&group)? else { continue };
        let slots = if hook == Hook::Uplink { &stats.to_pod } else { &stats.from_pod };
        for (way, slot) in ways.iter_mut().zip(slots) {
            way.1 = way.1.saturating_add(slot.packets);
        }
    }
    Ok(ways)
}

fn flow(hook: Hook, packet: &TracePacket) -> FlowKey {
    let (pod, peer) = ((packet.source, packet.source_port), (packet.destination, packet.destination_port));
    let (pod, peer) = if hook == Hook::Uplink { (peer, pod) } else { (pod, peer) };
    FlowKey {
        pod: Addr::from(pod.0),
        peer: Addr::from(peer.0),
        pod_port_be: pod.1.to_be(),
        peer_port_be: peer.1.to_be(),
    }
}

/// Ethernet, IP and the start of layer 4. Checksums are zero: no program looks at them.
fn frame(packet: &TracePacket, pod_mac: [u8; 6]) -> Vec<u8> {
    let (protocol, body) = transport(packet);
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut bytes = [0xee; 6].to_vec();
    bytes.extend(pod_mac);
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([0x08, 0x00, 0x45, 0]);
            bytes.extend(length.saturating_add(20).to_be_bytes());
            bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        (source, destination) => {
            let wide = |address: IpAddr| match address {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(wide(source));
            bytes.extend(wide(destination));
        }
    }
    bytes.extend(body);
    bytes
}

fn transport(packet: &TracePacket) -> (u8, Vec<u8>) {
    let mut ports = packet.source_port.to_be_bytes().to_vec();
    ports.extend(packet.destination_port.to_be_bytes());
    match packet.transport {
        TraceTransport::Tcp { answer } => {
            let flags = if answer { 0x12 } else { 0x02 };
            ports.extend([0, 0, 0, 1, 0, 0, 0, u8::from(answer), 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            (TCP, ports)
        }
        TraceTransport::Udp => {
            ports.extend([0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            (UDP, ports)
        }
        TraceTransport::Icmp { answer } => {
            let (protocol, request, reply) =
                if packet.source.is_ipv4() { (ICMP, 8, 0) } else { (ICMP6, 128, 129) };
            let kind = if answer { reply } else { request };
            (protocol, vec![kind, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_as_long_as_it_says() {
        let packet = |source: &str, destination: &str, transport| TracePacket {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 40000,
            destination_port: 80,
            transport,
        };
        let four = frame(&packet("10.0.0.1", "10.0.0.2", TraceTransport::Tcp { answer: false }), [1; 6]);
        assert_eq!((four.len(), &four[12..15], four[47]), (14 + 20 + 20, &[8, 0, 0x45][..], 0x02));
        let six = frame(&packet("fd00::1", "fd00::2", TraceTransport::Icmp { answer: true }), [1; 6]);
        assert_eq!((six.len(), six[20], six[54]), (14 + 40 + 16, ICMP6, 129));
        let udp = frame(&packet("10.0.0.1", "10.0.0.2", TraceTransport::Udp), [1; 6]);
        assert_eq!(udp[36..38], 80_u16.to_be_bytes());
    }
}
