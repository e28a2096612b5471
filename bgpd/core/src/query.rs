//! Read-only views of the speaker's state.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::{
    Asn, Attributes, Community, ExtendedCommunity, Families, Family, LargeCommunity, PerFamily, Prefix,
    RouterId,
};

use crate::config::RemoteAs;
use crate::output::Nexthop;
use crate::time::Time;

/// A peer's number for as long as it stays configured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerId(pub u32);

/// Session state in the words of RFC 4271 §8.2.2: the furthest of the peer's connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionState {
    /// Shut down by configuration, or resting after an error.
    #[default]
    Idle,
    /// Listening, and waiting for the next attempt to connect.
    Active,
    /// Connecting.
    Connect,
    /// OPEN sent.
    OpenSent,
    /// OPEN received, KEEPALIVE awaited.
    OpenConfirm,
    /// Up.
    Established,
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SessionState::Idle => "Idle",
            SessionState::Active => "Active",
            SessionState::Connect => "Connect",
            SessionState::OpenSent => "OpenSent",
            SessionState::OpenConfirm => "OpenConfirm",
            SessionState::Established => "Established",
        })
    }
}

/// The speaker as a whole.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SpeakerView {
    /// Our autonomous system.
    pub asn: Asn,
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// The CLUSTER_ID in force.
    pub cluster_id: RouterId,
    /// Initial route selection is still being waited for.
    pub starting: bool,
    /// Peers configured (dynamic ones counted while connected).
    pub peers: usize,
    /// Peers Established.
    pub established: usize,
    /// Prefixes with at least one usable path.
    pub prefixes: PerFamily<usize>,
    /// All paths held.
    pub paths: PerFamily<usize>,
    /// Distinct attribute sets shared among them.
    pub attribute_sets: usize,
    /// Next hops tracked.
    pub nexthops: usize,
}

/// One peer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PeerView {
    /// Its number.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// Its address.
    pub remote: IpAddr,
    /// Its autonomous system; zero while the configuration leaves it open and no session says it.
    pub remote_as: Asn,
    /// What it may be.
    pub configured_as: RemoteAs,
    /// Of our AS.
    pub internal: bool,
    /// We reflect to and from it.
    pub rr_client: bool,
    /// Created by a listen range.
    pub dynamic: bool,
    /// State of its session.
    pub state: SessionState,
    /// The moment of the last change of state.
    pub since: Time,
    /// The session, while Established.
    pub session: Option<SessionView>,
    /// How often the session has left Established.
    pub flaps: u64,
    /// Why the last connection or session ended.
    pub last_error: Option<String>,
    /// The last NOTIFICATION, in either direction, in words.
    pub last_notification: Option<String>,
    /// Its paths are stale and kept until this moment.
    pub stale_until: Option<Time>,
    /// Messages and bytes.
    pub counters: PeerCounters,
    /// Paths held from it.
    pub received: PerFamily<usize>,
    /// Of these, the ones that import policy accepted.
    pub accepted: PerFamily<usize>,
    /// Paths announced to it.
    pub advertised: PerFamily<usize>,
}

/// What an Established session agreed on.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SessionView {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The peer's BGP identifier.
    pub router_id: RouterId,
    /// Hold time in force; zero: none.
    pub hold_time: Duration,
    /// Families in force.
    pub families: Families,
    /// Capabilities that both sides have, in words.
    pub capabilities: Vec<String>,
    /// Restart time that the peer announced, where graceful restart is in force.
    pub peer_restart_time: Option<Duration>,
    /// End-of-RIB received.
    pub end_of_rib_received: Families,
    /// End-of-RIB sent.
    pub end_of_rib_sent: Families,
    /// Bytes handed to the shell and not yet reported sent.
    pub unsent: usize,
}

