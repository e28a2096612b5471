//! What operators ask for: a configuration tried on, graceful shutdown, everything again, policies by name.

use std::time::Duration;

use turnpike_bgp_core::config::{
    Actions, Config, Match, Network, Policy, PolicyChoice, PrefixRule, Rule, SetNextHop, Source, Verdict,
};
use turnpike_bgp_core::{Event, Input, Probe, SessionEffect, probe, session_changes};
use turnpike_bgp_wire::{AsPath, Asn, Attributes, Community, MessageType};

use crate::world::{World, addr, config, peer, prefix};

fn open(host: usize, asn: u32, peers: &[(usize, u32)], networks: &[&str]) -> Config {
    let mut config = config(host, asn);
    for (other, asn) in peers {
        let mut peer = peer(*other, *asn);
        peer.import = PolicyChoice::AcceptAll;
        peer.export = PolicyChoice::AcceptAll;
        config.peers.push(peer);
    }
    config.networks = networks.iter().map(|text| Network::new(prefix(text))).collect();
    config
}

/// Host 0 in the middle, an external host 1 that announces, an internal host 2 that listens.
fn line() -> World {
    let mut world = World::new([
        open(0, 65001, &[(1, 65002), (2, 65001)], &[]),
        open(1, 65002, &[(0, 65001)], &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]),
        open(2, 65001, &[(0, 65001)], &[]),
    ]);
    world.until("all is told", |world| world.has(2, "10.1.0.0/16") && world.has(2, "10.3.0.0/16"));
    world
}

fn rule(prefixes: &str, set: Actions, verdict: Verdict) -> Rule {
    Rule {
        when: Match { prefixes: vec![PrefixRule::exact(prefix(prefixes))], ..Match::default() },
        set,
        verdict: Some(verdict),
        ..Rule::default()
    }
}

#[test]
fn a_comparison_foretells_what_the_configuration_then_does() {
    let mut world = line();
    let mut new = world.speaker(0).config().clone();
    let prefer = Actions { local_pref: Some(300), ..Actions::default() };
    let rules = vec![
        rule("10.1.0.0/16", prefer, Verdict::Accept),
        rule("10.2.0.0/16", Actions::default(), Verdict::Reject),
    ];
    new.policies.insert("in".into(), Policy { rules, default: Verdict::Accept });
    new.peers[0].import = PolicyChoice::Named("in".into());
    new.networks.push(Network::new(prefix("10.9.0.0/16")));

    let before: Vec<_> = ["10.1.0.0/16", "10.2.0.0/16"].map(|text| world.loc(0, text)).into();
    let foretold = world.speaker(0).snapshot().compare(&new, 10);
    assert_eq!(before, ["10.1.0.0/16", "10.2.0.0/16"].map(|text| world.loc(0, text)), "nothing is touched");
    let loc = &foretold.loc;
    assert_eq!((loc.added, loc.removed, loc.changed), (1, 1, 1), "{loc:#?}");
    assert_eq!(foretold.received.len(), 1);
    let taken = &foretold.received[0];
    assert_eq!((taken.remote, taken.change.removed, taken.change.changed), (addr(1), 1, 1));
    let told: Vec<_> = foretold.sent.iter().map(|table| (table.remote, table.change.added)).collect();
    assert_eq!(told, [(addr(1), 1), (addr(2), 1)]);
    assert_eq!(foretold.sent[1].change.removed, 1);

    world.input(0, Input::Configure(Box::new(new)));
    world.run(Duration::from_secs(5));
    assert_eq!(world.best(0, "10.1.0.0/16").unwrap().local_pref, Some(300));
    assert!(!world.has(0, "10.2.0.0/16") && world.has(2, "10.9.0.0/16"));
    for change in &foretold.sent[1].change.prefixes {
        let now = world.told(0, 2).into_iter().find(|path| path.prefix == change.prefix);
        let bare = now.map(|path| turnpike_bgp_core::query::PathView { best: false, ..path });
        assert_eq!(bare, change.after, "as foretold");
    }
    let again = world.speaker(0).snapshot().compare(world.speaker(0).config(), 10);
    assert!(again.loc.is_empty() && again.received.is_empty() && again.sent.is_empty(), "{again:#?}");
}

