use serde_json::json;
use turnpike_model::desired::{BitsPerSecond, Limits};

use super::*;

fn spec<S: for<'de> serde::Deserialize<'de>>(value: serde_json::Value) -> S {
    serde_json::from_value(value).unwrap()
}

fn node(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        labels: [("rack".to_owned(), "a".to_owned())].into(),
        uplinks: BTreeSet::new(),
    }
}

fn pod(name: &str, addresses: &[&str]) -> LocalPod {
    LocalPod {
        id: EndpointId { container_id: name.to_owned(), ifname: "eth0".to_owned() },
        host_link: format!("tpk{name}"),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        blocks: addresses.iter().map(|text| block_around(text)).collect(),
        mtu: 1500,
        asked: Limits { to_workload: Some(BitsPerSecond(100_000_000)), from_workload: None }.into(),
        host_ports: Vec::new(),
        toa_off: false,
        bypass_off: false,
        mac: None,
        netns_path: String::new(),
        namespace: "shop".to_owned(),
    }
}

fn block_around(address: &str) -> Block {
    let ip: IpAddr = address.parse().unwrap();
    let whole = IpNetwork::new(ip, if ip.is_ipv6() { 122 } else { 26 }).unwrap();
    let prefix = IpNetwork::new(whole.network(), whole.prefix()).unwrap();
    Block { prefix, pool: "v4".to_owned() }
}

fn data_centre() -> Resources {
    let mut resources = Resources::default();
    resources.pools.insert(
        "v4".to_owned(),
        spec(json!({"cidr": "10.244.0.0/16", "masquerade": {"exceptTo": ["10.0.0.0/8", "fd00::/8"]}})),
    );
    resources.pools.insert("v6".to_owned(), spec(json!({"cidr": "fd00:244::/48"})));
    for (name, cidr, pool, node) in [
        ("n1-v4", "10.244.1.0/26", "v4", "n1"),
        ("n1-v6", "fd00:244:0:1::/122", "v6", "n1"),
        ("n2-v4", "10.244.2.0/26", "v4", "n2"),
    ] {
        resources.blocks.insert(name.to_owned(), spec(json!({"cidr": cidr, "pool": pool, "node": node})));
    }
    resources.bgp_configurations.insert("default".to_owned(), spec(json!({"asNumber": 65001})));
    resources
        .bgp_peers
        .insert("rr1".to_owned(), spec(json!({"peerAddress": "10.1.3.21", "asNumber": 65001})));
    resources.bgp_peers.insert(
        "other".to_owned(),
        spec(json!({"peerAddress": "10.1.3.23", "asNumber": 65001, "node": "n2"})),
    );
    resources.lb_sources.insert(
        "lvs".to_owned(),
        spec(json!({"cidrs": ["10.1.3.30/32"], "bypass": true, "toa": "Toa254", "uplinks": ["eth0"],
                    "ports": [{"protocol": "TCP", "port": 80}]})),
    );
    resources.node_bandwidths.insert(
        "rack-a".to_owned(),
        spec(json!({"nodeSelector": {"matchLabels": {"rack": "a"}},
            "limits": {"ingress": "50M"}, "defaults": {"egress": "1G"}})),
    );
    resources
}

#[test]
fn a_node_gets_its_own_blocks_its_peers_and_its_limits() {
    let resources = data_centre();
    let pods = [pod("x", &["10.244.1.1", "fd00:244:0:1::1"])];
    let state = node_state(&resources, &node("n1"), &pods);
    assert_eq!(state.issues, []);
    let blocks: Vec<String> = state.desired.blocks.iter().map(|block| block.prefix.to_string()).collect();
    assert_eq!(blocks, ["10.244.1.0/26", "fd00:244:0:1::/122"]);
    assert_eq!(state.bgp.networks.len(), 2);
    assert_eq!(state.bgp.accept.len(), 2);
    assert_eq!(state.bgp.asn, Some(65001));
    assert_eq!(state.bgp.peers.keys().collect::<Vec<_>>(), ["rr1"]);
    let limits = state.desired.endpoints.values().next().unwrap().limits;
    assert_eq!(limits.to_workload, Some(BitsPerSecond(50_000_000)));
    assert_eq!(limits.from_workload, Some(BitsPerSecond(1_000_000_000)));
    assert_eq!(state.desired.lb_sources["lvs"].uplinks, ["eth0".to_owned()].into());
    assert!(state.desired.lb_sources["lvs"].bypass);
    assert_eq!(
        pods[0].endpoint_on(&resources, &node("n1")),
        *state.desired.endpoints.values().next().unwrap()
    );
}

