//! The queue of a leaf of the node tree: fq_codel where the kernel has it, else one that is limited by bytes.

use crate::links;
use crate::netlink::attr::{self, Attributes};
use crate::netlink::{CREATE, Netlink, REPLACE, Request};

use super::htb;
use super::tree::LeafShape;
use super::wire::{self, Qdisc, QueueStats, RTM_NEWQDISC, TCA_KIND, TCA_OPTIONS, message};

const TARGET: u16 = 1;
const ECN: u16 = 4;
const MEMORY_LIMIT: u16 = 9;
/// A full frame.
const FRAME: u64 = 1_514;
/// The wait that may stand, in microseconds (RFC 8289 §4.2)…
const TARGET_US: u64 = 5_000;
/// …but one and a half frames at the leaf's ceiling (RFC 8289 §4.4).
const FRAMES_PER_TARGET: (u64, u64) = (3, 2);
/// What flows that heed nothing may fill, as a multiple of [`LeafShape::queue`]: memory of packets is twice their length, and
/// more.
const MEMORY: u32 = 16;

/// What stands in a class's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafQueue {
    /// A queue and CoDel for each flow, with ECN.
    FqCodel,
    /// One queue for all.
    Fifo,
}

impl LeafQueue {
    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::FqCodel => "fq_codel, a queue for each flow, with ECN",
            Self::Fifo => "one queue for all, limited by bytes",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::FqCodel => "fq_codel",
            Self::Fifo => "bfifo",
        }
    }

    /// True where a queue of this kind has this shape.
    fn holds(self, qdisc: &Qdisc, leaf: &LeafShape, ceiling: u64) -> bool {
        qdisc.kind() == self.kind()
            && match self {
                Self::FqCodel => {
                    let word = |kind| attr::find_u32(qdisc.options(), kind).map(u64::from);
                    // The kernel counts the target in units of 1024 ns.
                    word(TARGET).is_some_and(|found| found.abs_diff(target_us(ceiling)) <= 1)
                        && word(MEMORY_LIMIT) == Some(u64::from(memory(leaf)))
                }
                Self::Fifo => attr::u32_at(qdisc.options(), 0) == Some(leaf.queue),
            }
    }

    /// What brings a leaf's queue to this shape; `None` where it has it. `found` is what stands there. A queue of the same kind
    /// is changed, and keeps what waits in it.
    pub(super) fn request(
        self,
        (link, minor): (u32, u16),
        (leaf, ceiling): (&LeafShape, u64),
        found: Option<&Qdisc>,
    ) -> Option<Request> {
        let flags = match found {
            Some(found) if self.holds(found, leaf, ceiling) => return None,
            Some(found) if found.kind() == self.kind() => 0,
            _ => CREATE | REPLACE,
        };
        let attributes = Attributes::default().put_text(TCA_KIND, self.kind());
        let attributes = match self {
            Self::FqCodel => {
                let target = u32::try_from(target_us(ceiling)).unwrap_or(u32::MAX);
                let options = Attributes::default()
                    .put(TARGET, &target.to_ne_bytes())
                    .put(ECN, &1_u32.to_ne_bytes())
                    .put(MEMORY_LIMIT, &memory(leaf).to_ne_bytes());
                attributes.nest(TCA_OPTIONS, &options)
            }
            // struct tc_fifo_qopt
            Self::Fifo => attributes.put(TCA_OPTIONS, &leaf.queue.to_ne_bytes()),
        };
        Some(message(RTM_NEWQDISC, flags, place(link, minor), &attributes))
    }
}

/// Counters of a leaf's queue. Those of its class do not know what fq_codel drops.
pub(crate) fn stats(netlink: &mut Netlink, link: u32, minor: u16) -> Option<QueueStats> {
    let reply = netlink.get(&wire::get_qdisc(place(link, minor))).ok()?;
    Some(wire::parse_qdisc(&reply.body)?.stats)
}

/// Which of them this kernel has: fq_codel is put on a link that nobody uses, and that is gone when this returns.
pub(crate) fn probe(netlink: &mut Netlink) -> LeafQueue {
    let attributes = Attributes::default().put_text(TCA_KIND, LeafQueue::FqCodel.kind());
    let has = links::try_on_spare(netlink, |link| {
        message(RTM_NEWQDISC, CREATE | REPLACE, [link, htb::queue_handle(1), wire::ROOT, 0], &attributes)
    });
    if has { LeafQueue::FqCodel } else { LeafQueue::Fifo }
}

/// A leaf's queue is called after its class.
fn place(link: u32, minor: u16) -> [u32; 4] {
    [link, htb::queue_handle(minor), htb::handle(minor), 0]
}

/// `ceiling` in bytes per second.
fn target_us(ceiling: u64) -> u64 {
    let (frames, parts) = FRAMES_PER_TARGET;
    TARGET_US.max(FRAME * frames * 1_000_000 / parts / ceiling.max(1))
}

fn memory(leaf: &LeafShape) -> u32 {
    leaf.queue.saturating_mul(MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_reads_back_as_its_shape_and_a_slow_class_may_hold_a_frame() {
        let leaf = LeafShape { priority: 1, quantum: 5000, queue: 131_072 };
        for queue in [LeafQueue::FqCodel, LeafQueue::Fifo] {
            let other = LeafShape { queue: 262_144, ..leaf };
            let new = |found| queue.request((3, 0x100), (&leaf, 1_250_000), found);
            let request = new(None).unwrap();
            let found = wire::parse_qdisc(&request.body).unwrap();
            assert!(found.is_queue_of(0x100));
            assert_eq!(request.flags, CREATE | REPLACE);
            assert!(new(Some(&found)).is_none(), "it has its shape");
            let changed = queue.request((3, 0x100), (&other, 1_250_000), Some(&found)).unwrap();
            assert_eq!(changed.flags, 0, "what waits stays");
            let kind = if queue == LeafQueue::Fifo { LeafQueue::FqCodel } else { LeafQueue::Fifo };
            let replaced = kind.request((3, 0x100), (&leaf, 1_250_000), Some(&found)).unwrap();
            assert_eq!(replaced.flags, CREATE | REPLACE);
        }
        assert_eq!((target_us(1_250_000), target_us(125_000)), (5_000, 18_168));
    }
}
