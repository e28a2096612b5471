//! What holds packets back at a limit: which qdisc, its numbers and its messages.
//!
//! ```text
//! fq:   [mark: departure time] ─▶ 7472: fq
//! HTB:  7470: tbf, which cuts up and paces ─▶ 7471: htb [queue: class] ─┬─ :10 flows that send little, first in line
//!                                                                       ├─ :11 busy flows that have no class yet, next
//!                                                                       └─ :20 … :2f a busy flow each
//! TBF:  7470: tbf (no program)
//! ```
//! What is let in is the program's to say; with fq it says when, too. HTB's leaves have no limits of their own. It is
//! behind TBF, so that TBF cuts up GSO packets before the program looks: it then drops one segment and not 45.

use turnpike_ebpf_loader::abi::mark::{FIRST_FLOW_CLASS, FLOW_HTB, FLOWS, SPARSE_CLASS};

use crate::DataplaneError;
use crate::links;
use crate::netlink::attr::{self, Attributes};
use crate::netlink::{CREATE, Netlink, REPLACE, Request};

use super::htb;
use super::shape::Shape;
use super::tree::{ClassShape, LeafShape};
use super::wire::{self, Qdisc, ROOT, RTM_NEWQDISC, TCA_KIND, TCA_OPTIONS, message};
use super::{Queues, Target, ignore_absent};

/// Handle of our fq.
const FQ: u32 = 0x7472_0000;
/// TBF's only class.
const BELOW_TBF: u32 = wire::TBF | 1;
const FQ_PACKETS: u16 = 1;
const FQ_FLOW_PACKETS: u16 = 2;
const FQ_RATE_ENABLE: u16 = 5;
const FQ_BUCKETS_LOG: u16 = 8;
/// More than the program lets in.
const MOST_PACKETS: u32 = 100_000;
/// A pod's flows; the default of 1024 buckets is for a whole host.
const BUCKETS_LOG: u32 = 6;

/// Rate of each leaf, bytes per second: more than any link, for TBF is what holds back.
const LEAF_RATE: u64 = 1_000_000_000_000;
/// Its buckets in ticks: 64 ms.
const LEAF_BUFFER: u32 = 1_000_000;
/// What a flow sends in its turn where TBF cuts up GSO packets, in bytes…
const QUANTUM: u32 = 3_028;
/// …and where it does not.
const GSO_QUANTUM: u32 = 65_536;

/// What holds packets back at limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacer {
    /// fq by departure times (EDT).
    Fq,
    /// TBF, and HTB with a queue for each flow.
    Htb,
    /// TBF, where there is no program: one queue for all.
    Tbf,
}

impl Pacer {
    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Fq => "departure times (EDT) kept by fq",
            Self::Htb => "TBF, and HTB with a queue for each flow",
            Self::Tbf => "TBF, one queue for all flows",
        }
    }

    /// Whose our root qdisc on a link is.
    pub(super) fn of(qdiscs: &[Qdisc]) -> Option<(Self, &Qdisc)> {
        let root = qdiscs.iter().find(|qdisc| qdisc.parent() == ROOT)?;
        match (root.handle(), root.kind()) {
            (FQ, "fq") => Some((Self::Fq, root)),
            (wire::TBF, "tbf") => {
                let below = |qdisc: &Qdisc| (qdisc.parent(), qdisc.handle()) == (BELOW_TBF, FLOW_HTB);
                let pacer = if qdiscs.iter().any(below) { Self::Htb } else { Self::Tbf };
                Some((pacer, root))
            }
            _ => None,
        }
    }

    /// True for the handle of a root qdisc of ours.
    pub(super) const fn has_handle(handle: u32) -> bool {
        matches!(handle, FQ | wire::TBF)
    }

    /// True where the root qdisc of a link, which is this pacer's, holds a limit of this shape.
    pub(super) fn holds(self, root: &Qdisc, shape: &Shape) -> bool {
        match self {
            Self::Tbf | Self::Htb => root.has_shape(shape),
            // The rate is in the program's map.
            Self::Fq => fq_packets(root) == Some(MOST_PACKETS),
        }
    }

    /// Puts a limit of this shape in force on a link whose root qdisc is `present`'s.
    pub(super) fn write(
        self,
        netlink: &mut Netlink,
        target: Target<'_>,
        shape: &Shape,
        present: Option<Self>,
        queues: Queues,
    ) -> Result<(), DataplaneError> {
        let link = target.index;
        let mut requests = match (self, present) {
            (Self::Fq, Some(Self::Fq)) => vec![fq(link, 0)],
            (Self::Fq, _) => vec![fq(link, CREATE | REPLACE)],
            (Self::Tbf | Self::Htb, Some(Self::Tbf | Self::Htb)) => vec![wire::change_tbf(link, shape)],
            (Self::Tbf | Self::Htb, _) => vec![wire::new_tbf(link, shape)],
        };
        if self == Self::Htb {
            if present != Some(Self::Htb) {
                requests.push(htb::new_htb(link, FLOW_HTB, BELOW_TBF, SHARED_CLASS));
            }
            let count = if queues == Queues::First { FIRST_LEAVES } else { usize::MAX };
            requests.extend(leaves(shape).take(count).map(|leaf| set_leaf(link, &leaf)));
        }
        netlink.all(&requests).map_err(|refusal| target.refused("set the limit", &refusal))
    }
}

/// True where a link has all leaves, also those that a new limit left out.
pub(crate) fn is_complete(netlink: &mut Netlink, link: u32) -> bool {
    // The kernel tells everybody but who asks; the acknowledgement is enough.
    flow_classes().last().is_some_and(|last| netlink.call(&htb::get_class(link, FLOW_HTB, last)).is_ok())
}

