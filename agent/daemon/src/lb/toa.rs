//! Why a pod's connections did or did not get their clients' addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use turnpike_agent_api::{ErrorReply, ToaCheckRequest, ToaConnectionReport, ToaReport, ToaSource, code};
use turnpike_dataplane::{HooksInForce, ToaConnection, ToaFormat, ToaOfPod, ToaTally};
use turnpike_model::desired::{self, DesiredState};

use crate::agent::Agent;
use crate::books::PodEntry;
use crate::plane::Owner as _;
use crate::store::NetnsId;

use super::{ending, words};

/// TOA programs that belong together.
const PROGRAMS: usize = 3;
/// Processes named that are outside of the cgroup.
const NAMED: usize = 5;

/// Carries out `turnpike toa check`.
pub(crate) fn check(agent: &Agent, request: &ToaCheckRequest) -> Result<ToaReport, ErrorReply> {
    let entry = find(agent, &request.pod)?;
    let desired = agent.desired();
    let addresses = entry.record.addresses();
    let asked = addresses.clone();
    let answers = agent.plane()?.call(move |plane| (plane.toa_of(&asked), plane.hooks_in_force()));
    let (seen, hooks) = answers.map_err(ending)?;
    let mut report = ToaReport {
        pod: entry.record.pod.clone(),
        container_id: entry.record.attachment.container_id.clone(),
        addresses,
        opted_out: entry.record.toa_off,
        sources: sources(&desired),
        uoa_sources: desired
            .lb_sources
            .iter()
            .filter(|(_, source)| source.uoa)
            .map(|(name, _)| name.clone())
            .collect(),
        ..ToaReport::default()
    };
    match (seen, hooks) {
        (Ok(seen), Ok(hooks)) => fill(&mut report, &seen, &hooks, entry.record.netns),
        (Err(error), _) | (_, Err(error)) => report.findings.push(format!("no eBPF programs: {error}")),
    }
    report.findings.extend(left_out(&desired, report.pod.namespace.as_deref().unwrap_or_default()));
    findings(&mut report);
    Ok(report)
}

fn fill(report: &mut ToaReport, seen: &ToaOfPod, hooks: &HooksInForce, netns: NetnsId) {
    report.counters = counters(&seen.tally);
    let now = monotonic_ns();
    report.connections = seen.connections.iter().map(|one| connection(one, now)).collect();
    report.cgroup = hooks.toa_cgroup.as_ref().map(|path| path.display().to_string());
    report.programs = hooks.toa_programs;
    report.nat64 = hooks.toa_nat64;
    report.uoa = hooks.uoa;
    if let Some(cgroup) = &hooks.toa_cgroup {
        report.outside = outside(netns, cgroup);
    }
}

fn sources(desired: &DesiredState) -> Vec<ToaSource> {
    let with_format =
        desired.lb_sources.iter().filter_map(|(name, source)| Some((name, source, source.toa?)));
    with_format
        .map(|(name, source, format)| ToaSource {
            name: name.clone(),
            cidrs: source.cidrs.iter().map(ToString::to_string).collect(),
            format: format!("{format:?}"),
            kind: kind(format),
            nat64: source.toa_nat64,
        })
        .collect()
}

/// Sources with a format that are not for pods of a namespace.
fn left_out(desired: &DesiredState, namespace: &str) -> Vec<String> {
    let sources = desired
        .lb_sources
        .iter()
        .filter(|(_, source)| (source.toa.is_some() || source.uoa) && !source.is_for(namespace));
    let words = |name| {
        format!(
            "{name} is not for namespace `{namespace}`: look at its spec.namespaces and spec.exceptNamespaces"
        )
    };
    sources.map(|(name, _)| words(name)).collect()
}

fn kind(format: desired::ToaFormat) -> u8 {
    let format = match format {
        desired::ToaFormat::Toa254 => ToaFormat::Toa254,
        desired::ToaFormat::Toa253V6 => ToaFormat::Toa253V6,
        desired::ToaFormat::Vtoa252 => ToaFormat::Vtoa252,
        desired::ToaFormat::Toa200 => ToaFormat::Toa200,
        desired::ToaFormat::Cdn28 => ToaFormat::Cdn28,
    };
    ToaFormat::kind(format as u32)
}

fn counters(tally: &ToaTally) -> BTreeMap<String, u64> {
    [
        ("hit", tally.hit),
        ("late", tally.late),
        ("miss", tally.miss),
        ("untrusted", tally.untrusted),
        ("malformed", tally.malformed),
        ("opted_out", tally.opted_out),
    ]
    .map(|(name, count)| (name.to_owned(), count))
    .into()
}

fn connection(seen: &ToaConnection, now_ns: u64) -> ToaConnectionReport {
    let event = &seen.event;
    let client = IpAddr::from(std::net::Ipv6Addr::from(event.client)).to_canonical();
    let client = (event.client != [0; 16]).then(|| match u16::from_be(event.client_port_be) {
        0 => client.to_string(),
        port => SocketAddr::new(client, port).to_string(),
    });
    ToaConnectionReport {
        ago_s: now_ns.saturating_sub(event.at_ns) / 1_000_000_000,
        pod: seen.pod,
        peer: seen.peer,
        client,
        outcome: words::outcome(event).to_owned(),
        words: words::connection(event, seen.pod.is_ipv4()),
    }
}

