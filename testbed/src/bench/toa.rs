//! What TOA costs a server: one whose cgroup has the hooks beside one without.
//!
//! ```text
//!   client 10.1.1.1 (and the director on it: VIP 10.9.0.1, local 10.9.1.1) ── n1 10.1.1.11: two servers
//! ```
//! Both servers are this program again (`--toa-server`), one in the cgroup that turnpike-agent serves, one outside of
//! it. Each connection carries its own measurement back: the nanoseconds of a getpeername() or getsockopt() call, or of a
//! datagram between two sockets of the server. Runs alternate, the least counts; UOA is off until the others have run.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Options;
use super::rows::{Comparison, tell};
use crate::director::{DirectorConfig, Protocol, Real, Service, Toa, ToaFormat, ToaInsertion};
use crate::{Director, Lab, Node, Process, TurnpikeConfig, TurnpikeNode, poll_result};

const RUNS: usize = 15;
const FULL_RUNS: usize = 51;
/// Calls of one run.
const CALLS: u32 = 100_000;
/// In the number of calls that a server is asked for: getsockopt() calls, in place of getpeername().
const GETSOCKOPT: u32 = 1 << 31;
/// In the same number: datagrams, each sent and received.
const DATAGRAMS: u32 = 1 << 30;
/// Connections of one run.
const CONNECTIONS: u32 = 300;
const DEADLINE: Duration = Duration::from_secs(30);
/// Ports of the server with the hooks and of the one without.
const PORTS: [u16; 2] = [9001, 9002];

const SOURCE: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs}
spec: {cidrs: [10.9.1.0/24], toa: Toa254, toaNat64: true}
";

/// The same with UOA.
const WITH_UOA: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs}
spec: {cidrs: [10.9.1.0/24], toa: Toa254, toaNat64: true, uoa: true}
";
/// Its programs.
const UOA_PROGRAMS: usize = 5;

/// The least of each measurement.
#[derive(Debug, Clone, Copy)]
struct Least {
    direct: f64,
    behind_director: f64,
    getsockopt: f64,
    connect: f64,
    datagram: f64,
}

impl Default for Least {
    fn default() -> Self {
        let more = f64::INFINITY;
        Self { direct: more, behind_director: more, getsockopt: more, connect: more, datagram: more }
    }
}

pub(super) fn run(options: &Options) -> Result<()> {
    let runs = options.runs.unwrap_or(if options.full { FULL_RUNS } else { RUNS });
    let lab = Lab::new("bench-toa")?;
    let (client, node) = (lab.node("client")?, lab.node("n1")?);
    lab.link(&client, "eth0", &node, "eth0")?;
    client.addr("eth0", "10.1.1.1/24")?;
    node.addr("eth0", "10.1.1.11/24")?;
    client.forward()?;
    node.route("default via 10.1.1.1")?;
    let config = TurnpikeConfig::default()
        .with_blocks("n1", ("10.244.0.0/16", "10.244.0.0/26"), ("fd00:244::/48", "fd00:244::/122"))
        .with_resource("balancer.yaml", SOURCE);
    let turnpike = TurnpikeNode::start(&node, &config)?;
    let servers = [
        server(&node, PORTS[0], &node.cgroup_path().join("pods/served"))?,
        server(&node, PORTS[1], &node.cgroup_path().join("outside"))?,
    ];
    let director = direct(&client)?;
    let mut least = [Least::default(); 2];
    for _ in 0..runs {
        for (least, port) in least.iter_mut().zip(PORTS) {
            let direct = SocketAddr::new("10.1.1.11".parse()?, port);
            let vip = SocketAddr::new("10.9.0.1".parse()?, port);
            least.direct = least.direct.min(measured(&client, direct, CALLS)?);
            least.behind_director = least.behind_director.min(measured(&client, vip, CALLS)?);
            least.getsockopt = least.getsockopt.min(measured(&client, direct, CALLS | GETSOCKOPT)?);
            least.connect = least.connect.min(connections(&client, direct)?);
        }
    }
    turnpike.set_resource("balancer.yaml", WITH_UOA)?;
    poll_result(DEADLINE, "UOA to be switched on", || {
        let pins = node.text(&["find", "/sys/fs/bpf", "-name", "cgroup-uoa_*"])?;
        ensure!(pins.lines().count() == UOA_PROGRAMS, "{pins}");
        Ok(())
    })?;
    for _ in 0..runs {
        for (least, port) in least.iter_mut().zip(PORTS) {
            let direct = SocketAddr::new("10.1.1.11".parse()?, port);
            least.datagram = least.datagram.min(measured(&client, direct, CALLS | DATAGRAMS)?);
        }
    }
    let [with, without] = least;
    let peer = "no hooks";
    let rows = [
        Comparison::new("getpeername, no load balancer", "ns a call", with.direct, peer, without.direct),
        Comparison::new(
            "getpeername behind a director",
            "ns a call",
            with.behind_director,
            peer,
            without.behind_director,
        ),
        Comparison::new("getsockopt with toaNat64", "ns a call", with.getsockopt, peer, without.getsockopt),
        Comparison::new("connect, answer, close", "µs", with.connect / 1e3, peer, without.connect / 1e3),
        Comparison::new("a datagram with uoa", "ns", with.datagram, peer, without.datagram),
    ];
    tell(&format!("TOA, the least of {runs} alternating runs"), &rows, options.json.as_deref())?;
    drop((director, servers, turnpike));
    for folder in ["pods/served", "outside"] {
        // The servers are gone; a cgroup that the kernel still counts goes with the lab.
        let _ = std::fs::remove_dir(node.cgroup_path().join(folder));
    }
    lab.finish()
}

