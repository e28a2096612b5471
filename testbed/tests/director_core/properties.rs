use std::time::Duration;

use proptest::prelude::*;
use turnpike_testbed::director::{Toa, ToaFormat, ToaInsertion, Verdict};

use crate::{
    packets::{Segment, addr, icmp, see, udp},
    rig::{CLIENT4, CLIENT6, LOCAL4, LOCAL6, REAL4, REAL6, Rig, VIP4, VIP6},
};

const ENDS: [[&str; 4]; 2] = [[CLIENT4, VIP4, LOCAL4, REAL4], [CLIENT6, VIP6, LOCAL6, REAL6]];

fn any_toa() -> impl Strategy<Value = Option<Toa>> {
    let format = prop_oneof![Just(ToaFormat::Dpvs), Just(ToaFormat::Alibaba), Just(ToaFormat::Ucloud)];
    let insertion = prop_oneof![Just(ToaInsertion::Alibaba), Just(ToaInsertion::Dpvs)];
    proptest::option::of((format, insertion).prop_map(|(format, insertion)| Toa { format, insertion }))
}

fn any_segment() -> impl Strategy<Value = (bool, Segment)> {
    let options = proptest::collection::vec(any::<[u8; 4]>(), 0..=10).prop_map(|words| words.concat());
    let flags = any::<[bool; 5]>();
    let numbers = (any::<u32>(), prop_oneof![Just(7001), any::<u32>()]);
    let payload = proptest::collection::vec(any::<u8>(), 0..1600);
    (options, flags, numbers, payload, 0..2_usize).prop_map(|(options, flags, numbers, payload, family)| {
        let [from_client, syn, fin, rst, ack] = flags;
        let [client, vip, local, real] = ENDS[family].map(addr);
        let (from, to) = if from_client { (client, vip) } else { (real, local) };
        let (sequence, acknowledgement) = (numbers.0, ack.then_some(numbers.1));
        (from_client, Segment { from, to, sequence, acknowledgement, syn, fin, rst, options, payload })
    })
}

/// Swaps source and destination addresses and ports where they are present and where a plain header has them.
fn turn_around(packet: &mut [u8]) {
    let (addresses, length, ports) = if packet[0] >> 4 == 4 { (12, 4, 20) } else { (8, 16, 40) };
    for (at, length) in [(addresses, length), (ports, 2)] {
        if let Some(pair) = packet.get_mut(at..at + 2 * length) {
            pair.rotate_left(length);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever flags, options and payload a segment has: it arrives valid, with its payload, and with its
    /// own options behind at most one of the director's.
    #[test]
    fn segments_stay_valid(toa in any_toa(), segments in proptest::collection::vec(any_segment(), 1..20)) {
        let mut rig = Rig::new(toa);
        for [client, vip, ..] in ENDS {
            rig.connect(addr(client), addr(vip), 7000);
        }
        for (from_client, segment) in segments {
            let packet = segment.build();
            let (verdict, out) = rig.handle(&packet);
            if let Verdict::Drop(_) = verdict {
                continue;
            }
            prop_assert_eq!(verdict, if from_client { Verdict::ToServer } else { Verdict::ToClient });
            let seen = see(&out);
            prop_assert_eq!(&seen.payload, &segment.payload);
            let own = seen.options.len() - segment.options.len();
            prop_assert!(matches!(own, 0 | 8 | 20) && (own == 0 || from_client));
            prop_assert!(own == 0 || out.len() <= 1500);
            if !from_client || toa.is_none() {
                prop_assert!(seen.options.len() == segment.options.len());
            }
        }
    }

    #[test]
    fn datagrams_stay_valid(payload in proptest::collection::vec(any::<u8>(), 0..1400), port in 1_u16.., family in 0..2_usize) {
        let [mut client, vip, _, real] = ENDS[family].map(addr);
        client.set_port(port);
        let mut rig = Rig::new(None);
        let seen = rig.at_server(&udp(client, vip, &payload));
        prop_assert_eq!(&seen.payload, &payload);
        let back = rig.at_client(&udp(real, seen.source, &payload));
        prop_assert_eq!((back.source, back.destination, back.payload), (vip, client, payload));
    }

    #[test]
    fn no_bytes_make_it_panic(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..50)) {
        let mut rig = Rig::new(Some(Toa { format: ToaFormat::Dpvs, insertion: ToaInsertion::Alibaba }));
        for packet in packets {
            rig.handle(&packet);
        }
    }

    /// Real packets with a few bytes changed and the end cut off reach deeper than random ones.
    #[test]
    fn no_damage_makes_it_panic(
        (_, segment) in any_segment(),
        datagram in any::<bool>(),
        damage in proptest::collection::vec((0..80_usize, any::<u8>()), 0..4),
        keep in 0..200_usize,
        quoted in proptest::option::of(prop_oneof![Just([3, 1]), Just([3, 4]), Just([1, 0]), Just([2, 0]), any::<[u8; 2]>()]),
    ) {
        let mut rig = Rig::new(Some(Toa { format: ToaFormat::Dpvs, insertion: ToaInsertion::Alibaba }));
        for [client, vip, ..] in ENDS {
            rig.connect(addr(client), addr(vip), 7000);
            rig.handle(&udp(addr(client), addr(vip), b""));
        }
        let mut packet = if datagram { udp(segment.from, segment.to, &segment.payload) } else { segment.build() };
        for (at, value) in damage {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        packet.truncate(keep.max(1));
        if let Some(kind) = quoted {
            // About a packet that left the director: what was damaged is the answer to it, turned around.
            turn_around(&mut packet);
            packet = icmp(segment.from.ip(), segment.to.ip(), kind, [0, 0, 5, 0], &packet);
        }
        rig.handle(&packet);
        rig.translator.expire(rig.now + Duration::from_secs(1_000_000));
        prop_assert_eq!(rig.stats().sessions, 0);
    }
}
