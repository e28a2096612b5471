//! What the kernel counts anyway, read about once a second: bytes of links and queues, marks, drops, backlogs.
//!
//! One dump of link statistics and, where a pod has a limit, one of the limiters' maps; without eBPF one of qdiscs. A few system
//! calls, however many pods there are. Nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use turnpike_ebpf_loader::abi::{MarkConfig, MarkState};
use turnpike_model::desired::{BitsPerSecond, Endpoint, Limits};

use crate::netlink::{Netlink, Request, attr};
use crate::tc::leaf::{self, LeafQueue};
use crate::tc::pacer::Pacer;
use crate::tc::{self, QueueStats, Target, uplink};
use crate::{Dataplane, DataplaneError, endpoint};

const RTM_GETSTATS: u16 = 94;
/// `struct if_stats_msg`: family, padding, index, filter.
const STATS_HEADER: usize = 12;
const IFLA_STATS_LINK_64: u16 = 1;
/// Offsets in `struct rtnl_link_stats64`.
const RX_BYTES: usize = 16;
const TX_BYTES: usize = 24;

/// One direction of a pod, or one class of an uplink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueUsage {
    /// Bytes so far. With a limit: those of its queue, every segment of a GSO packet with its headers; without:
    /// those of the link, GSO packets with one header.
    pub bytes: u64,
    /// `bytes` are the queue's.
    pub queued: bool,
    /// Packets that were dropped.
    pub drops: u64,
    /// Bytes that wait in the queue.
    pub backlog: u64,
    /// Packets that the limiter gave a CE mark.
    pub marked: u64,
    /// Packets of those dropped that went early, because they cannot carry a mark.
    pub not_capable: u64,
    /// What the limit in shadow would have done, where there is one.
    pub shadow: Option<ShadowUsage>,
}

/// What a limit that changes nothing would have done since it was set. A GSO packet is one packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShadowUsage {
    /// Packets seen.
    pub packets: u64,
    /// Packets that would have got a CE mark.
    pub marked: u64,
    /// Packets of those dropped that would have gone early, because they cannot carry a mark.
    pub not_capable: u64,
    /// Packets of which something would have been dropped.
    pub dropped: u64,
}

/// A pod's two directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// What it receives.
    pub to_workload: QueueUsage,
    /// What it sends.
    pub from_workload: QueueUsage,
}

/// An interface with a default route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UplinkUsage {
    /// Interface name.
    pub name: String,
    /// As the driver says; virtual links may say nothing, or 10 Gbit/s whatever they are.
    pub speed: Option<BitsPerSecond>,
    /// Bytes that left through it.
    pub sent: u64,
    /// Bytes that came in.
    pub received: u64,
    /// Leaves of the node tree, by number.
    pub classes: BTreeMap<u16, ClassUsage>,
}

/// A leaf of the node tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassUsage {
    /// Guarantee in bits per second.
    pub guarantee: u64,
    /// Ceiling in bits per second.
    pub ceiling: u64,
    /// Its counters.
    pub usage: QueueUsage,
}

/// Number of the host's leaf.
pub const HOST_CLASS: u16 = tc::HOST;

/// All of a node at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageSample {
    /// By host link.
    pub pods: BTreeMap<Arc<str>, PodUsage>,
    /// In order of their names.
    pub uplinks: Vec<UplinkUsage>,
    /// What holds packets back at limits.
    pub pacer: Option<Pacer>,
    /// What stands in the queues of classes.
    pub leaf_queue: Option<LeafQueue>,
}

#[derive(Debug, Clone, Copy, Default)]
struct LinkBytes {
    received: u64,
    sent: u64,
}

/// What the kernel has counted for all links of the node.
struct Counted {
    links: BTreeMap<u32, LinkBytes>,
    /// Without a limiter of ours.
    queues: BTreeMap<u32, QueueStats>,
    limiters: BTreeMap<u32, (MarkConfig, MarkState)>,
    shadows: BTreeMap<u32, MarkState>,
}

