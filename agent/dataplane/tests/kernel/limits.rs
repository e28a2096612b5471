//! Limits as kernel objects: there, changed in place, gone; and that no more passes than they say. How well they hold is
//! measured in the testbed. What holds packets back is the kernel's to have: fq, or TBF with HTB below.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use turnpike_dataplane::{Dataplane, Pacer};
use turnpike_model::desired::{BitsPerSecond, DesiredState, Endpoint, Protocol, ServicePort};

use crate::load_balancer::with_director;
use crate::sandbox::{Host, Pod, apply, attach, endpoint, json, limited, run, same, snapshot, state, text};

fn ifb() -> String {
    endpoint(1).host_link.replacen("tpk", "tpki", 1)
}

/// The root qdisc of a link that has a limit.
fn root(link: &str) -> Value {
    let all = json(&format!("tc -j -s qdisc show dev {link}"));
    let all = all.as_array().expect("qdiscs").clone();
    let ours = |qdisc: &Value| qdisc["root"] == true && (qdisc["kind"] == "tbf" || qdisc["kind"] == "fq");
    all.into_iter().find(ours).expect("our queue")
}

/// Expects this limit, in bits per second, where the qdisc has it; fq is told by the program.
fn assert_rate(plane: &Dataplane, link: &str, rate: u64) {
    if plane.pacer() != Pacer::Fq {
        // Bytes per second.
        assert_eq!(root(link)["options"]["rate"].as_u64().map(|rate| rate * 8), Some(rate));
    }
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

fn kinds(words: &str) -> Vec<String> {
    words.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_redirect_that_nobody_wants_goes() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint(1), &pod);
    let before = snapshot();
    let name = endpoint(1).host_link;
    // As an agent leaves it whose ifb somebody else deletes.
    let redirect = "u32 match u32 0 0 action mirred egress redirect dev eth0";
    run(&format!("tc filter add dev {name} ingress prio 48000 protocol all {redirect}"));
    assert_ne!(snapshot(), before);
    apply(&mut plane, &state(&[endpoint(1)]));
    same(&snapshot(), &before, "now");
}

#[test]
fn both_limits_are_queues_of_ours() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let endpoint = limited(endpoint(1), 100, 50);
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint, &pod);
    println!("limits are held by {}", plane.pacer().words());
    if plane.pacer() == Pacer::Fq {
        assert_eq!((qdiscs(&endpoint.host_link), qdiscs(&ifb())), (kinds("clsact fq"), kinds("clsact fq")));
    } else {
        assert_eq!(
            (qdiscs(&endpoint.host_link), qdiscs(&ifb())),
            (kinds("clsact htb tbf"), kinds("htb tbf"))
        );
        let classifier = text(&format!("tc filter show dev {} parent 7471:", ifb()));
        assert!(classifier.contains("queue"), "{classifier}");
    }
    assert_rate(&plane, &endpoint.host_link, 100_000_000);
    assert_rate(&plane, &ifb(), 50_000_000);
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
    apply(&mut plane, &state(std::slice::from_ref(&before)));
    // More packets than neighbour discovery sends by itself while the test looks.
    assert!(pod.succeeds("ping -c50 -i0.002 -W3 10.1.1.1"));
    // What the pod sends does not have to wait, and is counted without having been in the queue.
    let sent = |plane: &mut Dataplane| {
        let usage = plane.usage().expect("usage").pods[before.host_link.as_str()];
        (root(&before.host_link)["packets"].as_u64().expect("a count"), usage.from_workload.bytes)
    };
    let counts = sent(&mut plane);
    assert!(counts.0 >= 50 && counts.1 >= 50 * 98, "{counts:?}");
    let after = limited(endpoint(1), 2000, 10);
    apply(&mut plane, &state(std::slice::from_ref(&after)));
    assert_rate(&plane, &after.host_link, 2_000_000_000);
    assert_rate(&plane, &ifb(), 10_000_000);
    assert_eq!(plane.limits_in_force(&after).expect("limits").from_workload, Some(BitsPerSecond(10_000_000)));
    // A queue that was made anew would count from zero; the kernels' own neighbour discovery may have added some.
    let now = sent(&mut plane);
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

