//! firewalld on the node: a real one, on a bus of its own in the node's namespaces.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::containerd::Pod;
use turnpike_testbed::{Lab, Node, PodSpec, Process, binary, poll_result};

use super::{DEADLINE, NODE, OUTSIDE, host, start};

const BUS: &str = "unix:path=/run/lab-bus";
const BUS_CONFIG: &str = r#"<busconfig>
  <type>system</type><listen>unix:path=/run/lab-bus</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
    <allow send_type="method_call"/>
  </policy>
</busconfig>
"#;

/// The commands that docs/cni.md gives to operators, word for word.
fn documented() -> Vec<Vec<&'static str>> {
    let lines = include_str!("../../../docs/cni.md").lines().filter(|line| line.starts_with("firewall-cmd "));
    lines.map(|line| line.split_whitespace().collect()).collect()
}

fn firewall(node: &Node, command: &[&str]) -> Result<String> {
    let bus = format!("DBUS_SYSTEM_BUS_ADDRESS={BUS}");
    let argv: Vec<&str> = ["env", &bus].into_iter().chain(command.iter().copied()).collect();
    node.text(&argv)
}

/// firewalld as Debian configures it, and its bus.
fn run_firewalld(node: &Node) -> Result<(Process, Process)> {
    node.write_file("/run/lab-bus.conf", BUS_CONFIG)?;
    let mut bus = node.command("dbus-daemon")?;
    bus.args(["--config-file=/run/lab-bus.conf", "--nofork", "--nopidfile"]);
    let bus = node.spawn("dbus", bus)?;
    poll_result(DEADLINE, "the bus", || node.run(&["test", "-S", "/run/lab-bus"]))?;
    let mut daemon = node.command("/usr/sbin/firewalld")?;
    daemon.arg("--nofork").env("DBUS_SYSTEM_BUS_ADDRESS", BUS);
    let daemon = node.spawn("firewalld", daemon)?;
    poll_result(DEADLINE, "firewalld", || firewall(node, &["firewall-cmd", "--state"]))?;
    Ok((bus, daemon))
}

fn wget(place: &Node, address: IpAddr, port: u16) -> Result<()> {
    let url = format!("http://{}:{port}/", host(address));
    place.run(&["timeout", "5", "busybox", "wget", "-qO-", &url]).map(drop)
}

fn pings(pod: &Pod, address: &str) -> Result<bool> {
    Ok(pod.exec_unchecked(&["ping", "-c", "1", "-W", "5", address], DEADLINE)?.exit_code == 0)
}

/// What `turnpike doctor` says of firewalld.
fn doctor(node: &Node) -> Result<(String, String)> {
    let bus = format!("DBUS_SYSTEM_BUS_ADDRESS={BUS}");
    let program = binary("turnpike")?.display().to_string();
    // It ends with 1 when something is bad, and a laboratory's node is short of several things.
    let output = node.run_unchecked(&["env", &bus, &program, "doctor", "-o", "json"])?;
    let checks: Value = serde_json::from_slice(&output.stdout)?;
    let checks = checks.as_array().context("no list")?;
    let check = checks.iter().find(|check| check["name"] == "firewalld").context("no such check")?;
    Ok((check["verdict"].to_string(), check.to_string()))
}

/// What must work: pod to pod, to the node and to the outside; the outside to the pod and to its host port.
fn all_reach(outside: &Node, a: &Pod, b: &Pod) -> Result<()> {
    for ((to, node), outer) in [b.ipv4()?, b.ipv6()?].into_iter().zip(NODE).zip(OUTSIDE) {
        for address in [to.to_string().as_str(), node, outer] {
            ensure!(pings(a, address)?, "the pod does not reach {address}");
        }
        poll_result(DEADLINE, "the pod, from outside", || wget(outside, to, 80))?;
        poll_result(DEADLINE, "its host port", || wget(outside, node.parse()?, 18080))?;
    }
    Ok(())
}

/// Verifies: with firewalld as it comes, pods do not reach each other and nobody outside reaches them, while host ports
/// work; the commands of docs/cni.md open all, IPv4 and IPv6; doctor says both, and that a firewalld that was stopped is no concern; and reloading firewalld takes none of our rules.
#[test]
fn pods_work_beside_firewalld_with_the_documented_commands() -> Result<()> {
    let lab = Lab::new("cni-firewalld")?;
    let (turnpike, outside) = start(&lab)?;
    let node = turnpike.node();
    let mut a = turnpike.run_pod(PodSpec::nginx("a"))?;
    let mut b = turnpike.run_pod(PodSpec::nginx("b").host_port(18080, 80))?;
    all_reach(&outside, &a, &b)?;
    let ours = || node.text(&["nft", "-s", "list", "table", "inet", "turnpike"]);
    let before = ours()?;

    let daemons = run_firewalld(node)?;
    firewall(node, &["firewall-cmd", "--zone=public", "--change-interface=eth0"])?;
    for to in [b.ipv4()?, b.ipv6()?] {
        ensure!(!pings(&a, &to.to_string())?, "firewalld lets pods reach each other by itself");
        ensure!(wget(&outside, to, 80).is_err(), "firewalld lets the outside in by itself");
    }
    for address in NODE {
        poll_result(DEADLINE, "a host port", || wget(&outside, address.parse()?, 18080))?;
    }

    let (verdict, words) = doctor(node)?;
    ensure!(verdict.contains("bad") && words.contains("10.244."), "{words}");

    let commands = documented();
    ensure!(commands.len() > 5, "docs/cni.md tells no commands: {commands:?}");
    for command in &commands {
        firewall(node, command).with_context(|| format!("{command:?} of docs/cni.md"))?;
    }
    all_reach(&outside, &a, &b)?;
    assert_eq!(ours()?, before);
    let (verdict, words) = doctor(node)?;
    ensure!(verdict.contains("good"), "{words}");
    firewall(node, &["firewall-cmd", "--reload"])?;
    firewall(node, &["firewall-cmd", "--complete-reload"])?;
    assert_eq!(ours()?, before, "after reloads");
    all_reach(&outside, &a, &b)?;
    a.remove()?;
    b.remove()?;
    let (bus, daemon) = daemons;
    drop(daemon);
    // A package's script or a crash leaves it behind.
    node.run(&["mkdir", "-p", "/run/firewalld"])?;
    let (verdict, words) = doctor(node)?;
    ensure!(verdict.contains("good"), "one that does not run: {words}");
    drop(bus);
    lab.finish()
}
