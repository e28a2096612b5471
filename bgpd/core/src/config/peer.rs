//! One peer's part of the configuration.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::{Asn, Families, PerFamily, Prefix, Role};

use super::PolicyChoice;

/// A remote speaker. Its address is its identity: two peers never share one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// How people call it; unique.
    pub name: String,
    /// Its address; unique. Connections from and to this address belong to the peer.
    pub remote: IpAddr,
    /// Its autonomous system.
    pub remote_as: RemoteAs,
    /// Another AS number of ours in the place of the speaker's, towards this external peer (RFC 7705).
    #[serde(default)]
    pub local_as: Option<LocalAs>,
    /// What we are to this external peer (RFC 9234).
    #[serde(default)]
    pub role: Option<Role>,
    /// No session with a peer that does not say its role.
    #[serde(default)]
    pub role_strict: bool,
    /// `Some` keeps the session down; the text goes to the peer (RFC 9003), at most 255 octets.
    #[serde(default)]
    pub shutdown: Option<String>,
    /// How connections are made.
    #[serde(default)]
    pub transport: Transport,
    /// No session before `Input::Path` says that the path is open.
    #[serde(default)]
    pub wait_for_path: bool,
    /// Hold time that we propose; zero turns keepalives off, else at least 3 s (RFC 4271 §4.2).
    #[serde(default = "default_hold")]
    pub hold_time: Duration,
    /// Wait between attempts to connect.
    #[serde(default = "default_retry")]
    pub connect_retry: Duration,
    /// Families to negotiate.
    #[serde(default = "default_families")]
    pub families: Families,
    /// We reflect to and from it (internal peers only, RFC 4456).
    #[serde(default)]
    pub rr_client: bool,
    /// Next hop of what we announce to it.
    #[serde(default)]
    pub next_hop: ExportNextHop,
    /// Graceful restart with this peer; the global switch must be on too.
    #[serde(default = "yes")]
    pub graceful_restart: bool,
    /// Long-lived graceful restart (RFC 9494), where graceful restart is on: how long the peer shall keep our paths
    /// after the restart time, and the longest that we keep its. `None`: off.
    #[serde(default)]
    pub long_lived: Option<Duration>,
    /// Tell the peer of long-lived stale paths although it has not announced RFC 9494, with NO_EXPORT and LOCAL_PREF 0
    /// (§4.6; internal peers only).
    #[serde(default)]
    pub long_lived_fallback: bool,
    /// IPv4 paths over IPv6 next hops (RFC 8950).
    #[serde(default)]
    pub extended_next_hop: bool,
    /// Several paths of one prefix (RFC 7911).
    #[serde(default)]
    pub add_path: PerFamily<AddPath>,
    /// How often our own AS may stand in a received AS_PATH.
    #[serde(default)]
    pub allow_own_as: u8,
    /// What to take from it.
    #[serde(default)]
    pub import: PolicyChoice,
    /// What to give to it.
    #[serde(default)]
    pub export: PolicyChoice,
    /// Bound on the prefixes (with add-path: paths) held from it, per family, whatever policy says of them.
    #[serde(default)]
    pub max_prefix: Option<MaxPrefix>,
}

impl PeerConfig {
    /// A peer with the defaults of this file.
    pub fn new(name: impl Into<String>, remote: IpAddr, remote_as: impl Into<RemoteAs>) -> Self {
        Self {
            name: name.into(),
            remote,
            remote_as: remote_as.into(),
            local_as: None,
            role: None,
            role_strict: false,
            shutdown: None,
            transport: Transport::default(),
            wait_for_path: false,
            hold_time: default_hold(),
            connect_retry: default_retry(),
            families: default_families(),
            rr_client: false,
            next_hop: ExportNextHop::Auto,
            graceful_restart: true,
            long_lived: None,
            long_lived_fallback: false,
            extended_next_hop: false,
            add_path: PerFamily::default(),
            allow_own_as: 0,
            import: PolicyChoice::Default,
            export: PolicyChoice::Default,
            max_prefix: None,
        }
    }
}