/// Verifies: of a limited pod's links only the ifb is left, as when an agent is killed between the two, or the pod's end
/// takes the veth along; the pod's next ADD takes the ifb over, with all that is on it.
#[test]
fn a_limit_is_put_on_an_ifb_that_was_left() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let before = limited(endpoint(1), 100, 50);
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &before, &pod);
    drop(plane);
    run(&format!("ip link del {}", before.host_link));
    let mut plane = host.open();
    let problems = plane.apply(&state(std::slice::from_ref(&before)));
    assert!(problems.iter().any(|problem| problem.subject == before.host_link), "{problems:?}");
    let after = limited(endpoint(1), 100, 20);
    attach(&mut plane, &after, &pod);
    assert_rate(&plane, &ifb(), 20_000_000);
    assert_eq!(plane.check(&after, pod.fd()).expect("check"), []);
    assert!(pod.succeeds("ping -c1 -W3 10.1.1.1"));
    apply(&mut plane, &state(&[after]));
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
    let mut lines = vec![
        format!("tc qdisc del dev {} root", endpoint.host_link),
        format!("tc filter del dev {} ingress", endpoint.host_link),
        format!("ip link del {}", ifb()),
    ];
    if plane.pacer() == Pacer::Htb {
        lines.push(format!("tc qdisc del dev {} parent 7470:1", endpoint.host_link));
    }
    for line in lines {
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

/// Verifies: a limit begins with its first queues, and is in force; the others follow once it has held something back, for
/// a next process, too. Where fq holds the packets back there are none.
#[test]
fn queues_of_flows_follow_traffic() {
    let host = Host::enter();
    let mut plane = host.open();
    let pods = [Pod::new(), Pod::new()];
    let all = [limited(endpoint(1), 2, 2), limited(endpoint(2), 2, 2)];
    apply(&mut plane, &DesiredState::default());
    let classes = |endpoint: &Endpoint| {
        let links = [endpoint.host_link.clone(), endpoint.host_link.replacen("tpk", "tpki", 1)];
        links.map(|link| text(&format!("tc class show dev {link}")).matches("class htb").count())
    };
    let by_htb = plane.pacer() == Pacer::Htb;
    let (first, full) = if by_htb { (2, 18) } else { (0, 0) };
    let looks = |plane: &mut Dataplane| {
        plane.usage().expect("counters");
        plane.wants_queues()
    };
    for (endpoint, pod) in all.iter().zip(&pods) {
        attach(&mut plane, endpoint, pod);
        assert_eq!(plane.check(endpoint, pod.fd()).expect("check"), [], "it is in force");
    }
    apply(&mut plane, &state(&all));
    assert!(!looks(&mut plane), "nothing was held back");
    assert_eq!((classes(&all[0]), classes(&all[1])), ([first; 2], [first; 2]));
    exceed(&host, &pods[0], "10.244.0.1:9");
    assert_eq!(looks(&mut plane), by_htb);
    complete(&mut plane);
    assert_eq!((classes(&all[0]), classes(&all[1])), ([full; 2], [first; 2]));
    drop(plane);
    let mut plane = host.open();
    apply(&mut plane, &state(&all));
    assert!(!looks(&mut plane), "what is complete is known");
    exceed(&host, &pods[1], "10.244.0.2:9");
    assert_eq!(looks(&mut plane), by_htb);
    // A link that goes before its turn is no obstacle.
    run(&format!("ip link del {}", all[1].host_link));
    complete(&mut plane);
    assert_eq!(classes(&all[0]), [full; 2]);
}

/// As the agent does between its jobs.
fn complete(plane: &mut Dataplane) {
    while plane.wants_queues() {
        plane.complete_queues();
    }
}

/// Sends half a megabyte at once, both ways.
fn exceed(host: &Host, pod: &Pod, address: &str) {
    let bind = || UdpSocket::bind("0.0.0.0:0").expect("a socket");
    for (sender, to) in [(host.world.inside(bind), address), (pod.inside(bind), "10.1.1.1:9")] {
        for _ in 0..500 {
            // Nobody listens, which the kernel may tell.
            drop(sender.send_to(&[0; 1000], to));
        }
    }
}

/// Verifies: bursts at both ends of the link follow a limit that changes while the pod runs, also when the process that
/// set it has gone.
#[test]
fn bursts_follow_a_limit_that_changes() {
    let host = Host::enter();
    let pod = Pod::new();
    let at = |to, from| Endpoint { netns_path: pod.path(), ..limited(endpoint(1), to, from) };
    let name = endpoint(1).host_link;
    let caps = || {
        let read = |text: &serde_json::Value| text[0]["gso_max_size"].as_u64().expect("a size");
        (read(&json(&format!("ip -j -d link show {name}"))), read(&pod.json("ip -j -d link show eth0")))
    };
    let mut plane = host.open();
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &at(0, 0), &pod);
    assert_eq!(caps(), (65_536, 65_536));
    apply(&mut plane, &state(&[at(20, 10)]));
    assert_eq!(caps(), (10_000, 5000));
    drop(plane);
    let mut plane = host.open();
    apply(&mut plane, &state(&[at(10, 20)]));
    assert_eq!(caps(), (5000, 10_000));
    apply(&mut plane, &state(&[at(0, 0)]));
    assert_eq!(caps(), (65_536, 65_536), "no limit, no cap");
}

