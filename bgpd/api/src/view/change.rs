//! Changes: what one would do, and what operators did.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use turnpike_bgp_wire::Prefix;

use super::PathView;
use crate::message::Table;

/// What a configuration would change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DiffView {
    /// Peers that it touches, by address.
    pub sessions: Vec<SessionChange>,
    /// Tables that it changes: Loc-RIB, then what is taken from each peer, then what each is told.
    pub tables: Vec<TableDiff>,
    /// What is worth knowing besides, in words.
    pub notes: Vec<String>,
}

/// What happens to a peer's session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionChange {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// What happens.
    pub effect: Effect,
    /// Fields of the peer that change.
    pub fields: Vec<String>,
    /// It is Established at present.
    pub established: bool,
}

/// What a change does to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The peer is new.
    Start,
    /// The peer goes.
    Stop,
    /// The session ends and begins anew.
    Reset,
    /// The session ends and stays down.
    ShutDown,
    /// Nothing now; the next connection is made differently.
    NextConnection,
    /// The session stays.
    Stays,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Start => "starts",
            Self::Stop => "stops",
            Self::Reset => "resets",
            Self::ShutDown => "shuts down",
            Self::NextConnection => "stays; next connection differs",
            Self::Stays => "stays",
        })
    }
}

/// Differences of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableDiff {
    /// Which; peers by name.
    pub table: Table,
    /// Prefixes that appear.
    pub added: usize,
    /// Prefixes that go.
    pub removed: usize,
    /// Prefixes whose path becomes another.
    pub changed: usize,
    /// The first of them, in prefix order.
    pub prefixes: Vec<PrefixChange>,
}

/// One prefix before and after. In an `In` table a path that import refuses counts as none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrefixChange {
    /// Destination.
    pub prefix: Prefix,
    /// As it is.
    pub before: Option<PathView>,
    /// As it would be.
    pub after: Option<PathView>,
}

/// A configuration that is rolled back unless it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingView {
    /// Seconds left.
    pub seconds: u64,
    /// Who applied it.
    pub by: String,
}

/// Who asked, as the kernel says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Caller {
    /// User of the process.
    pub uid: u32,
    /// Process, where it could be told.
    pub pid: Option<i32>,
    /// User who logged in before becoming root (audit's login uid), where the kernel knows.
    pub login_uid: Option<u32>,
    /// Name of the program.
    pub program: String,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.login_uid {
            Some(login) if login != self.uid => write!(f, "uid {login} as uid {}", self.uid)?,
            _ => write!(f, "uid {}", self.uid)?,
        }
        if !self.program.is_empty() {
            write!(f, " ({}", self.program)?;
            if let Some(pid) = self.pid {
                write!(f, " {pid}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Seconds since 1970, UTC.
    pub time: u64,
    /// Who; `None`: the daemon itself (a rollback after a restart, a file that changed on disk).
    pub who: Option<Caller>,
    /// What: `apply`, `confirm`, `announce` and so on.
    pub what: String,
    /// Details in words.
    pub detail: String,
    /// What it was before; `null` where nothing was.
    pub before: serde_json::Value,
    /// What it is after.
    pub after: serde_json::Value,
}
