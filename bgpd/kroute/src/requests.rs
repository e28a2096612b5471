//! The socket for requests: batches of writes, dumps, single questions.
//!
//! A batch is one `send` of many messages, of which only the last asks for an acknowledgement: the kernel works
//! them off in order and answers each one that fails, so one small reply stands for a whole successful batch.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader, NlasIterator,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use crate::Error;
use crate::message::u32_at;

/// Messages in one `send`.
const BATCH: usize = 256;
/// Larger than any datagram that rtnetlink makes (dumps ≤ 32 KiB).
const READ_SIZE: usize = 64 * 1024;
/// Room for the error replies to a whole batch, each of which the kernel charges at about 1 KiB.
const RECEIVE_QUEUE: usize = 4 * 1024 * 1024;
/// The kernel answers before `send` returns; waiting longer means that an answer was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a dump starts over because the table changed meanwhile (RFC 3549 has no word on this; the kernel
/// marks such dumps NLM_F_DUMP_INTR).
const DUMP_ATTEMPTS: usize = 8;

const HEADER_LEN: usize = 16;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The kernel's no to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) message: String,
}

/// One message to send.
pub(crate) struct Request<M> {
    /// RTM_*.
    pub(crate) kind: u16,
    /// NLM_F_* besides REQUEST and ACK.
    pub(crate) flags: u16,
    pub(crate) body: M,
}

/// A netlink socket for requests.
pub(crate) struct Requests {
    socket: Socket,
    port: u32,
    sequence: u32,
    inbox: Vec<u8>,
}

