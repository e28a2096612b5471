//! One node's desired state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use turnpike_model::bgp::{BgpConfigurationSpec, BgpPeerSpec};
use turnpike_model::desired::{
    BgpPart, Block, DesiredState, Endpoint, EndpointId, HostPort, LbSource, Masquerade, NodeTree,
};
use turnpike_model::pool::{IpBlockSpec, IpPoolSpec, PoolState};
use turnpike_model::resource::{Kind, ResourceId, Resources};
use turnpike_model::selector::{Labels, Selector};

use crate::bandwidth::{
    AskedLimits, Bounds, NamespaceGrants, NodeLimits, class_of, grants, in_shadow, node_tree, tree_issues,
};
use crate::validate::Issue;

/// Facts about the node itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name, as resources write it.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Interfaces that lead out of it, where the operator names them.
    pub uplinks: BTreeSet<String>,
}

/// A pod interface of this node, as the agent's books have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    /// Which.
    pub id: EndpointId,
    /// Host side's name.
    pub host_link: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Blocks that its addresses came from, where that is known.
    pub blocks: Vec<Block>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Limits that it asks for.
    pub asked: AskedLimits,
    /// Ports of the node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// It wants no client addresses from load balancers.
    pub toa_off: bool,
    /// It wants what it exchanges with load balancers filtered and tracked.
    pub bypass_off: bool,
    /// MAC address that the runtime asked for.
    pub mac: Option<[u8; 6]>,
    /// Where the runtime said that its network namespace is.
    pub netns_path: String,
    /// Its namespace by the runtime's word; empty where that says none.
    pub namespace: String,
}

/// Everything that a node has to bring about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// For the data plane.
    pub desired: DesiredState,
    /// For bgpd.
    pub bgp: BgpPart,
    /// What is odd, but no reason to stop.
    pub issues: Vec<Issue>,
}

/// What `resources` and `pods` demand of `node`.
#[must_use]
pub fn node_state<'a>(
    resources: &Resources,
    node: &Node,
    pods: impl IntoIterator<Item = &'a LocalPod>,
) -> NodeState {
    let grants = Grants::of(resources, node);
    let tree = node_tree(resources, node);
    let mut issues = tree_issues(resources, node);
    let mut endpoints: BTreeMap<EndpointId, Endpoint> = BTreeMap::new();
    let mut lived_in: BTreeSet<Block> = BTreeSet::new();
    for pod in pods {
        endpoints.insert(pod.id.clone(), pod.endpoint(&grants, tree.as_ref()));
        issues.extend(pod.issues(&grants, tree.as_ref()));
        lived_in.extend(pod.blocks.iter().cloned());
    }
    let mut blocks = own_blocks(resources, node, &endpoints, &mut issues);
    keep_lived_in(resources, node, lived_in, &mut blocks, &mut issues);
    let sources: Vec<_> = resources
        .lb_sources
        .iter()
        .filter(|(_, source)| selects(source.node_selector.as_ref(), node))
        .collect();
    let desired = DesiredState {
        uplinks: node.uplinks.clone(),
        masquerade: masquerade(resources, node),
        lb_sources: sources
            .iter()
            .map(|(name, source)| {
                let source = LbSource {
                    cidrs: source.cidrs.iter().map(|cidr| cidr.network()).collect(),
                    bypass: source.bypass,
                    toa: source.toa,
                    toa_in_syn: source.toa_in_syn,
                    toa_nat64: source.toa_nat64,
                    uoa: source.uoa,
                    ports: source.ports.iter().copied().collect(),
                    uplinks: source.uplinks.iter().cloned().collect(),
                    namespaces: source.namespaces.iter().cloned().collect(),
                    except_namespaces: source.except_namespaces.iter().cloned().collect(),
                    drain_s: source.drain_seconds.unwrap_or(LbSource::DRAIN_S),
                };
                ((*name).clone(), source)
            })
            .collect(),
        endpoints,
        blocks,
        tree,
    };
    let bgp = bgp_part(resources, node, &desired.blocks, &mut issues);
    NodeState { desired, bgp, issues }
}

