//! What changes in the kernel, as told by its multicast groups.
//!
//! The echo of our own requests never reaches this socket: a socket filter drops every notification that carries
//! the request socket's port number. An overrun (ENOBUFS) is an event of its own; its reader dumps afresh.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_REPLACE, NetlinkBuffer, NlasIterator, Parseable};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::{SockFilter, SockRef};
use tracing::debug;

use crate::Error;
use crate::message::nexthop::NexthopMessage;
use crate::message::route::KernelRoute;
use crate::message::{
    AF_UNSPEC, RTM_DELADDR, RTM_DELLINK, RTM_DELNEXTHOP, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWNEXTHOP, RTM_NEWROUTE, RTM_NEWRULE, bytes_at, u32_at,
};
use crate::requests::{enlarge_receive_queue, messages, read_datagram};

/// RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, NEXTHOP.
const GROUPS: [u32; 8] = [1, 5, 7, 8, 9, 11, 19, 32];
const RECEIVE_QUEUE: usize = 8 * 1024 * 1024;
/// Datagrams read at one go, so that a flood of foreign changes cannot keep the caller from its other work.
const READ_LIMIT: usize = 4096;

const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// One change that somebody else, or the kernel itself, made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A route was added; with `replaces`, in the place of the one that had the same prefix, table and metric.
    RouteAdded { route: KernelRoute, replaces: bool },
    /// A route was deleted.
    RouteDeleted(KernelRoute),
    /// A nexthop object was added or changed.
    NexthopChanged(NexthopMessage),
    /// A nexthop object was deleted.
    NexthopDeleted(u32),
    /// A link was added or changed and is up.
    LinkUp(u32),
    /// A link went down or away: the kernel has dropped routes and nexthop objects on it without a word.
    LinkDown(u32),
    /// An address was added.
    AddressAdded,
    /// An address was deleted: the kernel has dropped the IPv4 routes that prefer it, without a word.
    AddressDeleted(Option<IpAddr>),
    /// Policy rules changed.
    Rules,
    /// Events were lost.
    Overrun,
}

/// The event socket.
pub(crate) struct Monitor {
    socket: Socket,
    inbox: Vec<u8>,
}

impl Monitor {
    /// Subscribes; `own_port` is the request socket whose echo is left out.
    pub(crate) fn open(own_port: u32) -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::socket("opening the event socket"))?;
        let mut setup = || -> io::Result<()> {
            enlarge_receive_queue(&socket, RECEIVE_QUEUE)?;
            socket.set_non_blocking(true)?;
            SockRef::from(&socket).attach_filter(&drop_port(own_port))?;
            socket.bind_auto()?;
            GROUPS.iter().try_for_each(|group| socket.add_membership(*group))
        };
        setup().map_err(Error::socket("subscribing to kernel events"))?;
        Ok(Self { socket, inbox: Vec::new() })
    }

    /// Everything that has arrived, up to a bound; empty when nothing has.
    pub(crate) fn read(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        for _ in 0..READ_LIMIT {
            match read_datagram(&self.socket, &mut self.inbox, 0) {
                Ok(()) => events.extend(messages(&self.inbox).filter_map(decode)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => events.push(Event::Overrun),
                Err(source) => return Err(Error::Socket { doing: "reading kernel events", source }),
            }
        }
        Ok(events)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Classic BPF: load `nlmsg_pid` (the machine loads big-endian), drop on equality, else pass whole.
fn drop_port(port: u32) -> [SockFilter; 4] {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PORT_OFFSET: u32 = 12;
    [
        SockFilter::new(LOAD_WORD, 0, 0, PORT_OFFSET),
        SockFilter::new(JUMP_EQUAL, 0, 1, u32::from_be_bytes(port.to_ne_bytes())),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

fn decode(message: NetlinkBuffer<&[u8]>) -> Option<Event> {
    let payload = message.payload();
    match message.message_type() {
        RTM_NEWROUTE => {
            let replaces = message.flags() & NLM_F_REPLACE != 0;
            route(payload).map(|route| Event::RouteAdded { route, replaces })
        }
        RTM_DELROUTE => route(payload).map(Event::RouteDeleted),
        RTM_NEWNEXTHOP => NexthopMessage::parse(payload).ok().map(Event::NexthopChanged),
        RTM_DELNEXTHOP => NexthopMessage::parse(payload).ok().map(|object| Event::NexthopDeleted(object.id)),
        RTM_NEWLINK => link(payload, false),
        RTM_DELLINK => link(payload, true),
        RTM_NEWADDR => Some(Event::AddressAdded),
        RTM_DELADDR => Some(Event::AddressDeleted(local_address(payload))),
        RTM_NEWRULE | RTM_DELRULE => Some(Event::Rules),
        _ => None,
    }
}

fn route(payload: &[u8]) -> Option<KernelRoute> {
    match KernelRoute::parse(payload) {
        Ok(route) if route.cloned => None,
        Ok(route) => Some(route),
        Err(error) => {
            debug!(%error, "skipping a route event that does not parse");
            None
        }
    }
}

/// `struct ifinfomsg`: family, pad, type, index, flags, change.
fn link(payload: &[u8], deleted: bool) -> Option<Event> {
    let family = *payload.first()?;
    let ifindex = u32_at(payload, 4)?;
    let up = u32_at(payload, 8)? & IFF_UP != 0;
    match (family, up && !deleted) {
        (AF_UNSPEC, true) => Some(Event::LinkUp(ifindex)),
        (AF_UNSPEC, false) => Some(Event::LinkDown(ifindex)),
        // A bridge port's own messages say nothing about the link.
        _ => None,
    }
}

/// The address of a `struct ifaddrmsg` message: IFA_LOCAL where given (point-to-point links), else IFA_ADDRESS.
fn local_address(payload: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    for attribute in NlasIterator::new(payload.get(8..)?).map_while(Result::ok) {
        let value = attribute.value();
        let address = match value.len() {
            4 => bytes_at::<4>(value, 0).map(IpAddr::from),
            16 => bytes_at::<16>(value, 0).map(IpAddr::from),
            _ => None,
        };
        match attribute.kind() {
            IFA_LOCAL => return address,
            IFA_ADDRESS => found = address,
            _ => {}
        }
    }
    found
}

impl Event {
    /// Links or addresses came or went, or may have.
    pub(crate) fn is_about_host(&self) -> bool {
        match self {
            Self::LinkUp(_)
            | Self::LinkDown(_)
            | Self::AddressAdded
            | Self::AddressDeleted(_)
            | Self::Overrun => true,
            Self::RouteAdded { .. }
            | Self::RouteDeleted(_)
            | Self::NexthopChanged(_)
            | Self::NexthopDeleted(_)
            | Self::Rules => false,
        }
    }

    /// The prefix of which the way may have changed; `None` for events that may concern every destination.
    pub(crate) fn prefix(&self) -> Option<IpNetwork> {
        match self {
            Self::RouteAdded { route, .. } | Self::RouteDeleted(route) => Some(route.prefix),
            _ => None,
        }
    }
}
