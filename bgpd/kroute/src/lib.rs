//! Kernel routes as a reconciled map.
//!
//! A caller states what it wants per prefix ([`Routes::set`], [`Routes::remove`]); [`Routes::apply`] writes the
//! difference between that and what the kernel holds, in batches, over one netlink socket. The kernel's own
//! messages keep the picture of "what it holds" true: routes of ours that somebody deletes are put back, and an
//! overrun of the event socket is followed by a fresh dump. There are no periodic scans.
//!
//! Next hops are kernel nexthop objects, one per BGP next hop, so that a change of the underlay is one message
//! however many routes follow it; several next hops are a nexthop group (ECMP). [`Routes::track`] resolves an
//! address against the kernel's other routes and [`Routes::pump`] tells when the outcome changes.
//!
//! Ownership: see [`Owner`]. A route or object that is not ours is never replaced and never deleted. What a
//! process left in the kernel is adopted by its successor and stays until [`Routes::sweep`].
//!
//! Synchronous, no threads, no tokio. What is wanted may be said from other threads ([`Routes::wants`]); the caller polls [`Routes::as_fd`](std::os::fd::AsFd::as_fd). The network
//! namespace is that of the thread which calls [`Routes::open`].
//!
//! ```no_run
//! use turnpike_kroute::{Owner, Routes, Target};
//! let mut routes = Routes::open(Owner::AGENT)?;
//! routes.set("10.244.1.0/26".parse()?, Target::Blackhole);
//! routes.set("10.244.1.2/32".parse()?, Target::Device { ifindex: 7, source: None });
//! routes.apply()?;
//! for failure in routes.failures() {
//!     eprintln!("{failure}");
//! }
//! routes.sweep(); // what a predecessor left and nobody asked for goes at the next apply
//! routes.apply()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Left out: VRFs other than by table number, encapsulations, MPLS, policy rules, IPv6 multipath without
//! nexthop objects (it is never written, only read when next hops are resolved).

mod error;
mod message;
mod monitor;
mod owner;
mod requests;
mod resolve;
mod routes;
mod state;
mod target;
mod wants;

pub use error::{Error, Failure, Subject};
pub use owner::Owner;
pub use routes::{Report, Routes};
pub use target::{Gateway, Hop, Resolution, Target};
pub use wants::Wants;
