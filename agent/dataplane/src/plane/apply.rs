//! The whole node from any state to the desired one, and to nothing.

use std::collections::{BTreeMap, BTreeSet};

use turnpike_model::desired::{DesiredState, Endpoint};

use super::detach;
use crate::bpf::View;
use crate::endpoint;
use crate::host::HostTables;
use crate::links::{self, Link};
use crate::tc::{self, Qdiscs};
use crate::{Dataplane, DataplaneError, Problem, Severity, Uplink, host, sysctl};

/// Problems as they are found.
#[derive(Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn failed(&mut self, subject: &str, message: String) {
        self.0.push(Problem { severity: Severity::Failed, subject: subject.to_owned(), message });
    }

    fn degraded(&mut self, subject: &str, message: String) {
        self.0.push(Problem { severity: Severity::Degraded, subject: subject.to_owned(), message });
    }

    /// Keeps the value, or the error as a problem.
    pub(super) fn take<T>(&mut self, subject: &str, result: Result<T, DataplaneError>) -> Option<T> {
        result.map_err(|error| self.failed(subject, error.to_string())).ok()
    }
}

impl Dataplane {
    pub(super) fn apply_state(&mut self, desired: &DesiredState) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.desired = Some(desired.clone());
        self.early.clear();
        problems.take("forwarding", host::enable_forwarding());
        warn_about_sysctls(&mut problems);
        let read = links::all(&mut self.netlink).map_err(|refusal| refusal.doing("list links"));
        let Some(links) = problems.take("links", read) else {
            return problems.0;
        };
        problems.take("accept_ra", host::let_late_uplinks_listen(&links, &self.uplinks));
        self.remove_strangers(desired, &links, &mut problems);
        self.reconcile_endpoints(desired, &links, &mut problems);
        let links = if ours_are(&wanted_links(desired), &links) {
            links
        } else {
            // Strangers went, limits made or removed ifbs.
            let reread = links::all(&mut self.netlink).map_err(|refusal| refusal.doing("list links"));
            let Some(links) = problems.take("links", reread) else {
                return problems.0;
            };
            links
        };
        let ours = links.values().filter(|link| detach::is_ours(link));
        self.indices = ours.map(|link| (link.name.as_str().into(), link.index)).collect();
        if let Some(failures) = problems.take("routes", self.routes.apply(desired, &links)) {
            for failure in failures {
                problems.failed("routes", failure.to_string());
            }
        }
        problems.take("nftables", self.nft.apply(desired));
        let uplinks = self.uplinks(desired, &links, &mut problems);
        self.build_trees(desired, &links, &mut problems);
        let trees = self.trees.iter().map(|(name, tree)| (tree.index, name.as_str())).collect();
        let view = View { desired, links: &links, uplinks: &uplinks, trees };
        let Self { bpf, netlink, .. } = self;
        for (hook, link) in bpf.look(|_| true, |hooks| tc::have_programs(netlink, hooks)) {
            tracing::warn!(
                link,
                program = hook.program(),
                "a filter of ours was taken away; putting it back"
            );
        }
        problems.0.extend(self.bpf.apply(&view));
        self.prune_trees(&links, &mut problems);
        problems.0.sort();
        problems.0.dedup();
        problems.0
    }

    /// Deletes links of ours that no endpoint has.
    fn remove_strangers(
        &mut self,
        desired: &DesiredState,
        links: &BTreeMap<String, Link>,
        problems: &mut Problems,
    ) {
        let wanted: BTreeSet<String> = desired.endpoints.values().flat_map(links_of).collect();
        let strangers = links.values().filter(|link| detach::is_ours(link) && !wanted.contains(&link.name));
        let strangers: Vec<Link> = strangers.cloned().collect();
        for link in &strangers {
            tracing::info!(link = link.name, "removing a link that no pod has");
        }
        let deleted = self.delete_links(&strangers);
        if problems.take("links", deleted).is_some() {
            self.forget_cut_off();
        }
    }

    fn reconcile_endpoints(
        &mut self,
        desired: &DesiredState,
        links: &BTreeMap<String, Link>,
        problems: &mut Problems,
    ) {
        let tables = problems.take("links", HostTables::read(&mut self.netlink)).unwrap_or_default();
        let mut qdiscs = problems.take("limits", Qdiscs::read(&mut self.netlink)).unwrap_or_default();
        qdiscs.look_for_redirects(&mut self.netlink);
        for endpoint in desired.endpoints.values() {
            let name = &endpoint.host_link;
            let Some(link) = links.get(name) else {
                let pod = &endpoint.id.container_id;
                problems.failed(name, format!("the link of pod {pod} is gone; the pod must be made anew"));
                continue;
            };
            if let Some(true) =
                problems.take(name, host::reconcile(&mut self.netlink, endpoint, link, &tables))
            {
                tracing::info!(link = name, "put the host side of a pod's link back");
                problems.take(name, host::verify_mac(&mut self.netlink, name));
            }
            let limited = self.limit(endpoint, link, &qdiscs, |ifb| links.contains_key(ifb));
            problems.take(name, limited);
            self.cap_pod_bursts(endpoint, link);
        }
    }

    /// The uplinks that the desired state names, or those that the node has.
    fn uplinks(
        &mut self,
        desired: &DesiredState,
        links: &BTreeMap<String, Link>,
        problems: &mut Problems,
    ) -> Vec<Uplink> {
        let bypassing: Vec<_> = desired.lb_sources.values().filter(|source| source.bypass).collect();
        if bypassing.is_empty() {
            return Vec::new();
        }
        let found = self.facts();
        let found = problems.take("uplinks", found).map(|facts| facts.uplinks).unwrap_or_default();
        // A source that names none may come through each of the node's; one that names some, through these.
        let every = bypassing.iter().any(|source| source.uplinks.is_empty());
        let mut named: Vec<Uplink> =
            if every && desired.uplinks.is_empty() { found.clone() } else { Vec::new() };
        let mut names: BTreeSet<&String> = bypassing.iter().flat_map(|source| &source.uplinks).collect();
        if every {
            names.extend(&desired.uplinks);
        }
        for name in names {
            if named.iter().any(|uplink| &uplink.name == name) {
                continue;
            }
            match (found.iter().find(|uplink| &uplink.name == name), links.get(name)) {
                (Some(uplink), _) => named.push(uplink.clone()),
                (None, Some(link)) => named.push(Uplink {
                    name: name.clone(),
                    ifindex: link.index,
                    mtu: link.mtu,
                    has_default_route: false,
                }),
                (None, None) => problems.failed(name, "no such interface to be an uplink".to_owned()),
            }
        }
        named.sort();
        named
    }

    pub(super) fn remove_everything(&mut self) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.desired = None;
        self.early.clear();
        let read = links::all(&mut self.netlink).map_err(|refusal| refusal.doing("list links"));
        let links = problems.take("links", read).unwrap_or_default();
        self.trees.clear();
        self.remove_trees(&links, &mut problems);
        let doomed: Vec<Link> = links.values().filter(|link| detach::is_ours(link)).cloned().collect();
        let deleted = self.delete_links(&doomed);
        problems.take("links", deleted);
        self.forget_cut_off();
        if let Err(message) = self.bpf.remove() {
            problems.failed("ebpf", message);
        }
        problems.take("routes", self.routes.clear());
        problems.take("nftables", self.nft.remove());
        problems.0
    }
}

