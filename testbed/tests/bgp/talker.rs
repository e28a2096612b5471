//! A hand-made BGP speaker that says exactly what it is told to, and what it hears in return.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use turnpike_bgp_hostile::corpus::Session;
use turnpike_bgp_wire::{
    Asn, Attributes, EncodeContext, Family, Framer, MessageType, NextHop, Nlri, Notification, Open, Prefix,
    RouterId, encode_keepalive, encode_reach,
};
use turnpike_testbed::Node;

use crate::daemon::DEADLINE;

/// How long one read may take before the deadline is looked at.
const PATIENCE: Duration = Duration::from_millis(200);

/// Something heard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Message(MessageType, Vec<u8>),
    /// The daemon has closed the connection, or reset it.
    End,
}

/// One connection of the talker.
pub(crate) struct Talker {
    pub(crate) stream: TcpStream,
    framer: Framer,
    session: Session,
}

impl Talker {
    /// Connects from one of the node's addresses to port 179.
    pub(crate) fn connect(node: &Node, from: Ipv4Addr, to: Ipv4Addr, session: Session) -> Result<Self> {
        Self::connect_with(node, from, to, session, None)
    }

    /// Likewise, with room for so many octets that were not read.
    pub(crate) fn connect_with(
        node: &Node,
        from: Ipv4Addr,
        to: Ipv4Addr,
        session: Session,
        receive_buffer: Option<usize>,
    ) -> Result<Self> {
        let stream = node.in_netns(|| -> Result<TcpStream> {
            let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            if let Some(octets) = receive_buffer {
                setsockopt(&fd, sockopt::RcvBuf, &octets)?;
            }
            bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
            connect(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(to, 179)))
                .with_context(|| format!("connect from {from} to {to}"))?;
            Ok(TcpStream::from(fd))
        })??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let mut framer = Framer::new();
        if session.extended_message {
            framer.allow_extended();
        }
        Ok(Self { stream, framer, session })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("write to the daemon")
    }

    /// Sends what the daemon may refuse while it arrives: it closes before everything was written.
    pub(crate) fn send_whatever_comes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn send_open(&mut self, hold_time: u16) -> Result<()> {
        let open = Open {
            asn: Asn(self.session.remote_as()),
            hold_time,
            router_id: RouterId(Ipv4Addr::new(192, 0, 2, 2)),
            capabilities: self.session.capabilities(),
        };
        let mut bytes = Vec::new();
        open.encode(&mut bytes);
        self.send(&bytes)
    }

    pub(crate) fn send_keepalive(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        encode_keepalive(&mut bytes);
        self.send(&bytes)
    }

    /// OPEN and KEEPALIVE, both ways.
    pub(crate) fn establish(&mut self, hold_time: u16) -> Result<()> {
        self.send_open(hold_time)?;
        self.expect(MessageType::Open)?;
        self.send_keepalive()?;
        self.expect(MessageType::Keepalive)
    }

    /// The UPDATEs that announce IPv4 prefixes with a MED.
    pub(crate) fn announce(&mut self, prefixes: &[Prefix], med: u32) -> Result<()> {
        let attributes = Attributes { med: Some(med), ..self.attributes() };
        let context = self.encode_context();
        let nlri: Vec<Nlri> = prefixes.iter().copied().map(Nlri::new).collect();
        let mut bytes = Vec::new();
        let next_hop = |family| match family {
            Family::Ipv4 => NextHop::V4(Ipv4Addr::new(192, 0, 2, 2)),
            Family::Ipv6 => NextHop::V6("2001:db8::2".parse().unwrap()),
        };
        for family in Family::ALL {
            let of_family: Vec<Nlri> =
                nlri.iter().filter(|nlri| nlri.prefix.family() == family).copied().collect();
            if !of_family.is_empty() {
                encode_reach(&attributes, family, next_hop(family), &of_family, &context, &mut bytes)?;
            }
        }
        self.send(&bytes)
    }

    pub(crate) fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::default();
        match self.session.internal {
            true => attributes.local_pref = Some(100),
            false => attributes.as_path = attributes.as_path.prepended(Asn(self.session.remote_as()), 1),
        }
        attributes
    }

    pub(crate) fn encode_context(&self) -> EncodeContext {
        EncodeContext {
            four_octet_as: !self.session.two_octet,
            add_path_ipv4: self.session.add_path,
            add_path_ipv6: self.session.add_path,
            max_message: if self.session.extended_message { 65535 } else { 4096 },
        }
    }

    /// The next message, or the end; `None` if nothing has come for a while.
    pub(crate) fn hear(&mut self) -> Result<Option<Heard>> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.framer.next_frame() {
                Ok(Some(frame)) => return Ok(Some(Heard::Message(frame.kind, frame.body.to_vec()))),
                Ok(None) => {}
                Err(error) => bail!("the daemon sent a malformed message: {error}"),
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Some(Heard::End)),
                Ok(count) => self.framer.push(buffer.get(..count).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Some(Heard::End)),
                Err(error) => return Err(error).context("read from the daemon"),
            }
        }
    }

    /// Waits for a message of a type, passing over others; fails at the end of the connection.
    pub(crate) fn expect(&mut self, wanted: MessageType) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            match self.hear()? {
                Some(Heard::Message(kind, _)) if kind == wanted => return Ok(()),
                Some(Heard::Message(MessageType::Notification, body)) => {
                    bail!("instead of {wanted:?}: {}", describe(&body))
                }
                Some(Heard::End) => bail!("the connection ended instead of {wanted:?}"),
                Some(Heard::Message(..)) | None => {}
            }
        }
        bail!("waited {DEADLINE:?} for {wanted:?}")
    }

    /// Reads to the end of the connection: the NOTIFICATION that came before it, if one did.
    pub(crate) fn last_words(&mut self) -> Result<Option<Notification>> {
        let start = Instant::now();
        let mut words = None;
        while start.elapsed() < DEADLINE {
            match self.hear()? {
                Some(Heard::Message(MessageType::Notification, body)) => {
                    ensure!(words.is_none(), "two NOTIFICATIONs");
                    words = Notification::decode(&body);
                }
                Some(Heard::Message(..)) | None => {}
                Some(Heard::End) => return Ok(words),
            }
        }
        bail!("waited {DEADLINE:?} for the end of the connection, which never came")
    }
}

fn describe(notification: &[u8]) -> String {
    Notification::decode(notification).map_or_else(String::new, |notification| notification.to_string())
}
