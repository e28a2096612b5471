//! Capabilities in OPEN (RFC 5492).
//!
//! A capability that we do not know, or a known one whose value does not have its form, is kept as
//! [`Capability::Unknown`] and has no effect: RFC 5492 gives no reason to refuse a session over it.

use std::fmt;

use bytes::Bytes;

use crate::reader::Reader;
use crate::{AfiSafi, Asn, Role};

mod code {
    pub(super) const MULTIPROTOCOL: u8 = 1;
    pub(super) const ROUTE_REFRESH: u8 = 2;
    pub(super) const EXTENDED_NEXT_HOP: u8 = 5;
    pub(super) const EXTENDED_MESSAGE: u8 = 6;
    pub(super) const ROLE: u8 = 9;
    pub(super) const GRACEFUL_RESTART: u8 = 64;
    pub(super) const FOUR_OCTET_AS: u8 = 65;
    pub(super) const ADD_PATH: u8 = 69;
    pub(super) const ENHANCED_ROUTE_REFRESH: u8 = 70;
    pub(super) const LONG_LIVED: u8 = 71;
}

/// One capability.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Capability {
    /// A family (RFC 4760 §8).
    Multiprotocol(AfiSafi),
    /// ROUTE-REFRESH messages (RFC 2918).
    RouteRefresh,
    /// Next hops of another AFI (RFC 8950): family, and the next hop's AFI.
    ExtendedNextHop(Vec<(AfiSafi, u16)>),
    /// Messages of up to 65535 octets (RFC 8654).
    ExtendedMessage,
    /// What the sender is to its neighbour (RFC 9234 §4.1).
    Role(Role),
    /// Graceful restart (RFC 4724 §3).
    GracefulRestart(GracefulRestartCapability),
    /// Four-octet AS numbers, with the sender's own (RFC 6793 §3).
    FourOctetAs(Asn),
    /// Several paths for one prefix (RFC 7911 §4): family, and what the sender is able to do.
    AddPath(Vec<(AfiSafi, AddPathMode)>),
    /// Demarcation of route refresh (RFC 7313).
    EnhancedRouteRefresh,
    /// Long-lived graceful restart (RFC 9494 §3.1). Counts only beside [`Capability::GracefulRestart`].
    LongLived(Vec<LongLivedFamily>),
    /// Anything else.
    Unknown {
        /// Capability code.
        code: u8,
        /// Its value.
        value: Bytes,
    },
}

/// The value of the graceful restart capability.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GracefulRestartCapability {
    /// R: the sender has restarted; do not wait for its End-of-RIB before sending.
    pub restarted: bool,
    /// N: NOTIFICATIONs keep the paths as well (RFC 8538 §2).
    pub notification: bool,
    /// Seconds within which the sender expects to be back; twelve bits.
    pub restart_time: u16,
    /// Families for which the sender keeps forwarding, and whether it did so over its last restart (F).
    pub families: Vec<(AfiSafi, bool)>,
}

impl GracefulRestartCapability {
    /// The F bit for a family; `None` if the family is not listed.
    pub fn forwarding(&self, family: impl Into<AfiSafi>) -> Option<bool> {
        let family = family.into();
        self.families.iter().find(|(listed, _)| *listed == family).map(|(_, forwarding)| *forwarding)
    }
}

/// One family of the long-lived graceful restart capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LongLivedFamily {
    /// The family.
    pub family: AfiSafi,
    /// F: the sender kept forwarding for it over its last restart.
    pub forwarding: bool,
    /// Seconds for which stale paths may be kept after the restart time; 24 bits.
    pub stale_time: u32,
}

impl LongLivedFamily {
    /// The longest stale time, in seconds.
    pub const LONGEST: u32 = 0x00ff_ffff;
}

/// What the sender is able to do with several paths for a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AddPathMode {
    /// Receive them.
    Receive,
    /// Send them.
    Send,
    /// Both.
    Both,
}

impl AddPathMode {
    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(AddPathMode::Receive),
            2 => Some(AddPathMode::Send),
            3 => Some(AddPathMode::Both),
            _ => None,
        }
    }

    const fn code(self) -> u8 {
        match self {
            AddPathMode::Receive => 1,
            AddPathMode::Send => 2,
            AddPathMode::Both => 3,
        }
    }

    /// The sender takes several paths.
    pub const fn receives(self) -> bool {
        matches!(self, AddPathMode::Receive | AddPathMode::Both)
    }

    /// The sender gives several paths.
    pub const fn sends(self) -> bool {
        matches!(self, AddPathMode::Send | AddPathMode::Both)
    }
}

