//! What an ADD waits for: an answer to the pod's own address (R21), and the acknowledgement of whoever grants access
//! by address (R33).

use std::io::BufRead as _;
use std::net::IpAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_agent_api::{Client, DEFAULT_SOCKET, ErrorReply, Reply, Request, code};
use turnpike_testbed::{Lab, binary, poll_result};

use crate::bench::{Bench, DEADLINE};

const TALK: Duration = Duration::from_secs(10);

/// Waits until the agent knows whom to ask.
fn wait_gateway(bench: &Bench) -> Result<()> {
    bench.wait_status("the gateway", |status| {
        let known = status.gateways.iter().any(|gateway| gateway.address == IpAddr::from([10, 1, 1, 1]));
        ensure!(known, "{:?}", status.gateways);
        Ok(())
    })
}

fn metrics(bench: &Bench) -> Result<String> {
    crate::diagnosis::http(&bench.node, &["--net=/proc/self/ns/net"], "127.0.0.1:9471", "/metrics")
}

fn refused(bench: &Bench, container: &str) -> Result<ErrorReply> {
    let answer = bench.add(bench.add_request(container, "p"))?;
    answer.err().with_context(|| format!("{container} was attached"))
}

/// Verifies: with the gate enforced, an ADD fails with code 11 as long as the gateway knows no way back to the pod, says
/// what was asked, and leaves nothing; with the way back it succeeds. `warn` lets the pod start and tells; a pod can ask
/// for the gate by annotation where the node has it off.
#[test]
fn an_add_waits_for_an_answer_to_the_pods_own_address() -> Result<()> {
    let lab = Lab::new("agent-gateway-gate")?;
    let gate = |mode: &str| format!("[gates.gateway]\nmode = \"{mode}\"\nwait_ms = 1000\n");
    let bench = Bench::start_with(&lab, &gate("enforce"))?;
    wait_gateway(&bench)?;
    bench.netns("p")?;
    let error = refused(&bench, "early")?;
    assert_eq!(error.code, code::TRY_AGAIN);
    assert!(error.message.contains("no answer from 10.1.1.1 to the pod's address 10.244.1."), "{error}");
    assert!(error.details.contains("turnpike why"), "{}", error.details);
    bench.wait_all_free()?;
    bench.wait_no_links()?;
    assert!(metrics(&bench)?.contains("turnpike_gates_total{gate=\"gateway\",outcome=\"refused\"} 1"));

    bench.outside.route("10.244.1.0/26 via 10.1.1.11")?;
    bench.attach("proved", "p")?;
    assert!(metrics(&bench)?.contains("turnpike_gates_total{gate=\"gateway\",outcome=\"passed\"} 1"));
    bench.del("proved")?;

    bench.outside.run(&["ip", "route", "del", "10.244.1.0/26"])?;
    for (mode, annotation, starts) in [
        ("warn", None, true),
        ("off", None, true),
        ("off", Some("enforce"), false),
        ("off", Some("x"), false),
    ] {
        bench.reconfigure(&gate(mode))?;
        wait_gateway(&bench)?;
        let mut request = bench.add_request("pod", "p");
        let value = annotation.map(|value: &str| ("turnpike.io/gateway-gate".to_owned(), value.to_owned()));
        request.annotations.extend(value);
        let answer = bench.add(request)?;
        assert_eq!(answer.is_ok(), starts, "{mode} {annotation:?}: {answer:?}");
        if mode == "warn" {
            let told = bench
                .status()?
                .last_errors
                .iter()
                .any(|error| format!("{error:?}").contains("no answer from"));
            assert!(told, "{:?}", bench.status()?.last_errors);
        }
        bench.del("pod")?;
        bench.wait_no_links()?;
    }
    lab.finish()
}

