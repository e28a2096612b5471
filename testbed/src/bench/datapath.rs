//! The load-balancer bypass beside plain forwarding, conntrack with a kube-like rule set, and that with raw notrack.
//!
//! ```text
//!   director ─┬─ 10.1.0.0/24 ─ ours   (turnpike-agent) ─ pod
//!             ├─ 10.1.1.0/24 ─ plain  (routes alone)   ─ pod
//!             ├─ 10.1.2.0/24 ─ kube   (500 Services)   ─ pod
//!             ├─ 10.1.3.0/24 ─ raw    (kube + notrack) ─ pod
//!             └─ 10.1.4.0/24 ─ none   (drops at once)  ─ pod
//! ```
//! A pinned sender's packets are forwarded on its own CPU, in the send call. Datagrams of one port are dropped by a rule on
//! the link where they arrive, in the pod or at the director; at "none" by the same rule where the node would begin. The
//! difference is the node's cost. Those of the other port go on to a socket. The least of many alternating runs counts,
//! because whatever else runs on the machine only adds.

mod programs;
mod ways;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use self::ways::{Way, build};
use super::rows::{Comparison, tell};
use super::{Options, pod};
use crate::{Lab, Node};

const RUNS: usize = 15;
const FULL_RUNS: usize = 51;
/// Connections of one run.
const CONNECTIONS: u32 = 200;
pub(super) const UDP_PORT: u16 = 9000;
/// Datagrams from or to this port are dropped on the link where they arrive.
pub(super) const SINK_PORT: u16 = 9001;
pub(super) const TCP_PORT: u16 = 80;

/// The least time of each measurement, in nanoseconds for one packet or connection.
#[derive(Debug, Clone, Copy)]
struct Least {
    to_link: f64,
    from_link: f64,
    to_socket: f64,
    from_socket: f64,
    exchange: f64,
}

impl Default for Least {
    fn default() -> Self {
        let more = f64::INFINITY;
        Self { to_link: more, from_link: more, to_socket: more, from_socket: more, exchange: more }
    }
}

pub(super) fn run(options: &Options) -> Result<()> {
    let runs = options.runs.unwrap_or(if options.full { FULL_RUNS } else { RUNS });
    let lab = Lab::new("bench-datapath")?;
    let director = lab.node("director")?;
    let ways = build(&lab, &director)?;
    let mut least = vec![Least::default(); ways.len()];
    for _ in 0..runs {
        for (way, least) in ways.iter().zip(&mut least) {
            let cost = |port, to_pod| datagrams(&director, way, port, to_pod);
            least.to_link = least.to_link.min(cost(SINK_PORT, true)?);
            least.from_link = least.from_link.min(cost(SINK_PORT, false)?);
            if way.forwards {
                least.to_socket = least.to_socket.min(cost(UDP_PORT, true)?);
                least.from_socket = least.from_socket.min(cost(UDP_PORT, false)?);
                least.exchange = least.exchange.min(exchanges(&director, way)?);
            }
        }
    }
    let mut rows = compare(&ways, &least)?;
    rows.extend(own_programs(&director, &ways, &least, runs)?);
    tell(
        &format!("Load-balancer traffic, the least of {runs} alternating runs"),
        &rows,
        options.json.as_deref(),
    )?;
    drop(ways);
    lab.finish()
}

fn compare(ways: &[Way], least: &[Least]) -> Result<Vec<Comparison>> {
    let none = ways.iter().zip(least).find(|(way, _)| !way.forwards).map(|(_, least)| *least);
    let none = none.context("a way that drops")?;
    let [ours, peers @ ..] = ways else { anyhow::bail!("no ways") };
    let own = least.first().copied().unwrap_or_default();
    let mut rows = Vec::new();
    for (way, peer) in peers.iter().zip(least.iter().skip(1)).filter(|(way, _)| way.forwards) {
        let mut put = |case: &str, metric: &str, ours: f64, value: f64| {
            rows.push(Comparison::new(case, metric, ours, way.name, value));
        };
        let unit = "ns a packet";
        let (to, from) = (none.to_link, none.from_link);
        put("UDP 64 B to the pod's link", unit, own.to_link - to, peer.to_link - to);
        put(
            "UDP 64 B from the pod, to the director's link",
            unit,
            own.from_link - from,
            peer.from_link - from,
        );
        put("UDP 64 B to a socket in the pod", unit, own.to_socket - to, peer.to_socket - to);
        put("UDP 64 B from the pod, to a socket", unit, own.from_socket - from, peer.from_socket - from);
        put("connect, request, answer, close", "µs", own.exchange / 1e3, peer.exchange / 1e3);
        let tracked = way.tracked()?;
        if tracked > 0.0 {
            put("conntrack", "entries afterwards", ours.tracked()?, tracked);
        }
    }
    Ok(rows)
}