/// Verifies: of what comes faster than the limit no more passes than its rate and its bucket allow, both ways; beside it
/// a ping has its answer.
#[test]
fn no_more_passes_than_the_limit_says() {
    let host = Host::enter();
    let mut plane = host.open();
    flood(&host, &mut plane, &DesiredState::default());
}

/// Verifies: the same where the world is a director whose traffic bypasses, though what need not wait does so as well.
#[test]
fn no_more_bypasses_than_the_limit_says() {
    let host = Host::enter();
    let mut plane = host.open();
    let mut desired = with_director(DesiredState::default());
    let source = desired.lb_sources.get_mut("dns").expect("a source");
    source.ports = [ServicePort { protocol: Protocol::Udp, port: 9 }].into();
    flood(&host, &mut plane, &desired);
    let counters = plane.counters().expect("programs");
    assert!(counters["uplink_bypassed_limited"] >= 60 && counters["pod_bypassed"] > 0, "{counters:?}");
}

/// Sends more than a limit of 2 Mbit/s lets pass, both ways.
fn flood(host: &Host, plane: &mut Dataplane, desired: &DesiredState) {
    const RATE: f64 = 2e6;
    const PAYLOAD: usize = 1000;
    /// With headers of UDP, IPv4 and Ethernet.
    const FRAME: f64 = 1042.0;
    /// Ten full frames, and one that was on its way.
    const BUCKET: f64 = 11.0 * 1514.0;
    const WANTED: usize = 60;
    let pod = Pod::new();
    let endpoint = limited(endpoint(1), 2, 2);
    apply(plane, desired);
    attach(plane, &endpoint, &pod);
    let bind = |address: &str| {
        let socket = UdpSocket::bind(address).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a deadline");
        socket
    };
    for to_pod in [true, false] {
        let (inner, outer) = (pod.inside(|| bind("10.244.0.1:9")), host.world.inside(|| bind("10.1.1.1:9")));
        let (sender, receiver, to) =
            if to_pod { (outer, inner, "10.244.0.1:9") } else { (inner, outer, "10.1.1.1:9") };
        let done = AtomicBool::new(false);
        let (arrivals, answered) = std::thread::scope(|scope| {
            let begun = Instant::now();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // A full queue says so; what matters is what arrives.
                    drop(sender.send_to(&[0; PAYLOAD], to));
                }
            });
            let mut buffer = [0; 2 * PAYLOAD];
            let arrivals: Vec<_> =
                (0..WANTED).map_while(|_| receiver.recv(&mut buffer).ok().map(|_| begun.elapsed())).collect();
            let answered = pod.succeeds("ping -c2 -W10 10.1.1.1");
            done.store(true, Ordering::Relaxed);
            (arrivals, answered)
        });
        assert_eq!(arrivals.len(), WANTED, "datagrams, to the pod {to_pod}");
        for (passed, frames) in arrivals.iter().zip(1..) {
            let most = passed.as_secs_f64() * RATE / 8.0 + BUCKET;
            assert!(
                f64::from(frames) * FRAME <= most,
                "{frames} frames after {passed:?}, to the pod {to_pod}"
            );
        }
        assert!(answered, "a ping beside what fills the queue, to the pod {to_pod}");
    }
}
