//! Limits as kernel objects: there, changed in place, gone. Whether they hold is measured in the testbed.

use serde_json::Value;
use turnpike_model::desired::DesiredState;

use crate::sandbox::{Host, Pod, apply, attach, endpoint, json, limited, run, same, snapshot, state, text};

fn ifb() -> String {
    endpoint(1).host_link.replacen("tpk", "tpki", 1)
}

fn rate(link: &str) -> Option<u64> {
    // Bytes per second.
    let all = json(&format!("tc -j qdisc show dev {link}"));
    let tbf = all.as_array().expect("qdiscs").iter().find(|qdisc| qdisc["kind"] == "tbf")?;
    Some(tbf["options"]["rate"].as_u64().expect("a rate") * 8)
}

fn qdiscs(link: &str) -> Vec<String> {
    let all: Value = json(&format!("tc -j qdisc show dev {link}"));
    let mut kinds: Vec<String> = all
        .as_array()
        .expect("qdiscs")
        .iter()
        .map(|qdisc| qdisc["kind"].as_str().expect("kind").to_owned())
        .collect();
    kinds.sort();
    kinds
}

#[test]
fn both_limits_are_queues_of_ours() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let endpoint = limited(endpoint(1), 100, 50);
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint, &pod);
    assert_eq!(qdiscs(&endpoint.host_link), ["clsact", "tbf"]);
    assert_eq!(qdiscs(&ifb()), ["clsact", "tbf"]);
    assert_eq!(rate(&endpoint.host_link), Some(100_000_000));
    assert_eq!(rate(&ifb()), Some(50_000_000));
    let redirect = text(&format!("tc filter show dev {} ingress", endpoint.host_link));
    assert!(redirect.contains(&format!("Egress Redirect to device {}", ifb())), "{redirect}");
    assert_eq!(plane.check(&endpoint, pod.fd()).expect("check"), []);
    assert_eq!(plane.limits_in_force(&endpoint).expect("limits").to_workload, endpoint.limits.to_workload);
    assert_eq!(
        plane.limits_in_force(&endpoint).expect("limits").from_workload,
        endpoint.limits.from_workload
    );
    for target in ["10.1.1.1", "fd00:1:1::1"] {
        assert!(pod.succeeds(&format!("ping -c1 -W3 {target}")), "{target} through both queues");
    }
}

#[test]
fn a_changed_limit_keeps_its_queue() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let before = limited(endpoint(1), 100, 100);
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &before, &pod);
    // More packets than neighbour discovery sends by itself while the test looks.
    assert!(pod.succeeds("ping -c50 -i0.002 -W3 10.1.1.1"));
    let sent = |link: &str| {
        let all = json(&format!("tc -j -s qdisc show dev {link}"));
        let leaf = all.as_array().expect("qdiscs").iter().find(|qdisc| qdisc["kind"] == "tbf").cloned();
        leaf.expect("our queue")["packets"].as_u64().expect("a count")
    };
    let counts = (sent(&before.host_link), sent(&ifb()));
    assert!(counts.0 >= 50 && counts.1 >= 50, "{counts:?}");
    let after = limited(endpoint(1), 2000, 10);
    apply(&mut plane, &state(std::slice::from_ref(&after)));
    assert_eq!((rate(&after.host_link), rate(&ifb())), (Some(2_000_000_000), Some(10_000_000)));
    // A queue that was made anew would count from zero; the kernels' own neighbour discovery may have added some.
    let now = (sent(&after.host_link), sent(&ifb()));
    assert!(now.0 >= counts.0 && now.1 >= counts.1, "{counts:?} became {now:?}");
    assert_eq!(plane.check(&after, pod.fd()).expect("check"), []);
    apply(&mut plane, &state(&[after]));
}

#[test]
fn a_limit_comes_and_goes_without_a_trace() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint(1), &pod);
    let before = snapshot();
    apply(&mut plane, &state(&[limited(endpoint(1), 100, 100)]));
    assert_ne!(snapshot(), before);
    apply(&mut plane, &state(&[endpoint(1)]));
    let after = snapshot();
    // clsact stays: others may have filters there by now, and it goes with the link.
    let without_clsact =
        |text: &str| text.lines().filter(|line| !line.contains("clsact")).collect::<Vec<_>>().join("\n");
    assert_eq!(without_clsact(&after["links"]), without_clsact(&before["links"]));
    assert_eq!(after["routes4"], before["routes4"]);
    assert!(pod.succeeds("ping -c1 -W3 10.1.1.1"));
}

#[test]
fn a_limit_that_somebody_removed_comes_back() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let endpoint = limited(endpoint(1), 100, 100);
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint, &pod);
    let before = snapshot();
    for line in [
        format!("tc qdisc del dev {} root", endpoint.host_link),
        format!("tc filter del dev {} ingress", endpoint.host_link),
        format!("ip link del {}", ifb()),
    ] {
        run(&line);
        let findings = plane.check(&endpoint, pod.fd()).expect("check");
        assert!(findings.iter().any(|finding| finding.subject == "limit"), "{line}: {findings:?}");
        apply(&mut plane, &state(std::slice::from_ref(&endpoint)));
        same(&snapshot(), &before, &line);
        assert_eq!(plane.check(&endpoint, pod.fd()).expect("check"), []);
    }
}

#[test]
fn a_slow_pod_sends_small_bursts() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &limited(endpoint(1), 0, 10), &pod);
    let link = &pod.json("ip -j -d link show eth0")[0];
    assert_eq!(link["gso_max_size"], 5000);
}
