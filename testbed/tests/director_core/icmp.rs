use std::net::SocketAddr;

use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, LaxSlicedPacket, icmpv4, icmpv6};
use turnpike_testbed::director::{DropReason, Verdict};

use crate::{
    packets::{Segment, addr, ip, see, udp},
    rig::{CLIENT4, CLIENT6, DPVS, LOCAL4, LOCAL6, REAL4, REAL6, Rig, VIP4, VIP6},
};

const ROUTER4: &str = "10.1.1.1:0";
const ROUTER6: &str = "[fd00:1:1::1]:0";

/// An ICMP error of `router` about `packet`, quoting `length` bytes of it.
fn error4(router: &str, about: &[u8], length: usize, kind: Icmpv4Type) -> Vec<u8> {
    let to = std::net::Ipv4Addr::new(about[12], about[13], about[14], about[15]);
    let quote = &about[..length.min(about.len())];
    let mut bytes = Icmpv4Header::with_checksum(kind, quote).to_bytes().to_vec();
    bytes.extend_from_slice(quote);
    ip(addr(router).ip(), to.into(), 1, &bytes)
}

fn error6(router: &str, about: &[u8], length: usize, kind: Icmpv6Type) -> Vec<u8> {
    let std::net::IpAddr::V6(router) = addr(router).ip() else { unreachable!() };
    let to: [u8; 16] = about[8..24].try_into().unwrap();
    let quote = &about[..length.min(about.len())];
    let header = Icmpv6Header::with_checksum(kind, router.octets(), to, quote).unwrap();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(quote);
    ip(router.into(), std::net::Ipv6Addr::from(to).into(), 58, &bytes)
}

fn unreachable4() -> Icmpv4Type {
    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
}

fn unreachable6() -> Icmpv6Type {
    Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
}

/// Checks the outer header and checksum; answers with outer source and destination and the quoted bytes.
fn open_error(packet: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let sliced = LaxSlicedPacket::from_ip(packet).unwrap();
    let (header, source, destination) = if packet[0] >> 4 == 4 {
        let header = etherparse::Ipv4Header::from_slice(packet).unwrap().0;
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        (20, std::net::IpAddr::from(header.source), std::net::IpAddr::from(header.destination))
    } else {
        let header = etherparse::Ipv6Header::from_slice(packet).unwrap().0;
        (40, std::net::IpAddr::from(header.source), std::net::IpAddr::from(header.destination))
    };
    match sliced.transport.unwrap() {
        etherparse::TransportSlice::Icmpv4(icmp) => {
            assert_eq!(icmp.checksum(), icmp.header().icmp_type.calc_checksum(icmp.payload()));
        }
        etherparse::TransportSlice::Icmpv6(icmp) => {
            let (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) = (source, destination)
            else {
                unreachable!()
            };
            assert!(icmp.is_checksum_valid(source.octets(), destination.octets()));
        }
        other => panic!("{other:?}"),
    }
    (SocketAddr::new(source, 0), SocketAddr::new(destination, 0), packet[header + 8..].to_vec())
}

#[test]
fn an_error_about_a_clients_packet_reaches_the_client_quoting_what_it_sent() {
    for (client, vip, real, router) in [(CLIENT4, VIP4, REAL4, ROUTER4), (CLIENT6, VIP6, REAL6, ROUTER6)] {
        let mut rig = Rig::new(None);
        let sent = udp(addr(client), addr(vip), b"query");
        let (_, at_server) = rig.handle(&sent);
        assert_eq!(see(&at_server).destination, addr(real));
        let error = if client == CLIENT4 {
            error4(router, &at_server, usize::MAX, unreachable4())
        } else {
            error6(router, &at_server, usize::MAX, unreachable6())
        };
        let (verdict, out) = rig.handle(&error);
        assert_eq!(verdict, Verdict::ToClient);
        let (source, destination, quote) = open_error(&out);
        assert_eq!((source.ip(), destination.ip()), (addr(vip).ip(), addr(client).ip()));
        assert_eq!(quote, sent, "byte for byte, checksums included");
        assert_eq!(rig.stats().icmp_errors, 1);
    }
}

#[test]
fn an_error_about_a_servers_packet_reaches_the_server() {
    for (client, vip, local, real) in [(CLIENT4, VIP4, LOCAL4, REAL4), (CLIENT6, VIP6, LOCAL6, REAL6)] {
        let mut rig = Rig::new(None);
        rig.handle(&udp(addr(client), addr(vip), b"query"));
        let sent = udp(addr(real), addr(local), b"reply");
        let (_, at_client) = rig.handle(&sent);
        let error = if client == CLIENT4 {
            error4(client, &at_client, usize::MAX, unreachable4())
        } else {
            error6(client, &at_client, usize::MAX, unreachable6())
        };
        let (verdict, out) = rig.handle(&error);
        assert_eq!(verdict, Verdict::ToServer);
        let (source, destination, quote) = open_error(&out);
        assert_eq!((source.ip(), destination.ip()), (addr(local).ip(), addr(real).ip()));
        assert_eq!(quote, sent);
    }
}

