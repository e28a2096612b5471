//! `turnpike lb …`: load-balancer traffic of this node.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use turnpike_agent_api::{Client, Count, LbDirection, LbReport, Reply, Request};

use crate::table::{duration, table};
use crate::{Global, Output};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Load balancers in front of the pods.
#[derive(Debug, Subcommand)]
pub(crate) enum LbCommand {
    /// What bypasses netfilter and conntrack, what falls back to them, and why: by source and direction.
    Flows,
}

/// Carries out `turnpike lb …`.
pub(crate) fn run(global: &Global, command: &LbCommand) -> anyhow::Result<ExitCode> {
    match command {
        LbCommand::Flows => match ask(global, &Request::LbFlows)? {
            Reply::LbFlows(report) => show(global, &*report, flows),
            _ => Err(other_release()),
        },
    }
}

/// Asks the agent; its refusals are errors.
pub(crate) fn ask(global: &Global, request: &Request) -> anyhow::Result<Reply> {
    match Client::connect(&global.agent_socket)?.request(request, &[], TIMEOUT)? {
        Reply::Error(error) if error.details.is_empty() => Err(error.into()),
        Reply::Error(error) => anyhow::bail!("{error}; {}", error.details),
        reply => Ok(reply),
    }
}

pub(crate) fn other_release() -> anyhow::Error {
    anyhow::anyhow!("turnpike-agent answered something else; install the same release of both")
}

/// Prints a report as the caller wants it.
pub(crate) fn show<T: serde::Serialize>(
    global: &Global,
    report: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<ExitCode> {
    match global.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(report)?),
        Output::Text => print!("{}", text(report)),
    }
    Ok(ExitCode::SUCCESS)
}

fn flows(report: &LbReport) -> String {
    let mut screen = String::new();
    if let Some(error) = &report.error {
        screen.push_str(&format!("no figures: {error}\n"));
    }
    if report.sources.is_empty() {
        screen.push_str("no LoadBalancerSource is in force on this node\n");
        return screen;
    }
    let uplinks = if report.uplinks.is_empty() { "none".to_owned() } else { report.uplinks.join(", ") };
    screen.push_str(&format!("uplinks with the bypass: {uplinks}\n\n"));
    let rows: Vec<_> = report
        .sources
        .iter()
        .map(|source| {
            let state = match (source.draining_s, source.bypass) {
                (Some(seconds), _) => format!("drains {}", duration(seconds)),
                (None, true) => "bypass".to_owned(),
                (None, false) => "stack".to_owned(),
            };
            [
                source.name.clone(),
                source.cidr.clone(),
                state,
                source.toa.clone().unwrap_or_else(|| "-".to_owned()),
                amount(source.to_pods.bypassed),
                amount(source.from_pods.bypassed),
                amount(fell_back(&source.to_pods)),
                amount(fell_back(&source.from_pods)),
            ]
        })
        .collect();
    let heading = ["SOURCE", "CIDR", "STATE", "TOA", "BYPASSED IN", "BYPASSED OUT", "STACK IN", "STACK OUT"];
    screen.push_str(&table(heading, &rows));
    let reasons: Vec<_> = report.sources.iter().flat_map(reasons).collect();
    if !reasons.is_empty() {
        screen.push_str("\nthrough the stack, and why\n");
        screen.push_str(&table(["SOURCE", "CIDR", "WAY", "PACKETS", "WHY"], &reasons));
    }
    screen
}

fn reasons(source: &turnpike_agent_api::LbSourceReport) -> Vec<[String; 5]> {
    [("in", &source.to_pods), ("out", &source.from_pods)]
        .into_iter()
        .flat_map(|(way, direction)| direction.fell_back.iter().map(move |one| (way, one)))
        .map(|(way, one)| {
            let (name, cidr) = (source.name.clone(), source.cidr.clone());
            [name, cidr, way.to_owned(), one.count.packets.to_string(), one.words.clone()]
        })
        .collect()
}

fn fell_back(direction: &LbDirection) -> Count {
    direction.fell_back.iter().fold(Count::default(), |sum, one| Count {
        packets: sum.packets.saturating_add(one.count.packets),
        bytes: sum.bytes.saturating_add(one.count.bytes),
    })
}

/// `1204 (1.3 MB)`.
fn amount(count: Count) -> String {
    if count.packets == 0 {
        return "-".to_owned();
    }
    format!("{} ({})", count.packets, bytes(count.bytes))
}

/// Decimal units, one digit behind the point.
fn bytes(count: u64) -> String {
    let mut unit = 1_u64;
    for suffix in ["B", "kB", "MB", "GB", "TB"] {
        if count < unit.saturating_mul(1000) || suffix == "TB" {
            let tenths = count.saturating_mul(10).checked_div(unit).unwrap_or_default();
            return if suffix == "B" {
                format!("{count} B")
            } else {
                format!("{}.{} {suffix}", tenths / 10, tenths % 10)
            };
        }
        unit = unit.saturating_mul(1000);
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_agent_api::{FellBack, LbSourceReport};

    #[test]
    fn flows_name_what_bypassed_and_why_the_rest_did_not() {
        let count = |packets, bytes| Count { packets, bytes };
        let source = LbSourceReport {
            name: "lvs".into(),
            cidr: "10.9.1.0/24".into(),
            bypass: true,
            toa: Some("Toa254".into()),
            draining_s: None,
            to_pods: LbDirection {
                bypassed: count(1204, 1_320_000),
                queued: Count::default(),
                fell_back: vec![FellBack {
                    reason: "fragment".into(),
                    words: "fragments have no ports to match".into(),
                    count: count(2, 3000),
                }],
            },
            from_pods: LbDirection { bypassed: count(1100, 999), ..LbDirection::default() },
        };
        let report = LbReport { sources: vec![source], uplinks: vec!["eth0 (TCX)".into()], error: None };
        assert_eq!(
            flows(&report),
            "uplinks with the bypass: eth0 (TCX)\n\n\
             \x20 SOURCE  CIDR         STATE   TOA     BYPASSED IN    BYPASSED OUT  STACK IN    STACK OUT\n\
             \x20 lvs     10.9.1.0/24  bypass  Toa254  1204 (1.3 MB)  1100 (999 B)  2 (3.0 kB)  -\n\
             \nthrough the stack, and why\n\
             \x20 SOURCE  CIDR         WAY  PACKETS  WHY\n\
             \x20 lvs     10.9.1.0/24  in   2        fragments have no ports to match\n"
        );
        assert_eq!(flows(&LbReport::default()), "no LoadBalancerSource is in force on this node\n");
    }
}
