//! Policies tried on a path.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use turnpike_bgpd_api::view::{PathView, PolicyTrace};
use turnpike_bgpd_api::{Asn, Client, Community, LargeCommunity, PolicyTest, Prefix, Reply, Request};

use super::show;
use crate::Global;

/// Subcommands of `turnpike bgp policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Which rule decides about a path: one that you describe, or one of the RIB.
    Test(Test),
}

/// A policy and a path.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// The policy; absent: the one that `--peer` imports with.
    policy: Option<String>,
    /// Destination.
    #[arg(long)]
    prefix: Prefix,
    /// The peer (name or address) that it came from; its path in the RIB gives what the other options do not.
    #[arg(long)]
    peer: Option<String>,
    /// Try the policies of this file, in the place of those in force.
    #[arg(long)]
    file: Option<PathBuf>,
    /// AS_PATH, the latest AS first, such as `65002 65003`.
    #[arg(long)]
    as_path: Option<String>,
    /// COMMUNITIES; may be given several times.
    #[arg(long)]
    community: Vec<Community>,
    /// LARGE_COMMUNITIES; may be given several times.
    #[arg(long)]
    large_community: Vec<LargeCommunity>,
    /// Next hop; the peer's address unless given.
    #[arg(long)]
    next_hop: Option<IpAddr>,
    /// LOCAL_PREF.
    #[arg(long)]
    local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[arg(long)]
    med: Option<u32>,
}

/// Fails when the policy refuses the path.
pub(super) fn run(global: &Global, client: &mut Client, test: &Test) -> Result<ExitCode> {
    let parse = |text: &String| text.split_whitespace().map(str::parse::<Asn>).collect::<Result<Vec<_>, _>>();
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let given = |list: &Vec<Community>| (!list.is_empty()).then(|| list.clone());
    let request = PolicyTest {
        policy: test.policy.clone(),
        text: test.file.as_ref().map(read).transpose()?,
        prefix: test.prefix,
        peer: test.peer.clone(),
        as_path: test.as_path.as_ref().map(parse).transpose()?,
        communities: given(&test.community),
        large_communities: (!test.large_community.is_empty()).then(|| test.large_community.clone()),
        next_hop: test.next_hop,
        local_pref: test.local_pref,
        med: test.med,
    };
    let Reply::PolicyTrace(trace) = client.request(&Request::PolicyTest(Box::new(request)))? else {
        bail!("turnpike-bgpd answered something else than was asked");
    };
    show(global.output, &trace, |trace| render(trace))?;
    Ok(if trace.accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(trace: &PolicyTrace) -> String {
    let mut text = format!("{} {}\n", trace.path.prefix, facts(&trace.path));
    for rule in &trace.rules {
        let said = match (&rule.missed, &rule.verdict) {
            (Some(condition), _) => format!("no match: {condition}"),
            (None, Some(verdict)) => format!("match: {verdict}"),
            (None, None) => "match: goes on".to_owned(),
        };
        let _ = writeln!(text, "  rule {:<16} {said}", rule.rule);
    }
    let verdict = if trace.accepted { "accepted" } else { "refused" };
    let _ = writeln!(text, "{verdict} by {} of `{}`", trace.decided_by, trace.policy);
    if let Some(result) = &trace.result {
        let _ = writeln!(text, "becomes {}", facts(result));
    }
    text
}

fn facts(path: &PathView) -> String {
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let number = |value: Option<u32>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
    let communities: Vec<String> = path
        .communities
        .iter()
        .map(ToString::to_string)
        .chain(path.large_communities.iter().map(ToString::to_string))
        .chain(path.extended_communities.iter().cloned())
        .collect();
    format!(
        "next hop {}, AS path {}, local preference {}, MED {}, communities {}",
        path.next_hop.map_or_else(|| "none".to_owned(), |hop| hop.to_string()),
        or_none(path.as_path.clone()),
        number(path.local_pref),
        number(path.med),
        or_none(communities.join(" ")),
    )
}

#[cfg(test)]
mod tests {
    use turnpike_bgpd_api::view::RuleTrace;

    use super::super::rib::tests::sample;
    use super::*;

    #[test]
    fn a_trace_shows_each_rule_and_the_one_that_decided() {
        let rule = |rule: &str, missed: Option<&str>, verdict: Option<&str>| RuleTrace {
            rule: rule.to_owned(),
            missed: missed.map(str::to_owned),
            verdict: verdict.map(str::to_owned),
        };
        let path = sample("10.9.0.1/32", Some("gw1"));
        let trace = PolicyTrace {
            policy: "from-gw".to_owned(),
            result: Some(PathView { local_pref: Some(200), ..path.clone() }),
            path,
            rules: vec![
                rule("1", Some("community_sets"), None),
                rule("prefer", None, None),
                rule("vips", None, Some("accept")),
            ],
            accepted: true,
            decided_by: "rule vips".to_owned(),
        };
        let expected = "\
10.9.0.1/32 next hop 10.1.2.12, AS path 65002 65003, local preference 100, MED none, communities none
  rule 1                no match: community_sets
  rule prefer           match: goes on
  rule vips             match: accept
accepted by rule vips of `from-gw`
becomes next hop 10.1.2.12, AS path 65002 65003, local preference 200, MED none, communities none
";
        assert_eq!(render(&trace), expected);
    }
}
