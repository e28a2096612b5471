//! Two sessions in memory over a link with latency, loss and reordering, on virtual time.

#![cfg(test)]

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use turnpike_bfd::{Change, Diagnostic, Packet, Params, Session, State, Time};

const fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn params(tx: u64, rx: u64, detect_mult: u8) -> Params {
    Params { desired_min_tx: ms(tx), required_min_rx: ms(rx), detect_mult }
}

/// A packet on its way.
#[derive(Debug, Clone)]
struct Flying {
    arrives: Time,
    to: usize,
    packet: Packet,
}

/// Sessions 0 and 1, and what is between them.
struct Pair {
    now: Time,
    ends: [Session; 2],
    flying: Vec<Flying>,
    /// Of each direction: whether packets from that end are lost.
    cut: [bool; 2],
    /// One of so many packets is lost; 0: none.
    loss: u64,
    /// Answers to polls are lost.
    no_finals: bool,
    latency: Duration,
    /// Most extra latency: packets overtake each other.
    wobble: Duration,
    random: u64,
    sent: [Vec<(Time, Packet)>; 2],
    changes: [Vec<(Time, Change)>; 2],
}

impl Pair {
    fn new(a: Params, b: Params) -> Self {
        let discr = |number| NonZeroU32::new(number).unwrap();
        Self {
            now: Time::default(),
            ends: [Session::new(discr(11), a), Session::new(discr(22), b)],
            flying: Vec::new(),
            cut: [false; 2],
            loss: 0,
            no_finals: false,
            latency: ms(1),
            wobble: Duration::ZERO,
            random: 7,
            sent: [Vec::new(), Vec::new()],
            changes: [Vec::new(), Vec::new()],
        }
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 33
    }

    fn drain(&mut self) {
        for end in [0, 1] {
            loop {
                let jitter = self.random() as u8;
                let Some(packet) = self.ends[end].poll_transmit(self.now, jitter) else { break };
                // Over the wire and back: nothing of a packet may live outside its octets.
                let packet = Packet::decode(&packet.encode()).unwrap();
                self.sent[end].push((self.now, packet));
                let lost = self.loss > 0 && self.random().is_multiple_of(self.loss)
                    || self.no_finals && packet.final_;
                let extra = self.wobble * (self.random() % 256) as u32 / 256;
                if !self.cut[end] && !lost {
                    self.flying.push(Flying {
                        arrives: self.now + self.latency + extra,
                        to: 1 - end,
                        packet,
                    });
                }
            }
            while let Some(change) = self.ends[end].poll_change() {
                self.changes[end].push((self.now, change));
            }
        }
    }

    /// Lets `time` pass.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.drain();
            let timers = self.ends.iter().filter_map(Session::poll_timeout);
            let next = timers.chain(self.flying.iter().map(|one| one.arrives)).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            assert!(next >= self.now || self.ends.iter().any(|end| end.poll_timeout() == Some(next)));
            self.now = self.now.max(next);
            let due = |one: &Flying| one.arrives <= self.now;
            let (mut arrived, flying): (Vec<_>, Vec<_>) = self.flying.drain(..).partition(due);
            self.flying = flying;
            arrived.sort_by_key(|one| one.arrives);
            for one in arrived {
                self.ends[one.to].receive(self.now, &one.packet);
            }
            for end in &mut self.ends {
                end.handle_timeout(self.now);
            }
        }
        self.now = until;
        self.drain();
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    fn up(a: Params, b: Params) -> Self {
        let mut pair = Self::new(a, b);
        pair.run(ms(5_000));
        assert_eq!(pair.states(), [State::Up; 2]);
        pair.sent = [Vec::new(), Vec::new()];
        pair.changes = [Vec::new(), Vec::new()];
        pair
    }

    /// Shortest and longest gap between packets of an end.
    fn gaps(&self, end: usize) -> (Duration, Duration) {
        let gaps = self.sent[end].windows(2).map(|two| two[1].0.since(two[0].0));
        (gaps.clone().min().unwrap(), gaps.max().unwrap())
    }
}

#[test]
fn a_session_comes_up_by_three_way_handshake() {
    let mut pair = Pair::new(params(300, 300, 3), params(300, 300, 3));
    pair.run(ms(3_000));
    let path = |end: usize| pair.changes[end].iter().map(|(_, change)| change.to).collect::<Vec<_>>();
    assert_eq!((path(0), path(1)), (vec![State::Init, State::Up], vec![State::Init, State::Up]));
    assert_eq!(pair.ends[0].remote_discr(), Some(pair.ends[1].local_discr()));
    assert_eq!(pair.ends[0].diagnostic(), Diagnostic::None);
    let before_up = pair.sent[0].iter().filter(|(_, packet)| packet.state != State::Up);
    assert!(before_up.clone().all(|(_, packet)| packet.desired_min_tx == ms(1_000)), "RFC 5880 §6.8.3");
    assert!(pair.sent[0].iter().all(|(_, packet)| packet.independent && !packet.demand));
}

