//! Driver for bandwidth limits.
//!
//! ```text
//! to the pod:    routing ─▶ [CE mark] ─▶ TBF ─▶ host veth ─▶ pod
//! from the pod:  pod ─▶ host veth ─▶ [anti-spoof] ─▶ u32 + mirred ─▶ ifb: [CE mark] ─▶ TBF ─▶ routing
//! ```
//! Where a pod exempts ranges, the limit to it sits behind a redirect to an ifb, too: TBF has no classes, and so our
//! program on the host veth keeps what is exempt from the redirect.
//!
//! Both queues sit on the node that the pod runs on, before or after routing, so traffic between two pods of one
//! node passes them as well. A changed rate changes the qdisc in place: nothing queued is lost.
//!
//! TBF and not HTB: one class needs no tree, and TBF cuts up GSO packets that are larger than its bucket before it
//! queues them, so that a full queue drops a segment and not 45. Measured at 100 Mbit with eight flows that do not
//! speak ECN: 0.4 % retransmitted against 4.1 %.

mod htb;
pub(crate) mod shape;
mod tree;
pub(crate) mod uplink;
mod wire;

use std::collections::BTreeMap;

use crate::DataplaneError;
use crate::netlink::{Netlink, Refusal};

use shape::{Limit, Shape};
pub(crate) use tree::{Classes, HOST, classes};
use wire::Qdisc;
pub(crate) use wire::{QueueStats, Side};

/// The qdiscs of all links, read once for many of them.
#[derive(Debug, Default)]
pub(crate) struct Qdiscs {
    by_link: BTreeMap<u32, Vec<Qdisc>>,
}

impl Qdiscs {
    /// Dumps them.
    pub(crate) fn read(netlink: &mut Netlink) -> Result<Self, DataplaneError> {
        let replies = netlink.dump(&wire::get_qdiscs()).map_err(|refusal| refusal.doing("list qdiscs"))?;
        let mut qdiscs = Self::default();
        for qdisc in replies.iter().filter_map(|reply| wire::parse_qdisc(&reply.body)) {
            qdiscs.by_link.entry(qdisc.link).or_default().push(qdisc);
        }
        Ok(qdiscs)
    }

    fn of(&self, link: u32) -> &[Qdisc] {
        self.by_link.get(&link).map(Vec::as_slice).unwrap_or_default()
    }

    fn ours(&self, link: u32) -> Option<&Qdisc> {
        self.of(link).iter().find(|qdisc| qdisc.is_ours())
    }

    fn has_clsact(&self, link: u32) -> bool {
        self.of(link).iter().any(Qdisc::is_clsact)
    }
}

/// Counters of all limits of ours, by link.
pub(crate) fn limit_stats(netlink: &mut Netlink) -> Result<BTreeMap<u32, QueueStats>, DataplaneError> {
    let mut all = BTreeMap::new();
    let read = netlink.each(&wire::get_qdiscs(), |row| all.extend(wire::limit_stats(row)));
    read.map_err(|refusal| refusal.doing("read the queues' counters"))?;
    Ok(all)
}

/// A link of ours, by name for people and by index for the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) name: &'a str,
    pub(crate) index: u32,
    pub(crate) mtu: u32,
}

impl Target<'_> {
    fn refused(&self, what: &str, refusal: &Refusal) -> DataplaneError {
        self.failed(format!("{what}: {}", refusal.words()))
    }

    fn failed(&self, message: String) -> DataplaneError {
        DataplaneError::Limit { link: self.name.to_owned(), message }
    }
}

/// Brings the root of a link to this limit, or to none; answers whether anything was written.
pub(crate) fn set_limit(
    netlink: &mut Netlink,
    qdiscs: &Qdiscs,
    target: Target<'_>,
    limit: Option<Limit>,
) -> Result<bool, DataplaneError> {
    let present = qdiscs.ours(target.index);
    let Some(limit) = limit else {
        if present.is_some() {
            let removed = netlink.call(&wire::delete_tbf(target.index));
            ignore_absent(removed).map_err(|refusal| target.refused("remove the limit", &refusal))?;
        }
        return Ok(present.is_some());
    };
    let shape = Shape::new(limit, target.mtu).map_err(|message| target.failed(message))?;
    let request = match present {
        Some(present) if present.has_shape(&shape) => return Ok(false),
        Some(_) => wire::change_tbf(target.index, &shape),
        None => wire::new_tbf(target.index, &shape),
    };
    netlink.call(&request).map_err(|refusal| target.refused("set the limit", &refusal))?;
    Ok(true)
}

