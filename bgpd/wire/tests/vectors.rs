//! Sessions of independent speakers, byte for byte: BIRD 2.0.12 and FRR 8.4.4 as Debian 12 has them, each announcing
//! a handful of networks to a listener. One message a line.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a vector that does not decode should stop the test"
)]

use turnpike_bgp_wire::*;

fn bytes_of(vector: &str) -> Vec<u8> {
    let digits: Vec<u32> = vector.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

struct Session {
    open: Open,
    updates: Vec<Update>,
    /// The UPDATEs as they came.
    raw: Vec<Vec<u8>>,
}

fn session(vector: &str, context: &DecodeContext) -> Session {
    let mut framer = Framer::new();
    framer.push(&bytes_of(vector));
    let (mut open, mut updates, mut raw) = (None, Vec::new(), Vec::new());
    while let Some(frame) = framer.next_frame().unwrap() {
        match frame.kind {
            MessageType::Open => open = Some(Open::decode(frame.body).unwrap()),
            MessageType::Update => {
                updates.push(Update::decode(frame.body, context).unwrap());
                raw.push(frame.body.to_vec());
            }
            MessageType::Keepalive => assert!(frame.body.is_empty()),
            other => assert_eq!(other, MessageType::Keepalive, "not in these sessions"),
        }
    }
    assert_eq!(framer.pending(), 0);
    Session { open: open.unwrap(), updates, raw }
}

fn context(internal: bool, four_octet_as: bool) -> DecodeContext {
    DecodeContext {
        internal,
        four_octet_as,
        families: Families::BOTH,
        add_path: Families::NONE,
        extended_next_hop: false,
    }
}

fn find<'a>(session: &'a Session, prefix: &str) -> &'a Update {
    let wanted: Prefix = prefix.parse().unwrap();
    session.updates.iter().find(|update| update.announced().any(|prefix| prefix == wanted)).unwrap()
}

/// Encodes an UPDATE that announces one set of prefixes.
fn encode_again(update: &Update) -> Vec<u8> {
    let reach = &update.reach[0];
    let mut bytes = Vec::new();
    let context = EncodeContext::default();
    encode_reach(&update.attributes, reach.family, reach.next_hop, &reach.nlri, &context, &mut bytes)
        .unwrap();
    bytes.split_off(19)
}

fn ended(session: &Session) -> Vec<Family> {
    session.updates.iter().filter_map(|update| update.end_of_rib).collect()
}

#[test]
fn birds_internal_session_is_understood_and_reproduced_to_the_byte() {
    let session = session(include_str!("vectors/bird-ibgp.hex"), &context(true, true));
    assert_eq!((session.open.asn, session.open.hold_time), (Asn(65001), 240));
    assert_eq!(session.open.router_id.to_string(), "192.0.2.1");
    let words: Vec<String> = session.open.capabilities.iter().map(ToString::to_string).collect();
    let expected = [
        "multiprotocol ipv4",
        "multiprotocol ipv6",
        "route refresh",
        "graceful restart 77 s ipv4 ipv6",
        "four-octet AS",
        "enhanced route refresh",
        "long-lived graceful restart",
    ];
    assert_eq!(words, expected);

    let tagged = find(&session, "10.244.1.0/26");
    let attributes = &tagged.attributes;
    assert_eq!((attributes.med, attributes.local_pref), (Some(50), Some(100)));
    assert_eq!(*attributes.communities, ["65001:100".parse().unwrap()]);
    assert_eq!(*attributes.large_communities, ["65001:1:2".parse().unwrap()]);
    assert_eq!(attributes.extended_communities[0].to_string(), "rt:65001:7");
    assert_eq!(tagged.reach[0].next_hop.addr().to_string(), "198.51.100.1");
    assert_eq!(
        find(&session, "0.0.0.0/0").reach[0].nlri.len(),
        2,
        "the default route and a host, in one message"
    );

    let v6 = find(&session, "fd00:244:1::/64");
    assert!(v6.announced().any(|prefix| prefix.to_string() == "2001:db8::1/128"));
    assert_eq!(v6.reach[0].next_hop.addr().to_string(), "fd00:1::1");
    assert_eq!(ended(&session), [Family::Ipv4, Family::Ipv6]);

    for (update, raw) in
        session.updates.iter().zip(&session.raw).filter(|(update, _)| !update.reach.is_empty())
    {
        assert_eq!(&encode_again(update), raw);
    }
    let mut end = Vec::new();
    encode_end_of_rib(Family::Ipv6, &mut end);
    assert_eq!(session.raw.last().unwrap()[..], end[19..]);
}