#[test]
fn a_comparison_takes_away_what_a_peer_that_goes_has_brought() {
    let world = line();
    let mut new = world.speaker(0).config().clone();
    new.peers.remove(0);
    let foretold = world.speaker(0).snapshot().compare(&new, 1);
    assert_eq!((foretold.loc.removed, foretold.loc.prefixes.len()), (3, 1), "all counted, one named");
    assert_eq!(foretold.sent.iter().find(|table| table.remote == addr(2)).unwrap().change.removed, 3);
}

#[test]
fn session_changes_are_told_as_they_will_be_made() {
    let old = open(0, 65001, &[(1, 65002), (2, 65001), (3, 65003), (4, 65004)], &[]);
    let mut new = old.clone();
    new.peers[0].hold_time = Duration::from_secs(30);
    new.peers[1].import = PolicyChoice::RejectAll;
    new.peers[2].shutdown = Some("maintenance".into());
    new.peers[3] = peer(5, 65005);
    let effects: Vec<_> =
        session_changes(&old, &new).into_iter().map(|one| (one.remote, one.effect)).collect();
    assert_eq!(
        effects,
        [
            (addr(1), SessionEffect::Reset),
            (addr(2), SessionEffect::Stays),
            (addr(3), SessionEffect::ShutDown),
            (addr(4), SessionEffect::Stop),
            (addr(5), SessionEffect::Start),
        ]
    );
    assert_eq!(session_changes(&old, &old), []);
}

#[test]
fn who_is_about_to_go_says_so_and_becomes_the_last_choice() {
    // RFC 8326. 0 goes; 1 is external, 2 internal.
    let mut world = World::new([
        open(0, 65001, &[(1, 65002), (2, 65001)], &["10.9.0.0/16"]),
        open(1, 65002, &[(0, 65001)], &[]),
        open(2, 65001, &[(0, 65001)], &[]),
    ]);
    world.until("it is told", |world| world.has(1, "10.9.0.0/16") && world.has(2, "10.9.0.0/16"));
    world.configure(0, |config| config.graceful_shutdown = true);
    let marked = |world: &World, host| {
        let path = world.best(host, "10.9.0.0/16");
        path.is_some_and(|path| path.communities == [Community::GRACEFUL_SHUTDOWN])
    };
    world.until("the mark", |world| marked(world, 1) && marked(world, 2));
    for host in [1, 2] {
        assert_eq!(world.best(host, "10.9.0.0/16").unwrap().local_pref, Some(0));
    }
    world.configure(0, |config| config.graceful_shutdown = false);
    world.until("and back", |world| !marked(world, 1) && !marked(world, 2));
    assert_eq!(world.best(2, "10.9.0.0/16").unwrap().local_pref, Some(100));
    assert_eq!(world.peer_of(0, 1).flaps + world.peer_of(0, 2).flaps, 0);
}

#[test]
fn a_soft_reset_asks_and_tells_again_without_ending_the_session() {
    let mut world = line();
    world.seen.clear();
    let updates = world.peer_of(2, 0).counters.updates_in;
    world.input(0, Input::SoftReset { remote: addr(1), inbound: true, outbound: false });
    world.input(0, Input::SoftReset { remote: addr(2), inbound: false, outbound: true });
    world.run(Duration::from_secs(2));
    let asked = |from, to| {
        let asks = world.seen.iter().filter(|seen| (seen.from, seen.to) == (from, to));
        asks.filter(|seen| seen.kind == MessageType::RouteRefresh && seen.body.get(2) == Some(&0)).count()
    };
    assert_eq!((asked(0, 1), asked(0, 2)), (1, 0));
    assert!(world.peer_of(2, 0).counters.updates_in > updates, "everything was told again");
    assert_eq!(world.peer_of(0, 1).flaps + world.peer_of(0, 2).flaps, 0);
}

