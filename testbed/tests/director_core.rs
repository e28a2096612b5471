//! The director's core, without sockets and without waiting: packets and times in, packets out.
//!
//! Verifies: both addresses and ports are rewritten in both directions with right checksums; the TOA bytes and
//! the packets that carry them; states, timeouts, port reuse; ICMP errors and fragments; what bounds it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

#[path = "director_core/fragments.rs"]
mod fragments;
#[path = "director_core/icmp.rs"]
mod icmp;
#[path = "director_core/packets.rs"]
mod packets;
#[path = "director_core/properties.rs"]
mod properties;
#[path = "director_core/rig.rs"]
mod rig;
#[path = "director_core/scale.rs"]
mod scale;
#[path = "director_core/sessions.rs"]
mod sessions;
#[path = "director_core/toa.rs"]
mod toa;
#[path = "director_core/vectors.rs"]
mod vectors;
