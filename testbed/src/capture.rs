//! Packet captures: a tcpdump per capture, writing into the node's folder.

mod marker;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::node::Node;
use crate::poll::poll;
use crate::process::{Running, tail};

const START_DEADLINE: Duration = Duration::from_secs(20);
const FLUSH_DEADLINE: Duration = Duration::from_secs(20);

/// A running capture. Dropping it ends it; the file stays with the lab's folder.
#[must_use = "dropping a Capture ends it"]
pub struct Capture {
    running: Arc<Running>,
    node: Node,
    interface: String,
    path: PathBuf,
    log: PathBuf,
}

impl Capture {
    pub(crate) fn start(node: &Node, interface: &str, filter: &str) -> Result<Self> {
        let (path, file) = new_file(node.folder(), interface)?;
        let log = path.with_extension("log");
        let mut command = node.command("tcpdump")?;
        // Written through stdout: the node need not see the folder, and tcpdump may drop its rights.
        command.args(["-i", interface, "-n", "-s", "0", "-U", "--immediate-mode", "-B", "8192", "-w", "-"]);
        if !filter.trim().is_empty() {
            command.arg(format!("({filter}) or {}", marker::FILTER));
        }
        let running = node.launch(command, file.into(), File::create(&log)?.into())?;
        let capture = Self { running, node: node.clone(), interface: interface.to_owned(), path, log };
        let ready =
            poll(START_DEADLINE, &format!("tcpdump to listen on {interface} of {}", node.name()), || {
                if capture.said().contains("listening on") {
                    return Some(true);
                }
                matches!(capture.running.try_wait(), Ok(Some(_))).then_some(false)
            })?;
        ensure!(ready, "tcpdump on {interface} of {}: {}", node.name(), tail(&capture.said()));
        Ok(capture)
    }

    /// The pcap file on the host. What crosses the interface is in it soon; for "now" see [`Capture::flush`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until everything that has crossed the interface is in the file, and tells it apart from what is still under way
    /// by a frame of the lab's own, which the other end gets to see too (ethertype 0x88b5).
    ///
    /// # Errors
    /// When that frame cannot be sent, or does not appear in the file: the interface is down, or drops what it does not
    /// know.
    pub fn flush(&self) -> Result<()> {
        let payload = marker::payload();
        self.node.in_netns(|| marker::send(&self.interface, &payload))??;
        let what = format!("{} to hold what it captured", self.path.display());
        poll(FLUSH_DEADLINE, &what, || marker::holds(&fs::read(&self.path).ok()?, &payload).then_some(()))
    }

    /// Ends the capture and reads its packets: all of them, see [`Capture::flush`].
    ///
    /// # Errors
    /// As [`Capture::flush`], when tcpdump does not end or has lost packets, or the file cannot be read.
    pub fn finish(self) -> Result<Vec<Frame>> {
        self.flush()?;
        self.running.signal(Signal::SIGINT)?;
        self.running.wait(START_DEADLINE, "tcpdump")?;
        let said = self.said();
        let lost = said.lines().find(|line| line.ends_with("packets dropped by kernel"));
        ensure!(lost.is_none_or(|line| line.starts_with("0 ")), "the capture is not complete: {said}");
        frames(&self.path)
    }

    /// The packets so far, as [`Capture::finish`] would give them.
    ///
    /// # Errors
    /// As [`Capture::flush`], or when the file cannot be read.
    pub fn frames(&self) -> Result<Vec<Frame>> {
        self.flush()?;
        frames(&self.path)
    }

    /// One line of text for each packet so far, as tcpdump prints it (`-nn -t -e`), with a further filter or none.
    ///
    /// # Errors
    /// As [`Capture::flush`], or when tcpdump refuses the filter.
    pub fn lines(&self, filter: &str) -> Result<Vec<String>> {
        self.flush()?;
        let filter = if filter.trim().is_empty() { String::new() } else { format!("({filter}) and ") };
        let output = std::process::Command::new("tcpdump")
            .args(["-nn", "-t", "-e", "-r"])
            .arg(&self.path)
            .arg(format!("{filter}not {}", marker::FILTER))
            .output()
            .context("run tcpdump")?;
        ensure!(output.status.success(), "tcpdump: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = self.running.end() {
            eprintln!("capture {}: {error:#}", self.path.display());
        }
    }
}

/// A captured packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Since the Unix epoch.
    pub time: Duration,
    /// From the link-layer header on (Ethernet, unless the interface was `any`).
    pub bytes: Vec<u8>,
}

fn new_file(folder: &Path, interface: &str) -> Result<(PathBuf, File)> {
    for number in 1..10_000 {
        let path = folder.join(format!("{interface}-{number}.pcap"));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("make {}", path.display())),
        }
    }
    bail!("too many captures of {interface}")
}

/// Reads a pcap file as tcpdump writes it on this machine (native byte order, microseconds). A packet that is
/// being written is left out.
fn frames(path: &Path) -> Result<Vec<Frame>> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let Some((header, mut rest)) = bytes.split_at_checked(24) else { return Ok(Vec::new()) };
    ensure!(word(header, 0) == Some(MAGIC), "{} is no pcap file", path.display());
    let mut found = Vec::new();
    while let Some((record, after)) = rest.split_at_checked(16) {
        let (Some(seconds), Some(micros), Some(length)) = (word(record, 0), word(record, 4), word(record, 8))
        else {
            break;
        };
        let Some((packet, after)) = after.split_at_checked(length as usize) else { break };
        let time = Duration::from_secs(seconds.into()) + Duration::from_micros(micros.into());
        if !marker::is_marker(packet) {
            found.push(Frame { time, bytes: packet.to_vec() });
        }
        rest = after;
    }
    Ok(found)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}
