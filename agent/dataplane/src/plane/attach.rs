//! ADD and DEL: one pod's link from nothing to in force, and back.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use turnpike_model::desired::{Endpoint, Protocol};

use super::bursts;
use crate::bpf::Ifbs;
use crate::endpoint::{self, HOST_MAC, LINK_PREFIX};
use crate::host::HostTables;
use crate::links::{self, Holder, Link, Mac, Veth};
use crate::pod::{self, PodOptions};
use crate::tc::pacer::Pacer;
use crate::tc::shape::Limit;
use crate::tc::{self, Qdiscs, Side, Target};
use crate::{AttachReport, Dataplane, DataplaneError, Problem, Severity, conntrack, host, netns};

impl Dataplane {
    pub(super) fn attach_endpoint(
        &mut self,
        endpoint: &Endpoint,
        netns: BorrowedFd<'_>,
    ) -> Result<AttachReport, DataplaneError> {
        endpoint::validate(endpoint)?;
        if netns::is_own(netns).map_err(DataplaneError::EnterNetns)? {
            return Err(DataplaneError::HostNetns);
        }
        self.make_way(endpoint)?;
        let mut problems = self.claim_addresses(endpoint)?;
        let created = self.ensure_veth(endpoint, netns)?;
        match self.complete(endpoint, netns, created) {
            Ok(mut report) => {
                problems.append(&mut report.problems);
                report.problems = problems;
                Ok(report)
            }
            Err(error) => {
                if created && let Err(second) = self.detach_link(&endpoint.host_link) {
                    tracing::warn!(link = endpoint.host_link, error = %second, "rollback left something behind");
                }
                Err(error)
            }
        }
    }

    /// Makes sure that nobody alive has the endpoint's addresses; what a dead link of ours still holds is taken.
    fn claim_addresses(&mut self, endpoint: &Endpoint) -> Result<Vec<Problem>, DataplaneError> {
        let mut problems = Vec::new();
        for address in &endpoint.addresses {
            let in_use = |holder: String| DataplaneError::AddressInUse { address: *address, holder };
            let holder = match links::holder(&mut self.netlink, *address) {
                None => continue,
                Some(Holder::Node) => return Err(in_use("(the node itself)".to_owned())),
                Some(Holder::Link(index)) => links::by_index(&mut self.netlink, index)
                    .map_err(|refusal| refusal.doing(format!("read link {index}")))?,
            };
            let Some(holder) = holder.filter(|link| link.name != endpoint.host_link) else {
                continue;
            };
            let orphan = holder.name.starts_with(LINK_PREFIX) && self.is_orphan(&holder.name);
            if !orphan {
                return Err(in_use(holder.name));
            }
            self.detach_link(&holder.name)?;
            problems.push(Problem {
                severity: Severity::Degraded,
                subject: endpoint.host_link.clone(),
                message: format!(
                    "{address} was still held by {}, whose pod is gone; taken over",
                    holder.name
                ),
            });
        }
        Ok(problems)
    }

    /// True for a link of ours that belongs to no pod in the books. Before the first apply nothing is known.
    fn is_orphan(&self, host_link: &str) -> bool {
        self.desired.as_ref().is_some_and(|desired| {
            !desired.endpoints.values().any(|endpoint| endpoint.host_link == host_link)
        })
    }

    /// Adopts or creates the veth pair; answers whether it was created.
    fn ensure_veth(&mut self, endpoint: &Endpoint, netns: BorrowedFd<'_>) -> Result<bool, DataplaneError> {
        let (name, ifname) = (&endpoint.host_link, &endpoint.id.ifname);
        let present = links::by_name(&mut self.netlink, name)
            .map_err(|refusal| refusal.doing(format!("read {name}")))?;
        if let Some(host) = present {
            if !host.is_kind("veth") {
                return Err(DataplaneError::HostLinkForeign { link: name.clone() });
            }
            match in_pod(netns, |socket| pod::link(socket, ifname))? {
                Some(pod) if pod::is_pair(&host, &pod) => return Ok(false),
                Some(_) => return Err(taken(endpoint)),
                // The other end is in a namespace that this pod no longer has.
                None => self.detach_link(name)?,
            }
        }
        let veth = Veth {
            host_name: name,
            host_mac: HOST_MAC,
            pod_name: ifname,
            pod_mac: endpoint::mac_of(endpoint),
            pod_netns: netns,
            mtu: endpoint.mtu,
        };
        let mut made = self.netlink.call(&links::create_veth(&veth));
        if matches!(&made, Err(refusal) if refusal.is(libc::EEXIST)) && self.sweep_links()? {
            // A pod that was cut off had it, in the same namespace.
            made = self.netlink.call(&links::create_veth(&veth));
        }
        match made {
            Ok(()) => Ok(true),
            Err(refusal) if refusal.is(libc::EEXIST) => Err(taken(endpoint)),
            Err(refusal) => Err(refusal.doing(format!("create veth pair {name} - {ifname}"))),
        }
    }