/// As authz, hears events and acknowledges each address that is given out.
fn subscribe(bench: &Bench) -> Result<JoinHandle<usize>> {
    let socket = bench.node.path(DEFAULT_SOCKET)?;
    let mut stream = Client::connect(&socket)?.events(None, true)?;
    let mut list = String::new();
    stream.read_line(&mut list)?;
    ensure!(list.contains("\"list\""), "{list}");
    Ok(std::thread::spawn(move || {
        let mut acknowledged = 0;
        for line in stream.lines() {
            let Ok(event) = line.map(|line| serde_json::from_str::<Value>(&line).unwrap_or_default()) else {
                break;
            };
            if event["type"] != "assigned" {
                continue;
            }
            let version = event["resourceVersion"].as_u64().unwrap_or_default();
            let request = Request::Acknowledge { subscriber: "authz".to_owned(), version };
            let answer = Client::connect(&socket).and_then(|client| client.request(&request, &[], TALK));
            acknowledged += usize::from(matches!(answer, Ok(Reply::Done)));
        }
        acknowledged
    }))
}

/// Verifies: an ADD waits for the subscriber that is named; without it, it fails with code 11 and that name, and the
/// address goes back; a subscriber that acknowledges lets pods through, also those of a repeated ADD; DEL asks nobody;
/// after a restart of the agent old acknowledgements count for nothing; what was not told cannot be acknowledged.
#[test]
fn an_add_waits_for_those_who_grant_access_by_address() -> Result<()> {
    let lab = Lab::new("agent-subscriber-gate")?;
    let gate = "[gates.subscribers]\nmode = \"enforce\"\nwait_ms = 1500\nnames = [\"authz\"]\n";
    let bench = Bench::start_with(&lab, gate)?;
    bench.netns("p")?;
    let error = refused(&bench, "early")?;
    assert_eq!(error.code, code::TRY_AGAIN);
    assert!(error.message.contains("not acknowledged") && error.message.contains("authz"), "{error}");
    bench.wait_all_free()?;
    bench.wait_no_links()?;

    let subscriber = subscribe(&bench)?;
    let first = bench.attach("pod", "p")?;
    assert_eq!(bench.attach("pod", "p")?.addresses, first.addresses, "a repeated ADD");
    bench.del("pod")?;
    assert!(metrics(&bench)?.contains("turnpike_gates_total{gate=\"subscribers\",outcome=\"passed\"} 2"));

    bench.crash_and_restart()?;
    assert_eq!(subscriber.join().ok(), Some(2));
    let error = refused(&bench, "later")?;
    assert!(error.message.contains("authz"), "{error}");
    let subscriber = subscribe(&bench)?;
    bench.attach("later", "p")?;
    bench.del("later")?;

    let program = binary("turnpike")?.display().to_string();
    let future =
        bench.node.run_unchecked(&[&program, "ipam", "acknowledge", "authz", "9223372036854775807"])?;
    let said = String::from_utf8_lossy(&future.stderr).into_owned();
    assert!(!future.status.success() && said.contains("has not been told yet"), "{said}");
    bench.crash()?;
    assert_eq!(subscriber.join().ok(), Some(1));
    poll_result(DEADLINE, "the agent", || bench.restart())?;
    lab.finish()
}

