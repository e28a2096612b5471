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
