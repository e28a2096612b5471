//! The codec against two others, of other authors: bgpkit-parser and netgauze-bgp-pkt.
//!
//! Good UPDATEs, written by us, must mean the same to all three. Damaged ones are read by each in its own way: where ours
//! finds no mistake and the other accepts too, both must have read the same prefixes and attributes. What the others do
//! not promise (RFC 7606, host bits) is left out of the comparison, each exception with its reason.

#![cfg(test)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use bgpkit_parser::models as bgpkit;
use netgauze_bgp_pkt::path_attribute as netgauze;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput as _;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use turnpike_bgp_wire::*;

/// What an UPDATE says, in nobody's types.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    announced: BTreeSet<String>,
    withdrawn: BTreeSet<String>,
    next_hops: BTreeSet<IpAddr>,
    origin: Option<u8>,
    as_path: Vec<(bool, Vec<u32>)>,
    med: Option<u32>,
    local_pref: Option<u32>,
    atomic_aggregate: bool,
    communities: Vec<u32>,
    large_communities: BTreeSet<(u32, u32, u32)>,
    otc: Option<u32>,
    originator: Option<Ipv4Addr>,
    clusters: Vec<Ipv4Addr>,
}

impl Said {
    /// Attributes of nothing say nothing.
    fn reduced(self) -> Self {
        match self.announced.is_empty() {
            true => Said { withdrawn: self.withdrawn, ..Said::default() },
            false => self,
        }
    }
}

const CONTEXT: DecodeContext = DecodeContext {
    internal: true,
    four_octet_as: true,
    families: Families::BOTH,
    add_path: Families::NONE,
    extended_next_hop: false,
};

/// What we read; `None` where we find any mistake.
fn ours(body: &[u8]) -> Option<Said> {
    let update = Update::decode(body, &CONTEXT).ok().filter(|update| update.problems.is_empty())?;
    let attributes = &update.attributes;
    let said = Said {
        announced: update.announced().map(|prefix| prefix.to_string()).collect(),
        withdrawn: update.unreach.iter().map(|nlri| nlri.prefix.to_string()).collect(),
        next_hops: update.reach.iter().map(|reach| reach.next_hop.addr()).collect(),
        origin: Some(attributes.origin as u8),
        as_path: attributes
            .as_path
            .segments()
            .map(|segment| (segment.kind == SegmentKind::Set, segment.asns().map(|asn| asn.0).collect()))
            .collect(),
        med: attributes.med,
        local_pref: attributes.local_pref,
        atomic_aggregate: attributes.atomic_aggregate,
        communities: attributes.communities.iter().map(|community| community.0).collect(),
        large_communities: attributes
            .large_communities
            .iter()
            .map(|large| (large.global, large.local1, large.local2))
            .collect(),
        otc: attributes.otc.map(|asn| asn.0),
        originator: attributes.originator_id.map(|id| id.0),
        clusters: attributes.cluster_list.iter().map(|id| id.0).collect(),
    };
    Some(said.reduced())
}

/// What bgpkit-parser reads; `None` where it refuses or warns.
fn theirs_bgpkit(body: &[u8]) -> Option<Said> {
    use bgpkit::AttributeValue as Value;
    let length = bgpkit::AsnLength::Bits32;
    let bytes = bytes::Bytes::copy_from_slice(body);
    // It panics on some inputs: that is no opinion either.
    let update = std::panic::catch_unwind(|| {
        bgpkit_parser::parser::bgp::messages::parse_bgp_update_message(bytes, false, &length).ok()
    })
    .ok()??;
    let multiprotocol = update.attributes.iter().flat_map(|value| match value {
        Value::MpReachNlri(nlri) | Value::MpUnreachNlri(nlri) => nlri.prefixes.clone(),
        _ => Vec::new(),
    });
    let all: Vec<bgpkit::NetworkPrefix> = update
        .announced_prefixes
        .iter()
        .chain(&update.withdrawn_prefixes)
        .copied()
        .chain(multiprotocol)
        .collect();
    // Where it sees a prefix of no bits it guesses at path identifiers, whatever was agreed.
    if update.attributes.has_validation_warnings() || all.iter().any(|prefix| prefix.path_id.is_some()) {
        return None;
    }
    let text = |prefix: &bgpkit::NetworkPrefix| canonical(prefix.prefix.addr(), prefix.prefix.prefix_len());
    let mut said = Said {
        announced: update.announced_prefixes.iter().map(text).collect(),
        withdrawn: update.withdrawn_prefixes.iter().map(text).collect(),
        ..Said::default()
    };
    let mut plain_hop = None;
    for value in update.attributes.iter() {
        match value {
            Value::Origin(origin) => said.origin = Some(*origin as u8),
            Value::AsPath(path) => said.as_path = bgpkit_path(path)?,
            Value::NextHop(addr) => plain_hop = Some(*addr),
            Value::MultiExitDiscriminator(med) => said.med = Some(*med),
            Value::LocalPreference(preference) => said.local_pref = Some(*preference),
            Value::AtomicAggregate => said.atomic_aggregate = true,
            Value::Communities(all) => said.communities = all.iter().map(bgpkit_community).collect(),
            Value::LargeCommunities(all) => {
                said.large_communities =
                    all.iter().map(|c| (c.global_admin, c.local_data[0], c.local_data[1])).collect();
            }
            Value::OnlyToCustomer(asn) => said.otc = Some(asn.to_u32()),
            Value::OriginatorId(id) => said.originator = Some(*id),
            Value::Clusters(all) => said.clusters = all.iter().map(|id| Ipv4Addr::from_bits(*id)).collect(),
            Value::MpReachNlri(nlri) => {
                said.announced.extend(nlri.prefixes.iter().map(text));
                if !nlri.prefixes.is_empty() {
                    said.next_hops.extend(nlri.next_hop.map(|hop| hop.addr()));
                }
            }
            Value::MpUnreachNlri(nlri) => said.withdrawn.extend(nlri.prefixes.iter().map(text)),
            _ => {}
        }
    }
    said.next_hops.extend(plain_hop.filter(|_| !update.announced_prefixes.is_empty()));
    Some(said.reduced())
}

