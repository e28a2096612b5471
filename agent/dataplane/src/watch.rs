//! Notices when somebody else takes away what is ours: networkd deleting routes, an operator's `nft flush ruleset`,
//! a tool that resets MAC addresses. The answer to each is another [`crate::Dataplane::apply`].
//!
//! It cannot tell our own doing from others', and need not: an apply with nothing to mend writes nothing.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::endpoint::{GATEWAY_V6, HOST_MAC, LINK_PREFIX};
use crate::links::Link;
use crate::netlink::{Netlink, attr, enlarge, messages};
use crate::{DataplaneConfig, DataplaneError, links, nft, tc};

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
/// `RTNLGRP_…`: links, neighbours, traffic control, addresses and routes of both families.
const ROUTE_GROUPS: [u32; 7] = [1, 3, 4, 5, 7, 9, 11];
/// `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;

/// A subscription to the kernel's messages about links, routes, traffic control and nftables.
#[derive(Debug)]
pub struct Watch {
    route: Socket,
    nftables: Socket,
    protocol: u8,
    table: String,
    /// Indices of links of ours, from the kernel's messages.
    links: BTreeSet<u32>,
}

impl Watch {
    /// Subscribes in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Netlink cannot be used.
    pub fn open(config: &DataplaneConfig) -> Result<Self, DataplaneError> {
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
        let route = subscribe(libc::NETLINK_ROUTE, &ROUTE_GROUPS).map_err(failed)?;
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE).map_err(failed)?;
        let links = links::all(&mut netlink).map_err(|refusal| refusal.doing("list links"))?;
        let ours = links.values().filter(|link| link.name.starts_with(LINK_PREFIX));
        Ok(Self {
            route,
            links: ours.map(|link| link.index).collect(),
            nftables: subscribe(libc::NETLINK_NETFILTER, &[NFTABLES_GROUP]).map_err(failed)?,
            protocol: config.route_protocol,
            table: config.nft_table.clone(),
        })
    }

    /// Waits until something of ours was taken away or changed, and says what; `None` when `timeout` passes first.
    ///
    /// # Errors
    /// The sockets cannot be read.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<String>, DataplaneError> {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [readable(&self.route), readable(&self.nftables)];
            match poll(&mut fds, left) {
                Ok(0) => return Ok(None),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(self.failed(errno.into())),
            }
            if let Some(what) = self.read()? {
                return Ok(Some(what));
            }
        }
    }

    /// Reads all that is there; the first change that concerns us.
    fn read(&mut self) -> Result<Option<String>, DataplaneError> {
        let mut found = None;
        for datagram in self.receive(|watch| &watch.route)? {
            for message in messages(&datagram) {
                let concern = self.route_concern(message.kind, message.body);
                found = found.or(concern);
            }
        }
        for datagram in self.receive(|watch| &watch.nftables)? {
            let concern =
                messages(&datagram).find_map(|message| self.nftables_concern(message.kind, message.body));
            found = found.or(concern);
        }
        Ok(found)
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

    fn route_concern(&mut self, kind: u16, body: &[u8]) -> Option<String> {
        match kind {
            NLMSG_OVERRUN => Some("more changes than could be followed".to_owned()),
            RTM_NEWLINK | RTM_DELLINK => {
                let link = Link::parse(body).filter(|link| link.name.starts_with(LINK_PREFIX))?;
                let (name, gone) = (&link.name, kind == RTM_DELLINK);
                if gone {
                    self.links.remove(&link.index);
                } else {
                    self.links.insert(link.index);
                }
                let changed = link.is_kind("veth") && (!link.up || link.mac != Some(HOST_MAC));
                (gone || changed).then(|| format!("link {name} {}", if gone { "went" } else { "changed" }))
            }
            RTM_DELADDR => {
                let gateway = attr::find(body.get(8..)?, 1)? == GATEWAY_V6.octets();
                gateway.then(|| format!("address {GATEWAY_V6} went"))
            }
            RTM_DELROUTE => {
                let protocol = *body.get(5)?;
                (protocol == self.protocol).then(|| "a route of ours went".to_owned())
            }
            RTM_DELNEIGH => {
                // Entries of pods' addresses on pods' links are ours; a link-local one is what ND learned.
                let ours = self.links.contains(&attr::u32_at(body, 4)?);
                let destination = attr::find(body.get(NEIGHBOUR_HEADER..)?, 1)?;
                (ours && !destination.starts_with(&LINK_LOCAL))
                    .then(|| "a neighbour entry of ours went".to_owned())
            }
            RTM_DELQDISC => {
                let filters = tc::clsact_of(body).is_some_and(|link| self.links.contains(&link));
                (filters || tc::is_our_qdisc(body))
                    .then(|| "a limit or the filters of a link went".to_owned())
            }
            RTM_DELTFILTER => tc::is_our_filter(body).then(|| "a filter of ours went".to_owned()),
            _ => None,
        }
    }

    fn nftables_concern(&self, kind: u16, body: &[u8]) -> Option<String> {
        if kind == NLMSG_OVERRUN {
            return Some("more changes than could be followed".to_owned());
        }
        let table = nft::removed_from(kind, body)?;
        (table == self.table).then(|| format!("something went from nftables table {table}"))
    }

    fn failed(&self, source: std::io::Error) -> DataplaneError {
        DataplaneError::Netlink { what: format!("follow changes of table {}", self.table), source }
    }
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
