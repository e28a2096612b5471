//! One session (RFC 5880 §6): states, timer negotiation, Poll Sequences, detection.
//!
//! Names follow §6.8.1. Two rules of §6.8.3 need an extra pair of variables: while a Poll Sequence is under way, a
//! longer transmit interval is not yet used and a shorter receive interval does not yet count, so the interval that
//! is announced and the one that is in force are kept apart.

use std::collections::VecDeque;
use std::time::Duration;

use crate::packet::{Diagnostic, Discriminator, Packet, State};
use crate::time::Time;

/// While a session is not Up, packets are sent no faster (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);
/// bfd.RemoteMinRxInterval before anything is heard (RFC 5880 §6.8.1).
const UNKNOWN_MIN_RX: Duration = Duration::from_micros(1);

/// What is configured. Intervals must be at least a microsecond, the multiplier at least 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Least interval between our packets that we want while Up (bfd.DesiredMinTxInterval).
    pub desired_min_tx: Duration,
    /// Least interval between the peer's packets that we can take (bfd.RequiredMinRxInterval).
    pub required_min_rx: Duration,
    /// bfd.DetectMult: the peer gives up after so many of our packets in a row are missing.
    pub detect_mult: u8,
}

/// Something that the session's user must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Before.
    pub from: State,
    /// Now; the same as before where only the other end's state is news (it went to or from AdminDown).
    pub to: State,
    /// The other end's state as last heard.
    pub remote: State,
    /// Why.
    pub diagnostic: Diagnostic,
}

/// A session. It takes the Active role: it speaks before it has heard anything.
#[derive(Clone, Debug)]
pub struct Session {
    params: Params,
    local_discr: Discriminator,
    state: State,
    diagnostic: Diagnostic,
    remote_state: State,
    remote_discr: Option<Discriminator>,
    remote_min_rx: Duration,
    remote_desired_min_tx: Duration,
    remote_detect_mult: u8,
    remote_demand: bool,
    remote_independent: bool,
    /// Transmit interval in force, where a Poll Sequence still has to tell the peer of a longer one.
    old_min_tx: Option<Duration>,
    /// Receive interval in force, where a Poll Sequence still has to tell the peer of a shorter one.
    old_min_rx: Option<Duration>,
    polling: bool,
    /// An answer with the F bit is owed.
    owes_final: bool,
    /// What we would send now differs from what we sent last.
    news: bool,
    /// Moment and spread of the last packet, from which the next follows.
    last_sent: Option<(Time, u8)>,
    last_heard: Option<Time>,
    changes: VecDeque<Change>,
}

impl Session {
    /// A session that begins Down and speaks at once.
    #[must_use]
    pub fn new(local_discr: Discriminator, params: Params) -> Self {
        Self {
            params,
            local_discr,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote_state: State::Down,
            remote_discr: None,
            remote_min_rx: UNKNOWN_MIN_RX,
            remote_desired_min_tx: Duration::ZERO,
            remote_detect_mult: 0,
            remote_demand: false,
            remote_independent: false,
            old_min_tx: None,
            old_min_rx: None,
            polling: false,
            owes_final: false,
            news: true,
            last_sent: None,
            last_heard: None,
            changes: VecDeque::new(),
        }
    }

