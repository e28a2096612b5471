//! Traffic-control messages that netlink-packet-route 0.34 lacks: TBF, u32 with mirred, clsact.
//! Layouts are those of `linux/pkt_sched.h`, `linux/pkt_cls.h` and `linux/tc_act/tc_mirred.h`; host byte order.

use turnpike_ebpf_loader::abi::mark::FLOW_HTB;
use turnpike_ebpf_loader::{CLSACT_PRIORITY, Hook};

use crate::netlink::attr::{self, Attributes};
use crate::netlink::{CREATE, ECHO, EXCL, REPLACE, Request};

use super::pacer::Pacer;
use super::shape::Shape;

pub(super) const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const STATS_BASIC: u16 = 1;
const STATS_QUEUE: u16 = 3;
pub(super) const HEADER: usize = 20;

pub(super) const ROOT: u32 = 0xffff_ffff;
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

/// Handle of our TBF.
pub(super) const TBF: u32 = 0x7470_0000;

/// Our redirect comes after every eBPF filter: [`CLSACT_PRIORITY`].
const REDIRECT_PRIORITY: u16 = 48_000;
const ETH_P_ALL: u16 = 0x0003;

const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
/// `TC_LINKLAYER_ETHERNET`: no rate table needed.
pub(super) const LINKLAYER_ETHERNET: u8 = 1;

/// `TC_U32_ROOT`: the first hash table of a u32 classifier.
const U32_ROOT: u32 = 0xfff0_0000;
const U32_SEL: u16 = 5;
const U32_ACT: u16 = 7;
const U32_TERMINAL: u8 = 1;
const ACT_KIND: u16 = 1;
const ACT_OPTIONS: u16 = 2;
const MIRRED_PARMS: u16 = 2;
const MIRRED_EGRESS_REDIRECT: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;
/// Offset of `ifindex` in `struct tc_mirred`.
const MIRRED_IFINDEX: usize = 24;

/// A qdisc as dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Qdisc {
    pub(crate) link: u32,
    kind: String,
    handle: u32,
    parent: u32,
    options: Vec<u8>,
    pub(crate) stats: QueueStats,
}

/// Counters of a qdisc or class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct QueueStats {
    /// Every segment of a GSO packet with its headers.
    pub(crate) bytes: u64,
    pub(crate) drops: u64,
    /// Bytes that wait.
    pub(crate) backlog: u64,
}

impl QueueStats {
    /// From the attributes of a dumped qdisc or class: `struct gnet_stats_basic` and `gnet_stats_queue`.
    pub(super) fn parse(attributes: &[u8]) -> Self {
        let stats = attr::find(attributes, TCA_STATS2).unwrap_or_default();
        let queue = attr::find(stats, STATS_QUEUE).unwrap_or_default();
        let word = |offset| attr::u32_at(queue, offset).map_or(0, u64::from);
        Self {
            bytes: attr::find(stats, STATS_BASIC)
                .and_then(|basic| attr::u64_at(basic, 0))
                .unwrap_or_default(),
            backlog: word(4),
            drops: word(8),
        }
    }
}

impl Qdisc {
    /// True for what holds packets back at a limit of ours.
    pub(crate) fn is_ours(&self) -> bool {
        self.handle == FLOW_HTB || self.parent == ROOT && Pacer::has_handle(self.handle) && !self.is_our_htb()
    }

    /// True for our HTB at the root of an uplink.
    pub(crate) fn is_our_htb(&self) -> bool {
        self.parent == ROOT && self.handle == super::tree::HTB && self.kind == "htb"
    }

    /// True for what we put below a leaf of our HTB.
    pub(super) fn is_queue_of(&self, minor: u16) -> bool {
        self.parent == super::htb::handle(minor) && self.handle == super::htb::queue_handle(minor)
    }

    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    pub(super) fn handle(&self) -> u32 {
        self.handle
    }

    pub(super) fn parent(&self) -> u32 {
        self.parent
    }

    pub(super) fn options(&self) -> &[u8] {
        &self.options
    }

    /// True for clsact.
    pub(crate) fn is_clsact(&self) -> bool {
        self.kind == "clsact"
    }

    /// True for our TBF with exactly this shape.
    pub(crate) fn has_shape(&self, shape: &Shape) -> bool {
        let parameters = attr::find(&self.options, TBF_PARMS).unwrap_or_default();
        let rate64 = attr::find(&self.options, TBF_RATE64).and_then(|value| attr::u64_at(value, 0));
        let word = |offset| attr::u32_at(parameters, offset);
        let rate = rate64.or_else(|| word(8).map(u64::from));
        let peak = shape.peak.map_or((0, 0), |peak| (peak.rate, peak.mtu_ticks));
        self.kind == "tbf"
            && rate == Some(shape.rate)
            && word(24) == Some(shape.queue_bytes)
            && word(28) == Some(shape.buffer_ticks)
            && (word(20), word(32)) == (Some(peak.0), Some(peak.1))
    }
}

