//! Manager: the desired state as our nftables table. Pure.
//!
//! ```text
//! raw prerouting, output ── to or from a local pod ──▶ lb_{to,from}_pod{4,6}: notrack for load-balancer traffic
//! filter forward         ── accept the same traffic, untracked
//! nat postrouting        ── masquerade pools that ask for it
//! ```
//!
//! The load-balancer match is the eBPF bypass's own (source prefix, protocol, port, local pod), so that a packet
//! that the bypass leaves to the stack stays out of conntrack as well. A connection that a pod itself opens to a
//! director stays tracked in both directions: its first SYN puts it into `pod_flows`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use turnpike_model::desired::{DesiredState, LbSource, Masquerade};

use super::host_ports;
use super::ranges::{self, Family};
use super::spec::{
    Base, BaseKind, ChainSpec, Element, Expr, Field, Header, Hook, Meta, Reg, RuleSpec, SetKind, SetSpec,
    TableSpec,
};

pub(super) const RAW: i32 = -300;
const FILTER: i32 = 0;
pub(super) const SRCNAT: i32 = 100;
const TCP: u8 = 6;
/// Bit of `ct state` for packets that were taken past conntrack.
const UNTRACKED: u32 = 64;
/// FIN, SYN, RST and ACK.
const TCP_OPENING_MASK: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
/// A pod's own idle connection to a director is remembered for this long: conntrack's default for established TCP.
const POD_FLOW_TIMEOUT_MS: u64 = 5 * 24 * 3600 * 1000;
const POD_FLOW_LIMIT: u32 = 65536;

/// First and only single register; concatenations go on from here.
pub(super) const A: Reg = Reg(8);

/// The table for a desired state; empty where nothing asks for one.
pub(crate) fn table(desired: &DesiredState) -> TableSpec {
    let mut table = TableSpec::default();
    let bypassing: Vec<&LbSource> = desired.lb_sources.values().filter(|source| source.bypass).collect();
    if !bypassing.is_empty() {
        load_balancer(&mut table, &bypassing, &local_pods(desired), &left_out(desired));
    }
    if !desired.masquerade.is_empty() {
        masquerade(&mut table, desired);
    }
    host_ports::add(&mut table, desired);
    table
}

fn local_pods(desired: &DesiredState) -> BTreeSet<IpAddr> {
    desired.endpoints.values().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
}

/// Pods that bypassing sources are not for, with these sources' prefixes.
fn left_out(desired: &DesiredState) -> Vec<(BTreeSet<IpNetwork>, BTreeSet<IpNetwork>)> {
    let pods_of = |source: &LbSource| -> BTreeSet<IpNetwork> {
        let pods = desired.endpoints.values();
        let out = pods.filter(|pod| pod.bypass_off || !source.is_for(&pod.namespace));
        out.flat_map(|pod| pod.addresses.iter().map(|ip| IpNetwork::from(*ip))).collect()
    };
    let bypassing = desired.lb_sources.values().filter(|source| source.bypass);
    bypassing
        .map(|source| (pods_of(source), source.cidrs.clone()))
        .filter(|(pods, _)| !pods.is_empty())
        .collect()
}

/// Names and header offsets of one family.
pub(super) struct Layout {
    pub(super) family: Family,
    pub(super) nfproto: u8,
    pub(super) label: &'static str,
    pub(super) address: Field,
    pub(super) source: u32,
    pub(super) destination: u32,
    icmp: u8,
    /// Offset of the offending packet's protocol, addresses and ports behind an ICMP error's own header.
    inner: Inner,
    pods: &'static str,
    sources: &'static str,
    flows: &'static str,
    left_out: &'static str,
    icmp_errors: &'static str,
    to_pod: &'static str,
    from_pod: &'static str,
    masq_pools: &'static str,
    masq_except: &'static str,
}

struct Inner {
    protocol: u32,
    source: u32,
    destination: u32,
    source_port: u32,
    destination_port: u32,
}

