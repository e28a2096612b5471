// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! UOA: tells UDP servers the client that DPVS names in an option of the first datagrams of a session.
//!
//! On the uplink, the protocol that may carry the option becomes an IPv4 option or an IPv6 destination option, in place and
//! with no byte more or less: every stack passes those on and delivers the datagram. At the socket the option is read and
//! kept for that socket: recvmsg() then shows the client, and what is sent to the client goes to its director.
//!
//! Trust: only where the source is a load balancer with UOA. What was learned ends with the session, by time.
//!
//! Left out: clients of the other family than the director's side (NAT64): a socket could not answer them; sockets that
//! connect() to a client.

use aya_ebpf::bindings::{__sk_buff, bpf_sock_addr};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, TcContext};
use turnpike_ebpf_abi::bypass::Admit;
use turnpike_ebpf_abi::uoa::{HEADER_LEN, OPTION, OPTION_LEN, PROTOCOL, UoaCounter, UoaKey, UoaPeer};
use turnpike_ebpf_abi::{Addr, LbSource, PodEntry, names};

use crate::bypass;
use crate::packet::{
    ETH_LEN, ETH_P_IP, ETH_P_IPV6, IP4_LEN, IP6_LEN, Ip4, Ip6, Packet, UDP, addr4, addr6, skb,
};

/// Director, as a socket knows it → client.
#[map(name = "TPK_UOA_CLIENT")]
static CLIENTS: LruHashMap<UoaKey, UoaPeer> = LruHashMap::with_max_entries(names::MAX_UOA, 0);
/// Client, as a socket knows it → director.
#[map(name = "TPK_UOA_LB")]
static DIRECTORS: LruHashMap<UoaKey, UoaPeer> = LruHashMap::with_max_entries(names::MAX_UOA, 0);
#[map(name = "TPK_UOA_COUNT")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(UoaCounter::COUNT, 0);

/// IPv6's destination options (RFC 8200 §4.6).
const DESTINATION_OPTIONS: u8 = 60;
/// IPv4's option that does nothing (RFC 791 §3.1).
const NOP: u8 = 1;
/// IPv6's padding of two bytes: PadN without data.
const PAD2: [u8; 2] = [1, 0];
/// The option in IPv6: kind, length without these two.
const OPTION6: [u8; 2] = [OPTION, 18];

/// Header and option with an IPv4 and with an IPv6 address.
type Covered4 = [u8; 12];
type Covered6 = [u8; 24];

/// Counts an event.
#[inline(always)]
pub fn count(counter: UoaCounter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own slot.
        unsafe { *value += 1 };
    }
}

/// Makes a packet of protocol 248 from a load balancer with UOA to a pod one that its stack delivers.
#[inline(always)]
pub fn uncover(ctx: &TcContext) {
    // SAFETY: the kernel's context is valid for the whole program.
    let (protocol, tagged) = unsafe { ((*skb(ctx)).protocol, (*skb(ctx)).vlan_present) };
    if tagged != 0 {
        return;
    }
    let done = match protocol {
        ETH_P_IP => uncover4(ctx),
        ETH_P_IPV6 => uncover6(ctx),
        _ => None,
    };
    if done.is_some() {
        count(UoaCounter::Uncovered);
    }
}

#[inline(always)]
fn uncover4(ctx: &TcContext) -> Option<()> {
    let packet = Packet::new(ctx, ETH_LEN + IP4_LEN + size_of::<Covered4>());
    let ip = packet.at::<Ip4>(ETH_LEN)?;
    // SAFETY: `at` checked the bounds.
    let ip = unsafe { &*ip };
    let whole = ip.version_ihl == 0x45 && ip.fragment_be & bypass::FRAGMENT == 0;
    if !whole || ip.protocol != PROTOCOL || !is_for_pod(&addr4(ip.source), &addr4(ip.destination)) {
        return None;
    }
    let start = packet.at::<[u8; 4]>(ETH_LEN + IP4_LEN)?;
    // SAFETY: `at` checked the bounds.
    match unsafe { *start } {
        [0x10, UDP, 0, 12] => rewrite4::<12, 32>(ctx),
        [0x10, UDP, 0, 24] => rewrite4::<24, 44>(ctx),
        _ => None,
    }
}

