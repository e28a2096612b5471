//! The desired state as entries of the eBPF maps. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use turnpike_ebpf_loader::abi::{
    Addr, ExemptKey, LbSource, LpmKey, MarkConfig, PodEntry, PortKey, ToaConfig, ToaFormat, Uplink, Veth,
};
use turnpike_model::desired::{self, DesiredState, Endpoint};

use super::admission::Admission;
use crate::endpoint::{self, HOST_MAC};
use crate::links::Link;
use crate::nft;
use crate::tc::pacer::Pacer;
use crate::tc::shape::{Limit, Shape};

/// How to reach a pod: one entry for each of its addresses.
pub(crate) fn pods(endpoint: &Endpoint, link: &Link, admission: &Admission<'_>) -> BTreeMap<Addr, PodEntry> {
    let mut flags = admission.pod_flags(endpoint);
    // A shadow limit, too, must see what comes past netfilter.
    if endpoint.limits.to_workload.or(endpoint.shadow.to_workload).is_some() {
        flags |= PodEntry::LIMITED;
    }
    if endpoint.toa_off {
        flags |= PodEntry::NO_TOA;
    }
    let entry = PodEntry {
        ifindex: link.index,
        mtu: link.mtu,
        flags,
        pod_mac: endpoint::mac_of(endpoint),
        host_mac: HOST_MAC,
    };
    endpoint.addresses.iter().map(|address| (Addr::from(*address), entry)).collect()
}

/// What may leave a pod.
pub(crate) fn veth(endpoint: &Endpoint, ifb: Option<u32>, admission: &Admission<'_>) -> Veth {
    let mac = endpoint::mac_of(endpoint);
    let flags = admission.veth_flags(endpoint);
    let mut veth = Veth { pod_mac: mac, class: endpoint.class.unwrap_or(0), flags, ..Veth::default() };
    veth.queue = endpoint.limits.from_workload.and(ifb).unwrap_or(0);
    if endpoint.limits.from_workload.is_some() {
        veth.flags |= Veth::LIMITED;
    }
    if endpoint.shadow.from_workload.is_some() {
        veth.flags |= Veth::SHADOW;
    }
    if !endpoint.exempt.is_empty() {
        veth.flags |= Veth::EXEMPT;
    }
    for address in &endpoint.addresses {
        match address {
            IpAddr::V4(ip) => veth.ip4 = ip.octets(),
            IpAddr::V6(ip) => {
                veth.ip6 = ip.octets();
                veth.link_local = endpoint::link_local(mac).octets();
            }
        }
    }
    veth
}

/// Indices of a pod's links.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Indices {
    pub(crate) veth: u32,
    /// Where what it sends is queued.
    pub(crate) ifb: Option<u32>,
    /// Where what it receives is queued, if not on the veth.
    pub(crate) to_pod_ifb: Option<u32>,
}

impl Indices {
    fn to_pod_queue(self) -> u32 {
        self.to_pod_ifb.unwrap_or(self.veth)
    }
}

/// Whether something has to look at what goes to the pod before its queue: to count it for a shadow, or to tell what is
/// exempt.
pub(crate) fn is_marked(endpoint: &Endpoint) -> bool {
    endpoint.shadow.to_workload.is_some() || endpoint::queues_at_ifb(endpoint)
}

/// Laws of a pod's links: those with its queues.
pub(crate) fn marks(endpoint: &Endpoint, links: Indices, pacer: Pacer) -> BTreeMap<u32, MarkConfig> {
    let flags = if pacer == Pacer::Fq { MarkConfig::PACED } else { 0 };
    let [to, from] = [endpoint.limits.to_workload, endpoint.limits.from_workload];
    [
        (Limit::of(to, endpoint.bursts.to_workload), Some(links.to_pod_queue())),
        (Limit::of(from, endpoint.bursts.from_workload), links.ifb),
    ]
    .into_iter()
    .filter_map(|(limit, link)| Some((link?, MarkConfig { flags, ..law(limit?, endpoint.mtu)? })))
    .collect()
}

fn law(limit: Limit, mtu: u32) -> Option<MarkConfig> {
    MarkConfig::for_rate(limit.rate.0, Shape::new(limit, mtu).ok()?.bucket_ns())
}

/// Shadow limits of a pod by key; a rate that makes no sense has none. What it receives is counted where it is queued,
/// so that what is exempt is not.
pub(crate) fn shadows(endpoint: &Endpoint, links: Indices) -> BTreeMap<u32, MarkConfig> {
    let [to, from] = [endpoint.shadow.to_workload, endpoint.shadow.from_workload];
    [
        (Limit::of(to, endpoint.bursts.to_workload), links.to_pod_queue()),
        (Limit::of(from, endpoint.bursts.from_workload), MarkConfig::shadow_from_pod_key(links.veth)),
    ]
    .into_iter()
    .filter_map(|(limit, key)| Some((key, law(limit?, endpoint.mtu)?)))
    .collect()
}