/// RFC 791, RFC 792: the embedded header starts behind 8 bytes of ICMP.
const V4: Layout = Layout {
    family: Family::V4,
    nfproto: 2,
    label: "IPv4",
    address: Field::Ipv4,
    source: 12,
    destination: 16,
    icmp: 1,
    inner: Inner { protocol: 17, source: 20, destination: 24, source_port: 28, destination_port: 30 },
    pods: "pods4",
    sources: "lb_services4",
    flows: "pod_flows4",
    left_out: "lb_left_out4",
    icmp_errors: "icmp_errors4",
    to_pod: "lb_to_pod4",
    from_pod: "lb_from_pod4",
    masq_pools: "masq_pools4",
    masq_except: "masq_except4",
};

/// RFC 8200, RFC 4443.
const V6: Layout = Layout {
    family: Family::V6,
    nfproto: 10,
    label: "IPv6",
    address: Field::Ipv6,
    source: 8,
    destination: 24,
    icmp: 58,
    inner: Inner { protocol: 14, source: 16, destination: 32, source_port: 48, destination_port: 50 },
    pods: "pods6",
    sources: "lb_services6",
    flows: "pod_flows6",
    left_out: "lb_left_out6",
    icmp_errors: "icmp_errors6",
    to_pod: "lb_to_pod6",
    from_pod: "lb_from_pod6",
    masq_pools: "masq_pools6",
    masq_except: "masq_except6",
};

pub(super) const LAYOUTS: [Layout; 2] = [V4, V6];

impl Layout {
    /// Registers that an address fills.
    pub(super) fn width(&self) -> u32 {
        self.address.length() / 4
    }

    pub(super) fn is_family(&self) -> [Expr; 2] {
        [Expr::Meta(Meta::NfProto, A), Expr::Cmp { reg: A, equal: true, bytes: vec![self.nfproto] }]
    }

    pub(super) fn network(&self, offset: u32, into: Reg) -> Expr {
        Expr::Payload { header: Header::Network, offset, length: self.address.length(), into }
    }

    fn is_pod(&self, offset: u32) -> [Expr; 2] {
        [self.network(offset, A), Expr::Lookup { reg: A, set: self.pods, found: true }]
    }

    /// `address . protocol . port` is a load balancer's service.
    fn is_service(&self, address_offset: u32, port_offset: u32) -> [Expr; 4] {
        let (second, third) = (Reg(A.0 + self.width()), Reg(A.0 + self.width() + 1));
        [
            self.network(address_offset, A),
            Expr::Meta(Meta::L4Proto, second),
            transport(port_offset, 2, third),
            Expr::Lookup { reg: A, set: self.sources, found: true },
        ]
    }

    /// Loads `pod . pod's port . peer . peer's port` from register A on.
    fn load_flow(&self, pod: u32, pod_port: u32, peer: u32, peer_port: u32) -> [Expr; 4] {
        let width = self.width();
        [
            self.network(pod, A),
            transport(pod_port, 2, Reg(A.0 + width)),
            self.network(peer, Reg(A.0 + width + 1)),
            transport(peer_port, 2, Reg(A.0 + 2 * width + 1)),
        ]
    }

    /// The offending packet inside an ICMP error was one of a load balancer's service.
    fn is_inner_service(&self, address: u32, port: u32) -> Vec<Expr> {
        let (second, third) = (Reg(A.0 + self.width()), Reg(A.0 + self.width() + 1));
        let mut steps = vec![
            Expr::Meta(Meta::L4Proto, A),
            Expr::Cmp { reg: A, equal: true, bytes: vec![self.icmp] },
            transport(0, 1, A),
            Expr::Lookup { reg: A, set: self.icmp_errors, found: true },
        ];
        if self.family == Family::V4 {
            // Without options, so that the ports are where we look.
            steps.extend([transport(8, 1, A), Expr::Cmp { reg: A, equal: true, bytes: vec![0x45] }]);
        }
        steps.extend([
            transport(address, self.address.length(), A),
            transport(self.inner.protocol, 1, second),
            transport(port, 2, third),
            Expr::Lookup { reg: A, set: self.sources, found: true },
        ]);
        steps
    }

    /// The load balancer at one offset is not for the pod at the other.
    fn is_left_out(&self, pod: u32, peer: u32) -> [Expr; 3] {
        [
            self.network(pod, A),
            self.network(peer, Reg(A.0 + self.width())),
            Expr::Lookup { reg: A, set: self.left_out, found: true },
        ]
    }

