//! Error codes and subcodes with their names from the IANA registry.

use std::fmt;

/// Declares the subcodes of one error code: variants, numbers and words in one place.
macro_rules! subcodes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $words:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A number without a name here; zero is "unspecific".
            Other(u8),
        }

        impl $name {
            pub(crate) const fn from_code(code: u8) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    other => Self::Other(other),
                }
            }

            pub(crate) const fn code(self) -> u8 {
                match self {
                    $(Self::$variant => $code,)*
                    Self::Other(code) => code,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($words),)*
                    Self::Other(0) => f.write_str("Unspecific"),
                    Self::Other(code) => write!(f, "subcode {code}"),
                }
            }
        }
    };
}

subcodes! {
    /// Message Header Error (RFC 4271 §6.1).
    HeaderError {
        /// The marker is not all ones.
        NotSynchronized = 1, "Connection Not Synchronized";
        /// Too short, too long, or wrong for the type. Data: the length.
        BadLength = 2, "Bad Message Length";
        /// Data: the type.
        BadType = 3, "Bad Message Type";
    }
}

subcodes! {
    /// OPEN Message Error (RFC 4271 §6.2).
    OpenError {
        /// Data: the highest version that we speak.
        UnsupportedVersion = 1, "Unsupported Version Number";
        /// Not the AS that is configured.
        BadPeerAs = 2, "Bad Peer AS";
        /// Zero, or our own (RFC 6286 §2.2).
        BadIdentifier = 3, "Bad BGP Identifier";
        /// Not a capabilities parameter.
        UnsupportedParameter = 4, "Unsupported Optional Parameter";
        /// One or two seconds, or too short for us.
        UnacceptableHoldTime = 6, "Unacceptable Hold Time";
        /// RFC 5492 §5. Data: the capabilities missed.
        UnsupportedCapability = 7, "Unsupported Capability";
        /// RFC 9234 §4.2.
        RoleMismatch = 11, "Role Mismatch";
    }
}

subcodes! {
    /// UPDATE Message Error (RFC 4271 §6.3, as narrowed by RFC 7606).
    UpdateError {
        /// Lengths that do not fit, or MP_REACH_NLRI twice.
        MalformedAttributeList = 1, "Malformed Attribute List";
        /// Data: the attribute.
        UnrecognizedWellKnown = 2, "Unrecognized Well-known Attribute";
        /// Data: the type code.
        MissingWellKnown = 3, "Missing Well-known Attribute";
        /// Data: the attribute.
        AttributeFlags = 4, "Attribute Flags Error";
        /// Data: the attribute.
        AttributeLength = 5, "Attribute Length Error";
        /// Data: the attribute.
        InvalidOrigin = 6, "Invalid ORIGIN Attribute";
        /// Data: the attribute.
        InvalidNextHop = 8, "Invalid NEXT_HOP Attribute";
        /// Data: the attribute.
        OptionalAttribute = 9, "Optional Attribute Error";
        /// A prefix that is too long or cut off.
        InvalidNetworkField = 10, "Invalid Network Field";
        /// Unknown segments, or lengths that do not fit.
        MalformedAsPath = 11, "Malformed AS_PATH";
    }
}

subcodes! {
    /// Finite State Machine Error (RFC 6608): a message that the state does not allow. Data: its type.
    FsmError {
        /// In OpenSent.
        InOpenSent = 1, "Unexpected Message in OpenSent State";
        /// In OpenConfirm.
        InOpenConfirm = 2, "Unexpected Message in OpenConfirm State";
        /// In Established.
        InEstablished = 3, "Unexpected Message in Established State";
    }
}

