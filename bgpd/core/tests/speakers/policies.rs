//! What is let in and out: RFC 8212, policies, the node role, limits.

use std::time::Duration;

use turnpike_bgp_core::Event;
use turnpike_bgp_core::config::{
    Actions, Config, Match, MaxPrefix, MaxPrefixAction, Network, NodeRole, Policy, PolicyChoice, PrefixRule,
    Rule, Source, Verdict,
};
use turnpike_bgp_wire::{Community, MessageType, Prefix4};

use crate::world::{World, addr, config, peer, prefix};

fn networks(config: &mut Config, which: &[&str]) {
    config.networks = which.iter().map(|text| Network::new(prefix(text))).collect();
}

fn pair(asns: [u32; 2]) -> World {
    let mut one = config(0, asns[0]);
    one.peers.push(peer(1, asns[1]));
    let mut other = config(1, asns[1]);
    other.peers.push(peer(0, asns[0]));
    World::new([one, other])
}

#[test]
fn an_external_peer_without_policies_gets_and_gives_nothing() {
    // RFC 8212.
    let mut world = pair([65001, 65002]);
    world.configure(0, |config| networks(config, &["10.1.0.0/16"]));
    world.all_up(&[(0, 1)]);
    world.run(Duration::from_secs(2));
    assert!(world.loc(1, "10.1.0.0/16").is_empty(), "no export policy");
    world.configure(0, |config| config.peers[0].export = PolicyChoice::AcceptAll);
    world.run(Duration::from_secs(2));
    let path = world.loc(1, "10.1.0.0/16").remove(0);
    assert_eq!((path.best, path.why.as_deref()), (false, Some("refused by import policy")));
    world.configure(1, |config| config.peers[0].import = PolicyChoice::AcceptAll);
    assert!(world.has(1, "10.1.0.0/16"));
    world.configure(0, |config| config.peers[0].export = PolicyChoice::Default);
    world.run(Duration::from_secs(2));
    assert!(world.loc(1, "10.1.0.0/16").is_empty(), "and it is taken back");
    assert_eq!(world.peer_of(0, 1).flaps, 0, "all without a reset");
}

#[test]
fn named_sets_choose_and_rules_change_paths() {
    let mut world = pair([65001, 65001]);
    world.configure(0, |config| {
        networks(config, &["10.244.1.0/26", "10.244.2.0/24", "10.9.0.1/32", "10.8.0.0/16"])
    });
    world.configure(1, |config| {
        let pools = PrefixRule { prefix: prefix("10.244.0.0/16"), ge: Some(26), le: Some(26) };
        config.prefix_sets.insert("pools".into(), vec![pools]);
        config.prefix_sets.insert("vips".into(), vec![PrefixRule::exact(prefix("10.9.0.1/32"))]);
        let tag = Community::new(65001, 7);
        let rules = vec![
            Rule {
                when: Match { prefix_sets: vec!["vips".into()], ..Match::default() },
                set: Actions {
                    local_pref: Some(200),
                    med: Some(5),
                    add_communities: vec![tag],
                    ..Actions::default()
                },
                ..Rule::default()
            },
            Rule {
                when: Match { prefix_sets: vec!["pools".into(), "vips".into()], ..Match::default() },
                verdict: Some(Verdict::Accept),
                ..Rule::default()
            },
        ];
        config.policies.insert("node-import".into(), Policy { rules, default: Verdict::Reject });
        config.peers[0].import = PolicyChoice::Named("node-import".into());
    });
    world.until("the paths are in", |world| world.has(1, "10.244.1.0/26") && world.has(1, "10.9.0.1/32"));
    assert_eq!(world.hosts[1].kernel.len(), 2, "a /24 of the pool and another range stay out");
    let vip = world.best(1, "10.9.0.1/32").unwrap();
    assert_eq!((vip.local_pref, vip.med), (Some(200), Some(5)));
    assert_eq!(vip.communities, [Community::new(65001, 7)]);
    let counts = world.peer_of(1, 0);
    assert_eq!((counts.received.ipv4, counts.accepted.ipv4), (4, 2));
    // The same policy with another content: judged anew without asking the peer.
    world.seen.clear();
    world.configure(1, |config| {
        config.prefix_sets.insert("vips".into(), vec![PrefixRule::within(prefix("10.8.0.0/15"))]);
    });
    assert!(world.has(1, "10.8.0.0/16") && world.has(1, "10.9.0.1/32"));
    assert!(world.seen.iter().all(|seen| seen.kind != MessageType::RouteRefresh));
}

#[test]
fn export_rules_see_where_a_path_came_from_and_prepend() {
    // 0 -(eBGP)- 1 -(eBGP)- 2; host 1 sends its own blocks as they are and others with a longer path.
    let open = |host, asn, peers: &[(usize, u32)]| {
        let mut config = config(host, asn);
        for (other, asn) in peers {
            let mut peer = peer(*other, *asn);
            peer.import = PolicyChoice::AcceptAll;
            peer.export = PolicyChoice::AcceptAll;
            config.peers.push(peer);
        }
        config
    };
    let mut first = open(0, 65001, &[(1, 65002)]);
    networks(&mut first, &["10.1.0.0/16"]);
    let mut middle = open(1, 65002, &[(0, 65001), (2, 65003)]);
    networks(&mut middle, &["10.2.0.0/16"]);
    let learnt = Rule {
        when: Match { source: Some(Source::External), ..Match::default() },
        set: Actions { prepend: 2, med: Some(9), ..Actions::default() },
        verdict: Some(Verdict::Accept),
        ..Rule::default()
    };
    middle.policies.insert("out".into(), Policy { rules: vec![learnt], default: Verdict::Accept });
    middle.peers[1].export = PolicyChoice::Named("out".into());
    let mut world = World::new([first, middle, open(2, 65003, &[(1, 65002)])]);
    world.until("both are in", |world| world.has(2, "10.1.0.0/16") && world.has(2, "10.2.0.0/16"));
    let far = world.best(2, "10.1.0.0/16").unwrap();
    assert_eq!((far.as_path.as_str(), far.med), ("65002 65002 65002 65001", Some(9)));
    assert_eq!(world.best(2, "10.2.0.0/16").unwrap().as_path, "65002");
}

