//! What can go wrong, for the whole and for one prefix.

use std::fmt;
use std::io;

use ipnetwork::IpNetwork;

/// The kernel cannot be spoken to, or must not be written to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket call failed.
    #[error("netlink: {doing}")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a dump or lookup.
    #[error("netlink: the kernel refused {doing}: {message}")]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// Extended ACK or errno in words.
        message: String,
    },
    /// Another process of this network namespace holds the same protocol number.
    #[error("another process already manages routes with protocol {protocol} in this network namespace")]
    OwnerRunning {
        /// The number in question.
        protocol: u8,
    },
    /// A route has our protocol number but was not written by this crate.
    #[error(
        "protocol {protocol} is used by another program: it has a route to {prefix} in a form that is not ours; \
         choose another protocol number"
    )]
    ProtocolInUse {
        /// The number in question.
        protocol: u8,
        /// A route that shows it.
        prefix: IpNetwork,
    },
    /// A number from the assigned ones.
    #[error("route protocol {0} is assigned to another program; choose one that is not, such as 201 or 202")]
    AssignedProtocol(u8),
}

impl Error {
    pub(crate) fn socket(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Socket { doing, source }
    }
}

/// What a [`Failure`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The route to this prefix.
    Route(IpNetwork),
    /// The nexthop object of this ID; routes that need it wait.
    Nexthop(u32),
}

/// Something that the kernel does not hold as wanted. It is tried again when something changes in the kernel that
/// could help, and at each [`crate::Routes::retry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What could not be written.
    pub subject: Subject,
    /// `errno` of the request.
    pub errno: i32,
    /// Why, in the kernel's words where it gives any.
    pub message: String,
}

impl Failure {
    /// Someone else's route with the same prefix, table and metric is in the way; it is left alone.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.errno == libc::EEXIST
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject {
            Subject::Route(prefix) => write!(f, "route {prefix}: {}", self.message),
            Subject::Nexthop(id) => write!(f, "nexthop {id}: {}", self.message),
        }
    }
}
