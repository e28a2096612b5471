//! A stream of 1000 packets a second, each of which must arrive.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use turnpike_testbed::Node;

/// Between two packets.
const PERIOD: Duration = Duration::from_millis(1);
/// After the last packet was sent, how long the network may take to deliver it.
const LAST: Duration = Duration::from_secs(2);
/// However short the test, so many are sent.
const LEAST: u64 = 500;
const PORT: u16 = 9000;

/// A running stream.
pub(crate) struct Stream {
    name: String,
    over: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<BTreeSet<u64>>>,
}

impl Stream {
    /// Sends from an address of one node to an address of another, until finished.
    pub(crate) fn start(from: &Node, source: &str, to: &Node, target: &str) -> Result<Self> {
        let target = SocketAddr::new(target.parse()?, PORT);
        let input = to.in_netns(|| UdpSocket::bind(target))?.context("bind the receiver")?;
        input.set_read_timeout(Some(Duration::from_millis(100)))?;
        let source = SocketAddr::new(source.parse()?, 0);
        let output = from.in_netns(|| UdpSocket::bind(source))?.context("bind the sender")?;
        output.connect(target)?;
        let over = Arc::new(AtomicBool::new(false));
        let (sending, receiving) = (over.clone(), over.clone());
        Ok(Self {
            name: format!("{source} to {target}"),
            over,
            sender: std::thread::spawn(move || send(&output, &sending)),
            receiver: std::thread::spawn(move || receive(&input, &receiving)),
        })
    }

    /// Ends it: packets sent, and those that did not arrive.
    pub(crate) fn finish(self) -> Result<(u64, Vec<u64>)> {
        self.over.store(true, Ordering::Relaxed);
        let sent = self.sender.join().map_err(|_| anyhow!("the sender of {} panicked", self.name))??;
        let received =
            self.receiver.join().map_err(|_| anyhow!("the receiver of {} panicked", self.name))??;
        Ok((sent, (0..sent).filter(|number| !received.contains(number)).collect()))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

fn send(socket: &UdpSocket, over: &AtomicBool) -> Result<u64> {
    let start = Instant::now();
    let mut sent = 0u64;
    while !over.load(Ordering::Relaxed) || sent < LEAST {
        // A packet that this host itself cannot send is as lost as any other.
        let _ = socket.send(&sent.to_be_bytes());
        sent += 1;
        let due = start + PERIOD * u32::try_from(sent)?;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, over: &AtomicBool) -> Result<BTreeSet<u64>> {
    let mut received = BTreeSet::new();
    let mut quiet_since: Option<Instant> = None;
    let mut packet = [0; 8];
    loop {
        if socket.recv(&mut packet).is_ok() {
            received.insert(u64::from_be_bytes(packet));
            quiet_since = None;
        } else if over.load(Ordering::Relaxed)
            && quiet_since.get_or_insert_with(Instant::now).elapsed() > LAST
        {
            return Ok(received);
        }
    }
}