    /// The same of the offending packet inside an ICMP error.
    fn is_inner_left_out(&self, pod: u32, peer: u32) -> [Expr; 3] {
        let length = self.address.length();
        [
            transport(pod, length, A),
            transport(peer, length, Reg(A.0 + self.width())),
            Expr::Lookup { reg: A, set: self.left_out, found: true },
        ]
    }

    fn is_inner_pod_flow(&self, pod: u32, pod_port: u32, peer: u32, peer_port: u32) -> [Expr; 5] {
        let (width, length) = (self.width(), self.address.length());
        [
            transport(pod, length, A),
            transport(pod_port, 2, Reg(A.0 + width)),
            transport(peer, length, Reg(A.0 + width + 1)),
            transport(peer_port, 2, Reg(A.0 + 2 * width + 1)),
            Expr::Lookup { reg: A, set: self.flows, found: true },
        ]
    }
}

pub(super) fn transport(offset: u32, length: u32, into: Reg) -> Expr {
    Expr::Payload { header: Header::Transport, offset, length, into }
}

fn is_tcp() -> [Expr; 2] {
    [Expr::Meta(Meta::L4Proto, A), Expr::Cmp { reg: A, equal: true, bytes: vec![TCP] }]
}

/// A packet that opens a connection: SYN without ACK, RST or FIN.
fn is_opening() -> Vec<Expr> {
    let mut steps = is_tcp().to_vec();
    steps.extend([
        transport(13, 1, A),
        Expr::Mask { reg: A, mask: vec![TCP_OPENING_MASK] },
        Expr::Cmp { reg: A, equal: true, bytes: vec![TCP_SYN] },
    ]);
    steps
}

pub(super) fn rule(purpose: impl Into<String>, parts: &[&[Expr]]) -> RuleSpec {
    RuleSpec { purpose: purpose.into(), expressions: parts.concat() }
}

pub(super) fn base(
    name: &'static str,
    hook: Hook,
    priority: i32,
    kind: BaseKind,
    rules: Vec<RuleSpec>,
) -> ChainSpec {
    ChainSpec { name, base: Some(Base { hook, priority, kind }), rules }
}

fn load_balancer(
    table: &mut TableSpec,
    sources: &[&LbSource],
    pods: &BTreeSet<IpAddr>,
    left_out: &[(BTreeSet<IpNetwork>, BTreeSet<IpNetwork>)],
) {
    let (mut dispatch, mut forward) = (Vec::new(), Vec::new());
    for layout in &LAYOUTS {
        table.sets.extend(load_balancer_sets(layout, sources, pods));
        let pairs = ranges::pairs(layout.family, left_out);
        let selective = !pairs.is_empty();
        if selective {
            let fields = vec![layout.address, layout.address];
            let kind = SetKind::ConcatRanges;
            table.sets.push(SetSpec { name: layout.left_out, kind, fields, elements: pairs });
        }
        table.chains.push(to_pod_chain(layout, selective));
        table.chains.push(from_pod_chain(layout, selective));
        let label = layout.label;
        for (purpose, offset, chain) in [
            (format!("{label} to local pods"), layout.destination, layout.to_pod),
            (format!("{label} from local pods"), layout.source, layout.from_pod),
        ] {
            dispatch
                .push(rule(purpose, &[&layout.is_family(), &layout.is_pod(offset), &[Expr::Jump(chain)]]));
        }
        forward.extend(forward_rules(layout));
    }
    table.chains.push(base("prerouting", Hook::Prerouting, RAW, BaseKind::Filter, dispatch.clone()));
    table.chains.push(base("output", Hook::Output, RAW, BaseKind::Filter, dispatch));
    table.chains.push(base("forward", Hook::Forward, FILTER, BaseKind::Filter, forward));
}