    /// Takes in a packet that the caller has found to belong here (RFC 5880 §6.8.6, from the state variables on).
    pub fn receive(&mut self, now: Time, packet: &Packet) {
        let remote_was = self.remote_state;
        self.remote_discr = Some(packet.my_discriminator);
        self.remote_state = packet.state;
        self.remote_demand = packet.demand;
        self.remote_independent = packet.independent;
        self.remote_min_rx = packet.required_min_rx;
        self.remote_desired_min_tx = packet.desired_min_tx;
        self.remote_detect_mult = packet.detect_mult;
        self.last_heard = Some(now);
        if packet.final_ && self.polling {
            self.end_poll();
        }
        if self.state == State::AdminDown {
            return;
        }
        let before = self.state;
        match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.go(State::Down, Diagnostic::NeighborDown);
            }
            (State::Down, State::Down) => self.go(State::Init, self.diagnostic),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.go(State::Up, Diagnostic::None);
            }
            _ => {}
        }
        let admin = |state| state == State::AdminDown;
        if self.state == before && admin(remote_was) != admin(self.remote_state) {
            self.tell(before);
        }
        if packet.poll {
            self.owes_final = true;
        }
    }

    /// The detection time has run out, and [`Self::handle_timeout`] would say so.
    #[must_use]
    pub fn is_silent(&self, now: Time) -> bool {
        self.detection_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Lets the detection time run out if it has (RFC 5880 §6.8.4). Harmless before.
    pub fn handle_timeout(&mut self, now: Time) {
        if !self.is_silent(now) {
            return;
        }
        self.last_heard = None;
        self.remote_discr = None;
        self.remote_min_rx = UNKNOWN_MIN_RX;
        self.remote_demand = false;
        let admin = self.remote_state == State::AdminDown;
        self.remote_state = State::Down;
        if matches!(self.state, State::Init | State::Up) {
            self.go(State::Down, Diagnostic::TimeExpired);
        } else if admin {
            self.tell(self.state);
        }
    }

    /// The next packet to send, if one is due. `jitter` is a fresh random octet: it moves the packet after this one
    /// (RFC 5880 §6.8.7).
    pub fn poll_transmit(&mut self, now: Time, jitter: u8) -> Option<Packet> {
        if self.owes_final {
            // Beside the periodic ones (RFC 5880 §6.8.7); it says all there is to say.
            self.owes_final = false;
            self.news = false;
            return Some(self.packet(false, true));
        }
        // A peer that takes no packets is told no news either.
        let news = self.news && !self.remote_min_rx.is_zero();
        if !(news || self.next_periodic().is_some_and(|at| at <= now)) {
            return None;
        }
        self.news = false;
        self.last_sent = Some((now, jitter));
        Some(self.packet(self.polling, false))
    }

    /// What changed, the oldest first.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// When to call [`Self::handle_timeout`] and [`Self::poll_transmit`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.next_periodic().into_iter().chain(self.detection_deadline()).min()
    }

    /// Changes what is configured; a session that is Up stays so (RFC 5880 §6.8.3).
    pub fn set_params(&mut self, params: Params) {
        if params == self.params {
            return;
        }
        let (tx, rx) = (self.tx_in_force(), self.rx_in_force());
        self.params = params;
        self.news = true;
        if self.state == State::Up {
            self.begin_poll(tx, rx);
        }
    }

    /// Goes down by the administrator's wish and says so until forgotten; the peer must not take it for a failure
    /// (RFC 5880 §6.8.16).
    pub fn admin_down(&mut self) {
        if self.state != State::AdminDown {
            self.go(State::AdminDown, Diagnostic::AdminDown);
        }
    }

    /// Begins anew after [`Self::admin_down`].
    pub fn admin_up(&mut self) {
        if self.state == State::AdminDown {
            self.go(State::Down, Diagnostic::None);
        }
    }

    /// Our number for the session.
    #[must_use]
    pub const fn local_discr(&self) -> Discriminator {
        self.local_discr
    }

    /// The peer's number, once heard.
    #[must_use]
    pub const fn remote_discr(&self) -> Option<Discriminator> {
        self.remote_discr
    }

    /// Our state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The peer's state as last heard; Down while it is not heard.
    #[must_use]
    pub const fn remote_state(&self) -> State {
        self.remote_state
    }

    /// Why the session was last taken down.
    #[must_use]
    pub const fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// The peer's C bit as last heard: its BFD outlives its control plane.
    #[must_use]
    pub const fn remote_independent(&self) -> bool {
        self.remote_independent
    }

    /// Interval between our packets before jitter; `None`: the peer takes none, or wants none.
    #[must_use]
    pub fn tx_interval(&self) -> Option<Duration> {
        let silenced =
            self.remote_demand && self.state == State::Up && self.remote_state == State::Up && !self.polling;
        (!self.remote_min_rx.is_zero() && !silenced).then(|| self.tx_in_force().max(self.remote_min_rx))
    }

    /// For how long nothing may be heard before the session goes down; `None` before the peer was heard.
    #[must_use]
    pub fn detection_time(&self) -> Option<Duration> {
        self.last_heard?;
        let interval = self.rx_in_force().max(self.remote_desired_min_tx);
        Some(interval.saturating_mul(self.remote_detect_mult.into()))
    }

    /// For how long the peer waits for us before it gives the session up: our packets of the last state have
    /// certainly been missed or heard by then.
    #[must_use]
    pub fn remote_detection_time(&self) -> Duration {
        let interval = self.announced_min_tx().max(self.remote_min_rx);
        interval.saturating_mul(self.params.detect_mult.into())
    }

    fn detection_deadline(&self) -> Option<Time> {
        Some(self.last_heard? + self.detection_time()?)
    }

    fn next_periodic(&self) -> Option<Time> {
        let interval = self.tx_interval()?;
        Some(match self.last_sent {
            Some((at, jitter)) => at + spread(interval, self.params.detect_mult, jitter),
            None => Time::default(),
        })
    }

    fn announced_min_tx(&self) -> Duration {
        match self.state {
            State::Up => self.params.desired_min_tx,
            _ => self.params.desired_min_tx.max(SLOW),
        }
    }

    fn tx_in_force(&self) -> Duration {
        self.old_min_tx.unwrap_or_else(|| self.announced_min_tx())
    }

    fn rx_in_force(&self) -> Duration {
        self.old_min_rx.unwrap_or(self.params.required_min_rx)
    }

    fn go(&mut self, to: State, diagnostic: Diagnostic) {
        let from = self.state;
        let (tx, rx) = (self.tx_in_force(), self.rx_in_force());
        self.state = to;
        self.diagnostic = diagnostic;
        self.news = true;
        if to == State::Up {
            // The transmit interval changes from the slow one.
            self.begin_poll(tx, rx);
        } else if from == State::Up {
            // Nobody relies on the old intervals any more.
            self.end_poll();
        }
        self.tell(from);
    }

    fn tell(&mut self, from: State) {
        let change = Change { from, to: self.state, remote: self.remote_state, diagnostic: self.diagnostic };
        self.changes.push_back(change);
    }

    /// Announces the present intervals; `tx` and `rx` were in force so far.
    fn begin_poll(&mut self, tx: Duration, rx: Duration) {
        self.old_min_tx = Some(tx).filter(|old| *old < self.announced_min_tx());
        self.old_min_rx = Some(rx).filter(|old| *old > self.params.required_min_rx);
        self.polling = true;
    }

    fn end_poll(&mut self) {
        self.polling = false;
        self.old_min_tx = None;
        self.old_min_rx = None;
    }

    fn packet(&self, poll: bool, final_: bool) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll,
            final_,
            independent: true,
            demand: false,
            detect_mult: self.params.detect_mult,
            my_discriminator: self.local_discr,
            your_discriminator: self.remote_discr,
            desired_min_tx: self.announced_min_tx(),
            required_min_rx: self.params.required_min_rx,
            required_min_echo_rx: Duration::ZERO,
        }
    }
}

/// 75 to 100 % of the interval, to 90 % where a single missing packet counts (RFC 5880 §6.8.7).
fn spread(interval: Duration, detect_mult: u8, jitter: u8) -> Duration {
    let width = if detect_mult == 1 { 15 } else { 25 };
    interval * 3 / 4 + interval * width / 100 * u32::from(jitter) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_spread_over_a_quarter_of_the_interval() {
        let second = Duration::from_secs(1);
        assert_eq!(spread(second, 3, 0), Duration::from_millis(750));
        assert_eq!(spread(second, 3, 255), second);
        assert_eq!(spread(second, 1, 255), Duration::from_millis(900));
    }
}
