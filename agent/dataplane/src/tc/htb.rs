//! Messages about HTB. Layouts as in `linux/pkt_sched.h`.

use crate::netlink::attr::{self, Attributes};
use crate::netlink::{CREATE, REPLACE, Request};

use super::tree::{ClassShape, HTB, LeafShape};
use super::wire::{
    HEADER, LINKLAYER_ETHERNET, QueueStats, ROOT, RTM_NEWQDISC, TCA_KIND, TCA_OPTIONS, message,
};

const RTM_NEWTCLASS: u16 = 40;
const RTM_DELTCLASS: u16 = 41;
const RTM_GETTCLASS: u16 = 42;

const HTB_PARMS: u16 = 1;
const HTB_INIT: u16 = 2;
const HTB_RATE64: u16 = 6;
const HTB_CEIL64: u16 = 7;
/// The only one that the kernel takes.
const HTB_VERSION: u32 = 3;
/// Of no use where every class has its quantum, but must not be 0.
const RATE_TO_QUANTUM: u32 = 10;

/// A class as dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) minor: u16,
    parent: u32,
    options: Vec<u8>,
    pub(crate) stats: QueueStats,
}

impl Class {
    /// True for a class with exactly this shape; the queue of a leaf is a qdisc of its own.
    pub(crate) fn has_shape(&self, major: u32, shape: &ClassShape) -> bool {
        let parameters = attr::find(&self.options, HTB_PARMS).unwrap_or_default();
        let word = |offset| attr::u32_at(parameters, offset);
        let rate = |kind, offset| {
            let wide = attr::find(&self.options, kind).and_then(|value| attr::u64_at(value, 0));
            wide.or_else(|| word(offset).map(u64::from))
        };
        let as_leaf = |leaf: &LeafShape| (word(32), word(40)) == (Some(leaf.quantum), Some(leaf.priority));
        self.parent == shape.parent.map_or(ROOT, |minor| major | u32::from(minor))
            && rate(HTB_RATE64, 8) == Some(shape.rate)
            && rate(HTB_CEIL64, 20) == Some(shape.ceiling)
            && (word(24), word(28)) == (Some(shape.buffers.0), Some(shape.buffers.1))
            && shape.leaf.as_ref().is_none_or(as_leaf)
    }
}

/// The full handle of a class of a node tree.
pub(crate) fn handle(minor: u16) -> u32 {
    HTB | u32::from(minor)
}

/// Puts an HTB at this place of a link (or [`ROOT`]), instead of whatever is there, with a class for what names none.
/// Until its classes exist everything passes.
pub(crate) fn new_htb(link: u32, major: u32, parent: u32, default: u16) -> Request {
    let mut init = Vec::new();
    for word in [HTB_VERSION, RATE_TO_QUANTUM, u32::from(default), 0, 0] {
        init.extend(word.to_ne_bytes());
    }
    let attributes = Attributes::default()
        .put_text(TCA_KIND, "htb")
        .nest(TCA_OPTIONS, &Attributes::default().put(HTB_INIT, &init));
    message(RTM_NEWQDISC, CREATE | REPLACE, [link, major, parent, 0], &attributes)
}

/// Makes a class, or changes it in place: what is queued stays.
pub(crate) fn set_class(link: u32, major: u32, minor: u16, shape: &ClassShape) -> Request {
    let mut parameters = Vec::new();
    for rate in [shape.rate, shape.ceiling] {
        // cell_log, linklayer, overhead, cell_align, mpu
        parameters.extend([0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0]);
        parameters.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    }
    let (quantum, priority) = shape.leaf.map_or((0, 0), |leaf| (leaf.quantum, leaf.priority));
    for word in [shape.buffers.0, shape.buffers.1, quantum, 0, priority] {
        parameters.extend(word.to_ne_bytes());
    }
    let mut options = Attributes::default().put(HTB_PARMS, &parameters);
    for (kind, rate) in [(HTB_RATE64, shape.rate), (HTB_CEIL64, shape.ceiling)] {
        if rate > u64::from(u32::MAX) {
            options = options.put_u64(kind, rate);
        }
    }
    let attributes = Attributes::default().put_text(TCA_KIND, "htb").nest(TCA_OPTIONS, &options);
    let handle = |minor: u16| major | u32::from(minor);
    let parent = shape.parent.map_or(ROOT, handle);
    message(RTM_NEWTCLASS, CREATE, [link, handle(minor), parent, 0], &attributes)
}

/// Removes a class with its queue.
pub(crate) fn delete_class(link: u32, minor: u16) -> Request {
    message(RTM_DELTCLASS, 0, [link, handle(minor), 0, 0], &Attributes::default())
}

/// Asks for a class.
pub(crate) fn get_class(link: u32, major: u32, minor: u16) -> Request {
    message(RTM_GETTCLASS, 0, [link, major | u32::from(minor), 0, 0], &Attributes::default())
}

/// Dumps the classes of a link.
pub(crate) fn get_classes(link: u32) -> Request {
    message(RTM_GETTCLASS, 0, [link, 0, 0, 0], &Attributes::default())
}

/// Reads one answer to [`get_classes`]; `None` for classes that are not of this HTB.
pub(crate) fn parse_class(major: u32, body: &[u8]) -> Option<Class> {
    let attributes = body.get(HEADER..)?;
    let handle = attr::u32_at(body, 8)?;
    let ours = handle & 0xffff_0000 == major && handle != major;
    if !ours || attr::text(attr::find(attributes, TCA_KIND)?) != "htb" {
        return None;
    }
    Some(Class {
        minor: u16::try_from(handle & 0xffff).ok()?,
        parent: attr::u32_at(body, 12)?,
        options: attr::find(attributes, TCA_OPTIONS).unwrap_or_default().to_vec(),
        stats: QueueStats::parse(attributes),
    })
}

/// Handle of the queue of a leaf.
pub(super) fn queue_handle(minor: u16) -> u32 {
    u32::from(minor) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_message_reads_back_as_its_shape() {
        let leaf = Some(LeafShape { priority: 1, quantum: 5000, queue: 131_072 });
        for rate in [1_000_000, 10_000_000_000] {
            let shape = ClassShape { parent: Some(2), rate, ceiling: rate * 2, buffers: (7, 8), leaf };
            let class = parse_class(HTB, &set_class(3, HTB, 0x100, &shape).body).unwrap();
            assert_eq!((class.minor, class.parent), (0x100, handle(2)));
            assert!(class.has_shape(HTB, &shape));
            assert!(!class.has_shape(HTB, &ClassShape { ceiling: rate, ..shape }));
            assert!(!class.has_shape(HTB, &ClassShape { parent: None, ..shape }));
        }
        assert_eq!(parse_class(HTB, &new_htb(3, HTB, ROOT, 0x10).body), None, "no class");
    }
}