    fn complete(
        &mut self,
        endpoint: &Endpoint,
        netns: BorrowedFd<'_>,
        created: bool,
    ) -> Result<AttachReport, DataplaneError> {
        let name = &endpoint.host_link;
        let link = self.host_link(name)?;
        let tables = if created { HostTables::default() } else { HostTables::read(&mut self.netlink)? };
        host::reconcile(&mut self.netlink, endpoint, &link, &tables)?;
        let (pod_ifindex, pod_mac) = self.configure_pod(endpoint, netns)?;
        self.capped.note(link.index, bursts::cap(endpoint.limits.from_workload, endpoint.mtu));
        let link = host::verify_mac(&mut self.netlink, name)?;
        // A new link has none; reading those of all pods is what grows with their number.
        let qdiscs = if created { Qdiscs::default() } else { Qdiscs::read(&mut self.netlink)? };
        let may_have_ifb = |_: &str| !created;
        let ifbs = self.limit(endpoint, &link, &qdiscs, may_have_ifb)?;
        let links = std::iter::once(&link).chain(ifbs.iter());
        self.indices.extend(links.map(|link| (link.name.as_str().into(), link.index)));
        let mut problems = self.bpf.attach(endpoint, &link, &ifbs, self.desired.as_ref());
        problems.extend(self.register(endpoint)?);
        self.routes.add(&endpoint.addresses, link.index)?;
        Ok(AttachReport {
            host_ifindex: link.index,
            host_mac: HOST_MAC,
            pod_ifindex,
            pod_mac,
            mtu: link.mtu,
            problems,
        })
    }

    fn host_link(&mut self, name: &str) -> Result<Link, DataplaneError> {
        links::by_name(&mut self.netlink, name)
            .map_err(|refusal| refusal.doing(format!("read {name}")))?
            .ok_or_else(|| DataplaneError::LinkGone { link: name.to_owned() })
    }

    fn configure_pod(
        &self,
        endpoint: &Endpoint,
        netns: BorrowedFd<'_>,
    ) -> Result<(u32, Mac), DataplaneError> {
        let options = PodOptions {
            ecn: self.config.pod_ecn,
            gso_max_size: bursts::cap(endpoint.limits.from_workload, endpoint.mtu),
        };
        in_pod(netns, |socket| pod::configure(socket, endpoint, options))
    }

    /// Puts the endpoint into the books, and into the tables that pods share. A pod is not refused because those
    /// cannot be written, unless it asked for what they do: the next apply says so, and tries again.
    fn register(&mut self, endpoint: &Endpoint) -> Result<Option<Problem>, DataplaneError> {
        let Some(desired) = &mut self.desired else {
            self.early.retain(|early| early.id != endpoint.id);
            self.early.push(endpoint.clone());
            return Ok(None);
        };
        desired.endpoints.insert(endpoint.id.clone(), endpoint.clone());
        match self.nft.apply(desired) {
            Ok(_) => {
                self.forget_strays(endpoint);
                Ok(None)
            }
            Err(error) if !endpoint.host_ports.is_empty() => Err(error),
            Err(error) => Ok(Some(Problem {
                severity: Severity::Failed,
                subject: "nftables".to_owned(),
                message: error.to_string(),
            })),
        }
    }

    /// UDP flows that came to the port before it was mapped would go on to the node for as long as they last.
    fn forget_strays(&mut self, endpoint: &Endpoint) {
        let udp = endpoint.host_ports.iter().filter(|port| port.protocol == Protocol::Udp);
        let ports: BTreeSet<u16> = udp.map(|port| port.host_port).collect();
        if ports.is_empty() {
            return;
        }
        let Self { conntrack, netlink, .. } = self;
        let is_ours = |ip| links::holder(netlink, ip) == Some(Holder::Node);
        match conntrack::forget_udp_to(conntrack, &ports, is_ours) {
            Ok(count) => tracing::debug!(link = endpoint.host_link, count, "forgot UDP flows to host ports"),
            Err(refusal) => tracing::debug!(error = refusal.words(), "conntrack cannot be read"),
        }
    }

