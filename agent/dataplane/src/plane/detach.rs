//! DEL: a pod off the network, and its links out of the kernel.
//!
//! The kernel takes 15 to 60 ms to delete an interface, nearly all of it waiting for RCU grace periods, and hardly more
//! to delete sixteen of them in one request. So a pod is cut off first, which takes no waiting, and links are deleted
//! later, together.

use std::collections::BTreeSet;
use std::net::IpAddr;

use turnpike_model::desired::Endpoint;

use crate::endpoint::{self, LINK_PREFIX};
use crate::links::{self, Link};
use crate::{Dataplane, DataplaneError, conntrack};

/// The group that links are put into to be deleted together: "tpkd".
const DOOMED_GROUP: u32 = 0x7470_6b64;

/// A pod that is cut off, whose links are still there.
#[derive(Debug)]
pub(super) struct CutOff {
    pub(super) host_link: String,
    addresses: Vec<IpAddr>,
    /// It had host ports: flows to them still lead to it.
    had_ports: bool,
}

impl Dataplane {
    /// Nothing passes to or from the pod any more when this returns; its links go with the next apply or attachment
    /// that they are in the way of. Where no program guards the host link, they go at once.
    pub(super) fn cut_off_link(&mut self, host_link: &str) -> Result<(), DataplaneError> {
        let guarded = self.our_link(host_link)?.filter(|link| self.bpf.guards(link.index));
        let Some(link) = guarded else {
            return self.detach_link(host_link);
        };
        let had_ports = self.known(host_link).is_some_and(|endpoint| !endpoint.host_ports.is_empty());
        let addresses = self.unregister(host_link);
        let mut results = vec![
            self.bpf.forget_addresses(&addresses).map_err(DataplaneError::Ebpf),
            self.bpf.shut(link.index).map_err(DataplaneError::Ebpf),
            self.routes.remove(&addresses),
        ];
        if let Some(desired) = &self.desired {
            results.push(self.nft.apply(desired).map(|_| ()));
        }
        self.cut_off.push(CutOff { host_link: host_link.to_owned(), addresses, had_ports });
        results.into_iter().collect()
    }

    /// Deletes what cut-off pods have left if that is in the way of a new endpoint.
    pub(super) fn make_way(&mut self, endpoint: &Endpoint) -> Result<(), DataplaneError> {
        let is_in_the_way = |gone: &CutOff| {
            gone.host_link == endpoint.host_link
                || gone.addresses.iter().any(|address| endpoint.addresses.contains(address))
                || gone.had_ports && !endpoint.host_ports.is_empty()
        };
        if self.cut_off.iter().any(is_in_the_way) { self.sweep_links().map(drop) } else { Ok(()) }
    }

    /// Deletes what cut-off pods have left; answers whether there was anything.
    pub(super) fn sweep_links(&mut self) -> Result<bool, DataplaneError> {
        let mut doomed = Vec::new();
        for gone in &self.cut_off {
            for name in endpoint::links_of(&gone.host_link) {
                let present = links::by_name(&mut self.netlink, &name);
                doomed.extend(present.map_err(|refusal| refusal.doing(format!("read {name}")))?);
            }
        }
        let any = !self.cut_off.is_empty();
        doomed.retain(is_ours);
        self.delete_links(&doomed)?;
        self.forget_cut_off();
        Ok(any)
    }

    /// Deletes links of ours, all together where there are several, and what programs and maps know of them.
    pub(super) fn delete_links(&mut self, doomed: &[Link]) -> Result<(), DataplaneError> {
        let mut result = Ok(());
        if !(doomed.len() > 1 && self.delete_together(doomed)) {
            for link in doomed {
                match self.netlink.call(&links::delete(link.index)) {
                    Err(refusal) if !refusal.is_absent() => {
                        result = result.and(Err(refusal.doing(format!("delete {}", link.name))));
                    }
                    _ => {}
                }
            }
        }
        let indices: Vec<u32> = doomed.iter().map(|link| link.index).collect();
        self.capped.forget(&indices);
        self.flow_queues.forget(&indices);
        result.and(self.bpf.forget_links(&indices).map_err(DataplaneError::Ebpf))
    }

    /// One request for all of them. False when that is not possible, and nothing was deleted.
    fn delete_together(&mut self, doomed: &[Link]) -> bool {
        let groupings: Vec<_> =
            doomed.iter().map(|link| links::set_group(link.index, DOOMED_GROUP)).collect();
        if self.netlink.batch(&groupings).iter().any(Result::is_err) {
            return false;
        }
        // The number is ours by nothing but its rarity: nobody else's link goes along.
        let Ok(all) = links::all(&mut self.netlink) else {
            return false;
        };
        let only_ours = all
            .values()
            .filter(|link| link.group == Some(DOOMED_GROUP))
            .all(|link| doomed.iter().any(|doomed| doomed.index == link.index));
        only_ours && self.netlink.call(&links::delete_group(DOOMED_GROUP)).is_ok()
    }

