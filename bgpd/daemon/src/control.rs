//! The control socket: for root only, one request and one reply at a time on each connection.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};
use turnpike_bgpd_api::{Code, ErrorReply, FrameError, MAX_FRAME, Reply, Request, decode, encode};

/// A request on its way to the engine.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// Asks the engine; `None` when it is gone.
pub(crate) async fn ask(engine: &mpsc::Sender<Ask>, request: Request) -> Option<Reply> {
    let (reply, answer) = oneshot::channel();
    engine.send(Ask { request, reply }).await.ok()?;
    answer.await.ok()
}

/// The socket's file, removed when the daemon ends.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens the socket (mode 0600) and serves it. A file that a killed predecessor left is replaced, a living
/// predecessor's is not.
pub(crate) fn serve(path: &Path, engine: mpsc::Sender<Ask>) -> Result<SocketFile> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("another turnpike-bgpd answers at {}", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?,
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.with_context(|| format!("cannot listen on {}", path.display()))?;
    tokio::spawn(accept(listener, engine));
    Ok(SocketFile(path.to_owned()))
}

async fn accept(listener: UnixListener, engine: mpsc::Sender<Ask>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, engine.clone()));
            }
            Err(error) => {
                warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, engine: mpsc::Sender<Ask>) {
    let trusted = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
    if !trusted {
        warn!("refused a caller of the control socket that is not root");
        return;
    }
    loop {
        let reply = match read(&mut stream).await {
            Ok(request) => match ask(&engine, request).await {
                Some(reply) => reply,
                None => return,
            },
            Err(FrameError::Io(_)) => return,
            Err(error) => refuse(&error),
        };
        let last = matches!(reply, Reply::Error(ErrorReply { code: Code::BadRequest, .. }));
        let bytes = encode(&reply).or_else(|error| encode(&refuse(&error)));
        let Ok(bytes) = bytes else { return };
        if let Err(error) = stream.write_all(&bytes).await {
            debug!(%error, "caller left without its reply");
            return;
        }
        if last {
            return;
        }
    }
}

fn refuse(error: &FrameError) -> Reply {
    Reply::Error(ErrorReply { code: Code::BadRequest, message: error.to_string() })
}

async fn read(stream: &mut UnixStream) -> Result<Request, FrameError> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await?;
    decode(&content)
}
