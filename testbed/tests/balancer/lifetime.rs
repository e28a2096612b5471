//! Pods that want none of it, sources that come, drain and go.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::{Lab, PodSpec, poll_result};

use super::{DEADLINE, KeptAlive, LOCAL, Rig, VIP, address, ask};

/// One source drains as usual, the other goes at once.
const SOURCES: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs}
spec: {cidrs: [10.9.1.0/24], bypass: true, toa: Toa254}
---
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs6}
spec: {cidrs: ['fd00:9:1::/64'], bypass: true, toa: Toa254, drainSeconds: 0}
";

/// Waits for the one answer of a command that is as wanted.
fn wait(rig: &Rig, words: &[&str], what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    poll_result(DEADLINE, what, || {
        let answer = rig.turnpike(words)?;
        ensure!(wanted(&answer), "{answer:#}");
        Ok(answer)
    })
}

/// Verifies: a pod with `turnpike.io/toa: "off"` shows the director, its neighbour the client, and the check says why;
/// `toaNat64` attaches the program for it, and ends it;
/// a source that is taken out drains (its options are not believed any more, its traffic stays out of conntrack, over
/// a restart of the agent too), and one with a drain time of 0 goes at once; established connections of both go on.
#[test]
fn a_pod_may_opt_out_and_a_source_that_is_removed_drains() -> Result<()> {
    let lab = Lab::new("lb-lifetime")?;
    let rig = Rig::new(&lab, SOURCES)?;
    let on = rig.turnpike.run_pod(PodSpec::nginx("on"))?;
    let off = rig.turnpike.run_pod(PodSpec::nginx("off").annotation("turnpike.io/toa", "off"))?;
    let director = rig.direct(&[(&on, 80), (&off, 81)])?;
    let seen = |vip: &str, port: u16| -> Result<_> {
        let (own, body) = poll_result(DEADLINE, "nginx to answer", || ask(&rig.client, vip, port))?;
        let seen = body.split_whitespace().next().and_then(address).context("an address")?;
        Ok((own.ip(), seen))
    };
    let mut established = Vec::new();
    for (vip, local) in VIP.iter().zip(LOCAL) {
        let (own, shown) = seen(vip, 80)?;
        assert_eq!(shown, own);
        assert_eq!(seen(vip, 81)?.1.to_string(), local, "the pod opted out");
        let mut connection = KeptAlive::open(&rig.client, vip, 80)?;
        let first = connection.ask()?;
        established.push((connection, first));
    }
    let check = rig.turnpike(&["toa", "check", "off"])?;
    assert_eq!(check["opted_out"], true, "{check:#}");
    assert!(check["counters"]["opted_out"].as_u64() >= Some(2) && check["counters"]["hit"] == 0, "{check:#}");
    assert!(check["findings"][0].as_str().is_some_and(|text| text.contains("turnpike.io/toa")), "{check:#}");

    assert_eq!(check["nat64"], false, "{check:#}");
    let asking = SOURCES.replacen("toa: Toa254}", "toa: Toa254, toaNat64: true}", 1);
    rig.turnpike.set_resource("balancer.yaml", &asking)?;
    wait(&rig, &["toa", "check", "on"], "getsockopt() to be answered", |check| check["nat64"] == true)?;
    rig.turnpike.set_resource("balancer.yaml", SOURCES)?;
    wait(&rig, &["toa", "check", "on"], "getsockopt() to be left alone", |check| check["nat64"] == false)?;

    rig.turnpike.set_resource("balancer.yaml", "# all sources are gone\n")?;
    let draining = |flows: &Value| {
        let sources = flows["sources"].as_array().map(Vec::as_slice).unwrap_or_default();
        matches!(sources, [one] if one["name"] == "lvs" && one["draining_s"].as_u64().is_some())
    };
    wait(&rig, &["lb", "flows"], "one source to drain, the other to be gone", draining)?;
    for (vip, local) in VIP.iter().zip(LOCAL) {
        poll_result(DEADLINE, "options not to be believed any more", || {
            let shown = seen(vip, 80)?.1.to_string();
            ensure!(shown == local, "nginx still sees {shown}");
            Ok(())
        })?;
    }
    let [tracked4, tracked6] = rig.tracked()?;
    assert_eq!(tracked4, 0, "what drains stays out of conntrack");
    assert!(tracked6 > 0, "what went at once is back in conntrack");
    for (connection, first) in &mut established {
        assert_eq!(&connection.ask()?, first, "an established connection goes on and keeps its client");
        assert!(first.starts_with(&connection.own.ip().to_string()), "{first}");
    }
    rig.turnpike.stop_agent()?;
    rig.turnpike.start_agent()?;
    wait(&rig, &["lb", "flows"], "the source to drain after a restart", draining)?;
    assert_eq!(seen(VIP[0], 80)?.1.to_string(), LOCAL[0]);
    assert_eq!(rig.tracked()?[0], 0, "a restart changes nothing");
    drop((established, director, on, off));
    lab.finish()
}

