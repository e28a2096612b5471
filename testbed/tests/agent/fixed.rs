//! Addresses that pods ask for.

use anyhow::{Result, ensure};
use turnpike_agent_api::{AddRequest, PodInfo, code};
use turnpike_testbed::Lab;

use super::bench::Bench;

const FIXED: &str = "10.244.1.20";

fn asking(bench: &Bench, name: &str, namespace: &str, address: &str) -> AddRequest {
    let pod = PodInfo { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), uid: None };
    let annotations = [("turnpike.io/ip-addresses".to_owned(), address.to_owned())].into();
    AddRequest { pod, annotations, ..bench.add_request(name, name) }
}

/// Verifies: a pod gets the address that it asks for if it is reserved for its namespace, nobody else does unasked or
/// from another namespace, whoever asks for it meanwhile hears who has it, and the same pod gets it back at once.
#[test]
fn a_fixed_address_is_its_pods_alone() -> Result<()> {
    let lab = Lab::new("agent-fixed")?;
    let bench = Bench::start(&lab)?;
    ["db-0", "db-1", "web"].iter().try_for_each(|name| bench.netns(name))?;
    let pools = bench.resource("pools.yaml")?;
    let reserved = "{cidr: 10.244.0.0/16, reservations: [{cidr: 10.244.1.16/28, namespaces: [db]}]}";
    bench.set_resource("pools.yaml", &pools.replace("{cidr: 10.244.0.0/16}", reserved))?;
    bench.wait_status("the reservation", |status| {
        let total = status.blocks.iter().find(|block| block.cidr == "10.244.1.0/26").map(|block| block.total);
        ensure!(total == Some(48), "{:?}", status.blocks);
        Ok(())
    })?;
    let foreign = bench.add(asking(&bench, "web", "shop", FIXED))?.expect_err("no grant");
    assert!(foreign.code == code::INVALID_CONFIG && foreign.message.contains("namespace shop"), "{foreign}");
    let first = bench.add(asking(&bench, "db-0", "db", FIXED))??;
    assert_eq!(first.addresses[0].to_string(), FIXED);
    assert_eq!(first.addresses.len(), 2, "the other family comes as ever");
    let second = bench.add(asking(&bench, "db-1", "db", FIXED))?.expect_err("it is taken");
    assert!(second.code == code::ADDRESS_TAKEN && second.message.contains("db/db-0"), "{second}");
    let elsewhere = bench.add(AddRequest {
        annotations: std::collections::BTreeMap::new(),
        ips: vec!["10.244.9.9/16".to_owned()],
        ..bench.add_request("web", "web")
    })?;
    let elsewhere = elsewhere.expect_err("another node's");
    assert_eq!(elsewhere.code, code::ADDRESS_TAKEN, "{elsewhere}");
    bench.del("db-0")?;
    bench.crash_and_restart()?;
    let again = bench.add(asking(&bench, "db-0", "db", FIXED))??;
    assert_eq!(again.addresses[0].to_string(), FIXED);
    bench.del("db-0")?;
    bench.wait_all_free()?;
    lab.finish()
}
