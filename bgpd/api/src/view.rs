//! What bgpd shows of itself. Durations are in seconds.

mod change;
mod event;
mod trace;

pub use change::{AuditEntry, Caller, DiffView, Effect, PendingView, PrefixChange, SessionChange, TableDiff};
pub use event::{EventKind, EventView};
pub use trace::{PolicyTrace, RuleTrace};

use std::net::{IpAddr, SocketAddr};

use crate::config::RemoteAs;
use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::{Asn, Community, Families, LargeCommunity, PerFamily, Prefix, RouterId};

/// The daemon as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Release of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// For how long it has been running.
    pub uptime: u64,
    /// Our autonomous system; `None` while nobody has told.
    pub asn: Option<Asn>,
    /// Our BGP identifier.
    pub router_id: Option<RouterId>,
    /// The CLUSTER_ID in force.
    pub cluster_id: Option<RouterId>,
    /// An earlier process of ours held sessions on this boot of the host: this start was a restart.
    pub restarted: bool,
    /// Initial route selection is still being waited for.
    pub starting: bool,
    /// Owners whose part of the configuration is expected and missing.
    pub waiting_for: Vec<String>,
    /// Parts of the configuration, the file first.
    pub parts: Vec<PartView>,
    /// Peers configured.
    pub peers: usize,
    /// Peers Established.
    pub established: usize,
    /// Prefixes with at least one usable path.
    pub prefixes: PerFamily<usize>,
    /// All paths held.
    pub paths: PerFamily<usize>,
    /// Distinct attribute sets among them.
    pub attribute_sets: usize,
    /// BGP next hops and how they are reached.
    pub nexthops: Vec<NexthopView>,
    /// The kernel's side.
    pub kernel: KernelView,
    /// Mistakes in force: a file that was refused, say. The last good state stays.
    pub problems: Vec<String>,
    /// A configuration that waits for its confirmation.
    #[serde(default)]
    pub pending: Option<PendingView>,
    /// How far a drain is, in words.
    #[serde(default)]
    pub draining: Option<String>,
    /// The drain has withdrawn what it withdraws, and stays so.
    #[serde(default)]
    pub drained: bool,
    /// BMP stations.
    #[serde(default)]
    pub stations: Vec<StationView>,
}

/// A BMP station (RFC 7854).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StationView {
    /// Its address.
    pub station: SocketAddr,
    /// For how long it has been connected; `None` while it is not.
    pub connected_for: Option<u64>,
    /// It has been told all that was there when it connected.
    pub in_step: bool,
    /// Octets that wait for it.
    pub queued: u64,
    /// Messages told, over all connections.
    pub messages: u64,
    /// Connections so far.
    pub streams: u64,
    /// Of these, how many ended because it did not keep up.
    pub overflows: u64,
    /// Why it is not connected.
    pub problem: Option<String>,
}

/// One owner's part of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartView {
    /// `file`, or who pushed it.
    pub owner: String,
    /// Peers taken from it.
    pub peers: usize,
    /// Networks taken from it.
    pub networks: usize,
    /// Pieces that were not taken, in words.
    pub refused: Vec<String>,
}

/// A BGP next hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NexthopView {
    /// Its address, with `%` and the interface's number where it is link-local.
    pub address: String,
    /// It can be used.
    pub reachable: bool,
    /// Metric of the kernel route that leads to it.
    pub metric: Option<u32>,
    /// Ways to it, as `10.1.1.1 dev eth0`.
    pub via: Vec<String>,
}

