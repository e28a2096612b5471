//! Notices when somebody else takes away what is ours: networkd deleting routes, an operator's `nft flush ruleset`,
//! a tool that resets MAC addresses. The answer to each is another [`crate::Dataplane::apply`].
//!
//! Pods come and go all the time, and none of that asks for an apply. Most messages carry the port number of the socket
//! that asked for the change: ours are left out. Those about links do not (before Linux 6.2), nor does what goes along with
//! a link that is deleted: such a message is not judged but handed on as a [`Concern`], which [`crate::Dataplane::must_mend`]
//! answers by what is there when no attachment is under way. So what others do to a link while we make it is not missed.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::endpoint::{GATEWAY_V6, HOST_MAC, LINK_PREFIX};
use crate::links::Link;
use crate::netlink::{Message, attr, enlarge, messages};
use crate::{DataplaneConfig, DataplaneError, nft, tc};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELADDR: u16 = 21;
const RTM_DELROUTE: u16 = 25;
const RTM_DELNEIGH: u16 = 29;
const RTM_DELQDISC: u16 = 37;
const RTM_DELTFILTER: u16 = 45;
/// `NLMSG_OVERRUN`: the kernel never sends it.
const NLMSG_OVERRUN: u16 = 4;
const NEIGHBOUR_HEADER: usize = 12;
/// First bytes of fe80::/64.
const LINK_LOCAL: [u8; 2] = [0xfe, 0x80];
/// First byte of ff00::/8.
const MULTICAST_V6: u8 = 0xff;
/// `RTNLGRP_…`: links, neighbours, traffic control, addresses and routes of both families.
const ROUTE_GROUPS: [u32; 7] = [1, 3, 4, 5, 7, 9, 11];
/// `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;

/// Port numbers of the sockets that a [`crate::Dataplane`] writes with.
#[derive(Debug, Clone, Default)]
pub struct OwnPorts {
    pub(crate) route: BTreeSet<u32>,
    pub(crate) nftables: u32,
}

/// What a message of the kernel may mean.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// Others took something away that they have no business with.
    Taken(String),
    /// A link with a name of ours went, or is not as a pod's is: by others, or because we are making or removing it.
    Link(String),
    /// Something on a link went, by others or along with the link.
    OnLink {
        /// Interface index.
        link: u32,
        /// For people.
        what: &'static str,
    },
}

/// A subscription to the kernel's messages about links, routes, traffic control and nftables.
#[derive(Debug)]
pub struct Watch {
    route: Socket,
    nftables: Socket,
    protocol: u8,
    table: String,
    own: OwnPorts,
}

impl Watch {
    /// Subscribes in the network namespace of the calling thread. `own` are the ports of the data plane there.
    ///
    /// # Errors
    /// Netlink cannot be used.
    pub fn open(config: &DataplaneConfig, own: OwnPorts) -> Result<Self, DataplaneError> {
        let subscribe = |family: i32, groups: &[u32]| {
            let mut socket = Socket::new(isize::try_from(family).unwrap_or_default())?;
            socket.bind(&SocketAddr::new(0, 0))?;
            enlarge(&socket);
            for group in groups {
                socket.add_membership(*group)?;
            }
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let failed =
            |source| DataplaneError::Netlink { what: "watch the kernel's changes".to_owned(), source };
        Ok(Self {
            route: subscribe(libc::NETLINK_ROUTE, &ROUTE_GROUPS).map_err(failed)?,
            nftables: subscribe(libc::NETLINK_NETFILTER, &[NFTABLES_GROUP]).map_err(failed)?,
            protocol: config.route_protocol,
            table: config.nft_table.clone(),
            own,
        })
    }

    /// Waits until something of ours may have been taken away or changed, and says what; nothing when `timeout` passes
    /// first.
    ///
    /// # Errors
    /// The sockets cannot be read.
    pub fn wait(&mut self, timeout: Duration) -> Result<BTreeSet<Concern>, DataplaneError> {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [readable(&self.route), readable(&self.nftables)];
            match poll(&mut fds, left) {
                Ok(0) => return Ok(BTreeSet::new()),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(self.failed(errno.into())),
            }
            let concerns = self.read()?;
            if !concerns.is_empty() {
                return Ok(concerns);
            }
        }
    }

