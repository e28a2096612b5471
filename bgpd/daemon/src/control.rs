//! The control socket: for root only, one request and one reply at a time on each connection.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};
use turnpike_bgpd_api::view::{Caller, EventView};
use turnpike_bgpd_api::{Code, ErrorReply, FrameError, MAX_FRAME, Reply, Request, decode, encode};

/// Events that may wait for one watcher; what comes on top is counted.
const WATCHER_QUEUE: usize = 4096;

/// A request on its way to the engine.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Reply>,
    /// Who asks, as far as it is a process on the control socket.
    pub(crate) caller: Option<Caller>,
    /// Where events go that a [`Request::Watch`] asks for.
    pub(crate) events: Option<mpsc::Sender<EventView>>,
}

/// Asks the engine; `None` when it is gone.
pub(crate) async fn ask(engine: &mpsc::Sender<Ask>, request: Request) -> Option<Reply> {
    ask_as(engine, request, None, None).await
}

async fn ask_as(
    engine: &mpsc::Sender<Ask>,
    request: Request,
    caller: Option<Caller>,
    events: Option<mpsc::Sender<EventView>>,
) -> Option<Reply> {
    let (reply, answer) = oneshot::channel();
    engine.send(Ask { request, reply, caller, events }).await.ok()?;
    answer.await.ok()
}

/// Who is at the other end, as the kernel says.
fn caller(credentials: UCred) -> Caller {
    let of_process = |file: &str| {
        let path = format!("/proc/{}/{file}", credentials.pid()?);
        Some(fs::read_to_string(path).ok()?.trim().to_owned())
    };
    // The kernel's word for nobody is all ones.
    let login = of_process("loginuid").and_then(|text| text.parse().ok()).filter(|uid| *uid != u32::MAX);
    Caller {
        uid: credentials.uid(),
        pid: credentials.pid(),
        login_uid: login,
        program: of_process("comm").unwrap_or_default(),
    }
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
    let credentials = stream.peer_cred().ok();
    let trusted = credentials.filter(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
    let Some(credentials) = trusted else {
        warn!("refused a caller of the control socket that is not root");
        return;
    };
    let caller = caller(credentials);
    loop {
        let (mut events, mut sender) = (None, None);
        let reply = match read(&mut stream).await {
            Ok(request) => {
                if request == Request::Watch {
                    let (queue, waiting) = mpsc::channel(WATCHER_QUEUE);
                    (events, sender) = (Some(waiting), Some(queue));
                }
                match ask_as(&engine, request, Some(caller.clone()), sender).await {
                    Some(reply) => reply,
                    None => return,
                }
            }
            Err(FrameError::Io(_)) => return,
            Err(error) => refuse(&error),
        };
        let last = matches!(reply, Reply::Error(ErrorReply { code: Code::BadRequest, .. }));
        if !write(&mut stream, &reply).await || last {
            return;
        }
        if let Some(events) = events {
            return forward(stream, events).await;
        }
    }
}

/// Hands events on until either side has gone.
async fn forward(mut stream: UnixStream, mut events: mpsc::Receiver<EventView>) {
    let mut nothing = [0; 1];
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            // A watcher has nothing more to say: whatever comes is its end.
            _ = stream.read(&mut nothing) => return,
        };
        let Some(event) = event else { return };
        if !write(&mut stream, &Reply::Event(Box::new(event))).await {
            return;
        }
    }
}

async fn write(stream: &mut UnixStream, reply: &Reply) -> bool {
    let bytes = encode(reply).or_else(|error| encode(&refuse(&error)));
    let Ok(bytes) = bytes else { return false };
    match stream.write_all(&bytes).await {
        Ok(()) => true,
        Err(error) => {
            debug!(%error, "caller left without its reply");
            false
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