/// What of our way is the program itself, with the kernel's own count of it. Separate runs: counting costs, too.
fn own_programs(director: &Node, ways: &[Way], least: &[Least], runs: usize) -> Result<Vec<Comparison>> {
    let none = ways.iter().zip(least).find(|(way, _)| !way.forwards).map(|(_, least)| *least);
    let (Some(none), Some(way), Some(whole)) = (none, ways.first(), least.first()) else {
        anyhow::bail!("no ways");
    };
    let pid = way.agent_pid().context("our agent")?;
    let _counting = programs::Counting::start()?;
    let mut rows = Vec::new();
    for (to_pod, case, whole) in [
        (true, "of that to the pod's link: our program", whole.to_link - none.to_link),
        (false, "of that from the pod: our program", whole.from_link - none.from_link),
    ] {
        let mut own = f64::INFINITY;
        for _ in 0..runs {
            let before = programs::times(pid)?;
            datagrams(director, way, SINK_PORT, to_pod)?;
            let took = programs::busiest(&before, &programs::times(pid)?);
            own = own.min(took.context("no program of the agent has run")?);
        }
        rows.push(Comparison::new(case, "ns a packet", own, "whole", whole));
    }
    Ok(rows)
}

/// Nanoseconds of one send call, towards the pod or from it.
fn datagrams(director: &Node, way: &Way, port: u16, to_pod: bool) -> Result<f64> {
    let (pod, balancer) = (SocketAddr::new(way.pod, port), SocketAddr::new(way.director, 4000));
    let at_pod = way.in_pod(|| UdpSocket::bind(pod))??;
    let at_balancer = director.in_netns(|| UdpSocket::bind(balancer))??;
    let (sender, target) = if to_pod { (&at_balancer, pod) } else { (&at_pod, balancer) };
    sender.connect(target)?;
    pod::send_cost(sender)
}

/// Nanoseconds of one exchange: connect, 4 bytes there, 64 bytes back, close.
fn exchanges(director: &Node, way: &Way) -> Result<f64> {
    let pod = SocketAddr::new(way.pod, TCP_PORT);
    let listener = way.in_pod(|| TcpListener::bind(pod))??;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&listener, &over));
        let client = director.in_netns(|| -> Result<Duration> {
            let once = || -> Result<()> {
                let mut stream = TcpStream::connect(pod)?;
                stream.write_all(b"ping")?;
                stream.read_to_end(&mut Vec::new())?;
                Ok(())
            };
            once()?;
            let begun = Instant::now();
            for _ in 0..CONNECTIONS {
                once()?;
            }
            let took = begun.elapsed();
            over.store(true, Ordering::Relaxed);
            // The server waits for one more.
            once()?;
            Ok(took)
        });
        if client.as_ref().map_or(true, Result::is_err) {
            over.store(true, Ordering::Relaxed);
            let _ = way.in_pod(|| TcpStream::connect(pod));
        }
        Ok(client??.as_nanos() as f64 / f64::from(CONNECTIONS))
    })
}

fn serve(listener: &TcpListener, over: &AtomicBool) {
    while let Ok((mut stream, _)) = listener.accept() {
        let mut request = [0; 4];
        // A client that went away ends its own exchange.
        let _ = stream.read_exact(&mut request).and_then(|()| stream.write_all(&[7; 64]));
        if over.load(Ordering::Relaxed) {
            return;
        }
    }
}
