//! What firewalld says of itself, through its own command.

use std::path::Path;
use std::process::Command;

use super::super::facts::{Firewalld, Policy, Zone};
use super::range;

/// How firewall-cmd ends where the daemon does not run (firewall-cmd(1), EXIT CODES).
const NOT_RUNNING: i32 = 252;

pub(super) fn gather() -> Option<Firewalld> {
    let traces = Path::new("/run/firewalld.pid").exists() || Path::new("/run/firewalld").exists();
    // One that was stopped may leave them behind.
    (traces && !has_stopped()).then(|| Firewalld {
        zones: sections(&ask("--list-all-zones")).map(zone).collect(),
        policies: sections(&ask("--list-all-policies")).map(|(_, pairs)| policy(&pairs)).collect(),
    })
}

fn has_stopped() -> bool {
    let state = Command::new("firewall-cmd").arg("--state").output();
    state.is_ok_and(|output| output.status.code() == Some(NOT_RUNNING))
}

/// Empty when it does not answer.
fn ask(what: &str) -> String {
    let output =
        Command::new("firewall-cmd").arg(what).output().ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// A name at the margin, and `key: value` below it.
fn sections(text: &str) -> impl Iterator<Item = (&str, Vec<(&str, &str)>)> {
    let begins = |line: &&str| !line.is_empty() && !line.starts_with(char::is_whitespace);
    let starts: Vec<usize> =
        text.lines().enumerate().filter(|(_, line)| begins(line)).map(|(at, _)| at).collect();
    starts.into_iter().filter_map(move |start| {
        let mut lines = text.lines().skip(start);
        let name = lines.next()?.split_whitespace().next()?;
        let pairs = lines.take_while(|line| !begins(line)).filter_map(|line| line.trim().split_once(':'));
        Some((name, pairs.map(|(key, value)| (key, value.trim())).collect()))
    })
}

fn words<'a>(pairs: &[(&str, &'a str)], key: &str) -> impl Iterator<Item = &'a str> {
    let value = pairs.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| *value);
    value.split_whitespace()
}

fn accepts(pairs: &[(&str, &str)]) -> bool {
    words(pairs, "target").eq(["ACCEPT"])
}

fn zone((name, pairs): (&str, Vec<(&str, &str)>)) -> Zone {
    Zone {
        name: name.to_owned(),
        accepts: accepts(&pairs),
        interfaces: words(&pairs, "interfaces").map(str::to_owned).collect(),
        sources: words(&pairs, "sources").filter_map(range).collect(),
    }
}

fn policy(pairs: &[(&str, &str)]) -> Policy {
    let zones = |key: &str| words(pairs, key).map(str::to_owned).collect();
    Policy { accepts: accepts(pairs), ingress: zones("ingress-zones"), egress: zones("egress-zones") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONES: &str = "\
public (default, active)
  target: default
  icmp-block-inversion: no
  interfaces: eth0
  sources:
  services: dhcpv6-client ssh
  rich rules:

trusted (active)
  target: ACCEPT
  interfaces: tpk+ lo
  sources: 10.244.0.0/16 fd00:244::/48 ipset:x 192.0.2.1
  rich rules:
\trule family=\"ipv4\" source address=\"192.0.2.9\" accept
";

    #[test]
    fn zones_and_policies_are_read_as_they_are_printed() {
        let zones: Vec<Zone> = sections(ZONES).map(zone).collect();
        let [public, trusted] = zones.as_slice() else { panic!("{zones:?}") };
        assert_eq!((public.name.as_str(), public.accepts), ("public", false));
        assert_eq!((public.interfaces.as_slice(), public.sources.len()), (&["eth0".to_owned()][..], 0));
        assert!(trusted.accepts && trusted.interfaces == ["tpk+", "lo"]);
        let ranges = ["10.244.0.0/16", "fd00:244::/48"].map(|text| range(text).unwrap());
        assert_eq!(trusted.sources, ranges);
        let text = "to-pods (active)\n  priority: -1\n  target: ACCEPT\n  ingress-zones: ANY\n  egress-zones: trusted\n";
        let policies: Vec<Policy> = sections(text).map(|(_, pairs)| policy(&pairs)).collect();
        let zones = |name: &str| vec![name.to_owned()];
        assert_eq!(policies, [Policy { accepts: true, ingress: zones("ANY"), egress: zones("trusted") }]);
    }
}