/// `COVERED` bytes become options of a header of `WHOLE` bytes.
#[inline(always)]
fn rewrite4<const COVERED: usize, const WHOLE: usize>(ctx: &TcContext) -> Option<()> {
    let packet = Packet::new(ctx, ETH_LEN + WHOLE);
    let covered = packet.at::<[u8; COVERED]>(ETH_LEN + IP4_LEN)?;
    let whole = packet.at::<[u8; WHOLE]>(ETH_LEN)?;
    let ip = whole.cast::<Ip4>();
    // SAFETY: `at` checked the bounds; the kernel made the headers writable because this program writes.
    unsafe {
        // A card's sum over the packet counts these bytes as payload; as part of a header with a right sum they are nothing.
        let gone = helpers::bpf_csum_diff(covered.cast(), COVERED as u32, core::ptr::null_mut(), 0, 0);
        helpers::bpf_csum_update(skb(ctx), gone as u32);
        (*ip).version_ihl = 0x40 + (WHOLE / 4) as u8;
        (*ip).protocol = UDP;
        (*ip).check = 0;
        let bytes = covered.cast::<u8>();
        bytes.write(NOP);
        bytes.add(1).write(NOP);
        bytes.add(2).write(NOP);
        bytes.add(3).write(NOP);
        let sum = helpers::bpf_csum_diff(core::ptr::null_mut(), 0, whole.cast(), WHOLE as u32, 0);
        (*ip).check = fold(sum as u32);
    }
    Some(())
}

/// The Internet checksum of a sum of 16-bit words (RFC 1071).
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

#[inline(always)]
fn uncover6(ctx: &TcContext) -> Option<()> {
    let packet = Packet::new(ctx, ETH_LEN + IP6_LEN + size_of::<Covered6>());
    let ip = packet.at::<Ip6>(ETH_LEN)?;
    // SAFETY: `at` checked the bounds.
    let (next, source, destination) =
        unsafe { ((*ip).next_header, addr6((*ip).source), addr6((*ip).destination)) };
    if next != PROTOCOL || source.is_mapped() || !is_for_pod(&source, &destination) {
        return None;
    }
    let covered = packet.at::<[u8; 8]>(ETH_LEN + IP6_LEN)?;
    // SAFETY: `at` checked the bounds.
    let [version, protocol, high, low, kind, length, port_high, port_low] = unsafe { *covered };
    let [_, long] = OPTION_LEN;
    if [version, protocol, high, low] != [0x20, UDP, 0, HEADER_LEN + long] || [kind, length] != [OPTION, long]
    {
        return None;
    }
    let [pad, none] = PAD2;
    let [kind, length] = OPTION6;
    // Its length is in units of eight bytes, without the first.
    let options = [UDP, 2, pad, none, kind, length, port_high, port_low];
    // SAFETY: as above; the kernel made the headers writable because this program writes.
    unsafe {
        let mut old: [u8; 8] = *covered;
        let mut new = options;
        let changed = helpers::bpf_csum_diff(old.as_mut_ptr().cast(), 8, new.as_mut_ptr().cast(), 8, 0);
        helpers::bpf_csum_update(skb(ctx), changed as u32);
        let before = u16::from_ne_bytes([PROTOCOL, (*ip).hop_limit]);
        let after = u16::from_ne_bytes([DESTINATION_OPTIONS, (*ip).hop_limit]);
        helpers::bpf_csum_update(skb(ctx), u32::from(!before) + u32::from(after));
        (*ip).next_header = DESTINATION_OPTIONS;
        *covered = options;
    }
    Some(())
}

/// A load balancer whose UOA is believed, and a pod.
#[inline(always)]
fn is_for_pod(source: &Addr, destination: &Addr) -> bool {
    bypass::has_uoa(source).is_some() && bypass::pod(destination).is_some()
}

/// A datagram, or another packet, reaches a socket.
#[inline(always)]
pub fn learn(ctx: &SkBuffContext) -> Option<UoaCounter> {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel's context is valid for the whole program.
    let (data, end, protocol) = unsafe { ((*skb).data as usize, (*skb).data_end as usize, (*skb).protocol) };
    let headers = Headers { data, end };
    match protocol {
        ETH_P_IP => learn4(skb, headers),
        ETH_P_IPV6 => learn6(skb, headers),
        _ => None,
    }
}