#[test]
fn eight_quoted_bytes_are_enough() {
    let mut rig = Rig::new(Some(DPVS));
    let sent = Segment::syn(addr(CLIENT4), addr(VIP4)).build();
    let (_, at_server) = rig.handle(&sent);
    let (verdict, out) = rig.handle(&error4(ROUTER4, &at_server, 28, unreachable4()));
    assert_eq!(verdict, Verdict::ToClient);
    assert_eq!(open_error(&out).2, sent[..28]);
    assert_eq!(rig.dropped(&error4(ROUTER4, &at_server, 27, unreachable4())), DropReason::Malformed);
}

#[test]
fn a_too_big_packet_is_reported_with_room_for_the_option_and_later_ones_go_without() {
    let (client, vip) = (addr(CLIENT4), addr(VIP4));
    let mut rig = Rig::new(Some(DPVS));
    rig.connect(client, vip, 7000);
    let sent = Segment::new(client, vip).ack(7001).payload(&[7; 1360]).build();
    let (_, at_server) = rig.handle(&sent);
    assert_eq!(at_server.len(), 1408);
    // 1400 would have been enough for the packet as it was sent.
    let too_big = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let error = error4(ROUTER4, &at_server, 548, Icmpv4Type::DestinationUnreachable(too_big));
    let (verdict, out) = rig.handle(&error);
    assert_eq!(verdict, Verdict::ToClient);
    open_error(&out);
    assert_eq!(u16::from_be_bytes([out[26], out[27]]), 1392);
    assert_eq!(rig.handle(&sent).1.len(), 1400, "a repetition of the old size goes without the option");
    assert_eq!(rig.stats().toa.skipped_mtu, 1);
    let smaller = Segment::new(client, vip).ack(7001).payload(&[7; 1352]).build();
    assert_eq!(rig.handle(&smaller).1.len(), 1400, "the new size goes with it");
}

#[test]
fn packet_too_big_of_ipv6_too() {
    let (client, vip) = (addr(CLIENT6), addr(VIP6));
    let mut rig = Rig::new(Some(DPVS));
    rig.connect(client, vip, 7000);
    let (_, at_server) = rig.handle(&Segment::new(client, vip).ack(7001).payload(&[7; 1300]).build());
    let (_, out) = rig.handle(&error6(ROUTER6, &at_server, 1232, Icmpv6Type::PacketTooBig { mtu: 1340 }));
    open_error(&out);
    assert_eq!(u32::from_be_bytes(out[44..48].try_into().unwrap()), 1320);
}

#[test]
fn forged_and_broken_errors_are_dropped() {
    let mut rig = Rig::new(None);
    let (_, at_server) = rig.handle(&udp(addr(CLIENT4), addr(VIP4), b"query"));
    let error = error4(ROUTER4, &at_server, usize::MAX, unreachable4());
    let mut broken = error.clone();
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(rig.dropped(&broken), DropReason::Malformed, "checksum");
    let elsewhere = udp(addr(LOCAL4), addr("10.244.0.6:8080"), b"query");
    assert_eq!(
        rig.dropped(&error4(ROUTER4, &elsewhere, usize::MAX, unreachable4())),
        DropReason::NoSession,
        "about a packet that was never sent"
    );
    let redirect = Icmpv4Type::Unknown { type_u8: 5, code_u8: 1, bytes5to8: [10, 0, 0, 1] };
    assert_eq!(rig.dropped(&error4(ROUTER4, &at_server, usize::MAX, redirect)), DropReason::Unsupported);
    assert_eq!(rig.stats().icmp_errors, 0);
}

#[test]
fn vips_and_local_addresses_answer_echo() {
    let echo = etherparse::IcmpEchoHeader { id: 7, seq: 9 };
    for to in [VIP4, LOCAL4] {
        let mut rig = Rig::new(None);
        let mut request =
            Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), b"abc").to_bytes().to_vec();
        request.extend_from_slice(b"abc");
        let (verdict, out) = rig.handle(&ip(addr(CLIENT4).ip(), addr(to).ip(), 1, &request));
        assert_eq!(verdict, Verdict::Reply);
        let (source, destination, data) = open_error(&out);
        assert_eq!((source.ip(), destination.ip()), (addr(to).ip(), addr(CLIENT4).ip()));
        assert_eq!((out[20], out[8], data.as_slice()), (0, 64, b"abc".as_slice()));
        let elsewhere = ip(addr(CLIENT4).ip(), addr(REAL4).ip(), 1, &request);
        assert_eq!(rig.dropped(&elsewhere), DropReason::NotOurs);
    }
    let (std::net::IpAddr::V6(client), std::net::IpAddr::V6(vip)) = (addr(CLIENT6).ip(), addr(VIP6).ip())
    else {
        unreachable!()
    };
    let kind = Icmpv6Type::EchoRequest(echo);
    let header = Icmpv6Header::with_checksum(kind, client.octets(), vip.octets(), b"abc").unwrap();
    let mut request = header.to_bytes().to_vec();
    request.extend_from_slice(b"abc");
    let (verdict, out) = Rig::new(None).handle(&ip(client.into(), vip.into(), 58, &request));
    assert_eq!(verdict, Verdict::Reply);
    open_error(&out);
    assert_eq!((out[40], out[7]), (129, 64));
}
