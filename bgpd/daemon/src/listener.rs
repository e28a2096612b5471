//! Listening sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{info, warn};
use turnpike_bgp_wire::Prefix;

use crate::sockopt;

/// Whom a password is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Keyed {
    /// One peer.
    Peer(IpAddr),
    /// Everybody in the prefix of a listen range.
    Range(Prefix),
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Wait after a failed accept: out of descriptors is not over in a microsecond.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// All listening sockets, and the TCP-MD5 passwords that they know.
#[derive(Debug)]
pub(crate) struct Listeners {
    sockets: BTreeMap<SocketAddr, Listener>,
    accepted: mpsc::Sender<Accepted>,
    keys: BTreeMap<Keyed, Vec<u8>>,
}

#[derive(Debug)]
struct Listener {
    socket: Arc<TcpListener>,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listeners {
    pub(crate) fn new(accepted: mpsc::Sender<Accepted>) -> Self {
        Self { sockets: BTreeMap::new(), accepted, keys: BTreeMap::new() }
    }

    /// Listens on exactly these addresses from now on; what cannot be had, with the reason.
    pub(crate) fn listen_on(&mut self, wanted: &[SocketAddr]) -> Vec<(SocketAddr, io::Error)> {
        self.sockets.retain(|address, _| wanted.contains(address));
        let mut failed = Vec::new();
        for address in wanted {
            if self.sockets.contains_key(address) {
                continue;
            }
            match self.open(*address) {
                Ok(listener) => {
                    info!(%address, "listening");
                    self.sockets.insert(*address, listener);
                }
                Err(error) => failed.push((*address, error)),
            }
        }
        failed
    }

    /// Knows exactly these passwords from now on.
    pub(crate) fn set_keys(&mut self, keys: BTreeMap<Keyed, Vec<u8>>) {
        for listener in self.sockets.values() {
            for peer in self.keys.keys().filter(|peer| !keys.contains_key(peer)) {
                give_key(listener, *peer, &[]);
            }
            for (peer, key) in keys.iter().filter(|(peer, key)| self.keys.get(peer) != Some(key)) {
                give_key(listener, *peer, key);
            }
        }
        self.keys = keys;
    }

    fn open(&self, address: SocketAddr) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = Arc::new(TcpListener::from_std(socket.into())?);
        let task = tokio::spawn(accept(socket.clone(), self.accepted.clone())).abort_handle();
        let listener = Listener { socket, task };
        for (peer, key) in &self.keys {
            give_key(&listener, *peer, key);
        }
        Ok(listener)
    }
}

fn give_key(listener: &Listener, whom: Keyed, key: &[u8]) {
    let address = match whom {
        Keyed::Peer(address) => address,
        Keyed::Range(prefix) => prefix.addr(),
    };
    if listener.socket.local_addr().is_ok_and(|local| local.is_ipv4() != address.is_ipv4()) {
        return;
    }
    let socket = listener.socket.as_fd();
    let result = match whom {
        Keyed::Peer(address) => sockopt::set_md5(socket, address, key),
        Keyed::Range(prefix) => sockopt::set_md5_prefix(socket, prefix, key),
    };
    if let Err(error) = result {
        warn!(?whom, %error, "cannot set the TCP-MD5 password for incoming connections");
    }
}

async fn accept(socket: Arc<TcpListener>, accepted: mpsc::Sender<Accepted>) {
    loop {
        match socket.accept().await {
            Ok((stream, remote)) => {
                let Ok(local) = stream.local_addr() else { continue };
                if accepted.send(Accepted { stream, local, remote }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
