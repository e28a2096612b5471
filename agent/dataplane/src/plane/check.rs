//! CHECK: what differs from what `attach` makes.

use std::os::fd::BorrowedFd;

use turnpike_model::desired::Endpoint;

use super::attach::limits_of;
use crate::endpoint::{self, HOST_MAC};
use crate::host::{self, HostTables};
use crate::links::{self, Holder, Link};
use crate::tc::pacer::Pacer;
use crate::tc::shape::Limit;
use crate::tc::{self, Qdiscs, Side, Target};
use crate::{Dataplane, DataplaneError, Finding, LimitsInForce, pod, sysctl};

use super::attach::in_pod;

/// Differences as they are found.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, subject: &str, message: String) {
        self.0.push(Finding { subject: subject.to_owned(), message });
    }
}

impl Dataplane {
    pub(super) fn check_endpoint(
        &mut self,
        endpoint: &Endpoint,
        netns: BorrowedFd<'_>,
    ) -> Result<Vec<Finding>, DataplaneError> {
        endpoint::validate(endpoint)?;
        let mut findings = Findings::default();
        let name = &endpoint.host_link;
        let link = links::by_name(&mut self.netlink, name)
            .map_err(|refusal| refusal.doing(format!("read {name}")))?;
        findings.0.extend(in_pod(netns, |socket| pod::check(socket, endpoint, link.as_ref()))?);
        let Some(link) = link else {
            findings.add("link", format!("{name} is missing on the host"));
            return Ok(findings.0);
        };
        self.check_host_side(endpoint, &link, &mut findings)?;
        for port in self.nft.missing_host_ports(endpoint)? {
            findings.add("host port", format!("{port} does not lead to the pod"));
        }
        let in_force = self.read_limits(endpoint)?;
        for (direction, wanted, found) in [
            ("to the pod", endpoint.limits.to_workload, in_force.to_workload),
            ("from the pod", endpoint.limits.from_workload, in_force.from_workload),
        ] {
            if let Some(limit) = wanted.filter(|_| found != wanted) {
                findings.add("limit", format!("{} bit/s {direction} is not in force", limit.0));
            }
        }
        Ok(findings.0)
    }

    fn check_host_side(
        &mut self,
        endpoint: &Endpoint,
        link: &Link,
        findings: &mut Findings,
    ) -> Result<(), DataplaneError> {
        let name = &link.name;
        if !link.up {
            findings.add("link", format!("{name} is down on the host"));
        }
        if link.mac != Some(HOST_MAC) {
            findings.add("link", format!("MAC address of {name} is not {}", host::format_mac(HOST_MAC)));
        }
        for (name, wanted) in host::wanted_sysctls(endpoint, link) {
            let key = name.key(&link.name);
            let found = sysctl::read(&key)?;
            if found.as_ref() != Some(&wanted.to_string()) {
                let found = found.unwrap_or_else(|| "missing".to_owned());
                findings.add("sysctl", format!("{key} is {found}, wanted {wanted}"));
            }
        }
        for address in &endpoint.addresses {
            if links::holder(&mut self.netlink, *address) != Some(Holder::Link(link.index)) {
                findings.add("route", format!("the host does not route {address} to {name}"));
            }
        }
        let Self { bpf, netlink, .. } = self;
        let concerns = |index| index == link.index;
        for (hook, _) in bpf.look(concerns, |hooks| tc::have_programs(netlink, hooks)) {
            findings.add("filter", format!("{} was taken away from {name}", hook.program()));
        }
        let tables = HostTables::read(&mut self.netlink)?;
        for address in tables.missing_neighbours(endpoint, link) {
            findings.add("neighbour", format!("no permanent entry for {address} on {name}"));
        }
        Ok(())
    }

    pub(super) fn read_limits(&mut self, endpoint: &Endpoint) -> Result<LimitsInForce, DataplaneError> {
        let qdiscs = Qdiscs::read(&mut self.netlink)?;
        let read = |plane: &mut Self, name: &str| {
            links::by_name(&mut plane.netlink, name).map_err(|refusal| refusal.doing(format!("read {name}")))
        };
        let mut in_force = LimitsInForce::default();
        let Some(veth) = read(self, &endpoint.host_link)? else {
            return Ok(in_force);
        };
        let target = Target { name: &veth.name, index: veth.index, mtu: veth.mtu };
        let Endpoint { host_link, limits, .. } = endpoint;
        let [to, from] = limits_of(endpoint, self.pacer());
        let behind = |plane: &mut Self, name: String, side: Side, limit: Option<(Limit, Pacer)>| {
            let Some(ifb) = read(plane, &name)? else { return Ok(false) };
            let queue = Target { name: &ifb.name, index: ifb.index, mtu: ifb.mtu };
            Ok::<_, DataplaneError>(
                tc::has_limit(&qdiscs, queue, limit)
                    && tc::has_redirect(&mut plane.netlink, &qdiscs, (target, side), Some(ifb.index))?,
            )
        };
        let to_holds = if endpoint::queues_at_ifb(endpoint) {
            behind(self, endpoint::to_pod_ifb_name(host_link), Side::Egress, to)?
        } else {
            tc::has_limit(&qdiscs, target, to)
        };
        if to_holds {
            in_force.to_workload = limits.to_workload;
        }
        if behind(self, endpoint::ifb_name(host_link), Side::Ingress, from)? {
            in_force.from_workload = limits.from_workload;
        }
        Ok(in_force)
    }
}
