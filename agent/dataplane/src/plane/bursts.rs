//! How much a stack hands over at once, at both ends of a pod's link: little where its limit is low, so that what TCP takes
//! for two packets is not a tenth of a second of the limit.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;

use turnpike_model::desired::{BitsPerSecond, Endpoint};

use super::attach::in_pod;
use crate::links::{self, Link};
use crate::tc::shape;
use crate::{Dataplane, DataplaneError, pod};

/// Pods whose own end is capped, by the index of their host link.
#[derive(Debug, Default)]
pub(super) struct Capped(BTreeMap<u32, u32>);

impl Capped {
    /// A pod's end has this cap now.
    pub(super) fn note(&mut self, host_link: u32, cap: Option<u32>) {
        match cap {
            Some(bytes) => self.0.insert(host_link, bytes),
            None => self.0.remove(&host_link),
        };
    }

    /// The links are gone.
    pub(super) fn forget(&mut self, host_links: &[u32]) {
        for index in host_links {
            self.0.remove(index);
        }
    }
}

/// The cap of a limit, if it is that low; in bytes.
pub(super) fn cap(limit: Option<BitsPerSecond>, mtu: u32) -> Option<u32> {
    limit.and_then(|limit| shape::gso_cap(limit, mtu))
}

impl Dataplane {
    /// What the host itself sends to a slow pod.
    pub(super) fn cap_host_bursts(&mut self, endpoint: &Endpoint, link: &Link) -> Result<(), DataplaneError> {
        let is_capped = link.gso_max_size.is_some_and(|bytes| bytes < shape::GSO_DEFAULT);
        let bytes = match cap(endpoint.limits.to_workload, link.mtu) {
            Some(bytes) => bytes,
            None if is_capped => shape::GSO_DEFAULT,
            None => return Ok(()),
        };
        if link.gso_max_size == Some(bytes) {
            return Ok(());
        }
        self.netlink
            .call(&links::set_gso_max_size(link.index, bytes))
            .map_err(|refusal| refusal.doing(format!("cap bursts on {}", link.name)))
    }

    /// What a slow pod sends, where its limit has changed since it was made or is seen for the first time.
    ///
    /// The limit holds without it, so that a namespace that cannot be entered is no problem of the pod's. A cap that an
    /// earlier process set, for a limit that went while none ran, stays: it could be the pod's own.
    pub(super) fn cap_pod_bursts(&mut self, endpoint: &Endpoint, host: &Link) {
        let wanted = cap(endpoint.limits.from_workload, endpoint.mtu);
        if wanted == self.capped.0.get(&host.index).copied() || endpoint.netns_path.is_empty() {
            return;
        }
        let bytes = wanted.unwrap_or(shape::GSO_DEFAULT);
        match set(endpoint, host, bytes) {
            Ok(()) => tracing::debug!(link = host.name, bytes, "capped what the pod sends at once"),
            Err(error) => tracing::debug!(link = host.name, %error, "cannot cap what the pod sends at once"),
        }
        // Nor is it tried again for each resync.
        self.capped.note(host.index, wanted);
    }
}

fn set(endpoint: &Endpoint, host: &Link, bytes: u32) -> Result<(), DataplaneError> {
    // Whatever is there by now, opening it must not wait.
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let netns = options.open(&endpoint.netns_path).map_err(DataplaneError::EnterNetns)?;
    let ifname = &endpoint.id.ifname;
    in_pod(netns.as_fd(), |socket| {
        // The path may lead to another pod's namespace by now.
        let Some(pod) = pod::link(socket, ifname)?.filter(|pod| pod::is_pair(host, pod)) else {
            return Err(DataplaneError::LinkGone { link: format!("{ifname} in the pod") });
        };
        socket
            .call(&links::set_gso_max_size(pod.index, bytes))
            .map_err(|refusal| refusal.doing(format!("cap bursts on {ifname} in the pod")))
    })
}
