use turnpike_testbed::director::{Toa, ToaFormat, ToaInsertion};

use crate::{
    packets::{Segment, addr},
    rig::{ALIBABA, CLIENT4, CLIENT6, DPVS, LOCAL4, REAL4, REAL6, Rig, VIP4, VIP6, config},
};

// 40001 = 0x9c41
const TOA4: [u8; 8] = [254, 8, 0x9c, 0x41, 192, 0, 2, 10];
const TOA6: [u8; 20] = [254, 20, 0x9c, 0x41, 0xfd, 0, 0, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7];

/// One connection: which of the client's packets carry exactly the option in front of their own options.
fn carried(toa: Toa, client: &str, vip: &str, real: &str, expected: &[u8]) -> Vec<&'static str> {
    let (client, vip, real) = (addr(client), addr(vip), addr(real));
    let mut rig = Rig::new(Some(toa));
    let mut carried = Vec::new();
    let isn = u32::MAX; // the first byte that the server sends has number 0
    let local = rig.at_server(&Segment::syn(client, vip).build()).source;
    let from_client = |ack: u32| Segment::new(client, vip).sequence(1001).ack(ack).options(&TIMESTAMPS);
    let steps = [
        ("SYN", Segment::syn(client, vip).options(&TIMESTAMPS)),
        ("SYN-ACK", Segment::syn(real, local).sequence(isn).ack(1001)),
        ("third ACK", from_client(0)),
        ("request", from_client(0).payload(b"GET /")),
        ("second part", from_client(0).sequence(1006).payload(b" HTTP/1.0\r\n\r\n")),
        ("response", Segment::new(real, local).sequence(0).ack(1019).payload(b"200")),
        ("late repetition", from_client(0).payload(b"GET /")),
        ("ACK of data", from_client(3)),
        ("next request", from_client(3).sequence(1019).payload(b"GET /")),
        ("FIN", from_client(3).sequence(1024).fin()),
    ];
    for (name, segment) in steps {
        if segment.from == real {
            assert_eq!(rig.at_client(&segment.build()).options, segment.options);
            continue;
        }
        let seen = rig.at_server(&segment.build());
        assert_eq!(seen.payload, segment.payload);
        if seen.options == segment.options {
            continue;
        }
        assert_eq!(seen.options, [expected, &segment.options].concat(), "{name}");
        carried.push(name);
    }
    assert!(rig.stats().toa.inserted >= carried.len() as u64);
    carried
}

#[test]
fn alibabas_rule_is_the_syn_and_all_until_server_data_is_acknowledged() {
    let packets = ["SYN", "third ACK", "request", "second part", "late repetition"];
    assert_eq!(carried(ALIBABA, CLIENT4, VIP4, REAL4, &TOA4), packets);
    assert_eq!(carried(ALIBABA, CLIENT6, VIP6, REAL6, &TOA6), packets);
}

#[test]
fn dpvs_rule_is_the_same_without_the_syn() {
    let packets = ["third ACK", "request", "second part", "late repetition"];
    assert_eq!(carried(DPVS, CLIENT4, VIP4, REAL4, &TOA4), packets);
    assert_eq!(carried(DPVS, CLIENT6, VIP6, REAL6, &TOA6), packets);
}

#[test]
fn alibabas_format_has_another_kind_for_ipv6() {
    let toa = Toa { format: ToaFormat::Alibaba, insertion: ToaInsertion::Alibaba };
    let mut option = TOA6;
    option[0] = 253;
    assert_eq!(carried(toa, CLIENT6, VIP6, REAL6, &option).len(), 5);
}

#[test]
fn a_format_without_a_form_for_ipv6_leaves_it_out() {
    let toa = Toa { format: ToaFormat::Ucloud, insertion: ToaInsertion::Alibaba };
    assert_eq!(carried(toa, CLIENT4, VIP4, REAL4, &[&[200], &TOA4[1..]].concat()).len(), 5);
    let mut rig = Rig::new(Some(toa));
    rig.connect(addr(CLIENT6), addr(VIP6), 7000);
    assert_eq!((rig.stats().toa.inserted, rig.stats().toa.skipped_family), (0, 2));
}

#[test]
fn a_reset_carries_none() {
    let mut rig = Rig::new(Some(ALIBABA));
    rig.connect(addr(CLIENT4), addr(VIP4), 7000);
    let seen = rig.at_server(&Segment::new(addr(CLIENT4), addr(VIP4)).ack(7001).rst().build());
    assert!(seen.options.is_empty());
}