/// What a node gives its pods.
struct Grants<'a> {
    in_force: NodeLimits,
    /// With resources in shadow.
    would_be: NodeLimits,
    bounds: Bounds,
    namespaces: NamespaceGrants<'a>,
}

impl<'a> Grants<'a> {
    fn of(resources: &'a Resources, node: &Node) -> Self {
        let (in_force, would_be) = NodeLimits::of_node(resources, node);
        let namespaces = NamespaceGrants::of(resources);
        Self { in_force, would_be, bounds: Bounds::of(resources, node), namespaces }
    }
}

impl LocalPod {
    fn endpoint(&self, grants: &Grants<'_>, tree: Option<&NodeTree>) -> Endpoint {
        let most = grants.namespaces.most(&self.namespace);
        let limits = grants.in_force.grant(&self.asked, most);
        let extras = grants.bounds.grant(&self.asked);
        Endpoint {
            id: self.id.clone(),
            host_link: self.host_link.clone(),
            addresses: self.addresses.clone(),
            mtu: self.mtu,
            limits,
            shadow: in_shadow(limits, grants.would_be.grant(&self.asked, most)),
            bursts: extras.bursts,
            exempt: extras.exempt,
            class: tree.and_then(|tree| class_of(tree, self.asked.class.as_deref(), &self.namespace)),
            host_ports: self.host_ports.clone(),
            toa_off: self.toa_off,
            bypass_off: self.bypass_off,
            namespace: self.namespace.clone(),
            mac: self.mac,
            netns_path: self.netns_path.clone(),
        }
    }

    /// The pod as the data plane attaches it, with the limits of `resources` on `node`.
    #[must_use]
    pub fn endpoint_on(&self, resources: &Resources, node: &Node) -> Endpoint {
        self.endpoint(&Grants::of(resources, node), node_tree(resources, node).as_ref())
    }

    /// What the pod asks for in vain, of `resources` on `node`.
    #[must_use]
    pub fn issues_on(&self, resources: &Resources, node: &Node) -> Vec<Issue> {
        self.issues(&Grants::of(resources, node), node_tree(resources, node).as_ref())
    }

    fn issues(&self, grants: &Grants<'_>, tree: Option<&NodeTree>) -> Vec<Issue> {
        let class = tree.and_then(|tree| self.refused_class(tree));
        class.into_iter().chain(self.refused_ranges(grants)).chain(self.refused_rates(grants)).collect()
    }

    /// Ranges that the pod asks to exempt and may not, not as a whole.
    fn refused_ranges(&self, grants: &Grants<'_>) -> Option<Issue> {
        let refused = grants.bounds.grant(&self.asked).refused;
        let ranges: Vec<String> = refused.iter().map(ToString::to_string).collect();
        (!ranges.is_empty()).then(|| Issue {
            resource: ResourceId { kind: Kind::NodeBandwidth, name: "?".to_owned() },
            field: "spec.exemptible".to_owned(),
            message: format!(
                "container {} asks to exempt {} from its limits, which are not all exemptible",
                self.id.container_id,
                ranges.join(", ")
            ),
            remedy: "add them to spec.exemptible, or correct the pod's annotation turnpike.io/bandwidth-exempt-cidrs"
                .to_owned(),
        })
    }

    /// Rates that the pod asks for and that its namespace is not granted.
    fn refused_rates(&self, grants: &Grants<'_>) -> Vec<Issue> {
        let Grants { in_force, namespaces, .. } = grants;
        namespaces.refused(in_force, &self.asked, &self.namespace, &self.id.container_id)
    }