fn direct(client: &Node) -> Result<Director> {
    let service = |port: u16| -> Result<Service> {
        Ok(Service {
            protocol: Protocol::Tcp,
            vip: SocketAddr::new("10.9.0.1".parse()?, port),
            reals: vec![Real { address: SocketAddr::new("10.1.1.11".parse()?, port), weight: 1 }],
            toa: Some(Toa { format: ToaFormat::Dpvs, insertion: ToaInsertion::Alibaba }),
        })
    };
    let config = DirectorConfig {
        local_addresses: vec!["10.9.1.1".parse()?],
        services: PORTS.into_iter().map(service).collect::<Result<_>>()?,
        ..DirectorConfig::default()
    };
    Director::start(client, &config)
}

fn server(node: &Node, port: u16, cgroup: &Path) -> Result<Process> {
    std::fs::create_dir_all(cgroup).with_context(|| format!("make {}", cgroup.display()))?;
    let program = std::env::current_exe()?;
    let mut command = node.command(program)?;
    command.arg("--toa-server").arg(port.to_string()).arg("--toa-cgroup").arg(cgroup);
    let process = node.spawn(&format!("toa-server-{port}"), command)?;
    let address = SocketAddr::new("10.1.1.11".parse()?, port);
    poll_result(DEADLINE, "the server to listen", || -> Result<TcpStream> {
        Ok(node.in_netns(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))??)
    })?;
    Ok(process)
}

/// Nanoseconds of a call, as the server at the other end measured it.
fn measured(client: &Node, at: SocketAddr, calls: u32) -> Result<f64> {
    let text = client.in_netns(|| exchange(at, calls))??;
    let (nanoseconds, _) = text.split_once(' ').context("a number")?;
    Ok(nanoseconds.parse::<f64>()? / f64::from(calls & !(GETSOCKOPT | DATAGRAMS)))
}

/// Nanoseconds of a connection with one getpeername() call.
fn connections(client: &Node, at: SocketAddr) -> Result<f64> {
    client.in_netns(|| -> Result<f64> {
        let begun = Instant::now();
        for _ in 0..CONNECTIONS {
            exchange(at, 1)?;
        }
        Ok(begun.elapsed().as_nanos() as f64 / f64::from(CONNECTIONS))
    })?
}

fn exchange(at: SocketAddr, calls: u32) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(&calls.to_be_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The server: moves itself into a cgroup, then answers each connection with how long its calls took, and whom it saw.
pub(super) fn serve(port: u16, cgroup: &Path) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    std::fs::write(&file, std::process::id().to_string())
        .with_context(|| format!("enter {}", file.display()))?;
    let listener = TcpListener::bind(SocketAddr::new("0.0.0.0".parse()?, port))?;
    let (sender, receiver) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    receiver.set_read_timeout(Some(DEADLINE))?;
    let to = receiver.local_addr()?;
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut calls = [0; 4];
        // A probe that only connects ends here.
        if stream.read_exact(&mut calls).is_err() {
            continue;
        }
        let calls = u32::from_be_bytes(calls);
        let mut buffer = [0; 64];
        let begun = Instant::now();
        let mut seen = None;
        for _ in 0..calls & !(GETSOCKOPT | DATAGRAMS) {
            if calls & DATAGRAMS != 0 {
                sender.send_to(&buffer, to)?;
                receiver.recv_from(&mut buffer)?;
            } else if calls & GETSOCKOPT == 0 {
                seen = Some(stream.peer_addr()?);
            } else if let Some(error) = stream.take_error()? {
                return Err(error.into());
            }
        }
        let took = begun.elapsed().as_nanos();
        let seen = seen.map_or_else(|| "-".to_owned(), |address| address.to_string());
        // A client that went away needs no answer.
        let _ = stream.write_all(format!("{took} {seen}").as_bytes());
    }
}
