//! The bodies of the fuzz targets: each takes any octets and fails by panicking.
//!
//! The codec's targets check more than "no panic": what was read is written again and read again, and must be the same.
//! The session's target checks what a speaker promises to everybody else while one peer does its worst.

mod codec;
mod session;

pub use codec::{attribute, capability, message, nlri, stream, update};
pub use session::session;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: a file under `bgpd/fuzz/fuzz_targets` and a folder under `bgpd/fuzz/corpus`.
    pub name: &'static str,
    /// What it does with an input.
    pub body: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 7] = [
    Target { name: "message", body: message },
    Target { name: "stream", body: stream },
    Target { name: "update", body: update },
    Target { name: "attribute", body: attribute },
    Target { name: "capability", body: capability },
    Target { name: "nlri", body: nlri },
    Target { name: "session", body: session },
];
