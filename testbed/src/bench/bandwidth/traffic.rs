//! One transfer: what flows, what arrives, what is sent twice, and how long a ping takes meanwhile.
//!
//! Own senders and not iperf3: bytes count where they arrive, so that no socket buffer passes for goodput, and the first
//! second is the flows' own, without a program's start in it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::pod;
use super::cases::{Case, Traffic};
use crate::Node;

const PORT: u16 = 5300;
/// Of a full frame of 1514 bytes: what TCP with timestamps and UDP carry.
const TCP_SHARE: f64 = 1448.0 / 1514.0;
const UDP_SHARE: f64 = 1472.0 / 1514.0;
const DATAGRAM: usize = 1472;
const BURST_EVERY: Duration = Duration::from_millis(1);
const CONNECT: Duration = Duration::from_secs(10);

/// How long to measure what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spans {
    /// From here on to the end: goodput, fairness, pings.
    pub(super) settled: Duration,
    /// From the beginning to here: overshoot. Not before `settled`.
    pub(super) first: Duration,
    /// The end.
    pub(super) whole: Duration,
}

/// Where a socket is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    Node(&'a Node),
    /// The pod of that node.
    Pod(&'a Node),
}

impl Place<'_> {
    fn within<T: Send>(self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self {
            Self::Node(node) => node.in_netns(work)?,
            Self::Pod(node) => pod::in_pod(node, work)?,
        }
    }

    pub(super) fn udp(self, at: SocketAddr) -> Result<UdpSocket> {
        self.within(|| Ok(UdpSocket::bind(at)?))
    }

    /// TCP segments sent, and those among them that were sent again.
    fn segments(self) -> Result<(u64, u64)> {
        let text = self.within(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
        let of = |wanted: &str| -> Result<u64> {
            let mut both = names.split(' ').zip(values.split(' '));
            let (_, value) = both.find(|(name, _)| *name == wanted).context("a TCP counter")?;
            Ok(value.parse()?)
        };
        let again = of("RetransSegs")?;
        Ok((of("OutSegs")? + again, again))
    }

    /// Round trips in milliseconds, one each 10 ms.
    fn ping(self, to: IpAddr, count: u128) -> Result<Vec<f64>> {
        let (to, count) = (to.to_string(), count.to_string());
        let argv = ["ping", "-n", "-i", "0.01", "-W", "2", "-c", &count, &to];
        let output = match self {
            Self::Node(node) => node.run_unchecked(&argv)?,
            Self::Pod(node) => {
                node.run_unchecked(&[&["ip", "netns", "exec", "pod"], argv.as_slice()].concat())?
            }
        };
        // Lost ones make it exit with an error: they are not counted.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok())
            .collect())
    }
}

/// What came of a transfer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// Percent of what the limit lets through, once it has settled.
    pub(super) goodput: f64,
    /// The same in the first second.
    pub(super) first: f64,
    /// Percent of all segments; UDP sends none again.
    pub(super) again: Option<f64>,
    /// Median of pings in milliseconds; `None` when none came back.
    pub(super) ping: Option<f64>,
    /// Jain's index; `None` for one flow.
    pub(super) jain: Option<f64>,
}

impl Outcome {
    pub(super) fn without_idle(self, idle: f64) -> Self {
        Self { ping: self.ping.map(|ping| ping - idle), ..self }
    }
}

/// The median round trip while nothing flows, in milliseconds.
pub(super) fn idle_round_trip(from: Place<'_>, to: IpAddr) -> Result<f64> {
    median(from.ping(to, 30)?).with_context(|| format!("{to} does not answer"))
}

pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Bytes that arrived of each flow.
type Counts = Vec<AtomicU64>;

