//! Prefixes and ports as the disjoint ranges that the kernel's interval sets demand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use turnpike_model::desired::{LbSource, Protocol};

use super::spec::Element;

/// An address family, with its address length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// True for prefixes of this family.
    pub(crate) fn has(self, net: &IpNetwork) -> bool {
        net.is_ipv4() == (self == Self::V4)
    }

    /// Largest address as a number.
    fn last(self) -> u128 {
        match self {
            Self::V4 => u128::from(u32::MAX),
            Self::V6 => u128::MAX,
        }
    }

    fn octets(self, address: u128) -> Vec<u8> {
        match self {
            Self::V4 => u32::try_from(address).unwrap_or(u32::MAX).to_be_bytes().to_vec(),
            Self::V6 => address.to_be_bytes().to_vec(),
        }
    }
}

/// Inclusive range of addresses as numbers.
type Range = (u128, u128);

/// An address in network byte order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Prefixes of one family as boundaries of merged, disjoint ranges.
pub(crate) fn boundaries<'a>(family: Family, nets: impl IntoIterator<Item = &'a IpNetwork>) -> Vec<Element> {
    let mut elements = Vec::new();
    for (first, last) in merge(nets.into_iter().filter(|net| family.has(net)).map(range).collect()) {
        elements.push(Element::exact(family.octets(first)));
        // A range up to the last address has no key behind it.
        if last < family.last() {
            let behind = family.octets(last.saturating_add(1));
            elements.push(Element { key: behind, key_end: None, range_end: true, value: None });
        }
    }
    elements.sort();
    elements
}

/// Which (protocol, port) pairs qualify: protocol number and an inclusive range of ports.
type Services = BTreeSet<(u8, u16, u16)>;

/// Bypassing sources of one family as `address range . protocol . port range`: disjoint, so that overlapping
/// sources with different ports are one set.
pub(crate) fn services<'a>(family: Family, sources: impl IntoIterator<Item = &'a LbSource>) -> Vec<Element> {
    let rules: Vec<(Range, Services)> = sources
        .into_iter()
        .flat_map(|source| {
            let services = services_of(source);
            source.cidrs.iter().filter(|net| family.has(net)).map(move |net| (range(net), services.clone()))
        })
        .collect();
    let mut elements = Vec::new();
    for ((first, last), services) in partition(&rules) {
        for (protocol, low, high) in join_ports(&services) {
            let key = |address: u128, port: u16| {
                let mut key = family.octets(address);
                key.extend([protocol, 0, 0, 0]);
                key.extend(port.to_be_bytes());
                key.extend([0, 0]);
                key
            };
            elements.push(Element { key_end: Some(key(last, high)), ..Element::exact(key(first, low)) });
        }
    }
    elements.sort();
    elements
}

/// Pairs of prefixes of one family as `address range . address range`, disjoint.
pub(crate) fn pairs(family: Family, entries: &[(BTreeSet<IpNetwork>, BTreeSet<IpNetwork>)]) -> Vec<Element> {
    let of_family = |nets: &BTreeSet<IpNetwork>| {
        nets.iter().filter(|net| family.has(net)).map(range).collect::<Vec<Range>>()
    };
    let rules: Vec<(Range, BTreeSet<Range>)> = entries
        .iter()
        .flat_map(|(left, right)| {
            let right: BTreeSet<Range> = of_family(right).into_iter().collect();
            of_family(left).into_iter().map(move |left| (left, right.clone()))
        })
        .collect();
    let mut elements = Vec::new();
    for (left, right) in partition(&rules) {
        for right in merge(right.into_iter().collect()) {
            let key = |left: u128, right: u128| [family.octets(left), family.octets(right)].concat();
            elements.push(Element {
                key_end: Some(key(left.1, right.1)),
                ..Element::exact(key(left.0, right.0))
            });
        }
    }
    elements.sort();
    elements
}

fn services_of(source: &LbSource) -> Services {
    if source.ports.is_empty() {
        return Services::from([(protocol_number(Protocol::Tcp), 0, u16::MAX)]);
    }
    source.ports.iter().map(|port| (protocol_number(port.protocol), port.port, port.port)).collect()
}

/// The IP protocol number.
pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

fn range(net: &IpNetwork) -> Range {
    match net {
        IpNetwork::V4(net) => {
            let number = |ip: Ipv4Addr| u128::from(u32::from(ip));
            (number(net.network()), number(net.broadcast()))
        }
        IpNetwork::V6(net) => {
            let number = |ip: Ipv6Addr| u128::from(ip);
            (number(net.network()), number(net.broadcast()))
        }
    }
}