#[test]
fn a_reflector_knows_which_clients_no_other_reflector_serves() {
    // 0 and 1 reflect for 2 and know each other; 3 is a client of 0 only.
    let client = |host| {
        let mut peer = peer(host, 65001);
        peer.rr_client = true;
        peer
    };
    let mut first = config(0, 65001);
    first.peers = vec![peer(1, 65001), client(2), client(3)];
    let mut second = config(1, 65001);
    second.peers = vec![peer(0, 65001), client(2)];
    let mut world = World::new([
        first,
        second,
        open(2, 65001, &[(0, 65001), (1, 65001)], &["10.2.0.0/16"]),
        open(3, 65001, &[(0, 65001)], &["10.3.0.0/16"]),
    ]);
    world.until("all is reflected", |world| {
        world.loc(0, "10.2.0.0/16").len() == 2 && world.has(0, "10.3.0.0/16")
    });
    assert_eq!(world.speaker(0).clients_without_another_reflector(), ["h3"]);
    assert!(world.speaker(1).clients_without_another_reflector().is_empty());
}

#[test]
fn best_paths_are_events_while_somebody_watches() {
    let mut world = line();
    let told = |world: &World| {
        let best = |event: &&Event| matches!(event, Event::Best { .. });
        world.hosts[0].events.iter().filter(best).count()
    };
    assert_eq!(told(&world), 0);
    world.input(0, Input::WatchBest(true));
    world.configure(1, |config| config.networks.truncate(2));
    world.until("the withdrawal", |world| !world.has(0, "10.3.0.0/16"));
    let gone = Event::Best { prefix: prefix("10.3.0.0/16") };
    assert!(world.hosts[0].events.contains(&gone) && told(&world) == 1);
    world.input(0, Input::WatchBest(false));
    world.configure(1, |config| config.networks.truncate(1));
    world.until("another", |world| !world.has(0, "10.2.0.0/16"));
    assert_eq!(told(&world), 1);
}

#[test]
fn named_sets_of_as_paths_and_communities_choose_and_next_hops_are_set() {
    let mut world = line();
    world.configure(1, |config| {
        config.networks[0].communities = vec![Community::new(65002, 7)];
        let rules = vec![rule("10.2.0.0/16", Actions { prepend: 3, ..Actions::default() }, Verdict::Accept)];
        config.policies.insert("out".into(), Policy { rules, default: Verdict::Accept });
        config.peers[0].export = PolicyChoice::Named("out".into());
    });
    world.configure(0, |config| {
        config.community_sets.insert("customers".into(), vec!["65002:7".parse().unwrap()]);
        config.as_path_sets.insert("long".into(), vec!["65002+".parse().unwrap()]);
        let when = |change: fn(&mut Match)| {
            let mut when = Match::default();
            change(&mut when);
            when
        };
        let rules = vec![
            Rule {
                when: when(|when| when.community_sets = vec!["customers".into()]),
                set: Actions { local_pref: Some(150), ..Actions::default() },
                verdict: Some(Verdict::Accept),
                ..Rule::default()
            },
            Rule {
                when: when(|when| {
                    when.as_path_sets = vec!["long".into()];
                    when.as_path_min = Some(2);
                    when.origin_as = vec![Asn(65002)];
                }),
                set: Actions {
                    next_hop: Some(SetNextHop::Address(addr(2))),
                    add_extended_communities: vec!["rt:65001:9".parse().unwrap()],
                    ..Actions::default()
                },
                verdict: Some(Verdict::Accept),
                ..Rule::default()
            },
        ];
        config.policies.insert("in".into(), Policy { rules, default: Verdict::Reject });
        config.peers[0].import = PolicyChoice::Named("in".into());
        let ours = Rule {
            set: Actions { next_hop: Some(SetNextHop::Ourselves), ..Actions::default() },
            verdict: Some(Verdict::Accept),
            ..Rule::default()
        };
        config.policies.insert("self".into(), Policy { rules: vec![ours], default: Verdict::Reject });
        config.peers[1].export = PolicyChoice::Named("self".into());
    });
    world.until("the policies work", |world| {
        world.best(0, "10.1.0.0/16").is_some_and(|path| path.local_pref == Some(150))
            && world.best(0, "10.2.0.0/16").is_some_and(|path| path.as_path.len() > 20)
            && !world.has(0, "10.3.0.0/16")
    });
    let long = world.best(0, "10.2.0.0/16").unwrap();
    assert_eq!(long.next_hop.unwrap().addr, addr(2));
    assert_eq!(long.extended_communities, ["rt:65001:9".parse().unwrap()]);
    world.run(Duration::from_secs(2));
    let told = world.told(0, 2);
    assert!(told.iter().all(|path| path.next_hop.unwrap().addr == addr(0)) && told.len() == 2, "{told:#?}");
}

