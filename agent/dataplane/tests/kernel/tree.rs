//! The node tree as kernel objects. Whether shares hold is measured in the testbed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use turnpike_dataplane::{Dataplane, DataplaneConfig, LeafQueue};
use turnpike_model::desired::{BitsPerSecond, DesiredState, NodeTree, TreeClass};

use crate::sandbox::{Host, Pod, apply, attach, endpoint, json, run, state, text};

const M: u64 = 1_000_000;
const ONLINE: u16 = 0x123;
const OFFLINE: u16 = 0x124;

fn tree(classes: &[(u16, u64, u64)]) -> NodeTree {
    let class = |(number, guarantee, ceiling): &(u16, u64, u64)| {
        let (guarantee, ceiling) = (BitsPerSecond(guarantee * M), Some(BitsPerSecond(ceiling * M)));
        (*number, TreeClass { name: format!("class{number}"), guarantee, ceiling, namespaces: Vec::new() })
    };
    NodeTree {
        source: "shares".to_owned(),
        uplinks: BTreeSet::from(["eth0".to_owned()]),
        speed: Some(BitsPerSecond(1000 * M)),
        host: BitsPerSecond(200 * M),
        pods_ceiling: Some(BitsPerSecond(900 * M)),
        default_class: String::new(),
        classes: classes.iter().map(class).collect(),
    }
}

fn with_tree(mut desired: DesiredState, tree: NodeTree) -> DesiredState {
    desired.tree = Some(tree);
    desired
}

fn both() -> NodeTree {
    tree(&[(ONLINE, 500, 900), (OFFLINE, 100, 300)])
}

/// Guarantee and ceiling in Mbit/s of every class of eth0, by handle.
fn classes() -> BTreeMap<String, (u64, u64)> {
    let number = |text: &str| -> u64 {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        let scale = if text.ends_with("Gbit") { 1000 } else { 1 };
        digits.parse::<u64>().expect("a number") * scale
    };
    let shown = text("tc class show dev eth0");
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |name: &str| words[words.iter().position(|word| *word == name).expect(name) + 1];
        (words[2].to_owned(), (number(after("rate")), number(after("ceil"))))
    };
    // fq_codel shows its flows as classes, too.
    shown.lines().filter(|line| line.starts_with("class htb ")).map(line).collect()
}

fn root() -> String {
    let all = text("tc qdisc show dev eth0");
    let root = all.lines().find(|line| line.contains(" root ")).expect("a root qdisc");
    root.split(" refcnt").next().expect("text").to_owned()
}

fn sent(handle: &str) -> u64 {
    let shown = text("tc -s class show dev eth0");
    let mut lines = shown.lines().skip_while(|line| !line.contains(&format!("htb {handle} ")));
    let counts = lines.nth(1).expect("counters");
    counts.split_whitespace().nth(3).expect("packets").parse().expect("a number")
}

#[test]
fn a_tree_is_built_changed_in_place_and_taken_away() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let mut endpoint = endpoint(1);
    endpoint.class = Some(OFFLINE);
    let found = root();
    apply(&mut plane, &with_tree(state(&[]), both()));
    attach(&mut plane, &endpoint, &pod);
    let desired = with_tree(state(std::slice::from_ref(&endpoint)), both());
    apply(&mut plane, &desired);
    let built = classes();
    let expected = [
        ("7470:1", (1000, 1000)),
        ("7470:2", (800, 900)),
        ("7470:10", (200, 1000)),
        ("7470:123", (500, 900)),
        ("7470:124", (100, 300)),
    ];
    assert_eq!(built, expected.map(|(handle, rates)| (handle.to_owned(), rates)).into());

    for target in ["10.1.1.1", "fd00:1:1::1"] {
        let before = sent("7470:124");
        assert!(pod.succeeds(&format!("ping -c3 -i0.01 -W3 {target}")), "{target}");
        assert!(sent("7470:124") >= before + 3, "{target}: in the pod's own class");
    }
    let count = sent("7470:124");
    apply(&mut plane, &desired);
    assert!(sent("7470:124") >= count);
    apply(&mut plane, &with_tree(desired.clone(), tree(&[(OFFLINE, 200, 400)])));
    assert_eq!(classes().get("7470:124"), Some(&(200, 400)));
    assert_eq!(classes().get("7470:123"), None, "gone with nothing in its queue");
    assert!(sent("7470:124") >= count, "a class made anew would count from zero");
    drop(plane);
    let mut plane = host.open();
    apply(&mut plane, &with_tree(desired.clone(), tree(&[(OFFLINE, 200, 400)])));
    assert!(sent("7470:124") >= count, "a restart changes nothing");
    apply(&mut plane, &state(&[endpoint]));
    assert_eq!(root(), found);
    assert!(pod.succeeds("ping -c1 -W3 10.1.1.1"));
}

