//! The speaker's state as the control socket shows it.

use std::collections::BTreeMap;

use turnpike_bgp_core::config as core;
use turnpike_bgp_core::query::{self, PeerId};
use turnpike_bgp_core::{Nexthop, Time};
use turnpike_bgpd_api::config::RemoteAs;
use turnpike_bgpd_api::view::{NexthopView, PathView, PeerView, SessionView};
use turnpike_kroute::Resolution;

use crate::host::interface_name;

/// LOCAL_PREF of paths that come without, as in every router.
const DEFAULT_LOCAL_PREF: u32 = 100;

/// Names of peers by their number.
pub(crate) type Names = BTreeMap<PeerId, String>;

pub(crate) fn peer(view: query::PeerView, owner: String, now: Time) -> PeerView {
    PeerView {
        name: view.name,
        address: view.remote,
        remote_as: view.remote_as,
        configured_as: match view.configured_as {
            core::RemoteAs::Number(asn) => RemoteAs::Number(asn),
            core::RemoteAs::External => RemoteAs::External,
            core::RemoteAs::Auto => RemoteAs::Auto,
        },
        owner,
        internal: view.internal,
        rr_client: view.rr_client,
        state: view.state.to_string(),
        since: now.since(view.since).as_secs(),
        session: view.session.map(session),
        flaps: view.flaps,
        last_error: view.last_error,
        last_notification: view.last_notification,
        stale_for: view.stale_until.map(|until| until.since(now).as_secs()),
        messages_in: view.counters.messages_in,
        messages_out: view.counters.messages_out,
        updates_in: view.counters.updates_in,
        updates_out: view.counters.updates_out,
        malformed_in: view.counters.malformed_in,
        received: view.received,
        accepted: view.accepted,
        advertised: view.advertised,
    }
}

fn session(view: query::SessionView) -> SessionView {
    SessionView {
        local: view.local,
        remote: view.remote,
        router_id: view.router_id,
        hold_time: view.hold_time.as_secs(),
        families: view.families,
        capabilities: view.capabilities,
        peer_restart_time: view.peer_restart_time.map(|time| time.as_secs()),
        end_of_rib_received: view.end_of_rib_received,
        end_of_rib_sent: view.end_of_rib_sent,
        unsent: view.unsent,
    }
}

/// With `effective`, LOCAL_PREF is what counts in the decision (RFC 4271 §9.1.1) even where none was sent.
pub(crate) fn path(view: query::PathView, names: &Names, effective: bool) -> PathView {
    PathView {
        prefix: view.prefix,
        path_id: (view.path_id != 0).then_some(view.path_id),
        from: view.from_address,
        from_name: view.from.and_then(|id| names.get(&id)).cloned(),
        owner: None,
        next_hop: view.next_hop.map(|hop| hop.addr),
        metric: view.metric,
        origin: view.origin.to_owned(),
        as_path: view.as_path,
        med: view.med,
        local_pref: view.local_pref.or(view.from.filter(|_| effective).map(|_| DEFAULT_LOCAL_PREF)),
        atomic_aggregate: view.atomic_aggregate,
        aggregator: view.aggregator,
        communities: view.communities,
        extended_communities: view.extended_communities.iter().map(ToString::to_string).collect(),
        large_communities: view.large_communities,
        only_to_customer: view.only_to_customer,
        originator_id: view.originator_id,
        cluster_list: view.cluster_list,
        best: view.best,
        multipath: view.multipath,
        stale: view.stale,
        why: view.why,
    }
}

pub(crate) fn nexthop(nexthop: Nexthop, resolution: &Resolution) -> NexthopView {
    let via = resolution
        .gateways()
        .iter()
        .map(|gateway| {
            let device = interface_name(gateway.ifindex);
            if gateway.address == nexthop.addr {
                format!("dev {device}")
            } else {
                format!("{} dev {device}", gateway.address)
            }
        })
        .collect();
    let metric = match resolution {
        Resolution::Reachable { metric, .. } => Some(*metric),
        Resolution::Local | Resolution::Unreachable => None,
    };
    NexthopView { address: nexthop.to_string(), reachable: metric.is_some(), metric, via }
}
