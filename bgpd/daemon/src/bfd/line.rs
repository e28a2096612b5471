//! The line to turnpike-bfdd.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use turnpike_bgpd_api::bfd::{BfdReply, BfdRequest, BfdSpec, BfdView};
use turnpike_bgpd_api::{MAX_FRAME, Prefix, decode, encode};

use super::OWNER;

/// Wait between attempts to reach bfdd.
const RETRY: Duration = Duration::from_millis(500);

/// What comes over the line, and from the clock.
#[derive(Debug)]
pub(crate) enum News {
    /// All our sessions.
    All(Vec<BfdView>),
    /// One of them has changed.
    One(Box<BfdView>),
    /// There is no line, and why.
    Lost(String),
    /// Peers from before our restart have had their time to come back.
    KeptLongEnough,
    /// A failed path has been held against a peer for long enough.
    HeldLongEnough {
        /// Which.
        peer: IpAddr,
        /// The number of the failure.
        failure: u64,
    },
}

/// What bfdd is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) sessions: Vec<BfdSpec>,
    /// As [`BfdRequest::Declare`] has it.
    pub(super) keep: Vec<Prefix>,
}

type Wishes = watch::Receiver<Option<Wanted>>;

/// Declares what is wanted whenever that changes or bfdd has restarted; ends with the engine. While nothing was
/// wanted yet nothing is said: sessions from before our own restart go on.
pub(super) async fn keep(socket: PathBuf, mut wanted: Wishes, news: mpsc::Sender<News>) {
    if wanted.wait_for(Option::is_some).await.is_err() {
        return;
    }
    loop {
        let lost = match converse(&socket, &mut wanted, &news).await {
            Ok(()) => return,
            Err(error) => format!("turnpike-bfdd at {}: {error}", socket.display()),
        };
        if news.send(News::Lost(lost)).await.is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One connection, until it fails; `Ok` when the engine is gone.
async fn converse(socket: &Path, wanted: &mut Wishes, news: &mpsc::Sender<News>) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    wanted.mark_changed();
    let mut input = Vec::new();
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let Some(Wanted { sessions, keep }) = wanted.borrow_and_update().clone() else { continue };
                let declare = BfdRequest::Declare { owner: OWNER.to_owned(), sessions, keep };
                stream.write_all(&encode(&declare).map_err(io::Error::other)?).await?;
            }
            ready = stream.readable() => {
                ready?;
                read(&stream, &mut input)?;
                while let Some(reply) = next(&mut input)? {
                    if news.send(understand(reply)?).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn understand(reply: BfdReply) -> io::Result<News> {
    match reply {
        BfdReply::Declared { sessions } => Ok(News::All(sessions)),
        BfdReply::Changed { session } => Ok(News::One(session)),
        BfdReply::Error(error) => Err(io::Error::other(error)),
        BfdReply::Sessions { .. } => Err(io::Error::other("an answer to another question")),
    }
}

fn read(stream: &UnixStream, input: &mut Vec<u8>) -> io::Result<()> {
    match stream.try_read_buf(input) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// The next whole reply.
fn next(input: &mut Vec<u8>) -> io::Result<Option<BfdReply>> {
    let Some(header) = input.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(io::Error::other("a frame is too long"));
    }
    let Some(content) = input.get(4..4 + length) else { return Ok(None) };
    let reply = decode(content).map_err(io::Error::other)?;
    input.drain(..4 + length);
    Ok(Some(reply))
}
