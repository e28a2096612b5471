// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Names of programs and maps. The kernel keeps 15 characters of a map's name.

/// tc ingress on an uplink: load-balancer traffic straight into the pod.
pub const PROG_UPLINK: &str = "uplink";
/// tc ingress on a host veth: anti-spoofing, then the reverse of `uplink`.
pub const PROG_FROM_POD: &str = "from_pod";
/// Classifier of the HTB of a limited link: virtual clock, queues by flow, CE marks and early drops.
pub const PROG_QUEUE: &str = "queue";
/// tc egress on a limited link: the same where fq is behind it; limits in shadow, exempt ranges.
pub const PROG_MARK: &str = "mark";
/// tc egress on an uplink with a node tree: the pod's class as the packet's priority.
pub const PROG_CLASSIFY: &str = "classify";
/// sock_ops: reads the client's address from TCP options.
pub const PROG_TOA_SOCKOPS: &str = "toa_sockops";
/// getpeername on IPv4 sockets (also `accept`).
pub const PROG_TOA_PEER4: &str = "toa_getpeername4";
/// getpeername on IPv6 sockets (also `accept`).
pub const PROG_TOA_PEER6: &str = "toa_getpeername6";
/// getsockopt for the IPv6 client of an IPv4 socket (NAT64).
pub const PROG_TOA_SOCKOPT: &str = "toa_getsockopt";
/// cgroup ingress: reads the client's address of a UDP session.
pub const PROG_UOA_INGRESS: &str = "uoa_ingress";
/// recvmsg of IPv4 datagrams.
pub const PROG_UOA_RECV4: &str = "uoa_recvmsg4";
/// recvmsg on IPv6 sockets.
pub const PROG_UOA_RECV6: &str = "uoa_recvmsg6";
/// sendmsg of IPv4 datagrams.
pub const PROG_UOA_SEND4: &str = "uoa_sendmsg4";
/// sendmsg of IPv6 datagrams.
pub const PROG_UOA_SEND6: &str = "uoa_sendmsg6";

/// Every program.
pub const PROGRAMS: [&str; 14] = [
    PROG_UPLINK,
    PROG_FROM_POD,
    PROG_QUEUE,
    PROG_MARK,
    PROG_CLASSIFY,
    PROG_TOA_SOCKOPS,
    PROG_TOA_PEER4,
    PROG_TOA_PEER6,
    PROG_TOA_SOCKOPT,
    PROG_UOA_INGRESS,
    PROG_UOA_RECV4,
    PROG_UOA_RECV6,
    PROG_UOA_SEND4,
    PROG_UOA_SEND6,
];

