//! The delay line: a wire of a chosen length.

#![cfg(test)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use turnpike_testbed::{DelayLine, Lab, Node};

fn megabyte() -> Vec<u8> {
    (0..1u32 << 20).map(|number| number.to_le_bytes()[usize::from(number % 3 == 0)]).collect()
}

/// The least round trip of a few, in milliseconds.
fn least(from: &Node, to: &str) -> Result<f64> {
    let text = from.text(&["ping", "-n", "-c", "5", "-i", "0.05", to])?;
    let times = text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok());
    times.min_by(f64::total_cmp).context("no answer")
}

/// ```text
///   a 10.1.1.1 ─── wire ─── b 10.1.2.1
/// ```
/// Verifies: no round trip is shorter than the two delays; a megabyte crosses whole;
/// afterwards the wire is short again, and nothing is left.
#[test]
fn packets_wait_as_long_as_they_should() -> Result<()> {
    let lab = Lab::new("delay")?;
    let (a, wire, b) = (lab.node("a")?, lab.node("wire")?, lab.node("b")?);
    for (node, link, net) in [(&a, "a", "10.1.1"), (&b, "b", "10.1.2")] {
        lab.link(node, "eth0", &wire, link)?;
        node.addr("eth0", &format!("{net}.1/24"))?;
        wire.addr(link, &format!("{net}.254/24"))?;
        node.route(&format!("default via {net}.254"))?;
    }
    wire.forward()?;
    let line = DelayLine::start(&wire, &["a", "b"], Duration::from_millis(15))?;
    let long = least(&a, "10.1.2.1")?;
    ensure!(long >= 30.0, "a round trip of {long} ms through two delays of 15 ms");

    let at = SocketAddr::from(([10, 1, 2, 1], 9000));
    let listener = b.in_netns(|| TcpListener::bind(at))??;
    let received = thread::scope(|scope| -> Result<Vec<u8>> {
        let sender = scope.spawn(|| -> Result<()> {
            let mut stream = a.in_netns(|| TcpStream::connect(at))??;
            Ok(stream.write_all(&megabyte())?)
        });
        let mut received = Vec::new();
        listener.accept()?.0.read_to_end(&mut received)?;
        sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        Ok(received)
    })?;
    ensure!(received == megabyte(), "{} bytes of a megabyte, or others", received.len());

    line.stop()?;
    let rules = wire.text(&["ip", "rule"])?;
    ensure!(!rules.contains("100:"), "{rules}");
    ensure!(a.run_unchecked(&["ping", "-n", "-c", "1", "10.1.2.1"])?.status.success(), "no way without it");
    lab.finish()
}
