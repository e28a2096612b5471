//! The callers' side.

use std::io::{self, BufReader};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::frame::{FrameError, Receiver, write_frame};
use crate::message::{Reply, Request};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the agent is not running, or is just being restarted.
    #[error("cannot reach turnpike-agent at {socket}: {source}")]
    Unreachable {
        /// The socket's path.
        socket: PathBuf,
        /// What connect said.
        #[source]
        source: io::Error,
    },
    /// The agent took the request and did not answer in time, or ended meanwhile.
    #[error("turnpike-agent did not answer: {0}")]
    NoAnswer(#[source] FrameError),
    /// The answer is not understood.
    #[error("turnpike-agent's answer is not understood: {0}")]
    Protocol(#[source] FrameError),
}

/// One connection, good for one request.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the agent.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { socket: socket.to_owned(), source };
        Ok(Self { stream: UnixStream::connect(socket).map_err(unreachable)? })
    }

    /// Asks for the stream of events; the answer's lines are read from what this returns.
    ///
    /// # Errors
    /// The request could not be sent.
    pub fn events(self, since: Option<u64>, watch: bool) -> Result<BufReader<UnixStream>, ClientError> {
        write_frame(&self.stream, &Request::Events { since, watch }, &[]).map_err(ClientError::NoAnswer)?;
        Ok(BufReader::new(self.stream))
    }

    /// Asks, and waits up to `timeout` for the answer.
    ///
    /// # Errors
    /// See [`ClientError`]; the agent's own refusal is a [`Reply::Error`].
    pub fn request(
        self,
        request: &Request,
        files: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<Reply, ClientError> {
        let set_up = self
            .stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| self.stream.set_write_timeout(Some(timeout)));
        set_up.map_err(|error| ClientError::NoAnswer(error.into()))?;
        write_frame(&self.stream, request, files).map_err(ClientError::NoAnswer)?;
        match Receiver::new().read_frame(&self.stream) {
            Ok((reply, _)) => Ok(reply),
            Err(error @ (FrameError::Io(_) | FrameError::Truncated)) => Err(ClientError::NoAnswer(error)),
            Err(error) => Err(ClientError::Protocol(error)),
        }
    }
}
