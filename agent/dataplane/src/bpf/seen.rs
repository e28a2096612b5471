//! What the programs have seen, for people and metrics. Reads maps only.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use turnpike_ebpf_loader::abi::bypass::FlowKey;
use turnpike_ebpf_loader::abi::{Addr, LbStats, LpmKey, ToaEvent, ToaTally, names};
use turnpike_ebpf_loader::{AttachMode, Attachment, Error, Hook, UOA_PROGRAMS};
use turnpike_model::desired::DesiredState;

use super::{Bpf, entries, words};

/// What went to and from the directors of one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbTraffic {
    /// The prefix, as a `LoadBalancerSource` lists it.
    pub prefix: IpNetwork,
    /// Packets and bytes by direction and reason, since the source was put in force.
    pub stats: LbStats,
}

/// A connection that TOA has looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToaConnection {
    /// The pod's end.
    pub pod: SocketAddr,
    /// The other end: the director.
    pub peer: SocketAddr,
    /// What came of it.
    pub event: ToaEvent,
}

/// What TOA did for one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToaOfPod {
    /// Counters of all its addresses together.
    pub tally: ToaTally,
    /// The latest connections, newest first.
    pub connections: Vec<ToaConnection>,
}

/// What is attached where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HooksInForce {
    /// Interface indices with the bypass on their way in, and how it is attached: `TCX` or `clsact`.
    pub uplinks: Vec<(u32, &'static str)>,
    /// TOA programs attached to the configured cgroup, of three.
    pub toa_programs: usize,
    /// getsockopt() tells IPv6 clients of IPv4 sockets there.
    pub toa_nat64: bool,
    /// UDP servers are told their clients there.
    pub uoa: bool,
    /// The cgroup's path; `None` where none is configured.
    pub toa_cgroup: Option<std::path::PathBuf>,
}

/// Connections of one pod that are remembered at the most.
const LATEST: usize = 20;

impl Bpf {
    /// What went past each bypassing prefix.
    pub(crate) fn lb_traffic(&self, desired: &DesiredState) -> Result<Vec<LbTraffic>, String> {
        let programs = self.programs.as_ref().map_err(Clone::clone)?;
        let (sources, _) = entries::lb_sources(desired, &[]);
        let prefixes = desired.lb_sources.values().flat_map(|source| source.cidrs.iter());
        let mut traffic = Vec::new();
        for prefix in prefixes.collect::<std::collections::BTreeSet<_>>() {
            let source =
                LpmKey::new(prefix.network(), prefix.prefix()).and_then(|key| sources.get(&key).copied());
            let Some(source) = source else { continue };
            let stats = programs.maps().lb_stats.get(&source.group).map_err(|error| words(&error))?;
            traffic.extend(stats.map(|stats| LbTraffic { prefix: *prefix, stats }));
        }
        Ok(traffic)
    }

    /// What TOA did for the pod with these addresses.
    pub(crate) fn toa_of(&self, addresses: &[IpAddr]) -> Result<ToaOfPod, String> {
        let programs = self.programs.as_ref().map_err(Clone::clone)?;
        let maps = programs.maps();
        let read = || -> Result<ToaOfPod, Error> {
            let mut seen = ToaOfPod::default();
            for address in addresses {
                if let Some(tally) = maps.toa_pods.get(&Addr::from(*address))? {
                    add(&mut seen.tally, &tally);
                }
            }
            let events = maps.toa_events.entries()?;
            let own = events.into_iter().map(|(flow, event)| connection(&flow, event));
            seen.connections = own.filter(|known| addresses.contains(&known.pod.ip())).collect();
            seen.connections.sort_by_key(|known| std::cmp::Reverse(known.event.at_ns));
            seen.connections.truncate(LATEST);
            Ok(seen)
        };
        read().map_err(|error| words(&error))
    }

    /// What is attached where.
    pub(crate) fn hooks_in_force(&self) -> Result<HooksInForce, String> {
        let programs = self.programs.as_ref().map_err(Clone::clone)?;
        let mut hooks = HooksInForce { toa_cgroup: self.cgroup.clone(), ..HooksInForce::default() };
        let mut uoa = 0;
        for attachment in programs.attachments().map_err(|error| words(&error))? {
            match attachment {
                Attachment::Link { hook: Hook::Uplink, ifindex, mode } => {
                    let mode = if mode == AttachMode::Clsact { "clsact" } else { "TCX" };
                    hooks.uplinks.push((ifindex, mode));
                }
                Attachment::Link { .. } => {}
                Attachment::Cgroup { cgroup, .. } if self.toa.is_none_or(|toa| toa.cgroup != cgroup) => {}
                Attachment::Cgroup { program: names::PROG_TOA_SOCKOPT, .. } => hooks.toa_nat64 = true,
                Attachment::Cgroup { program, .. } if UOA_PROGRAMS.contains(&program) => uoa += 1,
                Attachment::Cgroup { .. } => hooks.toa_programs += 1,
            }
        }
        hooks.uoa = uoa == UOA_PROGRAMS.len();
        Ok(hooks)
    }
}

fn connection(flow: &FlowKey, event: ToaEvent) -> ToaConnection {
    let end = |address: Addr, port_be: u16| SocketAddr::new(IpAddr::from(address), u16::from_be(port_be));
    ToaConnection { pod: end(flow.pod, flow.pod_port_be), peer: end(flow.peer, flow.peer_port_be), event }
}

fn add(sum: &mut ToaTally, more: &ToaTally) {
    sum.hit = sum.hit.saturating_add(more.hit);
    sum.late = sum.late.saturating_add(more.late);
    sum.miss = sum.miss.saturating_add(more.miss);
    sum.untrusted = sum.untrusted.saturating_add(more.untrusted);
    sum.malformed = sum.malformed.saturating_add(more.malformed);
    sum.opted_out = sum.opted_out.saturating_add(more.opted_out);
}
