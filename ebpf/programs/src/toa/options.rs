// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Searching TCP options.
//!
//! The options are copied into the socket's record first. There the search keeps its position too: a value read
//! back from a map is unknown to the verifier, so that all rounds of the loop look alike to it and are checked once.

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::generated as helpers;
use turnpike_ebpf_abi::{Addr, ToaFormat, ToaSock};

use super::{IPPROTO_TCP, TCP_BPF_SYN};

/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;
/// Bytes of options that a TCP header can hold.
const ROOM: usize = 40;
/// TCP Fast Open's experimental option shares kind 254, on SYNs, and says so by this magic (RFC 7413 §4.1.1).
const FAST_OPEN_MAGIC: [u8; 2] = [0xf9, 0x89];

/// What a search found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No option of the format's kind.
    Nothing,
    /// The client; it is in the record.
    Client,
    /// An option of the kind, with a wrong length or content, or a broken list.
    Malformed,
}

/// Copies the options of the event's packet.
#[inline(always)]
pub fn copy_from_packet(ops: *mut bpf_sock_ops, record: &mut ToaSock) {
    // SAFETY: the kernel's context is valid; every read is below `end`.
    unsafe {
        let data = (*ops).__bindgen_anon_3.skb_data as usize;
        let end = (*ops).__bindgen_anon_4.skb_data_end as usize;
        let mut length = 0u8;
        let mut at = 0;
        while at < ROOM {
            if data + TCP_LEN + at + 4 > end {
                break;
            }
            let word = ((data + TCP_LEN + at) as *const [u16; 2]).read();
            (&raw mut record.options).cast::<[u16; 2]>().add(at / 4).write(word);
            at += 4;
            length = at as u8;
        }
        (&raw mut record.options_len).write_volatile(length);
    }
}

/// Copies the options of the saved SYN.
#[inline(always)]
pub fn copy_from_syn(ops: *mut bpf_sock_ops, record: &mut ToaSock) {
    let mut header = [0u32; (TCP_LEN + ROOM) / 4];
    // SAFETY: the pointer and the length describe one local value.
    let read = unsafe {
        helpers::bpf_getsockopt(
            ops.cast(),
            IPPROTO_TCP,
            TCP_BPF_SYN,
            (&raw mut header).cast(),
            (TCP_LEN + ROOM) as i32,
        )
    };
    let length = if read > TCP_LEN as i64 { (read as usize - TCP_LEN).min(ROOM) as u8 } else { 0 };
    // SAFETY: 40 bytes of the local value, 40 bytes of the record, both aligned to four.
    unsafe {
        let from = (&raw const header).cast::<u32>().add(TCP_LEN / 4);
        let to = (&raw mut record.options).cast::<u32>();
        let mut index = 0;
        while index < ROOM / 4 {
            to.add(index).write(from.add(index).read());
            index += 1;
        }
        (&raw mut record.options_len).write_volatile(length);
    }
}

/// Searches the copied options for the record's format; `syn`: they are a SYN's.
#[inline(always)]
pub fn search(record: &mut ToaSock, syn: bool) -> Found {
    let kind = ToaFormat::kind(u32::from(record.format));
    put_cursor(record, 0);
    let mut rounds = 0;
    while rounds < ROOM {
        rounds += 1;
        let (at, end) = (cursor(record), length(record));
        if at >= end || at >= ROOM - 1 {
            return Found::Nothing;
        }
        let options = (&raw const record.options).cast::<u8>();
        // SAFETY: `at + 1` is inside the 40 bytes.
        let (this, size) = unsafe { (options.add(at).read(), usize::from(options.add(at + 1).read())) };
        match this {
            0 => return Found::Nothing,
            1 => put_cursor(record, at + 1),
            _ if size < 2 || at + size > end => return Found::Malformed,
            _ if this == kind => match take(record, size, syn) {
                Found::Nothing => put_cursor(record, at + size),
                outcome => return outcome,
            },
            _ => put_cursor(record, at + size),
        }
    }
    Found::Nothing
}