pub(super) fn message(
    kind: u16,
    flags: u16,
    [link, handle, parent, info]: [u32; 4],
    attributes: &Attributes,
) -> Request {
    let mut body = vec![0; 4];
    for word in [link, handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    body.extend(attributes.bytes());
    Request { kind, flags, body }
}

/// Dumps the qdiscs of all links.
pub(crate) fn get_qdiscs() -> Request {
    message(RTM_GETQDISC, 0, [0; 4], &Attributes::default())
}

/// Asks for one qdisc. The kernel answers as it notifies (`qdisc_get_notify`, net/sched/sch_api.c): to who asks only if told so.
pub(super) fn get_qdisc(place: [u32; 4]) -> Request {
    message(RTM_GETQDISC, ECHO, place, &Attributes::default())
}

/// Reads one answer to [`get_qdiscs`].
pub(crate) fn parse_qdisc(body: &[u8]) -> Option<Qdisc> {
    let attributes = body.get(HEADER..)?;
    Some(Qdisc {
        link: attr::u32_at(body, 4)?,
        handle: attr::u32_at(body, 8)?,
        parent: attr::u32_at(body, 12)?,
        kind: attr::text(attr::find(attributes, TCA_KIND)?),
        options: attr::find(attributes, TCA_OPTIONS).unwrap_or_default().to_vec(),
        stats: QueueStats::parse(attributes),
    })
}

/// The link and the counters of a dumped qdisc that is a limit of ours.
pub(crate) fn limit_stats(body: &[u8]) -> Option<(u32, QueueStats)> {
    let ours = Pacer::has_handle(attr::u32_at(body, 8)?) && attr::u32_at(body, 12)? == ROOT;
    ours.then(|| parse_qdisc(body)).flatten().filter(Qdisc::is_ours).map(|qdisc| (qdisc.link, qdisc.stats))
}

/// Puts our TBF at the root of a link, in place of whatever is there.
pub(crate) fn new_tbf(link: u32, shape: &Shape) -> Request {
    message(RTM_NEWQDISC, CREATE | REPLACE, [link, TBF, ROOT, 0], &tbf_attributes(shape))
}

/// Changes our TBF; what is queued stays.
pub(crate) fn change_tbf(link: u32, shape: &Shape) -> Request {
    message(RTM_NEWQDISC, 0, [link, TBF, ROOT, 0], &tbf_attributes(shape))
}

/// Takes the root qdisc of this handle away; the link's default comes back.
pub(super) fn delete_root(link: u32, handle: u32) -> Request {
    message(RTM_DELQDISC, 0, [link, handle, ROOT, 0], &Attributes::default())
}

/// Puts a root qdisc back as it was dumped.
pub(super) fn restore_root(link: u32, handle: u32, kind: &str, options: &[u8]) -> Request {
    let attributes = Attributes::default().put_text(TCA_KIND, kind).put(TCA_OPTIONS, options);
    message(RTM_NEWQDISC, CREATE | REPLACE, [link, handle, ROOT, 0], &attributes)
}

/// `struct tc_tbf_qopt`: rate, peak rate, queue limit, both buckets in ticks.
fn tbf_attributes(shape: &Shape) -> Attributes {
    let (peak_rate, mtu_ticks) = shape.peak.map_or((0, 0), |peak| (peak.rate, peak.mtu_ticks));
    let mut parameters = Vec::new();
    for rate in [u32::try_from(shape.rate).unwrap_or(u32::MAX), peak_rate] {
        let layer = if rate > 0 { LINKLAYER_ETHERNET } else { 0 };
        // cell_log, linklayer, overhead, cell_align, mpu
        parameters.extend([0, layer, 0, 0, 0, 0, 0, 0]);
        parameters.extend(rate.to_ne_bytes());
    }
    for word in [shape.queue_bytes, shape.buffer_ticks, mtu_ticks] {
        parameters.extend(word.to_ne_bytes());
    }
    let mut options = Attributes::default().put(TBF_PARMS, &parameters);
    if shape.rate > u64::from(u32::MAX) {
        options = options.put_u64(TBF_RATE64, shape.rate);
    }
    Attributes::default().put_text(TCA_KIND, "tbf").nest(TCA_OPTIONS, &options)
}

/// Adds clsact to a link.
pub(crate) fn new_clsact(link: u32) -> Request {
    let attributes = Attributes::default().put_text(TCA_KIND, "clsact");
    message(RTM_NEWQDISC, CREATE | EXCL, [link, CLSACT_HANDLE, CLSACT, 0], &attributes)
}

/// Where a redirect sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// What arrives on the link: a pod's packets, on its host veth.
    Ingress,
    /// What leaves through it.
    Egress,
}

impl Side {
    const fn parent(self) -> u32 {
        match self {
            Self::Ingress => CLSACT_INGRESS,
            Self::Egress => CLSACT_EGRESS,
        }
    }
}

