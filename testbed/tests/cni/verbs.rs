//! The plugin called by hand, for the verbs that containerd 1.6 never calls.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use turnpike_testbed::containerd::{CNI_BIN_DIR, CNI_CONF_DIR};
use turnpike_testbed::turnpike_node::TurnpikeNode;
use turnpike_testbed::{Lab, PodSpec};

use super::start;

const HEARTBEAT: &str = "/run/turnpike/agent.alive";

/// Runs the plugin with an environment and a stdin; gives its exit code and what it printed, as JSON.
pub(super) fn plugin(turnpike: &TurnpikeNode, env: &[(&str, &str)], stdin: &Value) -> Result<(i32, Value)> {
    turnpike.node().write_file("/run/cni-stdin", stdin.to_string())?;
    let mut argv = vec!["env".to_owned(), "-i".to_owned(), format!("CNI_PATH={CNI_BIN_DIR}")];
    argv.extend(env.iter().map(|(key, value)| format!("{key}={value}")));
    argv.extend(
        ["sh", "-c", &format!("exec {CNI_BIN_DIR}/turnpike-cni < /run/cni-stdin")].map(str::to_owned),
    );
    let output = turnpike.node().run_unchecked(&argv)?;
    let text = String::from_utf8(output.stdout)?;
    let json =
        if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).context(text)? };
    Ok((output.status.code().context("killed by a signal")?, json))
}

/// The plugin's configuration as a runtime hands it over, at one version.
pub(super) fn stdin(turnpike: &TurnpikeNode, version: &str) -> Result<Value> {
    let conflist: Value =
        serde_json::from_str(&turnpike.node().read_file(format!("{CNI_CONF_DIR}/10-turnpike.conflist"))?)?;
    let mut config = conflist["plugins"][0].clone();
    config["name"] = conflist["name"].clone();
    config["cniVersion"] = json!(version);
    Ok(config)
}

/// The environment of a call about interface eth0 in the namespace `/run/netns/NAME`, of a container of that name.
pub(super) fn call(verb: &'static str, name: &'static str) -> [(&'static str, &'static str); 4] {
    let netns = match name {
        "p1" => "/run/netns/p1",
        "p2" => "/run/netns/p2",
        _ => "",
    };
    [("CNI_COMMAND", verb), ("CNI_CONTAINERID", name), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", netns)]
}

/// Verifies: VERSION lists every dialect; STATUS is good while the agent serves and while it is being restarted, and
/// code 50 once it has been away for long.
#[test]
fn version_needs_no_agent_and_status_tells_of_it() -> Result<()> {
    let lab = Lab::new("cni-verbs")?;
    let (turnpike, _outside) = start(&lab)?;
    let (code, answer) = plugin(&turnpike, &[("CNI_COMMAND", "VERSION")], &json!({ "cniVersion": "1.1.0" }))?;
    assert_eq!(code, 0);
    let versions = answer["supportedVersions"].as_array().context("supportedVersions")?;
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        assert!(versions.contains(&json!(version)), "{versions:?}");
    }
    let status = [("CNI_COMMAND", "STATUS")];
    let config = stdin(&turnpike, "1.1.0")?;
    assert_eq!(plugin(&turnpike, &status, &config)?, (0, Value::Null));
    turnpike.kill_agent()?;
    assert_eq!(
        plugin(&turnpike, &status, &config)?,
        (0, Value::Null),
        "a restart is no reason to evict pods"
    );
    // As when the clock is set, forwards or back, while the agent is down.
    for time in ["1 year", "1 year ago"] {
        turnpike.node().run(&["touch", "-d", time, HEARTBEAT])?;
        assert_eq!(plugin(&turnpike, &status, &config)?, (0, Value::Null), "{time}");
    }
    let alive = turnpike.node().read_file(HEARTBEAT)?;
    let (pid, stamp) = alive.trim().split_once(' ').context("a process ID and a stamp")?;
    let earlier = stamp.parse::<u64>()?.saturating_sub(60_000_000_000);
    turnpike.node().write_file(HEARTBEAT, format!("{pid} {earlier}\n"))?;
    let (code, answer) = plugin(&turnpike, &status, &config)?;
    assert_ne!(code, 0);
    assert_eq!(answer["code"], 50, "{answer}");
    lab.finish()
}

/// Verifies: CHECK agrees with what ADD made, and names what somebody took away.
#[test]
fn check_notices_a_missing_route() -> Result<()> {
    let lab = Lab::new("cni-check")?;
    let (turnpike, _outside) = start(&lab)?;
    let pod = turnpike.run_pod(PodSpec::busybox("checked"))?;
    let netns = pod.netns_path()?.to_string_lossy().into_owned();
    let env = [
        ("CNI_COMMAND", "CHECK"),
        ("CNI_CONTAINERID", pod.sandbox_id()),
        ("CNI_NETNS", &netns),
        ("CNI_IFNAME", "eth0"),
    ];
    let mut config = stdin(&turnpike, "1.0.0")?;
    let ips: Vec<Value> = pod
        .ips()
        .iter()
        .map(|ip| json!({ "address": format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }), "interface": 1 }))
        .collect();
    let host_link = turnpike.pod_status(&pod)?.context("the agent knows the pod")?.host_link;
    config["prevResult"] = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": host_link }, { "name": "eth0", "sandbox": netns }],
        "ips": ips,
    });
    assert_eq!(plugin(&turnpike, &env, &config)?, (0, Value::Null));
    let mut spoil = pod.command("ip")?;
    spoil.args(["route", "del", "default"]);
    turnpike.node().spawn("spoil", spoil)?.wait_exit(super::DEADLINE)?;
    let (code, answer) = plugin(&turnpike, &env, &config)?;
    assert_ne!(code, 0);
    assert!(answer["msg"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    drop(pod);
    lab.finish()
}

/// Verifies: GC without a list of valid attachments (as cnitool and an idle CRI-O send it) deletes nothing, and one
/// with a list keeps what is in it.
#[test]
fn gc_without_a_list_deletes_nothing() -> Result<()> {
    let lab = Lab::new("cni-gc")?;
    let (turnpike, _outside) = start(&lab)?;
    let mut pod = turnpike.run_pod(PodSpec::busybox("valid"))?;
    let valid = json!([{ "containerID": pod.sandbox_id(), "ifname": "eth0" }]);
    for list in [None, Some(Value::Null), Some(valid)] {
        let mut config = stdin(&turnpike, "1.1.0")?;
        if let Some(list) = list {
            config["cni.dev/valid-attachments"] = list;
        }
        assert_eq!(plugin(&turnpike, &[("CNI_COMMAND", "GC")], &config)?, (0, Value::Null));
        assert!(turnpike.pod_status(&pod)?.is_some(), "GC deleted a living pod's record");
        pod.exec(&["ping", "-c", "1", "-W", "5", super::NODE[0]])?;
    }
    pod.remove()?;
    lab.finish()
}
