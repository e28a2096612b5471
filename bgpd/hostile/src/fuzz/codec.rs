//! Targets for the decoders.

use turnpike_bgp_wire::{
    DecodeContext, EncodeContext, Families, Family, Framer, MAX_EXTENDED_MESSAGE, MessageType, Nlri,
    Notification, Open, RouteRefresh, Severity, Update, encode_reach, encode_unreach,
};

/// Octets of a message header.
const HEADER: usize = 19;
/// Attribute codes worth more of the fuzzer's time than others: all that we know, and one that we do not.
const CODES: [u8; 17] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 99];

/// One message of any type: the first octet is its type, the second the session's properties, the rest its body.
pub fn message(data: &[u8]) {
    let [kind, properties, body @ ..] = data else { return };
    match kind % 4 {
        0 => open_body(body),
        1 => update_body(body, *properties),
        2 => notification_body(body),
        _ => refresh_body(body),
    }
}

/// A stream, cut into pieces as its first octet says; any other cut must give the same messages and the same error.
pub fn stream(data: &[u8]) {
    let [cut, stream @ ..] = data else { return };
    let extended = cut & 0x80 != 0;
    let read = |size: usize| {
        let mut framer = Framer::new();
        if extended {
            framer.allow_extended();
        }
        let mut frames = Vec::new();
        for piece in stream.chunks(size.max(1)) {
            framer.push(piece);
            loop {
                match framer.next_frame() {
                    Ok(Some(frame)) => frames.push((frame.kind, frame.body.to_vec())),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error.cause)),
                }
            }
            assert!(framer.pending() < usize::from(MAX_EXTENDED_MESSAGE), "a framer that hoards");
        }
        (frames, None)
    };
    assert_eq!(read(usize::from(cut & 0x7f)), read(usize::MAX));
}

/// The body of an UPDATE; the first octet holds the session's properties.
pub fn update(data: &[u8]) {
    if let [properties, body @ ..] = data {
        update_body(body, *properties);
    }
}

/// One attribute among good ones: properties, code, flags, then its value.
pub fn attribute(data: &[u8]) {
    let [properties, code, flags, value @ ..] = data else { return };
    let code = CODES.get(usize::from(*code)).copied().unwrap_or(*code);
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 3, 4, 192, 0, 2, 2];
    match properties & 2 {
        0 => attributes.extend_from_slice(&[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xea]),
        _ => attributes.extend_from_slice(&[0x40, 2, 4, 2, 1, 0xfd, 0xea]),
    }
    let Ok(len) = u16::try_from(value.len()) else { return };
    attributes.extend_from_slice(&[flags | 0x10, code]);
    attributes.extend_from_slice(&len.to_be_bytes());
    attributes.extend_from_slice(value);
    let prefix: &[u8] = if properties & 4 == 0 { &[24, 203, 0, 113] } else { &[0, 0, 0, 7, 24, 203, 0, 113] };
    if let Some(body) = body(&[], &attributes, prefix) {
        update_body(&body, *properties);
    }
}

/// The capabilities of an OPEN, in one parameter of either form.
pub fn capability(data: &[u8]) {
    let mut body = vec![4, 0xfd, 0xea, 0, 90, 192, 0, 2, 2];
    match u8::try_from(data.len()) {
        Ok(len @ ..=253) => body.extend_from_slice(&[len + 2, 2, len]),
        _ => {
            let Ok(len) = u16::try_from(data.len() + 3) else { return };
            body.extend_from_slice(&[255, 255]);
            body.extend_from_slice(&len.to_be_bytes());
            body.push(2);
            body.extend_from_slice(&(len - 3).to_be_bytes());
        }
    }
    body.extend_from_slice(data);
    open_body(&body);
}

/// Prefixes in each of their four places: withdrawn, announced, MP_REACH_NLRI, MP_UNREACH_NLRI.
pub fn nlri(data: &[u8]) {
    let [properties, nlri @ ..] = data else { return };
    let good: &[u8] = &[0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 192, 0, 2, 2];
    let reach = [&[0, 2, 1, 16][..], &[0x20; 16], &[0], nlri].concat();
    let unreach = [&[0, 2, 1][..], nlri].concat();
    let bodies = [
        body(nlri, &[], &[]),
        body(&[], good, nlri),
        multiprotocol(14, &reach).and_then(|attribute| body(&[], &[&attribute, good].concat(), &[])),
        multiprotocol(15, &unreach).and_then(|attribute| body(&[], &attribute, &[])),
    ];
    for body in bodies.into_iter().flatten() {
        update_body(&body, *properties);
    }
}

fn multiprotocol(code: u8, value: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(value.len()).ok()?;
    let mut attribute = vec![0x90, code];
    attribute.extend_from_slice(&len.to_be_bytes());
    attribute.extend_from_slice(value);
    Some(attribute)
}

