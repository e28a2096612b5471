//! How turnpike-bgpd is configured and asked: the types of its configuration file, of the parts that other programs
//! push, and of its control socket.
//!
//! The values (AS numbers, prefixes, communities) are those of `turnpike-bgp-wire`, parsed at this edge. No async:
//! [`Client`] blocks, for command lines and for threads.

pub mod bfd;
mod client;
pub mod config;
mod frame;
mod message;
pub mod view;

pub use client::{Client, ClientError};
pub use config::{BmpStation, Config, Network, Part, Peer};
pub use frame::{FrameError, MAX_FRAME, decode, encode, read_frame, write_frame};
pub use message::{Code, Drain, ErrorReply, FORMAT, PolicyTest, Reply, Request, RibQuery, Select, Table};
pub use turnpike_bgp_wire::{
    Asn, Community, ExtendedCommunity, Families, Family, LargeCommunity, PerFamily, Prefix, Role, RouterId,
};

/// Where bgpd listens for requests unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/turnpike/bgpd.sock";
/// The configuration file unless a flag names another.
pub const DEFAULT_CONFIG: &str = "/etc/turnpike/bgpd.toml";
/// Where bgpd keeps what must survive it unless configured otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/turnpike/bgpd";
