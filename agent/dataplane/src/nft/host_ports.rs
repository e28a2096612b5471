//! Manager: ports of the node that lead to pods. Pure.
//!
//! ```text
//! nat prerouting, output ── to an address of this node ──▶ protocol . port            ──▶ pod address . port
//!                                                          address . protocol . port  ──▶ pod address . port
//! nat postrouting        ── masquerade what comes back to its own sender, and what the node sends from 127.0.0.0/8
//! raw prerouting         ── drop what a pod sends to 127.0.0.0/8
//! ```
//!
//! Two maps for each family, looked up once for each new connection, however many ports there are. A process of the
//! node reaches a port at 127.0.0.1 because the pod's link routes loopback addresses (`route_localnet`); the raw chain
//! keeps pods from the node's own loopback services, which that would otherwise open to them.

use std::net::IpAddr;

use turnpike_model::desired::{DesiredState, Endpoint, HostPort, Protocol};

use crate::endpoint::LINK_PREFIX;

use super::ranges::{self, Family, protocol_number};
use super::rules::{A, LAYOUTS, Layout, RAW, SRCNAT, base, rule, transport};
use super::spec::{
    BaseKind, ChainSpec, Element, Expr, Field, Hook, Meta, Reg, RuleSpec, SetKind, SetSpec, TableSpec,
};

const DSTNAT: i32 = -100;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;

/// Names of one family's sets.
struct Names {
    /// `protocol . port` → `pod address . port`.
    any: &'static str,
    /// `node address . protocol . port` → `pod address . port`.
    at: &'static str,
    /// `pod address . pod address`: who reaches himself through a port of the node.
    hairpin: &'static str,
    value: &'static [Field],
}

const NAMES_V4: Names = Names {
    any: "host_ports4",
    at: "host_ports_at4",
    hairpin: "host_ports_self4",
    value: &[Field::Ipv4, Field::Port],
};
const NAMES_V6: Names = Names {
    any: "host_ports6",
    at: "host_ports_at6",
    hairpin: "host_ports_self6",
    value: &[Field::Ipv6, Field::Port],
};

fn names(family: Family) -> &'static Names {
    match family {
        Family::V4 => &NAMES_V4,
        Family::V6 => &NAMES_V6,
    }
}

/// Adds what the endpoints' host ports need; nothing where there are none.
pub(super) fn add(table: &mut TableSpec, desired: &DesiredState) {
    let with_ports: Vec<&Endpoint> =
        desired.endpoints.values().filter(|endpoint| !endpoint.host_ports.is_empty()).collect();
    if with_ports.is_empty() {
        return;
    }
    let (mut towards, mut leaving) = (Vec::new(), vec![from_loopback()]);
    for layout in &LAYOUTS {
        table.sets.extend(sets(layout, &with_ports));
        towards.extend(towards_pods(layout));
        leaving.push(to_oneself(layout));
    }
    table.chains.extend([
        base("host_ports_guard", Hook::Prerouting, RAW, BaseKind::Filter, vec![pod_to_loopback()]),
        base("host_ports_prerouting", Hook::Prerouting, DSTNAT, BaseKind::Nat, towards.clone()),
        base("host_ports_output", Hook::Output, DSTNAT, BaseKind::Nat, towards),
        base("host_ports_postrouting", Hook::Postrouting, SRCNAT - 1, BaseKind::Nat, leaving),
    ] as [ChainSpec; 4]);
}

/// The map elements of an endpoint: the map's name, the element, and the port in words.
pub(super) fn elements(endpoint: &Endpoint) -> impl Iterator<Item = (&'static str, Element, String)> {
    let addresses = &endpoint.addresses;
    endpoint.host_ports.iter().flat_map(move |port| {
        addresses.iter().filter_map(|address| element(*address, port)).map(|(set, element)| {
            let protocol = match port.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
            };
            (set, element, format!("{protocol} port {} of the node", port.host_port))
        })
    })
}

fn element(pod: IpAddr, port: &HostPort) -> Option<(&'static str, Element)> {
    if port.host_ip.is_some_and(|ip| ip.is_ipv6() != pod.is_ipv6()) {
        return None;
    }
    let names = names(if pod.is_ipv6() { Family::V6 } else { Family::V4 });
    let mut key = Vec::new();
    let at = port.host_ip.filter(|ip| !ip.is_unspecified());
    key.extend(at.map(ranges::octets).unwrap_or_default());
    key.extend([protocol_number(port.protocol), 0, 0, 0]);
    key.extend(padded(port.host_port));
    let value = [ranges::octets(pod), padded(port.container_port).to_vec()].concat();
    Some((if at.is_some() { names.at } else { names.any }, Element::pair(key, value)))
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn sets(layout: &Layout, endpoints: &[&Endpoint]) -> [SetSpec; 3] {
    let names = names(layout.family);
    let of = |name: &'static str| -> Vec<Element> {
        let all = endpoints.iter().flat_map(|endpoint| elements(endpoint));
        all.filter(|(set, _, _)| *set == name).map(|(_, element, _)| element).collect()
    };
    let own = endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter());
    let own = own.filter(|ip| layout.family.has(&(**ip).into()));
    let hairpin = own.map(|ip| Element::exact([ranges::octets(*ip), ranges::octets(*ip)].concat()));
    let map = |name, fields: &[Field]| SetSpec {
        name,
        kind: SetKind::Map(names.value),
        fields: fields.to_vec(),
        elements: of(name),
    };
    [
        map(names.any, &[Field::Protocol, Field::Port]),
        map(names.at, &[layout.address, Field::Protocol, Field::Port]),
        SetSpec {
            name: names.hairpin,
            kind: SetKind::Hash,
            fields: vec![layout.address, layout.address],
            elements: hairpin.collect(),
        },
    ]
}