    /// Brings both limits of an endpoint to what it asks for; answers the ifbs that there are. `may_have` says whether a
    /// link of that name may be there: few pods exempt ranges, and looking for what is left of them costs all others.
    pub(super) fn limit(
        &mut self,
        endpoint: &Endpoint,
        link: &Link,
        qdiscs: &Qdiscs,
        may_have: impl Fn(&str) -> bool,
    ) -> Result<Ifbs, DataplaneError> {
        let veth = Target { name: &link.name, index: link.index, mtu: link.mtu };
        let host_link = &endpoint.host_link;
        let [to, from] = limits_of(endpoint, self.pacer());
        let at_ifb = to.filter(|_| endpoint::queues_at_ifb(endpoint));
        let name = endpoint::to_pod_ifb_name(host_link);
        let to_pod = if at_ifb.is_some() || may_have(&name) {
            self.limit_at_ifb((veth, Side::Egress), &name, at_ifb, qdiscs)?
        } else {
            None
        };
        // After the ifb's is in force, and before it is gone, so that the pod is never without.
        self.set_limit(qdiscs, veth, to.filter(|_| at_ifb.is_none()))?;
        self.cap_host_bursts(endpoint, link)?;
        let name = endpoint::ifb_name(host_link);
        let from_pod = if from.is_some() || may_have(&name) || qdiscs.may_redirect(link.index) {
            self.limit_at_ifb((veth, Side::Ingress), &name, from, qdiscs)?
        } else {
            None
        };
        Ok(Ifbs { from_pod, to_pod })
    }

    /// Brings the limit behind a redirect on one side of a host veth to this one, or to none.
    fn limit_at_ifb(
        &mut self,
        (veth, side): (Target<'_>, Side),
        name: &str,
        limit: Option<(Limit, Pacer)>,
        qdiscs: &Qdiscs,
    ) -> Result<Option<Link>, DataplaneError> {
        let Some(limit) = limit else {
            // A redirect to a link that is gone would swallow everything.
            tc::set_redirect(&mut self.netlink, qdiscs, (veth, side), None)?;
            self.remove_ifb(name)?;
            return Ok(None);
        };
        let (ifb, was_there) = self.ensure_ifb(name, veth.mtu)?;
        let target = Target { name: &ifb.name, index: ifb.index, mtu: ifb.mtu };
        // Beside a new veth, whose qdiscs nobody reads, it is what an agent left that was killed between the two.
        let left = was_there && !qdiscs.know(ifb.index);
        let read = if left { Some(Qdiscs::read(&mut self.netlink)?) } else { None };
        self.set_limit(read.as_ref().unwrap_or(qdiscs), target, Some(limit))?;
        tc::set_redirect(&mut self.netlink, qdiscs, (veth, side), Some(ifb.index))?;
        Ok(Some(ifb))
    }

    /// The ifb of this name, up; and whether it was there already.
    fn ensure_ifb(&mut self, name: &str, mtu: u32) -> Result<(Link, bool), DataplaneError> {
        let doing = |what: &str| format!("{what} {name}");
        let present =
            links::by_name(&mut self.netlink, name).map_err(|refusal| refusal.doing(doing("read")))?;
        let was_there = present.is_some();
        let ifb = match present {
            Some(link) if !link.is_kind("ifb") => {
                return Err(DataplaneError::HostLinkForeign { link: name.to_owned() });
            }
            Some(link) => link,
            None => {
                let request = links::create_ifb(name, mtu);
                self.netlink.call(&request).map_err(|refusal| refusal.doing(doing("create ifb")))?;
                self.host_link(name)?
            }
        };
        if !ifb.up {
            host::quieten(name)?;
            self.netlink
                .call(&links::set_up(ifb.index))
                .map_err(|refusal| refusal.doing(doing("bring up")))?;
        }
        Ok((ifb, was_there))
    }

    fn remove_ifb(&mut self, name: &str) -> Result<(), DataplaneError> {
        let Some(ifb) = self.ifb_of(name)? else {
            return Ok(());
        };
        match self.netlink.call(&links::delete(ifb.index)) {
            Err(refusal) if !refusal.is_absent() => Err(refusal.doing(format!("delete {}", ifb.name))),
            _ => {
                self.indices.remove(name);
                Ok(())
            }
        }
    }
}

/// An endpoint's limits to and from it, as they are held.
pub(super) fn limits_of(endpoint: &Endpoint, pacer: Pacer) -> [Option<(Limit, Pacer)>; 2] {
    let Endpoint { limits, bursts, .. } = endpoint;
    let to = Limit::of(limits.to_workload, bursts.to_workload);
    let from = Limit::of(limits.from_workload, bursts.from_workload);
    let from = from.map(|limit| Limit { shortcut: pacer == Pacer::Htb, ..limit });
    [to, from].map(|limit| limit.map(|limit| (limit, pacer)))
}

/// The host's name is free, so that it is the pod's that is taken.
fn taken(endpoint: &Endpoint) -> DataplaneError {
    DataplaneError::PodLinkExists {
        ifname: endpoint.id.ifname.clone(),
        host_link: endpoint.host_link.clone(),
    }
}

/// Runs `work` in the pod's namespace with a route socket of that namespace.
pub(super) fn in_pod<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce(&mut crate::netlink::Netlink) -> Result<T, DataplaneError> + Send,
) -> Result<T, DataplaneError> {
    netns::inside(netns, || work(&mut pod::socket()?)).map_err(DataplaneError::EnterNetns)?
}
