//! Driver for bandwidth limits.
//!
//! ```text
//! to the pod:    routing ─▶ [limiter] ─▶ queues ─▶ host veth ─▶ pod
//! from the pod:  pod ─▶ host veth ─▶ [anti-spoof] ─▶ u32 + mirred ─▶ ifb: [limiter] ─▶ queues ─▶ routing
//! ```
//! What the queues are is said in [`pacer`]. Where a pod exempts ranges, the limit to it sits behind a redirect to an
//! ifb, too: our program on the host veth keeps what is exempt from the redirect.
//!
//! Both queues sit on the node that the pod runs on, before or after routing, so traffic between two pods of one
//! node passes them as well. A changed rate changes the qdisc in place: nothing queued is lost.
//!
//! Without eBPF it is TBF and not HTB: one class needs no tree, and TBF cuts up GSO packets that are larger than its
//! bucket before it queues them, so that a full queue drops a segment and not 45.

mod htb;
pub(crate) mod leaf;
pub(crate) mod pacer;
pub(crate) mod shape;
mod tree;
pub(crate) mod uplink;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use turnpike_ebpf_loader::Hook;

use crate::DataplaneError;
use crate::netlink::{Netlink, Refusal};

use pacer::Pacer;
use shape::{Limit, Shape};
pub(crate) use tree::{Classes, HOST, classes};
use wire::Qdisc;
pub(crate) use wire::{QueueStats, Side};

/// The qdiscs of all links, read once for many of them.
#[derive(Debug, Default)]
pub(crate) struct Qdiscs {
    by_link: BTreeMap<u32, Vec<Qdisc>>,
    /// Links that have a redirect of ours for what arrives; `None` where nobody has looked.
    redirecting: Option<BTreeSet<u32>>,
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

    /// False for a link that had none, or that was not there, when they were read.
    pub(crate) fn know(&self, link: u32) -> bool {
        self.by_link.contains_key(&link)
    }

    /// Finds out which links have a redirect of ours for what arrives: many questions in one call, where listing the filters
    /// of each link takes a call for each.
    pub(crate) fn look_for_redirects(&mut self, netlink: &mut Netlink) {
        let links: Vec<u32> = self.by_link.keys().copied().filter(|link| self.has_clsact(*link)).collect();
        let requests: Vec<_> = links.iter().map(|link| wire::get_redirects(*link, Side::Ingress)).collect();
        let found = netlink.are_there(&requests);
        self.redirecting = Some(
            links.into_iter().zip(found).filter_map(|(link, is_there)| is_there.then_some(link)).collect(),
        );
    }

    /// False where nothing that arrives on the link is redirected by us.
    pub(crate) fn may_redirect(&self, link: u32) -> bool {
        self.has_clsact(link) && self.redirecting.as_ref().is_none_or(|found| found.contains(&link))
    }

    fn of(&self, link: u32) -> &[Qdisc] {
        self.by_link.get(&link).map(Vec::as_slice).unwrap_or_default()
    }

    fn ours(&self, link: u32) -> Option<(Pacer, &Qdisc)> {
        Pacer::of(self.of(link))
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

    pub(crate) fn failed(&self, message: String) -> DataplaneError {
        DataplaneError::Limit { link: self.name.to_owned(), message }
    }
}

/// Which of the queues for flows to make with a new limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queues {
    /// Those without which nothing passes in order.
    First,
    All,
}

/// Brings the root of a link to this limit, or to none; answers whether anything was written.
pub(crate) fn set_limit(
    netlink: &mut Netlink,
    qdiscs: &Qdiscs,
    target: Target<'_>,
    limit: Option<(Limit, Pacer)>,
    queues: Queues,
) -> Result<bool, DataplaneError> {
    let present = qdiscs.ours(target.index);
    let Some((limit, pacer)) = limit else {
        if let Some((_, root)) = present {
            pacer::remove(netlink, target, root)?;
        }
        return Ok(present.is_some());
    };
    let shape = Shape::new(limit, target.mtu).map_err(|message| target.failed(message))?;
    if present.is_some_and(|(found, root)| found == pacer && pacer.holds(root, &shape)) {
        return Ok(false);
    }
    pacer.write(netlink, target, &shape, present.map(|(found, _)| found), queues)?;
    Ok(true)
}

/// True where the limit is in force on the link exactly.
pub(crate) fn has_limit(qdiscs: &Qdiscs, target: Target<'_>, limit: Option<(Limit, Pacer)>) -> bool {
    let present = qdiscs.ours(target.index);
    let Some((limit, pacer)) = limit else { return present.is_none() };
    let shape = Shape::new(limit, target.mtu);
    let holds = |shape| present.is_some_and(|(found, root)| found == pacer && pacer.holds(root, &shape));
    shape.is_ok_and(holds)
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

/// Which of these links have the program of that hook as a filter.
pub(crate) fn have_programs(netlink: &mut Netlink, hooks: &[(Hook, u32)]) -> Vec<bool> {
    let requests: Vec<_> = hooks.iter().map(|(hook, link)| wire::get_program(*link, *hook)).collect();
    netlink.are_there(&requests)
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