/// Verifies: each class and the host have the queue that the plane names; a change of ceilings changes them in place; who sends
/// more than his class may is dropped from, and that is counted.
#[test]
fn leaves_have_the_best_queue_that_the_kernel_offers() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let mut endpoint = endpoint(1);
    endpoint.class = Some(OFFLINE);
    let slow = |ceiling| {
        with_tree(state(std::slice::from_ref(&endpoint)), tree(&[(ONLINE, 500, 900), (OFFLINE, 1, ceiling)]))
    };
    apply(&mut plane, &with_tree(state(&[]), both()));
    attach(&mut plane, &endpoint, &pod);
    apply(&mut plane, &slow(300));
    let queue = plane.usage().expect("usage").leaf_queue.expect("a kind");
    println!("classes queue by {}", queue.words());
    let (kind, settings) = match queue {
        LeafQueue::FqCodel => ("fq_codel", ["target 5ms", "ecn"]),
        LeafQueue::Fifo => ("bfifo", ["limit", "b"]),
    };
    let leaf = |parent: &str| {
        let all = text("tc qdisc show dev eth0");
        all.lines().find(|line| line.contains(&format!("parent {parent} "))).expect(parent).to_owned()
    };
    for parent in ["7470:10", "7470:123", "7470:124"] {
        let leaf = leaf(parent);
        assert!(leaf.starts_with(&format!("qdisc {kind} ")), "{leaf}");
        assert!(settings.iter().all(|word| leaf.contains(word)), "{leaf}");
    }
    let before = leaf("7470:124");
    apply(&mut plane, &slow(1));
    assert_ne!(leaf("7470:124"), before, "its length follows the ceiling");

    let count = |plane: &mut Dataplane| {
        let usage = plane.usage().expect("usage");
        let uplink = usage.uplinks.iter().find(|uplink| uplink.name == "eth0").expect("eth0").clone();
        uplink.classes[&OFFLINE].usage.drops
    };
    assert_eq!(count(&mut plane), 0);
    let began = Instant::now();
    while count(&mut plane) == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was dropped");
        pod.succeeds("ping -q -l300 -c300 -s1400 -W1 10.1.1.1");
    }
}

#[test]
fn the_qdisc_that_was_found_comes_back_with_the_teardown() {
    let host = Host::enter();
    let folder = tempfile::tempdir().expect("a folder");
    let config = DataplaneConfig { state: Some(folder.path().to_owned()), ..host.config() };
    run("tc qdisc replace dev eth0 root handle 12: pfifo limit 77");
    let found = root();
    let mut plane = Dataplane::new(config.clone()).expect("a data plane");
    apply(&mut plane, &with_tree(state(&[]), both()));
    assert!(root().contains("htb 7470:"), "{}", root());
    drop(plane);
    let mut plane = Dataplane::new(config).expect("a data plane");
    assert_eq!(plane.teardown(), []);
    assert_eq!(root(), found);
}

#[test]
fn what_cannot_be_shared_is_refused_in_words_and_left_alone() {
    let host = Host::enter();
    let mut plane = host.open();
    let refusal = |plane: &mut Dataplane, tree: NodeTree| {
        let problems = plane.apply(&with_tree(state(&[]), tree));
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let fast = NodeTree { speed: Some(BitsPerSecond(25_000 * M)), ..both() };
    assert!(refusal(&mut plane, fast).contains("less than 25G"));
    let elsewhere = NodeTree { uplinks: BTreeSet::from(["eth7".to_owned()]), ..both() };
    assert!(refusal(&mut plane, elsewhere).contains("eth7: limit on eth7: no such interface"));
    run("tc qdisc replace dev eth0 root handle 5: htb default 1");
    let said = refusal(&mut plane, both());
    assert!(said.contains("htb of somebody else's"), "{said}");
    assert!(root().contains("htb 5: "), "{}", root());
    assert_eq!(json("tc -j filter show dev eth0 egress").as_array().map(Vec::len), Some(0));
}
