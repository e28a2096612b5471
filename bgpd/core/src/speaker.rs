//! The speaker: sessions and RIBs behind one value, and what ties them together.
//!
//! `speaker/effects.rs` hands what sessions bring in to the RIBs, `speaker/outputs.rs` hands what the RIBs want to
//! the shell, `speaker/helper.rs` and `speaker/startup.rs` are the two roles of graceful restart, and
//! `speaker/configure.rs` turns a new configuration into differences.

mod configure;
mod effects;
mod helper;
mod outputs;
mod path;
mod peer;
mod startup;
mod views;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

pub use configure::{SessionChange, SessionEffect, session_changes};

use turnpike_bgp_wire::{Cause, Cease, Notification};

use crate::config::{Config, ConfigError, Start};
use crate::event::Event;
use crate::input::{ConnId, Input, Shutdown};
use crate::output::Output;
use crate::query::PeerId;
use crate::rib::Rib;
use crate::session::{Context, Effect, Session};
use crate::time::Time;
use peer::Peer;
use startup::Startup;

/// A BGP speaker. See the crate's documentation for how to drive it.
#[derive(Debug)]
pub struct Speaker {
    config: Config,
    start: Start,
    now: Time,
    peers: Vec<Option<Peer>>,
    by_address: HashMap<IpAddr, PeerId>,
    conns: HashMap<ConnId, PeerId>,
    next_conn: u64,
    /// The earliest timeout of each peer that has one.
    timeouts: BTreeSet<(Time, PeerId)>,
    rib: Rib,
    startup: Startup,
    outputs: VecDeque<Output>,
    /// Somebody wants UPDATEs as they come.
    monitored: bool,
    /// Room for effects, kept between calls.
    effects: Vec<Effect>,
    /// Nothing is worked on any more: the process is being replaced.
    frozen: bool,
}

impl Speaker {
    /// Starts with a configuration, or says what is wrong with it.
    pub fn new(config: Config, start: Start, now: Time) -> Result<Self, Vec<ConfigError>> {
        let errors = config.check();
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut speaker = Self {
            start,
            now,
            peers: Vec::new(),
            by_address: HashMap::new(),
            conns: HashMap::new(),
            next_conn: 0,
            timeouts: BTreeSet::new(),
            rib: Rib::new(&config),
            startup: Startup::new(&config, start, now),
            outputs: VecDeque::new(),
            monitored: false,
            effects: Vec::new(),
            frozen: false,
            config,
        };
        speaker.rib.shared.holding = start.restarted;
        for peer in speaker.config.peers.clone() {
            speaker.add_peer(peer, false);
        }
        Ok(speaker)
    }

