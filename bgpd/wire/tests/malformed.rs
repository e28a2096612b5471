//! Malformed UPDATEs and OPENs, each with the clause that says what must happen.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a test that goes wrong should stop at once, and a table is as long as it is"
)]

use std::net::Ipv4Addr;

use turnpike_bgp_wire::*;

fn context() -> DecodeContext {
    DecodeContext {
        internal: false,
        four_octet_as: true,
        families: Families::BOTH,
        add_path: Families::NONE,
        extended_next_hop: false,
    }
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xea];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
/// 10.1.0.0/16.
const NLRI: &[u8] = &[16, 10, 1];

fn body(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let mut body = (withdrawn.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(withdrawn);
    body.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
    body.extend_from_slice(&attributes);
    body.extend_from_slice(nlri);
    body
}

/// A good UPDATE with one more attribute.
fn with(attribute: &[u8]) -> Vec<u8> {
    body(&[], &[ORIGIN, AS_PATH, NEXT_HOP, attribute], NLRI)
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Ok,
    Discard,
    Withdraw,
    Reset(UpdateError),
}

fn outcome(body: &[u8], context: &DecodeContext) -> Outcome {
    let expected: Prefix = "10.1.0.0/16".parse().unwrap();
    match Update::decode(body, context) {
        Err(notification) => match notification.cause {
            Cause::Update(error) => Outcome::Reset(error),
            other => panic!("an UPDATE answered with {other}"),
        },
        Ok(update) => match update.problems.iter().map(|problem| problem.severity).max() {
            None => {
                assert!(update.announced().eq([expected]), "{update:?}");
                Outcome::Ok
            }
            Some(Severity::Discard) => {
                assert!(update.announced().eq([expected]), "{update:?}");
                Outcome::Discard
            }
            Some(Severity::Withdraw) => {
                assert!(update.reach.is_empty(), "{update:?}");
                assert!(update.unreach.contains(&Nlri::new(expected)), "{update:?}");
                Outcome::Withdraw
            }
            Some(Severity::Reset) => panic!("a reset among the milder problems: {update:?}"),
        },
    }
}

#[test]
fn a_good_update_is_good() {
    assert_eq!(outcome(&with(&[]), &context()), Outcome::Ok);
}

#[test]
fn each_malformed_attribute_costs_what_its_rfc_says() {
    use Outcome::*;
    let mp_reach_bad_next_hop = [&[0x80, 14, 9, 0, 2, 1, 4, 192, 0, 2, 1, 0][..]].concat();
    let mp_reach_bad_prefix = {
        let mut attribute = vec![0x80, 14, 23, 0, 2, 1, 16];
        attribute.extend_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        attribute.extend_from_slice(&[0, 129, 1]);
        attribute
    };
    let cases: &[(&str, Vec<u8>, Outcome)] = &[
        ("7606 §7.1 ORIGIN length", body(&[], &[&[0x40, 1, 2, 0, 0], AS_PATH, NEXT_HOP], NLRI), Withdraw),
        ("7606 §7.1 ORIGIN value", body(&[], &[&[0x40, 1, 1, 3], AS_PATH, NEXT_HOP], NLRI), Withdraw),
        (
            "7606 §7.2 AS_PATH segment type",
            body(&[], &[ORIGIN, &[0x40, 2, 6, 9, 1, 0, 0, 0, 1], NEXT_HOP], NLRI),
            Withdraw,
        ),
        (
            "7606 §7.2 AS_PATH overrun",
            body(&[], &[ORIGIN, &[0x40, 2, 6, 2, 2, 0, 0, 0, 1], NEXT_HOP], NLRI),
            Withdraw,
        ),
        (
            "7606 §7.2 AS_PATH empty segment",
            body(&[], &[ORIGIN, &[0x40, 2, 2, 2, 0], NEXT_HOP], NLRI),
            Withdraw,
        ),
        (
            "5065 §5 confederation segment",
            body(&[], &[ORIGIN, &[0x40, 2, 6, 3, 1, 0, 0, 0, 1], NEXT_HOP], NLRI),
            Withdraw,
        ),
        (
            "7607 §2 AS 0 in AS_PATH",
            body(&[], &[ORIGIN, &[0x40, 2, 6, 2, 1, 0, 0, 0, 0], NEXT_HOP], NLRI),
            Withdraw,
        ),
        (
            "7606 §7.3 NEXT_HOP length",
            body(&[], &[ORIGIN, AS_PATH, &[0x40, 3, 3, 192, 0, 2]], NLRI),
            Withdraw,
        ),
        (
            "4271 §6.3 NEXT_HOP value",
            body(&[], &[ORIGIN, AS_PATH, &[0x40, 3, 4, 0, 0, 0, 0]], NLRI),
            Withdraw,
        ),
        ("7606 §7.4 MED length", with(&[0x80, 4, 3, 0, 0, 1]), Withdraw),
        ("7606 §7.5 LOCAL_PREF from outside", with(&[0x40, 5, 3, 0, 0, 1]), Ok),
        ("7606 §7.6 ATOMIC_AGGREGATE length", with(&[0x40, 6, 1, 0]), Discard),
        ("7606 §7.7 AGGREGATOR length", with(&[0xc0, 7, 6, 0, 1, 10, 0, 0, 1]), Discard),
        ("7607 §2 AS 0 in AGGREGATOR", with(&[0xc0, 7, 8, 0, 0, 0, 0, 10, 0, 0, 1]), Discard),
        ("7606 §7.8 COMMUNITIES length", with(&[0xc0, 8, 5, 0, 0, 0, 0, 0]), Withdraw),
        ("7606 §7.8 COMMUNITIES empty", with(&[0xc0, 8, 0]), Withdraw),
        ("7606 §7.9 ORIGINATOR_ID from outside", with(&[0x80, 9, 3, 0, 0, 0]), Ok),
        ("7606 §7.10 CLUSTER_LIST from outside", with(&[0x80, 10, 3, 0, 0, 0]), Ok),
        (
            "7606 §7.11 MP_REACH next hop length",
            with(&mp_reach_bad_next_hop),
            Reset(UpdateError::OptionalAttribute),
        ),
        (
            "7606 §5.3 MP_REACH prefix length",
            with(&mp_reach_bad_prefix),
            Reset(UpdateError::OptionalAttribute),
        ),
        ("7606 §7.12 MP_UNREACH length", with(&[0x80, 15, 2, 0, 2]), Reset(UpdateError::OptionalAttribute)),
        ("7606 §7.14 EXTENDED COMMUNITIES length", with(&[0xc0, 16, 7, 0, 2, 0, 0, 0, 0, 0]), Withdraw),
        ("8092 §5 LARGE_COMMUNITY length", with(&[0xc0, 32, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Withdraw),
        ("9234 §5 OTC length", with(&[0xc0, 35, 3, 0, 0, 1]), Withdraw),
        ("6793 §6 AS4_PATH from a four-octet speaker", with(&[0xc0, 17, 1, 9]), Ok),
        ("7606 §3c flags", body(&[], &[&[0x80, 1, 1, 0], AS_PATH, NEXT_HOP], NLRI), Withdraw),
        ("7606 §3d ORIGIN missing", body(&[], &[AS_PATH, NEXT_HOP], NLRI), Withdraw),
        ("7606 §3d NEXT_HOP missing", body(&[], &[ORIGIN, AS_PATH], NLRI), Withdraw),
        ("7606 §3g twice", with(ORIGIN), Discard),
        (
            "7606 §3g MP_UNREACH twice",
            with(&[0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1]),
            Reset(UpdateError::MalformedAttributeList),
        ),
        ("7606 §4 attribute runs over", with(&[0xc0, 8, 200, 0]), Withdraw),
        ("7606 §4 header cut off", with(&[0xc0]), Withdraw),
        (
            "7606 §3j MP_REACH runs over",
            with(&[0x80, 14, 200, 0]),
            Reset(UpdateError::MalformedAttributeList),
        ),
        ("unknown but well-known", with(&[0x40, 99, 1, 0]), Withdraw),
        ("4271 §5 unknown optional", with(&[0x80, 99, 1, 0]), Ok),
        ("4760 family not in force", with(&[0x80, 14, 12, 0, 25, 70, 4, 1, 2, 3, 4, 0, 1, 2, 3]), Discard),
        (
            "7606 §5.3 prefix length",
            body(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[33, 1, 2, 3, 4, 5]),
            Reset(UpdateError::InvalidNetworkField),
        ),
        (
            "7606 §5.3 prefix cut off",
            body(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[24, 1, 2]),
            Reset(UpdateError::InvalidNetworkField),
        ),
        (
            "7606 §3i withdrawn prefix length",
            body(&[33, 1, 2, 3, 4, 5], &[], &[]),
            Reset(UpdateError::InvalidNetworkField),
        ),
        (
            "7606 §5.2 mistake without prefixes",
            body(&[], &[&[0x40, 1, 1, 3], AS_PATH, NEXT_HOP], &[]),
            Reset(UpdateError::MalformedAttributeList),
        ),
        ("4271 §6.3 withdrawn length", vec![0, 9, 0, 0], Reset(UpdateError::MalformedAttributeList)),
        ("4271 §6.3 attributes length", vec![0, 0, 0, 9, 0], Reset(UpdateError::MalformedAttributeList)),
    ];
    for (clause, body, expected) in cases {
        assert_eq!(&outcome(body, &context()), expected, "{clause}");
    }
}

#[test]
fn internal_only_attributes_count_from_inside() {
    let context = DecodeContext { internal: true, ..context() };
    for bad in [&[0x40, 5, 3, 0, 0, 1][..], &[0x80, 9, 3, 0, 0, 0], &[0x80, 10, 3, 0, 0, 0], &[0x80, 10, 0]] {
        assert_eq!(outcome(&with(bad), &context), Outcome::Withdraw, "{bad:?}");
    }
    let update = Update::decode(&with(&[0x40, 5, 4, 0, 0, 0, 200]), &context).unwrap();
    assert_eq!(update.attributes.local_pref, Some(200));
}

#[test]
fn two_octet_sessions_restore_long_numbers() {
    // RFC 6793 §4.2.3.
    let context = DecodeContext { four_octet_as: false, ..context() };
    let short_path = [0x40, 2, 6, 2, 2, 0xfd, 0xea, 0x5b, 0xa0];
    let as4_path = [0xc0, 17, 6, 2, 1, 0, 1, 0x11, 0x70];
    let update =
        Update::decode(&body(&[], &[ORIGIN, &short_path, NEXT_HOP, &as4_path], NLRI), &context).unwrap();
    assert_eq!(update.attributes.as_path.to_string(), "65002 70000");
    let broken = [0xc0, 17, 6, 2, 2, 0, 1, 0x11, 0x70];
    assert_eq!(
        outcome(&body(&[], &[ORIGIN, &short_path, NEXT_HOP, &broken], NLRI), &context),
        Outcome::Discard,
        "RFC 6793 §6"
    );
}

#[test]
fn unknown_transitive_attributes_are_kept_and_become_partial() {
    let update = Update::decode(&with(&[0xd0, 99, 0, 2, 7, 8]), &context()).unwrap();
    let expected = UnknownAttribute { flags: 0xe0, code: 99, value: [7, 8].into() };
    assert_eq!(&*update.attributes.unknown, [expected]);
}

#[test]
fn a_partial_bit_stays() {
    let update = Update::decode(&with(&[0xe0, 8, 4, 0xfd, 0xe9, 0, 1]), &context()).unwrap();
    let mut bytes = Vec::new();
    let next_hop = NextHop::V4(Ipv4Addr::new(192, 0, 2, 1));
    let nlri = ["10.1.0.0/16".parse::<Prefix>().unwrap().into()];
    encode_reach(&update.attributes, Family::Ipv4, next_hop, &nlri, &EncodeContext::default(), &mut bytes)
        .unwrap();
    assert!(bytes.windows(3).any(|window| window == [0xe0, 8, 4]), "{bytes:02x?}");
}

#[test]
fn end_of_rib_is_told_from_an_empty_withdrawal() {
    // RFC 4724 §2.
    let eor = |body: &[u8]| Update::decode(body, &context()).unwrap().end_of_rib;
    assert_eq!(eor(&body(&[], &[], &[])), Some(Family::Ipv4));
    assert_eq!(eor(&body(&[], &[&[0x80, 15, 3, 0, 2, 1]], &[])), Some(Family::Ipv6));
    assert_eq!(eor(&body(&[], &[&[0x80, 15, 5, 0, 2, 1, 8, 0xfd]], &[])), None);
    assert_eq!(eor(&body(NLRI, &[], &[])), None);
}

#[test]
fn opens_are_refused_with_the_right_subcode() {
    let open = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = vec![4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, 0];
        change(&mut body);
        Open::decode(&body).map_err(|notification| notification.cause)
    };
    assert!(open(&|_| {}).is_ok());
    let refused = |error| Err(Cause::Open(error));
    assert_eq!(open(&|body| body[0] = 3), refused(OpenError::UnsupportedVersion));
    assert_eq!(open(&|body| body[2] = 0), Ok(Open { asn: Asn(0xfd00), ..open(&|_| {}).unwrap() }));
    assert_eq!(open(&|body| body[1..3].fill(0)), refused(OpenError::BadPeerAs), "RFC 7607");
    assert_eq!(open(&|body| body[4] = 2), refused(OpenError::UnacceptableHoldTime));
    assert_eq!(open(&|body| body[5..9].fill(0)), refused(OpenError::BadIdentifier));
    assert_eq!(open(&|body| body[9] = 4), refused(OpenError::Other(0)), "length of the parameters");
    assert_eq!(
        open(&|body| body.splice(9.., [2, 1, 0]).for_each(drop)),
        refused(OpenError::UnsupportedParameter)
    );
    assert_eq!(open(&|body| body.splice(9.., [4, 2, 2, 1, 4]).for_each(drop)), refused(OpenError::Other(0)));
}

#[test]
fn a_known_capability_of_the_wrong_form_is_kept_but_has_no_effect() {
    let body = [4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, 7, 2, 5, 1, 3, 0, 1, 1];
    let open = Open::decode(&body).unwrap();
    assert_eq!(open.capabilities, [Capability::Unknown { code: 1, value: vec![0, 1, 1].into() }]);
}

#[test]
fn the_reserved_octet_of_a_family_is_ignored() {
    // RFC 4760 §8.
    let body = [4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, 8, 2, 6, 1, 4, 0, 2, 0xff, 1];
    assert_eq!(Open::decode(&body).unwrap().capabilities, [Capability::Multiprotocol(Family::Ipv6.code())]);
}

#[test]
fn confederation_segments_in_as4_path_are_dropped() {
    // RFC 6793 §6.
    let context = DecodeContext { four_octet_as: false, ..context() };
    let short_path = [0x40, 2, 6, 2, 2, 0xfd, 0xea, 0x5b, 0xa0];
    let as4_path = [0xc0, 17, 12, 3, 1, 0, 0, 0xfd, 0xea, 2, 1, 0, 1, 0x11, 0x70];
    let update =
        Update::decode(&body(&[], &[ORIGIN, &short_path, NEXT_HOP, &as4_path], NLRI), &context).unwrap();
    assert_eq!(update.attributes.as_path.to_string(), "65002 70000");
    assert_eq!(update.problems, []);
}

#[test]
fn a_withdrawal_with_wrong_flags_is_still_a_withdrawal() {
    // RFC 7606 §3 c; its §5.2 speaks of UPDATEs with other attributes.
    let update = body(&[], &[&[0xc0, 15, 7, 0, 2, 1, 24, 0x20, 0x01, 0x0d]], &[]);
    let update = Update::decode(&update, &context()).unwrap();
    assert_eq!(update.unreach, [Nlri::new("2001:d00::/24".parse::<Prefix>().unwrap())]);
    assert_eq!(update.problems.len(), 1);
    let cut_off = body(NLRI, &[&[0xc0]], &[]);
    assert!(Update::decode(&cut_off, &context()).is_err());
}

#[test]
fn route_refresh_subtypes_have_their_length() {
    // RFC 7313 §5.
    let refresh = RouteRefresh::decode(&[0, 2, 1, 1]).unwrap().unwrap();
    assert_eq!((refresh.family.family(), refresh.kind), (Some(Family::Ipv6), RouteRefreshKind::Begin));
    assert_eq!(RouteRefresh::decode(&[0, 1, 0, 1, 1, 2]), Ok(None), "an ORF");
    let error = RouteRefresh::decode(&[0, 1, 2, 1, 9]).unwrap_err();
    assert_eq!(error.cause, Cause::RouteRefresh(RouteRefreshError::InvalidLength));
    assert_eq!(error.data.len(), 24, "the whole message");
}
