// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! The conntrack bypass: traffic of trusted load balancers between the uplinks and the pods, past netfilter.
//!
//! Invariant: both directions use one match. A packet qualifies when the load balancer's address is in a bypassing
//! prefix, the pod's port and protocol are allowed for that prefix's group, and the connection was not opened by the
//! pod. What qualifies but cannot be forwarded here (fragments, options, TTL, size) takes the stack, where an
//! nftables rule with the same match keeps it out of conntrack too.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_redir_neigh};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{HashMap, LpmTrie, LruHashMap};
use aya_ebpf::programs::TcContext;
use turnpike_ebpf_abi::bypass::{Admit, AdmitKey, FlowKey};
use turnpike_ebpf_abi::{Addr, Counter, LbPath, LbSource, PodEntry, PortKey, Uplink, Veth, names};

use crate::packet::{
    ETH_LEN, ETH_P_IP, ETH_P_IPV6, Ethernet, IP4_LEN, IP6_LEN, Ip4, Ip6, Packet, Ports, TCP, TcpStart, UDP,
    addr4, addr6, largest_l3, skb,
};
use crate::route::{self, Flow};

#[map(name = "TPK_LB_SOURCES")]
static LB_SOURCES: LpmTrie<Addr, LbSource> = LpmTrie::with_max_entries(names::MAX_LB_SOURCES, 0);
#[map(name = "TPK_LB_PORTS")]
static LB_PORTS: HashMap<PortKey, u8> = HashMap::with_max_entries(names::MAX_LB_PORTS, 0);
#[map(name = "TPK_PODS")]
static PODS: HashMap<Addr, PodEntry> = HashMap::with_max_entries(names::MAX_PODS, 0);
#[map(name = "TPK_UPLINKS")]
static UPLINKS: HashMap<u32, Uplink> = HashMap::with_max_entries(names::MAX_UPLINKS, 0);
#[map(name = "TPK_POD_FLOWS")]
static POD_FLOWS: LruHashMap<FlowKey, u8> = LruHashMap::with_max_entries(names::MAX_POD_FLOWS, 0);
/// Few pods have entries here.
#[map(name = "TPK_LB_ADMITS")]
static ADMITS: HashMap<AdmitKey, u32> = HashMap::with_max_entries(names::MAX_LB_ADMITS, BPF_F_NO_PREALLOC);

/// IPv6's fragment header (RFC 8200 §4.5).
const FRAGMENT_HEADER: u8 = 44;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// More-fragments flag and fragment offset.
pub const FRAGMENT: u16 = 0x3fffu16.to_be();

/// What became of a packet.
pub enum Outcome {
    /// Nothing to do with a load balancer.
    NotOurs,
    /// A load balancer's, but through the stack, and why.
    Stack(Counter, Reason),
    /// On its way, with tc's verdict.
    Redirected(i32, Counter, Reason),
}

/// Where a packet is counted: its source's group, and the way it took.
#[derive(Clone, Copy)]
pub struct Reason {
    pub group: u32,
    pub path: LbPath,
}

/// The addresses of a packet.
struct Ends {
    source: Addr,
    destination: Addr,
    is_v4: bool,
}

/// What the match and the forwarding need beyond the addresses. Only packets that can be forwarded here have it.
struct Transport {
    protocol: u8,
    source_be: u16,
    destination_be: u16,
    flags: u8,
    /// Bytes of layer 3 and 4 headers.
    headers: u32,
    traffic_class: u8,
}

/// The longest header that is looked at.
const REACH: usize = ETH_LEN + IP6_LEN + size_of::<TcpStart>();