/// The mapping of one address goes before that of all addresses.
fn towards_pods(layout: &Layout) -> [RuleSpec; 2] {
    let names = names(layout.family);
    let local =
        [Expr::DestinationType(A), Expr::Cmp { reg: A, equal: true, bytes: LOCAL.to_ne_bytes().to_vec() }];
    let (second, third) = (Reg(A.0 + layout.width()), Reg(A.0 + layout.width() + 1));
    let dnat = Expr::Dnat { nfproto: layout.nfproto, address: A, port: second };
    let at = [
        layout.network(layout.destination, A),
        Expr::Meta(Meta::L4Proto, second),
        transport(2, 2, third),
        Expr::Translate { reg: A, map: names.at },
        Expr::Counter,
        dnat.clone(),
    ];
    let any = [
        Expr::Meta(Meta::L4Proto, A),
        transport(2, 2, Reg(A.0 + 1)),
        Expr::Translate { reg: A, map: names.any },
        Expr::Counter,
        dnat,
    ];
    let label = layout.label;
    [
        rule(format!("{label} host port at one address"), &[&layout.is_family(), &local, &at]),
        rule(format!("{label} host port"), &[&layout.is_family(), &local, &any]),
    ]
}

/// A pod that reaches itself must see the node's address, or it would answer itself past the node.
fn to_oneself(layout: &Layout) -> RuleSpec {
    let pair = [
        layout.network(layout.source, A),
        layout.network(layout.destination, Reg(A.0 + layout.width())),
        Expr::Lookup { reg: A, set: names(layout.family).hairpin, found: true },
        Expr::Counter,
        Expr::Masquerade,
    ];
    rule(format!("{} pod to itself by a host port", layout.label), &[&layout.is_family(), &pair])
}

fn is_loopback(offset: u32) -> [Expr; 2] {
    let [v4, _] = &LAYOUTS;
    [
        v4.network(offset, A),
        // Of the address only the first byte counts.
        Expr::Cmp { reg: A, equal: true, bytes: vec![127] },
    ]
}

fn link_is_a_pods(meta: Meta) -> [Expr; 2] {
    [Expr::Meta(meta, A), Expr::Cmp { reg: A, equal: true, bytes: LINK_PREFIX.as_bytes().to_vec() }]
}

fn from_loopback() -> RuleSpec {
    let [v4, _] = &LAYOUTS;
    rule(
        "node to a pod from 127.0.0.0/8",
        &[
            &link_is_a_pods(Meta::OutputName),
            &v4.is_family(),
            &is_loopback(v4.source),
            &[Expr::Counter, Expr::Masquerade],
        ],
    )
}

fn pod_to_loopback() -> RuleSpec {
    let [v4, _] = &LAYOUTS;
    rule(
        "pod to 127.0.0.0/8 of the node",
        &[
            &link_is_a_pods(Meta::InputName),
            &v4.is_family(),
            &is_loopback(v4.destination),
            &[Expr::Counter, Expr::Drop],
        ],
    )
}

#[cfg(test)]
mod tests {
    use turnpike_model::desired::{EndpointId, Limits};

    use super::*;

    fn endpoint(ports: &[(Option<&str>, u16)]) -> Endpoint {
        Endpoint {
            id: EndpointId { container_id: "a".into(), ifname: "eth0".into() },
            host_link: "tpka".into(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            mtu: 1500,
            limits: Limits::default(),
            class: None,
            toa_off: false,
            bypass_off: false,
            namespace: String::new(),
            shadow: Limits::default(),
            bursts: Default::default(),
            exempt: Default::default(),
            mac: None,
            netns_path: String::new(),
            host_ports: ports
                .iter()
                .map(|(ip, port)| HostPort {
                    host_ip: ip.map(|ip| ip.parse().unwrap()),
                    protocol: Protocol::Tcp,
                    host_port: *port,
                    container_port: 80,
                })
                .collect(),
        }
    }

    fn sets_of(ports: &[(Option<&str>, u16)]) -> Vec<&'static str> {
        elements(&endpoint(ports)).map(|(set, _, _)| set).collect()
    }

    #[test]
    fn a_port_leads_to_the_pods_address_of_each_family_that_its_host_ip_allows() {
        assert_eq!(sets_of(&[(None, 8080)]), ["host_ports4", "host_ports6"]);
        assert_eq!(sets_of(&[(Some("192.0.2.1"), 8080)]), ["host_ports_at4"]);
        assert_eq!(sets_of(&[(Some("::"), 8080)]), ["host_ports6"]);
        let (_, element, _) = elements(&endpoint(&[(None, 8080)])).next().unwrap();
        assert_eq!(element.key, [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(element.value.unwrap(), [10, 0, 0, 1, 0, 80, 0, 0]);
    }

    #[test]
    fn without_host_ports_there_is_no_table() {
        let mut desired = DesiredState::default();
        let plain = endpoint(&[]);
        desired.endpoints.insert(plain.id.clone(), plain);
        let mut table = TableSpec::default();
        add(&mut table, &desired);
        assert!(table.is_empty());
    }
}
