//! Every piece of a file that does not fit its type, not only the first: the file is taken apart at its lists, and
//! within a piece each wrong field is put aside to see the next.

use serde::de::DeserializeOwned;
use toml::{Table, Value};
use turnpike_bgp_wire::{AnyCommunity, AsPathPattern};

use super::load::remedy;
use super::{Config, Network, Peer, Policy, PrefixRule, Problem, Rule};

/// Wrong fields named per piece; whoever has more has another kind of file.
const MOST: usize = 16;

/// The mistakes, without lines; empty if the text is no TOML, or fits.
pub(super) fn mistakes(text: &str) -> Vec<Problem> {
    let Ok(file) = text.parse::<Table>() else { return Vec::new() };
    // What a group says counts for its members: without it a piece is not what it will be.
    let grouped = |peers: &Vec<Value>| peers.iter().any(|peer| peer.get("group").is_some());
    if ["peer_group", "listen_range"].iter().any(|key| file.contains_key(*key))
        || file.get("peer").and_then(Value::as_array).is_some_and(grouped)
    {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (key, value) in file {
        match (key.as_str(), value) {
            ("peer", Value::Array(peers)) => each::<Peer>("peer", peers, &mut found),
            ("network", Value::Array(networks)) => each::<Network>("network", networks, &mut found),
            ("prefix_sets", Value::Table(sets)) => named::<PrefixRule>("prefix_sets", sets, &mut found),
            ("community_sets", Value::Table(sets)) => {
                named::<AnyCommunity>("community_sets", sets, &mut found);
            }
            ("as_path_sets", Value::Table(sets)) => named::<AsPathPattern>("as_path_sets", sets, &mut found),
            ("policies", Value::Table(policies)) => {
                for (name, policy) in policies {
                    policy_pieces(&format!("policies.{name}"), policy, &mut found);
                }
            }
            (_, value) => {
                let alone = Table::from_iter([(key, value)]);
                piece::<Config>("", Value::Table(alone), &mut found);
            }
        }
    }
    found
}

/// Sets of a table, and the members of each.
fn named<T: DeserializeOwned>(place: &str, sets: Table, found: &mut Vec<Problem>) {
    for (name, set) in sets {
        let place = format!("{place}.{name}");
        match set {
            Value::Array(members) => each::<T>(&place, members, found),
            other => piece::<Vec<T>>(&place, other, found),
        }
    }
}

fn policy_pieces(place: &str, policy: Value, found: &mut Vec<Problem>) {
    let Value::Table(mut policy) = policy else {
        return piece::<Policy>(place, policy, found);
    };
    match policy.remove("rule") {
        Some(Value::Array(rules)) => each::<Rule>(&format!("{place}.rule"), rules, found),
        Some(other) => {
            policy.insert("rule".to_owned(), other);
        }
        None => {}
    }
    piece::<Policy>(place, Value::Table(policy), found);
}

fn each<T: DeserializeOwned>(list: &str, items: Vec<Value>, found: &mut Vec<Problem>) {
    for (index, item) in items.into_iter().enumerate() {
        piece::<T>(&format!("{list}[{index}]"), item, found);
    }
}

fn piece<T: DeserializeOwned>(place: &str, mut value: Value, found: &mut Vec<Problem>) {
    let mut aside: Vec<String> = Vec::new();
    let begin = found.len();
    for _ in 0..MOST {
        let Err(error) = serde_path_to_error::deserialize::<_, T>(value.clone()) else { return };
        let path = error.path().to_string();
        let message = error.inner().message().to_owned();
        // It is there, wrong or misspelt, and that has been named.
        let mut misspelt = found.iter().skip(begin).filter_map(|problem| problem.remedy.as_deref());
        if aside.iter().any(|field| message == format!("missing field `{field}`"))
            || misspelt.any(|remedy| {
                remedy.strip_prefix("did you mean ").and_then(|rest| rest.strip_suffix('?'))
                    == message.strip_prefix("missing field ")
            })
        {
            return;
        }
        let field = match (place, path.as_str()) {
            (place, ".") => place.to_owned(),
            ("", path) => path.to_owned(),
            (place, path) => format!("{place}.{path}"),
        };
        found.push(Problem { line: None, field, remedy: remedy(&message), message });
        if !put_aside(&mut value, &path) {
            return;
        }
        aside.push(path.rsplit('.').next().unwrap_or(&path).to_owned());
    }
}

/// Takes the field at `path` out; `false` where it is no field of a table (a list's member, or missing).
fn put_aside(value: &mut Value, path: &str) -> bool {
    let (tables, last) = match path.rsplit_once('.') {
        Some((tables, last)) => (Some(tables), last),
        None => (None, path),
    };
    let holder =
        tables.into_iter().flat_map(|tables| tables.split('.')).try_fold(value, |at, key| at.get_mut(key));
    holder.and_then(Value::as_table_mut).is_some_and(|table| table.remove(last).is_some())
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn every_wrong_field_of_every_piece_is_named_with_its_line() {
        let text = "\
asn = 65001
[kernel]
table = \"main\"
metrik = 3
[[peer]]
address = \"10.1.3.21\"
remote_a = 65001
hold_time = \"long\"
[[peer]]
address = \"10.1.3.299\"
remote_as = 65002
[prefix_sets]
pools = [\"10.244.0.0/16 le 26\", \"10.0.0.0/8 le 33\"]
[[policies.in.rule]]
when = { famly = \"ipv4\" }
verdict = \"maybe\"
";
        let found = parse(text).unwrap_err();
        let places: Vec<(Option<usize>, &str)> =
            found.iter().map(|problem| (problem.line, problem.field.as_str())).collect();
        assert_eq!(
            places,
            [
                (Some(3), "kernel.table"),
                (Some(4), "kernel.metrik"),
                (Some(7), "peer[0].remote_a"),
                (Some(8), "peer[0].hold_time"),
                (Some(10), "peer[1].address"),
                (Some(13), "prefix_sets.pools[1]"),
                (Some(15), "policies.in.rule[0].when.famly"),
                (Some(16), "policies.in.rule[0].verdict"),
            ],
            "{found:#?}"
        );
        assert!(
            found.iter().any(|one| one.remedy.as_deref() == Some("did you mean `metric`?")),
            "{found:#?}"
        );
    }
}