    /// What conntrack knows of the addresses of pods whose links are gone. Stale entries would send the replies of an
    /// address's next pod to this pod's peers; [`Self::make_way`] sees to it that there is none yet.
    pub(super) fn forget_cut_off(&mut self) {
        let addresses: Vec<IpAddr> = self.cut_off.drain(..).flat_map(|gone| gone.addresses).collect();
        if !addresses.is_empty() {
            self.forget_flows(&addresses);
        }
    }

    pub(super) fn detach_link(&mut self, host_link: &str) -> Result<(), DataplaneError> {
        let [_, ifb, to_pod_ifb] = endpoint::links_of(host_link);
        let doomed: Vec<Link> = [self.our_link(host_link)?, self.ifb_of(&ifb)?, self.ifb_of(&to_pod_ifb)?]
            .into_iter()
            .flatten()
            .collect();
        let mut addresses = self.unregister(host_link);
        let mut results = vec![
            self.bpf.forget_addresses(&addresses).map_err(DataplaneError::Ebpf),
            self.routes.remove(&addresses),
            self.delete_links(&doomed),
        ];
        if let Some(desired) = &self.desired {
            results.push(self.nft.apply(desired).map(|_| ()));
        }
        for gone in self.cut_off.extract_if(.., |gone| gone.host_link == host_link) {
            addresses.extend(gone.addresses);
        }
        self.forget_flows(&addresses);
        results.into_iter().collect()
    }

    fn our_link(&mut self, host_link: &str) -> Result<Option<Link>, DataplaneError> {
        if !host_link.starts_with(LINK_PREFIX) {
            return Err(DataplaneError::BadEndpoint {
                id: host_link.to_owned(),
                message: format!("a host link of ours begins with {LINK_PREFIX}"),
            });
        }
        let present = links::by_name(&mut self.netlink, host_link)
            .map_err(|refusal| refusal.doing(format!("read {host_link}")))?;
        Ok(present.filter(|link| link.is_kind("veth")))
    }

    /// The ifb of this name, where there is one.
    pub(super) fn ifb_of(&mut self, name: &str) -> Result<Option<Link>, DataplaneError> {
        let present = links::by_name(&mut self.netlink, name)
            .map_err(|refusal| refusal.doing(format!("read {name}")))?;
        Ok(present.filter(|link| link.is_kind("ifb")))
    }

    fn known(&self, host_link: &str) -> Option<&Endpoint> {
        let applied = self.desired.iter().flat_map(|desired| desired.endpoints.values());
        applied.chain(&self.early).find(|endpoint| endpoint.host_link == host_link)
    }

    /// Takes an endpoint out of the books; its addresses, unless another endpoint has them by now.
    fn unregister(&mut self, host_link: &str) -> Vec<IpAddr> {
        let mut gone = Vec::new();
        for name in endpoint::links_of(host_link) {
            self.indices.remove(name.as_str());
        }
        self.early.retain(|endpoint| {
            let stays = endpoint.host_link != host_link;
            if !stays {
                gone.extend(endpoint.addresses.iter().copied());
            }
            stays
        });
        let Some(desired) = &mut self.desired else {
            return gone;
        };
        desired.endpoints.retain(|_, endpoint| {
            let stays = endpoint.host_link != host_link;
            if !stays {
                gone.extend(endpoint.addresses.iter().copied());
            }
            stays
        });
        gone.retain(|address| {
            !desired.endpoints.values().any(|endpoint| endpoint.addresses.contains(address))
        });
        gone
    }

    /// Done when a pod goes, not when one comes: reading the table takes time that ADD does not have.
    fn forget_flows(&mut self, addresses: &[IpAddr]) {
        let addresses: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        match conntrack::forget(&mut self.conntrack, &addresses) {
            Ok(0) => {}
            Ok(count) => tracing::debug!(?addresses, count, "forgot conntrack entries"),
            // A kernel without conntrack has nothing to forget.
            Err(refusal) => {
                tracing::debug!(?addresses, error = refusal.words(), "conntrack cannot be read")
            }
        }
    }
}

/// Ours by name and kind: a bridge that somebody called `tpk0` is not.
pub(super) fn is_ours(link: &Link) -> bool {
    link.name.starts_with(LINK_PREFIX) && (link.is_kind("veth") || link.is_kind("ifb"))
}
