//! What a pod's author may ask for only in a namespace that it is granted to (R31).

use anyhow::{Result, ensure};
use turnpike_agent_api::{AddRequest, PodInfo};
use turnpike_testbed::{Lab, binary, poll_result};

use super::bench::{Bench, DEADLINE};

/// Verifies: a pod that asks for a class of another namespace stays in the default class, and status says so; one of the
/// right namespace gets it (R31).
#[test]
fn a_class_is_for_the_namespaces_that_it_names() -> Result<()> {
    let lab = Lab::new("agent-class-grant")?;
    let bench = Bench::start(&lab)?;
    bench.set_resource(
        "shares.yaml",
        "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: {name: shares}\nspec:\n  tree:\n    \
         speed: 1G\n    host: {guarantee: 100M}\n    defaultClass: usual\n    classes:\n      \
         usual: {guarantee: 100M}\n      gold: {guarantee: 500M, namespaces: [bank]}\n",
    )?;
    for (name, namespace) in [("p1", "bank"), ("p2", "shop")] {
        bench.netns(name)?;
        let pod = PodInfo { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), uid: None };
        let annotations = [("turnpike.io/bandwidth-class".to_owned(), "gold".to_owned())].into();
        let request = AddRequest { pod, annotations, ..bench.add_request(name, name) };
        bench.add(request)?.map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    let program = binary("turnpike")?.display().to_string();
    poll_result(DEADLINE, "status to name the pod of the wrong namespace", || {
        let status = bench.node.text(&[&program, "status"])?;
        let refused =
            "container p2 asks for class `gold`, which is not for namespace `shop`; it is in `usual`";
        ensure!(status.contains(refused) && !status.contains("container p1"), "{status}");
        Ok(())
    })?;
    let class = |pod: &str| -> Result<String> { bench.node.text(&[&program, "bw", "show", pod]) };
    ensure!(
        class("p1")?.contains("gold") && !class("p2")?.contains("gold"),
        "{}{}",
        class("p1")?,
        class("p2")?
    );
    for name in ["p1", "p2"] {
        bench.del(name)?;
    }
    lab.finish()
}

/// Verifies: pods of a namespace with a pool of its own get addresses from that one alone, and nobody else does (R5, R31);
/// without a block of it on the node, ADD names the pool.
#[test]
fn a_pool_is_for_the_namespaces_that_it_names() -> Result<()> {
    let lab = Lab::new("agent-pool-grant")?;
    let bench = Bench::start(&lab)?;
    let pool = "apiVersion: turnpike.io/v1alpha1\nkind: IPPool\nmetadata: {name: bank}\n\
                spec: {cidr: 10.77.0.0/24, namespaces: [bank]}\n";
    bench.set_resource("bank.yaml", pool)?;
    for name in ["p1", "p2"] {
        bench.netns(name)?;
    }
    let add = |name: &str, namespace: &str| {
        let pod = PodInfo { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), uid: None };
        bench.add(AddRequest { pod, ..bench.add_request(name, name) })
    };
    let text = poll_result(DEADLINE, "the pool without a block to be named", || {
        let answer = add("p1", "bank")?;
        let refused = answer.err().map(|error| error.to_string());
        if refused.is_none() {
            // The resource is not in force yet.
            bench.del("p1")?;
        }
        refused.ok_or_else(|| anyhow::anyhow!("it was attached"))
    })?;
    ensure!(text.contains("no IPv4 block of pool bank"), "{text}");
    let block = "---\napiVersion: turnpike.io/v1alpha1\nkind: IPBlock\nmetadata: {name: bank-n1}\n\
                 spec: {cidr: 10.77.0.0/26, pool: bank, node: n1}\n";
    bench.set_resource("bank.yaml", &format!("{pool}{block}"))?;
    let theirs = poll_result(DEADLINE, "the block", || {
        add("p1", "bank")?.map_err(|error| anyhow::anyhow!("{error}"))
    })?;
    let others = add("p2", "shop")?.map_err(|error| anyhow::anyhow!("{error}"))?;
    let v4 = |reply: &turnpike_agent_api::AddReply| {
        reply.addresses.iter().find(|address| address.is_ipv4()).map(ToString::to_string).unwrap_or_default()
    };
    ensure!(
        v4(&theirs).starts_with("10.77.0.") && v4(&others).starts_with("10.244.1."),
        "{theirs:?} {others:?}"
    );
    ensure!(theirs.addresses.len() == 2, "IPv6 comes from everybody's pool: {theirs:?}");
    for name in ["p1", "p2"] {
        bench.del(name)?;
    }
    lab.finish()
}

