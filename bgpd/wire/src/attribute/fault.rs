//! Mistakes in UPDATEs and what they cost (RFC 7606).

use std::fmt;

use super::AttrCode;
use crate::notification::UpdateError;

/// What a mistake costs, the mildest first. The worst of an UPDATE's mistakes decides (RFC 7606 §3 h).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// The attribute is ignored.
    Discard,
    /// All prefixes announced in the UPDATE count as withdrawn.
    Withdraw,
    /// The session ends.
    Reset,
}

impl Severity {
    /// In the words of RFC 7606 §2.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Discard => "attribute discard",
            Severity::Withdraw => "treat-as-withdraw",
            Severity::Reset => "session reset",
        }
    }
}

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Fault {
    /// The value's length is not one that the attribute can have.
    #[error("length {0} is not allowed")]
    Length(usize),
    /// The attribute runs past the end of the attributes, or its header is cut off.
    #[error("runs past the end")]
    Truncated,
    /// Optional or Transitive bit not as specified.
    #[error("flags {0:#04x} are not allowed")]
    Flags(u8),
    /// Stands twice; the first counts.
    #[error("stands twice")]
    Duplicate,
    /// Must be there.
    #[error("is missing")]
    Missing,
    /// A well-known attribute that we do not know.
    #[error("is said to be well-known but is not")]
    UnknownWellKnown,
    /// A value without a meaning.
    #[error("value {0} has no meaning")]
    Value(u8),
    /// AS 0 (RFC 7607).
    #[error("holds AS 0")]
    AsZero,
    /// Segment type, count or length.
    #[error("has a malformed segment")]
    Segment,
    /// Not an address of a router.
    #[error("is not an address of a router")]
    Address,
    /// Prefixes that cannot be told apart.
    #[error("holds a malformed prefix")]
    Nlri,
    /// A family that the session does not carry.
    #[error("family is not in force")]
    Family,
}

impl Fault {
    /// The subcode to send when the fault ends the session.
    pub(crate) fn subcode(self, code: AttrCode) -> UpdateError {
        match (self, code) {
            (Fault::Truncated | Fault::Duplicate, _) => UpdateError::MalformedAttributeList,
            (Fault::Missing, _) => UpdateError::MissingWellKnown,
            (Fault::UnknownWellKnown, _) => UpdateError::UnrecognizedWellKnown,
            (Fault::Flags(_), _) => UpdateError::AttributeFlags,
            (_, AttrCode::MpReach | AttrCode::MpUnreach) => UpdateError::OptionalAttribute,
            (_, AttrCode::AsPath) => UpdateError::MalformedAsPath,
            (Fault::Length(_), _) => UpdateError::AttributeLength,
            (_, AttrCode::Origin) => UpdateError::InvalidOrigin,
            (_, AttrCode::NextHop) => UpdateError::InvalidNextHop,
            (Fault::Nlri, _) => UpdateError::InvalidNetworkField,
            _ => UpdateError::OptionalAttribute,
        }
    }
}

/// A mistake that did not end the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where.
    pub attribute: AttrCode,
    /// What.
    pub fault: Fault,
    /// What it cost.
    pub severity: Severity,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.attribute, self.fault)
    }
}
