//! Socket options that neither tokio nor socket2 has: GTSM and TCP-MD5.
#![expect(unsafe_code, reason = "setsockopt with options that no safe crate offers")]

use std::ffi::c_int;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use turnpike_bgp_wire::Prefix;

/// `IP_MINTTL` of `linux/in.h`.
const IP_MINTTL: c_int = 21;
/// `IPV6_MINHOPCOUNT` of `linux/in6.h`.
const IPV6_MINHOPCOUNT: c_int = 73;
/// `TCP_MD5SIG` of `linux/tcp.h`.
const TCP_MD5SIG: c_int = 14;
/// `TCP_MD5SIG_EXT`: the same with flags.
const TCP_MD5SIG_EXT: c_int = 32;
/// `TCP_MD5SIG_FLAG_PREFIX`: for all addresses of a prefix; the longest one counts.
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
/// `TCP_MD5SIG_MAXKEYLEN`.
pub(crate) const MD5_KEY_MAX: usize = 80;

/// `sizeof(struct __kernel_sockaddr_storage)`.
const ADDRESS_LEN: usize = 128;
/// `sizeof(struct tcp_md5sig)`: address, flags, prefix length, key length, interface, key.
const MD5SIG_LEN: usize = ADDRESS_LEN + 1 + 1 + 2 + 4 + MD5_KEY_MAX;

/// Drops received packets with a smaller TTL or hop limit (RFC 5082 §3).
pub(crate) fn set_min_ttl(socket: BorrowedFd<'_>, ipv6: bool, ttl: u8) -> io::Result<()> {
    let (level, option) =
        if ipv6 { (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT) } else { (libc::IPPROTO_IP, IP_MINTTL) };
    set(socket, level, option, &c_int::from(ttl).to_ne_bytes())
}

/// Signs segments to and from `peer` with `key` (RFC 2385); an empty key ends that. On a listening socket it holds
/// for connections that are accepted.
pub(crate) fn set_md5(socket: BorrowedFd<'_>, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    set_key(socket, TCP_MD5SIG, peer, None, key)
}

/// The same for everybody in a prefix.
pub(crate) fn set_md5_prefix(socket: BorrowedFd<'_>, prefix: Prefix, key: &[u8]) -> io::Result<()> {
    set_key(socket, TCP_MD5SIG_EXT, prefix.addr(), Some(prefix.prefix_len()), key)
}

fn set_key(
    socket: BorrowedFd<'_>,
    option: c_int,
    peer: IpAddr,
    length: Option<u8>,
    key: &[u8],
) -> io::Result<()> {
    if key.len() > MD5_KEY_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a TCP-MD5 password has at most 80 octets"));
    }
    set(socket, libc::IPPROTO_TCP, option, &md5sig(peer, length, key))
}

/// `struct tcp_md5sig` as bytes.
fn md5sig(peer: IpAddr, length: Option<u8>, key: &[u8]) -> [u8; MD5SIG_LEN] {
    let mut bytes = Vec::with_capacity(MD5SIG_LEN);
    match peer {
        IpAddr::V4(address) => {
            // struct sockaddr_in: family, port, address
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            // struct sockaddr_in6: family, port, flow, address, scope
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend([0; 6]);
            bytes.extend(address.octets());
        }
    }
    bytes.resize(ADDRESS_LEN, 0);
    bytes.extend(length.map_or([0, 0], |length| [TCP_MD5SIG_FLAG_PREFIX, length]));
    bytes.extend(u16::try_from(key.len()).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend_from_slice(key);
    bytes.resize(MD5SIG_LEN, 0);
    let mut whole = [0; MD5SIG_LEN];
    whole.copy_from_slice(&bytes);
    whole
}

fn set(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as it is borrowed, and `value` is readable for `length` bytes.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_md5_structure_is_laid_out_as_the_kernel_reads_it() {
        let bytes = md5sig("10.1.3.21".parse().unwrap(), None, b"secret");
        assert_eq!(bytes.len(), 216);
        assert_eq!(bytes[..8], [2, 0, 0, 0, 10, 1, 3, 21]);
        assert_eq!(bytes[128..136], [0, 0, 6, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[136..142], b"secret");
        let bytes = md5sig("fd00::1".parse().unwrap(), None, b"");
        assert_eq!(bytes[..10], [10, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0]);
        assert_eq!(bytes[23], 1);
        let bytes = md5sig("10.1.0.0".parse().unwrap(), Some(16), b"secret");
        assert_eq!(bytes[128..136], [1, 16, 6, 0, 0, 0, 0, 0]);
    }
}
