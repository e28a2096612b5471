//! Packets for the tests, made and checked by etherparse: an opinion on headers and checksums that is not the
//! director's own.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header, NetSlice,
    SlicedPacket, TcpHeader, TransportSlice, UdpHeader,
};
use turnpike_testbed::director::Protocol;

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A TCP segment to be.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: Option<u32>,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    pub(crate) fn new(from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            from,
            to,
            sequence: 1000,
            acknowledgement: None,
            syn: false,
            fin: false,
            rst: false,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    pub(crate) fn syn(from: SocketAddr, to: SocketAddr) -> Self {
        Self { syn: true, ..Self::new(from, to) }
    }

    pub(crate) fn ack(self, number: u32) -> Self {
        Self { acknowledgement: Some(number), ..self }
    }

    pub(crate) fn sequence(self, sequence: u32) -> Self {
        Self { sequence, ..self }
    }

    pub(crate) fn fin(self) -> Self {
        Self { fin: true, ..self }
    }

    pub(crate) fn rst(self) -> Self {
        Self { rst: true, ..self }
    }

    pub(crate) fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    pub(crate) fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut header = TcpHeader::new(self.from.port(), self.to.port(), self.sequence, 65_000);
        header.syn = self.syn;
        header.fin = self.fin;
        header.rst = self.rst;
        header.ack = self.acknowledgement.is_some();
        header.acknowledgment_number = self.acknowledgement.unwrap_or_default();
        header.set_options_raw(&self.options).unwrap();
        header.checksum = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header.calc_checksum_ipv4_raw(from.octets(), to.octets(), &self.payload).unwrap()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                header.calc_checksum_ipv6_raw(from.octets(), to.octets(), &self.payload).unwrap()
            }
            _ => unreachable!("mixed families"),
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(&self.payload);
        ip(self.from.ip(), self.to.ip(), 6, &bytes)
    }
}

/// A UDP datagram with its checksum.
pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut header = UdpHeader { source_port: from.port(), destination_port: to.port(), length, checksum: 0 };
    header.checksum = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload).unwrap()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload).unwrap()
        }
        _ => unreachable!("mixed families"),
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(payload);
    ip(from.ip(), to.ip(), 17, &bytes)
}

/// An ICMP (or ICMPv6) message of any type with a right checksum; `rest` is the second word of its header.
pub(crate) fn icmp(from: IpAddr, to: IpAddr, kind: [u8; 2], rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let [type_u8, code_u8] = kind;
    let (protocol, header) = match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let kind = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8: rest };
            let header = Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), payload).unwrap();
            (58, header.to_bytes().to_vec())
        }
        _ => {
            let kind = Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8: rest };
            (1, Icmpv4Header::with_checksum(kind, payload).to_bytes().to_vec())
        }
    };
    ip(from, to, protocol, &[&header, payload].concat())
}

/// An IP header around `payload`.
pub(crate) fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut bytes = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header =
                Ipv4Header::new(length, 61, IpNumber(protocol), from.octets(), to.octets()).unwrap();
            header.identification = 0x1234;
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => Ipv6Header {
            payload_length: length,
            next_header: IpNumber(protocol),
            hop_limit: 61,
            source: from.octets(),
            destination: to.octets(),
            ..Ipv6Header::default()
        }
        .to_bytes()
        .to_vec(),
        _ => unreachable!("mixed families"),
    };
    bytes.extend_from_slice(payload);
    bytes
}

/// What a packet says, after its lengths and checksums were found right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) protocol: Protocol,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// Reads a packet and checks everything in it that can be checked.
pub(crate) fn see(packet: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let (source, destination): (IpAddr, IpAddr) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum(), "IPv4 header");
            assert_eq!(usize::from(header.total_len()), packet.len());
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            assert_eq!(usize::from(ip.header().payload_length()) + 40, packet.len());
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        other @ NetSlice::Arp(_) => unreachable!("{other:?}"),
    };
    match sliced.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let right = match (source, destination) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    tcp.calc_checksum_ipv4(from.octets(), to.octets()).unwrap()
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    tcp.calc_checksum_ipv6(from.octets(), to.octets()).unwrap()
                }
                _ => unreachable!("mixed families"),
            };
            assert_same_sum(tcp.checksum(), right);
            Seen {
                protocol: Protocol::Tcp,
                source: SocketAddr::new(source, tcp.source_port()),
                destination: SocketAddr::new(destination, tcp.destination_port()),
                options: tcp.options().to_vec(),
                payload: tcp.payload().to_vec(),
            }
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let right = match (source, destination) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload()).unwrap()
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload()).unwrap()
                }
                _ => unreachable!("mixed families"),
            };
            if header.checksum != 0 {
                assert_same_sum(header.checksum, right);
            }
            Seen {
                protocol: Protocol::Udp,
                source: SocketAddr::new(source, header.source_port),
                destination: SocketAddr::new(destination, header.destination_port),
                options: Vec::new(),
                payload: udp.payload().to_vec(),
            }
        }
        other => unreachable!("{other:?}"),
    }
}

/// Zero and all ones are the same number in one's complement.
fn assert_same_sum(found: u16, right: u16) {
    let plain = |sum: u16| if sum == 0xffff { 0 } else { sum };
    assert_eq!(plain(found), plain(right), "transport checksum");
}