/// From an uplink to a pod.
#[inline(always)]
pub fn towards_pod(ctx: &TcContext) -> Outcome {
    let Some((packet, ends)) = read(ctx) else {
        return Outcome::NotOurs;
    };
    // SAFETY: entries are replaced by the agent only; a torn value makes one packet take another path.
    let Some(pod) = (unsafe { PODS.get(ends.destination) }) else {
        return Outcome::NotOurs;
    };
    let Some(source) = bypassing(&ends.source) else {
        return Outcome::NotOurs;
    };
    let stack = |counter, path| Outcome::Stack(counter, Reason { group: source.group, path });
    if pod.flags & PodEntry::NO_BYPASS != 0
        || pod.flags & PodEntry::SELECTIVE != 0 && !admits(&ends.destination, source.group, Admit::BYPASS)
    {
        return stack(Counter::UplinkToStack, LbPath::PodExcluded);
    }
    // SAFETY: the kernel's context is valid for the whole program.
    if source.uplinks != LbSource::ANY_UPLINK && !named(source, unsafe { (*skb(ctx)).ifindex }) {
        return stack(Counter::UplinkWrongLink, LbPath::WrongUplink);
    }
    let transport = match transport(&packet, ends.is_v4) {
        Ok(transport) => transport,
        Err(path) => return stack(Counter::UplinkToStack, path),
    };
    let flow = FlowKey {
        pod: ends.destination,
        peer: ends.source,
        pod_port_be: transport.destination_be,
        peer_port_be: transport.source_be,
    };
    if let Err(path) = qualifies(source, transport.protocol, &flow) {
        return stack(Counter::UplinkToStack, path);
    }
    if largest_l3(ctx, transport.headers) > pod.mtu {
        return stack(Counter::UplinkToStack, LbPath::TooBig);
    }
    if !rewrite_macs(&packet, pod) || !decrement(ctx, &packet, ends.is_v4) {
        return stack(Counter::UplinkToStack, LbPath::Malformed);
    }
    let group = source.group;
    // SAFETY: plain helper calls.
    unsafe {
        if pod.flags & PodEntry::LIMITED != 0 {
            Outcome::Redirected(
                helpers::bpf_redirect(pod.ifindex, 0) as i32,
                Counter::UplinkBypassedLimited,
                Reason { group, path: LbPath::BypassedQueued },
            )
        } else {
            Outcome::Redirected(
                helpers::bpf_redirect_peer(pod.ifindex, 0) as i32,
                Counter::UplinkBypassed,
                Reason { group, path: LbPath::Bypassed },
            )
        }
    }
}

/// From a pod to an uplink. The source address was checked; `at_once` says that the pod's limit need not hold it back.
#[inline(always)]
pub fn from_pod(ctx: &TcContext, veth: &Veth, at_once: bool) -> Outcome {
    let Some((packet, ends)) = read(ctx) else {
        return Outcome::NotOurs;
    };
    let Some(source) = bypassing(&ends.destination) else {
        return Outcome::NotOurs;
    };
    let stack = |counter, path| Outcome::Stack(counter, Reason { group: source.group, path });
    let transport = match transport(&packet, ends.is_v4) {
        Ok(transport) => transport,
        Err(path) => return stack(Counter::PodToStack, path),
    };
    let flow = FlowKey {
        pod: ends.source,
        peer: ends.destination,
        pod_port_be: transport.source_be,
        peer_port_be: transport.destination_be,
    };
    if transport.protocol == TCP && transport.flags & (SYN | ACK) == SYN {
        if source.flags & LbSource::TCP_ANY_PORT != 0 {
            // When it cannot be remembered the connection still works, half of it past conntrack.
            let _ = POD_FLOWS.insert(flow, 1, 0);
        }
        return stack(Counter::PodConnects, LbPath::PodsOwn);
    }
    if veth.flags & Veth::NO_BYPASS != 0
        || veth.flags & Veth::SELECTIVE != 0 && !admits(&ends.source, source.group, Admit::BYPASS)
    {
        return stack(Counter::PodToStack, LbPath::PodExcluded);
    }
    if let Err(path) = qualifies(source, transport.protocol, &flow) {
        return stack(Counter::PodToStack, path);
    }
    if veth.flags & Veth::LIMITED != 0 && !at_once {
        return stack(Counter::PodToStack, LbPath::PodLimited);
    }
    match leave(ctx, &packet, &ends, &transport, source) {
        Ok(verdict) => Outcome::Redirected(
            verdict,
            Counter::PodBypassed,
            Reason { group: source.group, path: LbPath::Bypassed },
        ),
        Err(path) => stack(Counter::PodToStack, path),
    }
}

/// Sends a packet that qualifies out of the uplink that the routes name.
#[inline(always)]
fn leave(
    ctx: &TcContext,
    packet: &Packet,
    ends: &Ends,
    transport: &Transport,
    source: &LbSource,
) -> Result<i32, LbPath> {
    let flow = flow(ctx, packet, ends, transport).ok_or(LbPath::Malformed)?;
    let hop = route::next_hop(ctx, &flow).ok_or(LbPath::NoRoute)?;
    // SAFETY: as for every map of the agent's.
    let uplink = unsafe { UPLINKS.get(hop.ifindex) }.ok_or(LbPath::NoRoute)?;
    if !names(source, uplink) {
        return Err(LbPath::WrongUplink);
    }
    if largest_l3(ctx, transport.headers) > uplink.mtu {
        return Err(LbPath::TooBig);
    }
    if !decrement(ctx, packet, ends.is_v4) {
        return Err(LbPath::Malformed);
    }
    let mut neighbour = hop.neighbour;
    // SAFETY: the pointer and the length describe one local value.
    let verdict = unsafe {
        helpers::bpf_redirect_neigh(hop.ifindex, &mut neighbour, size_of::<bpf_redir_neigh>() as i32, 0)
    };
    Ok(verdict as i32)
}

