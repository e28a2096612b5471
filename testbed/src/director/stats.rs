//! What the director counts, and what its control socket says.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::{config::Service, flow::Protocol, session::SessionState};

/// Packets and their bytes (IP header included).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP.
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }
}

/// Counters since the start; `sessions` is the number now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectorStats {
    /// Sessions now.
    pub sessions: usize,
    /// Sessions begun.
    pub sessions_created: u64,
    /// Sessions ended by time.
    pub sessions_expired: u64,
    /// Sessions that gave way to a new SYN of the same client.
    pub sessions_replaced: u64,
    /// Sessions begun, by server.
    pub sessions_by_real: BTreeMap<SocketAddr, u64>,
    /// What came in.
    pub received: Count,
    /// Packets of clients, translated.
    pub to_servers: Count,
    /// Packets of servers, translated.
    pub to_clients: Count,
    /// Echo replies in the name of VIPs and local addresses.
    pub echo_replies: u64,
    /// ICMP errors translated (also counted under their direction).
    pub icmp_errors: u64,
    /// Fragments after the first, translated (also counted under their direction).
    pub fragments: u64,
    /// TOA options.
    pub toa: ToaStats,
    /// SYN-ACKs whose MSS was lowered.
    pub mss_clamped: u64,
    /// Packets not translated, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

/// What happened to packets that should carry TOA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToaStats {
    /// Inserted.
    pub inserted: u64,
    /// Left out: fewer option bytes free than needed.
    pub skipped_room: u64,
    /// Left out: the packet would exceed the MTU.
    pub skipped_mtu: u64,
    /// Left out: the format has no form for this client's family.
    pub skipped_family: u64,
    /// Left out: the segment came in fragments.
    pub skipped_fragment: u64,
    /// Options of a TOA kind by clients themselves, overwritten with no-ops.
    pub blanked: u64,
}

/// Why a packet was not translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Lengths that contradict each other, or a bad ICMP checksum.
    Malformed,
    /// A protocol, extension header or ICMP type that is not translated.
    Unsupported,
    /// For none of the VIPs and local addresses.
    NotOurs,
    /// No virtual service at this address and port.
    NoService,
    /// TCP that does not begin a session and belongs to none.
    NoSession,
    /// No server has a weight.
    NoReal,
    /// All local ports towards the chosen server are taken.
    NoLocalPort,
    /// The session table is full.
    TableFull,
    /// A fragment without its first, or too many datagrams in fragments.
    Fragment,
}

/// One session, for people and tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// What the client connected to.
    pub vip: SocketAddr,
    /// What the server sees.
    pub local: SocketAddr,
    /// The server.
    pub real: SocketAddr,
    /// How far the session is.
    pub state: SessionState,
    /// Seconds until it ends without packets.
    pub remaining: u64,
}

/// A request on the control socket: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The counters.
    Stats,
    /// The sessions.
    Sessions,
    /// New services in place of the old; sessions go on as they began.
    Configure(Vec<Service>),
}

/// The answer: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The counters.
    Stats(Box<DirectorStats>),
    /// The sessions.
    Sessions(Vec<SessionView>),
    /// The new services are in force.
    Configured,
    /// Refused, and nothing has changed.
    Refused(String),
}