/// Sends everything that comes by on this side of `link` through the egress of `target`, an ifb.
pub(crate) fn new_redirect(link: u32, side: Side, target: u32) -> Request {
    // struct tc_u32_sel with one key that matches anything.
    let mut selector = vec![U32_TERMINAL, 0, 1, 0];
    selector.resize(16 + 16, 0);
    let mut mirred = Vec::new();
    for word in [0, 0, TC_ACT_STOLEN, 0, 0, MIRRED_EGRESS_REDIRECT, target] {
        mirred.extend(word.to_ne_bytes());
    }
    let action = Attributes::default()
        .put_text(ACT_KIND, "mirred")
        .nest(ACT_OPTIONS, &Attributes::default().put(MIRRED_PARMS, &mirred));
    let options =
        Attributes::default().put(U32_SEL, &selector).nest(U32_ACT, &Attributes::default().nest(1, &action));
    let attributes = Attributes::default().put_text(TCA_KIND, "u32").nest(TCA_OPTIONS, &options);
    message(RTM_NEWTFILTER, CREATE | EXCL, [link, 0, side.parent(), redirect_info()], &attributes)
}

/// Removes our redirect.
pub(crate) fn delete_redirect(link: u32, side: Side) -> Request {
    message(RTM_DELTFILTER, 0, [link, 0, side.parent(), redirect_info()], &Attributes::default())
}

/// Dumps the filters on one side of a link.
pub(crate) fn get_filters(link: u32, side: Side) -> Request {
    message(RTM_GETTFILTER, 0, [link, 0, side.parent(), 0], &Attributes::default())
}

/// Asks for the list that our redirects on one side of a link are in, which is there where they are.
pub(crate) fn get_redirects(link: u32, side: Side) -> Request {
    message(RTM_GETTFILTER, 0, [link, U32_ROOT, side.parent(), redirect_info()], &Attributes::default())
}

/// Asks for the eBPF filter of ours that a link has at this hook.
pub(crate) fn get_program(link: u32, hook: Hook) -> Request {
    let parent = match hook {
        Hook::Uplink | Hook::FromPod => CLSACT_INGRESS,
        Hook::Mark | Hook::Classify => CLSACT_EGRESS,
        Hook::Queue => FLOW_HTB,
    };
    message(RTM_GETTFILTER, 0, [link, 1, parent, filter_info(CLSACT_PRIORITY)], &Attributes::default())
}

/// Where our redirect leads, if the dumped filter is that: `None` for other filters.
pub(crate) fn redirect_target(body: &[u8]) -> Option<u32> {
    let attributes = body.get(HEADER..)?;
    if !has_priority(body, REDIRECT_PRIORITY) {
        return None;
    }
    let actions = attr::find(attr::find(attributes, TCA_OPTIONS)?, U32_ACT)?;
    let options = attr::find(attr::find(actions, 1)?, ACT_OPTIONS)?;
    attr::u32_at(attr::find(options, MIRRED_PARMS)?, MIRRED_IFINDEX)
}

/// True for a filter at the priority of our redirect or of our programs.
pub(crate) fn has_our_priority(body: &[u8]) -> bool {
    has_priority(body, REDIRECT_PRIORITY) || has_priority(body, CLSACT_PRIORITY)
}

fn has_priority(body: &[u8], priority: u16) -> bool {
    attr::u32_at(body, 16).is_some_and(|info| info >> 16 == u32::from(priority))
}

fn redirect_info() -> u32 {
    filter_info(REDIRECT_PRIORITY)
}

/// `tcm_info` of a filter: priority and protocol (network byte order).
fn filter_info(priority: u16) -> u32 {
    (u32::from(priority) << 16) | u32::from(ETH_P_ALL.to_be())
}

#[cfg(test)]
mod tests {
    use turnpike_model::burst::Burst;
    use turnpike_model::desired::BitsPerSecond;

    use super::super::shape::Limit;
    use super::*;

    #[test]
    fn a_tbf_message_reads_back_as_its_shape() {
        for bits in [100_000_000, 1_000_000_000, 400_000_000_000] {
            let limit = |bits| Limit::of(Some(BitsPerSecond(bits)), Burst::default()).unwrap();
            let shape = Shape::new(limit(bits), 1500).unwrap();
            let other = Shape::new(limit(bits + 8000), 1500).unwrap();
            let qdisc = parse_qdisc(&new_tbf(1, &shape).body).unwrap();
            assert!(qdisc.has_shape(&shape));
            assert!(!qdisc.has_shape(&other));
        }
    }

    #[test]
    fn a_redirect_names_its_target() {
        for side in [Side::Ingress, Side::Egress] {
            assert_eq!(redirect_target(&new_redirect(3, side, 77).body), Some(77));
            assert_eq!(redirect_target(&delete_redirect(3, side).body), None);
        }
        assert_eq!(redirect_target(&[]), None);
    }
}