fn bgpkit_community(community: &bgpkit::Community) -> u32 {
    match community {
        bgpkit::Community::NoExport => Community::NO_EXPORT.0,
        bgpkit::Community::NoAdvertise => Community::NO_ADVERTISE.0,
        bgpkit::Community::NoExportSubConfed => Community::NO_EXPORT_SUBCONFED.0,
        bgpkit::Community::Custom(asn, value) => asn.to_u32() << 16 | u32::from(*value),
    }
}

fn bgpkit_path(path: &bgpkit::AsPath) -> Option<Vec<(bool, Vec<u32>)>> {
    path.iter_segments()
        .map(|segment| {
            let (set, asns) = match segment {
                bgpkit::AsPathSegment::AsSequence(asns) => (false, asns),
                bgpkit::AsPathSegment::AsSet(asns) => (true, asns),
                _ => return None,
            };
            Some((set, asns.iter().map(|asn| asn.to_u32()).collect()))
        })
        .collect()
}

/// What netgauze reads; `None` where it refuses.
fn theirs_netgauze(body: &[u8]) -> Option<Said> {
    use netgauze::PathAttributeValue as Value;
    let mut message = vec![0xff; 16];
    message.extend_from_slice(&((body.len() + 19) as u16).to_be_bytes());
    message.push(2);
    message.extend_from_slice(body);
    let mut context = netgauze_bgp_pkt::wire::deserializer::BgpParsingContext::default();
    let parsed = std::panic::catch_unwind(move || {
        netgauze_bgp_pkt::BgpMessage::parse(&mut SliceReader::new(&message), &mut context).ok()
    });
    let netgauze_bgp_pkt::BgpMessage::Update(update) = parsed.ok()?? else { return None };
    let v4 = |nlri: &netgauze_bgp_pkt::nlri::Ipv4UnicastAddress| {
        let net = nlri.network().address();
        canonical(net.addr().into(), net.prefix_len())
    };
    let v6 = |nlri: &netgauze_bgp_pkt::nlri::Ipv6UnicastAddress| {
        let net = nlri.network().address();
        canonical(net.addr().into(), net.prefix_len())
    };
    let mut said = Said {
        announced: update.nlri().iter().map(v4).collect(),
        withdrawn: update.withdraw_routes().iter().map(v4).collect(),
        ..Said::default()
    };
    for attribute in update.path_attributes() {
        match attribute.value() {
            Value::Origin(origin) => said.origin = Some(*origin as u8),
            Value::AsPath(netgauze::AsPath::As4PathSegments(segments)) => {
                said.as_path = segments
                    .iter()
                    .map(|segment| {
                        let set = segment.segment_type() == netgauze::AsPathSegmentType::AsSet;
                        (set, segment.as_numbers().to_vec())
                    })
                    .collect();
            }
            Value::NextHop(hop) if !update.nlri().is_empty() => {
                said.next_hops.insert(hop.next_hop().into());
            }
            Value::MultiExitDiscriminator(med) => said.med = Some(med.metric()),
            Value::LocalPreference(preference) => said.local_pref = Some(preference.metric()),
            Value::AtomicAggregate(_) => said.atomic_aggregate = true,
            Value::Communities(all) => {
                said.communities = all.communities().iter().map(|c| c.value()).collect();
            }
            Value::LargeCommunities(all) => {
                let values = all.communities().iter();
                said.large_communities =
                    values.map(|c| (c.global_admin(), c.local_data1(), c.local_data2())).collect();
            }
            Value::OnlyToCustomer(otc) => said.otc = Some(otc.asn()),
            Value::Originator(id) => said.originator = Some(id.id()),
            Value::ClusterList(all) => said.clusters = all.cluster_list().iter().map(|id| id.id()).collect(),
            Value::MpReach(netgauze::MpReach::Ipv4Unicast { next_hop, nlri, .. }) => {
                said.announced.extend(nlri.iter().map(v4));
                said.next_hops.extend((!nlri.is_empty()).then_some(*next_hop));
            }
            Value::MpReach(netgauze::MpReach::Ipv6Unicast { next_hop_global, nlri, .. }) => {
                said.announced.extend(nlri.iter().map(v6));
                said.next_hops.extend((!nlri.is_empty()).then_some(IpAddr::V6(*next_hop_global)));
            }
            Value::MpUnreach(netgauze::MpUnreach::Ipv4Unicast { nlri }) => {
                said.withdrawn.extend(nlri.iter().map(v4));
            }
            Value::MpUnreach(netgauze::MpUnreach::Ipv6Unicast { nlri }) => {
                said.withdrawn.extend(nlri.iter().map(v6));
            }
            _ => {}
        }
    }
    Some(said.reduced())
}

