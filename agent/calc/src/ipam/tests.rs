use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const COOLDOWN: Time = Time::from_secs(120);

fn endpoint(name: &str) -> EndpointId {
    EndpointId { container_id: name.to_owned(), ifname: "eth0".to_owned() }
}

fn block(prefix: &str, reserved: &[&str]) -> PlannedBlock {
    let reserved = reserved.iter().map(|text| text.parse().unwrap()).collect();
    PlannedBlock {
        prefix: prefix.parse().unwrap(),
        pool: "default".to_owned(),
        reserved,
        withheld: Vec::new(),
    }
}

fn family(family: Family, blocks: Vec<PlannedBlock>) -> FamilyPlan {
    FamilyPlan { family, pools: vec!["default".to_owned()], blocks, owners: BTreeMap::new() }
}

fn dual_stack() -> AddressPlan {
    AddressPlan {
        families: vec![
            family(Family::V4, vec![block("10.244.0.0/30", &["10.244.0.0"])]),
            family(Family::V6, vec![block("fd00:244::/126", &["fd00:244::"])]),
        ],
    }
}

fn v4(prefixes: &[&str]) -> AddressPlan {
    AddressPlan {
        families: vec![family(Family::V4, prefixes.iter().map(|prefix| block(prefix, &[])).collect())],
    }
}

fn ipam(plan: AddressPlan) -> Ipam {
    let mut ipam = Ipam::new(COOLDOWN);
    ipam.set_plan(plan);
    ipam
}

fn addresses(leases: &[Lease]) -> Vec<String> {
    leases.iter().map(|lease| lease.address.to_string()).collect()
}

fn at(seconds: u64) -> Time {
    Time::from_secs(seconds)
}

#[test]
fn a_pod_gets_one_address_of_each_family_and_the_reserved_ones_stay_out() {
    let mut ipam = ipam(dual_stack());
    let leases = ipam.allocate(&endpoint("a"), "", &[], |_| false, at(0)).unwrap();
    assert_eq!(addresses(&leases), ["10.244.0.1", "fd00:244::1"]);
    assert!(leases.iter().all(|lease| lease.generation == 1 && lease.block.pool == "default"));
}

#[test]
fn exhaustion_of_one_family_takes_nothing_of_the_other_and_names_pool_and_use() {
    let mut plan = dual_stack();
    plan.families[1].blocks = vec![block("fd00:244::/127", &["fd00:244::"])];
    let mut ipam = ipam(plan);
    ipam.allocate(&endpoint("a"), "", &[], |_| false, at(0)).unwrap();
    let error = ipam.allocate(&endpoint("b"), "", &[], |_| false, at(0)).unwrap_err();
    assert_eq!(error.to_string(), "no free IPv6 address on this node: pool default has 1 of 1 in use");
    assert_eq!(ipam.usage("10.244.0.0/30".parse().unwrap(), 1, at(0)), Use { used: 1, cooling: 0, total: 3 });
}

#[test]
fn released_addresses_come_back_in_order_after_their_cooldown_and_behind_fresh_ones() {
    let mut ipam = ipam(v4(&["10.0.0.0/30"]));
    let lease = |ipam: &mut Ipam, name: &str, now| {
        addresses(&ipam.allocate(&endpoint(name), "", &[], |_| false, at(now)).unwrap())
    };
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(lease(&mut ipam, name, 0), [format!("10.0.0.{index}")]);
    }
    assert!(ipam.release(&endpoint("b"), "10.0.0.1".parse().unwrap(), 1, at(1)));
    assert!(ipam.release(&endpoint("a"), "10.0.0.0".parse().unwrap(), 1, at(2)));
    assert_eq!(lease(&mut ipam, "d", 3), ["10.0.0.3"], "fresh first");
    let error = ipam.allocate(&endpoint("e"), "", &[], |_| false, at(3)).unwrap_err().to_string();
    assert!(error.contains("2 of 4 in use and 2 in cooldown, the next for 119 s"), "{error}");
    assert_eq!(lease(&mut ipam, "e", 121), ["10.0.0.1"], "first released, first reused");
    assert!(ipam.allocate(&endpoint("f"), "", &[], |_| false, at(121)).is_err());
    assert_eq!(lease(&mut ipam, "f", 122), ["10.0.0.0"]);
}

