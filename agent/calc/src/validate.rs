//! What is wrong in a set of resources, whichever node looks at it.

mod namespaces;

use std::collections::BTreeMap;
use std::fmt;

use turnpike_model::bandwidth::NodeBandwidthSpec;
use turnpike_model::bgp::{BgpConfigurationSpec, BgpPeerSpec};
use turnpike_model::desired::{LbSource, ToaFormat};
use turnpike_model::lb::LoadBalancerSourceSpec;
use turnpike_model::pool::IpPoolSpec;
use turnpike_model::resource::{Kind, ResourceId, Resources};

use crate::bandwidth::mistakes;

/// One thing that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Where.
    pub resource: ResourceId,
    /// Path of the field, like `spec.cidr` or `spec.ports[0].port`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}; {}", self.resource, self.field, self.message, self.remedy)
    }
}

/// AS 23456 stands for a number that a peer cannot read (RFC 6793 §9).
const AS_TRANS: u32 = 23456;

/// Everything wrong in `resources`; empty when all can be put in force.
#[must_use]
pub fn validate(resources: &Resources) -> Vec<Issue> {
    let mut found = Findings { issues: Vec::new() };
    found.pools(&resources.pools);
    found.blocks(resources);
    for (name, spec) in &resources.bgp_configurations {
        found.bgp_configuration(name, spec);
    }
    for (name, spec) in &resources.bgp_peers {
        found.bgp_peer(name, spec);
    }
    for (name, spec) in &resources.node_bandwidths {
        found.bandwidth(name, spec);
    }
    found.lb_sources(resources);
    found.namespaces(resources);
    found.issues
}

struct Findings {
    issues: Vec<Issue>,
}

impl Findings {
    fn add(&mut self, kind: Kind, name: &str, field: &str, message: String, remedy: impl Into<String>) {
        let resource = ResourceId { kind, name: name.to_owned() };
        self.issues.push(Issue { resource, field: field.to_owned(), message, remedy: remedy.into() });
    }

    fn pools(&mut self, pools: &BTreeMap<String, IpPoolSpec>) {
        for (name, pool) in pools {
            let (length, most) = (pool.block_len(), if pool.cidr.is_ipv6() { 128 } else { 32 });
            if length < pool.cidr.prefix_len() || length > most {
                self.add(
                    Kind::IpPool,
                    name,
                    "spec.blockSize",
                    format!("blocks of length {length} do not fit into {}", pool.cidr),
                    format!("use a length from {} to {most}", pool.cidr.prefix_len()),
                );
            }
            for (index, reservation) in pool.reservations.iter().enumerate() {
                if !pool.cidr.contains(reservation.cidr) {
                    self.add(
                        Kind::IpPool,
                        name,
                        &format!("spec.reservations[{index}].cidr"),
                        format!("{} lies outside of {}", reservation.cidr, pool.cidr),
                        "reserve addresses of this pool only",
                    );
                }
            }
            let overlapping =
                pools.iter().filter(|(other, spec)| *other < name && spec.cidr.overlaps(pool.cidr));
            for (other, spec) in overlapping {
                self.add(
                    Kind::IpPool,
                    name,
                    "spec.cidr",
                    format!("{} overlaps with {} of IPPool/{other}", pool.cidr, spec.cidr),
                    "give each pool a range of its own",
                );
            }
        }
    }

