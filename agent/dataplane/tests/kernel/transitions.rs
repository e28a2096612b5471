//! From any state to any other, also when killed on the way: the kernel ends as the desired state says, whatever it
//! held before.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use turnpike_dataplane::Dataplane;
use turnpike_model::desired::{Block, DesiredState, LbSource, Masquerade, Protocol, ServicePort};

use crate::sandbox::{Host, Pod, Snapshot, endpoint, limited, poll, same, snapshot, state};

/// Numbers that look random and are the same in each run (Knuth's MMIX generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }
}

const PODS: u8 = 4;

/// A state with any of the pods, limits, blocks, sources and masquerades.
fn any_state(numbers: &mut Numbers) -> DesiredState {
    let mut endpoints = Vec::new();
    for n in 1..=PODS {
        if numbers.chance() {
            let rates = [0, 10, 100, 5000];
            let rate = |numbers: &mut Numbers| rates[usize::try_from(numbers.below(4)).expect("small")];
            endpoints.push(limited(endpoint(n), rate(numbers), rate(numbers)));
        }
    }
    let mut desired = state(&endpoints);
    for prefix in ["10.244.0.0/26", "10.244.9.0/26", "fd00:244::/122"] {
        if numbers.chance() {
            desired.blocks.insert(Block { prefix: prefix.parse().expect("a prefix"), pool: "p".to_owned() });
        }
    }
    for (name, cidr, port) in
        [("a", "10.9.0.0/16", None), ("b", "10.9.1.0/24", Some(80)), ("c", "fd00:9::/64", Some(443))]
    {
        if numbers.chance() {
            let ports = port.map(|port| ServicePort { protocol: Protocol::Tcp, port }).into_iter().collect();
            let cidrs = BTreeSet::from([cidr.parse().expect("a prefix")]);
            let source = LbSource { cidrs, bypass: numbers.chance(), ports, ..LbSource::default() };
            desired.lb_sources.insert(name.to_owned(), source);
        }
    }
    for (source, except) in [("10.244.0.0/16", "10.0.0.0/8"), ("10.245.0.0/16", "10.9.0.0/16")] {
        if numbers.chance() {
            desired.masquerade.push(Masquerade {
                sources: BTreeSet::from([source.parse().expect("a prefix")]),
                except_to: BTreeSet::from([except.parse().expect("a prefix")]),
            });
        }
    }
    desired
}

/// Attaches the pods that the next state adds, detaches those that it drops, and applies it, as an agent does.
fn go(plane: &mut Dataplane, pods: &BTreeMap<u8, Pod>, from: &DesiredState, to: &DesiredState) {
    for (n, pod) in pods {
        let id = endpoint(*n).id;
        match (from.endpoints.get(&id), to.endpoints.get(&id)) {
            (None, Some(new)) => {
                plane.attach(new, pod.fd()).expect("attach");
            }
            (Some(old), None) => plane.detach(&old.host_link).expect("detach"),
            _ => {}
        }
    }
    crate::sandbox::apply(plane, to);
}

/// A snapshot without what is allowed to linger: clsact and GSO caps of links that once were limited.
fn comparable() -> Snapshot {
    let mut all = snapshot();
    let links = all["links"].lines().filter(|line| !line.contains("clsact")).collect::<Vec<_>>().join("\n");
    all.insert("links", links);
    all
}

#[test]
fn every_state_is_reached_from_every_other() {
    let host = Host::enter();
    let mut numbers = Numbers(7);
    let states: Vec<DesiredState> = (0..12).map(|_| any_state(&mut numbers)).collect();
    let pods: BTreeMap<u8, Pod> = (1..=PODS).map(|n| (n, Pod::new())).collect();
    let mut seen: BTreeMap<usize, Snapshot> = BTreeMap::new();
    let mut plane = host.open();
    let nothing = DesiredState::default();
    crate::sandbox::apply(&mut plane, &nothing);
    let empty = comparable();
    for (index, wanted) in states.iter().enumerate() {
        go(&mut plane, &pods, &nothing, wanted);
        seen.insert(index, comparable());
        go(&mut plane, &pods, wanted, &nothing);
        same(&comparable(), &empty, &format!("after state {index}"));
    }
    let mut last = nothing;
    for _ in 0..60 {
        let index = usize::try_from(numbers.below(12)).expect("small");
        if numbers.below(4) == 0 {
            drop(plane);
            plane = host.open();
            crate::sandbox::apply(&mut plane, &last);
        }
        go(&mut plane, &pods, &last, &states[index]);
        same(&comparable(), &seen[&index], &format!("state {index}"));
        last = states[index].clone();
    }
}

const CHILD: &str = "TURNPIKE_TEST_APPLIES_UNTIL_KILLED";

/// The process that the next test kills: it goes from state to state until then.
#[test]
fn applies_until_killed() {
    let Ok(argument) = std::env::var(CHILD) else {
        return;
    };
    let (seed, folder) = argument.split_once(' ').expect("seed and folder");
    let config = turnpike_dataplane::DataplaneConfig { bpffs: folder.into(), ..Default::default() };
    let mut plane = Dataplane::new(config).expect("a data plane");
    let mut numbers = Numbers(seed.parse().expect("a number"));
    println!("ready");
    loop {
        // Pods exist on the host side only; those that are missing are problems, not obstacles.
        plane.apply(&any_state(&mut numbers));
    }
}

/// Verifies: SIGKILL between any two system calls leaves nothing that the next apply cannot mend.
#[test]
fn a_killed_agents_successor_converges() {
    let host = Host::enter();
    let mut plane = host.open();
    let mut numbers = Numbers(11);
    let pods: BTreeMap<u8, Pod> = (1..=PODS).map(|n| (n, Pod::new())).collect();
    let nothing = DesiredState::default();
    let wanted = {
        let all: Vec<_> = (1..=PODS).map(|n| limited(endpoint(n), 100, 10)).collect();
        crate::load_balancer::with_director(state(&all))
    };
    crate::sandbox::apply(&mut plane, &nothing);
    go(&mut plane, &pods, &nothing, &wanted);
    let expected = comparable();
    for round in 0..12_u64 {
        drop(plane);
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "transitions::applies_until_killed", "--nocapture"])
            .env(CHILD, format!("{} {}", round + 100, host.pins().display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("stdout")));
        assert!(lines.any(|line| line.is_ok_and(|line| line.ends_with("ready"))), "the child never started");
        let until = std::time::Instant::now() + std::time::Duration::from_micros(numbers.below(60_000));
        poll("the moment to kill", || (std::time::Instant::now() >= until).then_some(()));
        child.kill().expect("kill");
        assert_eq!(child.wait().expect("wait").signal(), Some(9));
        plane = host.open();
        // Pods whose links the child removed are made anew, as the agent would after finding them gone.
        let problems = plane.apply(&wanted);
        for endpoint in wanted.endpoints.values() {
            if problems.iter().any(|problem| problem.subject == endpoint.host_link) {
                let n: u8 = endpoint.id.container_id.trim_start_matches("pod").parse().expect("a number");
                plane.attach(endpoint, pods[&n].fd()).expect("attach");
            }
        }
        crate::sandbox::apply(&mut plane, &wanted);
        same(&comparable(), &expected, &format!("round {round}"));
    }
}