#[test]
fn a_node_is_closed_by_default_inside_the_as_too() {
    let mut world = pair([65001, 65001]);
    world.configure(0, |config| {
        networks(
            config,
            &["0.0.0.0/0", "10.244.2.0/26", "10.244.1.0/26", "10.244.1.7/32", "10.0.0.0/8", "127.1.0.0/16"],
        );
    });
    world.configure(1, |config| {
        config.node = Some(NodeRole {
            accept: vec![
                PrefixRule::within(prefix("10.244.0.0/16")),
                PrefixRule::within(prefix("0.0.0.0/0")),
            ],
        });
        config.node.as_mut().unwrap().accept.pop();
        networks(config, &["10.244.1.0/26"]);
    });
    world.all_up(&[(0, 1)]);
    world.run(Duration::from_secs(2));
    assert_eq!(world.hosts[1].kernel.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.2.0/26"]);
    let why =
        |which: &str| world.loc(1, which).into_iter().find(|path| path.from.is_some()).unwrap().why.unwrap();
    assert_eq!(why("10.244.1.0/26"), "lies in a network of our own");
    assert_eq!(why("10.244.1.7/32"), "lies in a network of our own");
    assert_eq!(why("10.0.0.0/8"), "not in the ranges that this node accepts");
    assert_eq!(why("127.1.0.0/16"), "never a routed prefix");
    assert_eq!(why("0.0.0.0/0"), "not in the ranges that this node accepts");
    // A block that moves away is accepted from then on.
    world.configure(1, |config| config.networks.clear());
    assert!(world.has(1, "10.244.1.7/32"));
    // Covering it is not enough for the default route; naming it is.
    world.configure(1, |config| {
        config.node.as_mut().unwrap().accept.push(PrefixRule::within(prefix("0.0.0.0/0")));
    });
    assert!(!world.has(1, "0.0.0.0/0"));
    world.configure(1, |config| {
        config.node.as_mut().unwrap().accept.push(PrefixRule::exact(prefix("0.0.0.0/0")));
    });
    assert!(world.has(1, "0.0.0.0/0"));
}

fn flood(world: &mut World, count: u32) {
    let blocks = (0..count).map(|index| Prefix4::new(0x0af4_0000 + (index << 8), 24).unwrap());
    let networks: Vec<Network> = blocks.map(|block| Network::new(block.into())).collect();
    world.configure(0, |config| config.networks = networks);
}

fn warned(world: &World) -> usize {
    world.hosts[1].events.iter().filter(|event| matches!(event, Event::PrefixLimit { limit: 10, .. })).count()
}

#[test]
fn beyond_the_limit_prefixes_are_discarded_and_asked_for_again_when_there_is_room() {
    let mut world = pair([65001, 65001]);
    world.configure(1, |config| {
        config.peers[0].max_prefix = Some(MaxPrefix { limit: 10, action: MaxPrefixAction::Discard });
    });
    world.all_up(&[(0, 1)]);
    flood(&mut world, 30);
    world.run(Duration::from_secs(2));
    assert_eq!((world.hosts[1].kernel.len(), warned(&world)), (10, 1));
    assert!(world.is_up(0, 1));
    // The first twenty go: the rest must come in, though nobody changed them.
    world.configure(0, |config| {
        config.networks.drain(..22);
    });
    world.run(Duration::from_secs(2));
    assert_eq!(world.hosts[1].kernel.len(), 8);
    assert_eq!(world.peer_of(0, 1).flaps, 0);
}

#[test]
fn the_limit_can_also_warn_or_end_the_session() {
    let mut world = pair([65001, 65001]);
    world.configure(1, |config| {
        config.peers[0].max_prefix = Some(MaxPrefix { limit: 10, action: MaxPrefixAction::Warn });
    });
    world.all_up(&[(0, 1)]);
    flood(&mut world, 30);
    world.run(Duration::from_secs(2));
    assert_eq!((world.hosts[1].kernel.len(), warned(&world)), (30, 1));
    world.configure(1, |config| {
        config.peers[0].max_prefix = Some(MaxPrefix { limit: 10, action: MaxPrefixAction::Restart });
    });
    flood(&mut world, 31);
    world.run(Duration::from_secs(2));
    assert!(!world.is_up(1, 0));
    let told = world.peer_of(0, 1).last_notification.unwrap();
    assert!(told.contains("Maximum Number of Prefixes Reached"), "{told}");
    assert!(world.hosts[1].kernel.is_empty(), "RFC 4486 is not a restart");
}

#[test]
fn a_refused_configuration_changes_nothing() {
    let mut world = pair([65001, 65001]);
    world.all_up(&[(0, 1)]);
    world.configure(0, |config| {
        networks(config, &["10.1.0.0/16"]);
        config.peers[0].import = PolicyChoice::Named("nowhere".into());
    });
    world.run(Duration::from_secs(1));
    assert!(world.is_up(0, 1) && !world.has(0, "10.1.0.0/16"));
    let refused =
        world.hosts[0].events.iter().find(|event| matches!(event, Event::ConfigRefused { .. })).unwrap();
    assert_eq!(refused.to_string(), "configuration refused: peer `h1`: there is no policy called `nowhere`");
    assert_eq!(world.peer_of(0, 1).remote, addr(1));
}
