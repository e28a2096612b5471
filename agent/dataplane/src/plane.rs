//! The owner of all managers and drivers.

mod apply;
mod attach;
mod bursts;
mod check;
mod detach;
mod flow_queues;
mod trace;
mod tree;
mod usage;
mod watched;

pub use trace::{TracePacket, TraceRoute, TraceTransport, TraceVerdict};
pub use usage::{ClassUsage, HOST_CLASS, PodUsage, QueueUsage, ShadowUsage, UplinkUsage, UsageSample};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use turnpike_model::desired::{DesiredState, Endpoint};

use crate::bpf::Bpf;
use crate::gateways::{self, Gateway};
use crate::links::{self, Holder, KernelRoute};
use crate::netlink::Netlink;
use crate::nft::Nftables;
use crate::routes::HostRoutes;
use crate::tc::leaf::{self, LeafQueue};
use crate::tc::pacer::{self, Pacer};
use crate::tc::uplink::Memory;
use crate::{
    AttachReport, DataplaneConfig, DataplaneError, Finding, HooksInForce, LbTraffic, LimitsInForce,
    NodeFacts, Problem, ToaOfPod, Uplink, facts, host,
};

/// One node's data plane. Make it inside the host's network namespace and keep it on one thread.
#[derive(Debug)]
pub struct Dataplane {
    config: DataplaneConfig,
    netlink: Netlink,
    conntrack: Netlink,
    routes: HostRoutes,
    nft: Nftables,
    bpf: Bpf,
    /// What was applied last, with attachments and detachments since; `None` before the first
    /// [`Self::apply`], while other pods' entries are not known and shared tables must not be touched.
    desired: Option<DesiredState>,
    /// Attached before the first [`Self::apply`].
    early: Vec<Endpoint>,
    /// As [`Self::facts`] found them last.
    uplinks: Vec<Uplink>,
    trees: tree::Trees,
    /// What the leaves of trees get on this kernel.
    leaf_queue: LeafQueue,
    memory: Memory,
    /// Pods that are off the network and whose links have not been deleted yet.
    cut_off: Vec<detach::CutOff>,
    /// Indices of pods' links by name, as they were seen last: without those that were cut off or removed since.
    indices: BTreeMap<Arc<str>, u32>,
    /// Pods whose bursts are capped.
    capped: bursts::Capped,
    flow_queues: flow_queues::FlowQueues,
    /// The node's default routes, unless they may have changed.
    defaults: Option<Vec<KernelRoute>>,
}

impl Dataplane {
    /// Opens the kernel's interfaces and probes features; writes nothing but node-wide sysctls
    /// (forwarding, with `accept_ra` taken care of first), and takes over the routes that an earlier process left.
    ///
    /// A feature that the kernel lacks is no error: it shows as [`Severity::Degraded`](crate::Severity) in
    /// [`Self::apply`]'s answer.
    ///
    /// # Errors
    /// Netlink or sysctls cannot be used at all, or another process manages our routes in this namespace.
    pub fn new(config: DataplaneConfig) -> Result<Self, DataplaneError> {
        let open = |family, what: &str| {
            Netlink::open(family)
                .map_err(|source| DataplaneError::Netlink { what: format!("open a {what} socket"), source })
        };
        let mut netlink = open(libc::NETLINK_ROUTE, "route")?;
        let conntrack = open(libc::NETLINK_NETFILTER, "conntrack")?;
        host::enable_forwarding()?;
        let mut bpf = Bpf::open(&config.bpffs, config.cgroup_root.as_deref());
        bpf.has_fq = pacer::has_fq(&mut netlink);
        let leaf_queue = leaf::probe(&mut netlink);
        Ok(Self {
            netlink,
            conntrack,
            routes: HostRoutes::open(&config)?,
            nft: Nftables::open(&config.nft_table)?,
            bpf,
            desired: None,
            early: Vec::new(),
            uplinks: Vec::new(),
            trees: tree::Trees::new(),
            leaf_queue,
            cut_off: Vec::new(),
            indices: BTreeMap::new(),
            capped: bursts::Capped::default(),
            flow_queues: flow_queues::FlowQueues::default(),
            defaults: None,
            memory: Memory(config.state.clone()),
            config,
        })
    }

    /// What holds packets back at limits on this kernel.
    #[must_use]
    pub fn pacer(&self) -> Pacer {
        self.bpf.pacer()
    }

    /// Uplinks and the MTU of new pod links, read now.
    ///
    /// # Errors
    /// Netlink failed.
    pub fn facts(&mut self) -> Result<NodeFacts, DataplaneError> {
        let defaults = self.default_routes()?;
        let facts = facts::read(&mut self.netlink, &defaults, self.config.mtu)
            .map_err(|refusal| refusal.doing("read the node's links"))?;
        self.defaults = Some(defaults);
        self.uplinks.clone_from(&facts.uplinks);
        Ok(facts)
    }

    /// Makes a pod's link, addresses, routes, neighbours, limits and eBPF, all in force when it returns.
    ///
    /// Idempotent: an attachment of the same endpoint is completed, not made anew. On failure everything that this
    /// call made is removed. `netns` is the pod's network namespace, opened by the CNI binary.
    ///
    /// The endpoint must be in the agent's own books before the call: [`Self::apply`] removes every `tpk…` link that
    /// its desired state does not name. Call [`Self::apply`] once before the first attachment, so that the bypass
    /// and the nftables sets know about the new pod at once.
    ///
    /// # Errors
    /// See [`DataplaneError`].
    pub fn attach(
        &mut self,
        endpoint: &Endpoint,
        netns: BorrowedFd<'_>,
    ) -> Result<AttachReport, DataplaneError> {
        self.attach_endpoint(endpoint, netns)
    }

