//! What an operator asks and does with `turnpike` on a node: pods, addresses, pools, the host's mistakes.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::turnpike_node::{RESOURCES, TurnpikeConfig, TurnpikeNode};
use turnpike_testbed::{Lab, Node, PodSpec, binary, poll_result};

use super::{DEADLINE, NODE, start, wire};

/// Runs `turnpike`; its exit code and what it printed, errors included.
fn turnpike(node: &Node, args: &[&str]) -> Result<(i32, String)> {
    let program = binary("turnpike")?;
    let mut argv = vec![program.to_string_lossy().into_owned()];
    argv.extend(args.iter().map(|&arg| arg.to_owned()));
    let output = node.run_unchecked(&argv)?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code().context("killed by a signal")?, String::from_utf8(text)?))
}

/// The same, which has to succeed.
fn good(node: &Node, args: &[&str]) -> Result<String> {
    let (code, text) = turnpike(node, args)?;
    ensure!(code == 0, "turnpike {args:?} ended with {code}:\n{text}");
    Ok(text)
}

/// Verifies: `pods`, `ipam show`, `ipam check`, `why` and `ipam release` say of a pod what is so, before and after its
/// end, and refuse what would hurt it.
#[test]
fn a_pod_is_explained_and_its_address_kept_until_it_is_gone() -> Result<()> {
    let lab = Lab::new("cni-operator")?;
    let (n1, _outside) = wire(&lab)?;
    let mut config = super::config();
    config.agent = "[ipam]\ncooldown_seconds = 3600\n".parse()?;
    let node = TurnpikeNode::start(&n1, &config)?;
    let mut pod = node.run_pod(PodSpec::busybox("web").bandwidth("10M", "20M").host_port(18080, 80))?;
    let (v4, v6) = (pod.ipv4()?.to_string(), pod.ipv6()?.to_string());
    let pods = good(&n1, &["pods"])?;
    for part in ["default/web", &v4, "TCP 18080→80", "10M"] {
        assert!(pods.contains(part), "{part} is not in:\n{pods}");
    }
    let (_, why) = turnpike(&n1, &["why", "default/web"])?;
    let words =
        ["it was handed out 1 times", "receives at most 10000000", "TCP port 18080", "routes", "IPBlock/"];
    for part in words {
        assert!(why.contains(part), "{part} is not in:\n{why}");
    }
    assert!(!why.contains("NOT"), "{why}");
    assert!(turnpike(&n1, &["why", &v6])?.1.contains("default/web"));
    assert!(good(&n1, &["ipam", "check"])?.starts_with("good"));
    let (code, refusal) = turnpike(&n1, &["ipam", "release", &v4])?;
    assert!(code != 0 && refusal.contains("default/web"), "{refusal}");
    pod.remove()?;

    let book: Value = serde_json::from_str(&good(&n1, &["-o", "json", "ipam", "show"])?)?;
    let state_of = |book: &Value, address: &str| {
        let addresses = book["addresses"].as_array().cloned().unwrap_or_default();
        addresses.iter().find(|entry| entry["address"] == address).map(|entry| entry["state"].clone())
    };
    assert_eq!(state_of(&book, &v4), Some("resting".into()), "{book}");
    good(&n1, &["ipam", "release", &v4])?;
    node.kill_agent()?;
    node.start_agent()?;
    let book: Value = serde_json::from_str(&good(&n1, &["-o", "json", "ipam", "show"])?)?;
    assert_eq!(state_of(&book, &v4), Some("free".into()), "its rest stays ended: {book}");
    assert_eq!(state_of(&book, &v6), Some("resting".into()), "the other's does not: {book}");
    let log = n1.read_file("/var/lib/turnpike/audit.log")?;
    assert!(log.contains("ipam release") && log.contains(&v4), "{log}");
    assert!(good(&n1, &["ipam", "gc", "--dry-run"])?.contains("nothing to reclaim"));
    lab.finish()
}

