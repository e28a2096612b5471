//! What the data plane finds out about its node: uplinks, and the MTU that pods get.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::address::AddressScope;

use crate::endpoint::LINK_PREFIX;
use crate::links::{self, KernelRoute, Link};
use crate::netlink::{Netlink, Refusal};
use crate::{MtuDecision, MtuRule, NodeFacts, Uplink};

const ETHERNET_MTU: u32 = 1500;
/// Kinds of links that lead to other things on this node, unless a default route says otherwise.
const INNER_KINDS: [&str; 6] = ["bridge", "dummy", "ifb", "nlmon", "tun", "wireguard"];

/// Reads the node's uplinks and decides the MTU of new pod links.
pub(crate) fn read(
    netlink: &mut Netlink,
    defaults: &[KernelRoute],
    configured_mtu: Option<u32>,
) -> Result<NodeFacts, Refusal> {
    let links = links::all(netlink)?;
    let addressed: BTreeSet<u32> = links::all_addresses(netlink)?
        .into_iter()
        .filter(|(_, _, scope)| *scope == AddressScope::Universe)
        .map(|(index, ..)| index)
        .collect();
    let uplinks = uplinks(&links, &addressed, defaults);
    let mtu = decide_mtu(&uplinks, configured_mtu);
    Ok(NodeFacts { uplinks, mtu })
}

fn uplinks(links: &BTreeMap<String, Link>, addressed: &BTreeSet<u32>, routes: &[KernelRoute]) -> Vec<Uplink> {
    let defaults: BTreeSet<u32> = routes.iter().flat_map(|route| route.links.iter().copied()).collect();
    links
        .values()
        .filter(|link| link.up && !link.loopback && !link.name.starts_with(LINK_PREFIX))
        .filter_map(|link| {
            let has_default_route = defaults.contains(&link.index);
            let inner = link.kind.as_deref().is_some_and(|kind| INNER_KINDS.contains(&kind));
            let leads_out = has_default_route || (addressed.contains(&link.index) && !inner);
            leads_out.then(|| Uplink {
                name: link.name.clone(),
                ifindex: link.index,
                mtu: link.mtu,
                has_default_route,
            })
        })
        .collect()
}

fn decide_mtu(uplinks: &[Uplink], configured: Option<u32>) -> MtuDecision {
    if let Some(mtu) = configured {
        return MtuDecision { mtu, rule: MtuRule::Configured };
    }
    let smallest = |default: bool| {
        uplinks.iter().filter(|link| link.has_default_route == default).min_by_key(|link| link.mtu)
    };
    if let Some(link) = smallest(true) {
        return MtuDecision { mtu: link.mtu, rule: MtuRule::DefaultRoute(link.name.clone()) };
    }
    match smallest(false) {
        Some(link) => MtuDecision { mtu: link.mtu, rule: MtuRule::OnLink(link.name.clone()) },
        None => MtuDecision { mtu: ETHERNET_MTU, rule: MtuRule::Fallback },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(name: &str, mtu: u32, has_default_route: bool) -> Uplink {
        Uplink { name: name.to_owned(), ifindex: 1, mtu, has_default_route }
    }

    #[test]
    fn a_configured_mtu_wins() {
        let decision = decide_mtu(&[uplink("eth0", 9000, true)], Some(1400));
        assert_eq!(decision, MtuDecision { mtu: 1400, rule: MtuRule::Configured });
    }

    #[test]
    fn the_smallest_mtu_among_default_routes_decides_before_on_link_ones() {
        let links = [uplink("eth0", 9000, true), uplink("eth1", 8900, true), uplink("mgmt", 1500, false)];
        assert_eq!(
            decide_mtu(&links, None),
            MtuDecision { mtu: 8900, rule: MtuRule::DefaultRoute("eth1".to_owned()) }
        );
        assert_eq!(
            decide_mtu(&links[2..], None),
            MtuDecision { mtu: 1500, rule: MtuRule::OnLink("mgmt".to_owned()) }
        );
        assert_eq!(decide_mtu(&[], None), MtuDecision { mtu: 1500, rule: MtuRule::Fallback });
    }
}
