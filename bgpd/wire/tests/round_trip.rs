//! Whatever is encoded decodes to itself, and no input whatever makes a decoder panic.

#![expect(clippy::unwrap_used, reason = "what was just encoded decodes")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use turnpike_bgp_wire::*;

fn asn() -> impl Strategy<Value = Asn> {
    prop_oneof![1..65536_u32, 65536..=u32::MAX].prop_map(Asn)
}

fn as_path() -> impl Strategy<Value = AsPath> {
    vec(asn(), 0..300).prop_map(AsPath::sequence)
}

fn router_id() -> impl Strategy<Value = RouterId> {
    (1..=u32::MAX).prop_map(RouterId::from_u32)
}

fn large() -> impl Strategy<Value = LargeCommunity> {
    any::<(u32, u32, u32)>().prop_map(|(global, local1, local2)| LargeCommunity { global, local1, local2 })
}

/// Codes of no attribute that we know.
fn unknown() -> impl Strategy<Value = Box<[UnknownAttribute]>> {
    let one = (128..=254_u8, vec(any::<u8>(), 0..300));
    proptest::collection::btree_map(
        one.clone().prop_map(|(code, _)| code),
        one.prop_map(|(_, value)| value),
        0..3,
    )
    .prop_map(|map| {
        map.into_iter()
            .map(|(code, value)| UnknownAttribute { flags: 0xe0, code, value: value.into() })
            .collect()
    })
}

prop_compose! {
    fn attributes()(
        origin in prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        as_path in as_path(),
        med in option::of(any::<u32>()),
        local_pref in option::of(any::<u32>()),
        atomic_aggregate in any::<bool>(),
        aggregator in option::of((asn(), router_id()).prop_map(|(asn, router_id)| Aggregator { asn, router_id })),
        communities in vec(any::<u32>().prop_map(Community), 0..80),
        originator_id in option::of(router_id()),
        cluster_list in vec(router_id(), 0..4),
        extended in vec(any::<[u8; 8]>().prop_map(ExtendedCommunity), 0..4),
        large in proptest::collection::btree_set(large(), 0..4),
        otc in option::of(asn()),
        unknown in unknown(),
    ) -> Attributes {
        Attributes {
            origin, as_path, med, local_pref, atomic_aggregate, aggregator, originator_id, otc, unknown,
            partial: PartialBits::default(),
            communities: communities.into(),
            cluster_list: cluster_list.into(),
            extended_communities: extended.into(),
            large_communities: large.into_iter().collect(),
        }
    }
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

fn nlri(family: Family, add_path: bool) -> impl Strategy<Value = Nlri> {
    let id = if add_path { any::<u32>().boxed() } else { Just(0).boxed() };
    (any::<u128>(), 0..=family.max_len(), id).prop_map(move |(bits, len, path_id)| {
        let addr: IpAddr = match family {
            Family::Ipv4 => Ipv4Addr::from_bits(bits as u32).into(),
            Family::Ipv6 => Ipv6Addr::from_bits(bits).into(),
        };
        Nlri { prefix: Prefix::new(addr, len).unwrap(), path_id }
    })
}

fn next_hop(family: Family) -> impl Strategy<Value = NextHop> {
    let v6 = prop_oneof![
        Just(NextHop::V6("2001:db8::1".parse().unwrap())),
        Just(NextHop::V6("fe80::1".parse().unwrap())),
        Just(NextHop::V6WithLinkLocal("2001:db8::1".parse().unwrap(), "fe80::1".parse().unwrap())),
    ];
    match family {
        Family::Ipv4 => prop_oneof![Just(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1))), v6].boxed(),
        Family::Ipv6 => v6.boxed(),
    }
}

fn announcement() -> impl Strategy<Value = (Family, NextHop, Vec<Nlri>, bool)> {
    (family(), any::<bool>()).prop_flat_map(|(family, add_path)| {
        (Just(family), next_hop(family), vec(nlri(family, add_path), 1..2000), Just(add_path))
    })
}

fn contexts(four_octet_as: bool, add_path: bool, max_message: u16) -> (EncodeContext, DecodeContext) {
    let encode =
        EncodeContext { four_octet_as, add_path_ipv4: add_path, add_path_ipv6: add_path, max_message };
    let decode = DecodeContext {
        internal: true,
        four_octet_as,
        families: Families::BOTH,
        add_path: Families { ipv4: add_path, ipv6: add_path },
        extended_next_hop: true,
    };
    (encode, decode)
}

