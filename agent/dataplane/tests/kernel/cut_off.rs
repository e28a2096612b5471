//! A pod is cut off before its links are deleted.
//!
//! Verifies: nothing passes to or from a cut-off pod although its links are there; the next apply deletes them, several at
//! once and nobody else's with them; a pod that gets the same address, or whose end has the same name in the same
//! namespace, finds them gone.

use turnpike_ebpf_loader::{OpenOptions, Programs};
use turnpike_model::desired::{DesiredState, Endpoint};

use crate::sandbox::{Host, Pod, apply, attach, endpoint, limited, links_of_ours, run, state, text};

const WORLD: [&str; 2] = ["10.1.1.1", "fd00:1:1::1"];

fn reaches(pod: &Pod, target: &str) -> bool {
    pod.succeeds(&format!("ping -c1 -W3 {target}"))
}

fn is_deaf(pod: &Pod, target: &str) -> bool {
    !pod.succeeds(&format!("ping -c1 -W1 {target}"))
}

#[test]
fn nothing_passes_a_pod_that_is_cut_off() {
    let host = Host::enter();
    let mut plane = host.open();
    let (pod, other) = (Pod::new(), Pod::new());
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &limited(endpoint(1), 100, 100), &pod);
    attach(&mut plane, &endpoint(2), &other);
    for target in WORLD {
        assert!(reaches(&pod, target), "{target}");
    }
    plane.cut_off(&endpoint(1).host_link).expect("cut off");
    for target in WORLD {
        assert!(is_deaf(&pod, target), "{target} from a pod that is cut off");
        assert!(reaches(&other, target), "{target} from its neighbour");
    }
    for target in ["10.244.0.1", "fd00:244::1"] {
        assert!(is_deaf(&other, target), "{target}, which is cut off");
    }
    assert_eq!(links_of_ours().len(), 3, "its veth, its ifb, and the neighbour's veth");
    plane.cut_off(&endpoint(1).host_link).expect("idempotent");
    apply(&mut plane, &state(&[endpoint(2)]));
    assert_eq!(links_of_ours(), [endpoint(2).host_link]);
    assert!(!pod.succeeds("ip link show eth0"), "both ends are gone");
}

#[test]
fn many_go_at_once_and_nobody_elses_with_them() {
    let host = Host::enter();
    let mut plane = host.open();
    apply(&mut plane, &DesiredState::default());
    let pods: Vec<_> = (1..9).map(|number| (endpoint(number), Pod::new())).collect();
    for (endpoint, pod) in &pods {
        attach(&mut plane, endpoint, pod);
        plane.cut_off(&endpoint.host_link).expect("cut off");
    }
    // Somebody else uses the group's number.
    run("ip link add theirs type bridge");
    run("ip link set theirs group 1953524580");
    apply(&mut plane, &DesiredState::default());
    assert!(links_of_ours().is_empty());
    assert!(text("ip link show theirs").contains("theirs"));
    for (endpoint, pod) in &pods {
        attach(&mut plane, endpoint, pod);
        plane.cut_off(&endpoint.host_link).expect("cut off");
    }
    run("ip link del theirs");
    apply(&mut plane, &DesiredState::default());
    assert!(links_of_ours().is_empty());
}

#[test]
fn the_next_pod_finds_its_way_clear() {
    let host = Host::enter();
    let mut plane = host.open();
    let (first, second) = (Pod::new(), Pod::new());
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint(1), &first);
    plane.cut_off(&endpoint(1).host_link).expect("cut off");
    // The same addresses, another container in another namespace.
    let mut same_addresses = endpoint(2);
    same_addresses.addresses = endpoint(1).addresses;
    attach(&mut plane, &same_addresses, &second);
    assert_eq!(links_of_ours(), [endpoint(2).host_link]);
    // Another container in the namespace of one that is cut off.
    plane.cut_off(&endpoint(2).host_link).expect("cut off");
    attach(&mut plane, &endpoint(3), &second);
    assert_eq!(links_of_ours(), [endpoint(3).host_link]);
    // The very same container once more.
    plane.cut_off(&endpoint(3).host_link).expect("cut off");
    attach(&mut plane, &endpoint(3), &second);
    for target in WORLD {
        assert!(reaches(&second, target), "{target}");
    }
}

/// Verifies: what a load balancer that is not for all namespaces may do with a pod is forgotten with the pod, without an apply.
#[test]
fn no_admission_outlives_its_pod() {
    let host = Host::enter();
    let mut plane = host.open();
    let mut desired = crate::load_balancer::with_director(DesiredState::default());
    for source in desired.lb_sources.values_mut() {
        source.except_namespaces = ["bank".to_owned()].into();
    }
    apply(&mut plane, &desired);
    let admitted = || {
        let programs = Programs::open(&OpenOptions::new(host.pins())).expect("programs");
        programs.maps().lb_admits.entries().expect("read").len()
    };
    let (pod, other) = (Pod::new(), Pod::new());
    let in_bank = |number| Endpoint { namespace: "bank".to_owned(), ..endpoint(number) };
    attach(&mut plane, &in_bank(1), &pod);
    let of_one = admitted();
    assert!(of_one > 0);
    attach(&mut plane, &in_bank(2), &other);
    assert_eq!(admitted(), 2 * of_one);
    plane.cut_off(&in_bank(1).host_link).expect("cut off");
    assert_eq!(admitted(), of_one);
    plane.detach(&in_bank(2).host_link).expect("detach");
    assert_eq!(admitted(), 0);
}