const fn yes() -> bool {
    true
}

const fn default_hold() -> Duration {
    Duration::from_secs(90)
}

const fn default_retry() -> Duration {
    Duration::from_secs(5)
}

const fn default_families() -> Families {
    Families::BOTH
}

/// What the autonomous system of a peer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteAs {
    /// This one; ours makes an internal peer.
    Number(Asn),
    /// Any but ours: the one that its OPEN says.
    External,
    /// Any: its OPEN says whether the peer is an internal one.
    Auto,
}

impl RemoteAs {
    /// The number, where the configuration says it.
    pub fn number(self) -> Option<Asn> {
        match self {
            Self::Number(asn) => Some(asn),
            Self::External | Self::Auto => None,
        }
    }

    /// Whether the peer is an internal one; `None` before its OPEN says so.
    pub fn is_internal(self, own: Asn) -> Option<bool> {
        match self {
            Self::Number(asn) => Some(asn == own),
            Self::External => Some(false),
            Self::Auto => None,
        }
    }
}

impl From<Asn> for RemoteAs {
    fn from(asn: Asn) -> Self {
        Self::Number(asn)
    }
}

/// An AS number for one peer, as long as it does not know the new one (RFC 7705).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalAs {
    /// The AS number that the peer sees.
    pub asn: Asn,
    /// Do not put it in front of the AS_PATHs that come in (§3.3, "No Prepend Inbound").
    #[serde(default)]
    pub no_prepend: bool,
    /// Do not show our real AS number behind it (§3.3, "Replace Old AS").
    #[serde(default)]
    pub replace_as: bool,
}

/// How the connection to a peer is made. The core only passes these on in `Output::Connect`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transport {
    /// Source address of outgoing connections; the only destination accepted for incoming ones.
    pub local: Option<IpAddr>,
    /// Interface index for link-local addresses; 0 otherwise.
    pub scope: u32,
    /// The peer's TCP port.
    pub port: u16,
    /// Never connect, only accept.
    pub passive: bool,
    /// TTL of sent packets; `None` leaves the shell's default (1 for external peers, 64 for internal ones).
    pub ttl: Option<u8>,
}

impl Default for Transport {
    fn default() -> Self {
        Self { local: None, scope: 0, port: 179, passive: false, ttl: None }
    }
}

/// Several paths of one prefix, in one family (RFC 7911).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddPath {
    /// Take several from the peer.
    pub receive: bool,
    /// Give it several.
    pub send: SendPaths,
}

/// Which paths of a prefix a peer is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SendPaths {
    /// The best.
    #[default]
    Best,
    /// Every one that may be used.
    All,
    /// So many at most, the best first. The peer's own count, though it is not told them: a group of peers has one
    /// Adj-RIB-Out.
    Most(u16),
}

/// Which next hop we announce.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportNextHop {
    /// Ourselves towards external peers and for what we originate; unchanged towards internal ones.
    #[default]
    Auto,
    /// Ourselves for everything but reflected paths (RFC 4456 §10).
    SelfExternal,
    /// Ourselves for everything, reflected paths too: all traffic then flows through us.
    SelfAlways,
    /// As received, towards external peers too.
    Unchanged,
}

/// Bound on the number of prefixes taken from a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxPrefix {
    /// The most prefixes held per family; with add-path, the most paths.
    pub limit: u32,
    /// What happens beyond it.
    #[serde(default)]
    pub action: MaxPrefixAction,
}

/// What happens beyond [`MaxPrefix::limit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaxPrefixAction {
    /// One event; prefixes are still taken.
    Warn,
    /// One event; further prefixes are dropped, the session stays. They are asked for again (route refresh)
    /// once there is room.
    #[default]
    Discard,
    /// CEASE, Maximum Number of Prefixes Reached (RFC 4486).
    Restart,
}

/// Peers that may connect without being named one by one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenRange {
    /// Addresses that may connect.
    pub prefix: Prefix,
    /// The most sessions at a time.
    pub limit: u32,
    /// Template; its name is a stem and its remote address is ignored.
    pub peer: PeerConfig,
}
