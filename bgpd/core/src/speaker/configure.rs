//! A new configuration, as differences from the one in force.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use turnpike_bgp_wire::{Cease, Notification, PerFamily};

use super::Speaker;
use crate::config::{Config, PeerConfig, SendPaths};
use crate::event::Event;
use crate::query::PeerId;
use crate::rib::RibPeer;
use crate::session::Session;

/// What a changed peer needs.
#[derive(PartialEq, Eq, Debug)]
enum Change {
    /// Nothing on the wire: policies and the like.
    Quiet,
    /// The session was built on something else.
    Reset,
    /// Down by the operator's wish.
    ShutDown,
}

impl Speaker {
    pub(super) fn configure(&mut self, new: Config) {
        let errors = new.check();
        if !errors.is_empty() {
            return self.event(Event::ConfigRefused { errors });
        }
        let old = std::mem::replace(&mut self.config, new.clone());
        let identity = |config: &Config| (config.asn, config.router_id, config.cluster_id());
        let reborn = identity(&old) != identity(&new);
        let wanted: HashMap<IpAddr, &PeerConfig> = new.peers.iter().map(|peer| (peer.remote, peer)).collect();
        let gone: Vec<PeerId> = self
            .peers
            .iter()
            .flatten()
            .filter(|peer| {
                let keep = match peer.dynamic {
                    true => {
                        new.listen_ranges == old.listen_ranges
                            && !wanted.contains_key(&peer.session.config.remote)
                    }
                    false => wanted.contains_key(&peer.session.config.remote),
                };
                !keep || reborn
            })
            .map(|peer| peer.id)
            .collect();
        let farewell = Self::cease(if reborn { Cease::ConfigurationChange } else { Cease::PeerDeconfigured });
        for peer in gone {
            self.stop_peer(peer, &farewell, true);
            self.drop_peer(peer);
        }
        self.rib.configure(&old, &new);
        let local = self.local();
        for peer in self.peers.iter_mut().flatten() {
            peer.session.local = local.clone();
        }
        for peer in new.peers {
            match self.by_address.get(&peer.remote).copied() {
                Some(id) => self.change_peer(id, peer),
                None => {
                    self.add_peer(peer, false);
                }
            }
        }
    }

    fn change_peer(&mut self, id: PeerId, new: PeerConfig) {
        let Some(held) = self.peer_mut(id) else { return };
        let old = std::mem::replace(&mut held.session.config, new.clone());
        if old == new {
            return;
        }
        match change(&old, &new) {
            Change::Quiet => {}
            Change::Reset => {
                self.stop_peer(id, &Self::cease(Cease::ConfigurationChange), false);
                self.forget_stale(id);
            }
            Change::ShutDown => {
                let text = new.shutdown.as_deref().unwrap_or_default();
                self.stop_peer(id, &Notification::shutdown(Cease::AdministrativeShutdown, text), true);
                self.forget_stale(id);
            }
        }
        self.rib.set_peer(RibPeer::new(id, &new, self.config.asn));
        self.on_session(id, Session::start);
    }

    /// Nobody waits any more for a peer that was changed while it was away.
    pub(super) fn forget_stale(&mut self, id: PeerId) {
        let Some(held) = self.peer_mut(id) else { return };
        if held.helper.take().is_some() {
            for family in turnpike_bgp_wire::Family::ALL {
                let count = self.rib.drop_paths(id, family);
                self.tell_swept(id, family, count, crate::event::SweepReason::Ended);
            }
        }
    }
}

/// What a new configuration does to a peer's session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SessionEffect {
    /// The peer is new.
    Start,
    /// The peer goes.
    Stop,
    /// The session ends and begins anew.
    Reset,
    /// The session ends and stays down.
    ShutDown,
    /// The peer changes, and the session stays.
    Stays,
}

/// A peer that a new configuration touches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionChange {
    /// Its address.
    pub remote: IpAddr,
    /// Its name, the new one where it has both.
    pub name: String,
    /// What happens.
    pub effect: SessionEffect,
}

/// What `new` in the place of `old` does to the sessions of configured peers, by address. The same judgement as
/// `Input::Configure` acts on.
pub fn session_changes(old: &Config, new: &Config) -> Vec<SessionChange> {
    let identity = |config: &Config| (config.asn, config.router_id, config.cluster_id());
    let reborn = identity(old) != identity(new);
    let by_address = |config: &Config| -> BTreeMap<IpAddr, PeerConfig> {
        config.peers.iter().map(|peer| (peer.remote, peer.clone())).collect()
    };
    let (before, after) = (by_address(old), by_address(new));
    let mut changes = Vec::new();
    for (remote, peer) in &before {
        let effect = match after.get(remote) {
            None => Some(SessionEffect::Stop),
            Some(new) if new.shutdown.is_some() && peer.shutdown.is_some() => {
                (new != peer).then_some(SessionEffect::Stays)
            }
            Some(new) if reborn && new.shutdown.is_none() => Some(SessionEffect::Reset),
            Some(new) if new == peer => None,
            Some(new) if peer.shutdown.is_some() && new.shutdown.is_none() => Some(SessionEffect::Start),
            Some(new) => Some(match change(peer, new) {
                Change::Quiet => SessionEffect::Stays,
                Change::Reset => SessionEffect::Reset,
                Change::ShutDown => SessionEffect::ShutDown,
            }),
        };
        let name = after.get(remote).unwrap_or(peer).name.clone();
        changes.extend(effect.map(|effect| SessionChange { remote: *remote, name, effect }));
    }
    for (remote, peer) in after.iter().filter(|(remote, _)| !before.contains_key(remote)) {
        changes.push(SessionChange {
            remote: *remote,
            name: peer.name.clone(),
            effect: SessionEffect::Start,
        });
    }
    changes.sort_by_key(|change| change.remote);
    changes
}

fn change(old: &PeerConfig, new: &PeerConfig) -> Change {
    if new.shutdown.is_some() {
        return if old.shutdown.is_some() { Change::Quiet } else { Change::ShutDown };
    }
    let on_wire = |peer: &PeerConfig| {
        // How many paths are sent is ours to change at any time; that several may be is not.
        let add_path = PerFamily::from_fn(|family| {
            let add_path = peer.add_path.get(family);
            (add_path.receive, add_path.send != SendPaths::Best)
        });
        (
            (peer.remote_as, peer.local_as.map(|other| other.asn), peer.role, peer.role_strict),
            peer.transport.clone(),
            peer.hold_time,
            peer.families,
            peer.graceful_restart,
            peer.long_lived,
            peer.extended_next_hop,
            add_path,
        )
    };
    if on_wire(old) == on_wire(new) { Change::Quiet } else { Change::Reset }
}