/// Ranges that a pod's limits do not count.
pub(crate) fn exempt(endpoint: &Endpoint, veth: u32) -> BTreeMap<ExemptKey, u8> {
    let key =
        |range: &IpNetwork| Some((ExemptKey::new(veth, LpmKey::new(range.network(), range.prefix())?), 1));
    endpoint.exempt.iter().filter_map(key).collect()
}

/// Uplinks, numbered in order of their names.
pub(crate) fn uplinks(uplinks: &[crate::Uplink]) -> BTreeMap<u32, Uplink> {
    (0..).zip(uplinks).map(|(index, uplink)| (uplink.ifindex, Uplink { mtu: uplink.mtu, index })).collect()
}

/// Groups of the sources that bypass: what is counted.
pub(crate) fn groups(sources: &BTreeMap<LpmKey, LbSource>) -> BTreeSet<u32> {
    sources
        .values()
        .filter(|source| source.flags & LbSource::BYPASS != 0)
        .map(|source| source.group)
        .collect()
}

/// Settings of the TOA programs.
pub(crate) fn toa(state: &DesiredState) -> ToaConfig {
    let in_syn = state.lb_sources.values().any(|source| source.toa.is_some() && source.toa_in_syn);
    let flags = if in_syn { ToaConfig::SAVE_SYN } else { 0 };
    ToaConfig { flags, late_packets: ToaConfig::LATE_PACKETS }
}

/// The uplinks that a source may come through.
fn uplink_bits(source: &desired::LbSource, uplinks: &[crate::Uplink]) -> u32 {
    if source.uplinks.is_empty() {
        return LbSource::ANY_UPLINK;
    }
    let named = (0_u32..).zip(uplinks).filter(|(_, uplink)| source.uplinks.contains(&uplink.name));
    named.fold(0, |bits, (index, _)| bits | 1_u32.checked_shl(index).unwrap_or(0))
}

/// Load-balancer sources and their port rules.
///
/// The kernel's trie finds the longest prefix only, so each prefix carries what all sources that cover it allow:
/// that is what the nftables rules say too. Its TOA format is that of the narrowest source that has one.
///
/// A prefix may come through every uplink that one of its bypassing sources names.
pub(crate) fn lb_sources(
    state: &DesiredState,
    links: &[crate::Uplink],
) -> (BTreeMap<LpmKey, LbSource>, BTreeMap<PortKey, u8>) {
    let (mut sources, mut ports) = (BTreeMap::new(), BTreeMap::new());
    let prefixes =
        || state.lb_sources.values().flat_map(|source| source.cidrs.iter().map(move |cidr| (*cidr, source)));
    for (prefix, _) in prefixes() {
        let Some(key) = LpmKey::new(prefix.network(), prefix.prefix()) else {
            continue;
        };
        let group = group_of(&key);
        let mut entry = LbSource { group, ..LbSource::default() };
        let mut narrowest = None;
        for (cidr, source) in prefixes().filter(|(cidr, _)| covers(cidr, &prefix)) {
            if source.bypass {
                entry.flags |= LbSource::BYPASS;
                entry.uplinks |= uplink_bits(source, links);
                if source.ports.is_empty() {
                    entry.flags |= LbSource::TCP_ANY_PORT;
                }
                ports.extend(
                    source
                        .ports
                        .iter()
                        .map(|port| (PortKey::new(group, nft::protocol_number(port.protocol), port.port), 1)),
                );
            }
            if source.uoa {
                entry.flags |= LbSource::UOA;
            }
            if let Some(format) = source.toa
                && narrowest.is_none_or(|length| cidr.prefix() > length)
            {
                narrowest = Some(cidr.prefix());
                entry.toa_format = toa_format(format) as u32;
            }
        }
        sources.insert(key, entry);
    }
    (sources, ports)
}