    /// A class that the pod asks for and does not get: the tree does not have it, or not for its namespace.
    fn refused_class(&self, tree: &NodeTree) -> Option<Issue> {
        let asked = self.asked.class.as_deref()?;
        let class = tree.classes.values().find(|class| class.name == asked);
        let (field, why, remedy) = match class {
            Some(class) if grants(class, &self.namespace) || asked == tree.default_class => return None,
            Some(_) => (
                format!("spec.tree.classes.{asked}.namespaces"),
                format!("which is not for namespace `{}`", self.namespace),
                "add the namespace, or correct",
            ),
            None => {
                ("spec.tree.classes".to_owned(), "which is not there".to_owned(), "add the class, or correct")
            }
        };
        Some(Issue {
            resource: ResourceId { kind: Kind::NodeBandwidth, name: tree.source.clone() },
            field,
            message: format!(
                "container {} asks for class `{asked}`, {why}; it is in `{}`",
                self.id.container_id, tree.default_class
            ),
            remedy: format!("{remedy} the pod's annotation turnpike.io/bandwidth-class"),
        })
    }
}

pub(crate) fn selects(selector: Option<&Selector>, node: &Node) -> bool {
    selector.is_none_or(|selector| selector.matches(&node.labels))
}

/// Blocks that belong to the node, but not those of Retired pools that no pod lives in any more.
fn own_blocks(
    resources: &Resources,
    node: &Node,
    endpoints: &BTreeMap<EndpointId, Endpoint>,
    issues: &mut Vec<Issue>,
) -> BTreeSet<Block> {
    let mut blocks = BTreeSet::new();
    for (name, block) in resources.blocks.iter().filter(|(_, block)| block.node == node.name) {
        let prefix = block.cidr.network();
        let pods =
            endpoints.values().filter(|pod| pod.addresses.iter().any(|ip| prefix.contains(*ip))).count();
        let Some(pool) = resources.pools.get(&block.pool) else { continue };
        if pool.state == PoolState::Retired {
            if pods == 0 {
                continue;
            }
            issues.push(retired_with_pods(name, block, pods));
        }
        report_selector_mismatch(name, block, pool, node, issues);
        blocks.insert(Block { prefix, pool: block.pool.clone() });
    }
    blocks
}

fn retired_with_pods(name: &str, block: &IpBlockSpec, pods: usize) -> Issue {
    Issue {
        resource: ResourceId { kind: Kind::IpBlock, name: name.to_owned() },
        field: "spec.cidr".to_owned(),
        message: format!("pool {} is Retired, but {pods} pods still live in {}", block.pool, block.cidr),
        remedy: "recreate these pods; the block is announced until the last of them is gone".to_owned(),
    }
}

fn report_selector_mismatch(
    name: &str,
    block: &IpBlockSpec,
    pool: &IpPoolSpec,
    node: &Node,
    issues: &mut Vec<Issue>,
) {
    if !selects(pool.node_selector.as_ref(), node) {
        issues.push(Issue {
            resource: ResourceId { kind: Kind::IpBlock, name: name.to_owned() },
            field: "spec.node".to_owned(),
            message: format!(
                "pool {} does not select node {}: no new pod uses this block",
                block.pool, node.name
            ),
            remedy: "correct the pool's nodeSelector, the node's labels, or the block's node".to_owned(),
        });
    }
}