/// Verifies: a pod that asks for more than its node's default gets it as far as its namespace's grant goes and the node's
/// limit lets it, live, and status says what a pod of another namespace has; `bw show` names what decided; a grant that
/// cannot be meant is refused with file, line, field and remedy, and the last good one stays (R31).
#[test]
fn more_than_the_default_takes_a_grant() -> Result<()> {
    let lab = Lab::new("agent-rate-grant")?;
    let bench = Bench::start(&lab)?;
    bench.set_resource(
        "limits.yaml",
        "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: {name: base}\nspec:\n  \
         defaults: {egress: 20M}\n  limits: {egress: 100M}\n",
    )?;
    for (name, namespace, rate) in [("p1", "bank", "80M"), ("p2", "shop", "80M"), ("p3", "bank", "10M")] {
        bench.netns(name)?;
        let pod = PodInfo { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), uid: None };
        let annotations = [("kubernetes.io/egress-bandwidth".to_owned(), rate.to_owned())].into();
        let request = AddRequest { pod, annotations, ..bench.add_request(name, name) };
        bench.add(request)?.map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    let wait = |wanted: [u64; 3]| {
        bench.wait_status(&format!("limits of {wanted:?} Mbit/s"), |status| {
            let limit = |name: &str| {
                let mut pods = status.pods.iter();
                let pod = pods.find(|pod| pod.pod.name.as_deref() == Some(name));
                pod.and_then(|pod| pod.from_workload).unwrap_or_default() / 1_000_000
            };
            let found = ["p1", "p2", "p3"].map(limit);
            ensure!(found == wanted, "{found:?}");
            Ok(())
        })
    };
    wait([20, 20, 10])?;
    let program = binary("turnpike")?.display().to_string();
    let says = |words: &[&str], wanted: &str| {
        let argv: Vec<&str> = [&[program.as_str()], words].concat();
        poll_result(DEADLINE, wanted, || {
            let text = bench.node.text(&argv)?;
            ensure!(text.contains(wanted), "{text}");
            Ok(())
        })
    };
    says(
        &["status"],
        "container p1 asks to send 80M, more than the default, and namespace `bank` has no NamespaceGrant",
    )?;
    let grant = |rate: &str| {
        format!(
            "apiVersion: turnpike.io/v1alpha1\nkind: NamespaceGrant\nmetadata: {{name: bank}}\nspec:\n  \
             namespaces: [bank]\n  maxRate: {{egress: {rate}}}\n"
        )
    };
    bench.set_resource("grants.yaml", &grant("60M"))?;
    wait([60, 20, 10])?;
    says(&["bw", "show", "p1"], "decided by NamespaceGrant/bank spec.maxRate")?;
    says(
        &["status"],
        "container p2 asks to send 80M, more than the default, and namespace `shop` has no NamespaceGrant",
    )?;
    bench.set_resource("grants.yaml", &grant("1G"))?;
    wait([80, 20, 10])?;
    bench.set_resource("limits2.yaml", LOWER)?;
    wait([70, 20, 10])?;
    bench.set_resource("grants.yaml", &grant("1G").replace("[bank]", "[Bank]"))?;
    says(&["status"], "grants.yaml:5: spec.namespaces[0]: `Bank` is no name of a namespace")?;
    wait([70, 20, 10])?;
    bench.set_resource("grants.yaml", "# nobody is granted anything\n")?;
    wait([20, 20, 10])?;
    for name in ["p1", "p2", "p3"] {
        bench.del(name)?;
    }
    lab.finish()
}

const LOWER: &str = "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: {name: lower}\n\
                     spec: {limits: {egress: 70M}}\n";
