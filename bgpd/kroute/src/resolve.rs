//! Next-hop resolution against the kernel's routes, our own left out.
//!
//! The kernel itself is asked (RTM_GETROUTE with RTM_F_FIB_MATCH: the table entry that packets would follow, policy
//! rules included), and asked again for those addresses that an event may have touched. A route of ours that covers
//! a next hop must not count, or BGP would hold itself up by its own boots; only then is the table read in whole
//! for the best entry of someone else, and kept until the next event.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteType;

use crate::message::nexthop::{NexthopKind, NexthopMessage};
use crate::message::route::{self, KernelRoute, Way};
use crate::message::{RTM_GETNEXTHOP, RTM_GETROUTE};
use crate::monitor::Event;
use crate::requests::Requests;
use crate::{Error, Hop, Owner, Resolution};

/// `RT_TABLE_MAIN`.
const MAIN: u32 = 254;

/// Addresses whose resolution somebody wants to know.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    hops: BTreeMap<Hop, Tracked>,
    dirty: BTreeSet<Hop>,
    /// Other programs' routes, read when one of ours covered a next hop.
    others: Option<BTreeMap<IpNetwork, KernelRoute>>,
}

#[derive(Debug)]
struct Tracked {
    users: usize,
    /// `None` until first resolved.
    resolution: Option<Resolution>,
}

impl Resolver {
    /// One more user of `hop`.
    pub(crate) fn hold(&mut self, hop: Hop) {
        let tracked = self.hops.entry(hop).or_insert(Tracked { users: 0, resolution: None });
        tracked.users += 1;
        if tracked.resolution.is_none() {
            self.dirty.insert(hop);
        }
    }

    /// One user less.
    pub(crate) fn release(&mut self, hop: Hop) {
        let Some(tracked) = self.hops.get_mut(&hop) else { return };
        tracked.users = tracked.users.saturating_sub(1);
        if tracked.users == 0 {
            self.hops.remove(&hop);
            self.dirty.remove(&hop);
        }
    }

    /// What is known of `hop` now.
    pub(crate) fn get(&self, hop: Hop) -> Option<&Resolution> {
        self.hops.get(&hop)?.resolution.as_ref()
    }

    /// Marks what `event` may have changed.
    pub(crate) fn observe(&mut self, event: &Event, owner: &Owner) {
        match event {
            Event::RouteAdded { route, .. } | Event::RouteDeleted(route)
                if route.protocol == owner.protocol => {}
            Event::NexthopChanged(object) if owner.nexthop_ids.contains(&object.id) => {}
            Event::NexthopDeleted(id) if owner.nexthop_ids.contains(id) => {}
            _ => {
                self.others = None;
                match event.prefix() {
                    Some(prefix) => self.touch(prefix),
                    None => self.dirty.extend(self.hops.keys()),
                }
            }
        }
    }

    /// Marks everything.
    pub(crate) fn touch_all(&mut self) {
        self.others = None;
        self.dirty.extend(self.hops.keys());
    }

    fn touch(&mut self, prefix: IpNetwork) {
        let first = Hop { address: prefix.network(), scope: 0 };
        let last = Hop { address: prefix.broadcast(), scope: u32::MAX };
        self.dirty.extend(self.hops.range(first..=last).map(|(hop, _)| *hop));
    }

    /// Resolves what is marked; the next hops whose outcome differs from before, with the new one.
    pub(crate) fn refresh(
        &mut self,
        requests: &mut Requests,
        owner: &Owner,
    ) -> Result<Vec<(Hop, Resolution)>, Error> {
        let mut changes = Vec::new();
        while let Some(hop) = self.dirty.first().copied() {
            let resolution = self.resolve(hop, requests, owner)?;
            self.dirty.remove(&hop);
            if let Some(tracked) = self.hops.get_mut(&hop)
                && tracked.resolution.as_ref() != Some(&resolution)
            {
                tracked.resolution = Some(resolution.clone());
                changes.push((hop, resolution));
            }
        }
        Ok(changes)
    }

    fn resolve(&mut self, hop: Hop, requests: &mut Requests, owner: &Owner) -> Result<Resolution, Error> {
        let Ok(payload) = requests.ask("a next-hop lookup", RTM_GETROUTE, route::lookup(hop))? else {
            return Ok(Resolution::Unreachable);
        };
        let Ok(mut entry) = KernelRoute::parse(&payload) else { return Ok(Resolution::Unreachable) };
        if entry.protocol == owner.protocol {
            match self.best_of_others(hop.address, entry.table, requests, owner)? {
                Some(other) => entry = other,
                None => return Ok(Resolution::Unreachable),
            }
        }
        if entry.ways.is_empty()
            && let Some(id) = entry.nexthop
        {
            entry.ways = ways_of_object(requests, id)?;
        }
        Ok(judge(&entry, hop.address))
    }

    fn best_of_others(
        &mut self,
        address: IpAddr,
        table: u32,
        requests: &mut Requests,
        owner: &Owner,
    ) -> Result<Option<KernelRoute>, Error> {
        if self.others.is_none() {
            self.others = Some(read_others(requests, owner, table)?);
        }
        let others = self.others.as_ref();
        let longest = if address.is_ipv4() { 32 } else { 128 };
        Ok((0..=longest).rev().find_map(|length| {
            let prefix = IpNetwork::new(address, length).ok()?;
            let prefix = IpNetwork::new(prefix.network(), length).ok()?;
            others?.get(&prefix).cloned()
        }))
    }
}

