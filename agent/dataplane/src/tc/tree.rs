//! The numbers of a node tree: from guarantees and ceilings to HTB classes and the queues of its leaves. Pure.
//!
//! ```text
//! 7470: htb ── :1 the uplink ─┬─ :10 host (default)      guarantee; borrows up to the uplink; first in line
//!                             └─ :2 pods                 what the host leaves; up to the pods' ceiling
//!                                 ├─ :…  class           guarantee; borrows up to its ceiling
//!                                 └─ :…  class
//! ```

use std::collections::BTreeMap;

use turnpike_model::desired::{BitsPerSecond, NodeTree};

/// Handle of our HTB on an uplink.
pub(crate) const HTB: u32 = 0x7470_0000;
/// Minor number of the class that is the whole uplink.
pub(crate) const UPLINK: u16 = 0x1;
/// Minor number of the pods' part.
pub(crate) const PODS: u16 = 0x2;
/// Minor number of the host's leaf: what nobody classified.
pub(crate) const HOST: u16 = 0x10;

/// From here on the single lock of a root HTB costs more than the tree is worth.
const TOO_FAST: u64 = 25_000_000_000;
/// `psched` tick, in nanoseconds.
const TICK_NS: u64 = 64;
const NS_PER_SECOND: u64 = 1_000_000_000;
/// A bucket rides out a late timer.
const BURST_NS: u64 = 4_000_000;
/// Least bucket, in bytes: ten full frames.
const LEAST_BURST: u64 = 15_140;
/// A leaf's queue holds so much of its ceiling…
const QUEUE_NS: u64 = 10_000_000;
/// …and the host's less: it is first in line, and a short queue is what keeps it quick.
const HOST_QUEUE_NS: u64 = 5_000_000;
/// …but always two full GSO packets.
const LEAST_QUEUE: u64 = 2 * 65_536;
/// Quanta, in bytes: what is borrowed is shared by them.
const QUANTUM: std::ops::RangeInclusive<u64> = 3_028..=200_000;
/// A link's speed counts 24 bytes that no frame shows (preamble, gap, checksum): 1514 of 1538.
const FRAMES_OF_SPEED: (u64, u64) = (1514, 1538);

/// One class of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClassShape {
    /// Minor number of the class above it; `None` for the uplink's own.
    pub(crate) parent: Option<u16>,
    /// Guarantee, bytes per second.
    pub(crate) rate: u64,
    /// Ceiling, bytes per second.
    pub(crate) ceiling: u64,
    /// Buckets in ticks of time at `rate` and at `ceiling`.
    pub(crate) buffers: (u32, u32),
    /// For leaves.
    pub(crate) leaf: Option<LeafShape>,
}

/// What only a leaf has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeafShape {
    /// Lower is served first.
    pub(crate) priority: u32,
    /// Share in what is borrowed, bytes.
    pub(crate) quantum: u32,
    /// Bytes that its queue holds.
    pub(crate) queue: u32,
}

/// Classes by minor number: a parent always has a lower one than its children.
pub(crate) type Classes = BTreeMap<u16, ClassShape>;

/// The classes of a tree on an uplink whose driver says `link_speed`; an error in words where that cannot be.
pub(crate) fn classes(tree: &NodeTree, link_speed: Option<BitsPerSecond>) -> Result<Classes, String> {
    let speed = usable_speed(tree, link_speed)?;
    let host = tree.host.0;
    if host >= speed {
        return Err(format!(
            "the host's guarantee of {} leaves nothing of {}",
            tree.host,
            BitsPerSecond(speed)
        ));
    }
    let ceiling = tree.pods_ceiling.map_or(speed, |ceiling| ceiling.0.min(speed));
    let pods = ceiling.min(speed - host);
    let promised: u64 = tree.classes.values().map(|class| class.guarantee.0).sum();
    if promised > pods {
        return Err(format!(
            "the classes' guarantees are {} together, and only {} are left for pods",
            BitsPerSecond(promised),
            BitsPerSecond(pods)
        ));
    }
    let mut classes = Classes::new();
    classes.insert(UPLINK, shape(None, speed, speed, None));
    classes.insert(PODS, shape(Some(UPLINK), pods, ceiling, None));
    let host_leaf = leaf(0, host, speed, HOST_QUEUE_NS);
    classes.insert(HOST, shape(Some(UPLINK), host, speed, Some(host_leaf)));
    for (minor, class) in &tree.classes {
        let most = class.ceiling.map_or(ceiling, |own| own.0.min(ceiling)).max(class.guarantee.0);
        let leaf = leaf(1, class.guarantee.0, most, QUEUE_NS);
        classes.insert(*minor, shape(Some(PODS), class.guarantee.0, most, Some(leaf)));
    }
    Ok(classes)
}