/// Verifies: of two subscribers the one that keeps silent is named, and not the other; with `warn` the pod starts and
/// status names it; a DEL waits for neither, far within the gate's patience.
#[test]
fn a_silent_subscriber_is_named_and_holds_no_del_back() -> Result<()> {
    let lab = Lab::new("agent-silent-subscriber")?;
    let gate = |mode: &str, wait: Duration| {
        let wait = wait.as_millis();
        format!("[gates.subscribers]\nmode = \"{mode}\"\nwait_ms = {wait}\nnames = [\"authz\", \"audit\"]\n")
    };
    let bench = Bench::start_with(&lab, &gate("enforce", Duration::from_secs(1)))?;
    bench.netns("p")?;
    let subscriber = subscribe(&bench)?;
    let error = refused(&bench, "early")?;
    let wanted = "by subscriber audit (it has acknowledged nothing since the agent began)";
    assert!(error.code == code::TRY_AGAIN && error.message.ends_with(wanted), "{error}");
    assert!(error.details.contains("gates.subscribers"), "{}", error.details);
    bench.wait_no_links()?;

    let patience = Duration::from_secs(5);
    bench.reconfigure(&gate("warn", patience))?;
    subscriber.join().map_err(|_| anyhow::anyhow!("the subscriber panicked"))?;
    bench.attach("pod", "p")?;
    let errors = bench.status()?.last_errors;
    let told =
        errors.iter().map(|error| format!("{error:?}")).find(|error| error.contains("gate subscribers"));
    let told = told.with_context(|| format!("{errors:?}"))?;
    assert!(told.contains("authz (it has") && told.contains("audit (it has"), "{told}");
    assert!(metrics(&bench)?.contains("turnpike_gates_total{gate=\"subscribers\",outcome=\"warned\"} 1"));
    let began = Instant::now();
    bench.del("pod")?;
    assert!(began.elapsed() < patience, "a DEL took {:?}", began.elapsed());
    bench.wait_no_links()?;
    lab.finish()
}

pub(crate) const TWO_ADDRESSES: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: IPPool
metadata: {name: v4}
spec: {cidr: 10.244.0.0/16, blockSize: 31}
---
apiVersion: turnpike.io/v1alpha1
kind: IPBlock
metadata: {name: n1-v4}
spec: {cidr: 10.244.1.2/31, pool: v4, node: n1}
";

/// Verifies: where agent.toml says so, a released address goes to nobody before the named subscriber has acknowledged its
/// release; `ipam show` and the ADD that finds no other address say so; that holds over a restart of the agent, after
/// which any acknowledgement means that the subscriber has listed; and an operator can free the address.
#[test]
fn a_released_address_waits_for_those_who_grant_access_by_it() -> Result<()> {
    let lab = Lab::new("agent-hold")?;
    let hold = "[gates.subscribers]\nnames = [\"authz\"]\nhold_released_seconds = 3600\n";
    let bench = Bench::start_with(&lab, hold)?;
    ["p", "q"].iter().try_for_each(|name| bench.netns(name))?;
    bench.set_resource("pools.yaml", TWO_ADDRESSES)?;
    bench.wait_status("two addresses", |status| {
        ensure!(status.blocks.iter().map(|block| block.total).sum::<u64>() == 2, "{:?}", status.blocks);
        Ok(())
    })?;
    let program = binary("turnpike")?.display().to_string();
    let ipam = |words: &[&str]| bench.node.text(&[&[program.as_str(), "ipam"], words].concat());
    let acknowledge = || -> Result<()> {
        let list: Value = serde_json::from_str(ipam(&["events"])?.lines().next().unwrap_or_default())?;
        let version = list["resourceVersion"].to_string();
        ipam(&["acknowledge", "authz", &version]).map(drop)
    };
    let refused = || -> Result<()> {
        let error = bench.add(bench.add_request("next", "p"))?.err().context("it got an address")?;
        ensure!(error.code == code::EXHAUSTED && error.message.contains("1 in cooldown"), "{error}");
        bench.wait_no_links_but(1)
    };
    bench.attach("kept", "q")?;
    let first = bench.attach("first", "p")?;
    let address = first.addresses[0].to_string();
    bench.del("first")?;
    refused()?;
    let shown = ipam(&["show"])?;
    assert!(shown.contains("unacknowledged"), "{shown}");
    acknowledge()?;
    assert_eq!(bench.attach("second", "p")?.addresses, first.addresses);
    bench.del("second")?;

    bench.crash_and_restart()?;
    refused()?;
    acknowledge()?;
    assert_eq!(bench.attach("third", "p")?.addresses, first.addresses);
    bench.del("third")?;
    refused()?;
    ipam(&["release", &address])?;
    assert_eq!(bench.attach("fourth", "p")?.addresses, first.addresses);
    ["fourth", "kept"].iter().try_for_each(|name| bench.del(name))?;
    lab.finish()
}