    fn blocks(&mut self, resources: &Resources) {
        for (name, block) in &resources.blocks {
            if block.node.is_empty() {
                self.add(Kind::IpBlock, name, "spec.node", "no node".to_owned(), "name the owning node");
            }
            let Some(pool) = resources.pools.get(&block.pool) else {
                let known: Vec<&str> = resources.pools.keys().map(String::as_str).collect();
                let message = format!("there is no IPPool `{}`", block.pool);
                let remedy = format!(
                    "name one of: {}",
                    if known.is_empty() { "(none)".to_owned() } else { known.join(", ") }
                );
                self.add(Kind::IpBlock, name, "spec.pool", message, remedy);
                continue;
            };
            if !pool.cidr.contains(block.cidr) {
                let message =
                    format!("{} lies outside of {} of IPPool/{}", block.cidr, pool.cidr, block.pool);
                self.add(Kind::IpBlock, name, "spec.cidr", message, "cut the block from its pool's range");
            } else if block.cidr.prefix_len() != pool.block_len() {
                let message = format!(
                    "{} is no block of IPPool/{}: its blocks have length {}",
                    block.cidr,
                    block.pool,
                    pool.block_len()
                );
                let remedy =
                    format!("write the block with /{}, or change the pool's blockSize", pool.block_len());
                self.add(Kind::IpBlock, name, "spec.cidr", message, remedy);
            }
            let overlapping = resources
                .blocks
                .iter()
                .filter(|(other, spec)| *other < name && spec.cidr.overlaps(block.cidr));
            for (other, spec) in overlapping {
                let message = if spec.node == block.node {
                    format!("{} is listed already as {} by IPBlock/{other}", block.cidr, spec.cidr)
                } else {
                    format!(
                        "{} belongs to node {} already (IPBlock/{other}, {})",
                        block.cidr, spec.node, spec.cidr
                    )
                };
                self.add(Kind::IpBlock, name, "spec.cidr", message, "let each block have one owner");
            }
        }
    }

    fn as_number(&mut self, kind: Kind, name: &str, number: u32) {
        if number == 0 || number == u32::MAX || number == AS_TRANS {
            let message = format!("{number} cannot be used as an AS number");
            self.add(
                kind,
                name,
                "spec.asNumber",
                message,
                "private ones are 64512-65534 and 4200000000-4294967294",
            );
        }
    }

    fn bgp_configuration(&mut self, name: &str, spec: &BgpConfigurationSpec) {
        self.as_number(Kind::BgpConfiguration, name, spec.as_number);
        if spec.router_id.is_some_and(|id| id.is_unspecified()) {
            let message = "0.0.0.0 is no router ID".to_owned();
            self.add(
                Kind::BgpConfiguration,
                name,
                "spec.routerId",
                message,
                "use an address of the node, or leave it out",
            );
        }
    }

    fn bgp_peer(&mut self, name: &str, spec: &BgpPeerSpec) {
        let kind = Kind::BgpPeer;
        self.as_number(kind, name, spec.as_number);
        if spec.peer_address.is_unspecified()
            || spec.peer_address.is_multicast()
            || spec.peer_address.is_loopback()
        {
            let message = format!("{} is no address of a peer", spec.peer_address);
            self.add(kind, name, "spec.peerAddress", message, "use the peer's unicast address");
        }
        if spec.node.is_some() && spec.node_selector.is_some() {
            let message = "node and nodeSelector are both given".to_owned();
            self.add(kind, name, "spec.nodeSelector", message, "keep one of the two");
        }
        if spec.source_address.is_some_and(|source| source.is_ipv6() != spec.peer_address.is_ipv6()) {
            let message = "it is of another family than peerAddress".to_owned();
            self.add(kind, name, "spec.sourceAddress", message, "use an address of the peer's family");
        }
        if spec.hold_time.is_some_and(|seconds| matches!(seconds, 1 | 2)) {
            let message = "a hold time of 1 or 2 seconds is not allowed (RFC 4271 §4.2)".to_owned();
            self.add(kind, name, "spec.holdTime", message, "use 0 for none, or at least 3");
        }
        if spec.multihop_ttl == Some(0) {
            self.add(kind, name, "spec.multihopTtl", "a TTL of 0 reaches nobody".to_owned(), "use 2 to 255");
        }
        if spec.port == Some(0) {
            self.add(kind, name, "spec.port", "0 is no port".to_owned(), "leave it out for 179");
        }
        if spec.password_file.as_ref().is_some_and(|path| !path.starts_with('/')) {
            let message = "it is no absolute path".to_owned();
            self.add(kind, name, "spec.passwordFile", message, "write the file's full path on the node");
        }
    }

    fn bandwidth(&mut self, name: &str, spec: &NodeBandwidthSpec) {
        let directions = [
            ("spec.defaults.ingress", spec.defaults.ingress, spec.limits.ingress),
            ("spec.defaults.egress", spec.defaults.egress, spec.limits.egress),
        ];
        for (field, default, limit) in directions {
            if let (Some(default), Some(limit)) = (default, limit)
                && default > limit
            {
                let message = format!("the default {default} is more than the limit {limit}");
                self.add(Kind::NodeBandwidth, name, field, message, "lower the default, or raise the limit");
            }
        }
        if !spec.is_enforced() && spec.tree.is_some() {
            let message = "a tree cannot be in shadow: it has no limits to count by".to_owned();
            let remedy = "give the tree a resource of its own, and hold it against history: turnpike bw plan";
            self.add(Kind::NodeBandwidth, name, "spec.mode", message, remedy);
        }
        for (field, message, remedy) in spec.tree.iter().flat_map(mistakes) {
            self.add(Kind::NodeBandwidth, name, &field, message, remedy);
        }
    }

