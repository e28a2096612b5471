//! The agent's vocabulary: resources as operators write them, and the state that they demand of a node.
//!
//! Resources have the shape of Kubernetes objects (`apiVersion: turnpike.io/v1alpha1`, kind, metadata, spec) in
//! either source, folder of YAML or API server. What they demand of one node's kernel is
//! [`desired::DesiredState`]; `turnpike-calc` goes from the one to the other.
//!
//! Pure: no I/O, no clock, no Kubernetes client.

pub mod bandwidth;
pub mod bgp;
pub mod burst;
pub mod cidr;
pub mod desired;
pub mod grant;
pub mod lb;
pub mod pool;
pub mod rate;
pub mod resource;
pub mod schema;
pub mod selector;
