//! Alerts and dashboard of turnpike-bgpd, against the daemon's own metrics and Prometheus's own tools.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::{Lab, poll_result};

use crate::daemon::{DEADLINE, Daemon};

const ALERTS: &str = include_str!("../../../deploy/prometheus/turnpike-bgpd-alerts.yaml");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/turnpike-bgp.json");

/// Two peers, one of which never answers, and a station that is not there.
const NEAR: &str = "\
asn = 65001
router_id = \"10.0.0.1\"
[[peer]]
name = \"far\"
address = \"10.1.3.2\"
remote_as = 65002
connect_retry = 1
import = \"accept-all\"
export = \"accept-all\"
[[peer]]
name = \"nobody\"
address = \"10.1.3.3\"
remote_as = 65003
[[bmp]]
station = \"10.1.3.4:11019\"
";

const FAR: &str = "\
asn = 65002
router_id = \"10.0.0.2\"
[kernel]
enabled = false
[[peer]]
name = \"near\"
address = \"10.1.3.1\"
remote_as = 65001
connect_retry = 1
import = \"accept-all\"
export = \"accept-all\"
[[network]]
prefix = \"10.8.0.0/16\"
";

/// What becomes of the rules when a peer is down, and when all are.
const CASES: &str = "\
rule_files: [RULES]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'turnpike_bgpd_peers{instance=\"n1\"}', values: '2x20'}
      - {series: 'turnpike_bgpd_peers_established{instance=\"n1\"}', values: '1x10 0x10'}
      - {series: 'turnpike_bgpd_peer_up{instance=\"n1\", peer=\"rr1\"}', values: '1x10 0x10'}
      - {series: 'turnpike_bgpd_peer_up{instance=\"n1\", peer=\"rr2\"}', values: '0x20'}
      - {series: 'turnpike_bgpd_peer_advertised{instance=\"n1\", peer=\"rr1\", family=\"ipv4\"}', values: '1x20'}
    alert_rule_test:
      - {eval_time: 2m, alertname: TurnpikeBgpPeerDown}
      - eval_time: 5m
        alertname: TurnpikeBgpPeerDown
        exp_alerts:
          - exp_labels: {severity: warn, instance: n1, peer: rr2}
            exp_annotations:
              summary: rr2 of n1 is down
              remedy: turnpike bgp peers on that host; one that was held down comes up with turnpike bgp peer NAME --enable
      - {eval_time: 9m, alertname: TurnpikeBgpAlone}
      - {eval_time: 15m, alertname: TurnpikeBgpAnnouncesNothing}
      - eval_time: 15m
        alertname: TurnpikeBgpAlone
        exp_alerts:
          - exp_labels: {severity: page, instance: n1}
            exp_annotations:
              summary: no peer of n1 is up
              remedy: turnpike bgp peers shows each one's last error; look at links and at TCP port 179 in firewalls
";

fn promtool(args: &[&str]) -> Result<String> {
    let run = Command::new("promtool").args(args).output().context("promtool; run: cargo xtask setup")?;
    let said = String::from_utf8([run.stdout, run.stderr].concat())?;
    ensure!(run.status.success(), "promtool {args:?}: {said}");
    Ok(said)
}

/// Verifies: every metric that bgpd's alerts and dashboard ask for is in a scrape of a running bgpd, and the other way
/// round, each that it has is in the dashboard.
#[test]
fn bgpds_alerts_and_dashboard_ask_for_metrics_that_exist() -> Result<()> {
    let lab = Lab::new("bgp-metrics")?;
    let (near_node, far_node) = (lab.node("near")?, lab.node("far")?);
    lab.link(&near_node, "eth0", &far_node, "eth0")?;
    near_node.addr("eth0", "10.1.3.1/24")?;
    far_node.addr("eth0", "10.1.3.2/24")?;
    let (near, far) = (Daemon::start(&near_node, NEAR)?, Daemon::start(&far_node, FAR)?);
    near.wait_established("far")?;
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let names = |text: &'static str| -> BTreeSet<&str> {
        text.split(move |c| !is_name(c)).filter(|word| word.starts_with("turnpike_bgpd_")).collect()
    };
    let (alerts, panels) = (names(ALERTS), names(DASHBOARD));
    ensure!(alerts.len() > 12 && panels.len() > 25, "{alerts:?} {panels:?}");
    poll_result(DEADLINE, "every metric", || {
        let scrape = near.http("/metrics")?;
        let there: BTreeSet<&str> = scrape
            .lines()
            .filter_map(|line| line.split(['{', ' ']).next())
            .filter(|name| name.starts_with("turnpike_bgpd_"))
            .collect();
        let missing: Vec<_> = alerts.union(&panels).filter(|name| !there.contains(*name)).collect();
        ensure!(missing.is_empty(), "not in a scrape: {missing:?} of {there:?}");
        let parts = ["turnpike_bgpd_propagation_seconds_sum", "turnpike_bgpd_propagation_seconds_count"];
        let unseen: Vec<_> =
            there.iter().filter(|name| !panels.contains(*name) && !parts.contains(name)).collect();
        ensure!(unseen.is_empty(), "in no panel: {unseen:?}");
        Ok(())
    })?;
    drop((near, far));
    lab.finish()
}

/// Verifies: promtool takes all rules in deploy/prometheus; a peer that is down is told after its time, and that all are down
/// besides, each with its remedy; panels are of the kind that the dashboard of nodes has.
#[test]
fn prometheus_takes_the_alerts() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus").canonicalize()?;
    for file in ["turnpike-alerts.yaml", "turnpike-bgpd-alerts.yaml"] {
        let path = folder.join(file).display().to_string();
        let said = promtool(&["check", "rules", &path])?;
        ensure!(said.contains("SUCCESS"), "{said}");
    }
    let cases = tempfile::NamedTempFile::new()?;
    let rules = folder.join("turnpike-bgpd-alerts.yaml").display().to_string();
    std::fs::write(cases.path(), CASES.replace("RULES", &rules))?;
    promtool(&["test", "rules", &cases.path().display().to_string()])?;
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        ensure!(panel["targets"][0]["expr"].is_string() && panel["gridPos"]["w"] == 8, "{panel:#}");
    }
    ensure!(panels.len() > 20, "{} panels", panels.len());
    Ok(())
}
