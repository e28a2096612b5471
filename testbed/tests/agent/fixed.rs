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

/// Verifies: the MAC address that the runtime asks for is the pod's, in force for anti-spoofing and the host's neighbour
/// entry, over the agent's death too, and checked; what is no pod's MAC address is refused in words and makes nothing.
#[test]
fn a_mac_address_asked_for_is_the_pods_and_stays_it() -> Result<()> {
    const MAC: &str = "02:00:5e:10:00:01";
    let lab = Lab::new("agent-mac")?;
    let bench = Bench::start(&lab)?;
    bench.netns("p")?;
    for wrong in [
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "02:00:5e:10:00",
        "eth0",
        "02:00:5e:10:00:01:02",
    ] {
        let request = AddRequest { mac: Some(wrong.to_owned()), ..bench.add_request("c", "p") };
        let error = bench.add(request)?.expect_err(wrong);
        assert!(error.code == code::INVALID_CONFIG && error.message.contains(wrong), "{error}");
    }
    bench.wait_all_free()?;
    let request = AddRequest { mac: Some(MAC.to_uppercase()), ..bench.add_request("c", "p") };
    let reply = bench.add(request)??;
    assert_eq!(reply.pod_mac, MAC);
    bench.crash_and_restart()?;
    assert!(bench.inside("p", &["ip", "link", "show", "eth0"])?.contains(MAC));
    assert!(bench.node.text(&["ip", "neigh", "show", "dev", &reply.host_link])?.contains(MAC));
    bench.inside("p", &["ping", "-c", "1", "-W", "5", "10.1.1.11"])?;
    assert_eq!(bench.check("c", "p")?, Ok(()));
    bench.inside("p", &["ip", "link", "set", "eth0", "address", "02:00:5e:10:00:99"])?;
    let error = bench.check("c", "p")?.expect_err("somebody changed it");
    assert!(error.details.contains(MAC) || error.message.contains(MAC), "{error} {}", error.details);
    bench.del("c")?;
    lab.finish()
}
