//! TCP connections: a reader and a writer task each, and the sockets they need.
//!
//! The reader hands bytes to the engine over a bounded channel, and no more than [`CREDIT`] reads of its own may wait
//! there: a peer that sends faster than we work is held back by TCP, and another one's KEEPALIVE never stands behind a
//! table. The writer has a queue of its own, which the speaker bounds (it holds UPDATEs back while too much is
//! unsent); a peer that never reads fills its own queue and delays nobody.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{Instrument, Span, debug};
use turnpike_bgp_core::{CloseReason, ConnId, Input};

use crate::sockopt;

/// Largest read; several BGP messages of the largest size.
const READ_SIZE: usize = 64 * 1024;
/// Reads of one connection that the engine has not taken in yet: one at work, one ready.
const CREDIT: usize = 2;
/// Buffers in one write.
const WRITE_BUFFERS: usize = 64;
/// How long a closed connection may take to deliver its last words and to see the other end close.
const LINGER: Duration = Duration::from_secs(5);
/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Class selector 6, internetwork control, as routers mark BGP (RFC 4594 §3.2).
const TRAFFIC_CLASS: u32 = 0xc0;

/// How connections with one peer are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transport {
    /// TTL or hop limit of our packets.
    pub(crate) ttl: u8,
    /// Least TTL of the peer's packets (GTSM).
    pub(crate) min_ttl: Option<u8>,
    /// TCP-MD5 password.
    pub(crate) md5: Option<Vec<u8>>,
}

impl Transport {
    /// Sets what can be set on a socket at any time.
    pub(crate) fn dress(&self, socket: SockRef<'_>, ipv6: bool) -> io::Result<()> {
        let ttl = u32::from(self.ttl);
        if ipv6 {
            socket.set_unicast_hops_v6(ttl)?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
        } else {
            socket.set_ttl_v4(ttl)?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
        }
        if let Some(least) = self.min_ttl {
            sockopt::set_min_ttl(socket.as_fd(), ipv6, least)?;
        }
        socket.set_tcp_nodelay(true)
    }
}

/// Opens a connection.
pub(crate) async fn connect(
    transport: Transport,
    local: Option<IpAddr>,
    remote: SocketAddr,
) -> Result<TcpStream, CloseReason> {
    let attempt = async {
        let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        transport.dress(SockRef::from(&socket), remote.is_ipv6())?;
        if let Some(key) = &transport.md5 {
            sockopt::set_md5(socket.as_fd(), remote.ip(), key)?;
        }
        if let Some(local) = local {
            socket.bind(&source(local, remote).into())?;
        }
        TcpSocket::from_std_stream(socket.into()).connect(remote).await
    };
    match timeout(CONNECT_TIMEOUT, attempt).await {
        Ok(result) => result.map_err(|error| reason(&error)),
        Err(_) => Err(CloseReason::TimedOut),
    }
}

/// The source address, with the scope of a link-local peer.
fn source(local: IpAddr, remote: SocketAddr) -> SocketAddr {
    let mut source = SocketAddr::new(local, 0);
    if let (SocketAddr::V6(source), SocketAddr::V6(remote)) = (&mut source, remote) {
        source.set_scope_id(remote.scope_id());
    }
    source
}

