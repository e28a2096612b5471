//! turnpike-cni beside Debian's `ptp` with `host-local`, called as a runtime calls them.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Row, median, table};
use crate::{Lab, Node, TurnpikeConfig, TurnpikeNode};

/// Alternating runs of each.
const RUNS: usize = 31;

const OURS: &str = r#"{"cniVersion":"1.0.0","name":"turnpike","type":"turnpike-cni"}"#;
/// IPv4 alone: with IPv6 this plugin's ADD waits more than a second for the address to settle.
const PEERS: &str = r#"{"cniVersion":"1.0.0","name":"peer","type":"ptp","ipam":{"type":"host-local","ranges":[[{"subnet":"10.66.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}}"#;

pub(super) fn run() -> Result<()> {
    let lab = Lab::new("bench-cni")?;
    let node = lab.node("n1")?;
    let config = TurnpikeConfig::default().with_blocks(
        "n1",
        ("10.244.0.0/16", "10.244.0.0/26"),
        ("fd00:244::/48", "fd00:244::/122"),
    );
    let turnpike = TurnpikeNode::start(&node, &config)?;
    node.write_file("/tmp/ours.json", OURS)?;
    node.write_file("/tmp/peers.json", PEERS)?;
    let mut runs = Runs::default();
    for number in 0..RUNS {
        let ours = cycle(&node, "/opt/cni/bin/turnpike-cni", "/tmp/ours.json", &format!("o{number}"))?;
        let peer = cycle(&node, "/usr/lib/cni/ptp", "/tmp/peers.json", &format!("p{number}"))?;
        for (verb, (ours, peer)) in ours.into_iter().zip(peer).enumerate() {
            if let Some((all_ours, all_peers)) = runs.verbs.get_mut(verb) {
                all_ours.push(ours);
                all_peers.push(peer);
            }
        }
    }
    let names = ["VERSION", "ADD (ours IPv4 and IPv6, the peer IPv4)", "DEL"];
    let rows: Vec<Row> = names
        .into_iter()
        .zip(runs.verbs)
        .map(|(case, (ours, peer))| Row { case: case.to_owned(), ours: median(ours), peer: median(peer) })
        .collect();
    table(
        &format!("CNI calls, median of {RUNS} alternating runs, shell and fork included"),
        "ptp + host-local",
        &rows,
    );
    drop(turnpike);
    lab.finish()
}

#[derive(Default)]
struct Runs {
    /// VERSION, ADD, DEL: ours and the peer's.
    verbs: [(Vec<Duration>, Vec<Duration>); 3],
}

/// VERSION, ADD and DEL of one new namespace.
fn cycle(node: &Node, plugin: &str, conf: &str, id: &str) -> Result<[Duration; 3]> {
    node.run(&["ip", "netns", "add", id])?;
    let version = call(node, plugin, conf, "VERSION", id)?;
    let add = call(node, plugin, conf, "ADD", id)?;
    let del = call(node, plugin, conf, "DEL", id)?;
    node.run(&["ip", "netns", "del", id])?;
    Ok([version, add, del])
}

fn call(node: &Node, plugin: &str, conf: &str, verb: &str, id: &str) -> Result<Duration> {
    let script = format!(
        "CNI_COMMAND={verb} CNI_CONTAINERID={id} CNI_NETNS=/run/netns/{id} CNI_IFNAME=eth0 \
         CNI_PATH=/opt/cni/bin:/usr/lib/cni exec {plugin} <{conf}"
    );
    let begun = Instant::now();
    node.run(&["sh", "-c", &script])?;
    Ok(begun.elapsed())
}
