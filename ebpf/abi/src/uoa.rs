// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Maps of UOA: the client's address that DPVS tells of a UDP session (`include/ipvs/uoa.h` there).
//!
//! The option is kind 31, length 8 or 20, the port (big endian), the address. It stands in the IPv4 header, or behind the
//! fixed header of a protocol of its own, 248: version in the upper half of a byte (1 over IPv4, 2 over IPv6), the next
//! protocol, the length of header and option together in two bytes.

use crate::addr::Addr;

/// The option's kind.
pub const OPTION: u8 = 31;
/// Its length with an IPv4 and with an IPv6 address.
pub const OPTION_LEN: [u8; 2] = [8, 20];
/// The protocol that carries it.
pub const PROTOCOL: u8 = 248;
/// Length of that protocol's fixed header.
pub const HEADER_LEN: u8 = 4;

/// The other end of a UDP session, as one socket knows it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UoaKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// Its address.
    pub address: Addr,
    /// Its port, network byte order.
    pub port_be: u16,
    /// Zero.
    pub zero: [u16; 3],
}

/// Whom it stands for: the client behind a director, or the director in front of a client.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UoaPeer {
    /// Monotonic time in nanoseconds when the session was used last.
    pub seen_ns: u64,
    /// The address.
    pub address: Addr,
    /// The port, network byte order.
    pub port_be: u16,
    /// Zero.
    pub zero: [u16; 3],
}

impl UoaPeer {
    /// A session at rest for so long is over: DPVS keeps one for 300 seconds, its kernel module what it learned for 360.
    pub const LIFETIME_NS: u64 = 360 * 1_000_000_000;
}

/// What the UOA programs count.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UoaCounter {
    /// Datagrams that told their client.
    Learned = 0,
    /// Packets of protocol 248 that became UDP with an option.
    Uncovered,
    /// Datagrams with the option from an address that no source with `uoa` lists.
    Untrusted,
    /// Options with a zero address or port.
    Malformed,
    /// Datagrams to a pod that wants none of it, or that the source is not for.
    OptedOut,
}

impl UoaCounter {
    /// How many there are.
    pub const COUNT: u32 = 5;

    /// All, in index order, with the names that metrics and people see.
    pub const ALL: [(Self, &'static str); Self::COUNT as usize] = [
        (Self::Learned, "uoa_learned"),
        (Self::Uncovered, "uoa_uncovered"),
        (Self::Untrusted, "uoa_untrusted"),
        (Self::Malformed, "uoa_malformed"),
        (Self::OptedOut, "uoa_opted_out"),
    ];
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn layouts_are_as_the_programs_were_built_for() {
        assert_eq!(
            [offset_of!(UoaKey, cookie), offset_of!(UoaKey, address), offset_of!(UoaKey, port_be)],
            [0, 8, 24]
        );
        assert_eq!(
            [offset_of!(UoaPeer, seen_ns), offset_of!(UoaPeer, address), offset_of!(UoaPeer, port_be)],
            [0, 8, 24]
        );
        for (index, (counter, _)) in (0u32..).zip(UoaCounter::ALL) {
            assert_eq!(counter as u32, index);
        }
    }
}