/// Reads the client from the option at the cursor, of `size` bytes, which is of the format's kind.
#[inline(always)]
fn take(record: &mut ToaSock, size: usize, syn: bool) -> Found {
    let format = u32::from(record.format);
    let has_port = format != ToaFormat::Cdn28 as u32;
    let is_v4 = match size {
        8 => format == ToaFormat::Toa254 as u32 || format == ToaFormat::Toa200 as u32,
        7 => format == ToaFormat::Cdn28 as u32,
        20 => format == ToaFormat::Vtoa252 as u32,
        _ => false,
    };
    let is_v6 = match size {
        20 => format == ToaFormat::Toa254 as u32 || format == ToaFormat::Toa253V6 as u32,
        19 => format == ToaFormat::Cdn28 as u32,
        _ => false,
    };
    if syn && format == ToaFormat::Toa254 as u32 && bytes::<2, 2>(record) == Some(FAST_OPEN_MAGIC) {
        return Found::Nothing;
    }
    if is_v4 {
        let octets = if has_port { bytes::<4, 4>(record) } else { bytes::<3, 4>(record) };
        let octets = octets.unwrap_or_default();
        record.client = Addr::from_v4(octets).0;
        if octets == [0; 4] {
            return Found::Malformed;
        }
    } else if is_v6 {
        let octets = if has_port { bytes::<4, 16>(record) } else { bytes::<3, 16>(record) };
        record.client = octets.unwrap_or_default();
        if record.client == [0; 16] {
            return Found::Malformed;
        }
    } else {
        return Found::Malformed;
    }
    if !has_port {
        record.port_be = 0;
        return Found::Client;
    }
    record.port_be = u16::from_ne_bytes(bytes::<2, 2>(record).unwrap_or_default());
    if record.port_be == 0 { Found::Malformed } else { Found::Client }
}

/// `N` bytes, `SKIP` behind the cursor; `None` where they would not be inside the options.
///
/// Each call reads the cursor anew: verifiers before 6.8 do not see that two comparisons of one number contradict each
/// other, follow the impossible path, and refuse what they find there.
#[inline(always)]
fn bytes<const SKIP: usize, const N: usize>(record: &ToaSock) -> Option<[u8; N]> {
    let at = cursor(record);
    if at > ROOM - SKIP - N {
        return None;
    }
    let options = (&raw const record.options).cast::<u8>();
    // SAFETY: `at + SKIP + N` is at most 40.
    Some(unsafe { options.add(at + SKIP).cast::<[u8; N]>().read() })
}

#[inline(always)]
fn cursor(record: &ToaSock) -> usize {
    // SAFETY: a field of a valid record.
    usize::from(unsafe { (&raw const record.cursor).read_volatile() })
}

#[inline(always)]
fn length(record: &ToaSock) -> usize {
    // SAFETY: a field of a valid record.
    usize::from(unsafe { (&raw const record.options_len).read_volatile() })
}

#[inline(always)]
fn put_cursor(record: &mut ToaSock, at: usize) {
    // SAFETY: a field of a valid record.
    unsafe { (&raw mut record.cursor).write_volatile(at as u8) };
}

/// The kind of something like a TOA option where directors put it (first, or after aligned timestamps) in a format
/// other than `format`; 0 for none. Only for counting and for people.
#[inline(always)]
pub fn seen_kind(ops: *mut bpf_sock_ops, format: u8) -> u8 {
    let own = ToaFormat::kind(u32::from(format));
    // SAFETY: the kernel's context is valid; every read is below `end`.
    unsafe {
        let data = (*ops).__bindgen_anon_3.skb_data as usize;
        let end = (*ops).__bindgen_anon_4.skb_data_end as usize;
        if data + TCP_LEN + 8 > end {
            return 0;
        }
        let first = ((data + TCP_LEN) as *const [u8; 2]).read();
        if is_toa(first) && first[0] != own {
            return first[0];
        }
        if data + TCP_LEN + 12 + 8 > end {
            return 0;
        }
        let second = ((data + TCP_LEN + 12) as *const [u8; 2]).read();
        if is_toa(second) && second[0] != own { second[0] } else { 0 }
    }
}

#[inline(always)]
fn is_toa(start: [u8; 2]) -> bool {
    matches!(start, [254, 8 | 20] | [253 | 252, 20] | [200, 8] | [28, 7 | 19])
}