impl Dataplane {
    fn count(&mut self) -> Result<Counted, DataplaneError> {
        let endpoints = || self.desired.iter().flat_map(|desired| desired.endpoints.values());
        let limited = endpoints().any(|endpoint| endpoint.limits != Limits::default());
        let in_shadow = endpoints().any(|endpoint| !endpoint.shadow.is_none());
        let by_program = self.pacer() != Pacer::Tbf;
        Ok(Counted {
            limiters: if limited && by_program { self.bpf.limiters() } else { BTreeMap::new() },
            shadows: if in_shadow { self.bpf.shadows() } else { BTreeMap::new() },
            queues: if limited && !by_program {
                tc::limit_stats(&mut self.netlink)?
            } else {
                BTreeMap::new()
            },
            links: link_bytes(&mut self.netlink)?,
        })
    }

    /// Reads the counters of all endpoints of the state that was applied last, and of the node's uplinks.
    ///
    /// Bypassed packets towards a pod without a limit are not in its bytes: they go past its host link.
    ///
    /// # Errors
    /// Netlink failed.
    pub fn usage(&mut self) -> Result<UsageSample, DataplaneError> {
        let counted = self.count()?;
        let busy = counted.limiters.iter().filter(|(_, (law, state))| has_held(law, state));
        self.flow_queues.heed(busy.map(|(link, _)| *link));
        let mut sample = UsageSample {
            pacer: Some(self.pacer()),
            leaf_queue: Some(self.leaf_queue),
            ..UsageSample::default()
        };
        for endpoint in self.desired.iter().flat_map(|desired| desired.endpoints.values()) {
            let Some((name, veth)) = self.indices.get_key_value(endpoint.host_link.as_str()) else {
                continue;
            };
            if let Some(usage) = self.pod_usage((endpoint, *veth), &counted) {
                sample.pods.insert(Arc::clone(name), usage);
            }
        }
        let found = self.uplinks.iter().filter(|uplink| uplink.has_default_route);
        let mut uplinks: BTreeMap<String, u32> =
            found.map(|uplink| (uplink.name.clone(), uplink.ifindex)).collect();
        uplinks.extend(self.trees.iter().map(|(name, tree)| (name.clone(), tree.index)));
        for (name, index) in uplinks {
            let bytes = counted.links.get(&index).copied().unwrap_or_default();
            sample.uplinks.push(UplinkUsage {
                speed: link_speed(&name),
                sent: bytes.sent,
                received: bytes.received,
                classes: self.class_usage(&name)?,
                name,
            });
        }
        Ok(sample)
    }

    fn class_usage(&mut self, name: &str) -> Result<BTreeMap<u16, ClassUsage>, DataplaneError> {
        let Some(tree) = self.trees.get(name) else { return Ok(BTreeMap::new()) };
        let target = Target { name, index: tree.index, mtu: tree.mtu };
        let present = uplink::read_classes(&mut self.netlink, target)?;
        let index = tree.index;
        let leaves = tree.classes.iter().filter(|(_, shape)| shape.leaf.is_some());
        let usage = leaves.filter_map(|(minor, shape)| {
            let QueueStats { bytes, backlog, .. } = present.get(minor)?.stats;
            let drops = leaf::stats(&mut self.netlink, index, *minor)?.drops;
            let usage = QueueUsage { bytes, queued: true, drops, backlog, ..QueueUsage::default() };
            Some((*minor, ClassUsage { guarantee: shape.rate * 8, ceiling: shape.ceiling * 8, usage }))
        });
        Ok(usage.collect())
    }

    fn pod_usage(&self, (endpoint, veth): (&Endpoint, u32), counted: &Counted) -> Option<PodUsage> {
        let bytes = counted.links.get(&veth)?;
        let queue = |limit: Option<BitsPerSecond>, link: Option<u32>, unlimited: u64| {
            let limiter = link.and_then(|link| counted.limiters.get(&link));
            let by_program = limit.zip(limiter).map(|(limit, limiter)| by_program(limit, limiter));
            let by_qdisc = || limit.and(link).and_then(|link| counted.queues.get(&link)).map(by_qdisc);
            by_program.or_else(by_qdisc).unwrap_or(QueueUsage { bytes: unlimited, ..QueueUsage::default() })
        };
        let ifb = endpoint
            .limits
            .from_workload
            .and_then(|_| self.indices.get(endpoint::ifb_name(&endpoint.host_link).as_str()).copied());
        let to_pod = endpoint::queues_at_ifb(endpoint)
            .then(|| self.indices.get(endpoint::to_pod_ifb_name(&endpoint.host_link).as_str()).copied())
            .flatten()
            .unwrap_or(veth);
        let shadow = |limit: Option<BitsPerSecond>, key| {
            limit.and_then(|_| counted.shadows.get(&key)).map(shadow_usage)
        };
        Some(PodUsage {
            to_workload: QueueUsage {
                shadow: shadow(endpoint.shadow.to_workload, to_pod),
                ..queue(endpoint.limits.to_workload, Some(to_pod), bytes.sent)
            },
            from_workload: QueueUsage {
                shadow: shadow(endpoint.shadow.from_workload, MarkConfig::shadow_from_pod_key(veth)),
                ..queue(endpoint.limits.from_workload, ifb, bytes.received)
            },
        })
    }
}