    fn lb_sources(&mut self, resources: &Resources) {
        let kind = Kind::LoadBalancerSource;
        for (name, spec) in &resources.lb_sources {
            if spec.cidrs.is_empty() {
                let message = "no prefix".to_owned();
                self.add(kind, name, "spec.cidrs", message, "list the directors' local addresses");
            }
            self.lb_cidrs(resources, name, spec);
            if spec.drain_seconds.is_some_and(|seconds| seconds > LbSource::MAX_DRAIN_S) {
                let message = format!("more than {} seconds", LbSource::MAX_DRAIN_S);
                self.add(kind, name, "spec.drainSeconds", message, "drain for a day at the most");
            }
            if spec.toa_in_syn && spec.toa.is_none() {
                let message = "it says where the option is, but toa says none is believed".to_owned();
                self.add(kind, name, "spec.toaInSyn", message, "name the format in toa, or leave it out");
            }
            if spec.toa_nat64 && !matches!(spec.toa, Some(ToaFormat::Toa254 | ToaFormat::Cdn28)) {
                let message = "no option that names IPv6 clients of IPv4 connections is believed".to_owned();
                self.add(kind, name, "spec.toaNat64", message, "set toa: Toa254, or leave it out");
            }
            for (index, port) in spec.ports.iter().enumerate() {
                if port.port == 0 {
                    let field = format!("spec.ports[{index}].port");
                    self.add(
                        kind,
                        name,
                        &field,
                        "0 is no port".to_owned(),
                        "list ports of pods, or none for every TCP port",
                    );
                }
            }
        }
    }

