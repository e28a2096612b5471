// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! TOA: gives accepted connections the client's address that a load balancer wrote into a TCP option.
//!
//! When a connection is established, its third ACK (or the first data packet) is searched, then the saved SYN, then
//! a bounded number of later packets. Trust: only where the connection's peer is a configured load balancer, and
//! only that one's format. What was found lies in socket storage; getpeername() and accept() read it there.
//! Everything else is counted and left as it is.
//!
//! An IPv4 socket address cannot say an IPv6 client (NAT64): servers that know of it ask by getsockopt(), as they ask DPVS's
//! kernel module.
//!
//! UDP: see [`crate::uoa`].

mod ends;
mod options;
mod record;

use aya_ebpf::bindings::{
    BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG, BPF_SOCK_OPS_PARSE_HDR_OPT_CB,
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, bpf_sock, bpf_sock_addr, bpf_sockopt,
};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::{SockAddrContext, SockOpsContext, SockoptContext};
use turnpike_ebpf_abi::bypass::Admit;
use turnpike_ebpf_abi::{Counter, Nat64Peer, PodEntry, ToaConfig, ToaOutcome, ToaSock};

use ends::Ends;
use options::Found;

#[map(name = "TPK_TOA_CONF")]
static CONFIG: Array<ToaConfig> = Array::with_max_entries(1, 0);
#[btf_map(name = "TPK_TOA_SOCK")]
static SOCKETS: SkStorage<ToaSock> = SkStorage::new();

const IPPROTO_TCP: i32 = 6;
const TCP_SAVE_SYN: i32 = 27;
/// The saved SYN from its TCP header on (linux/bpf.h).
const TCP_BPF_SYN: i32 = 1005;

/// What is to be counted.
pub enum Outcome {
    /// Nothing.
    Nothing,
    /// An event.
    Counted(Counter),
    /// A client found in a later packet: a hit, and late.
    Late,
}

/// A socket event.
#[inline(always)]
pub fn event(ctx: &SockOpsContext) -> Outcome {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_LISTEN_CB => listen(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established(ctx),
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB => later_packet(ctx),
        _ => Outcome::Nothing,
    }
}

/// Lets a listener keep the SYNs, where a load balancer writes there only.
#[inline(always)]
fn listen(ctx: &SockOpsContext) -> Outcome {
    let save = CONFIG.get(0).is_some_and(|config| config.flags & ToaConfig::SAVE_SYN != 0);
    if save {
        let mut on: i32 = 1;
        // A kernel that refuses it finds no option in SYNs; connections work all the same.
        // SAFETY: the pointer and the length describe one local value.
        unsafe {
            helpers::bpf_setsockopt(
                ctx.ops.cast(),
                IPPROTO_TCP,
                TCP_SAVE_SYN,
                (&raw mut on).cast(),
                size_of::<i32>() as i32,
            )
        };
    }
    Outcome::Nothing
}

#[inline(always)]
fn established(ctx: &SockOpsContext) -> Outcome {
    let Some(ends) = ends::read(ctx) else {
        return Outcome::Nothing;
    };
    let (format, group) = crate::bypass::toa_of(&ends.peer);
    if format == 0 {
        let kind = options::seen_kind(ctx.ops, 0);
        if kind == 0 {
            return Outcome::Nothing;
        }
        return record::without_socket(&ends, ToaOutcome::Untrusted, 0, kind);
    }
    let shows_director = |pod: &PodEntry| {
        pod.flags & PodEntry::NO_TOA != 0
            || pod.flags & PodEntry::SELECTIVE != 0 && !crate::bypass::admits(&ends.pod, group, Admit::TOA)
    };
    if crate::bypass::pod(&ends.pod).is_some_and(shows_director) {
        return record::without_socket(&ends, ToaOutcome::OptedOut, format, 0);
    }
    let Some(record) = storage(ctx, BPF_SK_STORAGE_GET_F_CREATE as u64) else {
        return record::without_socket(&ends, ToaOutcome::Miss, format, 0);
    };
    let (late, save_syn) = CONFIG
        .get(0)
        .map_or((0, false), |config| (config.late_packets, config.flags & ToaConfig::SAVE_SYN != 0));
    record.state = ToaSock::PENDING;
    record.format = format as u8;
    record.tries = late.min(255) as u8;
    options::copy_from_packet(ctx.ops, record);
    let mut found = options::search(record, false);
    let mut outcome = ToaOutcome::Hit;
    if found == Found::Nothing && save_syn {
        options::copy_from_syn(ctx.ops, record);
        found = options::search(record, true);
        outcome = ToaOutcome::HitSyn;
    }
    settle(ctx, record, found, &ends, outcome)
}