#[test]
fn masquerade_never_crosses_families_and_spares_every_pool() {
    let state = node_state(&data_centre(), &node("n1"), &[]);
    assert_eq!(state.desired.masquerade.len(), 1);
    let except: Vec<String> = state.desired.masquerade[0].except_to.iter().map(ToString::to_string).collect();
    assert_eq!(except, ["10.0.0.0/8", "10.244.0.0/16"]);
}

#[test]
fn a_draining_pool_keeps_its_blocks_and_a_retired_one_only_while_pods_live_there() {
    let mut resources = data_centre();
    let set = |resources: &mut Resources, state| resources.pools.get_mut("v4").unwrap().state = state;
    set(&mut resources, PoolState::Draining);
    assert_eq!(node_state(&resources, &node("n1"), &[]).desired.blocks.len(), 2);
    set(&mut resources, PoolState::Retired);
    assert_eq!(node_state(&resources, &node("n1"), &[]).desired.blocks.len(), 1);
    let state = node_state(&resources, &node("n1"), &[pod("x", &["10.244.1.1"])]);
    assert_eq!(state.desired.blocks.len(), 2);
    assert!(state.issues[0].message.contains("1 pods still live in 10.244.1.0/26"), "{:?}", state.issues);
}

#[test]
fn a_block_that_vanished_stays_while_pods_live_in_it() {
    let mut resources = data_centre();
    resources.blocks.remove("n1-v4");
    assert_eq!(node_state(&resources, &node("n1"), &[]).desired.blocks.len(), 1);
    let state = node_state(&resources, &node("n1"), &[pod("x", &["10.244.1.1"])]);
    assert!(state.bgp.networks.contains(&"10.244.1.0/26".parse().unwrap()));
    assert!(state.issues[0].message.contains("no IPBlock gives 10.244.1.0/26"), "{:?}", state.issues);
    let empty = node_state(&Resources::default(), &node("n1"), &[pod("x", &["10.244.1.1"])]);
    assert_eq!((empty.desired.blocks.len(), empty.desired.endpoints.len()), (1, 1));
}

#[test]
fn a_block_that_another_node_got_is_not_announced_twice() {
    let mut resources = data_centre();
    resources.blocks.get_mut("n1-v4").unwrap().node = "n2".to_owned();
    let state = node_state(&resources, &node("n1"), &[pod("x", &["10.244.1.1"])]);
    assert_eq!(state.desired.endpoints.len(), 1, "the pod keeps its link");
    assert!(!state.bgp.networks.contains(&"10.244.1.0/26".parse().unwrap()));
    assert!(state.issues[0].message.contains("belongs to node n2 now"), "{:?}", state.issues);
}

#[test]
fn the_same_peer_twice_is_taken_once_and_reported() {
    let mut resources = data_centre();
    let twin = resources.bgp_peers["rr1"].clone();
    resources.bgp_peers.insert("rr1-twin".to_owned(), twin);
    let state = node_state(&resources, &node("n1"), &[]);
    assert_eq!(state.bgp.peers.len(), 1);
    assert_eq!(state.issues[0].resource.to_string(), "BGPPeer/rr1-twin");
}

#[test]
fn two_bgp_configurations_that_differ_are_reported_and_the_first_is_in_force() {
    let mut resources = data_centre();
    resources.bgp_configurations.insert("z".to_owned(), spec(json!({"asNumber": 65009})));
    let state = node_state(&resources, &node("n1"), &[]);
    assert_eq!(state.bgp.asn, Some(65001));
    assert_eq!(state.issues.len(), 1);
}
