// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Addresses of both families as one 16-byte value.
//!
//! IPv4 is written as `::ffff:a.b.c.d`, so that one map holds both families. The programs refuse IPv6 packets that
//! carry such an address on the wire.

/// An IPv4 address (mapped) or an IPv6 address, in network byte order.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr(
    /// The 16 bytes.
    pub [u8; 16],
);

impl Addr {
    /// The first 12 bytes of a mapped IPv4 address.
    pub const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

    /// An IPv4 address as `::ffff:a.b.c.d`.
    #[must_use]
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        let [a, b, c, d] = v4;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// Whether this is a mapped IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn is_mapped(&self) -> bool {
        let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, f0, f1, ..] = self.0;
        (a0 | a1 | a2 | a3 | a4 | a5 | a6 | a7 | a8 | a9) == 0 && f0 == 0xff && f1 == 0xff
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Addr> for core::net::IpAddr {
    fn from(address: Addr) -> Self {
        core::net::Ipv6Addr::from(address.0).to_canonical()
    }
}

/// Key of the longest-prefix-match tries.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LpmKey {
    /// Bits of `addr` that count, 0–128; an IPv4 prefix length plus 96.
    pub prefix_len: u32,
    /// The prefix, host bits zero.
    pub addr: Addr,
}

impl LpmKey {
    /// Key of a prefix; `None` when `len` is too long for the family. Host bits are cleared.
    #[must_use]
    pub fn new(address: core::net::IpAddr, len: u8) -> Option<Self> {
        let (max, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        if len > max {
            return None;
        }
        let prefix_len = u32::from(len) + offset;
        let bits = u128::from_be_bytes(Addr::from(address).0);
        let mask = u128::MAX.checked_shl(128 - prefix_len).unwrap_or(0);
        Some(Self { prefix_len, addr: Addr((bits & mask).to_be_bytes()) })
    }
}

/// Key of the ranges whose traffic a pod's limits do not count.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExemptKey {
    /// Bits of what follows that count: all 32 of the link, and those of the prefix.
    pub prefix_len: u32,
    /// Ifindex of the pod's host veth.
    pub link: u32,
    /// The prefix of the pod's peers, host bits zero.
    pub addr: Addr,
}

impl ExemptKey {
    /// Bits of the link, which always count.
    pub const LINK_BITS: u32 = 32;

    /// Key of a prefix behind a host veth.
    #[must_use]
    pub const fn new(link: u32, prefix: LpmKey) -> Self {
        Self { prefix_len: Self::LINK_BITS + prefix.prefix_len, link, addr: prefix.addr }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for address in
            [IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9))]
        {
            assert_eq!(IpAddr::from(Addr::from(address)), address);
            assert_eq!(Addr::from(address).is_mapped(), address.is_ipv4());
        }
    }

    #[test]
    fn prefixes_clear_host_bits_and_refuse_long_lengths() {
        let key = LpmKey::new(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)), 16).unwrap();
        assert_eq!((key.prefix_len, key.addr), (112, Addr::from_v4([10, 1, 0, 0])));
        assert_eq!(LpmKey::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0).unwrap().addr, Addr([0; 16]));
        assert_eq!(LpmKey::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 33), None);
    }

    #[test]
    fn the_trie_key_starts_with_its_length() {
        assert_eq!((offset_of!(LpmKey, prefix_len), offset_of!(LpmKey, addr)), (0, 4));
        let exempt =
            [offset_of!(ExemptKey, prefix_len), offset_of!(ExemptKey, link), offset_of!(ExemptKey, addr)];
        assert_eq!(exempt, [0, 4, 8]);
    }
}
