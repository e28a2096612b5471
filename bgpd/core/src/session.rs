//! One peer's session: the state machine of RFC 4271 §8 over at most two connections.
//!
//! Owns connections, their framing and timers, capabilities, collisions (RFC 4271 §6.8) and the question whether the
//! end of a session keeps the peer's paths (RFC 4724, RFC 8538). Knows nothing of RIBs: what came in is handed on
//! as an [`Effect`]. Time, connection numbers and the place for effects come in with each call as [`Context`].

mod collision;
mod connection;
mod ending;
mod negotiate;
mod receive;
mod timers;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use turnpike_bgp_wire::{Asn, Cause, Notification, RouteRefresh, RouterId, Update};

pub(crate) use connection::{Connection, Phase};
pub(crate) use negotiate::{Negotiated, RestartBits};
pub(crate) use timers::{Timer, Timers};

use crate::config::PeerConfig;
use crate::event::DownReason;
use crate::input::{CloseReason, ConnId};
use crate::query::{PeerCounters, SessionState};
use crate::time::Time;

/// Hold time before the OPEN has said better (RFC 4271 §8.2.2 suggests four minutes).
const OPENING_HOLD: Duration = Duration::from_secs(240);
/// Least send hold time (RFC 9687 §6); twice the hold time where that is longer.
const SEND_HOLD: Duration = Duration::from_secs(480);

/// What the rest of the speaker must do, in order.
#[derive(Debug)]
pub(crate) enum Effect {
    Connect {
        conn: ConnId,
        remote: SocketAddr,
    },
    Send {
        conn: ConnId,
        bytes: Bytes,
    },
    Close {
        conn: ConnId,
    },
    Up(Box<Negotiated>),
    Down {
        reason: DownReason,
        kept: bool,
    },
    ConnectionFailed {
        reason: DownReason,
    },
    Update(Box<Update>),
    /// An UPDATE as it came, header included; ahead of what was read in it.
    Received(Bytes),
    Refresh(RouteRefresh),
    Keepalive,
}

/// What a call needs from the speaker.
pub(crate) struct Context<'a> {
    pub(crate) now: Time,
    pub(crate) next_conn: &'a mut u64,
    pub(crate) effects: &'a mut Vec<Effect>,
    /// Somebody wants UPDATEs as they come.
    pub(crate) monitored: bool,
}

/// The local side of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Local {
    pub(crate) asn: Asn,
    pub(crate) router_id: RouterId,
    /// What to say about graceful restart; `None`: nothing.
    pub(crate) restart: Option<RestartBits>,
}

/// A peer's session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) config: PeerConfig,
    pub(crate) local: Local,
    conns: [Option<Connection>; 2],
    timers: Timers,
    /// No connections until the path to the peer is known to be good.
    held: bool,
    /// Errors since the last session with a good life.
    errors: u32,
    established_at: Option<Time>,
    pub(crate) ever_established: bool,
    pub(crate) counters: PeerCounters,
    pub(crate) flaps: u64,
    pub(crate) last_error: Option<String>,
    pub(crate) last_notification: Option<String>,
    /// The last NOTIFICATION as a message, until a session ends with it.
    notification_message: Bytes,
    /// The one that the last session ended with, header included; empty if it ended without.
    pub(crate) ended_with: Bytes,
    jitter: Jitter,
}

/// Repeatable spread of waits (RFC 4271 §10): two speakers must not try in step.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    /// Between three quarters and the whole of `wait`.
    fn spread(&mut self, wait: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        wait * 3 / 4 + (wait / 4 / 256) * ((self.0 >> 56) as u32)
    }
}

impl Session {
    pub(crate) fn new(config: PeerConfig, local: Local, seed: u64) -> Self {
        Self {
            held: config.wait_for_path,
            config,
            local,
            conns: [None, None],
            timers: Timers::default(),
            errors: 0,
            established_at: None,
            ever_established: false,
            counters: PeerCounters::default(),
            flaps: 0,
            last_error: None,
            last_notification: None,
            notification_message: Bytes::new(),
            ended_with: Bytes::new(),
            jitter: Jitter(seed),
        }
    }

    /// Of our AS, whatever its OPEN will say.
    pub(crate) fn internal(&self) -> bool {
        self.config.remote_as.is_internal(self.local.asn) == Some(true)
    }

    pub(crate) fn state(&self) -> SessionState {
        let furthest = self.conns.iter().flatten().map(|conn| conn.phase.state()).max();
        furthest.unwrap_or(match self.config.shutdown.is_some() || self.resting() || self.held {
            true => SessionState::Idle,
            false => SessionState::Active,
        })
    }

    fn resting(&self) -> bool {
        self.timers.is_set(Timer::Rest)
    }

