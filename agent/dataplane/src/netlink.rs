//! A blocking netlink socket: requests in batches, dumps, and the kernel's own words on refusal.
//!
//! rtnetlink (the crate) waits for one answer at a time on an async socket. The data plane runs on plain threads,
//! inside other network namespaces too, and wants many requests in one system call; so it speaks through netlink-sys.

pub(crate) mod attr;
mod refusal;

use std::io;

use netlink_packet_core::Emitable;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

pub(crate) use refusal::Refusal;

const HEADER_LEN: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// The error message carries attributes (NETLINK_EXT_ACK).
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The error message echoes no request body (NETLINK_CAP_ACK).
const NLM_F_CAPPED: u16 = 0x100;
/// A dump was changed under our eyes: ask again.
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`.
pub(crate) const EXCL: u16 = 0x200;
/// `NLM_F_ECHO`.
pub(crate) const ECHO: u16 = 0x8;
/// `NLM_F_REPLACE`.
pub(crate) const REPLACE: u16 = 0x100;

/// Socket buffers; the kernel takes memory as it is needed.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// Requests sent in one system call; bounded so that the acknowledgements fit the receive buffer.
const BATCH: usize = 64;
/// Room for one datagram: the kernel fills those of a dump up to 32 KiB where it sees that much.
const DATAGRAM: usize = 64 * 1024;
/// A dump that the kernel calls inconsistent is repeated this often.
const DUMP_ATTEMPTS: usize = 8;

/// One request: message type, flags besides REQUEST and ACK, and the body after the netlink header.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A request in rtnetlink's vocabulary.
    pub(crate) fn route(message: &RouteNetlinkMessage, flags: u16) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        Self { kind: message.message_type(), flags, body }
    }
}

/// One message of an answer: its type and the body after the netlink header.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// A netlink socket, bound to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    port: u32,
    sequence: u32,
    /// The datagram that was received last.
    datagram: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of the given netlink family (`libc::NETLINK_ROUTE`…).
    pub(crate) fn open(family: i32) -> io::Result<Self> {
        let mut socket = Socket::new(isize::try_from(family).unwrap_or_default())?;
        let port = socket.bind_auto()?.port_number();
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        enlarge(&socket);
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, port, sequence: 0, datagram: vec![0; DATAGRAM] })
    }

    /// The port number that the kernel puts on notifications of what this socket asked for.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn call(&mut self, request: &Request) -> Result<(), Refusal> {
        self.batch(std::slice::from_ref(request)).pop().unwrap_or(Ok(()))
    }

    /// Sends many requests, each carried out on its own; answers in the same order.
    pub(crate) fn batch(&mut self, requests: &[Request]) -> Vec<Result<(), Refusal>> {
        self.in_chunks(requests, NLM_F_ACK)
    }

    fn in_chunks(&mut self, requests: &[Request], flags: u16) -> Vec<Result<(), Refusal>> {
        let mut results = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(BATCH) {
            match self.send_chunk(chunk, flags) {
                Ok(answers) => results.extend(answers),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    results.extend(chunk.iter().map(|_| Err(Refusal::from_errno(errno, None))));
                }
            }
        }
        results
    }

    /// Sends all and fails with the first refusal; requests after it are carried out all the same.
    pub(crate) fn all(&mut self, requests: &[Request]) -> Result<(), Refusal> {
        self.batch(requests).into_iter().collect()
    }

    /// Reads the answer to one request that yields exactly one message (GETLINK by name…).
    pub(crate) fn get(&mut self, request: &Request) -> Result<Reply, Refusal> {
        // The acknowledgement ends the answer, even one without a message.
        let sequence = self.send(request, NLM_F_ACK)?;
        let mut found = None;
        self.collect(sequence, |kind, body| {
            found.get_or_insert_with(|| Reply { kind, body: body.to_vec() });
        })?;
        found.ok_or_else(|| Refusal::from_errno(libc::ENOENT, None))
    }

    /// Whether there is what each of the requests asks for; each yields one message where there is.
    pub(crate) fn are_there(&mut self, requests: &[Request]) -> Vec<bool> {
        self.in_chunks(requests, 0).iter().map(Result::is_ok).collect()
    }

    /// Dumps a table.
    pub(crate) fn dump(&mut self, request: &Request) -> Result<Vec<Reply>, Refusal> {
        self.rows(request, |kind, body| Some(Reply { kind, body: body.to_vec() }))
    }

    /// Dumps a table and keeps what `parse` makes of each row's message type and body.
    pub(crate) fn rows<T>(
        &mut self,
        request: &Request,
        mut parse: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.send(request, NLM_F_DUMP)?;
            let mut rows = Vec::new();
            let interrupted = self.collect(sequence, |kind, body| rows.extend(parse(kind, body)))?;
            if !interrupted {
                return Ok(rows);
            }
        }
        Err(Refusal::from_errno(libc::EINTR, Some("the table kept changing during the dump".to_owned())))
    }

    /// Dumps a table whose rows stand alone, and hands each to `row` without keeping it: the kernel's word that the table
    /// changed meanwhile does not matter.
    pub(crate) fn each(&mut self, request: &Request, mut row: impl FnMut(&[u8])) -> Result<(), Refusal> {
        self.dump_until(request, |body| {
            row(body);
            true
        })
        .map(drop)
    }

    /// Walks through a dump while `more` wants it; false when it ended early. The socket is of no further use then:
    /// the rest of the dump is still under way.
    pub(crate) fn dump_until(
        &mut self,
        request: &Request,
        mut more: impl FnMut(&[u8]) -> bool,
    ) -> Result<bool, Refusal> {
        let sequence = self.send(request, NLM_F_DUMP)?;
        loop {
            for message in messages(self.receive()?).filter(|message| message.sequence == sequence) {
                match message.kind {
                    NLMSG_DONE => return dump_outcome(&message).map(|()| true),
                    NLMSG_ERROR => return outcome(&message).map(|()| true),
                    _ if !more(message.body) => return Ok(false),
                    _ => {}
                }
            }
        }
    }

    /// Sends raw bytes that contain acknowledged messages with the given sequence numbers (an nftables transaction),
    /// and answers with the first refusal.
    pub(crate) fn transaction(&mut self, bytes: &[u8], mut awaited: Vec<u32>) -> Result<(), Refusal> {
        self.socket.send(bytes, 0)?;
        let mut first = Ok(());
        while !awaited.is_empty() {
            for message in messages(self.receive()?) {
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                awaited.retain(|sequence| *sequence != message.sequence);
                if let Err(refusal) = outcome(&message)
                    && first.is_ok()
                {
                    first = Err(refusal);
                }
            }
            // A refused transaction acknowledges only what it looked at.
            if first.is_err() {
                self.drain()?;
                break;
            }
        }
        first
    }

    fn drain(&mut self) -> io::Result<()> {
        self.socket.set_non_blocking(true)?;
        while self.receive().is_ok() {}
        self.socket.set_non_blocking(false)
    }

    /// Without NLM_F_ACK a request is answered by its one message, or by a refusal.
    fn send_chunk(&mut self, chunk: &[Request], flags: u16) -> io::Result<Vec<Result<(), Refusal>>> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for request in chunk {
            let sequence = self.next_sequence();
            encode(&mut bytes, request, NLM_F_REQUEST | flags, sequence);
        }
        self.socket.send(&bytes, 0)?;
        let mut results: Vec<Option<Result<(), Refusal>>> = chunk.iter().map(|_| None).collect();
        let mut missing = results.len();
        while missing > 0 {
            for message in messages(self.receive()?) {
                let position = usize::try_from(message.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                let Some(slot) = results.get_mut(position).filter(|slot| slot.is_none()) else { continue };
                if message.kind == NLMSG_ERROR {
                    *slot = Some(outcome(&message));
                } else if flags & NLM_F_ACK == 0 {
                    *slot = Some(Ok(()));
                }
                missing -= usize::from(slot.is_some());
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Reads the answer to a request; true when the kernel calls the dump inconsistent.
    fn collect(&mut self, sequence: u32, mut row: impl FnMut(u16, &[u8])) -> Result<bool, Refusal> {
        let mut interrupted = false;
        loop {
            for message in messages(self.receive()?).filter(|message| message.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => return dump_outcome(&message).map(|()| interrupted),
                    NLMSG_ERROR => return outcome(&message).map(|()| interrupted),
                    kind => row(kind, message.body),
                }
            }
        }
    }

    fn send(&mut self, request: &Request, flags: u16) -> io::Result<u32> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::new();
        encode(&mut bytes, request, NLM_F_REQUEST | flags, sequence);
        self.socket.send(&bytes, 0)?;
        Ok(sequence)
    }

    /// Waits for the next datagram, in one system call.
    fn receive(&mut self) -> io::Result<&[u8]> {
        let length = self.socket.recv(&mut self.datagram.as_mut_slice(), libc::MSG_TRUNC)?;
        if length > self.datagram.len() {
            self.datagram.resize(length, 0);
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        Ok(self.datagram.get(..length).unwrap_or_default())
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// Room for large tables both ways: a transaction goes in one system call. Without CAP_NET_ADMIN the default stays.
pub(crate) fn enlarge(socket: &Socket) {
    for result in [
        setsockopt(socket, sockopt::RcvBufForce, &BUFFER_BYTES),
        setsockopt(socket, sockopt::SndBufForce, &BUFFER_BYTES),
    ] {
        if let Err(error) = result {
            tracing::debug!(%error, "a netlink socket keeps its default buffers");
        }
    }
}

/// One message of a datagram.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    /// In a notification: of the socket whose request it is about; 0 where the kernel does not say.
    pub(crate) port: u32,
    /// Behind the netlink header.
    pub(crate) body: &'a [u8],
}

fn encode(bytes: &mut Vec<u8>, request: &Request, flags: u16, sequence: u32) {
    let length = u32::try_from(HEADER_LEN.saturating_add(request.body.len())).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(request.kind.to_ne_bytes());
    bytes.extend((request.flags | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(&request.body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Splits a datagram into messages; stops at the first malformed one.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(attr::u32_at(datagram, 0)?).ok()?;
        let message = Message {
            kind: attr::u16_at(datagram, 4)?,
            flags: attr::u16_at(datagram, 6)?,
            sequence: attr::u32_at(datagram, 8)?,
            port: attr::u32_at(datagram, 12)?,
            body: datagram.get(HEADER_LEN..length)?,
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

fn outcome(message: &Message<'_>) -> Result<(), Refusal> {
    let errno = attr::u32_at(message.body, 0).map_or(libc::EIO, |raw| raw.cast_signed().wrapping_neg());
    if errno == 0 {
        return Ok(());
    }
    let text = (message.flags & NLM_F_ACK_TLVS != 0).then(|| {
        // Without CAPPED the refused request is echoed in front of the attributes.
        let echoed = attr::u32_at(message.body, 4).and_then(|length| usize::try_from(length).ok());
        let skip = if message.flags & NLM_F_CAPPED != 0 { HEADER_LEN } else { echoed.unwrap_or(HEADER_LEN) };
        error_text(message.body.get(4_usize.saturating_add(skip)..).unwrap_or_default())
    });
    Err(Refusal::from_errno(errno, text.flatten()))
}

fn dump_outcome(message: &Message<'_>) -> Result<(), Refusal> {
    match attr::u32_at(message.body, 0).map_or(0, |raw| raw.cast_signed().wrapping_neg()) {
        errno if errno > 0 => Err(Refusal::from_errno(errno, None)),
        _ => Ok(()),
    }
}

fn error_text(attributes: &[u8]) -> Option<String> {
    attr::find(attributes, NLMSGERR_ATTR_MSG).map(attr::text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_the_kernels_own_words() {
        let mut socket = Netlink::open(libc::NETLINK_ROUTE).unwrap();
        // GETLINK by a name that is too long.
        let mut body = vec![0; 16];
        body.extend(attr::Attributes::default().put(3, &[b'x'; 64]).bytes());
        let refusal = socket.get(&Request { kind: 18, flags: 0, body }).unwrap_err();
        assert!(refusal.errno().is_some(), "{refusal:?}");
    }

    #[test]
    fn a_truncated_datagram_yields_no_message() {
        assert_eq!(messages(&[20, 0, 0, 0, 2, 0]).count(), 0);
        assert_eq!(messages(&[]).count(), 0);
    }
}