/// Kernel routes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelView {
    /// Routes are programmed at all.
    pub enabled: bool,
    /// Routing table.
    pub table: u32,
    /// Route protocol number.
    pub protocol: u8,
    /// Metric of every route.
    pub metric: u32,
    /// Routes of ours in the kernel.
    pub routes: usize,
    /// Writes under way.
    pub pending: usize,
    /// What the kernel refused and still lacks.
    pub failures: Vec<String>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its autonomous system; zero while the configuration leaves it open and no session says it.
    pub remote_as: Asn,
    /// What the configuration says of it.
    pub configured_as: RemoteAs,
    /// Who configured it: `file`, or the owner of a part.
    pub owner: String,
    /// Of our AS.
    pub internal: bool,
    /// We reflect to and from it.
    pub rr_client: bool,
    /// Session state in the words of RFC 4271 §8.2.2.
    pub state: String,
    /// For how long it has been in that state.
    pub since: u64,
    /// The session, while Established.
    pub session: Option<SessionView>,
    /// How often the session has left Established.
    pub flaps: u64,
    /// Why the last connection or session ended.
    pub last_error: Option<String>,
    /// The last NOTIFICATION, in either direction, in words.
    pub last_notification: Option<String>,
    /// Its paths are stale and are kept for so much longer.
    pub stale_for: Option<u64>,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// UPDATEs received.
    pub updates_in: u64,
    /// UPDATEs sent.
    pub updates_out: u64,
    /// UPDATEs with a mistake that did not reset the session (RFC 7606).
    pub malformed_in: u64,
    /// Paths held from it.
    pub received: PerFamily<usize>,
    /// Of these, the ones that import policy accepted.
    pub accepted: PerFamily<usize>,
    /// Paths announced to it.
    pub advertised: PerFamily<usize>,
}

impl PeerView {
    /// Its autonomous system for people: `external` or `auto` while any such may come and none is there.
    #[must_use]
    pub fn autonomous_system(&self) -> String {
        match (self.remote_as.0, self.configured_as) {
            (0, RemoteAs::Auto) => "auto".to_owned(),
            (0, _) => "external".to_owned(),
            _ => self.remote_as.to_string(),
        }
    }

    /// `internal` or `external`, or that its OPEN will say so.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match (self.remote_as.0, self.configured_as, self.internal) {
            (0, RemoteAs::Auto, _) => "internal or external, as its OPEN says",
            (_, _, true) => "internal",
            (_, _, false) => "external",
        }
    }
}

/// What an Established session agreed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The peer's BGP identifier.
    pub router_id: RouterId,
    /// Hold time in force; 0: none.
    pub hold_time: u64,
    /// Families in force.
    pub families: Families,
    /// Capabilities that both sides have, in words.
    pub capabilities: Vec<String>,
    /// Restart time that the peer announced, where graceful restart is in force.
    pub peer_restart_time: Option<u64>,
    /// End-of-RIB received.
    pub end_of_rib_received: Families,
    /// End-of-RIB sent.
    pub end_of_rib_sent: Families,
    /// Bytes waiting for the peer's socket.
    pub unsent: usize,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathView {
    /// Destination.
    pub prefix: Prefix,
    /// Path identifier (RFC 7911): the peer's, in what we announce ours. `None` on sessions without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// Address of the peer that told us; `None`: we originate it.
    pub from: Option<IpAddr>,
    /// That peer's name.
    pub from_name: Option<String>,
    /// Whose network it is, where we originate it: `file`, or the owner of a part.
    #[serde(default)]
    pub owner: Option<String>,
    /// Next hop; `None` for what we originate.
    pub next_hop: Option<IpAddr>,
    /// Interior cost to the next hop; `None` while it cannot be reached.
    pub metric: Option<u32>,
    /// `IGP`, `EGP` or `incomplete`.
    pub origin: String,
    /// AS_PATH as text, sets in braces.
    pub as_path: String,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<(Asn, RouterId)>,
    /// COMMUNITIES.
    pub communities: Vec<Community>,
    /// EXTENDED COMMUNITIES.
    pub extended_communities: Vec<String>,
    /// LARGE_COMMUNITIES.
    pub large_communities: Vec<LargeCommunity>,
    /// OTC (RFC 9234): only for customers, says this AS.
    #[serde(default)]
    pub only_to_customer: Option<Asn>,
    /// ORIGINATOR_ID.
    pub originator_id: Option<RouterId>,
    /// CLUSTER_LIST.
    pub cluster_list: Vec<RouterId>,
    /// The best path.
    pub best: bool,
    /// In the kernel's route, with the best.
    pub multipath: bool,
    /// Kept for a restarting peer.
    pub stale: bool,
    /// Why it is not the best: not eligible, or the step of the decision process that it lost.
    pub why: Option<String>,
}

/// Why a destination is routed as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The prefix that was found; `None`: no path covers what was asked.
    pub prefix: Option<Prefix>,
    /// All its paths, the best first.
    pub paths: Vec<PathView>,
    /// The next hops of the paths in use.
    pub nexthops: Vec<NexthopView>,
    /// Why the kernel does not hold the route, where it should.
    pub kernel_failure: Option<String>,
}