impl Requests {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::socket("opening the request socket"))?;
        let port = socket.bind_auto().map_err(Error::socket("binding the request socket"))?.port_number();
        let setup = || -> io::Result<()> {
            socket.set_cap_ack(true)?;
            socket.set_ext_ack(true)?;
            socket.set_netlink_get_strict_chk(true)?;
            enlarge_receive_queue(&socket, RECEIVE_QUEUE)?;
            SockRef::from(&socket).set_read_timeout(Some(ANSWER_TIMEOUT))
        };
        setup().map_err(Error::socket("setting up the request socket"))?;
        Ok(Self { socket, port, sequence: 0, inbox: Vec::with_capacity(READ_SIZE) })
    }

    /// The port number that the kernel puts on the notifications which our requests cause.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends all requests, in order; one outcome for each.
    pub(crate) fn run<M: Emitable>(
        &mut self,
        requests: &[Request<M>],
    ) -> Result<Vec<Result<(), Refusal>>, Error> {
        let mut outcomes = Vec::with_capacity(requests.len());
        for batch in requests.chunks(BATCH) {
            self.run_batch(batch, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    fn run_batch<M: Emitable>(
        &mut self,
        batch: &[Request<M>],
        outcomes: &mut Vec<Result<(), Refusal>>,
    ) -> Result<(), Error> {
        let first = self.sequence.wrapping_add(1);
        let offset = outcomes.len();
        let mut outbox = Vec::with_capacity(batch.len() * 64);
        for (index, request) in batch.iter().enumerate() {
            let ack = if index + 1 == batch.len() { NLM_F_ACK } else { 0 };
            self.encode(request, ack, &mut outbox);
            outcomes.push(Ok(()));
        }
        let last = self.sequence;
        self.send(&outbox)?;
        loop {
            let mut done = false;
            for reply in self.receive("reading acknowledgements")? {
                if reply.kind != NLMSG_ERROR {
                    continue;
                }
                let index = reply.sequence.wrapping_sub(first) as usize;
                if index >= batch.len() {
                    continue;
                }
                if let Some(outcome) = outcomes.get_mut(offset + index) {
                    *outcome = reply.refusal().map_or(Ok(()), Err);
                }
                done |= reply.sequence == last;
            }
            if done {
                return Ok(());
            }
        }
    }

    /// Dumps a table; `each` sees every message's payload and keeps what it wants. A dump during which the table
    /// changed starts over.
    pub(crate) fn dump<M: Emitable, T>(
        &mut self,
        doing: &'static str,
        kind: u16,
        body: M,
        mut each: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let request = Request { kind, flags: NLM_F_DUMP, body };
        let mut kept = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            kept.clear();
            if self.dump_once(doing, &request, &mut |payload| kept.extend(each(payload)))? {
                return Ok(kept);
            }
        }
        // Whatever changed since has sent, or will send, an event.
        Ok(kept)
    }

    /// True if the dump was consistent.
    fn dump_once<M: Emitable>(
        &mut self,
        doing: &'static str,
        request: &Request<M>,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Error> {
        let mut outbox = Vec::new();
        self.encode(request, 0, &mut outbox);
        let sequence = self.sequence;
        self.send(&outbox)?;
        let mut consistent = true;
        loop {
            for reply in self.receive(doing)? {
                if reply.sequence != sequence {
                    continue;
                }
                consistent &= reply.flags & NLM_F_DUMP_INTR == 0;
                match (reply.kind, reply.refusal()) {
                    (NLMSG_DONE | NLMSG_ERROR, Some(refusal)) => {
                        return Err(Error::Refused { doing, message: refusal.message });
                    }
                    (NLMSG_DONE | NLMSG_ERROR, None) => return Ok(consistent),
                    _ => each(reply.payload),
                }
            }
        }
    }

    /// Asks for one object.
    pub(crate) fn ask<M: Emitable>(
        &mut self,
        doing: &'static str,
        kind: u16,
        body: M,
    ) -> Result<Result<Vec<u8>, Refusal>, Error> {
        let mut outbox = Vec::new();
        self.encode(&Request { kind, flags: 0, body }, 0, &mut outbox);
        let sequence = self.sequence;
        self.send(&outbox)?;
        loop {
            for reply in self.receive(doing)? {
                if reply.sequence != sequence {
                    continue;
                }
                return Ok(match reply.refusal() {
                    Some(refusal) => Err(refusal),
                    None => Ok(reply.payload.to_vec()),
                });
            }
        }
    }

    fn encode<M: Emitable>(&mut self, request: &Request<M>, ack: u16, outbox: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER_LEN + request.body.buffer_len();
        let start = outbox.len();
        outbox.resize(start + length.next_multiple_of(4), 0);
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(length).unwrap_or(u32::MAX);
        header.message_type = request.kind;
        header.flags = NLM_F_REQUEST | request.flags | ack;
        header.sequence_number = self.sequence;
        header.port_number = self.port;
        if let Some((head, body)) =
            outbox.get_mut(start..start + length).and_then(|message| message.split_at_mut_checked(HEADER_LEN))
        {
            header.emit(head);
            request.body.emit(body);
        }
    }

    fn send(&self, outbox: &[u8]) -> Result<(), Error> {
        retry_interrupted(|| self.socket.send(outbox, 0)).map_err(Error::socket("sending requests"))?;
        Ok(())
    }

    /// The replies of one datagram.
    fn receive(&mut self, doing: &'static str) -> Result<impl Iterator<Item = Reply<'_>>, Error> {
        read_datagram(&self.socket, &mut self.inbox, 0).map_err(Error::socket(doing))?;
        Ok(messages(&self.inbox).map(Reply::from))
    }
}

/// One message from the kernel.
struct Reply<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> From<NetlinkBuffer<&'a [u8]>> for Reply<'a> {
    fn from(message: NetlinkBuffer<&'a [u8]>) -> Self {
        Self {
            kind: message.message_type(),
            flags: message.flags(),
            sequence: message.sequence_number(),
            payload: message.payload(),
        }
    }
}

impl Reply<'_> {
    /// The error that an NLMSG_ERROR or NLMSG_DONE carries.
    fn refusal(&self) -> Option<Refusal> {
        if !matches!(self.kind, NLMSG_ERROR | NLMSG_DONE) {
            return None;
        }
        let code = u32_at(self.payload, 0)?.cast_signed();
        if code >= 0 {
            return None;
        }
        let errno = code.saturating_neg();
        let message = self.extended_ack().unwrap_or_else(|| io::Error::from_raw_os_error(errno).to_string());
        Some(Refusal { errno, message })
    }

    /// The kernel's explanation: attributes behind the copied request header (NETLINK_EXT_ACK, NETLINK_CAP_ACK).
    fn extended_ack(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let start = if self.kind == NLMSG_ERROR { 4 + HEADER_LEN } else { 4 };
        NlasIterator::new(self.payload.get(start..)?)
            .map_while(Result::ok)
            .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
            .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
    }
}

/// Raises the receive queue past `rmem_max` where CAP_NET_ADMIN allows it.
pub(crate) fn enlarge_receive_queue(socket: &Socket, bytes: usize) -> io::Result<()> {
    if setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &bytes).is_err() {
        SockRef::from(socket).set_recv_buffer_size(bytes)?;
    }
    Ok(())
}

/// Reads one datagram into `inbox`, replacing what was there.
pub(crate) fn read_datagram(socket: &Socket, inbox: &mut Vec<u8>, flags: i32) -> io::Result<()> {
    inbox.clear();
    inbox.reserve(READ_SIZE);
    let length = retry_interrupted(|| socket.recv(inbox, flags | libc::MSG_TRUNC))?;
    if length > inbox.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("netlink datagram of {length} bytes"),
        ));
    }
    Ok(())
}

/// The messages of a datagram; stops at the first malformed one.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(datagram).ok()?;
        let length = message.length() as usize;
        let whole = NetlinkBuffer::new(datagram.get(..length)?);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(whole)
    })
}

fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
