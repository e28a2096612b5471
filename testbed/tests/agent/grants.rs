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