#[test]
fn a_late_release_cannot_free_an_address_that_was_given_again() {
    let mut ipam = ipam(v4(&["10.0.0.0/32"]));
    let address = "10.0.0.0".parse().unwrap();
    let (old, new) = (endpoint("old"), endpoint("new"));
    assert_eq!(ipam.allocate(&old, "", &[], |_| false, at(0)).unwrap()[0].generation, 1);
    assert!(ipam.release(&old, address, 1, at(0)));
    assert_eq!(ipam.allocate(&new, "", &[], |_| false, at(200)).unwrap()[0].generation, 2);
    assert!(!ipam.release(&old, address, 1, at(201)));
    assert!(!ipam.release(&new, address, 1, at(201)));
    assert_eq!(ipam.holder(address), Some(&new));
    assert!(ipam.release(&new, address, 2, at(202)));
    assert!(!ipam.release(&new, address, 2, at(203)), "only once");
}

#[test]
fn an_address_that_was_never_used_needs_no_rest() {
    let mut ipam = ipam(v4(&["10.0.0.0/32"]));
    ipam.allocate(&endpoint("a"), "", &[], |_| false, at(0)).unwrap();
    assert!(ipam.release_unused(&endpoint("a"), "10.0.0.0".parse().unwrap(), 1));
    assert!(ipam.allocate(&endpoint("b"), "", &[], |_| false, at(0)).is_ok());
}

#[test]
fn a_second_block_serves_when_the_first_is_full() {
    let mut ipam = ipam(v4(&["10.0.0.0/32", "10.0.0.64/32"]));
    ipam.allocate(&endpoint("a"), "", &[], |_| false, at(0)).unwrap();
    assert_eq!(addresses(&ipam.allocate(&endpoint("b"), "", &[], |_| false, at(0)).unwrap()), ["10.0.0.64"]);
}

#[test]
fn a_pool_that_left_the_plan_gives_nothing_and_its_pods_keep_their_addresses() {
    let mut ipam = ipam(v4(&["10.0.0.0/30"]));
    ipam.allocate(&endpoint("a"), "", &[], |_| false, at(0)).unwrap();
    ipam.set_plan(v4(&["10.1.0.0/30"]));
    assert_eq!(addresses(&ipam.allocate(&endpoint("b"), "", &[], |_| false, at(0)).unwrap()), ["10.1.0.0"]);
    assert_eq!(ipam.holder("10.0.0.0".parse().unwrap()), Some(&endpoint("a")));
    ipam.set_plan(AddressPlan::default());
    assert_eq!(ipam.allocate(&endpoint("c"), "", &[], |_| false, at(0)), Err(IpamError::NoPool));
    let mut no_block = v4(&[]);
    no_block.families[0].blocks.clear();
    ipam.set_plan(no_block);
    assert!(matches!(
        ipam.allocate(&endpoint("c"), "", &[], |_| false, at(0)),
        Err(IpamError::NoBlock { .. })
    ));
}

#[test]
fn a_restart_remembers_holders_generations_and_cooldowns() {
    let mut ipam = ipam(v4(&["10.0.0.0/31"]));
    let (held, resting) = ("10.0.0.0".parse().unwrap(), "10.0.0.1".parse().unwrap());
    assert!(ipam.restore(held, Remembered::Held { owner: endpoint("a"), generation: 7 }));
    assert!(ipam.restore(resting, Remembered::Released { generation: 3, at: Some(at(10)) }));
    assert!(ipam.restore(held, Remembered::Released { generation: 6, at: Some(at(5)) }), "older: no news");
    assert_eq!(ipam.holder(held), Some(&endpoint("a")));
    assert!(ipam.allocate(&endpoint("b"), "", &[], |_| false, at(129)).is_err());
    assert_eq!(ipam.allocate(&endpoint("b"), "", &[], |_| false, at(130)).unwrap()[0].generation, 4);
    assert!(!ipam.restore(held, Remembered::Held { owner: endpoint("z"), generation: 8 }), "two holders");
}

