//! The daemon on one screen.

use std::fmt::Write as _;

use turnpike_bgpd_api::PerFamily;
use turnpike_bgpd_api::view::{StationView, StatusView};

use super::decision::nexthop;
use super::text::{counted, or_dash};
use crate::table::duration;

/// Next hops shown; the rest is counted.
const NEXTHOPS: usize = 20;

/// Configuration, sessions, next hops, kernel, mistakes.
pub(super) fn render(status: &StatusView) -> String {
    let mut text =
        format!("turnpike-bgpd {}, process {}, up {}\n", status.version, status.pid, duration(status.uptime));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    line(
        "Speaker",
        format!(
            "AS {}, router ID {}, cluster ID {}",
            or_dash(status.asn),
            or_dash(status.router_id),
            or_dash(status.cluster_id)
        ),
    );
    line("Start", start(status));
    if !status.waiting_for.is_empty() {
        line("Waiting", format!("for the part of {}", status.waiting_for.join(", ")));
    }
    line("Peers", format!("{}, {} established", status.peers, status.established));
    line(
        "RIB",
        format!(
            "{} prefixes, {} paths, {} attribute sets",
            families(&status.prefixes),
            families(&status.paths),
            status.attribute_sets
        ),
    );
    line("Kernel", kernel(status));
    for part in &status.parts {
        let taken = format!("{}, {}", counted(part.peers, "peer"), counted(part.networks, "network"));
        line("Part", format!("{}: {taken}", part.owner));
        for refused in &part.refused {
            line("", format!("  not taken: {refused}"));
        }
    }
    for hop in status.nexthops.iter().take(NEXTHOPS) {
        line("Next hop", nexthop(hop));
    }
    if status.nexthops.len() > NEXTHOPS {
        line("", format!("and {} more", status.nexthops.len() - NEXTHOPS));
    }
    for failure in &status.kernel.failures {
        line("Refused", format!("by the kernel: {failure}"));
    }
    if let Some(pending) = &status.pending {
        let left = duration(pending.seconds);
        line("Pending", format!("rolled back in {left} unless confirmed; applied by {}", pending.by));
    }
    if let Some(draining) = &status.draining {
        line("Draining", draining.clone());
    }
    for station in &status.stations {
        line("BMP", monitored(station));
    }
    for problem in &status.problems {
        line("Problem", problem.replace('\n', "\n            "));
    }
    text
}

fn monitored(station: &StationView) -> String {
    let told = format!("{} messages", station.messages);
    let state = match (station.connected_for, station.in_step) {
        (Some(seconds), true) => format!("connected for {}", duration(seconds)),
        (Some(seconds), false) => format!("connected for {}, being told the table", duration(seconds)),
        (None, _) => format!("not connected: {}", station.problem.as_deref().unwrap_or("connecting")),
    };
    let behind = match station.overflows {
        0 => String::new(),
        count => format!(", began anew {count} times because it did not keep up"),
    };
    format!("{}: {state}, {told}{behind}", station.station)
}

fn start(status: &StatusView) -> String {
    let kind = if status.restarted { "after a restart" } else { "first on this boot" };
    if status.starting {
        format!("{kind}; initial route selection is not complete")
    } else {
        format!("{kind}; initial route selection is complete")
    }
}

fn kernel(status: &StatusView) -> String {
    let kernel = &status.kernel;
    if !kernel.enabled {
        return "routes are not programmed".to_owned();
    }
    let place = format!("protocol {}, table {}, metric {}", kernel.protocol, kernel.table, kernel.metric);
    let waiting = if kernel.pending > 0 { format!(", {} waiting", kernel.pending) } else { String::new() };
    format!("{}{waiting} ({place})", counted(kernel.routes, "route"))
}

fn families(value: &PerFamily<usize>) -> String {
    format!("{}+{}", value.ipv4, value.ipv6)
}

#[cfg(test)]
mod tests {
    use turnpike_bgpd_api::view::{KernelView, NexthopView, PartView, PendingView};

    use super::*;

    #[test]
    fn the_daemon_fits_on_one_screen() {
        let status = StatusView {
            version: "0.1.0".to_owned(),
            pid: 4711,
            uptime: 61,
            asn: Some(65001.into()),
            router_id: Some("10.1.1.11".parse::<std::net::Ipv4Addr>().unwrap().into()),
            cluster_id: None,
            restarted: true,
            starting: false,
            waiting_for: vec!["vip".to_owned()],
            parts: vec![PartView {
                owner: "turnpike-agent".to_owned(),
                peers: 1,
                networks: 2,
                refused: vec!["peer rr1: the file has a peer with this address".to_owned()],
            }],
            peers: 2,
            established: 1,
            prefixes: PerFamily { ipv4: 5, ipv6: 4 },
            paths: PerFamily { ipv4: 10, ipv6: 8 },
            attribute_sets: 6,
            nexthops: vec![NexthopView {
                address: "10.1.2.12".to_owned(),
                reachable: false,
                metric: None,
                via: Vec::new(),
            }],
            kernel: KernelView {
                enabled: true,
                table: 254,
                protocol: 202,
                metric: 32,
                routes: 8,
                pending: 0,
                failures: vec!["10.77.0.0/16: File exists".to_owned()],
            },
            problems: Vec::new(),
            pending: Some(PendingView { seconds: 42, by: "uid 0 (turnpike 4712)".to_owned() }),
            draining: None,
            drained: false,
            stations: vec![StationView {
                station: "10.1.1.9:5000".parse().unwrap(),
                connected_for: Some(61),
                in_step: true,
                queued: 0,
                messages: 17,
                streams: 2,
                overflows: 1,
                problem: None,
            }],
        };
        let expected = "\
turnpike-bgpd 0.1.0, process 4711, up 1m01s
  Speaker   AS 65001, router ID 10.1.1.11, cluster ID -
  Start     after a restart; initial route selection is complete
  Waiting   for the part of vip
  Peers     2, 1 established
  RIB       5+4 prefixes, 10+8 paths, 6 attribute sets
  Kernel    8 routes (protocol 202, table 254, metric 32)
  Part      turnpike-agent: 1 peer, 2 networks
              not taken: peer rr1: the file has a peer with this address
  Next hop  10.1.2.12 cannot be reached: no route of another program leads to it
  Refused   by the kernel: 10.77.0.0/16: File exists
  Pending   rolled back in 42s unless confirmed; applied by uid 0 (turnpike 4712)
  BMP       10.1.1.9:5000: connected for 1m01s, 17 messages, began anew 1 times because it did not keep up
";
        assert_eq!(render(&status), expected);
    }
}
