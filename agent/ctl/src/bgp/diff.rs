//! What a configuration would change.

use std::fmt::Write as _;

use turnpike_bgpd_api::Table;
use turnpike_bgpd_api::view::{DiffView, PathView, PrefixChange, SessionChange, TableDiff};

use super::rib::from;

/// Sessions, then tables, then what is worth knowing.
pub(super) fn render(view: &DiffView) -> String {
    let mut text = String::new();
    if view.sessions.is_empty() {
        text.push_str("Sessions: none is touched\n");
    } else {
        text.push_str("Sessions\n");
    }
    for change in &view.sessions {
        let _ = writeln!(text, "  {}", session(change));
    }
    if view.tables.is_empty() {
        text.push_str("Tables: no prefix changes\n");
    }
    for table in &view.tables {
        let name = match &table.table {
            Table::Loc => "Best paths".to_owned(),
            Table::In(peer) => format!("Taken from {peer}"),
            Table::Out(peer) => format!("Told to {peer}"),
        };
        let TableDiff { added, removed, changed, .. } = table;
        let _ = writeln!(text, "{name}: +{added} -{removed} ~{changed}");
        for prefix in &table.prefixes {
            prefix_lines(prefix, &mut text);
        }
        let more = (added + removed + changed).saturating_sub(table.prefixes.len());
        if more > 0 {
            let _ = writeln!(text, "  … and {more} more");
        }
    }
    for note in &view.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    text
}

/// A session in one line.
pub(super) fn session(change: &SessionChange) -> String {
    let state = if change.established { ", established" } else { "" };
    let fields = match change.fields.as_slice() {
        [] => String::new(),
        fields => format!(" ({})", fields.join(", ")),
    };
    format!("{} {}{state}: {}{fields}", change.name, change.address, change.effect)
}

fn prefix_lines(change: &PrefixChange, text: &mut String) {
    let prefix = change.prefix;
    match (&change.before, &change.after) {
        (None, Some(path)) => {
            let _ = writeln!(text, "  + {prefix} {}", words(path));
        }
        (Some(path), None) => {
            let _ = writeln!(text, "  - {prefix} {}", words(path));
        }
        (Some(before), Some(after)) => {
            let (before, after) = (words(before), words(after));
            if before == after {
                let _ = writeln!(text, "  ~ {prefix} {before}: another set of equal paths");
            } else {
                let _ = writeln!(text, "  ~ {prefix} {before}");
                let _ = writeln!(text, "    {:1$} {after}", "becomes", prefix.to_string().len());
            }
        }
        (None, None) => {}
    }
}

fn words(path: &PathView) -> String {
    let mut words = vec![format!("from {}", from(path))];
    words.extend(path.next_hop.map(|hop| format!("via {hop}")));
    if !path.as_path.is_empty() {
        words.push(format!("path {}", path.as_path));
    }
    words.extend(path.local_pref.map(|value| format!("local-pref {value}")));
    words.extend(path.med.map(|value| format!("med {value}")));
    let communities = path.communities.iter().map(ToString::to_string);
    let large = path.large_communities.iter().map(ToString::to_string);
    let all: Vec<String> =
        communities.chain(large).chain(path.extended_communities.iter().cloned()).collect();
    if !all.is_empty() {
        words.push(format!("communities {}", all.join(" ")));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use turnpike_bgpd_api::view::Effect;

    use super::super::rib::tests::sample;
    use super::*;

    #[test]
    fn a_difference_reads_from_sessions_to_prefixes() {
        let change = SessionChange {
            name: "gw1".to_owned(),
            address: "10.1.4.2".parse().unwrap(),
            effect: Effect::Reset,
            fields: vec!["hold_time".to_owned()],
            established: true,
        };
        let path = sample("10.244.2.0/26", Some("rr1"));
        let preferred = PathView { local_pref: Some(200), ..path.clone() };
        let prefixes = vec![
            PrefixChange { prefix: path.prefix, before: Some(path.clone()), after: Some(preferred) },
            PrefixChange {
                prefix: "10.244.3.0/26".parse().unwrap(),
                before: None,
                after: Some(sample("10.244.3.0/26", None)),
            },
        ];
        let view = DiffView {
            sessions: vec![change],
            tables: vec![TableDiff { table: Table::Loc, added: 2, removed: 0, changed: 1, prefixes }],
            notes: vec!["changed sections: policies".to_owned()],
        };
        let expected = "\
Sessions
  gw1 10.1.4.2, established: resets (hold_time)
Best paths: +2 -0 ~1
  ~ 10.244.2.0/26 from rr1 via 10.1.2.12 path 65002 65003 local-pref 100
    becomes       from rr1 via 10.1.2.12 path 65002 65003 local-pref 200
  + 10.244.3.0/26 from ourselves (turnpike-agent) local-pref 100
  … and 1 more
Note: changed sections: policies
";
        assert_eq!(render(&view), expected);
        let nothing = "Sessions: none is touched\nTables: no prefix changes\n";
        assert_eq!(render(&DiffView::default()), nothing);
    }
}