#[test]
fn each_direction_runs_at_the_slower_of_both_wishes_and_is_polled_for() {
    // RFC 5880 §6.8.2, §6.8.4, §6.5
    let mut pair = Pair::up(params(100, 400, 3), params(200, 250, 5));
    pair.run(ms(20_000));
    let (shortest, longest) = pair.gaps(0);
    assert!(shortest >= ms(187) && longest <= ms(250), "max(100, 250) less jitter: {shortest:?} {longest:?}");
    let (shortest, longest) = pair.gaps(1);
    assert!(shortest >= ms(300) && longest <= ms(400), "max(200, 400): {shortest:?} {longest:?}");
    assert_eq!(pair.ends[0].detection_time(), Some(ms(400 * 5)));
    assert_eq!(pair.ends[1].detection_time(), Some(ms(250 * 3)));
    assert!(pair.sent.iter().flatten().all(|(_, packet)| !packet.poll && !packet.final_), "polls are over");
}

#[test]
fn the_detection_time_bounds_how_long_a_cut_goes_unseen() {
    let mut pair = Pair::up(params(300, 300, 3), params(300, 300, 3));
    pair.cut = [true, true];
    let cut_at = pair.now;
    pair.run(ms(2_000));
    for end in [0, 1] {
        let (at, change) = pair.changes[end][0];
        assert_eq!((change.from, change.to), (State::Up, State::Down));
        assert_eq!(change.diagnostic, Diagnostic::TimeExpired);
        let took = at.since(cut_at);
        assert!(took >= ms(590) && took <= ms(901), "{took:?}");
    }
    assert_eq!(pair.ends[0].remote_discr(), None, "RFC 5880 §6.8.1");
    assert_eq!(pair.ends[0].tx_interval(), Some(ms(1_000)));
    pair.cut = [false, false];
    pair.run(ms(5_000));
    assert_eq!(pair.states(), [State::Up; 2], "and it comes back");
}

#[test]
fn a_failure_of_one_direction_takes_both_ends_down() {
    let mut pair = Pair::up(params(300, 300, 3), params(300, 300, 3));
    pair.cut = [true, false];
    pair.run(ms(1_000));
    assert_eq!(pair.changes[1][0].1.diagnostic, Diagnostic::TimeExpired);
    assert_eq!(pair.changes[0][0].1.diagnostic, Diagnostic::NeighborDown);
    let lag = pair.changes[0][0].0.since(pair.changes[1][0].0);
    assert_eq!(lag, ms(1), "a change of state is told at once (RFC 5880 §6.8.7)");
    pair.run(ms(10_000));
    assert_eq!(pair.states(), [State::Init, State::Down], "one hears, the other does not");
}

#[test]
fn fewer_missing_packets_than_the_multiplier_are_no_failure() {
    let mut pair = Pair::up(params(300, 300, 3), params(300, 300, 3));
    for _ in 0..20 {
        pair.cut = [true, true];
        // At worst 300 ms before, these, and 300 ms after: less than three intervals.
        pair.run(ms(290));
        pair.cut = [false, false];
        pair.run(ms(600));
    }
    assert_eq!(pair.changes, [Vec::new(), Vec::new()]);
}

#[test]
fn a_longer_interval_waits_for_the_final_and_a_shorter_one_does_not() {
    // RFC 5880 §6.8.3
    let mut pair = Pair::up(params(100, 100, 3), params(100, 100, 3));
    pair.latency = ms(40);
    pair.run(ms(500));
    pair.ends[0].set_params(params(800, 100, 3));
    pair.drain();
    assert!(pair.sent[0].last().unwrap().1.poll);
    assert_eq!(pair.ends[0].tx_interval(), Some(ms(100)), "the peer does not know yet");
    pair.run(ms(80));
    assert_eq!(pair.ends[0].tx_interval(), Some(ms(800)));
    assert_eq!(pair.ends[1].detection_time(), Some(ms(2_400)));

    pair.ends[0].set_params(params(50, 20, 3));
    assert_eq!(pair.ends[0].tx_interval(), Some(ms(100)), "at once, as far as the peer can take it");
    assert_eq!(
        pair.ends[0].detection_time(),
        Some(ms(300)),
        "what the peer sends at the old pace still counts"
    );
    pair.run(ms(5_000));
    assert_eq!(pair.ends[0].detection_time(), Some(ms(300)), "the peer wants no less than 100 ms");
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.changes, [Vec::new(), Vec::new()]);
}