impl Capability {
    /// Decodes one value. Never fails: see the module's head.
    pub(crate) fn decode(code: u8, value: &[u8]) -> Self {
        Self::decode_known(code, value)
            .unwrap_or_else(|| Capability::Unknown { code, value: Bytes::copy_from_slice(value) })
    }

    fn decode_known(code: u8, value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let capability = match code {
            code::MULTIPROTOCOL => {
                let afi = reader.u16()?;
                // The octet between is reserved: whatever it holds is ignored (RFC 4760 §8).
                reader.u8()?;
                Capability::Multiprotocol(AfiSafi { afi, safi: reader.u8()? })
            }
            code::ROUTE_REFRESH => Capability::RouteRefresh,
            code::EXTENDED_NEXT_HOP => {
                let one = |reader: &mut Reader<'_>| {
                    let (afi, safi) = (reader.u16()?, reader.u16()?);
                    Some((AfiSafi { afi, safi: u8::try_from(safi).ok()? }, reader.u16()?))
                };
                Capability::ExtendedNextHop(list(&mut reader, one)?)
            }
            code::EXTENDED_MESSAGE => Capability::ExtendedMessage,
            code::ROLE => Capability::Role(Role::from_code(reader.u8()?)?),
            code::GRACEFUL_RESTART => Capability::GracefulRestart(decode_graceful(&mut reader)?),
            code::FOUR_OCTET_AS => Capability::FourOctetAs(Asn(reader.u32()?)),
            code::ADD_PATH => {
                let one = |reader: &mut Reader<'_>| {
                    let family = AfiSafi { afi: reader.u16()?, safi: reader.u8()? };
                    Some((family, AddPathMode::from_code(reader.u8()?)?))
                };
                Capability::AddPath(list(&mut reader, one)?)
            }
            code::ENHANCED_ROUTE_REFRESH => Capability::EnhancedRouteRefresh,
            code::LONG_LIVED => Capability::LongLived(list(&mut reader, long_lived_family)?),
            _ => return None,
        };
        reader.is_empty().then_some(capability)
    }

    /// Appends code, length and value. A list too long for the length octet is cut at an entry.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[self.code(), 0]);
        match self {
            Capability::Multiprotocol(family) => {
                out.extend_from_slice(&family.afi.to_be_bytes());
                out.extend_from_slice(&[0, family.safi]);
            }
            Capability::RouteRefresh | Capability::ExtendedMessage | Capability::EnhancedRouteRefresh => {}
            Capability::ExtendedNextHop(entries) => {
                for (family, next_hop_afi) in entries.iter().take(255 / 6) {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[0, family.safi]);
                    out.extend_from_slice(&next_hop_afi.to_be_bytes());
                }
            }
            Capability::Role(role) => out.push(role.code()),
            Capability::GracefulRestart(value) => encode_graceful(value, out),
            Capability::FourOctetAs(asn) => out.extend_from_slice(&asn.0.to_be_bytes()),
            Capability::AddPath(entries) => {
                for (family, mode) in entries.iter().take(255 / 4) {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[family.safi, mode.code()]);
                }
            }
            Capability::LongLived(entries) => {
                for entry in entries.iter().take(255 / 7) {
                    out.extend_from_slice(&entry.family.afi.to_be_bytes());
                    out.extend_from_slice(&[
                        entry.family.safi,
                        if entry.forwarding { FORWARDING } else { 0 },
                    ]);
                    let [_, time @ ..] = entry.stale_time.min(LongLivedFamily::LONGEST).to_be_bytes();
                    out.extend_from_slice(&time);
                }
            }
            Capability::Unknown { value, .. } => {
                out.extend_from_slice(value.get(..255).unwrap_or(value));
            }
        }
        let len = (out.len() - at - 2) as u8;
        if let Some(field) = out.get_mut(at + 1) {
            *field = len;
        }
    }

    /// Capability code on the wire.
    pub const fn code(&self) -> u8 {
        match self {
            Capability::Multiprotocol(_) => code::MULTIPROTOCOL,
            Capability::RouteRefresh => code::ROUTE_REFRESH,
            Capability::ExtendedNextHop(_) => code::EXTENDED_NEXT_HOP,
            Capability::ExtendedMessage => code::EXTENDED_MESSAGE,
            Capability::Role(_) => code::ROLE,
            Capability::GracefulRestart(_) => code::GRACEFUL_RESTART,
            Capability::FourOctetAs(_) => code::FOUR_OCTET_AS,
            Capability::AddPath(_) => code::ADD_PATH,
            Capability::EnhancedRouteRefresh => code::ENHANCED_ROUTE_REFRESH,
            Capability::LongLived(_) => code::LONG_LIVED,
            Capability::Unknown { code, .. } => *code,
        }
    }
}

