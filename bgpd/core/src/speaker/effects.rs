//! What sessions bring in.

use std::time::Duration;

use turnpike_bgp_wire::{Families, Family, PerFamily, RouteRefresh, RouteRefreshKind, Severity, Update};

use super::Speaker;
use super::helper::Promise;
use crate::event::{DownReason, Event, SweepReason};
use crate::output::Output;
use crate::query::PeerId;
use crate::rib::SessionFacts;
use crate::session::{Effect, Negotiated};

impl Speaker {
    pub(super) fn apply(&mut self, peer: PeerId, effect: Effect) {
        match effect {
            Effect::Connect { conn, remote } => {
                let Some(held) = self.peer_ref(peer) else { return };
                let transport = &held.session.config.transport;
                // An external peer is on the same link unless the configuration says otherwise.
                let ttl = transport.ttl.unwrap_or(if held.session.internal() { 64 } else { 1 });
                let local = transport.local;
                self.conns.insert(conn, peer);
                self.outputs.push_back(Output::Connect { peer, conn, local, remote, ttl });
            }
            Effect::Send { conn, bytes } => self.outputs.push_back(Output::Send { conn, bytes }),
            Effect::Close { conn } => {
                self.conns.remove(&conn);
                self.outputs.push_back(Output::Close { conn });
            }
            Effect::Up(agreed) => self.session_up(peer, agreed),
            Effect::Down { reason, kept } => self.session_down(peer, reason, kept),
            Effect::ConnectionFailed { reason } => {
                if let Some(name) = self.peer_ref(peer).map(super::peer::Peer::name) {
                    self.event(Event::ConnectionFailed { peer, name, reason });
                }
            }
            Effect::Update(update) => self.update(peer, *update),
            Effect::Received(message) => self.outputs.push_back(Output::Received { peer, message }),
            Effect::Refresh(refresh) => self.refresh(peer, refresh),
            Effect::Keepalive => {
                if let Some(held) = self.peer_mut(peer) {
                    held.heard_keepalive = true;
                }
            }
        }
    }

    fn session_up(&mut self, peer: PeerId, agreed: Box<Negotiated>) {
        let Some(held) = self.peer_mut(peer) else { return };
        let name = held.name();
        held.end_of_rib_received = Families::NONE;
        held.end_of_rib_sent = Families::NONE;
        held.heard_keepalive = false;
        let families = agreed.families;
        let long_lived = agreed.long_lived;
        let restarted = agreed.graceful.as_ref().is_some_and(|graceful| graceful.restarted);
        let forwarding = match &agreed.graceful {
            Some(graceful) => PerFamily::from_fn(|family| *graceful.families.get(family) == Some(true)),
            None => Families::NONE,
        };
        let facts = SessionFacts {
            asn: agreed.asn,
            router_id: agreed.router_id,
            local: agreed.local.ip().to_canonical(),
            families,
            encode: agreed.encode,
            extended_next_hop: agreed.extended_next_hop,
            enhanced_refresh: agreed.enhanced_refresh,
            long_lived: PerFamily::from_fn(|family| long_lived.get(family).is_some()),
        };
        held.agreed = Some(agreed);
        self.rib.peer_up(peer, facts);
        self.event(Event::Up { peer, name, families, restarted });
        let long_lived =
            PerFamily::from_fn(|family| long_lived.get(family).is_some_and(|entry| entry.forwarding));
        self.helper_returned(peer, families.and(forwarding), long_lived);
    }

    fn session_down(&mut self, peer: PeerId, reason: DownReason, kept: bool) {
        let Some(held) = self.peer_mut(peer) else { return };
        let name = held.name();
        let Some(agreed) = held.agreed.take() else { return };
        self.rib.peer_down(peer);
        // How long paths stay as before, and how long as a last resort. A family that is in the capability of RFC 9494
        // alone has no time of the first kind (§4.2).
        let promised = PerFamily::from_fn(|family| {
            let graceful = agreed.graceful.as_ref().filter(|_| kept)?;
            let then = agreed.long_lived.get(family).map(|entry| entry.stale_time);
            let listed = graceful.families.get(family).is_some();
            let first = if listed { graceful.restart_time } else { Duration::ZERO };
            (listed || then.is_some()).then_some(Promise { first, then: then.unwrap_or_default() })
        });
        let kept = promised.iter().any(|(_, promise)| promise.is_some());
        self.event(Event::Down { peer, name, reason, kept });
        for family in Family::ALL {
            if promised.get(family).is_none() {
                self.rib.drop_paths(peer, family);
            }
        }
        self.helper_left(peer, promised);
    }

    fn update(&mut self, peer: PeerId, update: Update) {
        let Some(held) = self.peer_ref(peer).filter(|held| held.agreed.is_some()) else { return };
        let name = held.name();
        for problem in &update.problems {
            let (name, outcome, problem) = (name.clone(), problem.severity.as_str(), problem.to_string());
            self.event(Event::MalformedUpdate { peer, name, problem, outcome });
        }
        debug_assert!(update.problems.iter().all(|problem| problem.severity < Severity::Reset));
        let end_of_rib = update.end_of_rib;
        self.rib.update(peer, update);
        if let Some(family) = end_of_rib {
            self.end_of_rib(peer, family);
        }
    }

    fn end_of_rib(&mut self, peer: PeerId, family: Family) {
        let Some(held) = self.peer_mut(peer) else { return };
        *held.end_of_rib_received.get_mut(family) = true;
        let name = held.name();
        self.event(Event::EndOfRib { peer, name, family });
        self.helper_synced(peer, family);
    }

    fn refresh(&mut self, peer: PeerId, refresh: RouteRefresh) {
        let families =
            self.peer_ref(peer).and_then(|held| held.agreed.as_ref()).map(|agreed| agreed.families);
        let family = refresh.family.family();
        let Some(family) =
            family.filter(|family| families.is_some_and(|families| families.contains(*family)))
        else {
            return;
        };
        match refresh.kind {
            RouteRefreshKind::Request => self.rib.refresh(peer, family),
            RouteRefreshKind::Begin => self.rib.begin_refresh(peer, family),
            RouteRefreshKind::End => {
                let count = self.rib.sweep(peer, family);
                self.tell_swept(peer, family, count, SweepReason::EndOfRib);
            }
            RouteRefreshKind::Unknown(_) => {}
        }
    }

    pub(super) fn tell_swept(&mut self, peer: PeerId, family: Family, count: usize, reason: SweepReason) {
        if let Some(name) = self.peer_ref(peer).map(super::peer::Peer::name).filter(|_| count > 0) {
            self.event(Event::StaleRemoved { peer, name, family, count, reason });
        }
    }
}
