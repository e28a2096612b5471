//! Frames made by hand: Ethernet, IPv4 and IPv6, TCP, UDP, ICMP, ARP and neighbour discovery, with right checksums.

use std::net::IpAddr;

/// What a frame is made from. Change fields, then [`Frame::bytes`].
#[derive(Clone)]
pub(crate) struct Frame {
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source_mac: [u8; 6],
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// Flags and offset of IPv4's fragment field.
    pub(crate) fragment: u16,
    /// IPv4 options, a multiple of four bytes.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) transport: Transport,
}

/// Layer 4.
#[derive(Clone)]
pub(crate) enum Transport {
    Tcp(Tcp),
    Udp {
        source: u16,
        destination: u16,
        payload: Vec<u8>,
    },
    /// Protocol number and bytes; a checksum is filled in for ICMPv6.
    Other(u8, Vec<u8>),
}

/// A TCP segment.
#[derive(Clone, Default)]
pub(crate) struct Tcp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    /// Padded with NOPs to a multiple of four.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const SYN: u8 = 0x02;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMP6: u8 = 58;

/// An address from text.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

impl Frame {
    /// A TCP segment with a little payload.
    pub(crate) fn tcp(
        source: &str,
        source_port: u16,
        destination: &str,
        destination_port: u16,
        flags: u8,
    ) -> Self {
        let tcp = Tcp { source: source_port, destination: destination_port, flags, ..Tcp::default() };
        Self::new(source, destination, Transport::Tcp(Tcp { payload: b"payload".to_vec(), ..tcp }))
    }

    /// A UDP datagram.
    pub(crate) fn udp(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Self {
        let payload = b"payload".to_vec();
        Self::new(
            source,
            destination,
            Transport::Udp { source: source_port, destination: destination_port, payload },
        )
    }

    /// Any packet.
    pub(crate) fn new(source: &str, destination: &str, transport: Transport) -> Self {
        Self {
            destination_mac: [2, 0, 0, 0, 0, 0xdd],
            source_mac: [2, 0, 0, 0, 0, 0x55],
            source: ip(source),
            destination: ip(destination),
            ttl: 64,
            tos: 0,
            fragment: 0,
            ip_options: vec![],
            transport,
        }
    }

    /// The same with another field.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The same with `size` bytes of payload.
    pub(crate) fn sized(mut self, size: usize) -> Self {
        match &mut self.transport {
            Transport::Tcp(tcp) => tcp.payload = vec![0x61; size],
            Transport::Udp { payload, .. } => *payload = vec![0x61; size],
            Transport::Other(_, bytes) => bytes.resize(size, 0),
        }
        self
    }

    /// The wire's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let l4 = self.transport();
        let mut frame = [self.destination_mac, self.source_mac].concat();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                let length = 20 + self.ip_options.len();
                let mut header = vec![0x40 + u8::try_from(length / 4).expect("short options"), self.tos];
                header.extend(u16::try_from(length + l4.len()).expect("short").to_be_bytes());
                header.extend([0, 1]);
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.ttl, self.protocol(), 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.ip_options);
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                frame.extend([0x60 | (self.tos >> 4), self.tos << 4, 0, 0]);
                frame.extend(u16::try_from(l4.len()).expect("short").to_be_bytes());
                frame.extend([self.protocol(), self.ttl]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => panic!("one family"),
        }
        frame.extend(l4);
        frame
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp(_) => 6,
            Transport::Udp { .. } => 17,
            Transport::Other(protocol, _) => protocol,
        }
    }

    fn transport(&self) -> Vec<u8> {
        let (mut bytes, sum_at) = match &self.transport {
            Transport::Tcp(tcp) => (tcp.bytes(), Some(16)),
            Transport::Udp { source, destination, payload } => {
                let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
                bytes.extend(u16::try_from(8 + payload.len()).expect("short").to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
                (bytes, Some(6))
            }
            Transport::Other(protocol, bytes) => (bytes.clone(), (*protocol == ICMP6).then_some(2)),
        };
        if let Some(at) = sum_at {
            bytes[at..at + 2].fill(0);
            let sum = checksum(&[&self.pseudo_header(bytes.len()), &bytes]);
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let mut header = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => [source.octets(), destination.octets()].concat(),
            (IpAddr::V6(source), IpAddr::V6(destination)) => [source.octets(), destination.octets()].concat(),
            _ => panic!("one family"),
        };
        header.extend(u32::from(self.protocol()).to_be_bytes());
        header.extend(u32::try_from(length).expect("short").to_be_bytes());
        header
    }
}

impl Tcp {
    fn bytes(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 1);
        let mut bytes = [self.source.to_be_bytes(), self.destination.to_be_bytes()].concat();
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.push(u8::try_from((20 + options.len()) / 4).expect("short options") << 4);
        bytes.extend([self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(options);
        bytes.extend(&self.payload);
        bytes
    }
}

/// The internet checksum (RFC 1071) over parts of even length but the last.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// An ARP message.
pub(crate) fn arp(operation: u16, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(sender_mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(sender_mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

/// A neighbour discovery message of `kind` about `target`.
pub(crate) fn nd(kind: u8, target: &str) -> Transport {
    let IpAddr::V6(target) = ip(target) else { panic!("IPv6") };
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(target.octets());
    Transport::Other(ICMP6, bytes)
}
