//! A node's life: installed, with pods, its daemons restarted and stopped; and the unit files themselves.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use turnpike_testbed::speakers::{Speaker as _, wait_best};
use turnpike_testbed::{Lab, poll_result};

use super::DEADLINE;
use crate::site::{BLOCKS, NODE, Site};

const DAEMONS: [&str; 3] = ["turnpike-agent", "turnpike-bgpd", "turnpike-bfdd"];

/// The bits of /proc/PID/status are numbered as in `linux/capability.h`.
const CAPABILITIES: [(&str, u64); 9] = [
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_RESOURCE", 24),
    ("CAP_PERFMON", 38),
];
const CAP_BPF: (&str, u64) = ("CAP_BPF", 39);

/// What a process may do, and that it cannot get more.
fn confined(site: &Site, unit: &str) -> Result<BTreeSet<&'static str>> {
    let pid = site.unit(unit, "MainPID")?;
    let status = site.machine.text(&["cat", &format!("/proc/{pid}/status")])?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.trim().to_owned()).with_context(|| format!("{name} of {unit}"))
    };
    ensure!(field("NoNewPrivs:")? == "1" && field("Seccomp:")? == "2", "{status}");
    let bounding = u64::from_str_radix(&field("CapBnd:")?, 16)?;
    let all = || CAPABILITIES.into_iter().chain([CAP_BPF]);
    let known = all().fold(0, |bits, (_, bit)| bits | 1 << bit);
    ensure!(bounding & !known == 0, "{unit} may do more than any of ours: {bounding:x}");
    Ok(all().filter(|(_, bit)| bounding >> bit & 1 == 1).map(|(name, _)| name).collect())
}

/// Verifies: a node installed by the commands of README.md is at work when the last of them returns: doctor has nothing to
/// say, both reflectors have the block; ADD and DEL through the installed plugin work under the units' restrictions, with
/// eBPF, nftables, limits and TOA's hooks, and with a gate that asks the gateway, as do a trace and the support bundle; pods'
/// traffic outlives a restart and the absence of either daemon; a stop ends
/// in time; the processes have the capabilities of their units and no others.
#[test]
fn a_node_installed_as_the_readme_says_serves_pods() -> Result<()> {
    let lab = Lab::new("systemd-node")?;
    let (site, answers) = Site::install(&lab)?;
    let said = answers.join("\n");
    ensure!(said.contains(" 0 bad, 0 to think about"), "turnpike doctor:\n{said}");
    ensure!(said.contains("10-turnpike.conflist: written") && said.contains("agent 0"), "{said}");
    for reflector in &site.reflectors {
        reflector.wait_established(NODE.into())?;
        wait_best(reflector, BLOCKS[0].parse()?)?;
    }
    let pod = site.add("p1")?;
    site.reaches(&pod)?;
    site.shell("nft list table inet turnpike")?;
    let limits = site.shell("turnpike bw show p1")?;
    ensure!(limits.contains("100Mbit/s") && limits.contains("runtimeConfig.bandwidth"), "{limits}");
    let hooks = site.shell("turnpike toa check default/p1")?;
    ensure!(hooks.contains("attached: 3 of 3 programs to /sys/fs/cgroup/kubepods.slice"), "{hooks}");

    let agent: BTreeSet<&str> = confined(&site, "turnpike-agent")?;
    ensure!(!agent.contains("CAP_SETPCAP") && agent.contains("CAP_NET_ADMIN"), "{agent:?}");
    let bgpd = confined(&site, "turnpike-bgpd")?;
    ensure!(bgpd == ["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW"].into(), "{bgpd:?}");
    let bfdd = confined(&site, "turnpike-bfdd")?;
    ensure!(bfdd == ["CAP_NET_RAW"].into(), "{bfdd:?}");

    // What pods are made to wait for, with the next agent.
    let enforce = "/^.gates.gateway/,/^mode/ s/^mode = .*/mode = \"enforce\"/";
    site.shell(&format!(
        "sed -i '{enforce}' /etc/turnpike/agent.toml && grep -q '^mode = .enforce' /etc/turnpike/agent.toml"
    ))?;
    for unit in DAEMONS {
        let before = site.unit(unit, "MainPID")?;
        site.machine.run(&["systemctl", "restart", unit])?;
        ensure!(site.unit(unit, "MainPID")? != before, "{unit} was not restarted");
        site.reaches(&pod)?;
    }
    // `restart` returned when the agent served again.
    let status = site.status()?;
    ensure!(status["agent"]["pods"][0]["state"] == "ready", "{status:#}");
    let second = site.add("p2")?;
    site.reaches(&second)?;
    let traced = site.shell("turnpike trace p2 10.1.3.1")?;
    ensure!(traced.contains("ARRIVES") || traced.contains("LEAVES"), "{traced}");
    site.shell("turnpike support-bundle -f /run/bundle.tar.gz && tar -tzf /run/bundle.tar.gz")?;

    // Both daemons change files of the operator's.
    site.shell("(cat /etc/turnpike/bgpd.toml; printf '[[network]]\\nprefix = \"10.9.0.1/32\"\\n') > /run/changed.toml")?;
    site.shell("turnpike bgp apply /run/changed.toml --confirm 5m && turnpike bgp confirm")?;
    site.shell("cmp /run/changed.toml /etc/turnpike/bgpd.toml && turnpike bgp mrt dump /run/table.mrt")?;
    site.shell(
        "turnpike pool drain default-v4 --force && grep -r 'state: Draining' /etc/turnpike/resources",
    )?;

    site.machine.run(&["systemctl", "stop", "turnpike-agent"])?;
    ensure!(site.unit("turnpike-agent", "ActiveState")? == "inactive", "it did not stop in order");
    site.reaches(&[pod, second].concat())?;
    site.machine.run(&["systemctl", "start", "turnpike-agent"])?;
    for name in ["p1", "p2"] {
        site.cni("DEL", name)?;
        poll_result(DEADLINE, "the pod without a link", || {
            let left = site.machine.text(&["ip", "-n", name, "-o", "link", "show"])?;
            ensure!(!left.contains("eth0"), "{left}");
            Ok(())
        })?;
    }
    let status = site.status()?;
    ensure!(status["agent"]["pods"] == serde_json::json!([]), "{status:#}");
    for reflector in &site.reflectors {
        reflector.wait_established(NODE.into())?;
        wait_best(reflector, BLOCKS[0].parse()?)?;
    }
    lab.finish()
}