/// Reads the addresses. `None` when it is not IP, is tagged, too short, or claims a mapped address on the wire.
#[inline(always)]
fn read(ctx: &TcContext) -> Option<(Packet, Ends)> {
    // SAFETY: the kernel's context is valid for the whole program.
    let (protocol, tagged) = unsafe { ((*skb(ctx)).protocol, (*skb(ctx)).vlan_present) };
    if tagged != 0 {
        return None;
    }
    if protocol == ETH_P_IP {
        let packet = Packet::new(ctx, ETH_LEN + IP4_LEN + size_of::<TcpStart>());
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*packet.at::<Ip4>(ETH_LEN)? };
        Some((packet, Ends { source: addr4(ip.source), destination: addr4(ip.destination), is_v4: true }))
    } else if protocol == ETH_P_IPV6 {
        let packet = Packet::new(ctx, REACH);
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*packet.at::<Ip6>(ETH_LEN)? };
        let ends = Ends { source: addr6(ip.source), destination: addr6(ip.destination), is_v4: false };
        if ends.source.is_mapped() || ends.destination.is_mapped() {
            return None;
        }
        Some((packet, ends))
    } else {
        None
    }
}

/// Reads what the match needs; the reason for everything that the stack has to handle.
#[inline(always)]
fn transport(packet: &Packet, is_v4: bool) -> Result<Transport, LbPath> {
    let (offset, protocol, traffic_class) = if is_v4 {
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*packet.at::<Ip4>(ETH_LEN).ok_or(LbPath::Malformed)? };
        if ip.version_ihl != 0x45 {
            return Err(LbPath::IpOptions);
        }
        if ip.fragment_be & FRAGMENT != 0 {
            return Err(LbPath::Fragment);
        }
        if ip.ttl <= 1 {
            return Err(LbPath::TtlExpired);
        }
        (ETH_LEN + IP4_LEN, ip.protocol, ip.tos)
    } else {
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*packet.at::<Ip6>(ETH_LEN).ok_or(LbPath::Malformed)? };
        let [first, _] = ip.first;
        let first = u16::from_be(first);
        if first >> 12 != 6 {
            return Err(LbPath::Malformed);
        }
        if ip.hop_limit <= 1 {
            return Err(LbPath::TtlExpired);
        }
        (ETH_LEN + IP6_LEN, ip.next_header, (first >> 4) as u8)
    };
    let l3 = (offset - ETH_LEN) as u32;
    match protocol {
        TCP => {
            // SAFETY: `at` checked the bounds.
            let tcp = unsafe { &*packet.at::<TcpStart>(offset).ok_or(LbPath::Malformed)? };
            Ok(Transport {
                protocol,
                source_be: tcp.source_be,
                destination_be: tcp.destination_be,
                flags: tcp.flags,
                headers: l3 + u32::from(tcp.data_offset >> 4) * 4,
                traffic_class,
            })
        }
        UDP => {
            // SAFETY: `at` checked the bounds.
            let ports = unsafe { &*packet.at::<Ports>(offset).ok_or(LbPath::Malformed)? };
            Ok(Transport {
                protocol,
                source_be: ports.source_be,
                destination_be: ports.destination_be,
                flags: 0,
                headers: l3 + 8,
                traffic_class,
            })
        }
        FRAGMENT_HEADER if !is_v4 => Err(LbPath::Fragment),
        _ => Err(LbPath::OtherProtocol),
    }
}

/// The entry of a load balancer whose traffic bypasses.
#[inline(always)]
fn bypassing(address: &Addr) -> Option<&'static LbSource> {
    let source = LB_SOURCES.get(Key::new(128, *address))?;
    // SAFETY: map values outlive the program run.
    let source: &'static LbSource = unsafe { &*core::ptr::from_ref(source) };
    (source.flags & LbSource::BYPASS != 0).then_some(source)
}

/// The entry of a load balancer whose UOA is believed.
#[inline(always)]
pub fn has_uoa(address: &Addr) -> Option<&'static LbSource> {
    let source = LB_SOURCES.get(Key::new(128, *address))?;
    // SAFETY: map values outlive the program run.
    let source: &'static LbSource = unsafe { &*core::ptr::from_ref(source) };
    (source.flags & LbSource::UOA != 0).then_some(source)
}

/// The trust that a source has, for TOA: its format, 0 for none, and its group.
#[inline(always)]
pub fn toa_of(address: &Addr) -> (u32, u32) {
    LB_SOURCES.get(Key::new(128, *address)).map_or((0, 0), |source| (source.toa_format, source.group))
}

/// Whether a source may do this with a pod that is not for every source. Without an entry it may not.
#[inline(always)]
pub fn admits(pod: &Addr, group: u32, what: u32) -> bool {
    // SAFETY: as for every map of the agent's.
    unsafe { ADMITS.get(AdmitKey { pod: *pod, group }) }.is_some_and(|admitted| admitted & what != 0)
}

