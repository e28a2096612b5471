//! A long wire: what arrives at a router through named links waits before it is forwarded.
//!
//! ```text
//!   link ─▶ rule: iif link ─▶ route into the TUN device ─▶ (wait) ─▶ written back ─▶ the router's own routes ─▶ link
//! ```
//! A program, because no qdisc of this kernel delays. Packets keep their order, segments of a TCP stream stay together as
//! they came, and nothing is dropped or changed but the TTL, which sinks by two.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::node::Node;
use crate::tun::{OFFLOAD_HEADER, Tun};

const DEVICE: &str = "delay0";
/// Routing table and priority of the rules.
const TABLE: &str = "100";
/// Packets that wait in the kernel while the program is not scheduled.
const QUEUE: &str = "10000";
/// The longest packet, with what is in front of it.
const LONGEST: usize = OFFLOAD_HEADER + 65_536;
/// The program looks this often whether it should end.
const LOOK: Duration = Duration::from_millis(20);
/// Packets read between two looks at what is due.
const BATCH: usize = 32;

/// A delay on IPv4 that comes through some links of a node. It ends when this is dropped.
#[derive(Debug)]
pub struct DelayLine {
    node: Node,
    over: Arc<AtomicBool>,
    program: Option<JoinHandle<Result<()>>>,
}

impl DelayLine {
    /// Delays what arrives at `node`, a router, through `links`, one way.
    ///
    /// # Errors
    /// When the device or the rules cannot be made; a node has one delay line at a time.
    pub fn start(node: &Node, links: &[&str], delay: Duration) -> Result<Self> {
        let tun =
            node.in_netns(|| Tun::with_offloads(DEVICE))?.context("create the TUN device of a delay")?;
        node.run(&["ip", "link", "set", DEVICE, "txqueuelen", QUEUE, "up"])?;
        node.run(&["ip", "route", "add", "default", "dev", DEVICE, "table", TABLE])?;
        for link in ["all", DEVICE] {
            // What comes out of the device has addresses that routes lead elsewhere.
            node.sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "0")?;
        }
        let over = Arc::new(AtomicBool::new(false));
        let program = std::thread::Builder::new().name("delay".to_owned()).spawn({
            let over = Arc::clone(&over);
            move || carry(&tun, delay, &over)
        })?;
        let line = Self { node: node.clone(), over, program: Some(program) };
        for link in links {
            node.run(&["ip", "rule", "add", "iif", link, "lookup", TABLE, "pref", TABLE])?;
        }
        Ok(line)
    }

    /// Takes the delay away.
    ///
    /// # Errors
    /// When it lost a packet, which no wire of a measurement may do.
    pub fn stop(mut self) -> Result<()> {
        let links = self.node.json(&["ip", "-j", "-s", "link", "show", DEVICE])?;
        self.end()?;
        let lost = links.pointer("/0/stats64/tx/dropped").and_then(serde_json::Value::as_u64);
        match lost.context("the device's counters")? {
            0 => Ok(()),
            lost => Err(anyhow!("the delay line lost {lost} packets: the machine was too busy for it")),
        }
    }

    fn end(&mut self) -> Result<()> {
        let Some(program) = self.program.take() else { return Ok(()) };
        // Rules go first: a device that is gone would leave packets without a way.
        while self.node.run(&["ip", "rule", "del", "pref", TABLE]).is_ok() {}
        self.over.store(true, Ordering::Relaxed);
        program.join().map_err(|_| anyhow!("the delay line panicked"))?
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("delay line: {error:#}");
        }
    }
}

/// Reads packets, and writes each back when its time has come.
fn carry(tun: &Tun, delay: Duration, over: &AtomicBool) -> Result<()> {
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; LONGEST];
    while !over.load(Ordering::Relaxed) {
        let pause =
            waiting.front().map_or(LOOK, |(due, _)| due.saturating_duration_since(Instant::now()).min(LOOK));
        let mut files = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut files, Some(TimeSpec::from_duration(pause)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for packets"),
        }
        for _ in 0..BATCH {
            let Some(length) = tun.receive(&mut buffer).context("read from the TUN device")? else { break };
            waiting.push_back((Instant::now() + delay, buffer.get(..length).unwrap_or_default().to_vec()));
        }
        while let Some((_, packet)) = waiting.pop_front_if(|(due, _)| *due <= Instant::now()) {
            tun.send(&packet).context("write to the TUN device")?;
        }
    }
    Ok(())
}
