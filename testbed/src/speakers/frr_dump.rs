//! Reads `show bgp <family> unicast json detail`.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use super::rib::{Origin, RibEntry, as_path, community};

/// The paths of a dump, in no particular order.
pub(super) fn parse(text: &str) -> Result<Vec<RibEntry>> {
    // An empty table is an empty object, or no answer at all.
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let dump: Value = serde_json::from_str(text).context("JSON")?;
    let Some(routes) = dump.get("routes").and_then(Value::as_object) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (prefix, route) in routes {
        let prefix: IpNetwork = prefix.parse().with_context(|| format!("prefix {prefix:?}"))?;
        let paths = route.get("paths").unwrap_or(route);
        for path in paths.as_array().with_context(|| format!("paths of {prefix}"))? {
            let path = path.as_object().with_context(|| format!("a path of {prefix}"))?;
            // The first element of the array is not a path: the prefix and its table version.
            if !path.contains_key("aspath") && path.contains_key("prefix") {
                continue;
            }
            found.push(entry(prefix, path).with_context(|| format!("a path of {prefix}"))?.normalise());
        }
    }
    Ok(found)
}

fn entry(prefix: IpNetwork, path: &Map<String, Value>) -> Result<RibEntry> {
    let own = path.get("sourced").or_else(|| path.get("local")).is_some_and(|value| value == true);
    let from_peer = if own { None } else { Some(text(path, &["peer", "peerId"]).context("peer")?.parse()?) };
    let ases = text(path, &["aspath", "string"]).context("aspath")?;
    let number = |key: &str| path.get(key).and_then(Value::as_u64).map(u32::try_from).transpose();
    let strings = |key: &str| -> Vec<String> {
        let list = at(path, &[key, "list"]).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Ok(RibEntry {
        from_peer,
        best: at(path, &["bestpath", "overall"]).is_some_and(|value| value == true),
        next_hop: next_hop(path)?,
        as_path: if ases == "Local" { String::new() } else { as_path(ases) },
        origin: text(path, &["origin"]).and_then(Origin::parse).context("origin")?,
        local_pref: number("locPrf")?,
        med: number("metric")?,
        communities: strings("community")
            .iter()
            .map(|text| community(text))
            .chain(strings("largeCommunity"))
            .collect(),
        originator_id: text(path, &["originatorId"]).map(str::parse).transpose()?,
        cluster_list: strings("clusterList").iter().map(|id| id.parse()).collect::<Result<_, _>>()?,
        ..RibEntry::new(prefix)
    })
}

/// The global next hop; FRR gives a link-local one beside it for peers on the same link.
fn next_hop(path: &Map<String, Value>) -> Result<Option<IpAddr>> {
    let hops = path.get("nexthops").and_then(Value::as_array).into_iter().flatten();
    let mut global = hops.filter(|hop| hop.get("scope").is_none_or(|scope| scope != "link-local"));
    let address = global.find_map(|hop| hop.get("ip").and_then(Value::as_str));
    Ok(address.map(str::parse).transpose()?)
}

fn at<'a>(path: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a Value> {
    let (first, rest) = keys.split_first()?;
    rest.iter().try_fold(path.get(*first)?, |value, key| value.get(key))
}

fn text<'a>(path: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a str> {
    at(path, keys).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speakers::describe;

    /// As FRR 8.4.4 prints it, shortened where nothing is read: a learned path, an own one, and two paths with a reflector.
    const DUMP: &str = r#"{
 "vrfId": 0, "vrfName": "default", "tableVersion": 4, "routerId": "10.0.0.3", "defaultLocPrf": 100, "localAS": 65001,
 "routes": { "10.50.0.0/16": [{"prefix":"10.50.0.0/16","version":1},{"aspath":{"string":"65002 {65003,65004}",
"segments":[],"length":2},"origin":"IGP","metric":7,"valid":true,"version":1,"bestpath":{"overall":true,
"selectionReason":"First path received"},"community":{"string":"65001:20 65001:100","list":["65001:20","65001:100"]},
"nexthops":[{"ip":"10.1.3.1","hostname":"origin","afi":"ipv4","metric":0,"accessible":true,"used":true}],
"peer":{"peerId":"10.1.3.1","routerId":"10.0.0.1","hostname":"origin","type":"external"}}]
,"10.60.0.0/16": [{"prefix":"10.60.0.0/16","version":2},{"aspath":{"string":"Local","segments":[],"length":0},
"origin":"IGP","metric":0,"weight":32768,"valid":true,"version":1,"sourced":true,"local":true,
"bestpath":{"overall":true,"selectionReason":"First path received"},
"nexthops":[{"ip":"0.0.0.0","hostname":"vm","afi":"ipv4","metric":0,"accessible":true,"used":true}],
"peer":{"peerId":"0.0.0.0","routerId":"10.0.0.1"}}]
,"fd00:50::/48": [{"prefix":"fd00:50::/48","version":3},{"aspath":{"string":"Local","segments":[],"length":0},
"origin":"incomplete","locPrf":150,"valid":true,"originatorId":"10.0.0.9",
"clusterList":{"list":["10.9.9.9","10.8.8.8"]},
"nexthops":[{"ip":"fd00:1::1","afi":"ipv6","scope":"global","metric":0,"accessible":true,"used":true},
{"ip":"fe80::1","afi":"ipv6","scope":"link-local","accessible":true}],
"peer":{"peerId":"fd00:1:3::1","routerId":"10.0.0.1","type":"internal"}}]
 }  }"#;

    #[test]
    fn a_dump_is_read_with_all_its_paths() {
        let expected = "\
            *10.50.0.0/16 from 10.1.3.1 via 10.1.3.1 path [65002 {65003,65004}] igp lp 100 med 7 \
            communities 65001:100 65001:20\n\
            *10.60.0.0/16 own path [] igp med 0\n\
            \x20fd00:50::/48 from fd00:1:3::1 via fd00:1::1 path [] incomplete lp 150 originator 10.0.0.9 \
            clusters 10.9.9.9 10.8.8.8\n";
        let mut rib = parse(DUMP).unwrap();
        rib.sort();
        assert_eq!(describe(&rib), expected);
    }

    #[test]
    fn an_empty_table_has_no_paths() {
        assert!(parse("{\n}\n").unwrap().is_empty());
        assert!(parse("").unwrap().is_empty());
    }
}
