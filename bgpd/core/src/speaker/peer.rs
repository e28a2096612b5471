//! A peer: its session, what its RIB side needs, and how both are shown.

use turnpike_bgp_wire::{Families, PerFamily};

use super::Speaker;
use super::helper::Helper;
use crate::config::PeerConfig;
use crate::event::Event;
use crate::query::{PeerId, SessionState};
use crate::rib::RibPeer;
use crate::session::{Local, Negotiated, RestartBits, Session};
use crate::time::Time;

/// A peer of the speaker.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) session: Session,
    /// Made by a listen range; goes when its session and its paths have gone.
    pub(super) dynamic: bool,
    /// Of the Established session.
    pub(super) agreed: Option<Box<Negotiated>>,
    pub(super) end_of_rib_received: Families,
    pub(super) end_of_rib_sent: Families,
    /// A KEEPALIVE has come since the session was Established.
    pub(super) heard_keepalive: bool,
    /// Its paths outlive its session.
    pub(super) helper: Option<Helper>,
    pub(super) shown: SessionState,
    pub(super) since: Time,
    /// Its place in the speaker's timeouts.
    pub(super) armed: Option<Time>,
}

impl Peer {
    /// The session is up and nothing of its first transmission is missing.
    pub(super) fn told_everything(&self) -> bool {
        self.agreed.as_ref().is_some_and(|agreed| {
            let ended = |family| self.end_of_rib_received.contains(family);
            agreed.families.members().all(ended) || !agreed.sends_end_of_rib && self.heard_keepalive
        })
    }

    pub(super) fn name(&self) -> String {
        self.session.config.name.clone()
    }
}

impl Speaker {
    /// What we say about ourselves in OPENs.
    pub(super) fn local(&self) -> Local {
        let graceful = &self.config.graceful_restart;
        Local {
            asn: self.config.asn,
            router_id: self.config.router_id,
            restart: graceful.enabled.then(|| RestartBits {
                restarted: self.startup.is_restarting(),
                notification: graceful.notification,
                restart_time: graceful.restart_time,
                preserved: self.start.forwarding_preserved,
            }),
        }
    }

    /// Makes a peer and starts its session.
    pub(super) fn add_peer(&mut self, config: PeerConfig, dynamic: bool) -> PeerId {
        let free = self.peers.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        let id = PeerId(index as u32);
        self.by_address.insert(config.remote, id);
        self.rib.set_peer(RibPeer::new(id, &config, self.config.asn));
        let seed = u64::from(self.config.router_id.to_u32()) << 32
            | self.now.since_start().as_nanos() as u64 ^ index as u64;
        let peer = Peer {
            id,
            session: Session::new(config, self.local(), seed),
            dynamic,
            agreed: None,
            end_of_rib_received: PerFamily::default(),
            end_of_rib_sent: PerFamily::default(),
            heard_keepalive: false,
            helper: None,
            shown: SessionState::Idle,
            since: self.now,
            armed: None,
        };
        if let Some(slot) = self.peers.get_mut(index) {
            *slot = Some(peer);
        }
        self.on_session(id, Session::start);
        id
    }

    /// Forgets a peer whose session has been stopped.
    pub(super) fn drop_peer(&mut self, peer: PeerId) {
        let Some(held) = self.peers.get_mut(peer.0 as usize).and_then(Option::take) else { return };
        if let Some(at) = held.armed {
            self.timeouts.remove(&(at, peer));
        }
        self.by_address.remove(&held.session.config.remote);
        self.conns.retain(|_, owner| *owner != peer);
        self.rib.remove_peer(peer);
        if held.dynamic {
            self.event(Event::Left { name: held.name(), remote: held.session.config.remote });
        }
    }

    /// A connection from an address that is no configured peer's: a listen range may make a peer of it.
    pub(super) fn admit(&mut self, remote: std::net::IpAddr) -> Option<PeerId> {
        let matching = self.config.listen_ranges.iter().filter(|range| range.prefix.contains(remote));
        let range = matching.max_by_key(|range| range.prefix.prefix_len())?;
        let inside = |peer: &&Peer| peer.dynamic && range.prefix.contains(peer.session.config.remote);
        if self.peers.iter().flatten().filter(inside).count() >= range.limit as usize {
            return None;
        }
        let mut config = range.peer.clone();
        config.name = format!("{}-{remote}", config.name);
        config.remote = remote;
        config.transport.passive = true;
        Some(self.add_peer(config, true))
    }

    /// A dynamic peer ends with its last connection, unless its paths are kept for its return.
    pub(super) fn bury(&mut self, peer: PeerId) {
        let over = |held: &Peer| {
            held.dynamic
                && held.helper.is_none()
                && !held.session.has_connection()
                && held.shown < SessionState::Connect
        };
        // It is made just before its first connection is handed to it.
        let fresh = |held: &Peer| held.session.counters.messages_out == 0;
        if self.peer_ref(peer).is_some_and(|held| over(held) && !fresh(held)) {
            self.drop_peer(peer);
        }
    }

    /// Reports a change of the state that people see.
    pub(super) fn show_state(&mut self, peer: PeerId) {
        let now = self.now;
        let Some(held) = self.peer_mut(peer) else { return };
        let (from, to) = (held.shown, held.session.state());
        if from != to {
            held.shown = to;
            held.since = now;
            let name = held.name();
            self.event(Event::State { peer, name, from, to });
        }
    }

    /// Keeps the speaker's list of timeouts in line with the peer's timers.
    pub(super) fn rearm(&mut self, peer: PeerId) {
        let Some(held) = self.peers.get_mut(peer.0 as usize).and_then(Option::as_mut) else { return };
        let helper = held.helper.as_ref().and_then(Helper::until);
        let next = held.session.next_timeout().into_iter().chain(helper).min();
        if held.armed == next {
            return;
        }
        if let Some(at) = held.armed {
            self.timeouts.remove(&(at, peer));
        }
        held.armed = next;
        if let Some(at) = next {
            self.timeouts.insert((at, peer));
        }
    }
}