#[test]
fn a_longer_interval_is_not_used_while_the_poll_is_unanswered() {
    let mut pair = Pair::up(params(100, 100, 3), params(100, 100, 3));
    // Finals are lost, everything else arrives: neither end may give up.
    pair.ends[0].set_params(params(1_000, 100, 3));
    pair.no_finals = true;
    for _ in 0..50 {
        pair.run(ms(20));
        assert_eq!(pair.ends[0].tx_interval(), Some(ms(100)));
    }
    assert_eq!(pair.states(), [State::Up; 2]);
    assert!(pair.sent[0].iter().rev().take(5).all(|(_, packet)| packet.poll), "it keeps asking");
    pair.no_finals = false;
    pair.run(ms(200));
    assert_eq!(pair.ends[0].tx_interval(), Some(ms(1_000)));
}

#[test]
fn admin_down_is_told_apart_from_a_failure_and_ends() {
    // RFC 5880 §6.8.16, RFC 5882 §3.2
    let mut pair = Pair::up(params(300, 300, 3), params(300, 300, 3));
    pair.ends[0].admin_down();
    pair.run(ms(5_000));
    let (_, change) = pair.changes[1][0];
    assert_eq!(
        (change.to, change.remote, change.diagnostic),
        (State::Down, State::AdminDown, Diagnostic::NeighborDown)
    );
    assert_eq!(pair.states(), [State::AdminDown, State::Down]);
    assert_eq!(pair.changes[1].len(), 1);
    pair.ends[0].admin_up();
    pair.run(ms(5_000));
    assert_eq!(pair.states(), [State::Up; 2]);
    let told: Vec<_> = pair.changes[1].iter().map(|(_, change)| (change.to, change.remote)).collect();
    assert_eq!(told[1..], [(State::Init, State::Down), (State::Up, State::Up)]);
}

#[test]
fn a_peer_that_takes_no_packets_gets_none() {
    // RFC 5880 §6.8.7: bfd.RemoteMinRxInterval is zero.
    let mut pair = Pair::up(params(300, 300, 3), params(300, 300, 3));
    pair.ends[1].set_params(params(300, 0, 3));
    pair.run(ms(1_000));
    let before = pair.sent[0].len();
    pair.run(ms(3_000));
    assert_eq!(pair.sent[0].len(), before);
}

#[test]
fn a_peer_that_restarted_is_down_until_it_has_shaken_hands_again() {
    let mut pair = Pair::up(params(300, 300, 3), params(300, 300, 3));
    pair.ends[1] = Session::new(NonZeroU32::new(33).unwrap(), params(300, 300, 3));
    pair.run(ms(1));
    pair.run(ms(1));
    assert_eq!(pair.changes[0][0].1.diagnostic, Diagnostic::NeighborDown);
    pair.run(ms(5_000));
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.ends[0].remote_discr(), NonZeroU32::new(33));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens on the way, both ends are Up soon after the way is good, and stay so.
    #[test]
    fn a_good_path_always_leads_to_up(
        seed in any::<u64>(),
        tx in 10_u64..2_000,
        rx in 10_u64..2_000,
        mult in 1_u8..8,
        troubles in proptest::collection::vec((any::<bool>(), any::<bool>(), 0_u64..5, 0_u64..4_000, 0_u64..900), 0..8),
    ) {
        let mut pair = Pair::new(params(tx, rx, mult), params(rx, tx, 3));
        pair.random = seed;
        for (a, b, loss, time, wobble) in troubles {
            (pair.cut, pair.loss, pair.wobble) = ([a, b], loss, ms(wobble));
            pair.run(ms(time));
        }
        (pair.cut, pair.loss, pair.wobble) = ([false; 2], 0, Duration::ZERO);
        pair.run(ms(40_000));
        prop_assert_eq!(pair.states(), [State::Up; 2]);
        pair.changes = [Vec::new(), Vec::new()];
        pair.run(ms(60_000));
        prop_assert_eq!(&pair.changes, &[Vec::new(), Vec::new()]);
    }

    /// Arbitrary packets neither panic nor stall a session.
    #[test]
    fn arbitrary_packets_leave_a_session_that_works(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 24..=24), 1..40),
    ) {
        let mut pair = Pair::new(params(300, 300, 3), params(300, 300, 3));
        for mut bytes in packets {
            // Mostly past the first checks.
            (bytes[0], bytes[3]) = (0x20 | bytes[0] & 0x1f, 24);
            bytes[1] &= 0xfa;
            if let Ok(packet) = Packet::decode(&bytes) {
                pair.ends[0].receive(pair.now, &packet);
                pair.run(ms(10));
            }
        }
    }
}
