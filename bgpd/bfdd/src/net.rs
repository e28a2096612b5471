//! Sockets: one to receive on for each family and port, one to send on for each session.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;
use turnpike_bgpd_api::bfd::BfdKey;

/// RFC 5881 §4.
const PORT_SINGLE_HOP: u16 = 3784;
/// RFC 5883 §5.
const PORT_MULTIHOP: u16 = 4784;
/// Source ports (RFC 5881 §4); the range has 2¹⁴ of them.
const FIRST_SOURCE_PORT: u16 = 49_152;
const SOURCE_PORTS: u16 = 16_384;
/// TTL or hop limit of every packet (RFC 5881 §5).
pub(crate) const TTL: u8 = 255;
/// Class selector 6, internetwork control (RFC 4594 §3.2).
const TRAFFIC_CLASS: u32 = 0xc0;
/// Longer than any packet that we understand.
const BUFFER: usize = 128;

/// Where a packet came from and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) peer: IpAddr,
    pub(crate) local: IpAddr,
    pub(crate) ifindex: u32,
    pub(crate) ttl: u8,
    pub(crate) multihop: bool,
}

/// The sockets that packets come in on.
#[derive(Debug)]
pub(crate) struct Inlets(Vec<Inlet>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Inlet {
    socket: Socket,
    multihop: bool,
}

impl Inlets {
    /// Opens all; without a family that the kernel does not have.
    pub(crate) fn open() -> Result<Self> {
        let mut all = Vec::new();
        for (port, multihop) in [(PORT_SINGLE_HOP, false), (PORT_MULTIHOP, true)] {
            for address in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
                match inlet(SocketAddr::new(address, port)) {
                    Ok(socket) => all.push(Inlet { socket, multihop }),
                    Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
                        warn!(%address, "this address family is not to be had");
                    }
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        bail!(
                            "another BFD daemon has UDP port {port}: stop it, or give BFD up in one of both"
                        );
                    }
                    Err(error) => return Err(error).with_context(|| format!("UDP port {port}")),
                }
            }
        }
        Ok(Self(all))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Inlet> {
        self.0.iter()
    }
}

fn inlet(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Inlet {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next packet; `None` when there is none, or none that came with all we must know.
    pub(crate) fn receive(&self) -> io::Result<Option<(Arrival, Vec<u8>)>> {
        let mut buffer = [0; BUFFER];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::c_int);
        let fd = self.socket.as_raw_fd();
        let received =
            match recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT) {
                Ok(received) => received,
                Err(Errno::EINTR) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        let peer = received.address.as_ref().and_then(address);
        let (mut local, mut ttl) = (None, None);
        for message in received.cmsgs()? {
            match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let address = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    local = Some((IpAddr::from(address), u32::try_from(info.ipi_ifindex).unwrap_or(0)));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    local = Some((IpAddr::from(address), info.ipi6_ifindex));
                }
                ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                    ttl = u8::try_from(value).ok();
                }
                _ => {}
            }
        }
        let length = received.bytes;
        let (Some(peer), Some((local, ifindex)), Some(ttl)) = (peer, local, ttl) else { return Ok(None) };
        let arrival = Arrival { peer, local, ifindex, ttl, multihop: self.multihop };
        Ok(Some((arrival, buffer.get(..length).unwrap_or_default().to_vec())))
    }
}

fn address(from: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = from.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
    v4.or_else(|| from.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
}

/// The socket that one session sends on: its source address and port stay the same.
#[derive(Debug)]
pub(crate) struct Outlet {
    socket: Socket,
    port: u16,
}

impl Outlet {
    /// Opens it. `random` begins the search for a source port; `taken` are those of other sessions.
    pub(crate) fn open(key: &BfdKey, random: u16, taken: &dyn Fn(u16) -> bool) -> io::Result<Self> {
        let ipv6 = key.peer.is_ipv6();
        let socket =
            Socket::new(if ipv6 { Domain::IPV6 } else { Domain::IPV4 }, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if ipv6 {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(TTL.into())?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
        } else {
            socket.set_ttl_v4(TTL.into())?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
        }
        let mut scope = 0;
        if let Some(interface) = &key.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
            scope = interface_index(interface).unwrap_or(0);
        }
        let port = bind(&socket, key, scope, random, taken)?;
        let remote = if key.multihop { PORT_MULTIHOP } else { PORT_SINGLE_HOP };
        socket.connect(&at(key.peer, remote, scope).into())?;
        Ok(Self { socket, port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        match self.socket.send(packet) {
            // The answer to an earlier packet: nobody listens there yet. It says nothing about this one.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.socket.send(packet).map(drop)
            }
            other => other.map(drop),
        }
    }
}

fn bind(
    socket: &Socket,
    key: &BfdKey,
    scope: u32,
    random: u16,
    taken: &dyn Fn(u16) -> bool,
) -> io::Result<u16> {
    let any = if key.peer.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let local = key.local.unwrap_or(any);
    for step in 0..SOURCE_PORTS {
        let port = FIRST_SOURCE_PORT + random.wrapping_add(step) % SOURCE_PORTS;
        if taken(port) {
            continue;
        }
        match socket.bind(&at(local, port, scope).into()) {
            Ok(()) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no source port is free"))
}

fn at(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V4(address) => SocketAddrV4::new(address, port).into(),
        IpAddr::V6(address) => {
            let scope = if address.is_unicast_link_local() { scope } else { 0 };
            SocketAddrV6::new(address, port, 0, scope).into()
        }
    }
}

/// The number of an interface.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}
