//! A BGP speaker without I/O: sessions, RIBs, decision process, policy, graceful restart.
//!
//! The shell (a daemon, or a test) owns sockets, clock and kernel. It tells the speaker what happened
//! ([`Speaker::handle`], [`Speaker::handle_timeout`]), drains [`Speaker::poll_output`] until `None`, then arms
//! its timer for [`Speaker::poll_timeout`].

pub mod config;
mod event;
mod input;
mod output;
pub mod query;
mod rib;
mod session;
mod speaker;
mod time;

pub use event::{DownReason, Event, SelectionReason, SweepReason};
pub use input::{CloseReason, ConnId, Input, PathState, Resolution, Shutdown};
pub use output::{Nexthop, Output, RouteChange};
pub use query::{MonitoredSession, PeerId};
pub use rib::{
    Comparison, PeerTable, Place, PrefixChange, Probe, ProbeAnswer, ProbeRule, Snapshot, TableChange, Walked,
    WalkedPath, probe,
};
pub use speaker::{SessionChange, SessionEffect, Speaker, session_changes};
pub use time::Time;