/// Whether all of `inner` is in `outer`.
pub(super) fn covers(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// A prefix's group number: stable, so that a new source renumbers no other.
pub(super) fn group_of(key: &LpmKey) -> u32 {
    let mut bytes = key.prefix_len.to_be_bytes().to_vec();
    bytes.extend(key.addr.0);
    let hash = endpoint::fnv1a(&bytes);
    u32::try_from((hash >> 32) ^ (hash & u64::from(u32::MAX))).unwrap_or_default()
}

fn toa_format(format: desired::ToaFormat) -> ToaFormat {
    match format {
        desired::ToaFormat::Toa254 => ToaFormat::Toa254,
        desired::ToaFormat::Toa253V6 => ToaFormat::Toa253V6,
        desired::ToaFormat::Vtoa252 => ToaFormat::Vtoa252,
        desired::ToaFormat::Toa200 => ToaFormat::Toa200,
        desired::ToaFormat::Cdn28 => ToaFormat::Cdn28,
    }
}

#[cfg(test)]
mod tests {
    use turnpike_ebpf_loader::abi::bypass::Admit;
    use turnpike_model::desired::{Protocol, ServicePort};

    use super::*;

    fn source(cidr: &str, bypass: bool, toa: Option<desired::ToaFormat>, ports: &[u16]) -> desired::LbSource {
        desired::LbSource {
            cidrs: BTreeSet::from([cidr.parse().unwrap()]),
            bypass,
            toa,
            ports: ports.iter().map(|port| ServicePort { protocol: Protocol::Udp, port: *port }).collect(),
            ..desired::LbSource::default()
        }
    }

    #[test]
    fn a_narrow_prefix_inherits_from_the_sources_that_cover_it() {
        let state = DesiredState {
            lb_sources: BTreeMap::from([
                ("wide".to_owned(), source("10.9.0.0/16", true, Some(desired::ToaFormat::Toa200), &[])),
                ("narrow".to_owned(), source("10.9.1.0/24", true, Some(desired::ToaFormat::Toa254), &[53])),
                ("toa-only".to_owned(), source("10.8.0.0/16", false, Some(desired::ToaFormat::Cdn28), &[])),
            ]),
            ..DesiredState::default()
        };
        let (sources, ports) = lb_sources(&state, &[]);
        let get = |text: &str, length| &sources[&LpmKey::new(text.parse().unwrap(), length).unwrap()];
        let both = LbSource::BYPASS | LbSource::TCP_ANY_PORT;
        assert_eq!((get("10.9.0.0", 16).flags, get("10.9.0.0", 16).toa_format), (both, 4));
        assert_eq!((get("10.9.1.0", 24).flags, get("10.9.1.0", 24).toa_format), (both, 1));
        assert_eq!((get("10.8.0.0", 16).flags, get("10.8.0.0", 16).toa_format), (0, 5));
        let group = get("10.9.1.0", 24).group;
        assert_eq!(ports.keys().copied().collect::<Vec<_>>(), [PortKey::new(group, 17, 53)]);
    }

    #[test]
    fn a_source_that_names_uplinks_comes_through_these_only() {
        let uplink = |name: &str, ifindex| crate::Uplink {
            name: name.to_owned(),
            ifindex,
            mtu: 1500,
            has_default_route: true,
        };
        let mut named = source("10.9.0.0/16", true, None, &[]);
        named.uplinks = BTreeSet::from(["eth1".to_owned()]);
        let state = DesiredState {
            lb_sources: BTreeMap::from([
                ("named".to_owned(), named),
                ("free".to_owned(), source("10.8.0.0/16", true, None, &[])),
            ]),
            ..DesiredState::default()
        };
        let (sources, _) = lb_sources(&state, &[uplink("eth0", 2), uplink("eth1", 3)]);
        let bits = |text: &str| sources[&LpmKey::new(text.parse().unwrap(), 16).unwrap()].uplinks;
        assert_eq!((bits("10.9.0.0"), bits("10.8.0.0")), (0b10, LbSource::ANY_UPLINK));
    }

    fn pod() -> Endpoint {
        Endpoint {
            id: desired::EndpointId { container_id: "c".to_owned(), ifname: "eth0".to_owned() },
            host_link: "tpk1".to_owned(),
            addresses: Vec::new(),
            mtu: 1500,
            limits: desired::Limits::default(),
            shadow: desired::Limits::default(),
            bursts: desired::Bursts::default(),
            exempt: BTreeSet::new(),
            host_ports: Vec::new(),
            class: None,
            toa_off: false,
            bypass_off: false,
            namespace: String::new(),
            mac: None,
            netns_path: String::new(),
        }
    }

    const LINKS: Indices = Indices { veth: 7, ifb: Some(8), to_pod_ifb: None };

    #[test]
    fn only_limited_links_are_marked() {
        let to_workload = Some(desired::BitsPerSecond(100_000_000));
        let limited = Endpoint { limits: desired::Limits { to_workload, from_workload: None }, ..pod() };
        assert_eq!(marks(&limited, LINKS, Pacer::Htb).into_keys().collect::<Vec<_>>(), [7]);
        let behind = Indices { to_pod_ifb: Some(9), ..LINKS };
        assert_eq!(marks(&limited, behind, Pacer::Htb).into_keys().collect::<Vec<_>>(), [9]);
        assert!(marks(&pod(), LINKS, Pacer::Htb).is_empty());
        // What a longer bucket lets pass at once is not to be marked.
        let mut long = limited.clone();
        long.bursts.to_workload = "40ms".parse().unwrap();
        let [usual, more] = [&limited, &long].map(|pod| marks(pod, LINKS, Pacer::Htb)[&7]);
        assert_eq!(more.bucket_ns - usual.bucket_ns, 30_000_000);
        assert_eq!((more.target_ns, more.flags), (usual.target_ns, 0));
        assert_eq!(marks(&limited, LINKS, Pacer::Fq)[&7].flags, MarkConfig::PACED);
    }

    #[test]
    fn a_shadow_counts_where_the_queue_is() {
        let both = desired::Limits {
            to_workload: Some(desired::BitsPerSecond(1_000_000)),
            from_workload: Some(desired::BitsPerSecond(1_000_000)),
        };
        let shadowed = Endpoint { shadow: both, ..pod() };
        let from = MarkConfig::shadow_from_pod_key(7);
        assert_eq!(shadows(&shadowed, LINKS).into_keys().collect::<Vec<_>>(), [7, from]);
        let behind = Indices { to_pod_ifb: Some(9), ..LINKS };
        assert_eq!(shadows(&shadowed, behind).into_keys().collect::<Vec<_>>(), [9, from]);
    }

    #[test]
    fn exempt_ranges_belong_to_a_link() {
        let exempting = Endpoint { exempt: ["10.0.0.0/8".parse().unwrap()].into(), ..pod() };
        let keys: Vec<_> = exempt(&exempting, 7).into_keys().collect();
        assert_eq!(keys.iter().map(|key| (key.prefix_len, key.link)).collect::<Vec<_>>(), [(32 + 96 + 8, 7)]);
        let nothing = DesiredState::default();
        let open = Admission::of(Some(&nothing));
        assert_eq!(veth(&exempting, None, &open).flags, Veth::EXEMPT);
    }

    #[test]
    fn a_pod_is_admitted_where_all_sources_that_cover_a_prefix_are_for_it() {
        let named = |cidrs: &str, toa, namespaces: &[&str], except: &[&str]| desired::LbSource {
            namespaces: namespaces.iter().map(ToString::to_string).collect(),
            except_namespaces: except.iter().map(ToString::to_string).collect(),
            ..source(cidrs, true, toa, &[])
        };
        let toa = Some(desired::ToaFormat::Toa254);
        let state = DesiredState {
            lb_sources: BTreeMap::from([
                ("wide".to_owned(), named("10.9.0.0/16", toa, &[], &["bank"])),
                ("narrow".to_owned(), named("10.9.1.0/24", None, &["web"], &[])),
                ("six".to_owned(), named("fd00:9::/64", toa, &[], &[])),
            ]),
            ..DesiredState::default()
        };
        let group = |text: &str, length| group_of(&LpmKey::new(text.parse().unwrap(), length).unwrap());
        let (wide, narrow) = (group("10.9.0.0", 16), group("10.9.1.0", 24));
        let in_namespace = |namespace: &str| Endpoint {
            addresses: vec!["10.244.0.1".parse().unwrap()],
            namespace: namespace.to_owned(),
            ..pod()
        };
        let admission = Admission::of(Some(&state));
        let both = Admit::BYPASS | Admit::TOA;
        for (namespace, in_wide, in_narrow) in
            [("web", both, both), ("shop", both, Admit::TOA), ("bank", 0, 0), ("", 0, 0)]
        {
            let endpoint = in_namespace(namespace);
            let entries = admission.entries(&endpoint);
            let found: Vec<_> = entries.iter().map(|(key, what)| (key.group, *what)).collect();
            let mut wanted = vec![(wide, in_wide), (narrow, in_narrow)];
            wanted.sort_unstable();
            let all = namespace == "web";
            assert_eq!(found, if all { Vec::new() } else { wanted }, "{namespace}");
            let flags = if all { (0, 0) } else { (PodEntry::SELECTIVE, Veth::SELECTIVE) };
            assert_eq!((admission.pod_flags(&endpoint), admission.veth_flags(&endpoint)), flags);
        }
        let off = Endpoint { bypass_off: true, ..in_namespace("web") };
        assert_eq!(
            (admission.pod_flags(&off), admission.veth_flags(&off)),
            (PodEntry::NO_BYPASS, Veth::NO_BYPASS)
        );
        let unknown = Admission::of(None);
        assert_eq!(unknown.pod_flags(&in_namespace("web")), PodEntry::SELECTIVE);
        assert!(unknown.entries(&in_namespace("web")).is_empty());
    }
}
