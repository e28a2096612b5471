// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! The eBPF programs: load-balancer bypass, anti-spoofing, limits, TOA.
//!
//! Owner: `ebpf/`. Each entry point here ends in one exhaustive match from outcome to verdict; everything else is in
//! the modules. tc programs answer `TC_ACT_UNSPEC` for "go on", so that other TCX programs and tc filters still run.

#![no_std]
#![no_main]

mod bypass;
mod class;
mod codel;
mod count;
mod exempt;
mod flows;
mod mark;
mod packet;
mod route;
mod shadow;
mod spoof;
mod toa;
mod uoa;

use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr, cgroup_sockopt, classifier, sock_ops};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockOpsContext, SockoptContext, TcContext};
use turnpike_ebpf_abi::MarkConfig;

/// Let the packet go on through the stack.
const PASS: i32 = -1;
/// Let it go on through the stack, past the filters behind us: the redirect to a limit.
const END: i32 = 0;
/// Drop the packet.
const DROP: i32 = 2;

/// tc ingress on an uplink: packets of trusted load balancers straight into the pod.
#[classifier]
pub fn uplink(ctx: TcContext) -> i32 {
    match bypass::towards_pod(&ctx) {
        bypass::Outcome::NotOurs => {
            uoa::uncover(&ctx);
            PASS
        }
        bypass::Outcome::Stack(counter, reason) => {
            count::add(counter);
            count::to_pod(&ctx, reason);
            uoa::uncover(&ctx);
            PASS
        }
        bypass::Outcome::Redirected(verdict, counter, reason) => {
            count::add(counter);
            count::to_pod(&ctx, reason);
            verdict
        }
    }
}

/// tc ingress on a host veth: only the pod's own addresses; then the reverse of `uplink`.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let veth = match spoof::check(&ctx) {
        spoof::Checked::Drop(counter) => {
            count::add(counter);
            return DROP;
        }
        spoof::Checked::Local => return PASS,
        spoof::Checked::Ip(veth) => veth,
    };
    class::note(&ctx, veth);
    let exempt = exempt::from_pod(&ctx, veth);
    if !exempt {
        shadow::from_pod(&ctx, veth);
    }
    // What need not wait in the queue of the pod's limit, and was counted there, may take the short way.
    let at_once = exempt || mark::at_once(&ctx, veth.queue);
    let pass = if at_once { END } else { PASS };
    match bypass::from_pod(&ctx, veth, at_once) {
        bypass::Outcome::NotOurs => pass,
        bypass::Outcome::Stack(counter, reason) => {
            count::add(counter);
            count::from_pod(&ctx, reason);
            pass
        }
        bypass::Outcome::Redirected(verdict, counter, reason) => {
            count::add(counter);
            count::from_pod(&ctx, reason);
            verdict
        }
    }
}

/// Classifier of the HTB on a limited link: the virtual queue, and the real one that the packet is for.
#[classifier]
pub fn queue(ctx: TcContext) -> i32 {
    match mark::limit(&ctx, 0) {
        mark::Outcome::Dropped => DROP,
        mark::Outcome::Unlimited => END,
        mark::Outcome::Passed { class, .. } => {
            mark::choose(&ctx, class);
            END
        }
    }
}

/// tc egress on a limited link: the virtual queue where fq is behind it, and that of a limit in shadow. On the host veth
/// of a pod with exempt ranges, whose limit is at an ifb, it tells what goes there.
#[classifier]
pub fn mark(ctx: TcContext) -> i32 {
    match mark::limit(&ctx, MarkConfig::PACED) {
        mark::Outcome::Unlimited if exempt::to_pod(&ctx) => return END,
        mark::Outcome::Unlimited => {}
        mark::Outcome::Dropped => return DROP,
        mark::Outcome::Passed { departure, .. } => mark::depart(&ctx, departure),
    }
    shadow::to_pod(&ctx);
    PASS
}

/// tc egress on an uplink with a node tree: the class that `from_pod` noted becomes HTB's. Never drops.
#[classifier]
pub fn classify(ctx: TcContext) -> i32 {
    class::choose(&ctx);
    PASS
}

/// Finds the client's address when a connection from a load balancer is accepted.
#[sock_ops]
pub fn toa_sockops(ctx: SockOpsContext) -> u32 {
    match toa::event(&ctx) {
        toa::Outcome::Counted(counter) => count::add(counter),
        toa::Outcome::Late => {
            count::add(turnpike_ebpf_abi::Counter::ToaHit);
            count::add(turnpike_ebpf_abi::Counter::ToaLate);
        }
        toa::Outcome::Nothing => {}
    }
    1
}

/// Answers getpeername() on IPv4 sockets with the client's address.
#[cgroup_sock_addr(getpeername4)]
pub fn toa_getpeername4(ctx: SockAddrContext) -> i32 {
    toa::peer4(&ctx);
    1
}

/// Answers getpeername() on IPv6 sockets with the client's address.
#[cgroup_sock_addr(getpeername6)]
pub fn toa_getpeername6(ctx: SockAddrContext) -> i32 {
    toa::peer6(&ctx);
    1
}

/// Answers the getsockopt() by which servers ask for the IPv6 client of an IPv4 connection. Other options are the kernel's.
#[cgroup_sockopt(getsockopt)]
pub fn toa_getsockopt(ctx: SockoptContext) -> i32 {
    toa::nat64_peer(&ctx);
    1
}

/// Reads UOA from what reaches a socket. Drops nothing.
#[cgroup_skb(ingress)]
pub fn uoa_ingress(ctx: SkBuffContext) -> i32 {
    if let Some(counter) = uoa::learn(&ctx) {
        uoa::count(counter);
    }
    1
}

/// recvmsg() of an IPv4 datagram: the client instead of its director.
#[cgroup_sock_addr(recvmsg4)]
pub fn uoa_recvmsg4(ctx: SockAddrContext) -> i32 {
    uoa::other_end4(&ctx, uoa::Way::Received);
    1
}

/// recvmsg() on an IPv6 socket, IPv4 datagrams as `::ffff:a.b.c.d` among them.
#[cgroup_sock_addr(recvmsg6)]
pub fn uoa_recvmsg6(ctx: SockAddrContext) -> i32 {
    uoa::other_end6(&ctx, uoa::Way::Received);
    1
}

/// sendmsg() of an IPv4 datagram: to the director instead of its client.
#[cgroup_sock_addr(sendmsg4)]
pub fn uoa_sendmsg4(ctx: SockAddrContext) -> i32 {
    uoa::other_end4(&ctx, uoa::Way::Sent);
    1
}

/// sendmsg() of an IPv6 datagram.
#[cgroup_sock_addr(sendmsg6)]
pub fn uoa_sendmsg6(ctx: SockAddrContext) -> i32 {
    uoa::other_end6(&ctx, uoa::Way::Sent);
    1
}

/// The licence that GPL-only helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses an object in which this can be reached.
    loop {}
}