fn updates(bytes: &[u8], context: &DecodeContext) -> Vec<Update> {
    let mut framer = Framer::new();
    framer.allow_extended();
    framer.push(bytes);
    let mut updates = Vec::new();
    while let Some(frame) = framer.next_frame().unwrap() {
        assert_eq!(frame.kind, MessageType::Update);
        updates.push(Update::decode(frame.body, context).unwrap());
    }
    assert_eq!(framer.pending(), 0);
    updates
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn announcements_come_back_as_they_went(
        attributes in attributes(),
        (family, next_hop, nlri, add_path) in announcement(),
        four_octet_as in any::<bool>(),
        max_message in prop_oneof![Just(MAX_MESSAGE), Just(MAX_EXTENDED_MESSAGE)],
    ) {
        let (encode, decode) = contexts(four_octet_as, add_path, max_message);
        let mut bytes = Vec::new();
        let messages = encode_reach(&attributes, family, next_hop, &nlri, &encode, &mut bytes).unwrap();
        let decoded = updates(&bytes, &decode);
        prop_assert_eq!(decoded.len(), messages);
        let mut seen = Vec::new();
        for update in decoded {
            prop_assert_eq!(&update.problems, &[]);
            prop_assert_eq!(&update.unreach, &[]);
            prop_assert_eq!(&update.attributes, &attributes);
            for reach in update.reach {
                prop_assert_eq!((reach.family, reach.next_hop), (family, next_hop));
                seen.extend(reach.nlri);
            }
        }
        prop_assert_eq!(seen, nlri);
    }

    #[test]
    fn withdrawals_come_back_as_they_went((family, _, nlri, add_path) in announcement()) {
        let (encode, decode) = contexts(true, add_path, MAX_MESSAGE);
        let mut bytes = Vec::new();
        let messages = encode_unreach(family, &nlri, &encode, &mut bytes);
        let decoded = updates(&bytes, &decode);
        prop_assert_eq!(decoded.len(), messages);
        let seen: Vec<Nlri> = decoded.into_iter().flat_map(|update| update.unreach).collect();
        prop_assert_eq!(seen, nlri);
    }

    #[test]
    fn an_update_encodes_to_the_same_bytes_again(
        attributes in attributes(),
        (family, next_hop, nlri, add_path) in announcement(),
    ) {
        let (encode, decode) = contexts(true, add_path, MAX_EXTENDED_MESSAGE);
        let mut bytes = Vec::new();
        encode_reach(&attributes, family, next_hop, &nlri, &encode, &mut bytes).unwrap();
        let mut again = Vec::new();
        for update in updates(&bytes, &decode) {
            for reach in &update.reach {
                encode_reach(&update.attributes, reach.family, reach.next_hop, &reach.nlri, &encode, &mut again).unwrap();
            }
        }
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in vec(any::<u8>(), 0..300),
        internal in any::<bool>(),
        four_octet_as in any::<bool>(),
        add_path in any::<bool>(),
    ) {
        let (_, mut context) = contexts(four_octet_as, add_path, MAX_MESSAGE);
        context.internal = internal;
        let _ = Update::decode(&bytes, &context);
        let _ = Open::decode(&bytes);
        let _ = RouteRefresh::decode(&bytes);
        if let Some(notification) = Notification::decode(&bytes) {
            let _ = (notification.to_string(), notification.inside_hard_reset());
        }
        let mut framer = Framer::new();
        framer.push(&bytes);
        while let Ok(Some(_)) = framer.next_frame() {}
    }

    #[test]
    fn damaged_updates_never_panic_and_never_announce_broken_paths(
        attributes in attributes(),
        (family, next_hop, mut nlri, _) in announcement(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        nlri.truncate(20);
        nlri.iter_mut().for_each(|nlri| nlri.path_id = 0);
        let (encode, decode) = contexts(true, false, MAX_EXTENDED_MESSAGE);
        let mut bytes = Vec::new();
        encode_reach(&attributes, family, next_hop, &nlri, &encode, &mut bytes).unwrap();
        let mut body = bytes.split_off(19);
        for (at, value) in damage {
            let at = at.index(body.len());
            body[at] = value;
        }
        if let Ok(update) = Update::decode(&body, &decode) {
            let worst = update.problems.iter().map(|problem| problem.severity).max();
            prop_assert!(worst < Some(Severity::Reset));
            prop_assert!(worst < Some(Severity::Withdraw) || update.reach.is_empty());
        }
    }

    #[test]
    fn opens_come_back_as_they_went(
        asn in asn(),
        hold_time in prop_oneof![Just(0_u16), 3..=u16::MAX],
        router_id in router_id(),
        capabilities in vec(capability(), 0..40),
    ) {
        let mut capabilities = capabilities;
        capabilities.push(Capability::FourOctetAs(asn));
        let open = Open { asn, hold_time, router_id, capabilities };
        let mut bytes = Vec::new();
        open.encode(&mut bytes);
        prop_assert_eq!(Open::decode(&bytes[19..]), Ok(open));
    }
}

fn afi_safi() -> impl Strategy<Value = AfiSafi> {
    (1..=3_u16, 1..=4_u8).prop_map(|(afi, safi)| AfiSafi { afi, safi })
}

fn capability() -> impl Strategy<Value = Capability> {
    let mode = prop_oneof![Just(AddPathMode::Receive), Just(AddPathMode::Send), Just(AddPathMode::Both)];
    let graceful = (any::<bool>(), any::<bool>(), 0..4096_u16, vec((afi_safi(), any::<bool>()), 0..4));
    prop_oneof![
        afi_safi().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        Just(Capability::EnhancedRouteRefresh),
        Just(Capability::ExtendedMessage),
        (0..5_u8).prop_map(|code| Capability::Role(Role::from_code(code).unwrap())),
        vec((afi_safi(), 1..=2_u16), 0..3).prop_map(Capability::ExtendedNextHop),
        vec((afi_safi(), mode), 0..3).prop_map(Capability::AddPath),
        graceful.prop_map(|(restarted, notification, restart_time, families)| {
            Capability::GracefulRestart(GracefulRestartCapability {
                restarted,
                notification,
                restart_time,
                families,
            })
        }),
        vec((afi_safi(), any::<bool>(), 0..=LongLivedFamily::LONGEST), 0..3).prop_map(|list| {
            let one = |(family, forwarding, stale_time)| LongLivedFamily { family, forwarding, stale_time };
            Capability::LongLived(list.into_iter().map(one).collect())
        }),
        (prop_oneof![Just(72_u8), Just(73_u8)], vec(any::<u8>(), 0..20))
            .prop_map(|(code, value)| Capability::Unknown { code, value: value.into() }),
    ]
}
