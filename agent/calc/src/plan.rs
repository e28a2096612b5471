//! Which addresses a node may give to new pods.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use turnpike_model::desired::Block;
use turnpike_model::pool::{IpPoolSpec, PoolState};
use turnpike_model::resource::Resources;

use crate::ipam::IpamError;
use crate::node::Node;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::V6 } else { Self::V4 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One family's part of an [`AddressPlan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyPlan {
    /// The family.
    pub family: Family,
    /// Active pools of this family that select the node, by name.
    pub pools: Vec<String>,
    /// This node's blocks of those pools, in the order in which they are used.
    pub blocks: Vec<PlannedBlock>,
    /// Pools that are for some namespaces only, with these.
    pub owners: BTreeMap<String, Vec<String>>,
}

/// A block that new pods may get addresses from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBlock {
    /// The block.
    pub prefix: IpNetwork,
    /// Its pool.
    pub pool: String,
    /// Addresses of the block that no pod gets: the pool's network and IPv4 broadcast address.
    pub reserved: Vec<IpAddr>,
    /// Parts of the block that pods get only by asking; they do not overlap.
    pub withheld: Vec<IpNetwork>,
}

/// What a new pod gets: one address of each family listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPlan {
    /// Families that an Active pool serves on this node, IPv4 first. Each is mandatory.
    pub families: Vec<FamilyPlan>,
}

impl AddressPlan {
    /// Blocks of this node whose pool is Active and selects it. Blocks of other nodes, and of pools that other
    /// nodes use, have no part in it.
    #[must_use]
    pub fn new(resources: &Resources, node: &Node) -> Self {
        let families = [Family::V4, Family::V6]
            .into_iter()
            .map(|family| FamilyPlan::new(resources, node, family))
            .filter(|plan| !plan.pools.is_empty())
            .collect();
        Self { families }
    }

    /// What a pod of a namespace may have; families without a pool for it are left out.
    #[must_use]
    pub fn of_namespace(&self, namespace: &str) -> Self {
        let families = self.families.iter().map(|family| family.of_namespace(namespace).into_owned());
        Self { families: families.filter(|family| !family.pools.is_empty()).collect() }
    }

    /// Why no pod can ever get an address from this plan, if so.
    #[must_use]
    pub fn lacks_blocks(&self) -> Option<IpamError> {
        if self.families.is_empty() {
            return Some(IpamError::NoPool);
        }
        let without = self.families.iter().find(|family| family.blocks.is_empty())?;
        Some(IpamError::NoBlock { family: without.family, pools: without.pools.clone() })
    }

    /// The block that `address` lies in.
    #[must_use]
    pub fn block_of(&self, address: IpAddr) -> Option<&PlannedBlock> {
        self.families.iter().flat_map(|family| &family.blocks).find(|block| block.prefix.contains(address))
    }
}

impl PlannedBlock {
    /// The part that holds the address, if it is withheld.
    pub(crate) fn withheld(&self, address: IpAddr) -> Option<IpNetwork> {
        self.withheld.iter().find(|part| part.contains(address)).copied()
    }

    /// How many addresses of the block no pod gets unasked.
    #[must_use]
    pub fn unavailable(&self) -> u64 {
        let withheld = self.withheld.iter().map(|part| crate::ipam::size(*part));
        let reserved =
            self.reserved.iter().filter(|address| self.withheld(**address).is_none()).count() as u64;
        withheld.fold(reserved, u64::saturating_add)
    }

    pub(crate) fn block(&self) -> Block {
        Block { prefix: self.prefix, pool: self.pool.clone() }
    }
}

impl FamilyPlan {
    fn new(resources: &Resources, node: &Node, family: Family) -> Self {
        let serves = |name: &str| {
            resources.pools.get(name).filter(|pool| {
                pool.state == PoolState::Active
                    && pool.cidr.is_ipv6() == (family == Family::V6)
                    && pool.node_selector.as_ref().is_none_or(|selector| selector.matches(&node.labels))
            })
        };
        let pools: Vec<String> =
            resources.pools.keys().filter(|name| serves(name).is_some()).cloned().collect();
        let mut blocks: Vec<PlannedBlock> = resources
            .blocks
            .values()
            .filter(|block| block.node == node.name)
            .filter_map(|block| {
                let pool = serves(&block.pool)?;
                let prefix = block.cidr.network();
                let reserved = unusable(pool.cidr.network());
                let reserved = reserved.into_iter().filter(|address| prefix.contains(*address)).collect();
                let withheld = withheld(prefix, pool);
                Some(PlannedBlock { prefix, pool: block.pool.clone(), reserved, withheld })
            })
            .collect();
        blocks.sort_by(|a, b| (&a.pool, a.prefix).cmp(&(&b.pool, b.prefix)));
        let owners = pools.iter().filter_map(|name| {
            let namespaces = &serves(name)?.namespaces;
            (!namespaces.is_empty()).then(|| (name.clone(), namespaces.clone()))
        });
        let owners = owners.collect();
        Self { family, pools, blocks, owners }
    }

    /// What of it a pod of a namespace may have: the pools of its namespace if there are any, else those of nobody.
    #[must_use]
    pub fn of_namespace(&self, namespace: &str) -> Cow<'_, Self> {
        if self.owners.is_empty() {
            return Cow::Borrowed(self);
        }
        let is_own = |pool: &String| {
            self.owners.get(pool).is_some_and(|names| names.iter().any(|name| name == namespace))
        };
        let has_own = self.pools.iter().any(is_own);
        let may = |pool: &String| if has_own { is_own(pool) } else { !self.owners.contains_key(pool) };
        Cow::Owned(Self {
            family: self.family,
            pools: self.pools.iter().filter(|pool| may(pool)).cloned().collect(),
            blocks: self.blocks.iter().filter(|block| may(&block.pool)).cloned().collect(),
            owners: BTreeMap::new(),
        })
    }
}

/// A pool's reservations as far as they concern a block: each within it, none within another.
fn withheld(block: IpNetwork, pool: &IpPoolSpec) -> Vec<IpNetwork> {
    let mut parts: Vec<IpNetwork> = pool
        .reservations
        .iter()
        .map(|reservation| reservation.cidr.network())
        .filter_map(|part| match (block.contains(part.network()), part.contains(block.network())) {
            // A wider one covers the whole block.
            (_, true) if part.prefix() <= block.prefix() => Some(block),
            (true, _) => Some(part),
            _ => None,
        })
        .collect();
    parts.sort_by_key(|part| part.prefix());
    let mut disjoint: Vec<IpNetwork> = Vec::new();
    for part in parts {
        if !disjoint.iter().any(|wider| wider.contains(part.network())) {
            disjoint.push(part);
        }
    }
    disjoint
}

/// The pool's own network address (IPv6: the subnet-router anycast address) and IPv4 broadcast address, which old
/// equipment treats as special.
fn unusable(pool: IpNetwork) -> Vec<IpAddr> {
    match pool {
        IpNetwork::V4(pool) if pool.prefix() >= 31 => Vec::new(),
        IpNetwork::V4(pool) => vec![pool.network().into(), pool.broadcast().into()],
        IpNetwork::V6(pool) if pool.prefix() >= 127 => Vec::new(),
        IpNetwork::V6(pool) => vec![pool.network().into()],
    }
}