/// Whether the port rules allow it and the pod did not open it itself.
#[inline(always)]
fn qualifies(source: &LbSource, protocol: u8, flow: &FlowKey) -> Result<(), LbPath> {
    if protocol == TCP && source.flags & LbSource::TCP_ANY_PORT != 0 {
        // SAFETY: only presence is asked.
        return match unsafe { POD_FLOWS.get(flow) } {
            None => Ok(()),
            Some(_) => Err(LbPath::PodsOwn),
        };
    }
    let key = PortKey::new(source.group, protocol, u16::from_be(flow.pod_port_be));
    // SAFETY: only presence is asked.
    match unsafe { LB_PORTS.get(key) } {
        Some(_) => Ok(()),
        None => Err(LbPath::PortNotListed),
    }
}

/// The entry of a local pod.
#[inline(always)]
pub fn pod(address: &Addr) -> Option<&'static PodEntry> {
    // SAFETY: entries are replaced by the agent only; map values outlive the program run.
    unsafe { PODS.get(address).map(|pod| &*core::ptr::from_ref(pod)) }
}

/// Whether the link that a packet came through is named for its source.
#[inline(always)]
fn named(source: &LbSource, ifindex: u32) -> bool {
    // SAFETY: as for every map of the agent's.
    unsafe { UPLINKS.get(ifindex) }.is_some_and(|uplink| names(source, uplink))
}

#[inline(always)]
fn names(source: &LbSource, uplink: &Uplink) -> bool {
    source.uplinks >> (uplink.index & 31) & 1 != 0
}

/// What the routes are asked by.
#[inline(always)]
fn flow(ctx: &TcContext, packet: &Packet, ends: &Ends, transport: &Transport) -> Option<Flow> {
    let (source, destination, class) = if ends.is_v4 {
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*packet.at::<Ip4>(ETH_LEN)? };
        let alone = |address| [0, 0, 0, join4(address)];
        (alone(ip.source), alone(ip.destination), u32::from(transport.traffic_class))
    } else {
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*packet.at::<Ip6>(ETH_LEN)? };
        let [first, second] = ip.first;
        (join6(ip.source), join6(ip.destination), join4([first & 0x0fffu16.to_be(), second]))
    };
    Some(Flow {
        source,
        destination,
        class,
        source_be: transport.source_be,
        destination_be: transport.destination_be,
        protocol: transport.protocol,
        is_v4: ends.is_v4,
        zero: [0; 2],
        // SAFETY: the kernel's context is valid for the whole program.
        link: unsafe { (*skb(ctx)).ifindex },
    })
}

#[inline(always)]
fn join4(words: [u16; 2]) -> u32 {
    let [low, high] = words;
    u32::from(low) | u32::from(high) << 16
}

#[inline(always)]
fn join6(words: [u16; 8]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h] = words;
    [join4([a, b]), join4([c, d]), join4([e, f]), join4([g, h])]
}

/// Addresses the frame to the pod.
#[inline(always)]
fn rewrite_macs(packet: &Packet, pod: &PodEntry) -> bool {
    let Some(ethernet) = packet.at::<Ethernet>(0) else {
        return false;
    };
    // SAFETY: `at` checked the bounds; the kernel made the header writable because this program writes.
    unsafe {
        (*ethernet).destination = mac(&pod.pod_mac);
        (*ethernet).source = mac(&pod.host_mac);
    }
    true
}

#[inline(always)]
fn mac(bytes: &[u8; 6]) -> [u16; 3] {
    let [a, b, c, d, e, f] = *bytes;
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])]
}

/// Takes one from the TTL or hop limit. A checksum that the card computed over the packet stays right.
#[inline(always)]
fn decrement(ctx: &TcContext, packet: &Packet, is_v4: bool) -> bool {
    if is_v4 {
        let Some(ip) = packet.at::<Ip4>(ETH_LEN) else {
            return false;
        };
        // RFC 1624 §3: the word (TTL, protocol) falls by 0x0100, so the checksum rises by as much, end-around.
        // SAFETY: `at` checked the bounds.
        unsafe {
            let sum = u32::from((*ip).check) + u32::from(0x0100u16.to_be());
            (*ip).check = (sum + u32::from(sum >= 0xffff)) as u16;
            (*ip).ttl -= 1;
        }
    } else {
        let Some(ip) = packet.at::<Ip6>(ETH_LEN) else {
            return false;
        };
        // SAFETY: `at` checked the bounds; the helper leaves packets without such a checksum alone.
        unsafe {
            let old = u16::from_ne_bytes([(*ip).next_header, (*ip).hop_limit]);
            (*ip).hop_limit -= 1;
            let new = u16::from_ne_bytes([(*ip).next_header, (*ip).hop_limit]);
            helpers::bpf_csum_update(skb(ctx), u32::from(!old) + u32::from(new));
        }
    }
    true
}
