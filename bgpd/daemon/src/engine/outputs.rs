//! Doing what the speaker says.

use tracing::{debug, error, info, warn};
use turnpike_bgp_core::{Event, Output, RouteChange};

use super::Engine;
use crate::connection::{Transport, connect};
use crate::kernel::KernelRoute;

/// Route changes put down together: few system calls, and little memory.
const ROUTES_AT_ONCE: usize = 1024;
/// TTL where the peer's settings are not known: its configuration has just gone.
const TTL_DEFAULT: u8 = 64;

impl Engine {
    pub(super) fn perform(&mut self, output: Output) {
        match output {
            Output::Connect { conn, local, remote, ttl, .. } => {
                let known = self.merged.transports.get(&remote.ip()).cloned();
                let transport =
                    known.unwrap_or(Transport { ttl: ttl.min(TTL_DEFAULT), min_ttl: None, md5: None });
                let done = self.attempted.0.clone();
                let task = tokio::spawn(async move {
                    let result = connect(transport, local, remote).await;
                    let _ = done.send((conn, result)).await;
                });
                self.attempts.insert(conn, task.abort_handle());
            }
            Output::Send { conn, bytes } => {
                if let Some(connection) = self.connections.get(&conn) {
                    self.propagation.sent(bytes.len());
                    connection.send(bytes);
                }
            }
            Output::Close { conn } => {
                self.connections.remove(&conn);
                if let Some(attempt) = self.attempts.remove(&conn) {
                    attempt.abort();
                }
            }
            Output::Route(change) => self.route(change),
            Output::TrackNexthop(nexthop) => self.kernel.track(nexthop),
            Output::UntrackNexthop(nexthop) => self.kernel.untrack(nexthop),
            Output::RestartComplete => {
                self.flush_routes();
                self.kernel.sweep();
            }
            Output::Received { peer, message } => self.monitoring.received(peer, &message),
            Output::Event(event) => {
                self.monitor(&event);
                self.host_guests(&event);
                self.report(&event);
                self.tell_event(&event);
            }
        }
    }

    /// Tells monitoring stations of sessions.
    fn monitor(&mut self, event: &Event) {
        let Some(speaker) = &self.speaker else { return };
        match event {
            Event::Up { peer, .. } => {
                // It may have ended since.
                if let Some(session) = speaker.monitored(*peer) {
                    self.monitoring.session_up(&session);
                }
            }
            Event::Down { peer, reason, .. } => {
                self.monitoring.session_down(*peer, reason, &speaker.ended_with(*peer));
            }
            _ => {}
        }
    }

    /// A peer out of a listen range has BFD from its first session until it has gone for good.
    fn host_guests(&mut self, event: &Event) {
        let changed = match event {
            Event::Up { peer, name, .. } => {
                let session = self.speaker.as_ref().and_then(|speaker| speaker.monitored(*peer));
                let address = session.map(|session| session.remote.ip().to_canonical());
                let guest = address.filter(|address| !self.merged.peers.contains_key(address));
                guest.is_some_and(|address| self.guests.insert(address, name.clone()).is_none())
            }
            Event::Left { remote, .. } => self.guests.remove(remote).is_some(),
            _ => false,
        };
        if changed {
            self.want_bfd();
        }
    }

    fn route(&mut self, change: RouteChange) {
        if self.leaving || !self.file.kernel.enabled {
            return;
        }
        let (prefix, route) = match change {
            RouteChange::Install { prefix, nexthops } => (prefix, Some(KernelRoute::Via(nexthops))),
            RouteChange::Discard { prefix } => (prefix, Some(KernelRoute::Blackhole)),
            RouteChange::Remove { prefix } => (prefix, None),
        };
        // Ours to blackhole: nobody's path goes in its place.
        if !self.merged.blackholes.contains(&prefix) {
            self.routes.push((prefix, route));
            if self.routes.len() == ROUTES_AT_ONCE {
                self.flush_routes();
            }
        }
    }

    fn report(&mut self, event: &Event) {
        match event {
            Event::Up { name, families, restarted, .. } => {
                info!(peer = name, ?families, restarted, "session established");
                if let Err(error) = self.record.session_up(&self.disk) {
                    error!(error = format!("{error:#}"), "a restart will look like a first start to peers");
                }
            }
            Event::Down { name, reason, kept, .. } => {
                warn!(peer = name, %reason, kept, "session down");
            }
            Event::Left { name, .. } => debug!(peer = name, "gone, as nobody named it"),
            Event::ConnectionFailed { name, reason, .. } => {
                debug!(peer = name, %reason, "connection failed");
            }
            Event::State { name, from, to, .. } => debug!(peer = name, %from, %to, "state"),
            Event::EndOfRib { name, family, .. } => info!(peer = name, %family, "End-of-RIB received"),
            Event::StaleRemoved { name, family, count, reason, .. } => {
                info!(peer = name, %family, count, %reason, "stale paths removed");
            }
            Event::LongLived { name, family, count, .. } => {
                warn!(peer = name, %family, count, "away for too long: stale paths kept as a last resort");
            }
            Event::MalformedUpdate { name, problem, outcome, .. } => {
                warn!(peer = name, problem, outcome, "malformed UPDATE");
            }
            Event::PrefixLimit { name, family, limit, .. } => {
                warn!(peer = name, %family, limit, "over the prefix limit");
            }
            Event::TooLarge { .. } | Event::PathLimit { .. } => warn!("{event}"),
            // For watchers only: in a log they would drown everything.
            Event::Best { .. } => {}
            Event::UnknownPeer { remote } => debug!(%remote, "connection refused: no such peer"),
            Event::ConfigRefused { .. } => error!("{event}"),
            Event::SelectionComplete { after, reason } => {
                info!(?after, %reason, "initial route selection complete");
            }
        }
    }
}