/// Every route of the table that is not ours, the one of lowest metric for each prefix.
fn read_others(
    requests: &mut Requests,
    owner: &Owner,
    table: u32,
) -> Result<BTreeMap<IpNetwork, KernelRoute>, Error> {
    let mut best: BTreeMap<IpNetwork, KernelRoute> = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let body = route::dump(family, None);
        let found = requests.dump("a dump of routes", RTM_GETROUTE, body, |payload| {
            let (_, protocol) = route::peek(payload)?;
            if protocol == owner.protocol {
                return None;
            }
            let entry = KernelRoute::parse(payload).ok()?;
            let counts = !entry.cloned && !entry.special && (entry.table == table || entry.table == MAIN);
            counts.then_some(entry)
        })?;
        for entry in found {
            match best.get(&entry.prefix) {
                Some(known) if known.metric <= entry.metric => {}
                _ => {
                    best.insert(entry.prefix, entry);
                }
            }
        }
    }
    Ok(best)
}

/// The ways of another program's nexthop object, for kernels that do not spell them out in the route
/// (`net.ipv4.nexthop_compat_mode=0`).
fn ways_of_object(requests: &mut Requests, id: u32) -> Result<Vec<Way>, Error> {
    let members = match object(requests, id)? {
        Some(NexthopKind::Group(members)) => members,
        Some(kind) => return Ok(way(&kind).into_iter().collect()),
        None => return Ok(Vec::new()),
    };
    let mut ways = Vec::new();
    for member in members {
        ways.extend(object(requests, member.id)?.as_ref().and_then(way));
    }
    Ok(ways)
}

fn object(requests: &mut Requests, id: u32) -> Result<Option<NexthopKind>, Error> {
    let answer = requests.ask("a nexthop object", RTM_GETNEXTHOP, NexthopMessage::named(id))?;
    Ok(answer.ok().and_then(|payload| NexthopMessage::parse(&payload[..]).ok()).map(|object| object.kind))
}

fn way(kind: &NexthopKind) -> Option<Way> {
    match *kind {
        NexthopKind::Single(gateway) => {
            Some(Way { gateway: Some(gateway.address), ifindex: gateway.ifindex, onlink: gateway.onlink })
        }
        NexthopKind::Link(ifindex) => Some(Way { gateway: None, ifindex, onlink: false }),
        NexthopKind::Group(_) | NexthopKind::Other => None,
    }
}

/// What a table entry means for an address that it covers.
fn judge(entry: &KernelRoute, address: IpAddr) -> Resolution {
    match entry.kind {
        RouteType::Local | RouteType::Anycast => Resolution::Local,
        RouteType::Unicast if !entry.ways.is_empty() => {
            let connected = entry.ways.iter().all(|way| way.gateway.is_none());
            let metric = if connected { 0 } else { entry.metric };
            Resolution::Reachable { gateways: route::gateways(entry, address), metric }
        }
        _ => Resolution::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gateway;

    fn entry(kind: RouteType, gateway: Option<&str>) -> KernelRoute {
        KernelRoute {
            prefix: "10.1.0.0/16".parse().unwrap(),
            protocol: 16,
            table: MAIN,
            metric: 100,
            kind,
            nexthop: None,
            source: None,
            ways: vec![Way { gateway: gateway.map(|text| text.parse().unwrap()), ifindex: 2, onlink: false }],
            cloned: false,
            special: false,
        }
    }

    #[test]
    fn a_connected_next_hop_is_its_own_gateway_at_no_cost() {
        let address = "10.1.2.12".parse().unwrap();
        let expected = Resolution::Reachable {
            gateways: vec![Gateway { address, ifindex: 2, onlink: false }],
            metric: 0,
        };
        assert_eq!(judge(&entry(RouteType::Unicast, None), address), expected);
    }

    #[test]
    fn a_routed_next_hop_costs_the_metric_of_its_route() {
        let address = "10.1.2.12".parse().unwrap();
        let Resolution::Reachable { gateways, metric } =
            judge(&entry(RouteType::Unicast, Some("10.1.1.1")), address)
        else {
            panic!("not reachable")
        };
        assert_eq!((gateways[0].address.to_string(), metric), ("10.1.1.1".to_owned(), 100));
    }

    #[test]
    fn own_addresses_and_rejects_are_no_next_hops() {
        let address = "10.1.2.12".parse().unwrap();
        assert_eq!(judge(&entry(RouteType::Local, None), address), Resolution::Local);
        for kind in [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit, RouteType::Throw] {
            assert_eq!(judge(&entry(kind, None), address), Resolution::Unreachable);
        }
    }

    #[test]
    fn a_route_event_touches_only_the_addresses_under_its_prefix() {
        let owner = Owner::BGPD;
        let mut resolver = Resolver::default();
        for text in ["10.1.2.12", "10.2.0.1", "fd00::1"] {
            resolver.hold(Hop::from(text.parse::<IpAddr>().unwrap()));
        }
        resolver.dirty.clear();
        resolver.observe(&Event::RouteDeleted(entry(RouteType::Unicast, None)), &owner);
        assert_eq!(resolver.dirty, BTreeSet::from([Hop::from("10.1.2.12".parse::<IpAddr>().unwrap())]));
        resolver.observe(&Event::LinkDown(9), &owner);
        assert_eq!(resolver.dirty.len(), 3);
    }
}
