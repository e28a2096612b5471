//! The connection with one BMP station: made again and again, written to, and otherwise only watched for its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::ROOM;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// First wait before another attempt; doubled with each failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait (RFC 7854 §3.2 speaks of backing off).
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A connection that has lived so long makes up for failures before it.
const GOOD_LIFE: Duration = Duration::from_secs(60);
/// How long last words may take.
const LINGER: Duration = Duration::from_secs(2);
/// Octets written at one go.
const GULP: usize = 64 * 1024;

/// What the engine should know of.
#[derive(Debug)]
pub(crate) enum News {
    /// A station can be told everything from the beginning.
    Connected {
        /// Which.
        station: SocketAddr,
        /// What is put here is sent; dropping it ends the connection.
        queue: mpsc::UnboundedSender<Bytes>,
        /// Octets in the queue: the engine adds, the task takes away.
        queued: Arc<AtomicUsize>,
    },
    /// The connection has ended, or was not to be had.
    Lost {
        /// Which.
        station: SocketAddr,
        /// Why, in words.
        problem: String,
    },
    /// Some queue has room again.
    Room,
}

/// Serves a station until the engine has gone, or does not want it any more.
pub(super) async fn run(station: SocketAddr, news: mpsc::UnboundedSender<News>, gone: Arc<AtomicBool>) {
    let mut wait = FIRST_WAIT;
    loop {
        let begun = Instant::now();
        let problem = match timeout(CONNECT_TIMEOUT, TcpStream::connect(station)).await {
            Err(_) => "it does not answer".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(stream)) => {
                let (queue, messages) = mpsc::unbounded_channel();
                let queued = Arc::new(AtomicUsize::new(0));
                let connected = News::Connected { station, queue, queued: Arc::clone(&queued) };
                if news.send(connected).is_err() {
                    return;
                }
                pump(stream, messages, &queued, &news).await
            }
        };
        wait = if begun.elapsed() >= GOOD_LIFE { FIRST_WAIT } else { wait };
        if gone.load(Ordering::Relaxed) {
            return;
        }
        if news.send(News::Lost { station, problem }).is_err() {
            return;
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Writes what is queued; answers why it ended.
async fn pump(
    stream: TcpStream,
    mut messages: mpsc::UnboundedReceiver<Bytes>,
    queued: &AtomicUsize,
    news: &mpsc::UnboundedSender<News>,
) -> String {
    let (mut from, mut to) = stream.into_split();
    let mut ignored = [0; 512];
    let mut buffer = BytesMut::new();
    let (closed, mut closing) = mpsc::channel::<()>(1);
    // Ends with the engine's end of the queue, also while a write hangs.
    let (forward, mut pieces) = mpsc::channel::<Bytes>(1);
    let relay = async move {
        let _closed = closed;
        while let Some(bytes) = messages.recv().await {
            buffer.extend_from_slice(&bytes);
            while buffer.len() < GULP
                && let Ok(more) = messages.try_recv()
            {
                buffer.extend_from_slice(&more);
            }
            if forward.send(buffer.split().freeze()).await.is_err() {
                return;
            }
        }
    };
    let write = async {
        while let Some(piece) = pieces.recv().await {
            if let Err(error) = to.write_all(&piece).await {
                return error.to_string();
            }
            let before = queued.fetch_sub(piece.len(), Ordering::Relaxed);
            if before >= ROOM && before - piece.len() < ROOM {
                // An engine that has gone needs no room.
                let _ = news.send(News::Room);
            }
        }
        let _ = to.shutdown().await;
        "closed by us".to_owned()
    };
    let read = async {
        loop {
            // Stations have nothing to say (RFC 7854 §3.2).
            match from.read(&mut ignored).await {
                Ok(0) => return "the station has closed the connection".to_owned(),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    };
    let over = async {
        // The relay ends when the queue does.
        let _ = closing.recv().await;
        sleep(LINGER).await;
        "closed by us: it did not keep up".to_owned()
    };
    let relay = async {
        relay.await;
        std::future::pending::<String>().await
    };
    tokio::select! {
        problem = write => problem,
        problem = read => problem,
        problem = over => problem,
        problem = relay => problem,
    }
}