/// A packet from its network header on.
#[derive(Clone, Copy)]
struct Headers {
    data: usize,
    end: usize,
}

impl Headers {
    #[inline(always)]
    fn at<T: Copy>(self, offset: usize) -> Option<T> {
        const { assert!(align_of::<T>() <= 2) };
        if self.data + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: just checked; `skb->data` is aligned to two.
        Some(unsafe { *((self.data + offset) as *const T) })
    }
}

#[inline(always)]
fn learn4(skb: *mut __sk_buff, headers: Headers) -> Option<UoaCounter> {
    // Of one byte the compiler would compare the start, which tells the verifier nothing.
    let [version_ihl, _] = headers.at::<[u8; 2]>(0)?;
    // Option alone, and behind what was its header: where DPVS puts it, before any other.
    let (option, ports) = match version_ihl {
        0x47 => (20, 28),
        0x48 => (24, 32),
        _ => return None,
    };
    let [kind, length] = headers.at::<[u8; 2]>(option)?;
    let [short, _] = OPTION_LEN;
    let [protocol] = headers.at::<[u8; 1]>(9)?;
    if protocol != UDP || [kind, length] != [OPTION, short] {
        return None;
    }
    let [client_port, high, low] = headers.at::<[u16; 3]>(option + 2)?;
    let [source_high, source_low, pod_high, pod_low] = headers.at::<[u16; 4]>(12)?;
    let [port_be] = headers.at::<[u16; 1]>(ports)?;
    if high | low == 0 {
        return Some(UoaCounter::Malformed);
    }
    let director = End { address: addr4([source_high, source_low]), port_be };
    let client = End { address: addr4([high, low]), port_be: client_port };
    Some(remember(skb, director, addr4([pod_high, pod_low]), client))
}

#[inline(always)]
fn learn6(skb: *mut __sk_buff, headers: Headers) -> Option<UoaCounter> {
    let [next] = headers.at::<[u8; 1]>(6)?;
    if next != DESTINATION_OPTIONS {
        return None;
    }
    let [next, units, pad, none, kind, length] = headers.at::<[u8; 6]>(40)?;
    if [next, units] != [UDP, 2] || [pad, none] != PAD2 || [kind, length] != OPTION6 {
        return None;
    }
    let [client_port] = headers.at::<[u16; 1]>(46)?;
    let client = headers.at::<[u16; 8]>(48)?;
    let source = headers.at::<[u16; 8]>(8)?;
    let pod = headers.at::<[u16; 8]>(24)?;
    let [port_be] = headers.at::<[u16; 1]>(64)?;
    let client = addr6(client);
    if client.is_mapped() || client == Addr([0; 16]) {
        return Some(UoaCounter::Malformed);
    }
    let director = End { address: addr6(source), port_be };
    Some(remember(skb, director, addr6(pod), End { address: client, port_be: client_port }))
}

/// An address and a port.
#[derive(Clone, Copy)]
struct End {
    address: Addr,
    port_be: u16,
}

/// Keeps what a trusted datagram says.
#[inline(always)]
fn remember(skb: *mut __sk_buff, director: End, pod: Addr, client: End) -> UoaCounter {
    let Some(source) = bypass::has_uoa(&director.address) else {
        return UoaCounter::Untrusted;
    };
    if client.port_be == 0 {
        return UoaCounter::Malformed;
    }
    if bypass::pod(&pod).is_some_and(|entry| shows_director(entry, &pod, source)) {
        return UoaCounter::OptedOut;
    }
    // SAFETY: plain helper calls.
    let (cookie, now) = unsafe { (helpers::bpf_get_socket_cookie(skb.cast()), helpers::bpf_ktime_get_ns()) };
    // A table that takes no more forgets who was silent for longest; without an entry the director is shown.
    let _ = CLIENTS.insert(key(cookie, director), peer(now, client), 0);
    let _ = DIRECTORS.insert(key(cookie, client), peer(now, director), 0);
    UoaCounter::Learned
}

