//! OPEN: what we say, and what both sides can do.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use turnpike_bgp_wire::{
    AddPathMode, AfiSafi, Asn, Capability, Cause, DecodeContext, EncodeContext, Families, Family,
    GracefulRestartCapability, LongLivedFamily, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, Notification, Open,
    OpenError, PerFamily, RouterId,
};

use super::{Connection, Local};
use crate::config::{PeerConfig, RemoteAs, SendPaths};

/// What our OPEN says about graceful restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RestartBits {
    /// R: we have restarted and are still waiting for peers.
    pub(crate) restarted: bool,
    /// N.
    pub(crate) notification: bool,
    /// Restart Time.
    pub(crate) restart_time: Duration,
    /// Families whose forwarding outlived our restart.
    pub(crate) preserved: Families,
}

/// What the peer promised about its restarts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerGraceful {
    /// R.
    pub(crate) restarted: bool,
    /// N, of both sides.
    pub(crate) notification: bool,
    pub(crate) restart_time: Duration,
    /// Families of its capability, with their F bits.
    pub(crate) families: PerFamily<Option<bool>>,
}

/// What the peer wants of us when it stays away for long, in a family (RFC 9494).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PeerLongLived {
    /// F.
    pub(crate) forwarding: bool,
    /// The shorter of what it asks for and what we allow.
    pub(crate) stale_time: Duration,
}

/// What a session has agreed on.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Negotiated {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) asn: Asn,
    pub(crate) router_id: RouterId,
    pub(crate) hold_time: Duration,
    pub(crate) families: Families,
    pub(crate) decode: DecodeContext,
    pub(crate) encode: EncodeContext,
    pub(crate) extended_next_hop: bool,
    pub(crate) route_refresh: bool,
    pub(crate) enhanced_refresh: bool,
    /// Both sides do graceful restart.
    pub(crate) graceful: Option<PeerGraceful>,
    /// Both sides do long-lived graceful restart in these families.
    pub(crate) long_lived: PerFamily<Option<PeerLongLived>>,
    /// The peer announced graceful restart in some form: it sends End-of-RIB.
    pub(crate) sends_end_of_rib: bool,
    /// In words.
    pub(crate) capabilities: Vec<String>,
    /// Our OPEN and the peer's, headers included.
    pub(crate) opens: (Bytes, Bytes),
}

/// Our OPEN.
pub(super) fn our_open(config: &PeerConfig, local: &Local, ever_established: bool) -> Open {
    let mut capabilities: Vec<Capability> =
        config.families.members().map(|family| Capability::Multiprotocol(family.code())).collect();
    capabilities.push(Capability::RouteRefresh);
    capabilities.push(Capability::EnhancedRouteRefresh);
    capabilities.push(Capability::ExtendedMessage);
    if let Some(role) = config.role {
        capabilities.push(Capability::Role(role));
    }
    if config.extended_next_hop && config.families.ipv4 {
        capabilities.push(Capability::ExtendedNextHop(vec![(Family::Ipv4.code(), Family::Ipv6.code().afi)]));
    }
    let add_path: Vec<(AfiSafi, AddPathMode)> = config
        .families
        .members()
        .filter_map(|family| Some((family.code(), add_path_mode(config, family)?)))
        .collect();
    if !add_path.is_empty() {
        capabilities.push(Capability::AddPath(add_path));
    }
    if let Some(restart) = local.restart.filter(|_| config.graceful_restart) {
        // F: after a restart what the shell found; within one process forwarding never stops (RFC 4724 §3).
        let forwarding = |family| ever_established || restart.restarted && restart.preserved.contains(family);
        capabilities.push(Capability::GracefulRestart(GracefulRestartCapability {
            restarted: restart.restarted,
            notification: restart.notification,
            restart_time: restart.restart_time.as_secs() as u16,
            families: config.families.members().map(|family| (family.code(), forwarding(family))).collect(),
        }));
        if let Some(stale_time) = config.long_lived {
            let stale_time = u32::try_from(stale_time.as_secs()).unwrap_or(LongLivedFamily::LONGEST);
            let one = |family: Family| LongLivedFamily {
                family: family.code(),
                forwarding: forwarding(family),
                stale_time,
            };
            capabilities.push(Capability::LongLived(config.families.members().map(one).collect()));
        }
    }
    let asn = our_asn(config, local);
    capabilities.push(Capability::FourOctetAs(asn));
    Open { asn, hold_time: config.hold_time.as_secs() as u16, router_id: local.router_id, capabilities }
}

