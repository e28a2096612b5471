//! Which load balancers are for which pods, where that differs. Pure.
//!
//! Where ranges of several sources overlap, a pod bypasses only if all that bypass admit it: whoever leaves it out says that
//! something else looks at its traffic. The nftables rule of the slow path says the same.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use turnpike_ebpf_loader::abi::Addr;
use turnpike_ebpf_loader::abi::bypass::{Admit, AdmitKey};
use turnpike_ebpf_loader::abi::{LpmKey, PodEntry, Veth};
use turnpike_model::desired::{DesiredState, Endpoint, LbSource};

use super::entries::{covers, group_of};

/// The sources of a state, by prefix.
#[derive(Debug, Default)]
pub(crate) struct Admission<'a> {
    /// `None` while nothing is known: then nobody is admitted.
    sources: Option<Vec<&'a LbSource>>,
    prefixes: Vec<Prefix<'a>>,
}

#[derive(Debug)]
struct Prefix<'a> {
    network: IpNetwork,
    group: u32,
    /// Sources that cover it.
    covering: Vec<&'a LbSource>,
}

impl<'a> Admission<'a> {
    /// `None` is a state that is not known yet.
    pub(crate) fn of(state: Option<&'a DesiredState>) -> Self {
        let Some(state) = state else { return Self::default() };
        let sources: Vec<&LbSource> = state.lb_sources.values().collect();
        // Nobody is left out, as nearly everywhere: there is nothing to look up.
        let open = |source: &&LbSource| source.namespaces.is_empty() && source.except_namespaces.is_empty();
        let prefixes = if sources.iter().all(open) { Vec::new() } else { prefixes(&sources) };
        Self { sources: Some(sources), prefixes }
    }

    /// Some source is not for this pod.
    fn selects(&self, endpoint: &Endpoint) -> bool {
        self.sources
            .as_ref()
            .is_none_or(|sources| !sources.iter().all(|source| source.is_for(&endpoint.namespace)))
    }

    /// Flags of the pod's [`PodEntry`].
    pub(crate) fn pod_flags(&self, endpoint: &Endpoint) -> u32 {
        let off = if endpoint.bypass_off { PodEntry::NO_BYPASS } else { 0 };
        off | if self.selects(endpoint) { PodEntry::SELECTIVE } else { 0 }
    }

    /// Flags of its [`Veth`].
    pub(crate) fn veth_flags(&self, endpoint: &Endpoint) -> u32 {
        let off = if endpoint.bypass_off { Veth::NO_BYPASS } else { 0 };
        off | if self.selects(endpoint) { Veth::SELECTIVE } else { 0 }
    }

    /// What each source may do with the pod, for every source that can meet one of its addresses.
    pub(crate) fn entries(&self, endpoint: &Endpoint) -> BTreeMap<AdmitKey, u32> {
        if !self.selects(endpoint) {
            return BTreeMap::new();
        }
        let mut entries = BTreeMap::new();
        for address in &endpoint.addresses {
            for prefix in self.prefixes.iter().filter(|prefix| prefix.network.is_ipv4() == address.is_ipv4())
            {
                let key = AdmitKey { pod: Addr::from(*address), group: prefix.group };
                entries.insert(key, prefix.admits(&endpoint.namespace));
            }
        }
        entries
    }
}

impl Prefix<'_> {
    fn admits(&self, namespace: &str) -> u32 {
        let all = |concerned: fn(&LbSource) -> bool| {
            self.covering.iter().filter(|source| concerned(source)).all(|source| source.is_for(namespace))
        };
        let bypass = if all(|source| source.bypass) { Admit::BYPASS } else { 0 };
        bypass | if all(|source| source.toa.is_some() || source.uoa) { Admit::TOA } else { 0 }
    }
}

fn prefixes<'a>(sources: &[&'a LbSource]) -> Vec<Prefix<'a>> {
    let networks = sources.iter().flat_map(|source| &source.cidrs);
    networks
        .filter_map(|network| {
            let group = group_of(&LpmKey::new(network.network(), network.prefix())?);
            let is_over = |source: &&&LbSource| source.cidrs.iter().any(|cidr| covers(cidr, network));
            Some(Prefix {
                network: *network,
                group,
                covering: sources.iter().filter(is_over).copied().collect(),
            })
        })
        .collect()
}