fn load_balancer_sets(layout: &Layout, sources: &[&LbSource], pods: &BTreeSet<IpAddr>) -> [SetSpec; 4] {
    let pods = pods.iter().filter(|ip| layout.family.has(&IpNetwork::from(**ip)));
    let pods = pods.map(|ip| Element::exact(ranges::octets(*ip))).collect();
    let set =
        |name, kind, fields: &[Field], elements| SetSpec { name, kind, fields: fields.to_vec(), elements };
    let flow = [layout.address, Field::Port, layout.address, Field::Port];
    let dynamic = SetKind::Dynamic { timeout_ms: POD_FLOW_TIMEOUT_MS, size: POD_FLOW_LIMIT };
    // RFC 792: unreachable, time exceeded, parameter problem. RFC 4443: types 1 to 4.
    let (icmp, errors): (_, &[u8]) = match layout.family {
        Family::V4 => (Field::Icmp, &[3, 11, 12]),
        Family::V6 => (Field::Icmpv6, &[1, 2, 3, 4]),
    };
    let errors = errors.iter().map(|kind| Element::exact(vec![*kind])).collect();
    [
        set(layout.pods, SetKind::Hash, &[layout.address], pods),
        set(
            layout.sources,
            SetKind::ConcatRanges,
            &[layout.address, Field::Protocol, Field::Port],
            ranges::services(layout.family, sources.iter().copied()),
        ),
        set(layout.flows, dynamic, &flow, Vec::new()),
        set(layout.icmp_errors, SetKind::Hash, &[icmp], errors),
    ]
}

fn to_pod_chain(layout: &Layout, selective: bool) -> ChainSpec {
    let (source, destination, inner) = (layout.source, layout.destination, &layout.inner);
    let flow = layout.load_flow(destination, 2, source, 0);
    let known = [Expr::Lookup { reg: A, set: layout.flows, found: true }, Expr::Return];
    let inner_flow =
        layout.is_inner_pod_flow(inner.source, inner.source_port, inner.destination, inner.destination_port);
    let inner_service = layout.is_inner_service(inner.destination, inner.source_port);
    let mut rules = vec![rule("answers to a pod's own connection stay tracked", &[&is_tcp(), &flow, &known])];
    if selective {
        rules.extend([
            rule(
                "load balancer that is not for the pod",
                &[&layout.is_left_out(destination, source), &[Expr::Return]],
            ),
            rule(
                "ICMP error about pod to a load balancer that is not for it",
                &[
                    &inner_service,
                    &layout.is_inner_left_out(inner.source, inner.destination),
                    &[Expr::Return],
                ],
            ),
        ]);
    }
    rules.extend([
        rule(
            "load balancer to pod",
            &[&layout.is_service(source, 2), &[Expr::Counter, Expr::Notrack, Expr::Return]],
        ),
        rule(
            "ICMP error about a pod's own connection stays tracked",
            &[&inner_service, &inner_flow, &[Expr::Return]],
        ),
        rule(
            "ICMP error about pod to load balancer",
            &[&inner_service, &[Expr::Counter, Expr::Notrack, Expr::Return]],
        ),
    ]);
    ChainSpec { name: layout.to_pod, base: None, rules }
}

fn from_pod_chain(layout: &Layout, selective: bool) -> ChainSpec {
    let (source, destination, inner) = (layout.source, layout.destination, &layout.inner);
    let flow = layout.load_flow(source, 0, destination, 2);
    let known = [Expr::Lookup { reg: A, set: layout.flows, found: true }];
    let remember = [Expr::Remember { reg: A, set: layout.flows }];
    let service = layout.is_service(destination, 0);
    let inner_flow =
        layout.is_inner_pod_flow(inner.destination, inner.destination_port, inner.source, inner.source_port);
    let inner_service = layout.is_inner_service(inner.source, inner.destination_port);
    let mut rules = vec![
        rule(
            "pod opens a connection to a load balancer",
            &[&is_opening(), &service, &flow, &remember, &[Expr::Counter, Expr::Return]],
        ),
        rule("a pod's own connection stays tracked", &[&is_tcp(), &flow, &known, &remember, &[Expr::Return]]),
    ];
    if selective {
        rules.extend([
            rule(
                "pod to a load balancer that is not for it",
                &[&layout.is_left_out(source, destination), &[Expr::Return]],
            ),
            rule(
                "ICMP error about a load balancer that is not for the pod",
                &[
                    &inner_service,
                    &layout.is_inner_left_out(inner.destination, inner.source),
                    &[Expr::Return],
                ],
            ),
        ]);
    }
    rules.extend([
        rule("pod to load balancer", &[&service, &[Expr::Counter, Expr::Notrack, Expr::Return]]),
        rule(
            "ICMP error about a pod's own connection stays tracked",
            &[&inner_service, &inner_flow, &[Expr::Return]],
        ),
        rule(
            "ICMP error about load balancer to pod",
            &[&inner_service, &[Expr::Counter, Expr::Notrack, Expr::Return]],
        ),
    ]);
    ChainSpec { name: layout.from_pod, base: None, rules }
}