/// Bits per second of frames: as configured, or a little less than the link's own, so that the queue is here and not
/// in the driver.
fn usable_speed(tree: &NodeTree, link_speed: Option<BitsPerSecond>) -> Result<u64, String> {
    let speed = tree.speed.or(link_speed).ok_or("its speed is unknown; set spec.tree.speed")?.0;
    if speed >= TOO_FAST {
        return Err(format!(
            "at {} a root HTB with its one lock would slow the link down; a tree is for less than 25G",
            BitsPerSecond(speed)
        ));
    }
    let (part, whole) = FRAMES_OF_SPEED;
    Ok(if tree.speed.is_some() { speed } else { speed / whole * part })
}

fn shape(parent: Option<u16>, rate: u64, ceiling: u64, leaf: Option<LeafShape>) -> ClassShape {
    let (rate, ceiling) = ((rate / 8).max(1), (ceiling / 8).max(1));
    ClassShape { parent, rate, ceiling, buffers: (ticks(rate), ticks(ceiling)), leaf }
}

fn leaf(priority: u32, guarantee: u64, ceiling: u64, queue_ns: u64) -> LeafShape {
    let quantum = (guarantee / 8 / 1000).clamp(*QUANTUM.start(), *QUANTUM.end());
    let queue = (ceiling / 8).saturating_mul(queue_ns / 1000) / (NS_PER_SECOND / 1000);
    LeafShape {
        priority,
        quantum: u32::try_from(quantum).unwrap_or(u32::MAX),
        queue: u32::try_from(queue.max(LEAST_QUEUE)).unwrap_or(u32::MAX),
    }
}

/// The bucket of a rate in bytes per second, as time.
fn ticks(rate: u64) -> u32 {
    let least = u128::from(LEAST_BURST) * u128::from(NS_PER_SECOND) / u128::from(rate);
    let ns = u64::try_from(least).unwrap_or(u64::MAX).max(BURST_NS);
    u32::try_from(ns / TICK_NS).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use turnpike_model::desired::TreeClass;

    use super::*;

    const M: u64 = 1_000_000;

    fn tree(speed: Option<u64>, host: u64, classes: &[(u16, u64, Option<u64>)]) -> NodeTree {
        let class = |(minor, guarantee, ceiling): &(u16, u64, Option<u64>)| {
            let (guarantee, ceiling) = (BitsPerSecond(guarantee * M), ceiling.map(|c| BitsPerSecond(c * M)));
            (*minor, TreeClass { name: format!("class{minor}"), guarantee, ceiling, namespaces: Vec::new() })
        };
        NodeTree {
            source: "t".into(),
            uplinks: BTreeSet::new(),
            speed: speed.map(|speed| BitsPerSecond(speed * M)),
            host: BitsPerSecond(host * M),
            pods_ceiling: None,
            default_class: String::new(),
            classes: classes.iter().map(class).collect(),
        }
    }

    #[test]
    fn guarantees_and_ceilings_become_a_tree() {
        let classes =
            classes(&tree(Some(1000), 200, &[(0x100, 500, None), (0x101, 100, Some(300))]), None).unwrap();
        let rates = |minor: u16| (classes[&minor].rate * 8 / M, classes[&minor].ceiling * 8 / M);
        assert_eq!(rates(UPLINK), (1000, 1000));
        assert_eq!(rates(PODS), (800, 1000));
        assert_eq!(rates(HOST), (200, 1000));
        assert_eq!(rates(0x100), (500, 1000));
        assert_eq!(rates(0x101), (100, 300));
        assert_eq!(classes[&0x101].leaf.unwrap().queue, 375_000, "10 ms of 300 Mbit/s");
        assert_eq!(classes[&HOST].leaf.unwrap().priority, 0);
        assert!(classes.iter().all(|(minor, class)| class.parent.is_none_or(|parent| parent < *minor)));
    }

    #[test]
    fn the_links_own_speed_is_used_a_little_less_than_fully() {
        let classes = classes(&tree(None, 200, &[]), Some(BitsPerSecond(1000 * M))).unwrap();
        assert_eq!(classes[&UPLINK].rate * 8 / M, 984);
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let refused = |tree: &NodeTree, speed| classes(tree, speed).unwrap_err();
        assert!(refused(&tree(None, 1, &[]), None).contains("spec.tree.speed"));
        assert!(refused(&tree(Some(25_000), 1, &[]), None).contains("less than 25G"));
        assert!(refused(&tree(Some(100), 100, &[]), None).contains("leaves nothing"));
        let promised = refused(&tree(Some(100), 50, &[(0x100, 60, None)]), None);
        assert_eq!(promised, "the classes' guarantees are 60M together, and only 50M are left for pods");
    }

    #[test]
    fn slow_classes_have_a_bucket_of_ten_frames_and_a_queue_of_two_bursts() {
        let classes = classes(&tree(Some(10), 1, &[(0x100, 1, Some(2))]), None).unwrap();
        let class = classes[&0x100];
        assert_eq!(u64::from(class.buffers.0) * 64 * class.rate / NS_PER_SECOND, 15_140);
        assert_eq!(class.leaf.unwrap().queue, 131_072);
    }
}
