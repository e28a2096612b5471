//! The director on a lab node, between real kernels.
//!
//! ```text
//! client 192.0.2.10/24 ── 192.0.2.1 router 10.1.1.1 ── 10.1.1.11/24 server
//!        fd00:c::10/64               │  10.1.3.1       fd00:1:1::11/64
//!                                    └── 10.1.3.30/24 director
//!                                        fd00:1:3::30/64
//! ```
//! The router sends the VIPs (10.9.0.0/24, fd00:9::/64) and the local prefixes (10.9.1.0/24, fd00:9:1::/64) to
//! the director. The server is a plain node: nothing there reads TOA.
//!
//! Verifies: TCP and UDP of both families pass both ways and arrive unharmed, however large; the server sees
//! the local address; every handshake carries the TOA bytes of its client; a smaller MTU behind the director,
//! fragments and ICMP errors work; a LAN without routes works through proxy neighbours; services change live;
//! and nothing is left behind.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends at its first surprise")]

#[path = "director_lab/rig.rs"]
mod rig;
#[path = "director_lab/tcp.rs"]
mod tcp;
#[path = "director_lab/udp.rs"]
mod udp;
