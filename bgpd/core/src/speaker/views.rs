//! Read-only views.

use std::net::IpAddr;

use turnpike_bgp_wire::{Asn, Attributes, Prefix};

use super::Speaker;
use super::peer::Peer;
use crate::query::{MonitoredSession, PathView, PeerId, PeerView, Select, SessionView, SpeakerView, Table};
use crate::rib::{Place, Snapshot, Walked};

impl Speaker {
    /// The speaker as a whole.
    pub fn view(&self) -> SpeakerView {
        let peers = || self.peers.iter().flatten();
        SpeakerView {
            asn: self.config.asn,
            router_id: self.config.router_id,
            cluster_id: self.config.cluster_id(),
            starting: !self.startup.is_done(),
            peers: peers().count(),
            established: peers().filter(|peer| peer.agreed.is_some()).count(),
            prefixes: self.rib.prefixes(),
            paths: self.rib.paths(),
            attribute_sets: self.rib.attribute_sets(),
            nexthops: self.rib.nexthops(),
        }
    }

    /// All peers, in the order of their numbers.
    pub fn peers(&self) -> Vec<PeerView> {
        self.peers.iter().flatten().map(|peer| self.view_peer(peer)).collect()
    }

    /// One peer.
    pub fn peer(&self, peer: PeerId) -> Option<PeerView> {
        self.peer_ref(peer).map(|held| self.view_peer(held))
    }

    /// Paths of a table in prefix order, at most `limit`.
    pub fn rib(&self, table: Table, select: Select, limit: usize) -> Vec<PathView> {
        self.rib_after(table, select, None, limit)
    }

    /// The same, going on behind the prefix `after`.
    pub fn rib_after(
        &self,
        table: Table,
        select: Select,
        after: Option<Prefix>,
        limit: usize,
    ) -> Vec<PathView> {
        self.rib.view(table, select, after, limit)
    }

    /// The session of a peer for a monitoring station, while it is Established.
    pub fn monitored(&self, peer: PeerId) -> Option<MonitoredSession> {
        let held = self.peer_ref(peer)?;
        let agreed = held.agreed.as_ref()?;
        let seconds = self.now.since(held.session.established_at()?);
        Some(MonitoredSession {
            peer,
            remote: agreed.remote,
            local: agreed.local,
            asn: agreed.asn,
            router_id: agreed.router_id,
            four_octet_as: agreed.decode.four_octet_as,
            add_path: agreed.decode.add_path,
            families: agreed.families,
            opens: agreed.opens.clone(),
            age: seconds,
        })
    }

    /// The NOTIFICATION that a peer's last session ended with, header included; empty if it ended without.
    pub fn ended_with(&self, peer: PeerId) -> bytes::Bytes {
        self.peer_ref(peer).map(|held| held.session.ended_with.clone()).unwrap_or_default()
    }

    /// The next `limit` prefixes of a walk through all that is held from peers. What changes meanwhile may be seen as it
    /// was before or as it is afterwards.
    pub fn walk(&self, at: Place, limit: usize) -> (Vec<Walked>, Option<Place>) {
        self.rib.walk(at, limit)
    }

    /// Everything that is needed to try another configuration on without touching this speaker.
    pub fn snapshot(&self) -> Snapshot {
        self.rib.snapshot(&self.config)
    }

    /// Attributes and next hop of a path as it was received (or originated, without a peer).
    pub fn received(&self, prefix: Prefix, from: Option<PeerId>) -> Option<(Attributes, Option<IpAddr>)> {
        self.rib.received(prefix, from)
    }

    /// Reflection clients with a session whose paths no other reflector has told us of: as far as we can know, we
    /// are their last. A client that announces nothing is not among them: nothing can be known of it.
    pub fn clients_without_another_reflector(&self) -> Vec<String> {
        let lonely = self.rib.clients_without_another_reflector();
        lonely.into_iter().filter_map(|peer| self.peer_ref(peer).map(Peer::name)).collect()
    }

    fn view_peer(&self, peer: &Peer) -> PeerView {
        let session = &peer.session;
        let configured = session.config.remote_as;
        let counts = self.rib.shared.peer(peer.id);
        PeerView {
            id: peer.id,
            name: peer.name(),
            remote: session.config.remote,
            remote_as: peer
                .agreed
                .as_ref()
                .map(|agreed| agreed.asn)
                .or(configured.number())
                .unwrap_or(Asn(0)),
            configured_as: configured,
            internal: counts.is_some_and(|counts| counts.internal),
            rr_client: session.config.rr_client,
            dynamic: peer.dynamic,
            state: session.state(),
            since: peer.since,
            session: view_session(peer),
            flaps: session.flaps,
            last_error: session.last_error.clone(),
            last_notification: session.last_notification.clone(),
            stale_until: peer.helper.and_then(|helper| helper.until()),
            counters: session.counters,
            received: counts.map(|counts| counts.received).unwrap_or_default(),
            accepted: counts.map(|counts| counts.accepted).unwrap_or_default(),
            advertised: self.rib.advertised(peer.id),
        }
    }
}

fn view_session(peer: &Peer) -> Option<SessionView> {
    let agreed = peer.agreed.as_ref()?;
    Some(SessionView {
        local: agreed.local,
        remote: agreed.remote,
        router_id: agreed.router_id,
        hold_time: agreed.hold_time,
        families: agreed.families,
        capabilities: agreed.capabilities.clone(),
        peer_restart_time: agreed.graceful.as_ref().map(|graceful| graceful.restart_time),
        end_of_rib_received: peer.end_of_rib_received,
        end_of_rib_sent: peer.end_of_rib_sent,
        unsent: peer.session.established().map_or(0, |conn| conn.unsent),
    })
}
