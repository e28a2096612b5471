//! ADD, CHECK and GC where they are at odds with what they find.

use anyhow::{Context as _, Result, bail, ensure};
use turnpike_agent_api::{Health, code};
use turnpike_testbed::{Lab, binary, poll_result};

use super::bench::{Bench, DEADLINE};

/// Verifies: an ADD that fails half-way leaves no address, link or record in force behind.
#[test]
fn an_add_that_fails_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new("agent-rollback")?;
    let bench = Bench::start(&lab)?;
    bench.netns("p")?;
    bench.inside("p", &["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "foreign"])?;
    let error = bench.add(bench.add_request("c", "p"))?.expect_err("eth0 is there already");
    assert_eq!(error.code, code::ALREADY_ATTACHED, "{error}");
    bench.wait_all_free()?;
    bench.inside("p", &["ip", "link", "show", "foreign"]).context("the foreign link is still there")?;
    bench.inside("p", &["ip", "link", "del", "eth0"])?;
    let reply = bench.attach("c", "p")?;
    assert_eq!(reply.addresses.len(), 2);
    bench.del("c")?;
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: the same container in another namespace is refused while the first attachment lives, and gets its
/// address again once that is gone.
#[test]
fn a_container_is_not_attached_twice_while_it_lives() -> Result<()> {
    let lab = Lab::new("agent-twice")?;
    let bench = Bench::start(&lab)?;
    ["first", "second"].iter().try_for_each(|name| bench.netns(name))?;
    let before = bench.attach("c", "first")?;
    let error = bench.add(bench.add_request("c", "second"))?.expect_err("it is attached already");
    assert_eq!(error.code, code::ALREADY_ATTACHED, "{error}");
    bench.node.run(&["ip", "netns", "del", "first"])?;
    poll_result(DEADLINE, "the namespace's end", || {
        let links = bench.links()?;
        ensure!(links.is_empty(), "{links:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    assert_eq!(bench.attach("c", "second")?.addresses, before.addresses);
    bench.del("c")?;
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: a limit that is not understood fails the ADD by name, and makes nothing.
#[test]
fn a_limit_that_is_not_understood_starts_no_pod() -> Result<()> {
    let lab = Lab::new("agent-bad-limit")?;
    let bench = Bench::start(&lab)?;
    bench.netns("p")?;
    let mut request = bench.add_request("c", "p");
    request.annotations.insert("kubernetes.io/egress-bandwidth".to_owned(), "10MB".to_owned());
    let error = bench.add(request)?.expect_err("10MB is no quantity");
    assert_eq!(error.code, code::INVALID_CONFIG);
    assert!(error.message.contains("kubernetes.io/egress-bandwidth"), "{error}");
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: a ceiling for the node's pods that changes while they run is in force soon, by CHECK's own look at the
/// kernel, and the pod is not disturbed.
#[test]
fn a_limit_changes_while_the_pod_runs() -> Result<()> {
    let lab = Lab::new("agent-live-limit")?;
    let bench = Bench::start(&lab)?;
    bench.netns("p")?;
    let mut request = bench.add_request("c", "p");
    request.annotations.insert("kubernetes.io/ingress-bandwidth".to_owned(), "100M".to_owned());
    bench.add(request)??;
    for (ceiling, wanted) in [("1G", 100_000_000), ("20M", 20_000_000), ("50M", 50_000_000)] {
        let yaml = format!(
            "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: {{name: all}}\n\
             spec: {{limits: {{ingress: {ceiling}}}}}\n"
        );
        bench.set_resource("bandwidth.yaml", &yaml)?;
        bench.wait_status("the limit", |status| {
            let limit = status.pods[0].to_workload;
            ensure!(limit == Some(wanted), "{limit:?}");
            Ok(())
        })?;
        poll_result(DEADLINE, "the kernel to have the limit", || {
            bench.check("c", "p")?.map_err(anyhow::Error::from)
        })
        .context(ceiling)?;
    }
    bench.del("c")?;
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: GC reclaims a pod that the runtime does not name and nobody lives in; one with a process in it is left
/// alone, whoever started it.
#[test]
fn gc_reclaims_the_dead_and_spares_the_living() -> Result<()> {
    let lab = Lab::new("agent-gc")?;
    let bench = Bench::start(&lab)?;
    ["dead", "living", "valid"].iter().try_for_each(|name| bench.netns(name))?;
    ["dead", "living", "valid"].iter().try_for_each(|name| bench.attach(name, name).map(drop))?;
    let mut sleeper = bench.node.command("ip")?;
    sleeper.args(["netns", "exec", "living", "sleep", "1000"]);
    let sleeper = bench.node.spawn("sleeper", sleeper)?;
    poll_result(DEADLINE, "the process in the pod", || {
        let pids = bench.node.text(&["ip", "netns", "pids", "living"])?;
        ensure!(!pids.trim().is_empty(), "none yet");
        Ok::<_, anyhow::Error>(())
    })?;
    bench.gc(&["valid"])?;
    let left: Vec<String> = bench.status()?.pods.into_iter().map(|pod| pod.attachment.container_id).collect();
    assert_eq!(left, ["living", "valid"]);
    sleeper.stop()?;
    bench.gc(&[])?;
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: a node without blocks says that it cannot start pods and what to do; while pods live there a block that
/// disappears is kept, reported, and no reason to call the node NotReady.
#[test]
fn a_block_that_disappears_cuts_no_pod_off() -> Result<()> {
    let lab = Lab::new("agent-no-block")?;
    let bench = Bench::start(&lab)?;
    bench.netns("p")?;
    bench.attach("c", "p")?;
    let pools = bench.resource("pools.yaml")?;
    bench.set_resource("pools.yaml", "")?;
    bench.wait_status("the empty folder", |status| {
        ensure!(status.source.resources == 0, "{:?}", status.source);
        ensure!(status.health == Health::Ready, "{:?}", status.health);
        ensure!(status.blocks.len() == 2, "{:?}", status.blocks);
        ensure!(status.problems.iter().any(|problem| problem.message.contains("restore the IPBlock")));
        Ok(())
    })?;
    bench.inside("p", &["ping", "-c", "1", "-W", "5", "10.1.1.11"])?;
    bench.del("c")?;
    bench.wait_status("the node to be not ready", |status| match &status.health {
        Health::NotReady(reason) if reason.contains("IPPool") && status.blocks.is_empty() => Ok(()),
        other => bail!("{other:?} {:?}", status.blocks),
    })?;
    bench.set_resource("pools.yaml", &pools)?;
    bench.wait_status("the node to be ready", |status| {
        ensure!(status.health == Health::Ready, "{:?}", status.health);
        Ok(())
    })?;
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: a gateway that answers makes `/readyz/network` good; one that is gone makes it bad, and nothing else: the
/// node stays Ready for the runtime.
#[test]
fn a_lost_gateway_is_told_and_evicts_nobody() -> Result<()> {
    let lab = Lab::new("agent-gateway")?;
    let bench = Bench::start(&lab)?;
    let state = |wanted: &str| {
        bench.wait_status(&format!("the gateway to be {wanted}"), |status| {
            let gateway = status.gateways.first().context("no gateway")?;
            ensure!(gateway.state == wanted, "{gateway:?}");
            Ok(())
        })
    };
    let ask = || {
        let url = "http://127.0.0.1:9471/readyz/network";
        bench.node.run_unchecked(&["busybox", "wget", "-qO-", url])
    };
    state("answers")?;
    assert!(ask()?.status.success());
    bench.node.run(&["ip", "route", "replace", "default", "via", "10.1.1.77"])?;
    state("silent")?;
    assert!(!ask()?.status.success());
    assert_eq!(bench.status()?.health, Health::Ready);
    lab.finish()
}

/// ```text
/// n1 eth0 10.1.1.11, fe80::11 ── 10.1.1.1, fe80::1 outside
/// ```
/// Verifies: with pings enforced one gateway that answers is enough, also a link-local one; when none answers pings,
/// `/readyz/network` fails with the reason although all answer ARP and ND, and the node stays Ready for the runtime. With
/// `warn` it is told and does not count; without pings nobody is asked.
#[test]
fn a_gateway_without_pings_is_told_or_counts() -> Result<()> {
    let lab = Lab::new("agent-ping")?;
    let mode = |mode: &str| format!("[readiness]\nping = \"{mode}\"\n");
    let bench = Bench::start_with(&lab, &mode("enforce"))?;
    bench.outside.addr("eth0", "fe80::1/64")?;
    bench.node.addr("eth0", "fe80::11/64")?;
    bench.node.run(&["ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0"])?;
    let wait = |v4: Option<&str>, v6: Option<&str>| {
        bench.wait_status("the gateways' pings", |status| {
            let found = |address: &str| {
                let mut gateways = status.gateways.iter();
                let gateway = gateways.find(|gateway| gateway.address.to_string() == address);
                let gateway = gateway.with_context(|| format!("{address}: {:?}", status.gateways))?;
                ensure!(gateway.state == "answers", "{gateway:?}");
                Ok(gateway.ping.as_ref().map(|ping| ping.state.clone()))
            };
            let (four, six) = (found("10.1.1.1")?, found("fe80::1")?);
            ensure!((four.as_deref(), six.as_deref()) == (v4, v6), "{four:?} {six:?}");
            Ok(())
        })
    };
    let ask = |path: &str| {
        crate::diagnosis::http(&bench.node, &["--net=/proc/self/ns/net"], "127.0.0.1:9471", path)
    };
    let mute = |value: &str, v6: bool| {
        let key = if v6 { "net.ipv6.icmp.echo_ignore_all" } else { "net.ipv4.icmp_echo_ignore_all" };
        bench.outside.sysctl(key, value)
    };
    wait(Some("answers"), Some("answers"))?;
    mute("1", false)?;
    wait(Some("silent"), Some("answers"))?;
    assert!(ask("/readyz/network")?.contains("200 OK"), "one is enough");
    let program = binary("turnpike")?.display().to_string();
    let status = bench.node.text(&[&program, "status"])?;
    assert!(
        status.contains("10.1.1.1 on eth0 does not answer pings") && !status.contains("fe80::1 on"),
        "{status}"
    );
    mute("1", true)?;
    wait(Some("silent"), Some("silent"))?;
    let lost = ask("/readyz/network")?;
    let reason = "no gateway answers pings (readiness.ping = \"enforce\" in agent.toml): 10.1.1.1 on eth0, fe80::1 on eth0";
    assert!(lost.contains("503") && lost.contains(reason), "{lost}");
    assert_eq!(bench.status()?.health, Health::Ready);

    bench.reconfigure(&mode("warn"))?;
    wait(Some("silent"), Some("silent"))?;
    assert!(ask("/readyz/network")?.contains("200 OK"));
    assert!(ask("/readyz")?.contains("gateway 10.1.1.1 on eth0: answers"));
    let scrape = ask("/metrics")?;
    let metric = "turnpike_gateway_answers_ping{link=\"eth0\",address=\"10.1.1.1\"} 0";
    assert!(scrape.contains(metric), "{scrape}");
    bench.reconfigure(&mode("off"))?;
    wait(None, None)?;
    lab.finish()
}
