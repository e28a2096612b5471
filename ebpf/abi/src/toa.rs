// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Maps of TOA: the client's address that a load balancer writes into a TCP option.
//!
//! Every format is kind, length, then the port (big endian) before the address.

/// How a load balancer writes the client's address.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ToaFormat {
    /// 254/8: port, IPv4; 254/20: port, IPv6. Alibaba LVS (IPv4), Huawei ELB, DPVS.
    Toa254 = 1,
    /// 253/20: port, IPv6. Alibaba LVS (IPv6).
    Toa253V6 = 2,
    /// 252/20: client's port and IPv4, VPC ID, VIP, VIP's port, pad. Alibaba vtoa.
    Vtoa252 = 3,
    /// 200/8: port, IPv4. UCloud, TGW.
    Toa200 = 4,
    /// 28/7 and 28/19: version, address, no port. Alibaba CDN.
    Cdn28 = 5,
}

impl ToaFormat {
    /// The TCP option kind of this format.
    #[must_use]
    #[inline(always)]
    pub const fn kind(format: u32) -> u8 {
        match format {
            1 => 254,
            2 => 253,
            3 => 252,
            4 => 200,
            5 => 28,
            _ => 0,
        }
    }
}

/// Settings of the TOA programs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ToaConfig {
    /// [`ToaConfig::SAVE_SYN`].
    pub flags: u32,
    /// How many packets after the one that established the connection are searched for the option. Packets with the
    /// connection's usual header length, which have no room for it, are not counted: the kernel does not show them.
    pub late_packets: u32,
}

impl ToaConfig {
    /// Listeners keep the SYN, for load balancers that put the option there only.
    pub const SAVE_SYN: u32 = 1;
    /// Default for `late_packets`.
    pub const LATE_PACKETS: u32 = 8;
}

/// What is known of one accepted connection; kept only for connections from load-balancer sources with a TOA format.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToaSock {
    /// The client, IPv4 mapped.
    pub client: [u8; 16],
    /// Room for the options that are being read; all 40 bytes that TCP allows.
    pub options: [u8; 40],
    /// The client's port, network byte order; 0 when the format has none.
    pub port_be: u16,
    /// [`ToaSock::PENDING`] or [`ToaSock::FOUND`].
    pub state: u8,
    /// Packets that may still be searched.
    pub tries: u8,
    /// A [`ToaFormat`] as a number: the one configured when the connection was accepted.
    pub format: u8,
    /// Where in `options` the search stands.
    pub cursor: u8,
    /// How many bytes of `options` are in use.
    pub options_len: u8,
    /// Zero.
    pub zero: u8,
}

impl ToaSock {
    /// The option was not seen yet.
    pub const PENDING: u8 = 1;
    /// `client` and `port_be` are valid.
    pub const FOUND: u8 = 2;
}

/// Answer to `getsockopt(IPPROTO_IP, 4096)`, by which servers ask for the IPv6 client of an IPv4 connection:
/// `struct toa_nat64_peer` of DPVS's kernel module (`kmod/toa/toa.h`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nat64Peer {
    /// The client's address, as it is on the wire.
    pub address: [u32; 4],
    /// Its port, network byte order.
    pub port_be: u16,
    /// Zero: the structure's tail.
    pub zero: u16,
}

impl Nat64Peer {
    /// `IPPROTO_IP`.
    pub const LEVEL: i32 = 0;
    /// `TOA_SO_GET_LOOKUP`.
    pub const NAME: i32 = 4096;
}

/// What TOA did for a pod's connections, one copy for each CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ToaTally {
    /// Connections whose client address was found.
    pub hit: u64,
    /// Those of `hit` where it came in a later packet than the one that established the connection.
    pub late: u64,
    /// Connections from a TOA source without its option.
    pub miss: u64,
    /// Connections with something like a TOA option from an address without a format.
    pub untrusted: u64,
    /// Options of the right kind with a wrong length or content.
    pub malformed: u64,
    /// Connections from a TOA source, left alone because the pod opted out.
    pub opted_out: u64,
}

/// How the search for a connection's client ended.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ToaOutcome {
    /// Not over: packets may still be searched.
    Pending = 1,
    /// Found in the packet that established the connection.
    Hit = 2,
    /// Found in the SYN.
    HitSyn = 3,
    /// Found in a later packet.
    HitLate = 4,
    /// No option of the configured kind in any packet searched.
    Miss = 5,
    /// The peer has no format, but there was something like an option.
    Untrusted = 6,
    /// The option's length or content was wrong.
    Malformed = 7,
    /// The pod opted out.
    OptedOut = 8,
}

/// One of the latest connections, for people who ask why.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ToaEvent {
    /// When it was last looked at. Monotonic nanoseconds.
    pub at_ns: u64,
    /// The client that was found, IPv4 mapped; zero for none.
    pub client: [u8; 16],
    /// Its port, network byte order.
    pub client_port_be: u16,
    /// A [`ToaOutcome`] as a number.
    pub outcome: u8,
    /// A [`ToaFormat`] as a number: the peer's; 0 when it has none.
    pub format: u8,
    /// Kind of something like a TOA option of another format that was seen; 0 for none.
    pub seen_kind: u8,
    /// Packets that may still be searched.
    pub tries: u8,
    /// Zero.
    pub zero: [u8; 2],
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn the_socket_record_is_packed_as_the_programs_expect() {
        assert_eq!(
            [
                offset_of!(ToaSock, client),
                offset_of!(ToaSock, options),
                offset_of!(ToaSock, port_be),
                offset_of!(ToaSock, state),
                offset_of!(ToaSock, tries),
                offset_of!(ToaSock, format),
                offset_of!(ToaSock, cursor),
                offset_of!(ToaSock, options_len),
                offset_of!(ToaSock, zero)
            ],
            [0, 16, 56, 58, 59, 60, 61, 62, 63]
        );
    }

    #[test]
    fn counters_and_events_are_packed_as_the_programs_expect() {
        assert_eq!([offset_of!(ToaTally, hit), offset_of!(ToaTally, opted_out)], [0, 40]);
        assert_eq!(
            [
                offset_of!(ToaEvent, at_ns),
                offset_of!(ToaEvent, client),
                offset_of!(ToaEvent, client_port_be),
                offset_of!(ToaEvent, outcome),
                offset_of!(ToaEvent, format),
                offset_of!(ToaEvent, seen_kind),
                offset_of!(ToaEvent, tries),
                offset_of!(ToaEvent, zero)
            ],
            [0, 8, 24, 26, 27, 28, 29, 30]
        );
    }

    #[test]
    fn every_format_has_its_kind() {
        for (format, kind) in [
            (ToaFormat::Toa254, 254),
            (ToaFormat::Toa253V6, 253),
            (ToaFormat::Vtoa252, 252),
            (ToaFormat::Toa200, 200),
            (ToaFormat::Cdn28, 28),
        ] {
            assert_eq!(ToaFormat::kind(format as u32), kind);
        }
        assert_eq!(ToaFormat::kind(0), 0);
    }
}