/// The AS number that the peer sees.
pub(super) fn our_asn(config: &PeerConfig, local: &Local) -> Asn {
    config.local_as.map_or(local.asn, |other| other.asn)
}

/// What we are ready for in a family (RFC 7911 §4).
fn add_path_mode(config: &PeerConfig, family: Family) -> Option<AddPathMode> {
    let add_path = config.add_path.get(family);
    match (add_path.receive, add_path.send != SendPaths::Best) {
        (false, false) => None,
        (true, false) => Some(AddPathMode::Receive),
        (false, true) => Some(AddPathMode::Send),
        (true, true) => Some(AddPathMode::Both),
    }
}

/// Families whose NLRI carry path identifiers: from the peer to us, and from us to the peer.
fn common_add_path(theirs: &Open, config: &PeerConfig, families: Families) -> (Families, Families) {
    // RFC 7911 §4 has one entry for a family; of more than one the last counts.
    let mode = |family: Family| {
        let lists = theirs.capabilities.iter().filter_map(|capability| match capability {
            Capability::AddPath(list) => Some(list),
            _ => None,
        });
        lists.flatten().filter(|(listed, _)| *listed == family.code()).last().map(|(_, mode)| *mode)
    };
    let both = |ours: fn(AddPathMode) -> bool, other: fn(AddPathMode) -> bool| {
        PerFamily::from_fn(|family| {
            families.contains(family)
                && add_path_mode(config, family).is_some_and(ours)
                && mode(family).is_some_and(other)
        })
    };
    (both(AddPathMode::receives, AddPathMode::sends), both(AddPathMode::sends, AddPathMode::receives))
}

/// Checks the peer's OPEN against the configuration (RFC 4271 §6.2).
pub(super) fn check(open: &Open, config: &PeerConfig, local: &Local) -> Result<(), Notification> {
    let error = |error| Err(Notification::new(Cause::Open(error)));
    let fits = match config.remote_as {
        RemoteAs::External => open.asn != local.asn && open.asn != our_asn(config, local),
        RemoteAs::Auto => true,
        RemoteAs::Number(wanted) => open.asn == wanted,
    };
    if !fits {
        return error(OpenError::BadPeerAs);
    }
    // RFC 6286 §2.2: unique inside an AS.
    if open.asn == local.asn && open.router_id == local.router_id {
        return error(OpenError::BadIdentifier);
    }
    if !roles_fit(open, config) {
        return error(OpenError::RoleMismatch);
    }
    Ok(())
}

/// RFC 9234 §4.2. A role that is none is kept as an unknown capability, and fits nothing.
fn roles_fit(open: &Open, config: &PeerConfig) -> bool {
    let Some(ours) = config.role else { return true };
    let mut theirs = open.capabilities.iter().filter_map(|capability| match capability {
        Capability::Role(role) => Some(Some(*role)),
        Capability::Unknown { code, .. } if *code == Capability::Role(ours).code() => Some(None),
        _ => None,
    });
    match theirs.next() {
        None => !config.role_strict,
        // Said twice it must be the same.
        Some(first) => first == Some(ours.counterpart()) && theirs.all(|other| other == first),
    }
}

/// Puts both sides' words together.
pub(super) fn negotiate(
    theirs: &Open,
    config: &PeerConfig,
    local: &Local,
    (conn, received): (&Connection, Bytes),
) -> Result<Negotiated, Notification> {
    let families = common_families(theirs, config);
    if families.is_empty() {
        return Err(missing_families(config));
    }
    let four_octet_as = theirs.has(|capability| matches!(capability, Capability::FourOctetAs(_)));
    let extended_message = theirs.has(|capability| *capability == Capability::ExtendedMessage);
    let extended_next_hop = config.extended_next_hop
        && theirs.has(|capability| {
            let wanted = (Family::Ipv4.code(), Family::Ipv6.code().afi);
            matches!(capability, Capability::ExtendedNextHop(list) if list.contains(&wanted))
        });
    let (add_path_in, add_path_out) = common_add_path(theirs, config, families);
    let route_refresh = theirs.has(|capability| *capability == Capability::RouteRefresh);
    let enhanced_refresh = theirs.has(|capability| *capability == Capability::EnhancedRouteRefresh);
    let hold = theirs.hold_time.min(config.hold_time.as_secs() as u16);
    let graceful = theirs.capabilities.iter().rev().find_map(|capability| match capability {
        Capability::GracefulRestart(value) => Some(value),
        _ => None,
    });
    Ok(Negotiated {
        opens: (conn.sent_open.clone(), received),
        local: conn.local,
        remote: conn.remote,
        asn: theirs.asn,
        router_id: theirs.router_id,
        hold_time: Duration::from_secs(u64::from(hold)),
        families,
        decode: DecodeContext {
            internal: theirs.asn == local.asn,
            four_octet_as,
            families,
            add_path: add_path_in,
            extended_next_hop,
        },
        encode: EncodeContext {
            four_octet_as,
            add_path_ipv4: add_path_out.ipv4,
            add_path_ipv6: add_path_out.ipv6,
            max_message: if extended_message { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE },
        },
        extended_next_hop,
        route_refresh,
        enhanced_refresh: enhanced_refresh && route_refresh,
        graceful: graceful.and_then(|value| peer_graceful(value, config, local, families)),
        long_lived: match graceful {
            Some(_) => long_lived(theirs, config, local, families),
            // RFC 9494 §3.1: without the other capability it counts for nothing.
            None => PerFamily::default(),
        },
        sends_end_of_rib: graceful.is_some(),
        capabilities: words(theirs, families, extended_next_hop, (add_path_in, add_path_out)),
    })
}