    /// Reads all that is there; each concern once.
    fn read(&self) -> Result<BTreeSet<Concern>, DataplaneError> {
        let mut concerns = BTreeSet::new();
        for datagram in self.receive(|watch| &watch.route)? {
            concerns.extend(messages(&datagram).filter_map(|message| self.route_concern(&message)));
        }
        for datagram in self.receive(|watch| &watch.nftables)? {
            concerns.extend(messages(&datagram).filter_map(|message| self.nftables_concern(&message)));
        }
        Ok(concerns)
    }

    /// All datagrams that wait. After an overrun, what was lost is unknown: a made-up message says so.
    fn receive(&self, socket: impl Fn(&Self) -> &Socket) -> Result<Vec<Vec<u8>>, DataplaneError> {
        let mut datagrams = Vec::new();
        loop {
            match socket(self).recv_from_full() {
                Ok((datagram, _)) => datagrams.push(datagram),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(datagrams),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => datagrams.push(overrun()),
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn route_concern(&self, message: &Message<'_>) -> Option<Concern> {
        let body = message.body;
        match message.kind {
            NLMSG_OVERRUN => Some(lost()),
            RTM_NEWLINK | RTM_DELLINK => {
                let link = Link::parse(body).filter(|link| link.name.starts_with(LINK_PREFIX))?;
                let gone = message.kind == RTM_DELLINK;
                (gone || !is_in_order(&link)).then_some(Concern::Link(link.name))
            }
            _ if self.own.route.contains(&message.port) => None,
            RTM_DELADDR => {
                let gateway = attr::find(body.get(8..)?, 1)? == GATEWAY_V6.octets();
                gateway.then_some(on(attr::u32_at(body, 4)?, "the gateway's address"))
            }
            RTM_DELROUTE => {
                let protocol = *body.get(5)?;
                (protocol == self.protocol).then(|| Concern::Taken("a route of ours".to_owned()))
            }
            RTM_DELNEIGH => {
                // Entries of pods' addresses on pods' links are ours; what ND learned is not, nor are groups.
                let destination = attr::find(body.get(NEIGHBOUR_HEADER..)?, 1)?;
                let theirs = destination.starts_with(&LINK_LOCAL) || destination.starts_with(&[MULTICAST_V6]);
                (!theirs).then_some(on(attr::u32_at(body, 4)?, "a neighbour entry"))
            }
            RTM_DELQDISC => match tc::clsact_of(body) {
                Some(link) => Some(on(link, "the filters")),
                None => tc::is_our_qdisc(body).then(|| Concern::Taken("a limit or a tree".to_owned())),
            },
            RTM_DELTFILTER => {
                tc::is_our_filter(body).then_some(on(attr::u32_at(body, 4)?, "a filter of ours"))
            }
            _ => None,
        }
    }

    fn nftables_concern(&self, message: &Message<'_>) -> Option<Concern> {
        if message.kind == NLMSG_OVERRUN {
            return Some(lost());
        }
        if message.port == self.own.nftables {
            return None;
        }
        let table = nft::removed_from(message.kind, message.body)?;
        (table == self.table).then(|| Concern::Taken(format!("something of nftables table {table}")))
    }

    fn failed(&self, source: std::io::Error) -> DataplaneError {
        DataplaneError::Netlink { what: format!("follow changes of table {}", self.table), source }
    }
}

/// False for a pod's link that is not up, or has another MAC address.
pub(crate) fn is_in_order(link: &Link) -> bool {
    !link.is_kind("veth") || link.up && link.mac == Some(HOST_MAC)
}

fn on(link: u32, what: &'static str) -> Concern {
    Concern::OnLink { link, what }
}

fn lost() -> Concern {
    Concern::Taken("more than could be followed".to_owned())
}

/// A datagram with a single, empty overrun message.
fn overrun() -> Vec<u8> {
    let mut datagram = 16_u32.to_ne_bytes().to_vec();
    datagram.extend(NLMSG_OVERRUN.to_ne_bytes());
    datagram.resize(16, 0);
    datagram
}

fn readable(socket: &Socket) -> PollFd<'_> {
    PollFd::new(socket.as_fd(), PollFlags::POLLIN)
}