#[test]
fn a_block_too_large_to_list_works() {
    let mut ipam = Ipam::new(COOLDOWN);
    ipam.set_plan(AddressPlan { families: vec![family(Family::V6, vec![block("fd00::/48", &["fd00::"])])] });
    assert_eq!(addresses(&ipam.allocate(&endpoint("a"), "", &[], |_| false, at(0)).unwrap()), ["fd00::1"]);
    assert_eq!(ipam.usage("fd00::/48".parse().unwrap(), 1, at(0)).total, u64::MAX - 1);
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Del(u8),
    LateDel(u8),
    Wait(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..12_u8).prop_map(Step::Add),
        2 => (0..12_u8).prop_map(Step::Del),
        1 => (0..12_u8).prop_map(Step::LateDel),
        1 => (0..200_u8).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    /// Any sequence of ADD, DEL, repeated DEL and waiting: no address twice, none lost, cooldown kept.
    #[test]
    fn no_address_has_two_holders_and_none_is_lost(steps in steps()) {
        let mut ipam = ipam(dual_stack());
        let mut live: BTreeMap<u8, Vec<Lease>> = BTreeMap::new();
        let mut gone: BTreeMap<u8, Vec<Lease>> = BTreeMap::new();
        let mut released_at: BTreeMap<IpAddr, Time> = BTreeMap::new();
        let mut now = at(0);
        for step in steps {
            match step {
                Step::Add(pod) => {
                    let result = ipam.allocate(&endpoint(&pod.to_string()), "", &[], |_| false, now);
                    match (live.get(&pod), result) {
                        (Some(_), result) => prop_assert!(matches!(result, Err(IpamError::AlreadyHeld(_)))),
                        (None, Err(error)) => prop_assert!(!matches!(error, IpamError::AlreadyHeld(_))),
                        (None, Ok(leases)) => {
                            prop_assert_eq!(leases.len(), 2);
                            let released = leases.iter().filter_map(|lease| released_at.get(&lease.address));
                            prop_assert!(released.into_iter().all(|released| now >= *released + COOLDOWN));
                            live.insert(pod, leases);
                        }
                    }
                }
                Step::Del(pod) => {
                    if let Some(leases) = live.remove(&pod) {
                        for lease in &leases {
                            prop_assert!(ipam.release(&endpoint(&pod.to_string()), lease.address, lease.generation, now));
                            released_at.insert(lease.address, now);
                        }
                        gone.insert(pod, leases);
                    }
                }
                Step::LateDel(pod) => {
                    for lease in gone.get(&pod).into_iter().flatten() {
                        prop_assert!(!ipam.release(&endpoint(&pod.to_string()), lease.address, lease.generation, now));
                    }
                }
                Step::Wait(seconds) => now += at(u64::from(seconds)),
            }
            let held: Vec<IpAddr> = live.values().flatten().map(|lease| lease.address).collect();
            prop_assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len());
            let usage = ipam.usage("10.244.0.0/30".parse().unwrap(), 1, now);
            prop_assert_eq!(usage.used, live.len() as u64);
        }
        for (pod, leases) in live {
            for lease in leases {
                prop_assert!(ipam.release(&endpoint(&pod.to_string()), lease.address, lease.generation, now));
            }
        }
        now += COOLDOWN;
        for pod in 0..3 {
            let name = format!("again{pod}");
            prop_assert!(ipam.allocate(&endpoint(&name), "", &[], |_| false, now).is_ok());
        }
    }
}

#[test]
fn an_address_asked_for_is_given_or_its_holder_named_and_the_other_family_is_found() {
    let mut ipam = ipam(dual_stack());
    let ask = |ipam: &mut Ipam, name: &str, address: &str, again: bool, now: u64| {
        ipam.allocate(&endpoint(name), "", &[address.parse().unwrap()], |_| again, at(now))
    };
    let leases = ask(&mut ipam, "a", "10.244.0.3", false, 0).unwrap();
    assert_eq!(addresses(&leases), ["10.244.0.3", "fd00:244::1"]);
    let error = ask(&mut ipam, "b", "10.244.0.3", false, 0).unwrap_err();
    assert!(matches!(&error, IpamError::Taken { holder, .. } if holder.container_id == "a"), "{error}");
    for outside in ["10.244.9.9", "10.244.0.0"] {
        assert!(matches!(ask(&mut ipam, "b", outside, false, 0), Err(IpamError::NotHere(_))), "{outside}");
    }
    for lease in leases {
        assert!(ipam.release(&endpoint("a"), lease.address, lease.generation, at(10)));
    }
    assert!(matches!(ask(&mut ipam, "b", "10.244.0.3", false, 20), Err(IpamError::Resting { .. })));
    let again = ask(&mut ipam, "a2", "10.244.0.3", true, 20).unwrap();
    assert_eq!(
        (addresses(&again)[0].as_str(), again[0].generation),
        ("10.244.0.3", 2),
        "the same pod need not wait"
    );
}