/// A packet of a connection whose option was not seen yet.
#[inline(always)]
fn later_packet(ctx: &SockOpsContext) -> Outcome {
    let Some(record) = storage(ctx, 0) else {
        return Outcome::Nothing;
    };
    if record.state != ToaSock::PENDING {
        watch(ctx, false);
        return Outcome::Nothing;
    }
    let Some(ends) = ends::read(ctx) else {
        return Outcome::Nothing;
    };
    options::copy_from_packet(ctx.ops, record);
    let found = options::search(record, false);
    settle(ctx, record, found, &ends, ToaOutcome::HitLate)
}

/// Draws the conclusion from one packet; `hit` is the outcome if it told the client.
#[inline(always)]
fn settle(ctx: &SockOpsContext, record: &mut ToaSock, found: Found, ends: &Ends, hit: ToaOutcome) -> Outcome {
    let seen = if found == Found::Client { 0 } else { options::seen_kind(ctx.ops, record.format) };
    match found {
        Found::Client => {
            record.state = ToaSock::FOUND;
            watch(ctx, false);
            record::with_socket(ends, record, hit, seen)
        }
        Found::Malformed => {
            let outcome = record::with_socket(ends, record, ToaOutcome::Malformed, seen);
            forget(ctx);
            outcome
        }
        Found::Nothing if record.tries == 0 => {
            let outcome = record::with_socket(ends, record, ToaOutcome::Miss, seen);
            forget(ctx);
            outcome
        }
        Found::Nothing => {
            record.tries -= 1;
            watch(ctx, true);
            record::with_socket(ends, record, ToaOutcome::Pending, seen)
        }
    }
}

/// Asks for, or ends, a call for each packet. Other programs' wishes are kept.
#[inline(always)]
fn watch(ctx: &SockOpsContext, on: bool) {
    let flags = ctx.cb_flags();
    let flag = BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG;
    let wanted = if on { flags | flag } else { flags & !flag };
    if wanted != flags {
        let _ = ctx.set_cb_flags(wanted as i32);
    }
}

/// Gives up on a connection: it keeps the load balancer's address.
#[inline(always)]
fn forget(ctx: &SockOpsContext) {
    watch(ctx, false);
    let socket = socket(ctx);
    if !socket.is_null() {
        // SAFETY: our map, and a socket that the verifier knows to be one.
        unsafe { helpers::bpf_sk_storage_delete((&raw const SOCKETS).cast_mut().cast(), socket.cast()) };
    }
}

#[inline(always)]
fn socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: the kernel's context is valid for the whole program.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk }
}

#[inline(always)]
fn storage(ctx: &SockOpsContext, flags: u64) -> Option<&'static mut ToaSock> {
    let socket = socket(ctx);
    if socket.is_null() {
        return None;
    }
    // SAFETY: our map, a socket that the verifier knows to be one, and no initial value (zeroes). The record lives as
    // long as the socket, whose lock the kernel holds during these events.
    unsafe {
        helpers::bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            socket.cast(),
            core::ptr::null_mut(),
            flags,
        )
        .cast::<ToaSock>()
        .as_mut()
    }
}