#[test]
fn birds_external_session_carries_four_octet_paths() {
    let session = session(include_str!("vectors/bird-ebgp.hex"), &context(false, true));
    let path = &find(&session, "10.244.1.0/26").attributes.as_path;
    assert_eq!((path.to_string(), path.hops()), ("65001 4200000000".to_owned(), 2));
    assert_eq!((path.neighbour(), path.origin()), (Some(Asn(65001)), Some(Asn(4_200_000_000))));
    for (update, raw) in
        session.updates.iter().zip(&session.raw).filter(|(update, _)| !update.reach.is_empty())
    {
        assert_eq!(&encode_again(update), raw);
    }
}

#[test]
fn frrs_internal_session_is_understood() {
    let session = session(include_str!("vectors/frr-ibgp.hex"), &context(true, true));
    assert_eq!(session.open.router_id.to_string(), "192.0.2.2");
    let graceful = session.open.capabilities.iter().find_map(|capability| match capability {
        Capability::GracefulRestart(value) => Some(value),
        _ => None,
    });
    let graceful = graceful.unwrap();
    assert_eq!((graceful.restart_time, graceful.restarted, graceful.notification), (120, true, true));
    let add_path = Capability::AddPath(vec![
        (Family::Ipv4.code(), AddPathMode::Receive),
        (Family::Ipv6.code(), AddPathMode::Receive),
    ]);
    assert!(session.open.capabilities.contains(&add_path), "{:?}", session.open.capabilities);
    assert!(session.open.has(|capability| *capability == Capability::ExtendedMessage));

    let tagged = &find(&session, "10.244.2.0/26").attributes;
    assert_eq!(tagged.med, Some(20));
    assert_eq!(*tagged.communities, ["65001:200".parse().unwrap(), Community::NO_EXPORT]);
    assert_eq!(*tagged.large_communities, ["65001:3:4".parse().unwrap()]);
    let aggregate = &find(&session, "10.244.0.0/16").attributes;
    assert!(aggregate.atomic_aggregate);
    let aggregator = aggregate.aggregator.unwrap();
    assert_eq!((aggregator.asn, aggregator.router_id.to_string().as_str()), (Asn(65001), "192.0.2.2"));
    assert_eq!(find(&session, "fd00:244:2::/64").reach[0].next_hop.addr().to_string(), "::ffff:198.51.100.1");
    assert_eq!(ended(&session), [Family::Ipv4, Family::Ipv6]);
    for update in session.updates.iter().filter(|update| !update.reach.is_empty()) {
        let again = Update::decode(&encode_again(update), &context(true, true)).unwrap();
        assert_eq!(&again, update);
    }
}

#[test]
fn frr_without_capabilities_speaks_two_octets() {
    let session = session(include_str!("vectors/frr-two-octet.hex"), &context(false, false));
    assert!(session.open.capabilities.is_empty());
    assert_eq!(find(&session, "10.9.0.2/32").attributes.as_path.to_string(), "65001");
    let aggregator = find(&session, "10.244.0.0/16").attributes.aggregator.unwrap();
    assert_eq!(aggregator.asn, Asn(65001));
    assert_eq!(ended(&session), [], "nobody asked for it");
}
