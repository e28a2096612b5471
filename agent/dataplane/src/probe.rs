//! Does anything out there answer? An ICMP echo, from a pod's own address and inside its network namespace: on its way
//! lie the pod's link, the node's programs and rules, and whatever leads back to the pod. Or from the node itself to one
//! of its gateways, over the link that leads there.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::gateways::Gateway;
use crate::netns;

/// Between two requests: the first ones may go out before a router knows the pod's block.
const AGAIN: Duration = Duration::from_millis(100);
/// Longest wait for one answer before the clock is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Identifier of our requests, which are known by [`MARK`] as well.
const IDENTIFIER: u16 = 0x7475;
const MARK: &[u8; 8] = b"turnpike";

/// Asks `targets`, all of the source's family, until one has answered `source` or the time is up; who answered.
///
/// # Errors
/// The namespace cannot be entered, or has no such address, or the capability CAP_NET_RAW is missing. A target that
/// cannot be reached is no error, but no answer.
pub fn first_answer(
    netns: BorrowedFd<'_>,
    source: IpAddr,
    targets: &[IpAddr],
    patience: Duration,
) -> io::Result<Option<IpAddr>> {
    netns::inside(netns, || {
        let socket = echo_socket(source)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        let targets: Vec<SocketAddr> = targets.iter().map(|target| SocketAddr::new(*target, 0)).collect();
        ask(socket, &targets, patience)
    })?
}

/// Asks a gateway of the calling thread's namespace over its own link until it has answered or the time is up.
///
/// # Errors
/// The link is gone, or the capability CAP_NET_RAW is missing.
pub fn answers_ping(gateway: &Gateway, patience: Duration) -> io::Result<bool> {
    let socket = echo_socket(gateway.address)?;
    socket.bind_device(Some(gateway.link.as_bytes()))?;
    let target = match gateway.address {
        IpAddr::V4(_) => SocketAddr::new(gateway.address, 0),
        // A link-local address says nothing without its link.
        IpAddr::V6(address) => SocketAddrV6::new(address, 0, 0, gateway.index).into(),
    };
    ask(socket, &[target], patience).map(|answer| answer.is_some())
}

/// For echoes from or to addresses of this one's family.
fn echo_socket(address: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    Socket::new(domain, Type::RAW, Some(protocol))
}

/// `targets` are of the socket's family.
fn ask(socket: Socket, targets: &[SocketAddr], patience: Duration) -> io::Result<Option<IpAddr>> {
    socket.set_read_timeout(Some(LOOK))?;
    // Datagrams with their senders, as std has them; which protocol it is does not matter to it.
    let socket = UdpSocket::from(socket);
    let begun = Instant::now();
    let mut sequence = 0_u16;
    let mut asked: Option<Instant> = None;
    let mut buffer = [0; 512];
    while begun.elapsed() < patience {
        if asked.is_none_or(|asked| asked.elapsed() >= AGAIN) {
            asked = Some(Instant::now());
            sequence = sequence.wrapping_add(1);
            for target in targets {
                // "No route to host" and the like pass, or they do not.
                drop(socket.send_to(&request(target.ip(), sequence), target));
            }
        }
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let octets = buffer.get(..length).unwrap_or_default();
                let from = from.ip();
                if targets.iter().any(|target| target.ip() == from) && is_answer(from, octets) {
                    return Ok(Some(from));
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// An echo request (RFC 792, RFC 4443 §4.1). For ICMPv6 the kernel works out the checksum.
fn request(to: IpAddr, sequence: u16) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(IDENTIFIER.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(MARK);
    if to.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        if let Some(field) = message.get_mut(2..4) {
            field.copy_from_slice(&sum);
        }
    }
    message
}

/// RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}

/// An echo reply to one of our requests. A raw IPv4 socket hands out the IP header, too.
fn is_answer(from: IpAddr, octets: &[u8]) -> bool {
    let (message, kind) = match from {
        IpAddr::V4(_) => {
            let header = octets.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
            (octets.get(header..), 0)
        }
        IpAddr::V6(_) => (Some(octets), 129),
    };
    let Some([found, _, _, _, high, low, _, _, rest @ ..]) = message else { return false };
    *found == kind && u16::from_be_bytes([*high, *low]) == IDENTIFIER && rest == MARK
}

/// Addresses that a pod can ask at all: a link-local one is another router's on another link.
#[must_use]
pub fn can_be_asked(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !(address.is_link_local() || address.is_unspecified()),
        IpAddr::V6(address) => !(address.is_unicast_link_local() || address == Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_right_checksum_and_its_reply_is_known() {
        let v4: IpAddr = "10.244.1.5".parse().unwrap();
        let message = request(v4, 7);
        assert_eq!(checksum(&message), 0, "RFC 1071: the sum over all is zero");
        let mut reply = vec![0x46; 24];
        reply.extend(&message);
        assert!(!is_answer(v4, &reply), "a request is no reply");
        reply[24] = 0;
        assert!(is_answer(v4, &reply));
        reply.pop();
        assert!(!is_answer(v4, &reply));
        let v6: IpAddr = "fd00::5".parse().unwrap();
        let mut reply = request(v6, 7);
        reply[0] = 129;
        assert!(is_answer(v6, &reply));
        for short in 0..8 {
            assert!(!is_answer(v6, &reply[..short]) && !is_answer(v4, &reply[..short]));
        }
    }
}
