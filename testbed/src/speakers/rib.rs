//! A path in a BGP table, the same for every daemon.
//!
//! Normalised: LOCAL_PREF is 100 for learned paths that carry none (every daemon's default, shown by some); a path of the
//! speaker's own has no next hop and no LOCAL_PREF; communities are sorted; link-local next hops and paths that have come
//! back to the speaker are left out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use serde::Serialize;

/// LOCAL_PREF of a path that was received without it.
pub(super) const DEFAULT_LOCAL_PREF: u32 = 100;

/// A path. The order of the fields is the order of dumps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RibEntry {
    /// The prefix.
    pub prefix: IpNetwork,
    /// The peer that sent it; none for the speaker's own.
    pub from_peer: Option<IpAddr>,
    /// Whether it is the one that the speaker prefers.
    pub best: bool,
    /// NEXT_HOP as received, none for the speaker's own.
    pub next_hop: Option<IpAddr>,
    /// AS_PATH as text: `65001 65002 {65003,65004}`.
    pub as_path: String,
    /// ORIGIN.
    pub origin: Origin,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Communities (RFC 1997) as `65001:100` and large ones (RFC 8092) as `65001:1:2`.
    pub communities: Vec<String>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456), the latest reflector first.
    pub cluster_list: Vec<Ipv4Addr>,
}

impl RibEntry {
    /// A path of the speaker's own, without attributes.
    pub(super) fn new(prefix: IpNetwork) -> Self {
        Self {
            prefix,
            from_peer: None,
            best: false,
            next_hop: None,
            as_path: String::new(),
            origin: Origin::Igp,
            local_pref: None,
            med: None,
            communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
        }
    }

    /// Makes dumps of different daemons comparable. To be called last.
    pub(super) fn normalise(mut self) -> Self {
        self.communities.sort();
        self.communities.dedup();
        if self.from_peer.is_some() {
            self.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
        } else {
            self.local_pref = None;
            self.next_hop = None;
        }
        self
    }
}

impl fmt::Display for RibEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.best { "*" } else { " " }, self.prefix)?;
        match (self.from_peer, self.next_hop) {
            (None, _) => write!(f, " own")?,
            (Some(peer), Some(hop)) => write!(f, " from {peer} via {hop}")?,
            (Some(peer), None) => write!(f, " from {peer} without next hop")?,
        }
        write!(f, " path [{}] {}", self.as_path, self.origin)?;
        if let Some(value) = self.local_pref {
            write!(f, " lp {value}")?;
        }
        if let Some(value) = self.med {
            write!(f, " med {value}")?;
        }
        if !self.communities.is_empty() {
            write!(f, " communities {}", self.communities.join(" "))?;
        }
        if let Some(id) = self.originator_id {
            write!(f, " originator {id}")?;
        }
        if !self.cluster_list.is_empty() {
            let ids: Vec<String> = self.cluster_list.iter().map(ToString::to_string).collect();
            write!(f, " clusters {}", ids.join(" "))?;
        }
        Ok(())
    }
}

/// A table as text, one line per path.
#[must_use]
pub fn describe(rib: &[RibEntry]) -> String {
    rib.iter().map(|entry| format!("{entry}\n")).collect()
}

/// ORIGIN (RFC 4271 §5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Interior.
    Igp,
    /// From EGP.
    Egp,
    /// By other means.
    Incomplete,
}

impl Origin {
    /// Reads the word that daemons use, in any case.
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "igp" => Some(Self::Igp),
            "egp" => Some(Self::Egp),
            "incomplete" => Some(Self::Incomplete),
            _ => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "igp",
            Self::Egp => "egp",
            Self::Incomplete => "incomplete",
        })
    }
}

/// AS_PATH as text in one spelling: `65001 {65002 65003}` becomes `65001 {65002,65003}`.
pub(super) fn as_path(value: &str) -> String {
    let mut out = String::new();
    let mut in_set = false;
    for word in value.replace('{', " { ").replace('}', " } ").split_whitespace() {
        let glue = match (word, out.chars().last()) {
            ("}", _) | (_, None | Some('{')) => "",
            _ if in_set => ",",
            _ => " ",
        };
        in_set = (in_set || word == "{") && word != "}";
        out.push_str(glue);
        out.push_str(word);
    }
    out
}

/// A community as numbers, where FRR says a name.
pub(super) fn community(text: &str) -> String {
    let number = match text {
        "graceful-shutdown" => 0,
        "accept-own" => 1,
        "llgr-stale" => 6,
        "no-llgr" => 7,
        "blackhole" => 666,
        "no-export" => 0xff01,
        "no-advertise" => 0xff02,
        "local-AS" => 0xff03,
        "no-peer" => 0xff04,
        _ => return text.to_owned(),
    };
    format!("65535:{number}")
}
