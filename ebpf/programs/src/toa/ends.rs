// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Who talks to whom on a socket.

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::programs::SockOpsContext;
use turnpike_ebpf_abi::Addr;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Both ends of a connection.
pub struct Ends {
    pub pod: Addr,
    pub peer: Addr,
    pub pod_port_be: u16,
    pub peer_port_be: u16,
}

/// The ends of the event's connection; `None` for other families.
#[inline(always)]
pub fn read(ctx: &SockOpsContext) -> Option<Ends> {
    let ops: *mut bpf_sock_ops = ctx.ops;
    // Volatile, and all of them before the decision: LLVM would otherwise share one load at a computed offset between
    // the two families, or merge two fields into one load, and the verifier refuses either.
    // SAFETY: the kernel's context is valid for the whole program.
    let (family, peer4, peer6, pod4, pod6, peer_port, pod_port) = unsafe {
        (
            (&raw const (*ops).family).read_volatile(),
            (&raw const (*ops).remote_ip4).read_volatile(),
            four((&raw const (*ops).remote_ip6).cast::<u32>()),
            (&raw const (*ops).local_ip4).read_volatile(),
            four((&raw const (*ops).local_ip6).cast::<u32>()),
            (&raw const (*ops).remote_port).read_volatile(),
            (&raw const (*ops).local_port).read_volatile(),
        )
    };
    let (pod, peer) = match family {
        AF_INET => (Addr::from_v4(pod4.to_ne_bytes()), Addr::from_v4(peer4.to_ne_bytes())),
        AF_INET6 => (from_words(pod6), from_words(peer6)),
        _ => return None,
    };
    // The context has the peer's port in network byte order in the upper half, ours in host byte order.
    Some(Ends { pod, peer, pod_port_be: (pod_port as u16).to_be(), peer_port_be: (peer_port >> 16) as u16 })
}

#[inline(always)]
unsafe fn four(words: *const u32) -> [u32; 4] {
    // SAFETY: the caller's pointer is to four words of the context.
    unsafe {
        [
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ]
    }
}

#[inline(always)]
fn from_words(words: [u32; 4]) -> Addr {
    // SAFETY: the same 16 bytes in the same order.
    Addr(unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) })
}