/// What is wrong, and what to do about it.
fn findings(report: &mut ToaReport) {
    let mut found = Vec::new();
    if report.opted_out {
        found.push(
            "the pod's annotation turnpike.io/toa is \"off\": remove it and recreate the pod".to_owned(),
        );
    }
    if report.sources.is_empty() && report.uoa_sources.is_empty() {
        found.push("no LoadBalancerSource on this node has a toa format: no option is believed".to_owned());
    } else if report.cgroup.is_none() {
        found.push("no cgroup is configured in agent.toml: nothing is attached".to_owned());
    } else if report.programs < PROGRAMS {
        let attached = report.programs;
        found.push(format!("only {attached} of 3 programs are attached: `turnpike status` says why"));
    }
    if let (Some(name), false) = (report.uoa_sources.first(), report.uoa) {
        found.push(format!("{name} has uoa, but its programs are not attached: `turnpike status` says why"));
    }
    if let Some(source) = report.sources.iter().find(|source| source.nat64 && !report.nat64) {
        let name = &source.name;
        found.push(format!(
            "{name} has toaNat64, but getsockopt(IPPROTO_IP, 4096) is not answered: `turnpike status` says why"
        ));
    }
    if let (false, Some(cgroup)) = (report.outside.is_empty(), &report.cgroup) {
        found.push(format!(
            "processes of the pod are outside of {cgroup}: {}; set the cgroup in agent.toml to one above them",
            report.outside.join(", ")
        ));
    }
    let count = |name: &str| report.counters.get(name).copied().unwrap_or_default();
    if count("untrusted") > 0 {
        found.push(format!(
            "{} connections carried an option from an address that no source with a format lists",
            count("untrusted")
        ));
    }
    if count("miss") > 0 && count("hit") == 0 {
        found.push(
            "no connection from a listed source has carried its format: compare the director's setting with toa"
                .to_owned(),
        );
    }
    report.findings.extend(found);
}

/// The pod that a person means.
pub(crate) fn find(agent: &Agent, text: &str) -> Result<PodEntry, ErrorReply> {
    let books = agent.books();
    let matches: Vec<&PodEntry> = books.pods().values().filter(|entry| is_meant(entry, text)).collect();
    match matches.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(ErrorReply::new(code::UNKNOWN_CONTAINER, format!("no pod of this node is called {text}"))
            .with_details(
                "give namespace/name, an address, or the beginning of a container ID: see `turnpike status`",
            )),
        many => Err(ErrorReply::new(
            code::INVALID_CONFIG,
            format!("{} pods of this node are called {text}", many.len()),
        )
        .with_details("give namespace/name, or an address")),
    }
}

fn is_meant(entry: &PodEntry, text: &str) -> bool {
    let record = &entry.record;
    let name = record.pod.name.as_deref().unwrap_or_default();
    let namespace = record.pod.namespace.as_deref().unwrap_or_default();
    let by_name = match text.split_once('/') {
        Some((wanted, rest)) => wanted == namespace && rest == name,
        None => text == name,
    };
    let by_address = text.parse::<IpAddr>().is_ok_and(|address| record.addresses().contains(&address));
    let by_id = text.len() >= 6 && record.attachment.container_id.starts_with(text);
    !text.is_empty() && (by_name || by_address || by_id)
}

/// Processes in the pod's network namespace whose cgroup is not below the one that is served.
fn outside(netns: NetnsId, served: &Path) -> Vec<String> {
    let Some(root) = cgroup_mount(served) else { return Vec::new() };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut names: Vec<String> = processes
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let namespace = std::fs::metadata(entry.path().join("ns/net")).ok()?;
            if (namespace.dev(), namespace.ino()) != (netns.dev, netns.ino) {
                return None;
            }
            let groups = std::fs::read_to_string(entry.path().join("cgroup")).ok()?;
            let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            (!root.join(own).starts_with(served)).then(|| format!("{} ({pid})", name.trim()))
        })
        .collect();
    names.sort();
    names.truncate(NAMED);
    names
}

/// Where the cgroup v2 tree that holds `path` is mounted.
fn cgroup_mount(path: &Path) -> Option<std::path::PathBuf> {
    let device = std::fs::metadata(path).ok()?.dev();
    let above = path
        .ancestors()
        .take_while(|folder| std::fs::metadata(folder).is_ok_and(|metadata| metadata.dev() == device));
    above.last().map(Path::to_owned)
}

/// What the programs stamp events with.
fn monotonic_ns() -> u64 {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(clock.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(clock.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_served_well_has_no_findings_and_each_fault_has_its_own() {
        let well = ToaReport {
            sources: vec![ToaSource {
                name: "lvs".into(),
                cidrs: vec!["10.9.1.0/24".into()],
                format: "Toa254".into(),
                kind: 254,
                nat64: false,
            }],
            cgroup: Some("/sys/fs/cgroup/kubepods".into()),
            programs: PROGRAMS,
            ..ToaReport::default()
        };
        let found = |change: &dyn Fn(&mut ToaReport)| {
            let mut report = well.clone();
            change(&mut report);
            findings(&mut report);
            report.findings.join("\n")
        };
        assert_eq!(found(&|_| {}), "");
        assert!(found(&|report| report.opted_out = true).contains("turnpike.io/toa"));
        assert!(found(&|report| report.sources.clear()).contains("no LoadBalancerSource"));
        assert!(found(&|report| report.programs = 1).contains("only 1 of 3"));
        assert!(found(&|report| report.sources[0].nat64 = true).contains("lvs has toaNat64"));
        assert!(found(&|report| report.uoa_sources.push("dpvs".into())).contains("dpvs has uoa"));
        assert!(found(&|report| report.outside.push("nginx (7)".into())).contains("nginx (7)"));
        assert!(found(&|report| report.counters.extend([("miss".to_owned(), 2)])).contains("compare"));
    }
}
