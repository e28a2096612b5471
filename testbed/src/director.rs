//! A user-space stand-in for an LVS director in FULLNAT mode, for the lab and the demo.
//!
//! It is **not** LVS: FULLNAT never became part of the upstream kernel, and lab kernels may lack `ip_vs`
//! altogether. It does what a FULLNAT director does to packets, so that real servers, bypass and TOA readers
//! can be tried against it: source **and** destination are rewritten, `client → VIP` becomes
//! `local address → real server` and back, for TCP and UDP, IPv4 and IPv6; sessions have states and timeouts;
//! local ports are shared and reused; ICMP errors are translated; and [TOA](Toa) tells servers the client.
//!
//! - [`Translator`] is the core: a packet and the time in, a packet out; no socket and no clock.
//! - [`serve()`] is the shell around it (the `director` binary): a TUN device, routes into it, a control socket.
//! - [`Director`] starts that binary on a lab [`Node`](crate::Node) and talks to its control socket.
//!
//! # How packets get here
//! The VIPs and local addresses belong to no interface; each has a host route into the TUN device. So the
//! kernel never answers for them, forwards what comes for them into the device, and forwards what comes out
//! of it like any packet of a neighbour. Segmentation offload ends at the device: every packet read is whole
//! and has its checksum. The LAN learns the way by a route at its router (VIPs and the local prefix via the
//! director) or, where it has none, by [`DirectorConfig::proxy_neighbours_on`]: proxy ARP and ND entries for
//! exactly those addresses.
//!
//! # What it leaves out
//! NAT64, UDP's client address (UOA), session synchronisation, SYN proxying, rewriting of sequence numbers,
//! schedulers beyond weighted round robin, health checks.

mod checksum;
mod config;
mod control;
mod flow;
mod fragments;
mod handle;
mod icmp;
mod network;
mod octets;
mod options;
mod packet;
mod ports;
mod schedule;
mod serve;
mod session;
mod stats;
mod toa;
mod translate;

pub use config::{ConfigError, DirectorConfig, PortRange, Real, Service, Timeouts};
pub use flow::{Protocol, Side};
pub use handle::Director;
pub use serve::serve;
pub use session::SessionState;
pub use stats::{Count, DirectorStats, DropReason, Request, Response, SessionView, ToaStats};
pub use toa::{Toa, ToaFormat, ToaInsertion, ToaOption};
pub use translate::{Translator, Verdict};