/// What is known of a connection.
#[inline(always)]
fn known(socket: *mut bpf_sock) -> Option<&'static ToaSock> {
    // SAFETY: callers pass their context's socket; our map; the record lives as long as the socket.
    let record = unsafe {
        helpers::bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            socket.cast(),
            core::ptr::null_mut(),
            0,
        )
        .cast::<ToaSock>()
        .as_ref()?
    };
    (record.state == ToaSock::FOUND).then_some(record)
}

/// getpeername() on an IPv4 socket.
#[inline(always)]
pub fn peer4(ctx: &SockAddrContext) {
    // SAFETY: the kernel's context is valid for the whole program.
    let Some(record) = known(unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }) else {
        return;
    };
    let [_, _, _, d] = words(record);
    if is_ipv4(record) {
        let address: *mut bpf_sock_addr = ctx.sock_addr;
        // SAFETY: the kernel's context is valid for the whole program.
        unsafe { (&raw mut (*address).user_ip4).write_volatile(d) };
        set_port(ctx, record);
    }
}

/// getpeername() on an IPv6 socket; IPv4 clients show as `::ffff:a.b.c.d`.
#[inline(always)]
pub fn peer6(ctx: &SockAddrContext) {
    // SAFETY: the kernel's context is valid for the whole program.
    let Some(record) = known(unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }) else {
        return;
    };
    let [a, b, c, d] = words(record);
    let address: *mut bpf_sock_addr = ctx.sock_addr;
    // Volatile: merged into wider stores the verifier would refuse them.
    // SAFETY: the kernel's context is valid for the whole program.
    unsafe {
        let field = (&raw mut (*address).user_ip6).cast::<u32>();
        field.write_volatile(a);
        field.add(1).write_volatile(b);
        field.add(2).write_volatile(c);
        field.add(3).write_volatile(d);
    }
    set_port(ctx, record);
}

/// getsockopt() for [`Nat64Peer`]. Without an IPv6 client, or with too little room, the kernel's answer stands: the
/// option is unknown.
#[inline(always)]
pub fn nat64_peer(ctx: &SockoptContext) {
    let option: *mut bpf_sockopt = ctx.sockopt;
    // SAFETY: the kernel's context is valid for the whole program.
    let (level, name, socket) =
        unsafe { ((*option).level, (*option).optname, (*option).__bindgen_anon_1.sk) };
    if level != Nat64Peer::LEVEL || name != Nat64Peer::NAME {
        return;
    }
    let Some(record) = known(socket).filter(|record| !is_ipv4(record)) else {
        return;
    };
    // SAFETY: as above; the answer is written where the bounds that the kernel gives have room for it.
    unsafe {
        let answer = (*option).__bindgen_anon_2.optval.cast::<Nat64Peer>();
        if answer.add(1).cast() > (*option).__bindgen_anon_3.optval_end {
            return;
        }
        answer.write(Nat64Peer { address: words(record), port_be: record.port_be, zero: 0 });
        (&raw mut (*option).optlen).write_volatile(size_of::<Nat64Peer>() as i32);
        (&raw mut (*option).retval).write_volatile(0);
    }
}

#[inline(always)]
fn is_ipv4(record: &ToaSock) -> bool {
    let [a, b, c, _] = words(record);
    a | b == 0 && c == 0xffff_0000u32.to_le()
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, record: &ToaSock) {
    let port = record.port_be;
    if port != 0 {
        let address: *mut bpf_sock_addr = ctx.sock_addr;
        // SAFETY: the kernel's context is valid for the whole program.
        unsafe { (&raw mut (*address).user_port).write_volatile(u32::from(port)) };
    }
}

#[inline(always)]
fn words(record: &ToaSock) -> [u32; 4] {
    // SAFETY: the same 16 bytes in the same order; the record is aligned to four.
    unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(record.client) }
}
