//! The control socket: one line of JSON in, one line out, then the connection ends.

use std::{
    fs, io,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::stats::{Request, Response};

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request of thousands of services fits; a runaway writer does not.
const MAX_REQUEST: u64 = 4 << 20;

/// A request that waits for the packet loop.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) reply: mpsc::Sender<Response>,
}

/// The packet loop's end of the control socket.
pub(super) struct Control {
    pub(super) jobs: mpsc::Receiver<Job>,
    /// Readable when a job has come.
    pub(super) wake: UnixStream,
}

impl Control {
    /// Listens on `path`, for root only, on a thread of its own that ends with the process.
    pub(super) fn listen(path: &Path) -> Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context("stale control socket");
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let (sender, jobs) = mpsc::channel();
        thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming() {
                if let Err(error) =
                    stream.map_err(Into::into).and_then(|stream| answer(stream, &sender, &waker))
                {
                    tracing::debug!(error = %format_args!("{error:#}"), "control connection ended");
                }
            }
        })?;
        Ok(Self { jobs, wake })
    }

    /// Makes `wake` unreadable again.
    pub(super) fn drain(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.wake).read(&mut bytes), Ok(1..)) {}
    }
}

fn answer(mut stream: UnixStream, jobs: &mpsc::Sender<Job>, waker: &UnixStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(&stream).take(MAX_REQUEST).read_line(&mut line)?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => {
            let (reply, answered) = mpsc::channel();
            jobs.send(Job { request, reply })?;
            match (&*waker).write(&[1]) {
                // Full means that enough wake-ups are on their way.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                _ => {}
            }
            answered.recv_timeout(PATIENCE)?
        }
        Err(error) => Response::Refused(error.to_string()),
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    Ok(())
}

/// Asks the director behind `path`.
pub(super) fn ask(path: &Path, request: &Request) -> Result<Response> {
    let mut stream = UnixStream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line).context("read the director's answer")? {
        Response::Refused(reason) => bail!("the director refuses: {reason}"),
        response => Ok(response),
    }
}
