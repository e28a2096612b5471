use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, defrag::IpDefragPool};
use turnpike_testbed::director::{DropReason, Verdict};

use crate::{
    packets::{Segment, addr, see, udp},
    rig::{ALIBABA, CLIENT4, CLIENT6, LOCAL4, REAL4, Rig, VIP4, VIP6},
};

/// Cuts a packet into fragments of `size` payload bytes.
fn cut(packet: &[u8], identification: u32, size: usize) -> Vec<Vec<u8>> {
    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let payload = &packet[header..];
    let count = payload.len().div_ceil(size);
    let piece = |(index, bytes): (usize, &[u8])| {
        let offset = IpFragOffset::try_new(u16::try_from(index * size / 8).unwrap()).unwrap();
        let more = index + 1 < count;
        let mut out = if header == 20 {
            let mut ip = Ipv4Header::from_slice(packet).unwrap().0;
            ip.identification = u16::try_from(identification).unwrap();
            ip.dont_fragment = false;
            ip.more_fragments = more;
            ip.fragment_offset = offset;
            ip.set_payload_len(bytes.len()).unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            ip.to_bytes().to_vec()
        } else {
            let mut ip = Ipv6Header::from_slice(packet).unwrap().0;
            let next = ip.next_header;
            ip.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
            ip.set_payload_length(8 + bytes.len()).unwrap();
            let mut out = ip.to_bytes().to_vec();
            out.extend_from_slice(&Ipv6FragmentHeader::new(next, offset, more, identification).to_bytes());
            out
        };
        out.extend_from_slice(bytes);
        out
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// Puts fragments together again and answers with the whole packet.
fn join(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut pool = IpDefragPool::<(), ()>::new();
    let mut whole = None;
    for fragment in fragments {
        let sliced = etherparse::SlicedPacket::from_ip(fragment).unwrap();
        if let Some(done) = pool.process_sliced_packet(&sliced, (), ()).unwrap() {
            whole = Some(done.payload);
        }
    }
    let first = &fragments[0];
    let payload = whole.unwrap();
    if first[0] >> 4 == 4 {
        let mut ip = Ipv4Header::from_slice(first).unwrap().0;
        ip.more_fragments = false;
        ip.set_payload_len(payload.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        [ip.to_bytes().to_vec(), payload].concat()
    } else {
        let mut ip = Ipv6Header::from_slice(first).unwrap().0;
        ip.next_header = IpNumber(first[40]);
        ip.set_payload_length(payload.len()).unwrap();
        [ip.to_bytes().to_vec(), payload].concat()
    }
}

#[test]
fn a_fragmented_datagram_arrives_whole_at_the_server() {
    let payload: Vec<u8> = (0..4000_u32).map(|number| number.to_be_bytes()[3]).collect();
    for (client, vip) in [(CLIENT4, VIP4), (CLIENT6, VIP6)] {
        let mut rig = Rig::new(None);
        let whole = udp(addr(client), addr(vip), &payload);
        let pieces: Vec<_> = cut(&whole, 77, 1448)
            .iter()
            .map(|fragment| {
                let (verdict, out) = rig.handle(fragment);
                assert_eq!(verdict, Verdict::ToServer);
                assert_eq!(out.len(), fragment.len());
                out
            })
            .collect();
        let seen = see(&join(&pieces));
        assert_eq!(seen.payload, payload);
        assert_ne!(seen.source, addr(client));
        assert_eq!(rig.stats().fragments, 2);
    }
}

#[test]
fn datagrams_of_two_clients_with_one_identification_stay_apart() {
    let mut rig = Rig::new(None);
    let mut identifications = Vec::new();
    for client in [CLIENT4, "192.0.2.11:40001"] {
        for fragment in cut(&udp(addr(client), addr(VIP4), &[1; 2000]), 77, 1448) {
            let out = rig.handle(&fragment).1;
            identifications.push(u16::from_be_bytes([out[4], out[5]]));
        }
    }
    assert_eq!(identifications[0], identifications[1]);
    assert_eq!(identifications[2], identifications[3]);
    assert_ne!(identifications[0], identifications[2]);
}

#[test]
fn fragments_of_replies_go_back() {
    let mut rig = Rig::new(None);
    rig.handle(&udp(addr(CLIENT4), addr(VIP4), b""));
    let reply = udp(addr(REAL4), addr(LOCAL4), &[3; 3000]);
    let pieces: Vec<_> = cut(&reply, 5, 1480)
        .iter()
        .map(|fragment| {
            let (verdict, out) = rig.handle(fragment);
            assert_eq!(verdict, Verdict::ToClient);
            out
        })
        .collect();
    let seen = see(&join(&pieces));
    assert_eq!((seen.source, seen.destination), (addr(VIP4), addr(CLIENT4)));
}

#[test]
fn a_later_fragment_without_its_first_is_dropped() {
    let mut rig = Rig::new(None);
    let fragments = cut(&udp(addr(CLIENT4), addr(VIP4), &[1; 2000]), 77, 1448);
    assert_eq!(rig.dropped(&fragments[1]), DropReason::Fragment);
    rig.handle(&fragments[0]);
    rig.now += std::time::Duration::from_secs(31);
    assert_eq!(rig.dropped(&fragments[1]), DropReason::Fragment, "forgotten after half a minute");
}

#[test]
fn a_fragmented_segment_goes_without_toa() {
    let mut rig = Rig::new(Some(ALIBABA));
    let syn = Segment::syn(addr(CLIENT4), addr(VIP4)).payload(&[1; 2000]).build();
    for fragment in cut(&syn, 1, 1448) {
        assert_eq!(rig.handle(&fragment).1.len(), fragment.len());
    }
    assert_eq!((rig.stats().toa.inserted, rig.stats().toa.skipped_fragment), (0, 1));
}
