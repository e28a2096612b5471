//! Reads `birdc show route all`.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnetwork::IpNetwork;

use super::rib::{Origin, RibEntry, as_path};

/// The paths of a dump; protocol `peerN` is the N-th of `peers`. Routes that are not BGP's (learned from the kernel, of
/// interfaces) are left out.
pub(super) fn parse(text: &str, peers: &[IpAddr]) -> Result<Vec<RibEntry>> {
    let mut found: Vec<RibEntry> = Vec::new();
    let mut prefix: Option<IpNetwork> = None;
    let mut current: Option<RibEntry> = None;
    for line in text.lines() {
        if let Some(attribute) = line.strip_prefix('\t') {
            if let Some(entry) = current.as_mut() {
                set(entry, attribute.trim()).with_context(|| format!("line {line:?}"))?;
            }
            continue;
        }
        found.extend(current.take().map(RibEntry::normalise));
        if line.starts_with("BIRD ") || line.starts_with("Table ") || line.trim().is_empty() {
            continue;
        }
        // The prefix is given with the first of its paths only.
        let rest = if line.starts_with(' ') {
            line.trim_start()
        } else {
            let (word, rest) = line.split_once(' ').with_context(|| format!("line {line:?}"))?;
            prefix = Some(word.parse().with_context(|| format!("line {line:?}"))?);
            rest.trim_start()
        };
        let prefix = prefix.with_context(|| format!("a path without a prefix: {line:?}"))?;
        current = path(prefix, rest, peers).with_context(|| format!("line {line:?}"))?;
    }
    found.extend(current.map(RibEntry::normalise));
    found.sort();
    Ok(found)
}

/// `unicast [peer0 12:00:00.000 from 10.0.0.1] * (100) [AS65001i]`.
fn path(prefix: IpNetwork, rest: &str, peers: &[IpAddr]) -> Result<Option<RibEntry>> {
    let (_, rest) = rest.split_once('[').context("no protocol")?;
    let (protocol, rest) = rest.split_once(']').context("no end of the protocol")?;
    let name = protocol.split_whitespace().next().context("no name of the protocol")?;
    let from_peer = match name.strip_prefix("peer") {
        Some(number) => {
            Some(*number.parse().ok().and_then(|n: usize| peers.get(n)).context("an unknown peer")?)
        }
        None if name.starts_with("announced") => None,
        None => return Ok(None),
    };
    let best = rest.split_whitespace().next() == Some("*");
    Ok(Some(RibEntry { from_peer, best, ..RibEntry::new(prefix) }))
}

fn set(entry: &mut RibEntry, line: &str) -> Result<()> {
    let Some((key, value)) = line.strip_prefix("BGP.").and_then(|rest| rest.split_once(':')) else {
        return Ok(());
    };
    let value = value.trim();
    match key {
        "origin" => entry.origin = Origin::parse(value).context("origin")?,
        "as_path" => entry.as_path = as_path(value),
        // A global address, and a link-local one in some cases.
        "next_hop" => {
            let hop = value.split_whitespace().next().context("next hop")?;
            entry.next_hop = Some(hop.parse()?);
        }
        "local_pref" => entry.local_pref = Some(value.parse()?),
        "med" => entry.med = Some(value.parse()?),
        "community" | "large_community" => entry.communities.extend(communities(value)),
        "originator_id" => entry.originator_id = Some(value.parse()?),
        "cluster_list" => {
            entry.cluster_list = value.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        }
        _ => {}
    }
    Ok(())
}

/// `(65001,100) (65001, 1, 2)`.
fn communities(value: &str) -> Vec<String> {
    let numbers = |text: &str| text.split(',').map(str::trim).collect::<Vec<_>>().join(":");
    value.split('(').filter_map(|part| part.split_once(')')).map(|(text, _)| numbers(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speakers::describe;

    /// As BIRD 2.0.12 prints it: two paths for a prefix, an own one, one from the kernel.
    const DUMP: &str = "BIRD 2.0.12 ready.\n\
        Table master4:\n\
        0.0.0.0/0            unicast [kernel4 06:21:43.746] * (10)\n\
        \tvia 10.1.3.1 on eth0\n\
        \tType: inherit univ\n\
        \tKernel.source: 4\n\
        10.50.0.0/16         unicast [peer1 06:21:43.746 from 10.1.3.22] * (100/?) [AS65002i]\n\
        \tvia 10.1.4.2 on eth0\n\
        \tType: BGP univ\n\
        \tBGP.origin: IGP\n\
        \tBGP.as_path: 65002 {65003 65004}\n\
        \tBGP.next_hop: 10.1.4.2\n\
        \tBGP.med: 7\n\
        \tBGP.local_pref: 200\n\
        \tBGP.community: (65001,100) (65001,2)\n\
        \tBGP.originator_id: 10.0.0.9\n\
        \tBGP.cluster_list: 9.9.9.9 8.8.8.8\n\
        \tBGP.large_community: (65001, 1, 2)\n\
        \x20                    unreachable [peer0 06:21:43.746 from 10.1.3.21] (100/-) [?]\n\
        \tType: BGP univ\n\
        \tBGP.origin: Incomplete\n\
        \tBGP.as_path: \n\
        \tBGP.next_hop: 10.9.9.9\n\
        10.60.0.0/16         blackhole [announced4 06:21:43.746] * (200)\n\
        \tType: static univ\n\
        \n\
        Table master6:\n\
        fd00:50::/48         unicast [peer1 06:21:43.746] * (100) [i]\n\
        \tvia fe80::1 on eth0\n\
        \tType: BGP univ\n\
        \tBGP.origin: IGP\n\
        \tBGP.as_path: \n\
        \tBGP.next_hop: fd00:1::1 fe80::1\n\
        \tBGP.local_pref: 100\n";

    #[test]
    fn a_dump_is_read_with_all_its_paths() {
        let peers = ["10.1.3.21".parse().unwrap(), "10.1.3.22".parse().unwrap()];
        let expected = "\
            \x2010.50.0.0/16 from 10.1.3.21 via 10.9.9.9 path [] incomplete lp 100\n\
            *10.50.0.0/16 from 10.1.3.22 via 10.1.4.2 path [65002 {65003,65004}] igp lp 200 med 7 \
            communities 65001:100 65001:1:2 65001:2 originator 10.0.0.9 clusters 9.9.9.9 8.8.8.8\n\
            *10.60.0.0/16 own path [] igp\n\
            *fd00:50::/48 from 10.1.3.22 via fd00:1::1 path [] igp lp 100\n";
        assert_eq!(describe(&parse(DUMP, &peers).unwrap()), expected);
    }

    #[test]
    fn a_path_of_a_peer_that_is_not_configured_is_an_error() {
        assert!(parse(DUMP, &[]).is_err());
    }
}
