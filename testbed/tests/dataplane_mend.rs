//! What other programs take away from a running node comes back by itself.
//!
//! ```text
//!   outside 10.1.1.1 ─── eth0 10.1.1.11 n1 (turnpike-agent) ── tpk… ── pod
//! ```

#![cfg(test)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use turnpike_testbed::turnpike_node::{TurnpikeConfig, TurnpikeNode};
use turnpike_testbed::{Lab, PodSpec, poll_result};

const DEADLINE: Duration = Duration::from_secs(10);

/// Verifies: routes that networkd would delete, a MAC address that it would set, `nft flush ruleset`, a limit's qdisc:
/// each is mended long before the agent's next look at the node, and the pod talks again.
#[test]
fn what_others_take_away_comes_back() -> Result<()> {
    let lab = Lab::new("dataplane-mend")?;
    let (n1, outside) = (lab.node("n1")?, lab.node("outside")?);
    lab.link(&n1, "eth0", &outside, "eth0")?;
    n1.addr("eth0", "10.1.1.11/24")?;
    outside.addr("eth0", "10.1.1.1/24")?;
    n1.route("default via 10.1.1.1")?;
    outside.route("10.244.1.0/26 via 10.1.1.11")?;
    let pool = "apiVersion: turnpike.io/v1alpha1\nkind: IPPool\nmetadata: { name: v4 }\n\
                spec: { cidr: 10.244.0.0/16, masquerade: { exceptTo: [10.0.0.0/8] } }\n\
                ---\napiVersion: turnpike.io/v1alpha1\nkind: IPBlock\nmetadata: { name: v4-n1 }\n\
                spec: { cidr: 10.244.1.0/26, pool: v4, node: n1 }\n";
    let turnpike = TurnpikeNode::start(&n1, &TurnpikeConfig::default().with_resource("pools.yaml", pool))?;
    let mut pod = turnpike.run_pod(PodSpec::busybox("pod").bandwidth("100M", "100M"))?;
    let ip = pod.ipv4()?.to_string();
    let status = turnpike.pod_status(&pod)?.context("the agent knows the pod")?;
    let link = status.host_link;
    let state = || -> Result<String> {
        let parts = [
            n1.text(&["ip", "route", "show", "proto", "201"])?,
            n1.text(&["ip", "-br", "link", "show", &link])?,
            n1.text(&["nft", "-s", "list", "ruleset"])?,
            n1.text(&["tc", "qdisc", "show", "dev", &link])?,
        ];
        // HTB counts among its options what went past its queues.
        let words = parts.concat();
        let (before, count) = words.split_once("direct_packets_stat ").context("no HTB")?;
        Ok([before, count.trim_start_matches(|digit: char| digit.is_ascii_digit())].concat())
    };
    let before = state()?;
    ensure!(before.contains("masquerade") && before.contains("tbf"), "{before}");
    for line in [
        format!("ip route del {ip} dev {link}"),
        "ip route flush proto 201".to_owned(),
        format!("ip link set {link} address 02:00:00:00:00:01"),
        "nft flush ruleset".to_owned(),
        format!("tc qdisc del dev {link} root"),
    ] {
        n1.run(&line.split(' ').collect::<Vec<_>>())?;
        poll_result(DEADLINE, &format!("the end of: {line}"), || {
            let now = state()?;
            ensure!(now == before, "it is\n{now}\nbut was\n{before}");
            Ok(())
        })?;
        pod.exec(&["ping", "-c", "1", "-W", "5", "10.1.1.1"]).with_context(|| line.clone())?;
    }
    pod.remove()?;
    drop((pod, turnpike));
    lab.finish()
}