#[test]
fn the_option_needs_its_room_exactly() {
    for (client, vip, length) in [(CLIENT4, VIP4, TOA4.len()), (CLIENT6, VIP6, TOA6.len())] {
        let mut rig = Rig::new(Some(ALIBABA));
        let just = vec![1; 40 - length];
        assert_eq!(
            rig.at_server(&Segment::syn(addr(client), addr(vip)).options(&just).build()).options.len(),
            40
        );
        let too_many = vec![1; 44 - length];
        let seen = rig.at_server(&Segment::syn(addr(client), addr(vip)).options(&too_many).build());
        assert_eq!(seen.options, too_many);
        assert_eq!((rig.stats().toa.inserted, rig.stats().toa.skipped_room), (1, 1));
    }
}

#[test]
fn a_packet_that_would_exceed_the_mtu_goes_without() {
    let mut rig = Rig::new(Some(DPVS));
    let (client, vip) = (addr(CLIENT4), addr(VIP4));
    rig.connect(client, vip, 7000);
    let segment =
        |length: usize| Segment::new(client, vip).ack(7001).payload(&vec![0x5a; length - 40]).build();
    assert_eq!(rig.handle(&segment(1492)).1.len(), 1500);
    assert_eq!(rig.handle(&segment(1493)).1.len(), 1493);
    assert_eq!((rig.stats().toa.inserted, rig.stats().toa.skipped_mtu), (2, 1));
}

#[test]
fn the_announced_mss_leaves_room_for_the_option() {
    // The MSS stands at an odd offset: the checksum must know.
    for options in [[2, 4, 0x05, 0xb4, 1, 1, 1, 1], [1, 2, 4, 0x05, 0xb4, 1, 1, 1]] {
        let mut rig = Rig::new(Some(DPVS));
        rig.at_server(&Segment::syn(addr(CLIENT4), addr(VIP4)).build());
        let syn_ack = Segment::syn(addr(REAL4), addr(LOCAL4)).ack(1001).options(&options).build();
        let seen = rig.at_client(&syn_ack);
        let at = options.iter().position(|&byte| byte == 0x05).unwrap();
        assert_eq!(u16::from_be_bytes([seen.options[at], seen.options[at + 1]]), 1500 - 40 - 8);
        assert_eq!(rig.stats().mss_clamped, 1);
    }
    let mut rig = Rig::new(Some(DPVS));
    let local = rig.at_server(&Segment::syn(addr(CLIENT6), addr(VIP6)).build()).source;
    let seen =
        rig.at_client(&Segment::syn(addr(REAL6), local).ack(1001).options(&[2, 4, 0x05, 0xa0]).build());
    assert_eq!(u16::from_be_bytes([seen.options[2], seen.options[3]]), 1500 - 60 - 20);
    let seen =
        rig.at_client(&Segment::syn(addr(REAL6), local).ack(1001).options(&[2, 4, 0x02, 0x18]).build());
    assert_eq!(seen.options, [2, 4, 0x02, 0x18], "a small one stays");
}

#[test]
fn a_clients_own_toa_becomes_no_operations() {
    let forged = [254, 8, 0, 80, 8, 8, 8, 8];
    let (client, vip) = (addr(CLIENT4), addr(VIP4));
    // No room for the director's own option: the forged one would be the only one.
    let mut full = vec![1, 254, 8, 0, 80, 8, 8, 8, 8, 1, 1, 1];
    full.extend_from_slice(&TIMESTAMPS);
    full.extend_from_slice(&TIMESTAMPS);

    let mut rig = Rig::new(Some(DPVS));
    let seen = rig.at_server(&Segment::syn(client, vip).options(&forged).build());
    assert_eq!(seen.options, [1; 8]);
    let seen = rig.at_server(&Segment::syn(client, vip).options(&full).build());
    assert_eq!(seen.options[..12], [1; 12]);
    assert_eq!(seen.options[12..], full[12..]);
    assert_eq!(rig.stats().toa.blanked, 2);
    let fast_open = [254, 4, 0xf9, 0x89];
    assert_eq!(rig.at_server(&Segment::syn(client, vip).options(&fast_open).build()).options, fast_open);

    let mut trusting = config(Some(DPVS));
    trusting.blank_client_toa = false;
    let mut rig = Rig::with(&trusting);
    assert_eq!(rig.at_server(&Segment::syn(client, vip).options(&forged).build()).options, forged);
}