/// LPM trie: [`crate::LpmKey`] → [`crate::LbSource`].
pub const MAP_LB_SOURCES: &str = "TPK_LB_SOURCES";
/// Hash: [`crate::PortKey`] → `u8` (1).
pub const MAP_LB_PORTS: &str = "TPK_LB_PORTS";
/// Hash: [`crate::bypass::AdmitKey`] → bits of [`crate::bypass::Admit`].
pub const MAP_LB_ADMITS: &str = "TPK_LB_ADMITS";
/// Hash: [`crate::Addr`] of a local pod → [`crate::PodEntry`].
pub const MAP_PODS: &str = "TPK_PODS";
/// Hash: ifindex of a host veth → [`crate::Veth`].
pub const MAP_VETHS: &str = "TPK_VETHS";
/// Hash: ifindex of an uplink → [`crate::Uplink`].
pub const MAP_UPLINKS: &str = "TPK_UPLINKS";
/// LRU hash: [`crate::bypass::FlowKey`] → `u8`: connections that pods opened to directors.
pub const MAP_POD_FLOWS: &str = "TPK_POD_FLOWS";
/// Hash: ifindex → [`crate::MarkConfig`].
pub const MAP_MARK_CONF: &str = "TPK_MARK_CONF";
/// Hash: ifindex → [`crate::MarkState`].
pub const MAP_MARK_STATE: &str = "TPK_MARK_STATE";
/// Hash: ifindex → [`crate::FlowTable`].
pub const MAP_MARK_FLOWS: &str = "TPK_MARK_SHARES";
/// Array of one: `u32`, 1 while there is any shadow limit, so that packets of the others pay next to nothing.
pub const MAP_SHADOW_ON: &str = "TPK_SHADOW_ON";
/// Hash: ifindex or [`crate::MarkConfig::shadow_from_pod_key`] → [`crate::MarkConfig`].
pub const MAP_SHADOW_CONF: &str = "TPK_SHADOW_CONF";
/// Hash: the same key → [`crate::MarkState`].
pub const MAP_SHADOW_STATE: &str = "TPK_SHADOW_STAT";
/// LPM trie: [`crate::ExemptKey`] → `u8` (1).
pub const MAP_EXEMPT: &str = "TPK_EXEMPT";
/// Array of one: [`crate::ToaConfig`].
pub const MAP_TOA_CONF: &str = "TPK_TOA_CONF";
/// Socket storage: [`crate::ToaSock`].
pub const MAP_TOA_SOCK: &str = "TPK_TOA_SOCK";
/// Per-CPU hash: [`crate::Addr`] of a local pod → [`crate::ToaTally`]; user space makes entries, programs count.
pub const MAP_TOA_PODS: &str = "TPK_TOA_PODS";
/// LRU hash: [`crate::bypass::FlowKey`] → [`crate::ToaEvent`]: the latest connections.
pub const MAP_TOA_EVENTS: &str = "TPK_TOA_EVENTS";
/// Per-CPU hash: [`crate::LbSource::group`] → [`crate::LbStats`]; user space makes entries, programs count.
pub const MAP_LB_STATS: &str = "TPK_LB_STATS";
/// LRU hash: [`crate::uoa::UoaKey`] of a director → its client as a [`crate::uoa::UoaPeer`].
pub const MAP_UOA_CLIENTS: &str = "TPK_UOA_CLIENT";
/// LRU hash: [`crate::uoa::UoaKey`] of a client → its director as a [`crate::uoa::UoaPeer`].
pub const MAP_UOA_DIRECTORS: &str = "TPK_UOA_LB";
/// Per-CPU array: [`crate::uoa::UoaCounter`] → `u64`.
pub const MAP_UOA_COUNTERS: &str = "TPK_UOA_COUNT";
/// Per-CPU array: [`crate::Counter`] → `u64`.
pub const MAP_COUNTERS: &str = "TPK_COUNTERS";

/// Every map.
pub const MAPS: [&str; 23] = [
    MAP_LB_SOURCES,
    MAP_LB_PORTS,
    MAP_LB_ADMITS,
    MAP_PODS,
    MAP_VETHS,
    MAP_UPLINKS,
    MAP_POD_FLOWS,
    MAP_MARK_CONF,
    MAP_MARK_STATE,
    MAP_MARK_FLOWS,
    MAP_SHADOW_ON,
    MAP_SHADOW_CONF,
    MAP_SHADOW_STATE,
    MAP_EXEMPT,
    MAP_TOA_CONF,
    MAP_TOA_SOCK,
    MAP_TOA_PODS,
    MAP_TOA_EVENTS,
    MAP_LB_STATS,
    MAP_UOA_CLIENTS,
    MAP_UOA_DIRECTORS,
    MAP_UOA_COUNTERS,
    MAP_COUNTERS,
];

/// Capacity of [`MAP_LB_SOURCES`].
pub const MAX_LB_SOURCES: u32 = 4096;
/// Capacity of [`MAP_LB_PORTS`].
pub const MAX_LB_PORTS: u32 = 4096;
/// Capacity of [`MAP_LB_ADMITS`].
pub const MAX_LB_ADMITS: u32 = 65536;
/// Capacity of [`MAP_PODS`]: two addresses each for 1024 pods, twice over for address changes.
pub const MAX_PODS: u32 = 4096;
/// Capacity of [`MAP_VETHS`], and of the maps of marks and shadow limits.
pub const MAX_LINKS: u32 = 4096;
/// Capacity of [`MAP_EXEMPT`].
pub const MAX_EXEMPT: u32 = 16384;
/// Capacity of [`MAP_UPLINKS`].
pub const MAX_UPLINKS: u32 = 64;
/// Capacity of [`MAP_TOA_EVENTS`].
pub const MAX_TOA_EVENTS: u32 = 4096;
/// Capacity of [`MAP_UOA_CLIENTS`] and [`MAP_UOA_DIRECTORS`]: UDP sessions of the node whose client is known.
pub const MAX_UOA: u32 = 32768;
/// Capacity of [`MAP_POD_FLOWS`].
pub const MAX_POD_FLOWS: u32 = 16384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_names_fit_the_kernel() {
        for name in MAPS {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
