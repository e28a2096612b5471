//! What would become of one packet: the real programs on the maps in force, the kernel's own lookup of routes.
//! Nothing is sent. The programs count the packet as if it had come.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::ParseableParametrized;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia,
};
use nix::net::if_::if_nametoindex;
use turnpike_ebpf_loader::Hook;

use crate::links;
use crate::netlink::{Netlink, Refusal, Request};
use crate::{Dataplane, DataplaneError};

/// `RTM_F_FIB_MATCH`: answer with the entry of the table, not with the resolved path.
const FIB_MATCH: u32 = 0x2000;

/// Layer 4 of a packet that is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceTransport {
    /// The first segment of a connection, or (`answer`) the other side's.
    Tcp {
        /// SYN with ACK.
        answer: bool,
    },
    /// A datagram.
    Udp,
    /// An echo request, or (`answer`) its reply.
    Icmp {
        /// The reply.
        answer: bool,
    },
}

/// A packet that is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracePacket {
    /// Sender.
    pub source: IpAddr,
    /// Receiver; of the same family.
    pub destination: IpAddr,
    /// Sender's port; not looked at for ICMP.
    pub source_port: u16,
    /// Receiver's port; not looked at for ICMP.
    pub destination_port: u16,
    /// What it carries.
    pub transport: TraceTransport,
}

/// What a program did with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceVerdict {
    /// Past the stack.
    pub redirected: bool,
    /// Dropped.
    pub dropped: bool,
    /// Names of the counters that moved: why. More than one where other traffic went on meanwhile.
    pub counters: Vec<&'static str>,
    /// Names of the ways of load-balancer traffic that moved: why, in more detail.
    pub ways: Vec<&'static str>,
}

/// How the kernel routes a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceRoute {
    /// The entry of the table that matches; `None` where the kernel does not tell.
    pub prefix: Option<IpNetwork>,
    /// Table of that entry.
    pub table: u32,
    /// Protocol of that entry: who put it there.
    pub protocol: u8,
    /// `unicast`, `local`, `blackhole`…
    pub kind: String,
    /// Next hop, unless the receiver is on the link.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub link: String,
    /// Next hops of that entry.
    pub hops: usize,
}

impl Dataplane {
    /// What anti-spoofing and the bypass do with a packet that a pod sends.
    ///
    /// # Errors
    /// No programs, or no such link; for a person.
    pub fn trace_from_pod(&mut self, host_link: &str, packet: &TracePacket) -> Result<TraceVerdict, String> {
        let index = if_nametoindex(host_link).map_err(|error| format!("{host_link}: {error}"))?;
        self.bpf.trace(Hook::FromPod, index, packet)
    }

    /// What the bypass does with a packet that comes in from an uplink; `None` where nothing is attached there.
    ///
    /// # Errors
    /// No programs, or no such link; for a person.
    pub fn trace_uplink(&mut self, link: &str, packet: &TracePacket) -> Result<Option<TraceVerdict>, String> {
        let index = if_nametoindex(link).map_err(|error| format!("{link}: {error}"))?;
        if !self.bpf.hooks_in_force()?.uplinks.iter().any(|(uplink, _)| *uplink == index) {
            return Ok(None);
        }
        self.bpf.trace(Hook::Uplink, index, packet).map(Some)
    }

    /// How the kernel routes a packet that came in through `from`, policy rules and reverse path filter included;
    /// without `from`, one of the node's own.
    ///
    /// # Errors
    /// The kernel's refusal: no route, a blackhole, a source that the filter does not let in.
    pub fn trace_route(
        &mut self,
        destination: IpAddr,
        from: Option<(IpAddr, &str)>,
    ) -> Result<TraceRoute, DataplaneError> {
        let doing = |refusal: Refusal| refusal.doing(format!("route {destination}"));
        let from = match from {
            Some((source, link)) => {
                let index = if_nametoindex(link).map_err(|errno| {
                    doing(Refusal::from_errno(errno as i32, Some(format!("no interface {link}"))))
                })?;
                Some((source, index))
            }
            None => None,
        };
        let path = lookup(&mut self.netlink, destination, from, 0).map_err(doing)?;
        // Which entry decided is extra: kernels that do not tell for this kind of route leave it out.
        let entry = lookup(&mut self.netlink, destination, from, FIB_MATCH).unwrap_or_else(|_| path.clone());
        let mut route = describe(&path, &entry, destination);
        let index = path.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        if let Some(index) = index {
            let link = links::by_index(&mut self.netlink, index).map_err(doing)?;
            route.link = link.map_or_else(|| format!("interface {index}"), |link| link.name);
        }
        Ok(route)
    }
}

fn lookup(
    netlink: &mut Netlink,
    destination: IpAddr,
    from: Option<(IpAddr, u32)>,
    flags: u32,
) -> Result<RouteMessage, Refusal> {
    let full = IpNetwork::from(destination).prefix();
    let mut message = RouteMessage::default();
    message.header.address_family = links::family(destination);
    message.header.destination_prefix_length = full;
    message.header.flags = RouteFlags::from_bits_retain(flags);
    message.attributes.push(RouteAttribute::Destination(destination.into()));
    if let Some((source, index)) = from {
        message.header.source_prefix_length = full;
        message.attributes.push(RouteAttribute::Source(source.into()));
        message.attributes.push(RouteAttribute::Iif(index));
    }
    let reply = netlink.get(&Request::route(&RouteNetlinkMessage::GetRoute(message), 0))?;
    match RouteNetlinkMessage::parse_with_param(&reply.body, reply.kind) {
        Ok(RouteNetlinkMessage::NewRoute(route)) => Ok(route),
        _ => Err(Refusal::from_errno(libc::EBADMSG, None)),
    }
}

fn describe(path: &RouteMessage, entry: &RouteMessage, destination: IpAddr) -> TraceRoute {
    let table = entry.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let prefix = entry.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address_of(address)?),
        _ => None,
    });
    let any = if destination.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let prefix = IpNetwork::new(prefix.unwrap_or(any), entry.header.destination_prefix_length).ok();
    let hops = entry.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops.len()),
        _ => None,
    });
    let gateway = path.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => address_of(address),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some(IpAddr::V4(*ip)),
        _ => None,
    });
    TraceRoute {
        prefix,
        table: table.unwrap_or_else(|| u32::from(entry.header.table)),
        protocol: entry.header.protocol.into(),
        kind: match path.header.kind {
            RouteType::Unicast => "unicast".to_owned(),
            RouteType::Local => "local".to_owned(),
            RouteType::BlackHole => "blackhole".to_owned(),
            other => format!("{other:?}").to_lowercase(),
        },
        gateway,
        link: String::new(),
        hops: hops.unwrap_or(1),
    }
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