/// Joins ranges that overlap or touch.
fn merge(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// Cuts overlapping ranges at every boundary, unites what each piece is good for, and joins equal neighbours.
fn partition<T: Ord + Clone>(rules: &[(Range, BTreeSet<T>)]) -> Vec<(Range, BTreeSet<T>)> {
    let cuts: BTreeSet<u128> =
        rules.iter().flat_map(|((first, last), _)| [Some(*first), last.checked_add(1)]).flatten().collect();
    let mut pieces: Vec<(Range, BTreeSet<T>)> = Vec::new();
    for first in &cuts {
        let mut good_for = BTreeSet::new();
        let mut last = cuts.range(first.saturating_add(1)..).next().map(|behind| behind.saturating_sub(1));
        for ((_, high), more) in rules.iter().filter(|((low, high), _)| low <= first && first <= high) {
            good_for.extend(more.iter().cloned());
            last = Some(last.map_or(*high, |last| last.min(*high)));
        }
        let (Some(last), false) = (last, good_for.is_empty()) else {
            continue;
        };
        match pieces.last_mut() {
            Some(((_, end), same)) if end.checked_add(1) == Some(*first) && *same == good_for => *end = last,
            _ => pieces.push(((*first, last), good_for)),
        }
    }
    pieces
}

fn join_ports(services: &Services) -> Services {
    let mut by_protocol: BTreeMap<u8, Vec<Range>> = BTreeMap::new();
    for (protocol, low, high) in services {
        by_protocol.entry(*protocol).or_default().push((u128::from(*low), u128::from(*high)));
    }
    let port = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
    by_protocol
        .into_iter()
        .flat_map(|(protocol, ranges)| {
            merge(ranges).into_iter().map(move |(low, high)| (protocol, port(low), port(high)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use turnpike_model::desired::ServicePort;

    use super::*;

    fn nets(texts: &[&str]) -> BTreeSet<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn source(cidrs: &[&str], ports: &[(Protocol, u16)]) -> LbSource {
        let ports = ports.iter().map(|(protocol, port)| ServicePort { protocol: *protocol, port: *port });
        LbSource { cidrs: nets(cidrs), bypass: true, ports: ports.collect(), ..LbSource::default() }
    }

    #[test]
    fn overlapping_and_touching_prefixes_become_one_range() {
        let elements =
            boundaries(Family::V4, &nets(&["10.0.0.0/8", "10.244.0.0/16", "11.0.0.0/8", "fd00::/8"]));
        assert_eq!(
            elements,
            [
                Element::exact(vec![10, 0, 0, 0]),
                Element { key: vec![12, 0, 0, 0], key_end: None, range_end: true, value: None }
            ]
        );
    }

    #[test]
    fn a_range_to_the_last_address_has_no_end() {
        assert_eq!(boundaries(Family::V4, &nets(&["0.0.0.0/0"])), [Element::exact(vec![0; 4])]);
        assert_eq!(boundaries(Family::V6, &nets(&["::/0"])), [Element::exact(vec![0; 16])]);
    }

    #[test]
    fn overlapping_sources_with_different_ports_become_disjoint() {
        let sources = [source(&["10.0.0.0/30"], &[]), source(&["10.0.0.0/29"], &[(Protocol::Udp, 53)])];
        let found: Vec<(Vec<u8>, Vec<u8>)> = services(Family::V4, &sources)
            .into_iter()
            .map(|element| (element.key, element.key_end.unwrap()))
            .collect();
        assert_eq!(
            found,
            [
                (vec![10, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0], vec![10, 0, 0, 3, 6, 0, 0, 0, 255, 255, 0, 0]),
                (vec![10, 0, 0, 0, 17, 0, 0, 0, 0, 53, 0, 0], vec![10, 0, 0, 3, 17, 0, 0, 0, 0, 53, 0, 0]),
                (vec![10, 0, 0, 4, 17, 0, 0, 0, 0, 53, 0, 0], vec![10, 0, 0, 7, 17, 0, 0, 0, 0, 53, 0, 0]),
            ]
        );
    }

    #[test]
    fn neighbouring_ports_and_prefixes_join() {
        let ports = [(Protocol::Tcp, 80), (Protocol::Tcp, 81)];
        let sources = [source(&["10.0.0.0/25"], &ports), source(&["10.0.0.128/25"], &ports)];
        let elements = services(Family::V4, &sources);
        assert_eq!(elements.len(), 1);
        assert_eq!(elements[0].key_end.as_ref().unwrap()[..4], [10, 0, 0, 255]);
    }

    #[test]
    fn the_whole_address_space_is_one_element() {
        let elements = services(Family::V6, &[source(&["::/0"], &[])]);
        assert_eq!(elements.len(), 1);
        assert_eq!(elements[0].key_end.as_ref().unwrap()[..16], [255; 16]);
    }
}