subcodes! {
    /// Cease (RFC 4486 and later).
    Cease {
        /// Data: family and limit.
        MaximumPrefixes = 1, "Maximum Number of Prefixes Reached";
        /// For now, with a text (RFC 9003).
        AdministrativeShutdown = 2, "Administrative Shutdown";
        /// The peer is no longer in the configuration.
        PeerDeconfigured = 3, "Peer De-configured";
        /// And back again, with a text (RFC 9003).
        AdministrativeReset = 4, "Administrative Reset";
        /// An address that is no peer's.
        ConnectionRejected = 5, "Connection Rejected";
        /// What the session was built on has changed.
        ConfigurationChange = 6, "Other Configuration Change";
        /// The other connection stays (RFC 4271 §6.8).
        ConnectionCollision = 7, "Connection Collision Resolution";
        /// Memory or the like.
        OutOfResources = 8, "Out of Resources";
        /// Wraps another notification: paths must not be kept (RFC 8538).
        HardReset = 9, "Hard Reset";
        /// BFD says that the peer is gone (RFC 9384).
        BfdDown = 10, "BFD Down";
    }
}

subcodes! {
    /// ROUTE-REFRESH Message Error (RFC 7313 §5).
    RouteRefreshError {
        /// Data: the message.
        InvalidLength = 1, "Invalid Message Length";
    }
}

/// Error code and subcode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// Code 1.
    Header(HeaderError),
    /// Code 2.
    Open(OpenError),
    /// Code 3.
    Update(UpdateError),
    /// Code 4: nothing heard for the hold time.
    HoldTimerExpired,
    /// Code 5.
    Fsm(FsmError),
    /// Code 6.
    Cease(Cease),
    /// Code 7.
    RouteRefresh(RouteRefreshError),
    /// Code 8: the peer has not read for the send hold time (RFC 9687).
    SendHoldTimerExpired,
    /// Any other pair of code and subcode.
    Other(u8, u8),
}

impl Cause {
    /// From the two octets on the wire.
    pub const fn from_codes(code: u8, subcode: u8) -> Self {
        match (code, subcode) {
            (1, sub) => Cause::Header(HeaderError::from_code(sub)),
            (2, sub) => Cause::Open(OpenError::from_code(sub)),
            (3, sub) => Cause::Update(UpdateError::from_code(sub)),
            (4, 0) => Cause::HoldTimerExpired,
            (5, sub) => Cause::Fsm(FsmError::from_code(sub)),
            (6, sub) => Cause::Cease(Cease::from_code(sub)),
            (7, sub) => Cause::RouteRefresh(RouteRefreshError::from_code(sub)),
            (8, 0) => Cause::SendHoldTimerExpired,
            (code, sub) => Cause::Other(code, sub),
        }
    }

    /// The two octets on the wire.
    pub const fn codes(self) -> (u8, u8) {
        match self {
            Cause::Header(error) => (1, error.code()),
            Cause::Open(error) => (2, error.code()),
            Cause::Update(error) => (3, error.code()),
            Cause::HoldTimerExpired => (4, 0),
            Cause::Fsm(error) => (5, error.code()),
            Cause::Cease(cease) => (6, cease.code()),
            Cause::RouteRefresh(error) => (7, error.code()),
            Cause::SendHoldTimerExpired => (8, 0),
            Cause::Other(code, sub) => (code, sub),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Header(error) => write!(f, "Message Header Error / {error}"),
            Cause::Open(error) => write!(f, "OPEN Message Error / {error}"),
            Cause::Update(error) => write!(f, "UPDATE Message Error / {error}"),
            Cause::HoldTimerExpired => f.write_str("Hold Timer Expired"),
            Cause::Fsm(error) => write!(f, "Finite State Machine Error / {error}"),
            Cause::Cease(cease) => write!(f, "Cease / {cease}"),
            Cause::RouteRefresh(error) => write!(f, "ROUTE-REFRESH Message Error / {error}"),
            Cause::SendHoldTimerExpired => f.write_str("Send Hold Timer Expired"),
            Cause::Other(code, sub) => write!(f, "code {code} / subcode {sub}"),
        }
    }
}