/// Verifies: `pool drain --watch` writes the state into the operator's own file, comments kept, follows the pool until
/// its last pod is gone; and refuses to leave new pods without an address.
#[test]
fn a_pool_is_drained_by_one_command_that_stays_until_it_is_empty() -> Result<()> {
    let lab = Lab::new("cni-drain")?;
    let (n1, _outside) = wire(&lab)?;
    let pool = |name: &str, range: &str, block: &str| {
        format!(
            "# {name}: asked for by the shop\napiVersion: turnpike.io/v1alpha1\nkind: IPPool\n\
             metadata: {{ name: {name} }}\nspec:\n  cidr: {range} # never 10.51\n\
             ---\napiVersion: turnpike.io/v1alpha1\nkind: IPBlock\nmetadata: {{ name: {name}-n1 }}\n\
             spec: {{ cidr: {block}, pool: {name}, node: n1 }}\n"
        )
    };
    let config =
        TurnpikeConfig::default().with_resource("old.yaml", &pool("old", "10.50.0.0/16", "10.50.1.0/26"));
    let node = TurnpikeNode::start(&n1, &config)?;
    let mut first = node.run_pod(PodSpec::busybox("first"))?;
    let (code, refusal) = turnpike(&n1, &["pool", "drain", "old"])?;
    assert!(code != 0 && refusal.contains("--force"), "{refusal}");
    node.set_resource("new.yaml", &pool("new", "10.60.0.0/16", "10.60.1.0/26"))?;
    node.wait_status("the new pool", |status| {
        ensure!(status.pools.len() == 2, "{:?}", status.pools);
        Ok(())
    })?;
    let mut command = n1.command(binary("turnpike")?)?;
    command.args(["pool", "drain", "old", "--watch"]);
    let watch = n1.spawn("drain", command)?;
    poll_result(DEADLINE, "the pool to drain", || {
        ensure!(watch.log().contains("default/first"), "{}", watch.log());
        Ok(())
    })?;
    let file = n1.read_file(format!("{RESOURCES}/old.yaml"))?;
    assert!(file.contains("# never 10.51") && file.contains("state: Draining"), "{file}");
    let mut second = node.run_pod(PodSpec::busybox("second"))?;
    assert!(second.ipv4()?.to_string().starts_with("10.60.1."), "{:?}", second.ips());
    first.exec(&["ping", "-c", "1", "-W", "5", NODE[0]])?;
    assert!(watch.try_wait()?.is_none(), "it stays while a pod lives there");
    first.remove()?;
    assert!(watch.wait_exit(DEADLINE)?.success(), "{}", watch.log());
    assert!(watch.log().contains("no pod of this node"), "{}", watch.log());
    second.remove()?;
    lab.finish()
}

/// Verifies: the doctor's eyes: it reads this very host, and sees a conflist that comes first, a firewall that drops
/// and a foreign route with our protocol number once they are there.
#[test]
fn the_doctor_sees_what_is_wrong_with_a_host() -> Result<()> {
    let lab = Lab::new("cni-doctor")?;
    let (node, _outside) = start(&lab)?;
    let n1 = node.node();
    let bad = || -> Result<Vec<String>> {
        let checks: Vec<Value> = serde_json::from_str(&turnpike(n1, &["-o", "json", "doctor"])?.1)?;
        let unknown = checks.iter().filter(|check| check["verdict"] == "unknown").count();
        ensure!(unknown == 0 && checks.len() > 20, "{checks:?}");
        let bad = checks.iter().filter(|check| check["verdict"] == "bad");
        Ok(bad.filter_map(|check| check["name"].as_str().map(str::to_owned)).collect())
    };
    let none: [String; 0] = [];
    assert_eq!(bad()?, none, "{}", turnpike(n1, &["doctor"])?.1);
    n1.write_file("/etc/cni/net.d/05-other.conf", r#"{"type":"bridge","name":"x"}"#)?;
    n1.run(&["nft", "add", "table", "ip", "filter"])?;
    n1.run(&[
        "sh",
        "-c",
        "nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
    ])?;
    n1.run(&["ip", "route", "add", "192.0.2.0/24", "via", super::OUTSIDE[0], "proto", "201"])?;
    assert_eq!(bad()?, ["FORWARD policy", "route protocol", "CNI conflist"]);
    let (code, text) = turnpike(n1, &["doctor"])?;
    assert!(code != 0 && text.contains("05-other.conf") && text.contains("iptables -I FORWARD"), "{text}");
    lab.finish()
}

/// Verifies: a subscriber gets the list, then each pod's coming and going, and can go on from where it was; a version
/// of an earlier agent is too old.
#[test]
fn a_subscriber_hears_of_every_address_given_and_returned() -> Result<()> {
    let lab = Lab::new("cni-events")?;
    let (node, _outside) = start(&lab)?;
    let n1 = node.node();
    let mut first = node.run_pod(PodSpec::busybox("first"))?;
    let mut command = n1.command(binary("turnpike")?)?;
    command.args(["ipam", "events", "--watch"]);
    let watch = n1.spawn("events", command)?;
    let heard = |kind: &str, pod: &str| {
        poll_result(DEADLINE, &format!("{kind} {pod}"), || {
            let log = watch.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found = lines.filter(|line| line["type"] == kind).find(|line| line.to_string().contains(pod));
            found.with_context(|| log.clone())
        })
    };
    let list = heard("list", "first")?;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    let mut second = node.run_pod(PodSpec::busybox("second"))?;
    let assigned = heard("assigned", "second")?;
    assert!(assigned.to_string().contains(&second.ipv6()?.to_string()), "{assigned}");
    first.remove()?;
    heard("released", "first")?;
    let since = assigned["resourceVersion"].to_string();
    let later = good(n1, &["ipam", "events", "--since", &since])?;
    assert!(later.contains("released") && !later.contains("second"), "{later}");
    node.kill_agent()?;
    node.start_agent()?;
    assert!(good(n1, &["ipam", "events", "--since", &since])?.contains("too-old"));
    second.remove()?;
    lab.finish()
}
