//! Chapter 6: both daemons die by SIGKILL on both nodes and come back, and traffic does not notice.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::pods::Pods;
use super::routers::Routers;
use super::story::{Story, ms};
use super::topology::Network;
use crate::{ContainerSpec, Image, Node, PodSpec, TurnpikeNode, poll_result};

const DEADLINE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

pub(super) fn chapter(
    story: &mut Story,
    network: &Network,
    routers: &Routers,
    turnpikes: [&TurnpikeNode; 2],
    pods: &mut Pods,
) -> Result<()> {
    story.chapter("SIGKILL for turnpike-agent and turnpike-bgpd: traffic does not notice");
    let target = pods.www2.ipv4()?;
    let over = AtomicBool::new(false);
    let mut ping = network.client.command("ping")?;
    ping.args(["-i", "0.01", "-q", "-w", "300", &target.to_string()]);
    let ping = network.client.spawn("ping", ping)?;
    let transfer = thread::scope(|scope| {
        let transfer = scope.spawn(|| download(&network.client, SocketAddr::new(target, 80), &over));
        let told = restarts(story, routers, turnpikes, pods);
        over.store(true, Ordering::Relaxed);
        let transfer = transfer.join().unwrap_or_else(|_| bail!("the transfer's thread panicked"));
        told.map(|()| transfer)
    })?;
    story.prove("a transfer that ran through it all on one connection lost nothing", || {
        let bytes = transfer?;
        Ok((format!("{} MiB, whole", bytes / MIB), bytes > 0))
    });
    story.prove("a ping every 10 ms through it all lost nothing", || {
        ping.kill(Signal::SIGINT)?;
        ping.wait_exit(DEADLINE)?;
        let log = ping.log();
        let line = log.lines().find(|l| l.contains("packets transmitted")).context("ping told no result")?;
        Ok((line.to_owned(), line.contains(" 0% packet loss")))
    });
    Ok(())
}

fn restarts(
    story: &mut Story,
    routers: &Routers,
    turnpikes: [&TurnpikeNode; 2],
    pods: &mut Pods,
) -> Result<()> {
    for turnpike in turnpikes {
        turnpike.kill_agent()?;
        turnpike.kill_bgpd()?;
    }
    story.note("both daemons are dead on both nodes");
    story.prove("a pod is deleted while the agent is dead", || {
        let timings = pods.free2.remove()?;
        Ok((format!("DEL in {}", ms(timings.stop)), true))
    });
    for turnpike in turnpikes {
        turnpike.start_bgpd()?;
        turnpike.start_agent()?;
    }
    story.prove("the reflectors' sessions with both nodes come back", || {
        for reflector in [&routers.rr1, &routers.rr2] {
            ["10.1.1.11", "10.1.2.12"]
                .into_iter()
                .try_for_each(|node| reflector.wait_established(node.parse()?))?;
        }
        Ok(("established on BIRD and on turnpike-bgpd".to_owned(), true))
    });
    let [_, second] = turnpikes;
    story.prove("the spooled DEL is carried out", || {
        poll_result(DEADLINE, "two pods on node2", || match second.status()?.pods.len() {
            2 => Ok(()),
            other => bail!("the agent has {other}"),
        })?;
        Ok(("the agent knows two pods on node2 again".to_owned(), true))
    });
    story.prove("a new pod starts", || {
        let pod = second.run_pod(PodSpec::new("late", ContainerSpec::new(Image::Iperf3)))?;
        let seen = format!("{} in {}", pod.ipv4()?, ms(pod.timings().sandbox));
        pods.free2 = pod;
        Ok((seen, true))
    });
    Ok(())
}

/// Fetches a MiB again and again over one kept connection until told that it is over; the bytes that came, or what
/// went wrong.
fn download(from: &Node, server: SocketAddr, over: &AtomicBool) -> Result<usize> {
    from.in_netns(|| {
        let mut stream = TcpStream::connect_timeout(&server, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut total = 0;
        while !over.load(Ordering::Relaxed) {
            stream.write_all(b"GET /blob HTTP/1.1\r\nHost: demo\r\n\r\n")?;
            let length = content_length(&mut reader)?;
            let mut body = vec![0; length];
            reader.read_exact(&mut body).context("the body ended early")?;
            total += length;
        }
        Ok(total)
    })?
}

fn content_length(reader: &mut impl std::io::BufRead) -> Result<usize> {
    let mut length = None;
    for line in reader.lines() {
        let line = line?;
        if line.is_empty() {
            return length.context("an answer without Content-Length");
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse()?);
        }
    }
    bail!("the server closed the connection")
}