/// Names of all links that an endpoint may have.
fn links_of(endpoint: &Endpoint) -> Vec<String> {
    let mut names = vec![endpoint.host_link.clone()];
    if endpoint.limits.from_workload.is_some() {
        names.push(endpoint::ifb_name(&endpoint.host_link));
    }
    // Wanted or not: its redirect has to go first, and the pod's limit comes back before that.
    names.push(endpoint::to_pod_ifb_name(&endpoint.host_link));
    names
}

/// Names of all links that there are once everything is in force.
fn wanted_links(desired: &DesiredState) -> BTreeSet<String> {
    let of = |endpoint: &Endpoint| {
        let Endpoint { host_link, limits, .. } = endpoint;
        let from = limits.from_workload.map(|_| endpoint::ifb_name(host_link));
        let to = endpoint::queues_at_ifb(endpoint).then(|| endpoint::to_pod_ifb_name(host_link));
        [Some(host_link.clone()), from, to].into_iter().flatten()
    };
    desired.endpoints.values().flat_map(of).collect()
}

fn ours_are(wanted: &BTreeSet<String>, links: &BTreeMap<String, Link>) -> bool {
    links.values().filter(|link| detach::is_ours(link)).map(|link| &link.name).eq(wanted)
}

/// Node-wide settings of others that weaken ours. They are named, not changed.
fn warn_about_sysctls(problems: &mut Problems) {
    if let Ok(Some(value)) = sysctl::read("net/ipv4/conf/all/rp_filter")
        && value == "2"
    {
        problems.degraded(
            "sysctl net.ipv4.conf.all.rp_filter",
            "it is 2, which makes the reverse path filter loose on pod links too; set it to 0 or 1"
                .to_owned(),
        );
    }
}