/// Makes the leaves that a new limit on a link left out.
pub(crate) fn complete(
    netlink: &mut Netlink,
    target: Target<'_>,
    shape: &Shape,
) -> Result<(), DataplaneError> {
    let requests: Vec<_> =
        leaves(shape).skip(FIRST_LEAVES).map(|leaf| set_leaf(target.index, &leaf)).collect();
    netlink.all(&requests).map_err(|refusal| target.refused("make the queues of flows", &refusal))
}

fn set_leaf(link: u32, (minor, leaf): &(u16, ClassShape)) -> Request {
    htb::set_class(link, FLOW_HTB, *minor, leaf)
}

/// Takes our root qdisc away, whichever it is; the link's default comes back.
pub(super) fn remove(
    netlink: &mut Netlink,
    target: Target<'_>,
    present: &Qdisc,
) -> Result<(), DataplaneError> {
    let removed = netlink.call(&wire::delete_root(target.index, present.handle()));
    ignore_absent(removed).map_err(|refusal| target.refused("remove the limit", &refusal))
}

/// Whether this kernel has fq: it is put on a link that nobody uses, and that is gone when this returns.
pub(crate) fn has_fq(netlink: &mut Netlink) -> bool {
    links::try_on_spare(netlink, |link| fq(link, CREATE | REPLACE))
}

fn fq(link: u32, flags: u16) -> Request {
    let options = Attributes::default()
        .put(FQ_PACKETS, &MOST_PACKETS.to_ne_bytes())
        .put(FQ_FLOW_PACKETS, &MOST_PACKETS.to_ne_bytes())
        // What the host's own sockets would like to be paced at is not this limit's business.
        .put(FQ_RATE_ENABLE, &0_u32.to_ne_bytes())
        .put(FQ_BUCKETS_LOG, &BUCKETS_LOG.to_ne_bytes());
    let attributes = Attributes::default().put_text(TCA_KIND, "fq").nest(TCA_OPTIONS, &options);
    message(RTM_NEWQDISC, flags, [link, FQ, ROOT, 0], &attributes)
}

fn fq_packets(qdisc: &Qdisc) -> Option<u32> {
    attr::find_u32(qdisc.options(), FQ_PACKETS)
}

/// HTB's default: the leaf of all busy flows until theirs are there. It goes before them, so that no flow's packets
/// overtake those of its own that wait there.
const SHARED_CLASS: u16 = 0x11;
/// The leaf of who sends little, and the shared one.
const FIRST_LEAVES: usize = 2;

/// A leaf for each busy flow, and those that go before them.
fn leaves(shape: &Shape) -> impl Iterator<Item = (u16, ClassShape)> {
    let quantum = if shape.peak.is_some() { QUANTUM } else { GSO_QUANTUM };
    let leaf = move |priority| ClassShape {
        parent: None,
        rate: LEAF_RATE,
        ceiling: LEAF_RATE,
        buffers: (LEAF_BUFFER, LEAF_BUFFER),
        leaf: Some(LeafShape { priority, quantum, queue: 0 }),
    };
    let flows = flow_classes().map(move |minor| (minor, leaf(2)));
    [(SPARSE_CLASS, leaf(0)), (SHARED_CLASS, leaf(1))].into_iter().chain(flows)
}

fn flow_classes() -> impl Iterator<Item = u16> {
    (FIRST_FLOW_CLASS..).take(FLOWS)
}

#[cfg(test)]
mod tests {
    use turnpike_model::burst::Burst;
    use turnpike_model::desired::BitsPerSecond;

    use super::super::shape::Limit;
    use super::super::tree::HTB;
    use super::*;

    #[test]
    fn what_sends_little_and_what_waits_already_go_first() {
        let limit = Limit::of(Some(BitsPerSecond(100_000_000)), Burst::default()).unwrap();
        let leaves: Vec<_> = leaves(&Shape::new(limit, 1500).unwrap()).collect();
        assert_eq!(leaves.len(), FIRST_LEAVES + FLOWS);
        let priorities = leaves.iter().map(|(_, class)| class.leaf.unwrap().priority);
        assert!(priorities.eq([0, 1].into_iter().chain([2; FLOWS])));
        let first = leaves.iter().map(|(minor, _)| *minor).take(FIRST_LEAVES);
        assert!(first.eq([SPARSE_CLASS, SHARED_CLASS]));
    }

    #[test]
    fn each_pacer_knows_its_own_qdiscs() {
        let limit = Limit::of(Some(BitsPerSecond(100_000_000)), Burst::default()).unwrap();
        let shape = Shape::new(limit, 1500).unwrap();
        let parse = |request: &Request| wire::parse_qdisc(&request.body).unwrap();
        let of = |qdiscs: &[Qdisc]| Pacer::of(qdiscs).map(|(pacer, _)| pacer);
        let tbf = parse(&wire::new_tbf(3, &shape));
        let flows = parse(&htb::new_htb(3, FLOW_HTB, BELOW_TBF, 1));
        assert_eq!(of(&[parse(&fq(3, CREATE))]), Some(Pacer::Fq));
        assert_eq!(of(std::slice::from_ref(&tbf)), Some(Pacer::Tbf));
        assert_eq!(of(&[tbf, flows]), Some(Pacer::Htb));
        assert_eq!(of(&[parse(&htb::new_htb(3, HTB, ROOT, 1))]), None);
    }
}
