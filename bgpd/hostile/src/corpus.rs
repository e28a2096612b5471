//! The corpus of malformed messages, and its little language.
//!
//! A file holds cases. A case is lines of a keyword and its value, then messages:
//!
//! ```text
//! case ORIGIN with an unknown value
//! clause RFC 7606 §7.1
//! expect withdraw
//! update
//!     0000                        # no withdrawn routes
//!     ( 40 01 01 03 $path $hop )  # attributes; round brackets write a length of two octets in front
//!     $prefix
//! ```
//!
//! | keyword | value |
//! |---|---|
//! | `expect` | `ok` · `discard` · `withdraw` · `reset CODE/SUBCODE [data HEX…]` · `close` |
//! | `session` | any of `internal`, `two-octet`, `extended-message`, `extended-next-hop`, `add-path`, `ipv4-only`; an external session with four-octet numbers and both families otherwise |
//! | `state` | `opensent` · `openconfirm` · `established` (the default): when the messages arrive |
//! | `prefix` | what the UPDATE announces, 203.0.113.0/24 unless given; `none` |
//!
//! A message begins with `open`, `update`, `notification`, `keepalive`, `refresh` (header written for it) or `raw`
//! (header and all spelled out). Its octets are hex digits; `N*XX` repeats an octet; `( … )` and `[ … ]` write a length
//! of two octets or one in front of what they enclose; `$name` stands for one of [`MACROS`]; `#` begins a comment.

mod read;

use turnpike_bgp_wire::{Capability, DecodeContext, Families, Prefix};

pub use read::CorpusError;

/// Our AS in every case; internal peers have it too.
pub const LOCAL_AS: u32 = 65001;
/// The AS of external peers.
pub const EXTERNAL_AS: u32 = 65002;

/// Names of the pieces of which good messages are made.
pub const MACROS: [(&str, &str); 12] = [
    ("marker", "16*ff"),
    ("origin", "40 01 01 00"),
    // AS_SEQUENCE 65002.
    ("path", "40 02 06 02 01 0000fdea"),
    ("path2", "40 02 04 02 01 fdea"),
    // 192.0.2.2
    ("hop", "40 03 04 c0000202"),
    ("good", "$origin $path $hop"),
    ("good2", "$origin $path2 $hop"),
    // 203.0.113.0/24
    ("prefix", "18 cb0071"),
    // 2001:db8::2
    ("hop6", "20010db8 00000000 00000000 00000002"),
    // 2001:db8:1::/48
    ("prefix6", "30 20010db80001"),
    // Version 4, AS 65002, hold time 90, identifier 192.0.2.2.
    ("open", "04 fdea 005a c0000202"),
    // Capabilities: both families, four-octet AS 65002.
    ("caps", "0104 0001 00 01  0104 0002 00 01  4104 0000fdea"),
];

/// The files, by name.
pub const FILES: [(&str, &str); 7] = [
    ("header", include_str!("../../wire/tests/corpus/header.txt")),
    ("open", include_str!("../../wire/tests/corpus/open.txt")),
    ("update", include_str!("../../wire/tests/corpus/update.txt")),
    ("attributes", include_str!("../../wire/tests/corpus/attributes.txt")),
    ("multiprotocol", include_str!("../../wire/tests/corpus/multiprotocol.txt")),
    ("refresh", include_str!("../../wire/tests/corpus/refresh.txt")),
    ("notification", include_str!("../../wire/tests/corpus/notification.txt")),
];

/// What must come of a case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expect {
    /// The message counts; the session stays.
    Ok,
    /// One attribute (or family) is ignored, the rest counts; the session stays.
    Discard,
    /// The prefixes count as withdrawn; the session stays.
    Withdraw,
    /// NOTIFICATION with these codes.
    Reset {
        /// Error code.
        code: u8,
        /// Error subcode.
        subcode: u8,
        /// The data, where the clause says what they are.
        data: Option<Vec<u8>>,
    },
    /// The connection ends without a word.
    Close,
}

impl Expect {
    /// The session outlives the case.
    pub const fn survives(&self) -> bool {
        matches!(self, Expect::Ok | Expect::Discard | Expect::Withdraw)
    }
}

/// When the messages arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Instead of the peer's OPEN.
    OpenSent,
    /// After the peer's OPEN, instead of its KEEPALIVE.
    OpenConfirm,
    /// At any time later.
    #[default]
    Established,
}

/// What the session has agreed on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Session {
    /// The peer is in our AS.
    pub internal: bool,
    /// The peer does not announce four-octet AS numbers.
    pub two_octet: bool,
    /// Messages may be long.
    pub extended_message: bool,
    /// IPv4 paths may have IPv6 next hops.
    pub extended_next_hop: bool,
    /// NLRI have path identifiers.
    pub add_path: bool,
    /// The peer does not announce IPv6.
    pub ipv4_only: bool,
}

impl Session {
    /// The peer's AS.
    pub const fn remote_as(self) -> u32 {
        if self.internal { LOCAL_AS } else { EXTERNAL_AS }
    }

    /// Families in force.
    pub const fn families(self) -> Families {
        Families { ipv4: true, ipv6: !self.ipv4_only }
    }

    /// What the peer announces in its OPEN.
    pub fn capabilities(self) -> Vec<Capability> {
        use turnpike_bgp_wire::{AddPathMode, Asn, Family};
        let families: Vec<Family> = self.families().members().collect();
        let mut all: Vec<Capability> =
            families.iter().map(|family| Capability::Multiprotocol(family.code())).collect();
        all.extend([Capability::RouteRefresh, Capability::EnhancedRouteRefresh]);
        if self.extended_message {
            all.push(Capability::ExtendedMessage);
        }
        if self.extended_next_hop {
            all.push(Capability::ExtendedNextHop(vec![(Family::Ipv4.code(), Family::Ipv6.code().afi)]));
        }
        if self.add_path {
            all.push(Capability::AddPath(families.iter().map(|f| (f.code(), AddPathMode::Both)).collect()));
        }
        if !self.two_octet {
            all.push(Capability::FourOctetAs(Asn(self.remote_as())));
        }
        all
    }

    /// How our side reads the peer's UPDATEs.
    pub fn decode_context(self) -> DecodeContext {
        let add_path = if self.add_path { self.families() } else { Families::NONE };
        DecodeContext {
            internal: self.internal,
            four_octet_as: !self.two_octet,
            families: self.families(),
            add_path,
            extended_next_hop: self.extended_next_hop,
        }
    }
}

/// One case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// The file it stands in.
    pub file: &'static str,
    /// What is wrong, in words; unique.
    pub name: String,
    /// The clause that decides what must come of it.
    pub clause: String,
    /// What must come of it.
    pub expect: Expect,
    /// What the session has agreed on.
    pub session: Session,
    /// When the messages arrive.
    pub state: State,
    /// What the UPDATE announces.
    pub prefix: Option<Prefix>,
    /// The messages, headers included.
    pub messages: Vec<Vec<u8>>,
}

/// All cases of all files.
///
/// # Errors
/// Names file and line of a mistake in the corpus.
pub fn cases() -> Result<Vec<Case>, CorpusError> {
    let mut all = Vec::new();
    for (file, text) in FILES {
        all.extend(read::file(file, text)?);
    }
    Ok(all)
}