    fn lb_cidrs(&mut self, resources: &Resources, name: &str, spec: &LoadBalancerSourceSpec) {
        let kind = Kind::LoadBalancerSource;
        for (index, cidr) in spec.cidrs.iter().enumerate() {
            let field = format!("spec.cidrs[{index}]");
            if let Some((pool, range)) = resources.pools.iter().find(|(_, pool)| pool.cidr.overlaps(*cidr)) {
                let message = format!(
                    "{cidr} overlaps with {} of IPPool/{pool}: pods would be trusted as directors",
                    range.cidr
                );
                self.add(kind, name, &field, message, "list only addresses of directors");
            }
            if cidr.prefix_len() == 0 {
                let message = format!("{cidr} trusts everybody");
                self.add(kind, name, &field, message, "list only addresses of directors");
            }
            let twin = resources.lb_sources.iter().find(|(other, source)| {
                other.as_str() < name
                    && source.node_selector == spec.node_selector
                    && source.cidrs.contains(cidr)
            });
            if let Some((other, _)) = twin {
                let message = format!("{cidr} is listed by LoadBalancerSource/{other}, too");
                self.add(kind, name, &field, message, "keep it in one of the two");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn issues(build: impl FnOnce(&mut Resources)) -> Vec<String> {
        let mut resources = Resources::default();
        build(&mut resources);
        validate(&resources).iter().map(ToString::to_string).collect()
    }

    fn put<S: for<'de> serde::Deserialize<'de>>(map: &mut BTreeMap<String, S>, name: &str, value: Value) {
        map.insert(name.to_owned(), serde_json::from_value(value).unwrap());
    }

    fn pool(resources: &mut Resources, name: &str, cidr: &str) {
        put(&mut resources.pools, name, json!({"cidr": cidr}));
    }

    fn block(resources: &mut Resources, name: &str, cidr: &str, pool: &str, node: &str) {
        put(&mut resources.blocks, name, json!({"cidr": cidr, "pool": pool, "node": node}));
    }

    #[test]
    fn overlapping_pools_and_impossible_blocks_are_found() {
        let found = issues(|r| {
            pool(r, "a", "10.244.0.0/16");
            pool(r, "b", "10.244.128.0/17");
            put(&mut r.pools, "c", json!({"cidr": "10.9.0.0/24", "blockSize": 16}));
        });
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(
            found[0].contains("IPPool/b spec.cidr: 10.244.128.0/17 overlaps with 10.244.0.0/16 of IPPool/a")
        );
        assert!(found[1].contains("IPPool/c spec.blockSize"));
    }

    #[test]
    fn blocks_belong_to_a_pool_and_to_one_node() {
        let found = issues(|r| {
            pool(r, "p", "10.244.0.0/16");
            block(r, "good", "10.244.1.0/26", "p", "n1");
            block(r, "outside", "10.245.0.0/26", "p", "n1");
            block(r, "poolless", "10.244.2.0/26", "q", "n1");
            block(r, "size", "10.244.3.0/24", "p", "n1");
            block(r, "stolen", "10.244.1.0/26", "p", "n2");
            block(r, "twice", "10.244.1.0/26", "p", "n1");
        });
        let text = found.join("\n");
        assert!(
            text.contains("IPBlock/outside spec.cidr: 10.245.0.0/26 lies outside of 10.244.0.0/16"),
            "{text}"
        );
        assert!(
            text.contains("IPBlock/poolless spec.pool: there is no IPPool `q`; name one of: p"),
            "{text}"
        );
        assert!(text.contains("IPBlock/size spec.cidr: 10.244.3.0/24 is no block"), "{text}");
        assert!(
            text.contains("IPBlock/stolen spec.cidr: 10.244.1.0/26 belongs to node n1 already"),
            "{text}"
        );
        assert!(text.contains("IPBlock/twice spec.cidr: 10.244.1.0/26 is listed already"), "{text}");
        assert!(!text.contains("IPBlock/good "), "{text}");
    }

    #[test]
    fn peers_are_checked_field_by_field() {
        let found = issues(|r| {
            put(&mut r.bgp_configurations, "c", json!({"asNumber": 0, "routerId": "0.0.0.0"}));
            put(
                &mut r.bgp_peers,
                "p",
                json!({"peerAddress": "ff02::1", "asNumber": 23456, "node": "n", "nodeSelector": {}, "port": 0,
                       "holdTime": 2, "multihopTtl": 0, "passwordFile": "pw", "sourceAddress": "10.0.0.1"}),
            );
        });
        assert_eq!(found.len(), 10, "{found:#?}");
    }

    #[test]
    fn a_director_is_no_pod_and_not_the_whole_world() {
        let found = issues(|r| {
            pool(r, "p", "10.244.0.0/16");
            put(&mut r.lb_sources, "a", json!({"cidrs": ["10.1.3.30/32"]}));
            put(
                &mut r.lb_sources,
                "b",
                json!({"cidrs": ["10.1.3.30/32", "10.244.7.0/24", "0.0.0.0/0"],
                "ports": [{"protocol": "TCP", "port": 0}]}),
            );
            put(&mut r.lb_sources, "c", json!({"cidrs": [], "drainSeconds": 90000, "toaInSyn": true}));
            put(&mut r.lb_sources, "d", json!({"cidrs": ["10.1.4.0/24"], "toa": "Toa200", "toaNat64": true}));
        });
        let text = found.join("\n");
        for expected in [
            "LoadBalancerSource/b spec.cidrs[0]: 10.1.3.30/32 is listed by LoadBalancerSource/a, too",
            "LoadBalancerSource/b spec.cidrs[1]: 10.244.7.0/24 overlaps",
            "LoadBalancerSource/b spec.cidrs[2]: 0.0.0.0/0 trusts everybody",
            "LoadBalancerSource/b spec.ports[0].port",
            "LoadBalancerSource/c spec.cidrs: no prefix",
            "LoadBalancerSource/c spec.drainSeconds: more than 86400 seconds",
            "LoadBalancerSource/c spec.toaInSyn",
            "LoadBalancerSource/d spec.toaNat64",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn a_default_over_its_limit_is_found() {
        let found = issues(|r| {
            put(
                &mut r.node_bandwidths,
                "n",
                json!({"defaults": {"egress": "2G"}, "limits": {"egress": "1G"}}),
            );
        });
        assert!(
            found[0].contains("spec.defaults.egress: the default 2G is more than the limit 1G"),
            "{found:?}"
        );
    }
}
