//! BGP roles (RFC 9234).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a speaker is to its external neighbour (RFC 9234 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It sells transit to the neighbour.
    Provider,
    /// A route server.
    Rs,
    /// A client of a route server.
    RsClient,
    /// It buys transit from the neighbour.
    Customer,
    /// Both exchange their own and their customers' routes.
    Peer,
}

impl Role {
    /// All of them, in the order of their numbers.
    pub const ALL: [Role; 5] = [Role::Provider, Role::Rs, Role::RsClient, Role::Customer, Role::Peer];

    /// The number on the wire (RFC 9234 §4.1).
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From the number on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// What the neighbour has to be (RFC 9234 §4.2).
    pub const fn counterpart(self) -> Self {
        match self {
            Role::Provider => Role::Customer,
            Role::Rs => Role::RsClient,
            Role::RsClient => Role::Rs,
            Role::Customer => Role::Provider,
            Role::Peer => Role::Peer,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Role::Provider => "provider",
            Role::Rs => "rs",
            Role::RsClient => "rs-client",
            Role::Customer => "customer",
            Role::Peer => "peer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| format!("`{text}` is no role: provider, rs, rs-client, customer or peer"))
    }
}
