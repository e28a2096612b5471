//! BFD (RFC 5880): the Control packet and one session's state machine, for single hops (RFC 5881) and several
//! (RFC 5883).
//!
//! Pure: time, packets and jitter are inputs, nothing is waited for. Sockets, TTLs, ports and the choice of the
//! session that a packet belongs to are the caller's (`turnpike-bfdd`). The contract of [`Session`]: hand in what
//! happened, then drain [`Session::poll_transmit`] and [`Session::poll_change`] to `None`, then arm
//! [`Session::poll_timeout`].
//!
//! Left out: authentication (RFC 5880 §6.7; packets that carry it are dropped as §6.8.6 says, and GTSM guards single
//! hops), the Echo function (§6.4; we announce that we take none), Demand mode of our own (§6.6; a peer that uses it
//! is obeyed).

mod packet;
mod session;
mod time;

pub use packet::{Diagnostic, Discriminator, Malformed, Packet, State};
pub use session::{Change, Params, Session};
pub use time::Time;
