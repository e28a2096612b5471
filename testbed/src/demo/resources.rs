//! What the operator of the demo's data centre writes: one folder of resources, the same on both nodes.

/// Blocks of addresses, by node.
pub(super) const BLOCKS: [(&str, &str, &str); 2] =
    [("node1", "10.244.1.0/26", "fd00:244::1:0/122"), ("node2", "10.244.2.0/26", "fd00:244::2:0/122")];

const POOLS: &str = "\
# Pods are masqueraded only towards what is not ours.
apiVersion: turnpike.io/v1alpha1
kind: IPPool
metadata: {name: pods-v4}
spec:
  cidr: 10.244.0.0/16
  masquerade:
    exceptTo: [10.0.0.0/8]
---
apiVersion: turnpike.io/v1alpha1
kind: IPPool
metadata: {name: pods-v6}
spec:
  cidr: fd00:244::/48
  masquerade:
    exceptTo: ['fd00::/16']
";

const BGP: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 65001}
";

const BALANCER: &str = "\
# The directors' local addresses: past conntrack, and their client addresses are believed.
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs}
spec:
  cidrs: [10.9.1.0/24, 'fd00:9:1::/64']
  bypass: true
  toa: Toa254
  ports:
  - {protocol: TCP, port: 80}
  - {protocol: UDP, port: 9000}
";

/// File names and their YAML.
pub(super) fn files() -> Vec<(String, String)> {
    let blocks = BLOCKS.iter().flat_map(|(node, v4, v6)| [(node, "v4", v4), (node, "v6", v6)]);
    let blocks = blocks.map(|(node, family, cidr)| {
        format!(
            "apiVersion: turnpike.io/v1alpha1\nkind: IPBlock\nmetadata: {{name: {node}-{family}}}\n\
             spec: {{cidr: '{cidr}', pool: pods-{family}, node: {node}}}\n"
        )
    });
    let reflectors =
        [("rr1", "10.1.3.21"), ("rr2", "10.1.3.22"), ("rr1-v6", "fd00:1:3::21"), ("rr2-v6", "fd00:1:3::22")];
    let peers = reflectors.map(|(name, address)| {
        format!(
            "apiVersion: turnpike.io/v1alpha1\nkind: BGPPeer\nmetadata: {{name: {name}}}\n\
             spec: {{peerAddress: '{address}', asNumber: 65001}}\n"
        )
    });
    vec![
        ("pools.yaml".into(), POOLS.into()),
        ("blocks.yaml".into(), blocks.collect::<Vec<_>>().join("---\n")),
        ("bgp.yaml".into(), [vec![BGP.to_owned()], peers.to_vec()].concat().join("---\n")),
        ("balancer.yaml".into(), BALANCER.into()),
    ]
}