fn list<'a, T>(reader: &mut Reader<'a>, mut one: impl FnMut(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
    let mut entries = Vec::new();
    while !reader.is_empty() {
        entries.push(one(reader)?);
    }
    Some(entries)
}

fn long_lived_family(reader: &mut Reader<'_>) -> Option<LongLivedFamily> {
    let family = AfiSafi { afi: reader.u16()?, safi: reader.u8()? };
    let forwarding = reader.u8()? & FORWARDING != 0;
    let stale_time = u32::from(reader.u8()?) << 16 | u32::from(reader.u16()?);
    Some(LongLivedFamily { family, forwarding, stale_time })
}

const RESTARTED: u16 = 0x8000;
const NOTIFICATION: u16 = 0x4000;
const TIME_MASK: u16 = 0x0fff;
const FORWARDING: u8 = 0x80;

fn decode_graceful(reader: &mut Reader<'_>) -> Option<GracefulRestartCapability> {
    let word = reader.u16()?;
    let one = |reader: &mut Reader<'_>| {
        let family = AfiSafi { afi: reader.u16()?, safi: reader.u8()? };
        Some((family, reader.u8()? & FORWARDING != 0))
    };
    Some(GracefulRestartCapability {
        restarted: word & RESTARTED != 0,
        notification: word & NOTIFICATION != 0,
        restart_time: word & TIME_MASK,
        families: list(reader, one)?,
    })
}

fn encode_graceful(value: &GracefulRestartCapability, out: &mut Vec<u8>) {
    let mut word = value.restart_time.min(TIME_MASK);
    if value.restarted {
        word |= RESTARTED;
    }
    if value.notification {
        word |= NOTIFICATION;
    }
    out.extend_from_slice(&word.to_be_bytes());
    for (family, forwarding) in value.families.iter().take(253 / 4) {
        out.extend_from_slice(&family.afi.to_be_bytes());
        out.extend_from_slice(&[family.safi, if *forwarding { FORWARDING } else { 0 }]);
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Capability::Multiprotocol(family) => write!(f, "multiprotocol {family}"),
            Capability::RouteRefresh => f.write_str("route refresh"),
            Capability::ExtendedNextHop(entries) => {
                f.write_str("extended next hop")?;
                entries.iter().try_for_each(|(family, afi)| write!(f, " {family} over afi {afi}"))
            }
            Capability::ExtendedMessage => f.write_str("extended message"),
            Capability::Role(role) => write!(f, "role {role}"),
            Capability::GracefulRestart(value) => {
                write!(f, "graceful restart {} s", value.restart_time)?;
                value.families.iter().try_for_each(|(family, _)| write!(f, " {family}"))
            }
            Capability::FourOctetAs(_) => f.write_str("four-octet AS"),
            Capability::AddPath(entries) => {
                f.write_str("add-path")?;
                entries.iter().try_for_each(|(family, mode)| {
                    let word = match mode {
                        AddPathMode::Receive => "receive",
                        AddPathMode::Send => "send",
                        AddPathMode::Both => "both",
                    };
                    write!(f, " {family} {word}")
                })
            }
            Capability::EnhancedRouteRefresh => f.write_str("enhanced route refresh"),
            Capability::LongLived(entries) => {
                f.write_str("long-lived graceful restart")?;
                entries.iter().try_for_each(|entry| write!(f, " {} {} s", entry.family, entry.stale_time))
            }
            Capability::Unknown { code: 73, .. } => f.write_str("host name"),
            Capability::Unknown { code, .. } => write!(f, "capability {code}"),
        }
    }
}