/// Host bits do not count (RFC 4271 §4.3).
fn canonical(addr: IpAddr, len: u8) -> String {
    Prefix::new(addr, len).map_or_else(String::new, |prefix| prefix.to_string())
}

prop_compose! {
    fn attributes()(
        origin in prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        path in vec(1..=4_294_967_294_u32, 0..8),
        med in option::of(any::<u32>()),
        local_pref in any::<u32>(),
        atomic_aggregate in any::<bool>(),
        communities in vec(any::<u32>().prop_map(Community), 0..6),
        large in proptest::collection::btree_set(any::<(u32, u32, u32)>(), 0..4),
        otc in option::of(any::<u32>()),
        originator in option::of(1..=u32::MAX),
        clusters in vec(1..=u32::MAX, 0..3),
    ) -> Attributes {
        Attributes {
            origin,
            as_path: AsPath::sequence(path.into_iter().map(Asn)),
            med,
            local_pref: Some(local_pref),
            atomic_aggregate,
            communities: communities.into(),
            large_communities: large
                .into_iter()
                .map(|(global, local1, local2)| LargeCommunity { global, local1, local2 })
                .collect(),
            otc: otc.map(Asn),
            originator_id: originator.map(RouterId::from_u32),
            cluster_list: clusters.into_iter().map(RouterId::from_u32).collect(),
            ..Attributes::default()
        }
    }
}

/// Prefixes that are unicast beyond doubt: the others judge some by their meaning.
fn prefixes(family: Family) -> impl Strategy<Value = Vec<Nlri>> {
    let one = (any::<u128>(), 8..=family.max_len()).prop_map(move |(bits, len)| {
        let addr: IpAddr = match family {
            Family::Ipv4 => Ipv4Addr::from_bits(0x0a00_0000 | bits as u32 >> 8).into(),
            Family::Ipv6 => std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | bits >> 32).into(),
        };
        Nlri::new(Prefix::new(addr, len).unwrap())
    });
    vec(one, 1..30)
}

fn updates() -> impl Strategy<Value = Vec<u8>> {
    let family = prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
    (family, attributes(), any::<bool>()).prop_flat_map(|(family, attributes, withdraw)| {
        prefixes(family).prop_map(move |nlri| {
            let mut bytes = Vec::new();
            let next_hop = match family {
                Family::Ipv4 => NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)),
                Family::Ipv6 => NextHop::V6("2001:db8::1".parse().unwrap()),
            };
            let context = EncodeContext::default();
            if withdraw {
                encode_unreach(family, &nlri, &context, &mut bytes);
            } else {
                encode_reach(&attributes, family, next_hop, &nlri, &context, &mut bytes).unwrap();
            }
            bytes.split_off(19)
        })
    })
}

proptest! {
    #[test]
    fn good_updates_mean_the_same_to_all(body in updates()) {
        let said = ours(&body);
        prop_assert!(said.is_some());
        prop_assert_eq!(&theirs_bgpkit(&body), &said, "bgpkit-parser");
        prop_assert_eq!(&theirs_netgauze(&body), &said, "netgauze-bgp-pkt");
    }

    #[test]
    fn damaged_updates_mean_the_same_where_both_accept_them(
        mut body in updates(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (at, value) in damage {
            let at = at.index(body.len());
            body[at] = value;
        }
        let Some(said) = ours(&body) else { return Ok(()) };
        for (name, theirs) in [("bgpkit", theirs_bgpkit(&body)), ("netgauze", theirs_netgauze(&body))] {
            if let Some(theirs) = theirs {
                prop_assert_eq!(&theirs, &said, "{} on {:02x?}", name, &body);
            }
        }
    }
}