fn shadow_usage(state: &MarkState) -> ShadowUsage {
    ShadowUsage {
        packets: state.packets,
        marked: state.marked,
        not_capable: state.not_capable,
        dropped: u64::from(state.dropped) + state.not_capable,
    }
}

/// Whether something waits at a limit, or had to be told to slow down. A pod's own senders stop at a queue before they
/// are told.
fn has_held(law: &MarkConfig, state: &MarkState) -> bool {
    state.marked > 0 || state.not_capable > 0 || state.dropped > 0 || !wait(law, state).is_zero()
}

/// How long what comes now would wait.
fn wait(law: &MarkConfig, state: &MarkState) -> Duration {
    Duration::from_nanos(state.clock_ns.saturating_sub(law.bucket_ns)).saturating_sub(monotonic())
}

/// What the limiter's program has counted; what it has let in is what the queues behind it hold back or have sent.
fn by_program(limit: BitsPerSecond, (law, state): &(MarkConfig, MarkState)) -> QueueUsage {
    let waiting = wait(law, state).as_micros() * u128::from(limit.0) / 8_000_000;
    QueueUsage {
        bytes: state.bytes,
        queued: true,
        drops: u64::from(state.dropped) + state.not_capable,
        backlog: u64::try_from(waiting).unwrap_or(u64::MAX),
        marked: state.marked,
        not_capable: state.not_capable,
        shadow: None,
    }
}

/// Without a program the queue is all there is.
fn by_qdisc(stats: &QueueStats) -> QueueUsage {
    let QueueStats { bytes, drops, backlog } = *stats;
    QueueUsage { bytes, queued: true, drops, backlog, ..QueueUsage::default() }
}

/// Time on the programs' clock.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Bytes in and out of every link, by index.
fn link_bytes(netlink: &mut Netlink) -> Result<BTreeMap<u32, LinkBytes>, DataplaneError> {
    let mut body = vec![0; STATS_HEADER - 4];
    body.extend((1_u32 << (IFLA_STATS_LINK_64 - 1)).to_ne_bytes());
    let request = Request { kind: RTM_GETSTATS, flags: 0, body };
    let mut all = BTreeMap::new();
    let read = netlink.each(&request, |row| all.extend(parse_link_bytes(row)));
    read.map_err(|refusal| refusal.doing("read link statistics"))?;
    Ok(all)
}

fn parse_link_bytes(body: &[u8]) -> Option<(u32, LinkBytes)> {
    let index = attr::u32_at(body, 4)?;
    let stats = attr::find(body.get(STATS_HEADER..)?, IFLA_STATS_LINK_64)?;
    let bytes = LinkBytes { received: attr::u64_at(stats, RX_BYTES)?, sent: attr::u64_at(stats, TX_BYTES)? };
    Some((index, bytes))
}

/// What the driver says, in sysfs; nothing for a link that is down or knows no speed.
pub(super) fn link_speed(name: &str) -> Option<BitsPerSecond> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/speed")).ok()?;
    let mbits: u64 = text.trim().parse().ok()?;
    // Drivers write -1, or the same without a sign, for "unknown".
    (mbits > 0 && mbits < u64::from(u32::MAX)).then_some(BitsPerSecond(mbits * 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_statistics_are_read_by_their_offsets() {
        let mut stats = Vec::new();
        for word in 0..25_u64 {
            stats.extend((word * 10).to_ne_bytes());
        }
        let mut body = vec![0; STATS_HEADER];
        body[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        body.extend(attr::Attributes::default().put(IFLA_STATS_LINK_64, &stats).bytes());
        let (index, bytes) = parse_link_bytes(&body).unwrap();
        assert_eq!((index, bytes.received, bytes.sent), (7, 20, 30));
        assert!(parse_link_bytes(&body[..20]).is_none());
    }
}