/// Lets traffic flow for so long.
pub(super) fn transfer(
    case: &Case,
    from: Place<'_>,
    at: Place<'_>,
    to: IpAddr,
    spans: Spans,
) -> Result<Outcome> {
    let counts: Counts = (0..case.flows).map(|_| AtomicU64::new(0)).collect();
    let over = AtomicBool::new(false);
    let before = from.segments()?;
    let measured = match case.traffic {
        Traffic::Udp => {
            let pairs = (0..case.flows).map(|_| udp_pair(from, at, to)).collect::<Result<Vec<_>>>()?;
            let (senders, receivers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            thread::scope(|scope| {
                let begun = Instant::now();
                scope.spawn(|| flood(&senders, case.mbit, &over));
                for (receiver, count) in receivers.iter().zip(&counts) {
                    scope.spawn(|| take_datagrams(receiver, count, &over));
                }
                let measured = watch(&counts, begun, spans, || from.ping(to, pings(spans)));
                over.store(true, Ordering::Relaxed);
                measured
            })?
        }
        Traffic::Cubic | Traffic::Bbr => {
            let pairs = tcp_pairs(case, from, at, to)?;
            thread::scope(|scope| {
                let begun = Instant::now();
                for ((sender, receiver), count) in pairs.iter().zip(&counts) {
                    scope.spawn(|| push(sender));
                    scope.spawn(|| take(receiver, count));
                }
                let measured = watch(&counts, begun, spans, || from.ping(to, pings(spans)));
                for stream in pairs.iter().flat_map(|(sender, receiver)| [sender, receiver]) {
                    // It wakes the thread that sends or receives; one that has ended already is as good.
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                }
                measured
            })?
        }
    };
    let after = from.segments()?;
    Ok(measured.outcome(case, (after.0 - before.0, after.1 - before.1)))
}

/// As many as fit in; those at the end come back after it.
fn pings(spans: Spans) -> u128 {
    (spans.whole - spans.settled).as_millis() / 10
}

struct Measured {
    first: (f64, Duration),
    steady: (Vec<f64>, Duration),
    pings: Vec<f64>,
}

impl Measured {
    fn outcome(self, case: &Case, (sent, again): (u64, u64)) -> Outcome {
        let tcp = case.traffic != Traffic::Udp;
        let share = if tcp { TCP_SHARE } else { UDP_SHARE };
        let possible = case.mbit as f64 * 1e6 / 8.0 * share;
        let percent = |bytes: f64, time: Duration| bytes / time.as_secs_f64() / possible * 100.0;
        let (flows, time) = self.steady;
        let sum: f64 = flows.iter().sum();
        let squares: f64 = flows.iter().map(|bytes| bytes * bytes).sum();
        Outcome {
            goodput: percent(sum, time),
            first: percent(self.first.0, self.first.1),
            again: tcp.then(|| again as f64 / sent.max(1) as f64 * 100.0),
            ping: median(self.pings),
            jain: (flows.len() > 1).then(|| sum * sum / (flows.len() as f64 * squares)),
        }
    }
}

/// Reads the counts at the end of each span, and pings from `settled` on.
fn watch(
    counts: &Counts,
    begun: Instant,
    spans: Spans,
    ping: impl FnOnce() -> Result<Vec<f64>> + Send,
) -> Result<Measured> {
    let look = || -> (Vec<f64>, Instant) {
        let bytes = counts.iter().map(|count| count.load(Ordering::Relaxed) as f64);
        (bytes.collect(), Instant::now())
    };
    let sleep_until = |span: Duration| thread::sleep(span.saturating_sub(begun.elapsed()));
    sleep_until(spans.settled);
    let (early, settled) = look();
    thread::scope(|scope| {
        let pings = scope.spawn(ping);
        sleep_until(spans.first);
        let (middle, first) = look();
        sleep_until(spans.whole);
        let (late, ended) = look();
        let steady = late.iter().zip(&early).map(|(late, early)| late - early).collect();
        Ok(Measured {
            first: (middle.iter().sum(), first - begun),
            steady: (steady, ended - settled),
            pings: pings.join().map_err(|_| anyhow!("the pinging thread panicked"))??,
        })
    })
}

/// Connected streams, sender and receiver.
fn tcp_pairs(case: &Case, from: Place<'_>, at: Place<'_>, to: IpAddr) -> Result<Vec<(TcpStream, TcpStream)>> {
    let address = SocketAddr::new(to, PORT);
    let listener = at.within(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(64)?;
        Ok(socket)
    })?;
    let connect = || -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_congestion(case.traffic.name().as_bytes())?;
        // What waits when the measurement ends shall not flow through the next one.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.connect_timeout(&address.into(), CONNECT)?;
        Ok(socket.into())
    };
    let senders = from.within(|| (0..case.flows).map(|_| connect()).collect::<Result<Vec<_>>>())?;
    senders.into_iter().map(|sender| Ok((sender, listener.accept()?.0.into()))).collect()
}

fn push(mut stream: &TcpStream) {
    let block = vec![7; 128 << 10];
    while stream.write_all(&block).is_ok() {}
}

fn take(mut stream: &TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
}

fn udp_pair(from: Place<'_>, at: Place<'_>, to: IpAddr) -> Result<(UdpSocket, UdpSocket)> {
    let receiver = at.udp(SocketAddr::new(to, 0))?;
    receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
    let sender = from.udp((std::net::Ipv4Addr::UNSPECIFIED, 0).into())?;
    sender.connect(receiver.local_addr()?)?;
    Ok((sender, receiver))
}

/// Sends a fifth more than the limit, from all sockets in turn.
fn flood(senders: &[UdpSocket], mbit: u64, over: &AtomicBool) {
    let rate = mbit as f64 * 1e6 / 8.0 * 1.2;
    let (begun, mut sent) = (Instant::now(), 0.0);
    for sender in senders.iter().cycle() {
        // A sender that has to wait for the queue never gets ahead of itself.
        if over.load(Ordering::Relaxed) {
            return;
        }
        while sent > begun.elapsed().as_secs_f64() * rate {
            if over.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(BURST_EVERY);
        }
        // What does not go out is what the limiter refused.
        let _ = sender.send(&[7; DATAGRAM]);
        sent += 1514.0;
    }
}

fn take_datagrams(receiver: &UdpSocket, count: &AtomicU64, over: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        // A timeout gives the chance to end.
        if let Ok(length) = receiver.recv(&mut buffer) {
            count.fetch_add(length as u64, Ordering::Relaxed);
        }
    }
}
