//! `turnpike toa …`: clients' addresses behind load balancers.

use std::process::ExitCode;

use clap::Subcommand;
use turnpike_agent_api::{PodInfo, Reply, Request, ToaCheckRequest, ToaReport};

use crate::Global;
use crate::lb::{ask, other_release, show};
use crate::table::{duration, table};

/// Clients' addresses behind load balancers.
#[derive(Debug, Subcommand)]
pub(crate) enum ToaCommand {
    /// Why a pod's connections did or did not get their clients' addresses.
    Check {
        /// `namespace/name`, a name, an address, or the beginning of a container ID.
        pod: String,
    },
}

/// Carries out `turnpike toa …`. `check` fails when something is wrong.
pub(crate) fn run(global: &Global, command: &ToaCommand) -> anyhow::Result<ExitCode> {
    let ToaCommand::Check { pod } = command;
    match ask(global, &Request::ToaCheck(ToaCheckRequest { pod: pod.clone() }))? {
        Reply::Toa(report) => {
            show(global, &*report, check)?;
            Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        _ => Err(other_release()),
    }
}

/// What people call a pod.
pub(crate) fn pod_name(pod: &PodInfo, container_id: &str) -> String {
    match (&pod.namespace, &pod.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => container_id.chars().take(12).collect(),
    }
}

fn check(report: &ToaReport) -> String {
    let addresses: Vec<String> = report.addresses.iter().map(ToString::to_string).collect();
    let mut screen =
        format!("pod {} ({})\n", pod_name(&report.pod, &report.container_id), addresses.join(", "));
    match &report.cgroup {
        Some(cgroup) => {
            screen.push_str(&format!("attached: {} of 3 programs to {cgroup}\n", report.programs))
        }
        None => screen.push_str("attached: nothing\n"),
    }
    if report.nat64 {
        screen.push_str("NAT64: getsockopt(IPPROTO_IP, 4096) tells IPv6 clients of IPv4 sockets\n");
    }
    if report.uoa {
        screen
            .push_str(&format!("UDP: clients that {} names are told (UOA)\n", report.uoa_sources.join(", ")));
    }
    for source in &report.sources {
        let cidrs = source.cidrs.join(", ");
        screen.push_str(&format!(
            "expected: {} (option {}) from {cidrs} ({})\n",
            source.format, source.kind, source.name
        ));
    }
    let counters: Vec<String> =
        report.counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
    screen.push_str(&format!("connections: {}\n", counters.join(", ")));
    let rows: Vec<_> = report
        .connections
        .iter()
        .map(|one| {
            [
                format!("{} ago", duration(one.ago_s)),
                one.peer.to_string(),
                one.pod.to_string(),
                one.client.clone().unwrap_or_else(|| "-".to_owned()),
                one.outcome.clone(),
                one.words.clone(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        screen.push_str("\nlatest\n");
        screen.push_str(&table(["WHEN", "DIRECTOR", "POD", "CLIENT", "OUTCOME", "WHY"], &rows));
    }
    screen.push('\n');
    if report.findings.is_empty() {
        screen.push_str("all is well\n");
    }
    for finding in &report.findings {
        screen.push_str(&format!("WRONG {finding}\n"));
    }
    screen
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_agent_api::{ToaConnectionReport, ToaSource};

    #[test]
    fn a_check_says_what_is_expected_what_came_and_what_is_wrong() {
        let report = ToaReport {
            pod: PodInfo { namespace: Some("web".into()), name: Some("www".into()), uid: None },
            addresses: vec!["10.244.1.5".parse().unwrap()],
            sources: vec![ToaSource {
                name: "lvs".into(),
                cidrs: vec!["10.9.1.0/24".into()],
                format: "Toa254".into(),
                kind: 254,
                nat64: true,
            }],
            cgroup: Some("/sys/fs/cgroup/kubepods".into()),
            programs: 3,
            nat64: true,
            uoa: true,
            uoa_sources: vec!["dpvs".into()],
            counters: [("hit".to_owned(), 1), ("miss".to_owned(), 0)].into(),
            connections: vec![ToaConnectionReport {
                ago_s: 3,
                pod: "10.244.1.5:80".parse().unwrap(),
                peer: "10.9.1.1:4000".parse().unwrap(),
                client: Some("192.0.2.10:51234".into()),
                outcome: "hit".into(),
                words: "the option came with the packet that established it".into(),
            }],
            ..ToaReport::default()
        };
        assert_eq!(
            check(&report),
            "pod web/www (10.244.1.5)\n\
             attached: 3 of 3 programs to /sys/fs/cgroup/kubepods\n\
             NAT64: getsockopt(IPPROTO_IP, 4096) tells IPv6 clients of IPv4 sockets\n\
             UDP: clients that dpvs names are told (UOA)\n\
             expected: Toa254 (option 254) from 10.9.1.0/24 (lvs)\n\
             connections: hit 1, miss 0\n\
             \nlatest\n\
             \x20 WHEN    DIRECTOR       POD            CLIENT            OUTCOME  WHY\n\
             \x20 3s ago  10.9.1.1:4000  10.244.1.5:80  192.0.2.10:51234  hit      the option came with the packet that established it\n\
             \nall is well\n"
        );
        let wrong = ToaReport { findings: vec!["no option".into()], ..report };
        assert!(check(&wrong).ends_with("\nWRONG no option\n"));
    }
}