/// True where the limit is in force on the link exactly.
pub(crate) fn has_limit(qdiscs: &Qdiscs, target: Target<'_>, limit: Option<Limit>) -> bool {
    let present = qdiscs.ours(target.index);
    match limit.map(|limit| Shape::new(limit, target.mtu)) {
        None => present.is_none(),
        Some(Ok(shape)) => present.is_some_and(|present| present.has_shape(&shape)),
        Some(Err(_)) => false,
    }
}

/// Brings the redirect on one side of a host veth to this ifb, or to none; answers whether anything was written.
pub(crate) fn set_redirect(
    netlink: &mut Netlink,
    qdiscs: &Qdiscs,
    (target, side): (Target<'_>, Side),
    ifb: Option<u32>,
) -> Result<bool, DataplaneError> {
    let clsact = qdiscs.has_clsact(target.index);
    let present = if clsact { redirects(netlink, target, side)? } else { Vec::new() };
    if present.iter().copied().eq(ifb) {
        return Ok(false);
    }
    if !present.is_empty() {
        let removed = netlink.call(&wire::delete_redirect(target.index, side));
        ignore_absent(removed).map_err(|refusal| target.refused("remove the redirect", &refusal))?;
    }
    if let Some(ifb) = ifb {
        if !clsact {
            netlink
                .call(&wire::new_clsact(target.index))
                .or_else(|refusal| if refusal.is(libc::EEXIST) { Ok(()) } else { Err(refusal) })
                .map_err(|refusal| target.refused("add clsact", &refusal))?;
        }
        netlink
            .call(&wire::new_redirect(target.index, side, ifb))
            .map_err(|refusal| target.refused("redirect to the ifb", &refusal))?;
    }
    Ok(true)
}

/// True where what comes by on this side is redirected to this ifb, or nowhere.
pub(crate) fn has_redirect(
    netlink: &mut Netlink,
    qdiscs: &Qdiscs,
    (target, side): (Target<'_>, Side),
    ifb: Option<u32>,
) -> Result<bool, DataplaneError> {
    let present =
        if qdiscs.has_clsact(target.index) { redirects(netlink, target, side)? } else { Vec::new() };
    Ok(present.iter().copied().eq(ifb))
}

/// True where the link has a program of ours as a clsact filter in that direction.
pub(crate) fn has_program(netlink: &mut Netlink, link: u32, ingress: bool) -> bool {
    netlink.get(&wire::get_program(link, ingress)).is_ok()
}

/// The link of a message about a clsact qdisc, which takes its filters along.
pub(crate) fn clsact_of(body: &[u8]) -> Option<u32> {
    wire::parse_qdisc(body).filter(Qdisc::is_clsact).map(|qdisc| qdisc.link)
}

/// True for a message about a qdisc of ours.
pub(crate) fn is_our_qdisc(body: &[u8]) -> bool {
    wire::parse_qdisc(body).is_some_and(|qdisc| qdisc.is_ours() || qdisc.is_our_htb())
}

/// True for a message about a filter of ours.
pub(crate) fn is_our_filter(body: &[u8]) -> bool {
    wire::has_our_priority(body)
}

fn redirects(netlink: &mut Netlink, target: Target<'_>, side: Side) -> Result<Vec<u32>, DataplaneError> {
    let filters = netlink
        .dump(&wire::get_filters(target.index, side))
        .map_err(|refusal| target.refused("list filters", &refusal))?;
    Ok(filters.iter().filter_map(|reply| wire::redirect_target(&reply.body)).collect())
}

fn ignore_absent(result: Result<(), Refusal>) -> Result<(), Refusal> {
    match result {
        Err(refusal) if refusal.is_absent() => Ok(()),
        other => other,
    }
}