#[test]
fn withheld_addresses_are_given_only_to_those_who_ask() {
    let mut plan = v4(&["10.0.0.0/29"]);
    plan.families[0].blocks[0].withheld =
        vec!["10.0.0.0/30".parse().unwrap(), "10.0.0.6/32".parse().unwrap()];
    assert_eq!(plan.families[0].blocks[0].unavailable(), 5);
    let mut ipam = ipam(plan);
    let mut unasked = Vec::new();
    while let Ok(leases) = ipam.allocate(&endpoint(&unasked.len().to_string()), "", &[], |_| false, at(0)) {
        unasked.extend(addresses(&leases));
    }
    assert_eq!(unasked, ["10.0.0.4", "10.0.0.5", "10.0.0.7"]);
    let asked = ipam.allocate(&endpoint("x"), "", &["10.0.0.6".parse().unwrap()], |_| false, at(0)).unwrap();
    assert!(ipam.release_unused(&endpoint("x"), asked[0].address, asked[0].generation));
    assert!(ipam.allocate(&endpoint("y"), "", &[], |_| false, at(9999)).is_err(), "nor when they come back");
}

#[test]
fn a_namespace_with_pools_of_its_own_gets_from_them_and_others_do_not() {
    let mut plan = family(Family::V4, vec![block("10.0.0.0/30", &[]), block("10.9.0.0/31", &[])]);
    plan.pools = vec!["default".to_owned(), "bank".to_owned()];
    plan.blocks[1].pool = "bank".to_owned();
    plan.owners = [("bank".to_owned(), vec!["bank".to_owned(), "audit".to_owned()])].into();
    let mut ipam = Ipam::new(Time::ZERO);
    ipam.set_plan(AddressPlan { families: vec![plan] });
    let mut get = |name: &str, namespace: &str| {
        ipam.allocate(&endpoint(name), namespace, &[], |_| false, at(0))
            .map(|leases| addresses(&leases).concat())
    };
    assert_eq!(get("a", "bank").unwrap(), "10.9.0.0");
    assert_eq!(get("b", "shop").unwrap(), "10.0.0.0");
    assert_eq!(get("c", "audit").unwrap(), "10.9.0.1");
    let full = get("d", "bank").unwrap_err().to_string();
    assert!(full.contains("bank") && !full.contains("default"), "{full}");
    assert_eq!(get("e", "").unwrap(), "10.0.0.1", "a pod without a namespace is in nobody's");
}

#[test]
fn a_released_address_is_held_back_until_everybody_has_heard_of_it() {
    let mut ipam = Ipam::new(COOLDOWN).holding(at(600));
    ipam.set_plan(v4(&["10.0.0.0/32"]));
    let a = endpoint("a");
    let lease = ipam.allocate(&a, "", &[], |_| false, at(0)).unwrap().remove(0);
    assert!(ipam.release(&a, lease.address, lease.generation, at(10)));
    let known = |ipam: &Ipam, now| ipam.known(at(now)).next().map(|(_, _, known)| format!("{known:?}"));
    assert_eq!(known(&ipam, 100).unwrap(), "Resting(30s)");
    assert_eq!(known(&ipam, 200).unwrap(), "Unheard(410s)");
    assert!(ipam.allocate(&endpoint("b"), "", &[], |_| false, at(200)).is_err());
    // Somebody has heard of an older lease.
    ipam.heard(lease.address, lease.generation - 1);
    assert!(ipam.allocate(&endpoint("b"), "", &[], |_| false, at(200)).is_err());
    let mut late = ipam.clone();
    assert!(late.allocate(&endpoint("b"), "", &[], |_| false, at(611)).is_ok(), "the bound");
    ipam.heard(lease.address, lease.generation);
    assert!(ipam.allocate(&endpoint("b"), "", &[], |_| false, at(129)).is_err(), "the cooldown stays");
    assert!(ipam.allocate(&endpoint("b"), "", &[], |_| false, at(200)).is_ok());
}