#[test]
fn a_probe_names_the_rule_that_decides_and_what_the_others_lacked() {
    let mut config = config(0, 65001);
    let named =
        |name: &str, when: Match, set: Actions, verdict| Rule { name: Some(name.into()), when, set, verdict };
    let vip = Match { prefixes: vec![PrefixRule::within(prefix("10.9.0.0/16"))], ..Match::default() };
    let long = Match { as_paths: vec!["* 65003".parse().unwrap()], ..Match::default() };
    let prefer = Actions { local_pref: Some(200), ..Actions::default() };
    config.policies.insert(
        "in".into(),
        Policy {
            rules: vec![
                named("long", long, Actions::default(), Some(Verdict::Reject)),
                named("prefer", Match::default(), prefer, None),
                named("vips", vip, Actions::default(), Some(Verdict::Accept)),
            ],
            default: Verdict::Reject,
        },
    );
    let mut tried = Probe {
        prefix: prefix("10.9.1.0/24"),
        source: Source::External,
        peer: Some(addr(1)),
        next_hop: Some(addr(1)),
        attributes: Attributes { as_path: AsPath::sequence([Asn(65002)]), ..Attributes::default() },
    };
    let answer = probe(&config, "in", &tried).unwrap();
    let said: Vec<_> = answer.rules.iter().map(|rule| (rule.rule.as_str(), rule.missed)).collect();
    assert_eq!(said, [("long", Some("as_path")), ("prefer", None), ("vips", None)]);
    assert_eq!(answer.decided_by.as_deref(), Some("vips"));
    assert_eq!(answer.result.unwrap().local_pref, Some(200));
    tried.prefix = prefix("10.8.0.0/16");
    let answer = probe(&config, "in", &tried).unwrap();
    assert_eq!((answer.decided_by, answer.result), (None, None));
    assert!(probe(&config, "none", &tried).is_none());
}

#[test]
fn a_node_takes_nothing_longer_than_a_block_and_nothing_of_its_own() {
    // What the agent pushes for a pool of 10.244.0.0/16 with blocks of 26 bits, on a node that has the first block.
    let mut node = open(0, 65001, &[(1, 65001)], &["10.244.1.0/26"]);
    let pool = PrefixRule { prefix: prefix("10.244.0.0/16"), ge: None, le: Some(26) };
    node.node = Some(turnpike_bgp_core::config::NodeRole { accept: vec![pool] });
    let told = [
        "10.244.2.0/26",
        "10.244.2.64/27",
        "10.244.1.0/26",
        "10.244.1.5/32",
        "0.0.0.0/0",
        "10.1.2.0/24",
        "127.0.0.0/8",
    ];
    let mut world = World::new([node, open(1, 65001, &[(0, 65001)], &told)]);
    world.until("the block", |world| world.has(0, "10.244.2.0/26"));
    world.run(Duration::from_secs(2));
    let taken: Vec<String> = world.hosts[0].kernel.keys().map(ToString::to_string).collect();
    assert_eq!(taken, ["10.244.2.0/26"]);
}
