//! What the agent does by itself to pods' links it does not take for others' doing; what others do it does not miss.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use turnpike_agent_api::PortMapping;
use turnpike_testbed::{Lab, Process, poll_result};

use crate::bench::{Bench, DEADLINE};

/// Pods that come and go.
const PODS: usize = 60;
/// Applies meanwhile: those that the start has asked for, and one that is due every 30 s.
const FEW: u64 = 3;
/// Long before the agent would look by itself.
const SOON: Duration = Duration::from_secs(10);

/// How often the agent has compared the whole node with its desired state.
fn applies(bench: &Bench) -> Result<u64> {
    let inside = ["--net=/proc/self/ns/net"];
    let scrape = crate::diagnosis::http(&bench.node, &inside, "127.0.0.1:9471", "/metrics")?;
    let line = scrape.lines().find_map(|line| line.strip_prefix("turnpike_applies_total "));
    Ok(line.context("turnpike_applies_total")?.trim().parse()?)
}

/// Verifies: sixty pods with limits and a host port come, answer CHECK and go, and their links with them; the agent compares
/// the whole node with its desired state no oftener than without them.
#[test]
fn pods_that_come_and_go_ask_for_no_apply() -> Result<()> {
    let lab = Lab::new("agent-quiet")?;
    let bench = Bench::start(&lab)?;
    let names: Vec<String> = (0..PODS).map(|index| format!("p{index}")).collect();
    names.iter().try_for_each(|name| bench.netns(name))?;
    let before = applies(&bench)?;
    for (name, port) in names.iter().zip(30_000..) {
        let mut request = bench.add_request(name, name);
        for direction in ["ingress", "egress"] {
            let key = format!("kubernetes.io/{direction}-bandwidth");
            request.annotations.insert(key, "100M".to_owned());
        }
        request.port_mappings = vec![PortMapping {
            host_port: port,
            container_port: 80,
            protocol: "TCP".to_owned(),
            host_ip: String::new(),
        }];
        bench.add(request)??;
    }
    for name in &names {
        bench.check(name, name)??;
        bench.del(name)?;
    }
    bench.wait_no_links()?;
    let meanwhile = applies(&bench)? - before;
    ensure!(meanwhile <= FEW, "{meanwhile} applies while {PODS} pods came and went");
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: somebody who takes each new link of a pod down the moment that it appears, in the middle of its ADD, does not
/// keep any pod off the network: an ADD that fails of it succeeds when it is asked again, and every pod is as CHECK wants
/// it long before the agent looks by itself. The same for one whose route is deleted while others come.
#[test]
fn what_others_do_to_a_link_in_the_middle_of_its_add_is_put_back() -> Result<()> {
    let lab = Lab::new("agent-interfered")?;
    let bench = Bench::start(&lab)?;
    let names: Vec<String> = (0..20).map(|index| format!("p{index}")).collect();
    names.iter().try_for_each(|name| bench.netns(name))?;
    let meddler = meddle(&bench)?;
    for (index, name) in names.iter().enumerate() {
        poll_result(DEADLINE, &format!("an ADD of {name} that succeeds"), || {
            bench.attach(name, name).map(drop)
        })?;
        if index > 0 {
            let earlier = &names[index - 1];
            let address = address_of(&bench, earlier)?;
            bench.node.run_unchecked(&["ip", "route", "del", &address])?;
        }
    }
    meddler.wait_log(&format!("{} links", names.len() + 1), DEADLINE)?;
    for name in &names {
        poll_result(SOON, &format!("{name} to be whole"), || {
            bench.check(name, name)?.map_err(anyhow::Error::from)
        })?;
    }
    meddler.stop()?;
    names.iter().try_for_each(|name| bench.del(name))?;
    bench.wait_all_free()?;
    lab.finish()
}

/// The pod's IPv4 address.
fn address_of(bench: &Bench, container: &str) -> Result<String> {
    let status = bench.status()?;
    let pod = status.pods.iter().find(|pod| pod.attachment.container_id == container).context("the pod")?;
    let address = pod.addresses.iter().find(|address| address.is_ipv4()).context("an address")?;
    Ok(address.to_string())
}

/// Takes every link of ours down once, when the kernel first tells of it.
fn meddle(bench: &Bench) -> Result<Process> {
    const SCRIPT: &str = "ip -o monitor link | while read -r line; do
        name=$(echo \"$line\" | grep -o 'tpk[0-9a-f]*' | head -n 1)
        case \" $seen\" in *\" ${name:-none} \"*) continue ;; esac
        [ -n \"$name\" ] || continue
        seen=\"$seen$name \"; count=$((count + 1))
        ip link set dev \"$name\" down
        echo \"$count links\"
    done";
    let mut command: Command = bench.node.command("sh")?;
    command.args(["-c", SCRIPT]);
    let meddler = bench.node.spawn("meddler", command)?;
    // It hears of links from now on.
    bench.node.run(&["ip", "link", "add", "tpk0", "type", "bridge"])?;
    poll_result(DEADLINE, "the meddler to listen", || {
        for way in ["up", "down"] {
            bench.node.run(&["ip", "link", "set", "tpk0", way])?;
        }
        ensure!(meddler.log().contains("1 links"), "not yet");
        Ok(())
    })?;
    bench.node.run(&["ip", "link", "del", "tpk0"])?;
    Ok(meddler)
}
