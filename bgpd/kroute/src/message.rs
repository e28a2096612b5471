//! The netlink messages of routes and nexthop objects.
//!
//! Routes are `netlink-packet-route`'s; nexthop objects (`RTM_NEWNEXTHOP`, Linux ≥ 5.3) it does not have, so they
//! are here on the same traits. What comes from the kernel is read leniently: an attribute that we do not know is
//! passed over, and a message that does not parse is skipped by its reader.

pub(crate) mod nexthop;
pub(crate) mod route;

/// RFC 3549-style message types that are handled here.
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWRULE: u16 = 32;
pub(crate) const RTM_DELRULE: u16 = 33;
pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
pub(crate) const RTM_GETNEXTHOP: u16 = 106;

pub(crate) const AF_UNSPEC: u8 = 0;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

/// Reads `N` bytes at `at`.
pub(crate) fn bytes_at<const N: usize>(buffer: &[u8], at: usize) -> Option<[u8; N]> {
    buffer.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads a host-order u32 at `at`.
pub(crate) fn u32_at(buffer: &[u8], at: usize) -> Option<u32> {
    bytes_at(buffer, at).map(u32::from_ne_bytes)
}
