//! The envelope of every resource, and a set of them.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bandwidth::NodeBandwidthSpec;
use crate::bgp::{BgpConfigurationSpec, BgpPeerSpec};
use crate::grant::NamespaceGrantSpec;
use crate::lb::LoadBalancerSourceSpec;
use crate::pool::{IpBlockSpec, IpPoolSpec};

/// The group and version that this release reads.
pub const API_VERSION: &str = "turnpike.io/v1alpha1";

/// A resource: Kubernetes' envelope around a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Object<S> {
    /// `turnpike.io/v1alpha1`.
    pub api_version: String,
    /// The kind's name.
    pub kind: String,
    /// Name and labels.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: S,
}

/// A resource's name, labels and annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Unique among resources of the same kind.
    pub name: String,
    /// For selecting and sorting by people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Free text of tools and people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The kinds of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `IPPool`.
    IpPool,
    /// `IPBlock`.
    IpBlock,
    /// `BGPConfiguration`.
    BgpConfiguration,
    /// `BGPPeer`.
    BgpPeer,
    /// `NodeBandwidth`.
    NodeBandwidth,
    /// `LoadBalancerSource`.
    LoadBalancerSource,
    /// `NamespaceGrant`.
    NamespaceGrant,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::IpPool,
        Self::IpBlock,
        Self::BgpConfiguration,
        Self::BgpPeer,
        Self::NodeBandwidth,
        Self::LoadBalancerSource,
        Self::NamespaceGrant,
    ];

    /// As written in `kind:`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IpPool => "IPPool",
            Self::IpBlock => "IPBlock",
            Self::BgpConfiguration => "BGPConfiguration",
            Self::BgpPeer => "BGPPeer",
            Self::NodeBandwidth => "NodeBandwidth",
            Self::LoadBalancerSource => "LoadBalancerSource",
            Self::NamespaceGrant => "NamespaceGrant",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A resource of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the kind of the same name")]
pub enum Resource {
    IpPool(Object<IpPoolSpec>),
    IpBlock(Object<IpBlockSpec>),
    BgpConfiguration(Object<BgpConfigurationSpec>),
    BgpPeer(Object<BgpPeerSpec>),
    NodeBandwidth(Object<NodeBandwidthSpec>),
    LoadBalancerSource(Object<LoadBalancerSourceSpec>),
    NamespaceGrant(Object<NamespaceGrantSpec>),
}

/// Names a resource in messages: `IPPool/default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId {
    /// The kind.
    pub kind: Kind,
    /// metadata.name.
    pub name: String,
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// All resources of one source at one time, by kind and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is the kind of the same name")]
pub struct Resources {
    pub pools: BTreeMap<String, IpPoolSpec>,
    pub blocks: BTreeMap<String, IpBlockSpec>,
    pub bgp_configurations: BTreeMap<String, BgpConfigurationSpec>,
    pub bgp_peers: BTreeMap<String, BgpPeerSpec>,
    pub node_bandwidths: BTreeMap<String, NodeBandwidthSpec>,
    pub lb_sources: BTreeMap<String, LoadBalancerSourceSpec>,
    pub namespace_grants: BTreeMap<String, NamespaceGrantSpec>,
}

impl Resources {
    /// Adds a resource. False, and no change, when one of the same kind and name is there already.
    #[must_use]
    pub fn insert(&mut self, resource: Resource) -> bool {
        fn put<S>(map: &mut BTreeMap<String, S>, object: Object<S>) -> bool {
            match map.entry(object.metadata.name) {
                std::collections::btree_map::Entry::Occupied(_) => false,
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(object.spec);
                    true
                }
            }
        }
        match resource {
            Resource::IpPool(object) => put(&mut self.pools, object),
            Resource::IpBlock(object) => put(&mut self.blocks, object),
            Resource::BgpConfiguration(object) => put(&mut self.bgp_configurations, object),
            Resource::BgpPeer(object) => put(&mut self.bgp_peers, object),
            Resource::NodeBandwidth(object) => put(&mut self.node_bandwidths, object),
            Resource::LoadBalancerSource(object) => put(&mut self.lb_sources, object),
            Resource::NamespaceGrant(object) => put(&mut self.namespace_grants, object),
        }
    }

    /// Number of resources.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pools.len()
            + self.blocks.len()
            + self.bgp_configurations.len()
            + self.bgp_peers.len()
            + self.node_bandwidths.len()
            + self.lb_sources.len()
            + self.namespace_grants.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_their_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(Kind::from_name("Pod"), None);
    }

    #[test]
    fn unknown_fields_are_refused_in_envelope_and_spec() {
        let good = r#"{"apiVersion":"turnpike.io/v1alpha1","kind":"IPPool","metadata":{"name":"p"},"spec":{"cidr":"10.0.0.0/8"}}"#;
        let pool: Object<IpPoolSpec> = serde_json::from_str(good).unwrap();
        assert_eq!(pool.spec.block_len(), 26);
        for (from, to) in [("\"cidr\"", "\"cdir\""), ("\"spec\"", "\"status\""), ("\"name\"", "\"nmae\"")] {
            assert!(serde_json::from_str::<Object<IpPoolSpec>>(&good.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn a_second_resource_of_the_same_name_is_not_taken() {
        let pool = |cidr: &str| {
            Resource::IpPool(Object {
                api_version: API_VERSION.into(),
                kind: "IPPool".into(),
                metadata: Metadata { name: "p".into(), ..Metadata::default() },
                spec: serde_json::from_str(&format!(r#"{{"cidr":"{cidr}"}}"#)).unwrap(),
            })
        };
        let mut resources = Resources::default();
        assert!(resources.insert(pool("10.0.0.0/8")));
        assert!(!resources.insert(pool("11.0.0.0/8")));
        assert_eq!(resources.pools["p"].cidr.to_string(), "10.0.0.0/8");
    }
}