#[inline(always)]
fn shows_director(entry: &PodEntry, pod: &Addr, source: &LbSource) -> bool {
    entry.flags & PodEntry::NO_TOA != 0
        || entry.flags & PodEntry::SELECTIVE != 0 && !bypass::admits(pod, source.group, Admit::TOA)
}

#[inline(always)]
fn key(cookie: u64, end: End) -> UoaKey {
    UoaKey { cookie, address: end.address, port_be: end.port_be, zero: [0; 3] }
}

#[inline(always)]
fn peer(seen_ns: u64, end: End) -> UoaPeer {
    UoaPeer { seen_ns, address: end.address, port_be: end.port_be, zero: [0; 3] }
}

/// Whom an end stands for, if the session is not over; it goes on from now.
#[inline(always)]
fn look_up(table: &LruHashMap<UoaKey, UoaPeer>, key: &UoaKey) -> Option<End> {
    let found = table.get_ptr_mut(key)?;
    // SAFETY: a plain helper call; map values outlive the program run, and a torn time is a time of this session.
    unsafe {
        let now = helpers::bpf_ktime_get_ns();
        if now - (*found).seen_ns > UoaPeer::LIFETIME_NS {
            return None;
        }
        (*found).seen_ns = now;
        Some(End { address: (*found).address, port_be: (*found).port_be })
    }
}

/// Which way a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// recvmsg(): the director becomes the client.
    Received,
    /// sendmsg(): the client becomes the director.
    Sent,
}

/// The other end of a socket's datagram, IPv4.
#[inline(always)]
pub fn other_end4(ctx: &SockAddrContext, way: Way) {
    let address: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the kernel's context is valid for the whole program.
    let (ip, port) = unsafe { ((*address).user_ip4, (*address).user_port) };
    let halves = [ip as u16, (ip >> 16) as u16];
    let Some(end) = translate(ctx, way, End { address: addr4(halves), port_be: port as u16 }) else {
        return;
    };
    let [_, _, _, ip] = words(&end.address);
    // SAFETY: as above.
    unsafe { (&raw mut (*address).user_ip4).write_volatile(ip) };
    set_port(ctx, end);
}

/// The same, IPv6.
#[inline(always)]
pub fn other_end6(ctx: &SockAddrContext, way: Way) {
    let address: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the kernel's context is valid for the whole program; each word is read by itself, as the verifier wants it.
    let (ip, port) = unsafe {
        let field = (&raw const (*address).user_ip6).cast::<u32>();
        let ip = [
            field.read_volatile(),
            field.add(1).read_volatile(),
            field.add(2).read_volatile(),
            field.add(3).read_volatile(),
        ];
        (ip, (*address).user_port)
    };
    // SAFETY: the same 16 bytes in the same order.
    let ip = Addr(unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(ip) });
    let Some(end) = translate(ctx, way, End { address: ip, port_be: port as u16 }) else {
        return;
    };
    let [a, b, c, d] = words(&end.address);
    // Volatile: merged into wider stores the verifier would refuse them.
    // SAFETY: as above.
    unsafe {
        let field = (&raw mut (*address).user_ip6).cast::<u32>();
        field.write_volatile(a);
        field.add(1).write_volatile(b);
        field.add(2).write_volatile(c);
        field.add(3).write_volatile(d);
    }
    set_port(ctx, end);
}

#[inline(always)]
fn translate(ctx: &SockAddrContext, way: Way, end: End) -> Option<End> {
    // SAFETY: a plain helper call.
    let cookie = unsafe { helpers::bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    match way {
        Way::Received => {
            let client = look_up(&CLIENTS, &key(cookie, end))?;
            // A session that is heard of lives on in both directions.
            look_up(&DIRECTORS, &key(cookie, client))?;
            Some(client)
        }
        Way::Sent => look_up(&DIRECTORS, &key(cookie, end)),
    }
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, end: End) {
    let address: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the kernel's context is valid for the whole program.
    unsafe { (&raw mut (*address).user_port).write_volatile(u32::from(end.port_be)) };
}

#[inline(always)]
fn words(address: &Addr) -> [u32; 4] {
    // SAFETY: the same 16 bytes in the same order.
    unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(address.0) }
}
