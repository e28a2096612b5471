//! The control socket: for root only, frames as in `turnpike-bgpd-api`. Nothing in here blocks.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use tracing::{debug, warn};
use turnpike_bgpd_api::bfd::{BfdReply, BfdRequest};
use turnpike_bgpd_api::{Code, ErrorReply, decode, encode};

/// Longest request: some ten thousand sessions.
const LONGEST: usize = 4 << 20;
/// A caller that leaves so much unread is dropped.
const MOST_UNREAD: usize = 4 << 20;
/// Callers at a time.
const MOST_CALLERS: usize = 64;

/// A caller, by a number that is never used again.
pub(crate) type Caller = u64;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    listener: UnixListener,
    callers: BTreeMap<Caller, Line>,
    so_far: u64,
}

#[derive(Debug)]
struct Line {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// What a caller did.
#[derive(Debug)]
pub(crate) enum Call {
    /// It asks.
    Request(BfdRequest),
    /// It has gone.
    Gone,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Control {
    /// Opens the socket (mode 0600). A file that a killed predecessor left is replaced, a living predecessor's is
    /// not.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        match UnixStream::connect(path) {
            Ok(_) => bail!("another turnpike-bfdd answers at {}", path.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => {
                fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
            }
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.with_context(|| format!("cannot listen on {}", path.display()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { path: path.to_owned(), listener, callers: BTreeMap::new(), so_far: 0 })
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Every caller's descriptor, and whether something waits to be written to it.
    pub(crate) fn callers(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        self.callers.values().map(|line| (line.stream.as_fd(), !line.output.is_empty()))
    }

    /// Moves bytes in both directions; what callers did.
    pub(crate) fn work(&mut self) -> Vec<(Caller, Call)> {
        self.accept();
        let mut calls = Vec::new();
        for (caller, line) in &mut self.callers {
            let alive = line.write().and_then(|()| line.read()).and_then(|open| {
                while let Some(request) = line.next_request()? {
                    calls.push((*caller, Call::Request(request)));
                }
                Ok(open)
            });
            match alive {
                Ok(true) => {}
                Ok(false) => calls.push((*caller, Call::Gone)),
                Err(error) => {
                    debug!(%error, "caller dropped");
                    calls.push((*caller, Call::Gone));
                }
            }
        }
        for (caller, _) in calls.iter().filter(|(_, call)| matches!(call, Call::Gone)) {
            self.callers.remove(caller);
        }
        calls
    }

    /// Sends to a caller, as soon as it reads.
    pub(crate) fn send(&mut self, caller: Caller, reply: &BfdReply) {
        let Some(line) = self.callers.get_mut(&caller) else { return };
        match encode(reply) {
            Ok(bytes) => line.output.extend(bytes),
            Err(error) => warn!(%error, "a reply cannot be written"),
        }
        // What fails here fails again, and is dealt with, in `work`.
        let _ = line.write();
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    warn!(%error, "cannot accept on the control socket");
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: UnixStream) {
        let trusted = getsockopt(&stream, sockopt::PeerCredentials)
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
        if !trusted {
            warn!("refused a caller of the control socket that is not root");
            return;
        }
        if self.callers.len() >= MOST_CALLERS || stream.set_nonblocking(true).is_err() {
            warn!("too many callers of the control socket");
            return;
        }
        self.so_far += 1;
        self.callers.insert(self.so_far, Line { stream, input: Vec::new(), output: Vec::new() });
    }
}

impl Line {
    fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.output.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.output.len() > MOST_UNREAD {
            return Err(io::Error::new(ErrorKind::TimedOut, "it does not read"));
        }
        Ok(())
    }

    /// Reads what there is; false at the end.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => {
                    self.input.extend_from_slice(buffer.get(..length).unwrap_or_default());
                    if self.input.len() > LONGEST {
                        return Err(io::Error::new(ErrorKind::InvalidData, "its request is too long"));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next whole request; an error ends the connection, with the reason told.
    fn next_request(&mut self) -> io::Result<Option<BfdRequest>> {
        let Some(header) = self.input.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(io::Error::new(ErrorKind::InvalidData, "its request is too long"));
        }
        let Some(content) = self.input.get(4..4 + length) else { return Ok(None) };
        let request = decode(content);
        self.input.drain(..4 + length);
        request.map(Some).map_err(|error| {
            let refusal = ErrorReply { code: Code::BadRequest, message: error.to_string() };
            if let Ok(bytes) = encode(&BfdReply::Error(refusal)) {
                self.output.extend(bytes);
                let _ = self.write();
            }
            io::Error::new(ErrorKind::InvalidData, error)
        })
    }
}