/// Without any multiprotocol capability the peer speaks IPv4 (RFC 4760 §8).
fn common_families(theirs: &Open, config: &PeerConfig) -> Families {
    let announced: Vec<AfiSafi> = theirs
        .capabilities
        .iter()
        .filter_map(|capability| match capability {
            Capability::Multiprotocol(family) => Some(*family),
            _ => None,
        })
        .collect();
    let theirs = match announced.is_empty() {
        true => Families { ipv4: true, ipv6: false },
        false => PerFamily::from_fn(|family| announced.contains(&family.code())),
    };
    theirs.and(config.families)
}

/// RFC 5492 §5: the data are the capabilities that we miss.
fn missing_families(config: &PeerConfig) -> Notification {
    let mut data = Vec::new();
    for family in config.families.members() {
        let AfiSafi { afi, safi } = family.code();
        let [high, low] = afi.to_be_bytes();
        data.extend_from_slice(&[1, 4, high, low, 0, safi]);
    }
    Notification::with_data(Cause::Open(OpenError::UnsupportedCapability), data)
}

fn peer_graceful(
    theirs: &GracefulRestartCapability,
    config: &PeerConfig,
    local: &Local,
    families: Families,
) -> Option<PeerGraceful> {
    let ours = local.restart.filter(|_| config.graceful_restart)?;
    Some(PeerGraceful {
        restarted: theirs.restarted,
        notification: theirs.notification && ours.notification,
        restart_time: Duration::from_secs(u64::from(theirs.restart_time)),
        families: PerFamily::from_fn(|family| {
            theirs.forwarding(family).filter(|_| families.contains(family))
        }),
    })
}

fn long_lived(
    theirs: &Open,
    config: &PeerConfig,
    local: &Local,
    families: Families,
) -> PerFamily<Option<PeerLongLived>> {
    let on = local.restart.filter(|_| config.graceful_restart).is_some();
    let Some(longest) = config.long_lived.filter(|_| on) else { return PerFamily::default() };
    let listed = theirs.capabilities.iter().rev().find_map(|capability| match capability {
        Capability::LongLived(list) => Some(list),
        _ => None,
    });
    PerFamily::from_fn(|family| {
        let entry = listed?.iter().find(|entry| entry.family == family.code())?;
        families.contains(family).then(|| PeerLongLived {
            forwarding: entry.forwarding,
            stale_time: Duration::from_secs(entry.stale_time.into()).min(longest),
        })
    })
}

/// Capabilities in force, in words.
fn words(
    theirs: &Open,
    families: Families,
    extended_next_hop: bool,
    (add_path_in, add_path_out): (Families, Families),
) -> Vec<String> {
    let in_force = |capability: &Capability| match capability {
        Capability::Multiprotocol(family) => family.family().is_some_and(|family| families.contains(family)),
        Capability::ExtendedNextHop(_) => extended_next_hop,
        Capability::AddPath(_) | Capability::Unknown { .. } => false,
        _ => true,
    };
    // What the two sides' words on add-path come to, as seen from here.
    let add_path = [("add-path receive", add_path_in), ("add-path send", add_path_out)];
    let add_path =
        add_path.into_iter().filter(|(_, families)| !families.is_empty()).map(|(word, families)| {
            families.members().fold(word.to_owned(), |text, family| format!("{text} {family}"))
        });
    let others = theirs.capabilities.iter().filter(|capability| in_force(capability));
    others.map(ToString::to_string).chain(add_path).collect()
}