/// An Established session as a monitoring station wants it.
#[derive(Clone, PartialEq, Debug)]
pub struct MonitoredSession {
    /// Whose.
    pub peer: PeerId,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's autonomous system.
    pub asn: Asn,
    /// Its BGP identifier.
    pub router_id: RouterId,
    /// Its UPDATEs have AS numbers of four octets.
    pub four_octet_as: bool,
    /// Families whose NLRI it sends with path identifiers.
    pub add_path: Families,
    /// Families in force.
    pub families: Families,
    /// Our OPEN and the peer's, headers included.
    pub opens: (Bytes, Bytes),
    /// Since it came up.
    pub age: Duration,
}

/// Counters of one peer since it was configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PeerCounters {
    /// Messages received of any type.
    pub messages_in: u64,
    /// Messages sent of any type.
    pub messages_out: u64,
    /// UPDATEs received.
    pub updates_in: u64,
    /// UPDATEs sent.
    pub updates_out: u64,
    /// Prefixes announced to us.
    pub prefixes_in: u64,
    /// Prefixes withdrawn from us.
    pub withdraws_in: u64,
    /// UPDATEs with a mistake that did not reset the session.
    pub malformed_in: u64,
}

/// Which table to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Table {
    /// All paths, the best first; also those that were refused, with the reason.
    Loc,
    /// The paths that were accepted, the best first.
    Accepted,
    /// What a peer announced to us, as received.
    In(PeerId),
    /// What we announce to a peer, as sent.
    Out(PeerId),
}

/// Which prefixes to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Select {
    /// Everything of a family.
    Family(Family),
    /// One prefix.
    Exact(Prefix),
    /// The prefix and everything inside.
    Within(Prefix),
    /// The most specific prefix that holds this address.
    Longest(IpAddr),
}

/// One path, for people and for comparison.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PathView {
    /// Destination.
    pub prefix: Prefix,
    /// Path identifier (RFC 7911): the peer's, in an `Out` table ours. Zero on sessions without.
    pub path_id: u32,
    /// Who told us; `None`: we originate it. In an `Out` table: the peer it was learnt from.
    pub from: Option<PeerId>,
    /// That peer's address.
    pub from_address: Option<IpAddr>,
    /// Next hop; in `Loc` the one in use, `None` for what we originate.
    pub next_hop: Option<Nexthop>,
    /// Interior cost to the next hop; `None` while it cannot be reached.
    pub metric: Option<u32>,
    /// ORIGIN: `IGP`, `EGP` or `incomplete`.
    pub origin: &'static str,
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
    pub extended_communities: Vec<ExtendedCommunity>,
    /// LARGE_COMMUNITIES.
    pub large_communities: Vec<LargeCommunity>,
    /// OTC (RFC 9234): only for customers, says this AS.
    pub only_to_customer: Option<Asn>,
    /// ORIGINATOR_ID.
    pub originator_id: Option<RouterId>,
    /// CLUSTER_LIST.
    pub cluster_list: Vec<RouterId>,
    /// Import accepted it.
    pub accepted: bool,
    /// The best path.
    pub best: bool,
    /// In the kernel's route, with the best.
    pub multipath: bool,
    /// Kept for a restarting peer.
    pub stale: bool,
    /// Why it is not the best: not eligible, or the step of the decision process that it lost.
    pub why: Option<String>,
}

impl PathView {
    /// A path that is in no table.
    pub fn of(prefix: Prefix, attributes: &Attributes, next_hop: Option<Nexthop>) -> Self {
        Self {
            prefix,
            path_id: 0,
            from: None,
            from_address: None,
            next_hop,
            metric: None,
            origin: attributes.origin.as_str(),
            as_path: attributes.as_path.to_string(),
            med: attributes.med,
            local_pref: attributes.local_pref,
            atomic_aggregate: attributes.atomic_aggregate,
            aggregator: attributes.aggregator.map(|aggregator| (aggregator.asn, aggregator.router_id)),
            communities: attributes.communities.to_vec(),
            extended_communities: attributes.extended_communities.to_vec(),
            large_communities: attributes.large_communities.to_vec(),
            only_to_customer: attributes.otc,
            originator_id: attributes.originator_id,
            cluster_list: attributes.cluster_list.to_vec(),
            accepted: false,
            best: false,
            multipath: false,
            stale: false,
            why: None,
        }
    }
}