/// Why an I/O error ends a connection.
pub(crate) fn reason(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => CloseReason::Eof,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CloseReason::Reset,
        io::ErrorKind::ConnectionRefused => CloseReason::Refused,
        io::ErrorKind::TimedOut => CloseReason::TimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => CloseReason::Unreachable,
        _ => CloseReason::Os(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

/// News of a connection on its way to the engine. What was received holds its credit until it is dropped.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) input: Input,
    /// When it came.
    pub(crate) at: Instant,
    _credit: Option<OwnedSemaphorePermit>,
}

impl From<Input> for Arrival {
    fn from(input: Input) -> Self {
        Self { input, at: Instant::now(), _credit: None }
    }
}

/// A connection as the engine holds it. Dropping it closes it: what is queued still goes out.
#[derive(Debug)]
pub(crate) struct Connection {
    outbox: mpsc::UnboundedSender<Bytes>,
    /// Dropped with the connection: tells both tasks to come to an end.
    _open: watch::Sender<()>,
}

impl Connection {
    /// Starts the tasks of a connection; the writer, which ends when all has been said, among `writers`.
    pub(crate) fn start(
        conn: ConnId,
        stream: TcpStream,
        inputs: mpsc::Sender<Arrival>,
        writers: &mut JoinSet<()>,
        span: Span,
    ) -> Self {
        let (outbox, queue) = mpsc::unbounded_channel();
        let (open, closing) = watch::channel(());
        let (read_half, write_half) = stream.into_split();
        tokio::spawn(read(conn, read_half, inputs.clone(), closing.clone()).instrument(span.clone()));
        writers.spawn(write(conn, write_half, inputs, queue, closing).instrument(span));
        Self { outbox, _open: open }
    }

    /// Queues bytes.
    pub(crate) fn send(&self, bytes: Bytes) {
        // The writer ends early only when the socket failed; the reader tells.
        let _ = self.outbox.send(bytes);
    }
}

async fn read(
    conn: ConnId,
    half: OwnedReadHalf,
    inputs: mpsc::Sender<Arrival>,
    mut closing: watch::Receiver<()>,
) {
    let credits = Arc::new(Semaphore::new(CREDIT));
    let reason = loop {
        // Never closed.
        let credit = Arc::clone(&credits).acquire_owned().await.ok();
        let result = tokio::select! {
            result = half.readable() => result.and_then(|()| take(&half)),
            _ = closing.changed() => {
                drain(half).await;
                return;
            }
        };
        match result {
            Ok(bytes) if bytes.is_empty() => break CloseReason::Eof,
            Ok(bytes) => {
                let input = Input::Received { conn, bytes };
                if inputs.send(Arrival { input, at: Instant::now(), _credit: credit }).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => break reason(&error),
        }
    };
    debug!(%conn, %reason, "connection ended");
    let _ = inputs.send(Input::Closed { conn, reason }.into()).await;
}

thread_local! {
    /// Where reads go first. A connection with a buffer of its own would hold it all its life, for the one table that
    /// comes at the beginning.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// What has come; nothing at the end of the stream.
fn take(half: &OwnedReadHalf) -> io::Result<Bytes> {
    READ_BUFFER.with_borrow_mut(|buffer| {
        let length = half.try_read(buffer)?;
        Ok(Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default()))
    })
}

/// Reads on for a while without keeping anything: a socket closed with unread bytes would send RST, which takes
/// our last NOTIFICATION from the peer's hands.
async fn drain(mut half: OwnedReadHalf) {
    let mut sink = vec![0; READ_SIZE];
    let _ = timeout(LINGER, async { while matches!(half.read(&mut sink).await, Ok(1..)) {} }).await;
}

async fn write(
    conn: ConnId,
    mut half: OwnedWriteHalf,
    inputs: mpsc::Sender<Arrival>,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    mut closing: watch::Receiver<()>,
) {
    let mut closed = false;
    let mut buffers: VecDeque<Bytes> = VecDeque::new();
    let mut arrived = Vec::new();
    loop {
        if buffers.is_empty() {
            if queue.recv_many(&mut arrived, WRITE_BUFFERS).await == 0 {
                break;
            }
        } else {
            while arrived.len() < WRITE_BUFFERS
                && let Ok(bytes) = queue.try_recv()
            {
                arrived.push(bytes);
            }
        }
        buffers.extend(arrived.drain(..));
        // Once the engine has let go of the connection its last words get a bounded time.
        let result = if closed {
            timeout(LINGER, write_some(&mut half, &mut buffers)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                result = write_some(&mut half, &mut buffers) => result,
                _ = closing.changed() => {
                    closed = true;
                    continue;
                }
            }
        };
        match result {
            Ok(0) => return,
            Ok(bytes) => {
                if inputs.send(Input::Sent { conn, bytes }.into()).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                debug!(%conn, %error, "write failed");
                return;
            }
        }
    }
    let _ = half.shutdown().await;
}

/// One write of as many buffers as fit; what was written is taken off the queue.
async fn write_some(half: &mut OwnedWriteHalf, buffers: &mut VecDeque<Bytes>) -> io::Result<usize> {
    let slices: Vec<IoSlice<'_>> =
        buffers.iter().take(WRITE_BUFFERS).map(|bytes| IoSlice::new(bytes)).collect();
    let written = half.write_vectored(&slices).await?;
    let mut left = written;
    while left > 0 {
        let Some(first) = buffers.front_mut() else { break };
        let step = left.min(first.len());
        first.advance(step);
        left -= step;
        if first.is_empty() {
            buffers.pop_front();
        }
    }
    Ok(written)
}