/// Leaves one namespace out.
const NOT_FOR_BANK: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs}
spec: {cidrs: [10.9.1.0/24, 'fd00:9:1::/64'], bypass: true, toa: Toa254, exceptNamespaces: [bank]}
";

/// Verifies: what a pod with `turnpike.io/lb-bypass: "off"` exchanges with directors is tracked, and its server sees
/// clients all the same; a pod of a namespace that the source is not for is tracked and sees the director; the tools
/// say so; that changes with the resource, and established connections go on.
#[test]
fn pods_are_left_out_of_the_bypass_by_annotation_and_by_namespace() -> Result<()> {
    let lab = Lab::new("lb-left-out")?;
    let rig = Rig::new(&lab, NOT_FOR_BANK)?;
    let on = rig.turnpike.run_pod(PodSpec::nginx("on"))?;
    let off = rig.turnpike.run_pod(PodSpec::nginx("off").annotation("turnpike.io/lb-bypass", "off"))?;
    let bank = rig.turnpike.run_pod(PodSpec::nginx("bank").namespace("bank"))?;
    let director = rig.direct(&[(&on, 80), (&off, 81), (&bank, 82)])?;
    let mut established = Vec::new();
    for (vip, local) in VIP.iter().zip(LOCAL) {
        for (port, sees_client) in [(80, true), (81, true), (82, false)] {
            let (own, body) = poll_result(DEADLINE, "nginx to answer", || ask(&rig.client, vip, port))?;
            let shown = body.split_whitespace().next().and_then(address).context("an address")?;
            let wanted = if sees_client { own.ip() } else { local.parse()? };
            assert_eq!(shown, wanted, "port {port} of {vip}");
            let mut connection = KeptAlive::open(&rig.client, vip, port)?;
            let first = connection.ask()?;
            established.push((connection, first));
        }
    }
    let tracked_of = |pod: &turnpike_testbed::Pod| -> Result<[bool; 2]> {
        let list = |family: &str| rig.turnpike.node().text(&["conntrack", "-L", "-f", family]);
        let has = |text: &str, ip: std::net::IpAddr| text.contains(&format!("={ip} "));
        Ok([has(&list("ipv4")?, pod.ipv4()?), has(&list("ipv6")?, pod.ipv6()?)])
    };
    assert_eq!(tracked_of(&on)?, [false, false]);
    assert_eq!(tracked_of(&off)?, [true, true]);
    assert_eq!(tracked_of(&bank)?, [true, true]);
    let flows = rig.turnpike(&["lb", "flows"])?;
    for source in flows["sources"].as_array().context("sources")? {
        for direction in ["to_pods", "from_pods"] {
            let reasons = source[direction]["fell_back"].as_array().context("reasons")?;
            assert!(reasons.iter().any(|one| one["reason"] == "pod_excluded"), "{source:#}");
        }
    }
    for (pod, words) in [("off", "turnpike.io/lb-bypass"), ("bank/bank", "not for namespace `bank`")] {
        let why = rig.turnpike(&["why", pod])?;
        let facts = why["facts"].as_array().context("facts")?;
        assert!(
            facts.iter().any(|fact| fact["text"].as_str().is_some_and(|text| text.contains(words))),
            "{why:#}"
        );
    }
    let check = rig.turnpike(&["toa", "check", "bank/bank"])?;
    assert!(check["findings"].to_string().contains("exceptNamespaces"), "{check:#}");
    assert!(check["counters"]["opted_out"].as_u64() >= Some(2), "{check:#}");

    // The other way round: what was tracked bypasses, what bypassed is tracked, and nothing breaks.
    let turned = NOT_FOR_BANK.replace("exceptNamespaces", "namespaces");
    rig.turnpike.set_resource("balancer.yaml", &turned)?;
    poll_result(DEADLINE, "the bank to bypass, and nobody else", || {
        rig.turnpike.node().run(&["conntrack", "-F"])?;
        for (connection, first) in &mut established {
            ensure!(connection.ask()? == *first, "an established connection goes on and keeps its client");
        }
        ensure!(tracked_of(&bank)? == [false, false], "the bank is still tracked");
        ensure!(tracked_of(&on)? == [true, true], "the others still bypass");
        Ok(())
    })?;
    drop((established, director, on, off, bank));
    lab.finish()
}
