//! Paths.

use turnpike_bgpd_api::view::PathView;

use super::text::{counted, or_dash};
use crate::table::table;

/// Paths in the order given, one a line.
pub(super) fn render(paths: &[PathView]) -> String {
    let heading = ["", "Network", "Next hop", "Metric", "LocPrf", "MED", "AS path", "Origin", "From"];
    let mut rows = Vec::new();
    let mut last = None;
    for path in paths {
        let network = if last == Some(path.prefix) { String::new() } else { path.prefix.to_string() };
        last = Some(path.prefix);
        rows.push([
            codes(path),
            network,
            or_dash(path.next_hop),
            or_dash(path.metric),
            or_dash(path.local_pref),
            or_dash(path.med),
            if path.as_path.is_empty() { "-".to_owned() } else { path.as_path.clone() },
            path.origin.clone(),
            which(path),
        ]);
    }
    let legend = "* usable, > best, = in the kernel's route with the best, S kept for a restarting peer";
    format!("{legend}\n\n{}\n{}\n", table(heading, &rows), counted(paths.len(), "path"))
}

/// The path's state in three letters.
pub(super) fn codes(path: &PathView) -> String {
    let usable = path.from.is_none() || path.metric.is_some();
    let rank = if path.best {
        '>'
    } else if path.multipath {
        '='
    } else {
        ' '
    };
    [if usable { '*' } else { ' ' }, rank, if path.stale { 'S' } else { ' ' }].iter().collect()
}

/// Who told us.
pub(super) fn from(path: &PathView) -> String {
    match (&path.from_name, path.from) {
        (Some(name), _) => name.clone(),
        (None, Some(address)) => address.to_string(),
        (None, None) => match &path.owner {
            Some(owner) => format!("ourselves ({owner})"),
            None => "ourselves".to_owned(),
        },
    }
}

/// Who told us, and with add-path (RFC 7911) which of its paths it is.
fn which(path: &PathView) -> String {
    match path.path_id {
        Some(id) => format!("{} (path {id})", from(path)),
        None => from(path),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bgp) fn sample(prefix: &str, from: Option<&str>) -> PathView {
        PathView {
            prefix: prefix.parse().unwrap(),
            path_id: None,
            from: from.map(|_| "10.1.3.21".parse().unwrap()),
            from_name: from.map(str::to_owned),
            owner: from.is_none().then(|| "turnpike-agent".to_owned()),
            next_hop: from.map(|_| "10.1.2.12".parse().unwrap()),
            metric: from.map(|_| 0),
            origin: "IGP".to_owned(),
            as_path: if from.is_some() { "65002 65003".to_owned() } else { String::new() },
            med: None,
            local_pref: Some(100),
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            extended_communities: Vec::new(),
            large_communities: Vec::new(),
            only_to_customer: None,
            originator_id: None,
            cluster_list: Vec::new(),
            best: true,
            multipath: false,
            stale: false,
            why: None,
        }
    }

    #[test]
    fn paths_of_one_prefix_share_its_name() {
        let own = sample("10.244.1.0/26", None);
        let best = sample("10.244.2.0/26", Some("rr1"));
        let second =
            PathView { best: false, multipath: true, stale: true, ..sample("10.244.2.0/26", Some("rr2")) };
        let lost =
            PathView { best: false, metric: None, path_id: Some(7), ..sample("10.244.2.0/26", Some("gw1")) };
        let text = render(&[own, best, second, lost]);
        let expected = "\
* usable, > best, = in the kernel's route with the best, S kept for a restarting peer

       Network        Next hop   Metric  LocPrf  MED  AS path      Origin  From
  *>   10.244.1.0/26  -          -       100     -    -            IGP     ourselves (turnpike-agent)
  *>   10.244.2.0/26  10.1.2.12  0       100     -    65002 65003  IGP     rr1
  *=S                 10.1.2.12  0       100     -    65002 65003  IGP     rr2
                      10.1.2.12  -       100     -    65002 65003  IGP     gw1 (path 7)

4 paths
";
        assert_eq!(text, expected);
    }
}