    /// Takes in what happened. Cheap: work on the RIBs is left to [`Self::poll_output`].
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Configure(config) => self.configure(*config),
            Input::Accepted { conn, local, remote } => self.accepted(conn, local, remote),
            Input::Connected { conn, local, remote } => {
                self.on_conn(conn, |session, context| session.connected(conn, local, remote, context));
            }
            Input::ConnectFailed { conn, reason } => {
                self.on_conn(conn, |session, context| session.connect_failed(conn, reason, context));
                self.conns.remove(&conn);
            }
            Input::Received { conn, bytes } => {
                self.on_conn(conn, |session, context| session.received(conn, &bytes, context));
            }
            Input::Sent { conn, bytes } => self.sent(conn, bytes),
            Input::Closed { conn, reason } => {
                self.on_conn(conn, |session, context| session.closed(conn, reason, context));
                self.conns.remove(&conn);
            }
            Input::Path { remote, path } => self.path(remote, path),
            Input::Nexthop { nexthop, resolution } => self.rib.resolve(nexthop, resolution),
            Input::SoftReset { remote, inbound, outbound } => self.soft_reset(remote, inbound, outbound),
            Input::WatchBest(watched) => self.rib.shared.watched = watched,
            Input::Monitor(monitored) => self.monitored = monitored,
            Input::Shutdown(how) => self.shutdown(&how),
        }
        self.check_startup();
    }

    /// Lets every timer fire whose moment has come. Harmless when none has.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = self.now.max(now);
        while let Some((at, peer)) = self.timeouts.first().copied().filter(|(at, _)| *at <= self.now) {
            self.timeouts.remove(&(at, peer));
            if let Some(held) = self.peer_mut(peer) {
                held.armed = None;
            }
            self.helper_timeout(peer);
            self.on_session(peer, Session::handle_timeout);
        }
        self.check_startup();
    }

    /// The next thing to do. Between two calls the shell may look at sockets and timers: each call does a bounded
    /// piece of the pending work on the RIBs. `None`: nothing left until the next input or timeout.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if self.frozen {
                return None;
            }
            let more = self.take_rib_outputs() || self.rib.step(self.now) || self.finish_startup();
            if !more {
                return None;
            }
        }
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Time> {
        let peers = self.timeouts.first().map(|(at, _)| *at);
        peers.into_iter().chain(self.startup_timeout()).chain(self.rib.poll_timeout()).min()
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn peer_ref(&self, peer: PeerId) -> Option<&Peer> {
        self.peers.get(peer.0 as usize)?.as_ref()
    }

    fn peer_mut(&mut self, peer: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(peer.0 as usize)?.as_mut()
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn on_conn(&mut self, conn: ConnId, act: impl FnOnce(&mut Session, &mut Context<'_>)) {
        if let Some(peer) = self.conns.get(&conn).copied() {
            self.on_session(peer, act);
        }
    }

    /// Lets a session act, then carries out what came of it.
    fn on_session(&mut self, peer: PeerId, act: impl FnOnce(&mut Session, &mut Context<'_>)) {
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(held) = self.peers.get_mut(peer.0 as usize).and_then(Option::as_mut) {
            let mut context = Context {
                now: self.now,
                next_conn: &mut self.next_conn,
                effects: &mut effects,
                monitored: self.monitored,
            };
            act(&mut held.session, &mut context);
        }
        for effect in effects.drain(..) {
            self.apply(peer, effect);
        }
        self.effects = effects;
        self.show_state(peer);
        self.rearm(peer);
        self.bury(peer);
    }

    fn accepted(&mut self, conn: ConnId, local: SocketAddr, remote: SocketAddr) {
        let peer = match self.by_address.get(&remote.ip().to_canonical()) {
            Some(peer) => Some(*peer),
            None => self.admit(remote.ip().to_canonical()),
        };
        let wanted = |held: &Peer| {
            let bound = held.session.config.transport.local;
            bound.is_none_or(|bound| bound == local.ip().to_canonical())
        };
        let Some(peer) = peer.filter(|peer| self.peer_ref(*peer).is_some_and(wanted)) else {
            self.event(Event::UnknownPeer { remote });
            self.outputs.push_back(Output::Close { conn });
            return;
        };
        self.conns.insert(conn, peer);
        self.on_session(peer, |session, context| {
            if !session.accepted(conn, local, remote, context) {
                context.effects.push(Effect::Close { conn });
            }
        });
    }

    fn sent(&mut self, conn: ConnId, bytes: usize) {
        let Some(peer) = self.conns.get(&conn).copied() else { return };
        let now = self.now;
        let Some(held) = self.peer_mut(peer) else { return };
        held.session.sent(conn, bytes, now);
        let established = held.session.established().is_some_and(|established| established.id == conn);
        if established {
            self.rib.sent(peer, bytes);
        }
        self.rearm(peer);
    }

    fn shutdown(&mut self, how: &Shutdown) {
        let all: Vec<PeerId> = self.peers.iter().flatten().map(|peer| peer.id).collect();
        match how {
            Shutdown::Restart => {
                for peer in all {
                    self.on_session(peer, Session::vanish);
                }
                self.frozen = true;
            }
            Shutdown::Final { message } => {
                let notification = Notification::shutdown(Cease::AdministrativeShutdown, message);
                for peer in all {
                    if let Some(held) = self.peer_mut(peer) {
                        held.session.config.shutdown = Some(message.clone());
                    }
                    self.on_session(peer, |session, context| session.stop(&notification, true, context));
                }
            }
        }
    }

    fn soft_reset(&mut self, remote: IpAddr, inbound: bool, outbound: bool) {
        let Some(peer) = self.by_address.get(&remote).copied() else { return };
        let Some(families) =
            self.peer_ref(peer).and_then(|held| held.agreed.as_ref()).map(|agreed| agreed.families)
        else {
            return;
        };
        for family in families.members() {
            if inbound {
                self.ask_again(peer, family);
            }
            if outbound {
                self.rib.refresh(peer, family);
            }
        }
    }

    /// Ends a session from our side for good or for a fresh start.
    fn stop_peer(&mut self, peer: PeerId, notification: &Notification, hard: bool) {
        self.on_session(peer, |session, context| session.stop(notification, hard, context));
    }

    fn cease(cease: Cease) -> Notification {
        Notification::new(Cause::Cease(cease))
    }
}
