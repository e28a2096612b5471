//! Peers.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use turnpike_bgp_wire::{Asn, Family, Role};

use super::{AddPath, BGP_PORT, Bfd, LocalAs, PolicyChoice};

/// A remote speaker; its address is its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// How people call it; the address unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its address. Connections from and to it belong to the peer.
    pub address: IpAddr,
    /// The interface of a link-local address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its autonomous system: a number, or `internal`.
    pub remote_as: RemoteAs,
    /// Another AS number of ours in the place of `asn`, for an external peer that does not know the new one yet
    /// (RFC 7705): a number, or `{ asn = 64500, no_prepend = true, replace_as = true }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_as: Option<LocalAs>,
    /// What we are to this external peer (RFC 9234): `provider`, `customer`, `peer`, `rs` or `rs-client`. Paths that are
    /// only for customers then neither leave to it nor come in from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// No session unless the peer says its role, too.
    #[serde(default)]
    pub role_strict: bool,
    /// Source address of our connections; the only destination accepted for the peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<IpAddr>,
    /// The peer's TCP port.
    #[serde(default = "bgp_port")]
    pub port: u16,
    /// Never connect, only accept.
    #[serde(default)]
    pub passive: bool,
    /// TTL of our packets: raise it for an external peer several hops away. 1 for external peers and 64 for
    /// internal ones unless given. Excludes `ttl_security`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// GTSM (RFC 5082): the peer is at most so many hops away (1: directly connected). We send with TTL 255, and
    /// packets that have come further are dropped by the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// File that holds the TCP-MD5 password (RFC 2385); the first line counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Hold time in seconds that we propose: 0 turns keepalives off, else at least 3 (RFC 4271 §4.2).
    #[serde(default = "hold_time")]
    pub hold_time: u16,
    /// Seconds between attempts to connect.
    #[serde(default = "connect_retry")]
    pub connect_retry: u16,
    /// Families to negotiate.
    #[serde(default = "families")]
    pub families: Vec<Family>,
    /// We reflect to and from it (internal peers only, RFC 4456).
    #[serde(default)]
    pub rr_client: bool,
    /// Next hop of what we announce to it.
    #[serde(default)]
    pub next_hop: NextHop,
    /// Graceful restart with this peer; `[graceful_restart] enabled` must be on too.
    #[serde(default = "yes")]
    pub graceful_restart: bool,
    /// Long-lived graceful restart (RFC 9494) with this peer, as `[graceful_restart] long_lived_time`; that unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_lived_time: Option<u32>,
    /// Tell it of paths that are kept as a last resort even if it does not know RFC 9494, with NO_EXPORT and LOCAL_PREF 0
    /// (§4.6; internal peers only).
    #[serde(default)]
    pub long_lived_fallback: bool,
    /// IPv4 paths over IPv6 next hops (RFC 8950).
    #[serde(default)]
    pub extended_next_hop: bool,
    /// Several paths of one prefix (RFC 7911), such as `{ receive = true, send = "all" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_path: Option<AddPath>,
    /// How often our own AS may stand in a received AS_PATH.
    #[serde(default)]
    pub allow_own_as: u8,
    /// What to take from it: `default`, `accept-all`, `reject-all`, or the name of a policy.
    #[serde(default)]
    pub import: PolicyChoice,
    /// What to give to it, likewise.
    #[serde(default)]
    pub export: PolicyChoice,
    /// Bound on the prefixes (with add-path: paths) taken from it, per family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefix: Option<MaxPrefix>,
    /// Watch the path to it with BFD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// Keeps the session down; the text goes to the peer (RFC 9003), at most 255 octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<String>,
}

impl Peer {
    /// A peer with the defaults of this file.
    #[must_use]
    pub fn new(address: IpAddr, remote_as: RemoteAs) -> Self {
        Self {
            name: None,
            address,
            interface: None,
            remote_as,
            local_as: None,
            role: None,
            role_strict: false,
            local_address: None,
            port: BGP_PORT,
            passive: false,
            ttl: None,
            ttl_security: None,
            password_file: None,
            hold_time: hold_time(),
            connect_retry: connect_retry(),
            families: families(),
            rr_client: false,
            next_hop: NextHop::Auto,
            graceful_restart: true,
            long_lived_time: None,
            long_lived_fallback: false,
            extended_next_hop: false,
            add_path: None,
            allow_own_as: 0,
            import: PolicyChoice::Default,
            export: PolicyChoice::Default,
            max_prefix: None,
            bfd: None,
            shutdown: None,
        }
    }

    /// Its name, or its address where it has none.
    #[must_use]
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.to_string())
    }
}

const fn bgp_port() -> u16 {
    BGP_PORT
}

const fn hold_time() -> u16 {
    90
}

const fn connect_retry() -> u16 {
    5
}

fn families() -> Vec<Family> {
    Family::ALL.to_vec()
}

const fn yes() -> bool {
    true
}

/// A peer's autonomous system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteAs {
    /// Ours.
    Internal,
    /// Any but ours: the one that its OPEN says.
    External,
    /// Any: its OPEN says whether the peer is internal or external (FRR 10's `remote-as auto`).
    Auto,
    /// This one; ours again makes an internal peer.
    Number(Asn),
}

impl RemoteAs {
    /// Whether it makes an internal peer, as far as that is known with this AS of ours, or with none yet.
    #[must_use]
    pub fn is_internal(self, own: Option<Asn>) -> Option<bool> {
        match self {
            Self::Internal => Some(true),
            Self::External => Some(false),
            Self::Auto => None,
            Self::Number(asn) => own.map(|own| own == asn),
        }
    }
}

impl Serialize for RemoteAs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Internal => serializer.serialize_str("internal"),
            Self::External => serializer.serialize_str("external"),
            Self::Auto => serializer.serialize_str("auto"),
            Self::Number(asn) => serializer.serialize_u32(asn.0),
        }
    }
}

impl<'de> Deserialize<'de> for RemoteAs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = RemoteAs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an AS number (1 to 4294967295), `internal`, `external` or `auto`")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<RemoteAs, E> {
                let unsigned = u64::try_from(value)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))?;
                self.visit_u64(unsigned)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<RemoteAs, E> {
                match u32::try_from(value) {
                    Ok(number) if number != 0 => Ok(RemoteAs::Number(Asn(number))),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<RemoteAs, E> {
                match (value, value.parse::<Asn>()) {
                    ("internal", _) => Ok(RemoteAs::Internal),
                    ("external", _) => Ok(RemoteAs::External),
                    ("auto", _) => Ok(RemoteAs::Auto),
                    (_, Ok(asn)) if asn.0 != 0 => Ok(RemoteAs::Number(asn)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Which next hop we announce.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextHop {
    /// Ourselves towards external peers and for what we originate; unchanged towards internal ones.
    #[default]
    Auto,
    /// Ourselves for everything but reflected paths (FRR's `next-hop-self`, BIRD's `next hop self ebgp`).
    SelfExternal,
    /// Ourselves for everything (FRR's `next-hop-self force`, BIRD's `next hop self`).
    SelfAlways,
    /// As received, towards external peers too.
    Unchanged,
}

/// Bound on the number of prefixes taken from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxPrefix {
    /// The most prefixes held per family; with add-path, the most paths.
    pub limit: u32,
    /// What happens beyond it.
    #[serde(default)]
    pub action: MaxPrefixAction,
}

/// What happens beyond [`MaxPrefix::limit`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaxPrefixAction {
    /// A warning; prefixes are still taken.
    Warn,
    /// A warning; further prefixes are dropped, the session stays.
    #[default]
    Discard,
    /// The session is reset (RFC 4486).
    Restart,
}