    pub(crate) fn has_connection(&self) -> bool {
        self.conns.iter().any(Option::is_some)
    }

    /// The connection of the Established session.
    pub(crate) fn established(&self) -> Option<&Connection> {
        self.conns.iter().flatten().find(|conn| conn.phase == Phase::Established)
    }

    pub(crate) const fn established_at(&self) -> Option<Time> {
        self.established_at
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    fn slot_of(&self, conn: ConnId) -> Option<usize> {
        self.conns.iter().position(|slot| slot.as_ref().is_some_and(|held| held.id == conn))
    }

    fn get_mut(&mut self, slot: usize) -> Option<&mut Connection> {
        self.conns.get_mut(slot)?.as_mut()
    }

    fn put(&mut self, slot: usize, conn: Connection) {
        if let Some(place) = self.conns.get_mut(slot) {
            *place = Some(conn);
        }
    }

    /// Begins to connect, or to wait for the peer.
    pub(crate) fn start(&mut self, context: &mut Context<'_>) {
        if self.config.shutdown.is_none() && self.conns.iter().all(Option::is_none) {
            self.connect(context);
        }
    }

    /// No new connections until [`Self::release`].
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// The path is good, or nothing is known of it.
    pub(crate) fn release(&mut self, context: &mut Context<'_>) {
        if std::mem::take(&mut self.held) && !self.resting() {
            self.start(context);
        }
    }

    /// Begins an outgoing connection unless the peer is passive or one is under way.
    fn connect(&mut self, context: &mut Context<'_>) {
        let Some(slot) = self.conns.iter_mut().find(|slot| slot.is_none()) else { return };
        if self.config.transport.passive || self.held {
            return;
        }
        let transport = &self.config.transport;
        let remote = match self.config.remote {
            std::net::IpAddr::V4(addr) => SocketAddr::from((addr, transport.port)),
            std::net::IpAddr::V6(addr) => {
                std::net::SocketAddrV6::new(addr, transport.port, 0, transport.scope).into()
            }
        };
        let conn = ConnId::Outgoing(*context.next_conn);
        *context.next_conn += 1;
        *slot = Some(Connection::connecting(conn, remote));
        // A SYN may be lost twice before an attempt counts as failed.
        let patience = self.config.connect_retry.max(Duration::from_secs(10));
        self.timers.set(Timer::ConnectRetry, context.now + patience);
        context.effects.push(Effect::Connect { conn, remote });
    }

    fn connect_after(&mut self, wait: Duration, now: Time) {
        if self.config.shutdown.is_none() && !self.config.transport.passive {
            let wait = self.jitter.spread(wait);
            self.timers.set(Timer::ConnectRetry, now + wait);
        }
    }

    /// A connection came in from the peer's address. `false`: not wanted, to be closed.
    pub(crate) fn accepted(
        &mut self,
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
        context: &mut Context<'_>,
    ) -> bool {
        if self.config.shutdown.is_some() || self.resting() || self.held {
            return false;
        }
        if self.conns.iter().all(Option::is_some) {
            // The peer has given up the one before, or would not have opened another.
            let older = self
                .conns
                .iter()
                .flatten()
                .find(|held| matches!(held.id, ConnId::Incoming(_)) && held.phase != Phase::Established);
            match older.map(|held| held.id) {
                Some(older) => self.drop_connection(older, None, context),
                None => return false,
            }
        }
        let Some(slot) = self.conns.iter().position(Option::is_none) else { return false };
        self.put(slot, Connection::connected(conn, local, remote));
        self.open(slot, context);
        true
    }

    pub(crate) fn connected(
        &mut self,
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
        context: &mut Context<'_>,
    ) {
        let Some(slot) = self.slot_of(conn) else { return };
        let Some(held) = self.get_mut(slot) else { return };
        if held.phase == Phase::Connecting {
            *held = Connection::connected(conn, local, remote);
            self.timers.clear(Timer::ConnectRetry);
            self.open(slot, context);
        }
    }

    pub(crate) fn connect_failed(&mut self, conn: ConnId, reason: CloseReason, context: &mut Context<'_>) {
        let Some(slot) = self.slot_of(conn) else { return };
        self.forget(slot);
        self.last_error = Some(format!("connect: {reason}"));
        self.connect_after(self.config.connect_retry, context.now);
    }

    /// Sends our OPEN.
    fn open(&mut self, slot: usize, context: &mut Context<'_>) {
        let open = negotiate::our_open(&self.config, &self.local, self.ever_established);
        let mut bytes = Vec::with_capacity(128);
        open.encode(&mut bytes);
        if let Some(held) = self.get_mut(slot) {
            held.phase = Phase::OpenSent;
            held.sent_open = Bytes::copy_from_slice(&bytes);
        }
        self.timers.set(Timer::hold(slot), context.now + OPENING_HOLD);
        self.send(slot, bytes, 1, context);
    }

    /// Hands bytes of whole messages to the shell.
    fn send(&mut self, slot: usize, bytes: Vec<u8>, messages: u64, context: &mut Context<'_>) {
        let Some(held) = self.get_mut(slot) else { return };
        held.unsent += bytes.len();
        let conn = held.id;
        self.counters.messages_out += messages;
        if !self.timers.is_set(Timer::SendHold) {
            self.arm_send_hold(context.now);
        }
        context.effects.push(Effect::Send { conn, bytes: bytes.into() });
    }

    fn arm_send_hold(&mut self, now: Time) {
        if let Some(hold) = self.established().and_then(Connection::hold_time) {
            self.timers.set(Timer::SendHold, now + SEND_HOLD.max(hold * 2));
        }
    }

    /// Accounts for UPDATEs (or refresh messages) that the RIB side sends on the Established connection.
    pub(crate) fn note_sent(&mut self, bytes: usize, messages: usize, now: Time) -> Option<ConnId> {
        let held = self.conns.iter_mut().flatten().find(|conn| conn.phase == Phase::Established)?;
        held.unsent += bytes;
        let conn = held.id;
        self.counters.messages_out += messages as u64;
        self.counters.updates_out += messages as u64;
        if !self.timers.is_set(Timer::SendHold) {
            self.arm_send_hold(now);
        }
        Some(conn)
    }

    /// Bytes have left for the socket.
    pub(crate) fn sent(&mut self, conn: ConnId, bytes: usize, now: Time) {
        let Some(slot) = self.slot_of(conn) else { return };
        let Some(held) = self.get_mut(slot) else { return };
        held.unsent = held.unsent.saturating_sub(bytes);
        let (established, empty) = (held.phase == Phase::Established, held.unsent == 0);
        if established && empty {
            self.timers.clear(Timer::SendHold);
        } else if established && bytes > 0 {
            self.arm_send_hold(now);
        }
    }

    /// Sends a ROUTE-REFRESH on the Established session.
    pub(crate) fn send_refresh(&mut self, refresh: RouteRefresh, context: &mut Context<'_>) {
        let Some(slot) = self.established().and_then(|conn| self.slot_of(conn.id)) else { return };
        let mut bytes = Vec::new();
        refresh.encode(&mut bytes);
        self.send(slot, bytes, 1, context);
    }

    pub(crate) fn closed(&mut self, conn: ConnId, reason: CloseReason, context: &mut Context<'_>) {
        let Some(slot) = self.slot_of(conn) else { return };
        self.end(slot, DownReason::Transport(reason), context);
    }

    /// Lets expired timers fire.
    pub(crate) fn handle_timeout(&mut self, context: &mut Context<'_>) {
        while let Some(timer) = self.timers.pop_expired(context.now) {
            match timer {
                Timer::ConnectRetry => self.retry(context),
                Timer::Rest => self.connect(context),
                Timer::Hold0 => self.fail(0, Notification::new(Cause::HoldTimerExpired), context),
                Timer::Hold1 => self.fail(1, Notification::new(Cause::HoldTimerExpired), context),
                Timer::Keepalive0 => self.keepalive(0, context),
                Timer::Keepalive1 => self.keepalive(1, context),
                Timer::SendHold => {
                    if let Some(slot) = self.established().and_then(|conn| self.slot_of(conn.id)) {
                        self.fail(slot, Notification::new(Cause::SendHoldTimerExpired), context);
                    }
                }
            }
        }
    }

    fn retry(&mut self, context: &mut Context<'_>) {
        let hanging =
            self.conns.iter().flatten().find(|conn| conn.phase == Phase::Connecting).map(|conn| conn.id);
        if let Some(conn) = hanging {
            self.last_error = Some(format!("connect: {}", CloseReason::TimedOut));
            self.drop_connection(conn, None, context);
        }
        // An incoming connection under way makes our own attempt needless.
        if self.conns.iter().all(Option::is_none) {
            self.connect(context);
        } else {
            self.connect_after(self.config.connect_retry, context.now);
        }
    }

    fn keepalive(&mut self, slot: usize, context: &mut Context<'_>) {
        let mut bytes = Vec::with_capacity(19);
        turnpike_bgp_wire::encode_keepalive(&mut bytes);
        self.send(slot, bytes, 1, context);
        self.arm_keepalive(slot, context.now);
    }

    fn arm_keepalive(&mut self, slot: usize, now: Time) {
        let hold = self.conns.get(slot).and_then(Option::as_ref).and_then(Connection::hold_time);
        if let Some(hold) = hold {
            let wait = self.jitter.spread(hold / 3);
            self.timers.set(Timer::keepalive(slot), now + wait);
        }
    }
}
