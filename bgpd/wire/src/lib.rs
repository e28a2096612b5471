//! BGP-4 messages: decoding, encoding and the outcomes of RFC 7606, without I/O.
//!
//! A byte stream goes through [`Framer`]; each [`Frame`] is decoded by the type that its [`MessageType`] names:
//! [`Open`], [`Update`], [`Notification`], [`RouteRefresh`]. An `Err` of a decoder is always the [`Notification`]
//! that ends the session; milder mistakes are part of the decoded [`Update`]. Nothing here panics on any input.

mod asn;
mod attribute;
pub mod bmp;
mod capability;
mod community;
mod context;
mod family;
mod message;
pub mod mrt;
mod nlri;
mod notification;
mod open;
mod prefix;
mod reader;
mod role;
mod route_refresh;
mod update;

pub use asn::{Asn, ParseAsnError, RouterId};
pub use attribute::{
    Aggregator, AsPath, AsPathPattern, AttrCode, Attributes, Fault, NextHop, Origin, ParseAsPathPatternError,
    PartialBits, Problem, Segment, SegmentKind, Severity, UnknownAttribute,
};
pub use capability::{AddPathMode, Capability, GracefulRestartCapability, LongLivedFamily};
pub use community::{AnyCommunity, Community, ExtendedCommunity, LargeCommunity, ParseCommunityError};
pub use context::{DecodeContext, EncodeContext};
pub use family::{AfiSafi, Families, Family, PerFamily};
pub use message::{
    Frame, Framer, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, MessageType, encode_keepalive, encode_message,
};
pub use nlri::Nlri;
pub use notification::{
    Cause, Cease, FsmError, HeaderError, MAX_SHUTDOWN_TEXT, Notification, OpenError, RouteRefreshError,
    UpdateError,
};
pub use open::Open;
pub use prefix::{ParsePrefixError, Prefix, Prefix4, Prefix6};
pub use role::Role;
pub use route_refresh::{RouteRefresh, RouteRefreshKind};
pub use update::{EncodeError, Reach, Update, encode_end_of_rib, encode_reach, encode_unreach};