    /// Compares a pod's link with what [`Self::attach`] makes (CNI CHECK); an empty answer is "all well".
    ///
    /// # Errors
    /// The comparison itself could not be made.
    pub fn check(
        &mut self,
        endpoint: &Endpoint,
        netns: BorrowedFd<'_>,
    ) -> Result<Vec<Finding>, DataplaneError> {
        self.check_endpoint(endpoint, netns)
    }

    /// Removes a pod's link and all that belongs to it, by the host side's name; needs no network namespace.
    ///
    /// Idempotent: what is gone already is no error. Goes on after errors and reports the first.
    ///
    /// # Errors
    /// Something of the attachment is still there.
    pub fn detach(&mut self, host_link: &str) -> Result<(), DataplaneError> {
        self.detach_link(host_link)
    }

    /// Takes a pod off the network: nothing passes to or from it when this returns. Its links, and what conntrack
    /// knows of its addresses, go with the next [`Self::apply`], or before a new pod gets its name or address.
    ///
    /// Idempotent, as [`Self::detach`]. Where no program guards the pod's link it is the same as that.
    ///
    /// # Errors
    /// The pod may still be on the network.
    pub fn cut_off(&mut self, host_link: &str) -> Result<(), DataplaneError> {
        self.cut_off_link(host_link)
    }

    /// Deletes what pods that were cut off have left; answers whether there was anything.
    ///
    /// # Errors
    /// A link is still there; [`Self::apply`] tries again.
    pub fn sweep(&mut self) -> Result<bool, DataplaneError> {
        self.sweep_links()
    }

    /// Brings the node to `desired`, writing only differences, and answers with what could not be done.
    ///
    /// Call it at start (existing pods are adopted, traffic does not stop) and after every change. It works on the
    /// host side only: an endpoint whose link is gone is a problem in the answer, not something it makes. The answer
    /// is the complete list of present problems each time.
    pub fn apply(&mut self, desired: &DesiredState) -> Vec<Problem> {
        self.apply_state(desired)
    }

    /// The limits that the kernel enforces now for an endpoint: what it asks for where that is in force exactly,
    /// else `None`.
    ///
    /// # Errors
    /// Netlink failed.
    pub fn limits_in_force(&mut self, endpoint: &Endpoint) -> Result<LimitsInForce, DataplaneError> {
        self.read_limits(endpoint)
    }

    /// The default routes' gateways and whether they answer ARP or ND; has the kernel ask each of them again.
    ///
    /// # Errors
    /// Netlink failed.
    pub fn gateways(&mut self) -> Result<Vec<Gateway>, DataplaneError> {
        let defaults = self.default_routes()?;
        let found = gateways::look(&mut self.netlink, &defaults)
            .map_err(|refusal| refusal.doing("look at the gateways"))?;
        self.defaults = Some(defaults);
        Ok(found)
    }

    /// Read when they have changed: looking for them among the routes of all pods every few seconds is what rest costs.
    fn default_routes(&mut self) -> Result<Vec<KernelRoute>, DataplaneError> {
        let known = self.defaults.take();
        match known.filter(|_| matches!(self.routes.defaults_changed(), Ok(false))) {
            Some(known) => Ok(known),
            None => links::default_routes(&mut self.netlink).map_err(|refusal| refusal.doing("list routes")),
        }
    }

    /// Name of the link that the node's own route to an address leads to; `None` where there is no such route.
    pub fn routed_to(&mut self, address: IpAddr) -> Option<String> {
        match links::holder(&mut self.netlink, address)? {
            Holder::Node => Some("the node itself".to_owned()),
            Holder::Link(index) => {
                links::by_index(&mut self.netlink, index).ok().flatten().map(|link| link.name)
            }
        }
    }

    /// Counters of the eBPF programs by name, summed over CPUs; `None` where there are no programs.
    #[must_use]
    pub fn counters(&self) -> Option<std::collections::BTreeMap<&'static str, u64>> {
        self.bpf.counters()
    }

    /// Packets and bytes of every bypassing prefix, by direction and reason.
    ///
    /// # Errors
    /// There are no eBPF programs, or their maps cannot be read; for a person.
    pub fn lb_traffic(&self) -> Result<Vec<LbTraffic>, String> {
        self.desired.as_ref().map_or_else(|| Ok(Vec::new()), |desired| self.bpf.lb_traffic(desired))
    }

    /// What TOA did for the pod with these addresses.
    ///
    /// # Errors
    /// As for [`Self::lb_traffic`].
    pub fn toa_of(&self, addresses: &[IpAddr]) -> Result<ToaOfPod, String> {
        self.bpf.toa_of(addresses)
    }

    /// What is attached where, of bypass and TOA.
    ///
    /// # Errors
    /// As for [`Self::lb_traffic`].
    pub fn hooks_in_force(&self) -> Result<HooksInForce, String> {
        self.bpf.hooks_in_force()
    }

    /// Removes every object of ours and nothing else: links, ifbs, routes, nftables table, pins, tc. Pods lose their
    /// network. Goes on after errors; the answer lists what is still there. Forwarding stays on.
    pub fn teardown(&mut self) -> Vec<Problem> {
        self.remove_everything()
    }
}