/// A block that vanished from the resources stays while pods live in it, unless another node owns it now: a file
/// removed by mistake must not cut running pods off.
fn keep_lived_in(
    resources: &Resources,
    node: &Node,
    lived_in: BTreeSet<Block>,
    blocks: &mut BTreeSet<Block>,
    issues: &mut Vec<Issue>,
) {
    for block in lived_in {
        if blocks.iter().any(|known| overlap(known.prefix, block.prefix)) {
            continue;
        }
        let now_elsewhere = resources
            .blocks
            .iter()
            .find(|(_, other)| other.node != node.name && overlap(other.cidr.network(), block.prefix));
        let (name, message, remedy) = match now_elsewhere {
            Some((name, other)) => (
                name.clone(),
                format!(
                    "{} belongs to node {} now, but pods of this node live in it",
                    block.prefix, other.node
                ),
                "give it back, or recreate these pods: nobody reaches them".to_owned(),
            ),
            None => (
                "?".to_owned(),
                format!("no IPBlock gives {} to this node, but pods live in it: it is kept", block.prefix),
                format!(
                    "restore the IPBlock of pool {}, or set the pool to Draining and recreate the pods",
                    block.pool
                ),
            ),
        };
        if now_elsewhere.is_none() {
            blocks.insert(block);
        }
        let resource = ResourceId { kind: Kind::IpBlock, name };
        issues.push(Issue { resource, field: "spec.cidr".to_owned(), message, remedy });
    }
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// One entry for each pool that asks for it; all pools are exempt as destinations.
fn masquerade(resources: &Resources, node: &Node) -> Vec<Masquerade> {
    let pools = resources.pools.values().map(|pool| pool.cidr);
    resources
        .pools
        .values()
        .filter(|pool| selects(pool.node_selector.as_ref(), node))
        .filter_map(|pool| {
            let asked = pool.masquerade.as_ref()?;
            let exempt = asked.except_to.iter().copied().chain(pools.clone());
            let same_family = exempt.filter(|cidr| cidr.is_ipv6() == pool.cidr.is_ipv6());
            Some(Masquerade {
                sources: [pool.cidr.network()].into(),
                except_to: same_family.map(IpNetwork::from).collect(),
            })
        })
        .collect()
}

fn bgp_part(
    resources: &Resources,
    node: &Node,
    blocks: &BTreeSet<Block>,
    issues: &mut Vec<Issue>,
) -> BgpPart {
    let configuration = bgp_configuration(resources, node, issues);
    let mut peers: BTreeMap<String, BgpPeerSpec> = BTreeMap::new();
    for (name, peer) in resources.bgp_peers.iter().filter(|(_, peer)| peers_with(peer, node)) {
        match peers.iter().find(|(_, known)| known.peer_address == peer.peer_address) {
            Some((first, _)) => issues.push(Issue {
                resource: ResourceId { kind: Kind::BgpPeer, name: name.clone() },
                field: "spec.peerAddress".to_owned(),
                message: format!("BGPPeer/{first} names {} for this node, too", peer.peer_address),
                remedy: format!("remove one of the two; {first} is in force"),
            }),
            None => {
                peers.insert(name.clone(), peer.clone());
            }
        }
    }
    BgpPart {
        asn: configuration.map(|spec| spec.as_number),
        router_id: configuration.and_then(|spec| spec.router_id),
        peers,
        networks: blocks.iter().map(|block| block.prefix).collect(),
        accept: resources.pools.values().map(|pool| (pool.cidr.network(), pool.block_len())).collect(),
    }
}

fn bgp_configuration<'a>(
    resources: &'a Resources,
    node: &Node,
    issues: &mut Vec<Issue>,
) -> Option<&'a BgpConfigurationSpec> {
    let mut selected =
        resources.bgp_configurations.iter().filter(|(_, spec)| selects(spec.node_selector.as_ref(), node));
    let (first, spec) = selected.next()?;
    for (name, other) in selected {
        if other.as_number != spec.as_number || other.router_id != spec.router_id {
            issues.push(Issue {
                resource: ResourceId { kind: Kind::BgpConfiguration, name: name.clone() },
                field: "spec.nodeSelector".to_owned(),
                message: format!("BGPConfiguration/{first} selects node {}, too, and differs", node.name),
                remedy: format!("let one of them select this node; {first} is in force"),
            });
        }
    }
    Some(spec)
}

fn peers_with(peer: &BgpPeerSpec, node: &Node) -> bool {
    match &peer.node {
        Some(name) => *name == node.name,
        None => selects(peer.node_selector.as_ref(), node),
    }
}

#[cfg(test)]
mod tests;
