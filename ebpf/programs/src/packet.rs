// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! The one bounds-checked way to a packet's bytes.
//!
//! All headers lie at fixed offsets: packets with IP options, extension headers or tags take the stack anyway.
//! Header types have an alignment of two, which every `skb->data` has, so that fields are read two bytes at a time.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use turnpike_ebpf_abi::Addr;

/// Length of an Ethernet header.
pub const ETH_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IP4_LEN: usize = 20;
/// Length of an IPv6 header.
pub const IP6_LEN: usize = 40;

/// ETH_P_IP as `skb->protocol` holds it.
pub const ETH_P_IP: u32 = 0x0800u16.to_be() as u32;
/// ETH_P_IPV6 as `skb->protocol` holds it.
pub const ETH_P_IPV6: u32 = 0x86ddu16.to_be() as u32;
/// ETH_P_ARP as `skb->protocol` holds it.
pub const ETH_P_ARP: u32 = 0x0806u16.to_be() as u32;

/// IP protocol numbers.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP6: u8 = 58;

/// Ethernet.
#[repr(C)]
pub struct Ethernet {
    pub destination: [u16; 3],
    pub source: [u16; 3],
    pub ethertype_be: u16,
}

/// IPv4 without options.
#[repr(C)]
pub struct Ip4 {
    pub version_ihl: u8,
    pub tos: u8,
    pub total_len_be: u16,
    pub id: u16,
    pub fragment_be: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub check: u16,
    pub source: [u16; 2],
    pub destination: [u16; 2],
}

/// IPv6.
#[repr(C)]
pub struct Ip6 {
    pub first: [u16; 2],
    pub payload_len_be: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u16; 8],
    pub destination: [u16; 8],
}

/// The start of TCP, up to its flags.
#[repr(C)]
pub struct TcpStart {
    pub source_be: u16,
    pub destination_be: u16,
    pub sequence: [u16; 2],
    pub acknowledgement: [u16; 2],
    pub data_offset: u8,
    pub flags: u8,
}

/// The ports of TCP and UDP.
#[repr(C)]
pub struct Ports {
    pub source_be: u16,
    pub destination_be: u16,
}

/// The linear part of a packet.
#[derive(Clone, Copy)]
pub struct Packet {
    data: usize,
    end: usize,
}

impl Packet {
    /// The packet's linear part, with at least `len` bytes of it where the packet is that long.
    #[inline(always)]
    pub fn new(ctx: &TcContext, len: usize) -> Self {
        let packet = Self { data: ctx.data(), end: ctx.data_end() };
        if packet.data + len <= packet.end {
            return packet;
        }
        let wanted = ctx.len().min(len as u32);
        // A packet that cannot be made linear is one whose headers are not found below.
        let _ = ctx.pull_data(wanted);
        Self { data: ctx.data(), end: ctx.data_end() }
    }

    /// A header at `offset`; `None` when the packet is too short.
    #[inline(always)]
    pub fn at<T>(&self, offset: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() <= 2) };
        if self.data + offset + size_of::<T>() > self.end {
            return None;
        }
        Some((self.data + offset) as *mut T)
    }
}

/// An IPv4 address of a header.
#[inline(always)]
pub fn addr4(words: [u16; 2]) -> Addr {
    let [a, b] = words;
    let mut halves = [0u16, 0, 0, 0, 0, 0xffff, a, b];
    // A volatile read keeps LLVM from building the constant half byte by byte.
    let pointer: *mut [u16; 8] = &mut halves;
    // SAFETY: the same 16 bytes in the same order.
    Addr(unsafe { core::mem::transmute::<[u16; 8], [u8; 16]>(*pointer) })
}

/// An IPv6 address of a header.
#[inline(always)]
pub fn addr6(words: [u16; 8]) -> Addr {
    // SAFETY: the same 16 bytes in the same order.
    Addr(unsafe { core::mem::transmute::<[u16; 8], [u8; 16]>(words) })
}

/// The raw context.
#[inline(always)]
pub fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// The bytes of layer 3 of which a packet must not have more than the MTU: its own, or those of its largest segment.
#[inline(always)]
pub fn largest_l3(ctx: &TcContext, headers: u32) -> u32 {
    // SAFETY: the kernel's context is valid for the whole program.
    let gso_size = unsafe { (*skb(ctx)).gso_size };
    if gso_size == 0 { ctx.len().saturating_sub(ETH_LEN as u32) } else { gso_size + headers }
}