/// `None` if it is too long for a message.
fn body(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Option<Vec<u8>> {
    let mut body = u16::try_from(withdrawn.len()).ok()?.to_be_bytes().to_vec();
    body.extend_from_slice(withdrawn);
    body.extend_from_slice(&u16::try_from(attributes.len()).ok()?.to_be_bytes());
    body.extend_from_slice(attributes);
    body.extend_from_slice(announced);
    (body.len() + HEADER <= usize::from(MAX_EXTENDED_MESSAGE)).then_some(body)
}

/// Bits: internal, two-octet numbers, path identifiers, extended next hop, only IPv4.
fn context(properties: u8) -> DecodeContext {
    let families = Families { ipv4: true, ipv6: properties & 16 == 0 };
    DecodeContext {
        internal: properties & 1 != 0,
        four_octet_as: properties & 2 == 0,
        families,
        add_path: if properties & 4 != 0 { families } else { Families::NONE },
        extended_next_hop: properties & 8 != 0,
    }
}

fn open_body(body: &[u8]) {
    let Ok(open) = Open::decode(body) else { return };
    assert!(open.asn.0 != 0 && open.router_id.to_u32() != 0 && !matches!(open.hold_time, 1 | 2));
    assert!(open.capabilities.iter().all(|capability| !capability.to_string().is_empty()));
    let mut bytes = Vec::new();
    open.encode(&mut bytes);
    let again = bytes.get(HEADER..).map(Open::decode);
    assert_eq!(again, Some(Ok(open)), "an OPEN that changes when it is written");
}

fn notification_body(body: &[u8]) {
    let Some(notification) = Notification::decode(body) else {
        assert!(body.len() < 2);
        return;
    };
    assert!(!notification.to_string().chars().any(char::is_control), "control characters for the log");
    let _ = notification.inside_hard_reset();
    let mut bytes = Vec::new();
    notification.encode(&mut bytes);
    assert!(bytes.len() <= 4096);
    if body.len() <= 4096 - HEADER {
        assert_eq!(bytes.get(HEADER..).and_then(Notification::decode), Some(notification));
    }
}

fn refresh_body(body: &[u8]) {
    let Ok(Some(refresh)) = RouteRefresh::decode(body) else { return };
    let mut bytes = Vec::new();
    refresh.encode(&mut bytes);
    assert_eq!(bytes.get(HEADER..), Some(body));
}

fn update_body(body: &[u8], properties: u8) {
    let context = context(properties);
    let Ok(update) = Update::decode(body, &context) else { return };
    let worst = update.problems.iter().map(|problem| problem.severity).max();
    assert!(worst < Some(Severity::Reset), "a reset among the milder problems");
    if worst == Some(Severity::Withdraw) {
        assert!(update.reach.is_empty(), "prefixes announced in spite of a mistake that costs them");
    }
    let families = update.reach.iter().map(|reach| reach.family);
    let withdrawn = update.unreach.iter().map(|nlri| nlri.prefix.family());
    assert!(families.chain(withdrawn).all(|family| context.families.contains(family)));
    written_again(&update, context);
}

/// What was read must survive being written and read, message sizes permitting.
fn written_again(update: &Update, mut context: DecodeContext) {
    // Our own writing keeps the four-octet form, and what counts inside an AS only.
    (context.internal, context.four_octet_as) = (true, true);
    let encode = EncodeContext {
        four_octet_as: true,
        add_path_ipv4: context.add_path.ipv4,
        add_path_ipv6: context.add_path.ipv6,
        max_message: MAX_EXTENDED_MESSAGE,
    };
    for reach in &update.reach {
        let mut bytes = Vec::new();
        let (family, next_hop) = (reach.family, reach.next_hop);
        if encode_reach(&update.attributes, family, next_hop, &reach.nlri, &encode, &mut bytes).is_err() {
            continue;
        }
        let mut seen: Vec<Nlri> = Vec::new();
        for again in read(&bytes, &context) {
            assert!(again.problems.is_empty(), "we write what we object to: {:?}", again.problems);
            assert_eq!(again.attributes, update.attributes);
            assert!(again.reach.iter().all(|r| (r.family, r.next_hop) == (family, next_hop)));
            seen.extend(again.reach.into_iter().flat_map(|reach| reach.nlri));
        }
        assert_eq!(seen, reach.nlri);
    }
    for family in Family::ALL {
        let of_family = |nlri: &&Nlri| nlri.prefix.family() == family;
        let gone: Vec<Nlri> = update.unreach.iter().filter(of_family).copied().collect();
        let mut bytes = Vec::new();
        encode_unreach(family, &gone, &encode, &mut bytes);
        let seen: Vec<Nlri> = read(&bytes, &context).into_iter().flat_map(|again| again.unreach).collect();
        assert_eq!(seen, gone);
    }
}

fn read(bytes: &[u8], context: &DecodeContext) -> Vec<Update> {
    let mut framer = Framer::new();
    framer.allow_extended();
    framer.push(bytes);
    let mut updates = Vec::new();
    while let Ok(Some(frame)) = framer.next_frame() {
        assert_eq!(frame.kind, MessageType::Update);
        let update = Update::decode(frame.body, context);
        assert!(update.is_ok(), "we write what we refuse: {update:?}");
        updates.extend(update);
    }
    assert_eq!(framer.pending(), 0, "we write half messages");
    updates
}
