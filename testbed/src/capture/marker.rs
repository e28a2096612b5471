//! A frame of our own, sent out of a captured interface: when it is in the file, so is everything that was captured before
//! it. Without it nobody could say that a capture holds *no* packet of some kind.

use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

/// Ethertype for experiments (IEEE Std 802, local experimental 1).
pub(super) const FILTER: &str = "ether proto 0x88b5";
/// Starts the payload.
const TEXT: &[u8] = b"turnpike lab marker ";
/// A group address that bridges do not forward (IEEE 802.1Q, nearest bridge).
const DESTINATION: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e];
const SHORTEST_FRAME: usize = 60;

/// A payload that nothing else has.
pub(super) fn payload() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    [TEXT, format!("{}.{number};", std::process::id()).as_bytes()].concat()
}

/// Whether a captured frame is a marker, of whichever lab.
pub(super) fn is_marker(frame: &[u8]) -> bool {
    holds(frame, TEXT)
}

/// Whether the bytes hold these in a row.
pub(super) fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|part| part == wanted)
}

/// Sends a marker out of an interface of the calling thread's network namespace; for `any`, out of the loopback.
pub(super) fn send(interface: &str, payload: &[u8]) -> Result<()> {
    let name = if interface == "any" { "lo" } else { interface };
    let address = link_address(name)?;
    let source = address.addr().unwrap_or_default();
    let mut frame = [&DESTINATION[..], &source, &[0x88, 0xb5], payload].concat();
    frame.resize(frame.len().max(SHORTEST_FRAME), 0);
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    sendto(socket.as_raw_fd(), &frame, &address, MsgFlags::empty())
        .with_context(|| format!("send out of {name}"))?;
    Ok(())
}

fn link_address(name: &str) -> Result<LinkAddr> {
    let mut all = getifaddrs().context("list interfaces")?.filter(|entry| entry.interface_name == name);
    all.find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("no interface {name}"))
}