fn forward_rules(layout: &Layout) -> Vec<RuleSpec> {
    let untracked = [
        Expr::CtState(A),
        Expr::Mask { reg: A, mask: UNTRACKED.to_ne_bytes().to_vec() },
        Expr::Cmp { reg: A, equal: false, bytes: 0_u32.to_ne_bytes().to_vec() },
    ];
    let (family, inner) = (layout.is_family(), &layout.inner);
    let accept = [Expr::Counter, Expr::Accept];
    let (to_pod, from_pod) = (layout.is_pod(layout.destination), layout.is_pod(layout.source));
    let label = layout.label;
    vec![
        rule(
            format!("{label} load balancer to pod, untracked"),
            &[&untracked, &family, &to_pod, &layout.is_service(layout.source, 2), &accept],
        ),
        rule(
            format!("{label} pod to load balancer, untracked"),
            &[&untracked, &family, &from_pod, &layout.is_service(layout.destination, 0), &accept],
        ),
        rule(
            format!("{label} ICMP error about pod to load balancer, untracked"),
            &[
                &untracked,
                &family,
                &to_pod,
                &layout.is_inner_service(inner.destination, inner.source_port),
                &accept,
            ],
        ),
        rule(
            format!("{label} ICMP error about load balancer to pod, untracked"),
            &[
                &untracked,
                &family,
                &from_pod,
                &layout.is_inner_service(inner.source, inner.destination_port),
                &accept,
            ],
        ),
    ]
}

fn masquerade(table: &mut TableSpec, desired: &DesiredState) {
    let mut rules = Vec::new();
    let pools: BTreeSet<IpNetwork> =
        desired.masquerade.iter().flat_map(|entry| entry.sources.iter().copied()).collect();
    // Pods never hide from pods, whatever pool they come from.
    let always: BTreeSet<IpNetwork> =
        pools.iter().copied().chain(desired.blocks.iter().map(|block| block.prefix)).collect();
    let exceptions: Vec<_> = desired.masquerade.iter().map(|entry| exceptions_of(entry, &always)).collect();
    for layout in &LAYOUTS {
        if !pools.iter().any(|net| layout.family.has(net)) {
            continue;
        }
        let (pool, pair) = (vec![layout.address], vec![layout.address, layout.address]);
        let members = ranges::boundaries(layout.family, &pools);
        let pairs = ranges::pairs(layout.family, &exceptions);
        table.sets.extend([
            SetSpec { name: layout.masq_pools, kind: SetKind::Ranges, fields: pool, elements: members },
            SetSpec { name: layout.masq_except, kind: SetKind::ConcatRanges, fields: pair, elements: pairs },
        ]);
        let outside = [
            layout.network(layout.source, A),
            Expr::Lookup { reg: A, set: layout.masq_pools, found: true },
            layout.network(layout.destination, Reg(A.0 + layout.width())),
            Expr::Lookup { reg: A, set: layout.masq_except, found: false },
        ];
        rules.push(rule(
            format!("{} from pools to outside", layout.label),
            &[&layout.is_family(), &outside, &[Expr::Counter, Expr::Masquerade]],
        ));
    }
    table.chains.push(base("postrouting", Hook::Postrouting, SRCNAT, BaseKind::Nat, rules));
}

fn exceptions_of(
    entry: &Masquerade,
    always: &BTreeSet<IpNetwork>,
) -> (BTreeSet<IpNetwork>, BTreeSet<IpNetwork>) {
    (entry.sources.clone(), entry.except_to.union(always).copied().collect())
}