/// Verifies: `systemd-analyze verify` finds nothing wrong with the units, and the exposure that it computes for each daemon
/// is no worse than docs/diagnosis.md gives; a unit whose daemon cannot start says so to `systemctl start`.
#[test]
fn the_units_are_in_order_and_as_confined_as_documented() -> Result<()> {
    let lab = Lab::new("systemd-units")?;
    let (site, _) = Site::install(&lab)?;
    let verified = site.machine.run(&[
        "bash",
        "-ec",
        "systemd-analyze verify /etc/systemd/system/turnpike-*.service",
    ])?;
    let complaints = String::from_utf8([verified.stdout, verified.stderr].concat())?;
    ensure!(complaints.trim().is_empty(), "{complaints}");
    for unit in DAEMONS {
        let path = format!("/etc/systemd/system/{unit}.service");
        let table = site.shell(&format!("systemd-analyze security --no-pager --offline=yes {path}"))?;
        let level =
            table.lines().find_map(|line| line.split_once(" exposure level for ")).context("a level")?;
        let level: f64 = level.1.split_whitespace().nth(1).unwrap_or_default().parse()?;
        let row = format!("| `{unit}` | ");
        let told =
            include_str!("../../../docs/diagnosis.md").lines().find_map(|line| line.strip_prefix(&row));
        let told: f64 = told.context(row)?.trim_end_matches(" |").parse()?;
        ensure!(level <= told, "{unit}: {level}, and docs/diagnosis.md says {told}\n{table}");
    }
    site.machine.node().write_file("/etc/turnpike/bgpd.toml", "asn = \"sixty-five\"\n")?;
    let failed = site.machine.run_unchecked(&["systemctl", "restart", "turnpike-bgpd"])?;
    ensure!(!failed.status.success(), "systemctl takes a daemon that cannot start for started");
    lab.finish()
}
