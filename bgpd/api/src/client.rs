//! The callers' side of the control socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Part;
use crate::frame::{FrameError, read_frame, write_frame};
use crate::message::{ErrorReply, Reply, Request, RibQuery, Select};
use crate::view::{Decision, EventView, PathView, PeerView, StatusView};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: bgpd is not running, or is just being restarted.
    #[error("cannot reach turnpike-bgpd at {socket}: {source}")]
    Unreachable {
        /// The socket's path.
        socket: PathBuf,
        /// What connect said.
        #[source]
        source: io::Error,
    },
    /// bgpd took the request and did not answer in time, or ended meanwhile.
    #[error("turnpike-bgpd did not answer: {0}")]
    NoAnswer(#[source] FrameError),
    /// The answer is not understood.
    #[error("turnpike-bgpd's answer is not understood: {0}")]
    Protocol(#[source] FrameError),
    /// The answer belongs to another question.
    #[error("turnpike-bgpd answered something else than was asked")]
    Unexpected,
    /// bgpd says no.
    #[error("{0}")]
    Refused(#[from] ErrorReply),
}

/// Paths asked for at a time.
const PAGE: usize = 5_000;

/// One connection to the control socket. Blocking.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects; every later call waits for `timeout` at most.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub fn connect(socket: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let connect = || {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            Ok(stream)
        };
        let unreachable = |source| ClientError::Unreachable { socket: socket.to_owned(), source };
        Ok(Self { stream: connect().map_err(unreachable)? })
    }

    /// Asks anything; an [`Reply::Error`] becomes an error.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn request(&mut self, request: &Request) -> Result<Reply, ClientError> {
        write_frame(&self.stream, request).map_err(ClientError::NoAnswer)?;
        match read_frame(&self.stream) {
            Ok(Reply::Error(error)) => Err(ClientError::Refused(error)),
            Ok(reply) => Ok(reply),
            Err(error @ FrameError::Io(_)) => Err(ClientError::NoAnswer(error)),
            Err(error) => Err(ClientError::Protocol(error)),
        }
    }

    /// The daemon as a whole.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&mut self) -> Result<StatusView, ClientError> {
        match self.request(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// The next event, for as long as it takes, on a connection that asked to [`Request::Watch`].
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::NoAnswer`] when bgpd has ended.
    pub fn next_event(&mut self) -> Result<EventView, ClientError> {
        let forever = self.stream.set_read_timeout(None);
        forever.map_err(|error| ClientError::NoAnswer(FrameError::Io(error)))?;
        match read_frame(&self.stream) {
            Ok(Reply::Event(event)) => Ok(*event),
            Ok(_) => Err(ClientError::Unexpected),
            Err(error @ FrameError::Io(_)) => Err(ClientError::NoAnswer(error)),
            Err(error) => Err(ClientError::Protocol(error)),
        }
    }

    /// All peers, or the one of this name or address.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn peers(&mut self, peer: Option<&str>) -> Result<Vec<PeerView>, ClientError> {
        match self.request(&Request::Peers { peer: peer.map(str::to_owned) })? {
            Reply::Peers { peers } => Ok(peers),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// All paths of a query, in as many requests as it takes; `query.limit` bounds the whole.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn rib(&mut self, mut query: RibQuery) -> Result<Vec<PathView>, ClientError> {
        let mut all: Vec<PathView> = Vec::new();
        let wanted = query.limit;
        loop {
            query.limit = PAGE.min(wanted.saturating_sub(all.len()));
            let Reply::Paths { paths, more } = self.request(&Request::Rib(query.clone()))? else {
                return Err(ClientError::Unexpected);
            };
            query.after = paths.last().map(|path| path.prefix);
            let stuck = paths.is_empty();
            all.extend(paths);
            if !more || stuck || all.len() >= wanted {
                return Ok(all);
            }
        }
    }

    /// Why a destination is routed as it is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn why(&mut self, select: Select) -> Result<Decision, ClientError> {
        match self.request(&Request::Why { select })? {
            Reply::Why(decision) => Ok(*decision),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Puts an owner's part of the configuration in the place of its former one; what was not taken, in words.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn push(&mut self, part: Part) -> Result<Vec<String>, ClientError> {
        match self.request(&Request::Push { part })? {
            Reply::Pushed { refused } => Ok(refused),
            _ => Err(ClientError::Unexpected),
        }
    }
}
