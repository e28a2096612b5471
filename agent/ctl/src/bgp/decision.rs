//! Why a destination is routed as it is.

use std::fmt::Write as _;

use turnpike_bgpd_api::view::{Decision, NexthopView, PathView};

use super::rib::{codes, from};
use super::text::counted;

/// All paths with where each one lost, next hops, kernel.
pub(super) fn render(decision: &Decision) -> String {
    let Some(prefix) = decision.prefix else {
        return "no path\n".to_owned();
    };
    let mut text = format!("{prefix}: {}\n", counted(decision.paths.len(), "path"));
    for path in &decision.paths {
        describe(path, &mut text);
    }
    if !decision.nexthops.is_empty() {
        text.push_str("Next hops in use\n");
    }
    for hop in &decision.nexthops {
        let _ = writeln!(text, "  {}", nexthop(hop));
    }
    if let Some(failure) = &decision.kernel_failure {
        let _ = writeln!(text, "The kernel refused the route: {failure}");
    }
    text
}

fn describe(path: &PathView, text: &mut String) {
    let hop = path.next_hop.map(|hop| format!(" via {hop}")).unwrap_or_default();
    let verdict = match (&path.why, path.best) {
        (Some(reason), _) => reason.as_str(),
        (None, true) => "best",
        (None, false) => "not best",
    };
    let _ = writeln!(text, "  {} from {}{hop}: {verdict}", codes(path), from(path));
    let mut facts = vec![format!("origin {}", path.origin)];
    if !path.as_path.is_empty() {
        facts.push(format!("AS path {}", path.as_path));
    }
    let mut number = |name: &str, value: Option<u32>| {
        if let Some(value) = value {
            facts.push(format!("{name} {value}"));
        }
    };
    number("local preference", path.local_pref);
    number("MED", path.med);
    number("interior cost", path.metric);
    number("path identifier", path.path_id);
    list("communities", &path.communities, &mut facts);
    list("large communities", &path.large_communities, &mut facts);
    list("extended communities", &path.extended_communities, &mut facts);
    if path.atomic_aggregate {
        facts.push("atomic aggregate".to_owned());
    }
    if let Some((asn, router_id)) = path.aggregator {
        facts.push(format!("aggregated by {asn} at {router_id}"));
    }
    if let Some(asn) = path.only_to_customer {
        facts.push(format!("only to customers, says {asn}"));
    }
    if let Some(originator) = path.originator_id {
        facts.push(format!("originator {originator}"));
    }
    list("cluster list", &path.cluster_list, &mut facts);
    let _ = writeln!(text, "        {}", facts.join(", "));
}

fn list(name: &str, values: &[impl ToString], facts: &mut Vec<String>) {
    if !values.is_empty() {
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        facts.push(format!("{name} {}", values.join(" ")));
    }
}

/// A next hop and the way to it.
pub(super) fn nexthop(hop: &NexthopView) -> String {
    match hop.metric {
        Some(metric) if hop.reachable => {
            format!("{} via {}, metric {metric}", hop.address, hop.via.join(" and "))
        }
        _ => format!("{} cannot be reached: no route of another program leads to it", hop.address),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rib::tests::sample;
    use super::*;

    #[test]
    fn a_decision_tells_who_won_who_lost_and_how_it_leaves_the_host() {
        let best = sample("10.244.2.0/26", Some("rr1"));
        let lost = PathView {
            best: false,
            why: Some("higher router id".to_owned()),
            only_to_customer: None,
            originator_id: Some("10.1.2.12".parse::<std::net::Ipv4Addr>().unwrap().into()),
            communities: vec!["65001:100".parse().unwrap()],
            ..sample("10.244.2.0/26", Some("rr2"))
        };
        let hop = NexthopView {
            address: "10.1.2.12".to_owned(),
            reachable: true,
            metric: Some(0),
            via: vec!["10.1.1.1 dev eth0".to_owned()],
        };
        let decision = Decision {
            prefix: Some("10.244.2.0/26".parse().unwrap()),
            paths: vec![best, lost],
            nexthops: vec![hop],
            kernel_failure: None,
        };
        let expected = "\
10.244.2.0/26: 2 paths
  *>  from rr1 via 10.1.2.12: best
        origin IGP, AS path 65002 65003, local preference 100, interior cost 0
  *   from rr2 via 10.1.2.12: higher router id
        origin IGP, AS path 65002 65003, local preference 100, interior cost 0, communities 65001:100, \
originator 10.1.2.12
Next hops in use
  10.1.2.12 via 10.1.1.1 dev eth0, metric 0
";
        assert_eq!(render(&decision), expected);
    }
}
