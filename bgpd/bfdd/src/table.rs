//! All sessions: who wants which, which packet belongs to which, when each has to do something.
//!
//! Pure like the sessions themselves: time, packets, interface numbers and random numbers are inputs. What is to be
//! done is queued for [`Table::next_packet`], [`Table::next_news`] and [`Table::next_gone`].

mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use turnpike_bfd::{Change, Discriminator, Packet, Params, Session, State, Time};
use turnpike_bgpd_api::bfd::{BfdKey, BfdSpec, BfdView};
use turnpike_bgpd_api::{Code, ErrorReply, Prefix};

use crate::control::Caller;
use crate::net::{Arrival, TTL};

/// How long an ended session says AdminDown at most.
const LONGEST_FAREWELL: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Table {
    orphan_time: Duration,
    random: Random,
    entries: BTreeMap<Discriminator, Entry>,
    by_key: BTreeMap<BfdKey, Discriminator>,
    owners: BTreeMap<String, Owner>,
    timers: BTreeSet<(Time, Discriminator)>,
    packets: VecDeque<(Discriminator, Packet)>,
    news: VecDeque<(Caller, BfdView)>,
    gone: VecDeque<Discriminator>,
}

/// Somebody who wants sessions.
#[derive(Debug)]
struct Owner {
    caller: Option<Caller>,
    /// When its sessions end unless it comes back.
    until: Option<Time>,
}

/// A session and what is around it.
#[derive(Debug)]
struct Entry {
    key: BfdKey,
    name: String,
    owner: String,
    /// Who declared it last.
    caller: Caller,
    session: Session,
    since: Time,
    downs: u64,
    packets_in: u64,
    packets_out: u64,
    problem: Option<String>,
    /// Nobody wants it: it says AdminDown until then.
    leaving: Option<Time>,
    armed: Option<Time>,
}

/// Why a packet was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0}")]
    Malformed(#[from] turnpike_bfd::Malformed),
    #[error("TTL {0} has crossed a router (RFC 5881 §5)")]
    Ttl(u8),
    #[error("no such session")]
    NoSession,
}

impl Table {
    /// Starts empty; `seed` is a random number.
    pub(crate) fn new(orphan_time: Duration, seed: u64) -> Self {
        Self {
            orphan_time,
            random: Random(seed),
            entries: BTreeMap::new(),
            by_key: BTreeMap::new(),
            owners: BTreeMap::new(),
            timers: BTreeSet::new(),
            packets: VecDeque::new(),
            news: VecDeque::new(),
            gone: VecDeque::new(),
        }
    }

    /// Makes exactly these sessions the owner's; what an earlier caller declared for it stays, too, if the peer is in
    /// `keep`.
    pub(crate) fn declare(
        &mut self,
        now: Time,
        caller: Caller,
        owner: &str,
        specs: Vec<BfdSpec>,
        keep: &[Prefix],
    ) -> Result<Vec<BfdView>, ErrorReply> {
        self.check(owner, &specs)?;
        self.owners.insert(owner.to_owned(), Owner { caller: Some(caller), until: None });
        let wanted: BTreeSet<BfdKey> = specs.iter().map(|spec| spec.key.clone()).collect();
        let kept = |entry: &Entry| {
            entry.caller != caller && keep.iter().any(|prefix| prefix.contains(entry.key.peer))
        };
        self.dismiss(now, |entry| entry.owner == owner && !wanted.contains(&entry.key) && !kept(entry));
        for spec in specs {
            self.want(now, caller, owner, spec);
        }
        Ok(self.views(now, |entry| entry.owner == owner && entry.leaving.is_none()))
    }

    /// Every session that somebody wants.
    pub(crate) fn show(&self, now: Time) -> Vec<BfdView> {
        self.views(now, |entry| entry.leaving.is_none())
    }

    /// A caller has gone; its sessions wait for it.
    pub(crate) fn forget(&mut self, now: Time, caller: Caller) {
        let until = now + self.orphan_time;
        for owner in self.owners.values_mut().filter(|owner| owner.caller == Some(caller)) {
            *owner = Owner { caller: None, until: Some(until) };
        }
    }

    /// Ends everything: each session says AdminDown for a while.
    pub(crate) fn dismiss_all(&mut self, now: Time) {
        self.dismiss(now, |_| true);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes in a datagram. `index` knows the numbers of interfaces.
    pub(crate) fn receive(
        &mut self,
        now: Time,
        arrival: Arrival,
        payload: &[u8],
        index: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<(), Refused> {
        if !arrival.multihop && arrival.ttl != TTL {
            return Err(Refused::Ttl(arrival.ttl));
        }
        let packet = Packet::decode(payload)?;
        let discr = match packet.your_discriminator {
            Some(discr) => discr,
            None => self.find(arrival, index).ok_or(Refused::NoSession)?,
        };
        let entry = self.entries.get_mut(&discr).ok_or(Refused::NoSession)?;
        if !entry.takes(arrival, index) {
            return Err(Refused::NoSession);
        }
        entry.packets_in += 1;
        entry.session.receive(now, &packet);
        self.serve(now, discr);
        Ok(())
    }

    /// Lets everything happen whose moment has come.
    pub(crate) fn handle_timeouts(&mut self, now: Time) {
        while let Some((at, discr)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, discr));
            let Some(entry) = self.entries.get_mut(&discr) else { continue };
            entry.armed = None;
            if entry.leaving.is_some_and(|until| until <= now) {
                self.bury(discr);
                continue;
            }
            entry.session.handle_timeout(now);
            self.serve(now, discr);
        }
        let over = |owner: &Owner| owner.until.is_some_and(|until| until <= now);
        let lost: Vec<String> =
            self.owners.iter().filter(|(_, owner)| over(owner)).map(|(name, _)| name.clone()).collect();
        for name in lost {
            self.owners.remove(&name);
            self.dismiss(now, |entry| entry.owner == name);
        }
    }

    /// Somebody has been silent for so long that [`Self::handle_timeouts`] would take a session down.
    pub(crate) fn suspects(&self, now: Time) -> bool {
        let due = self.timers.iter().take_while(|(at, _)| *at <= now);
        due.filter_map(|(_, discr)| self.entries.get(discr)).any(|entry| entry.session.is_silent(now))
    }

    /// When to call [`Self::handle_timeouts`] at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let owners = self.owners.values().filter_map(|owner| owner.until);
        self.timers.first().map(|(at, _)| *at).into_iter().chain(owners).min()
    }

    /// A packet to send.
    pub(crate) fn next_packet(&mut self) -> Option<(Discriminator, Packet)> {
        self.packets.pop_front()
    }

    /// A change to tell a caller.
    pub(crate) fn next_news(&mut self) -> Option<(Caller, BfdView)> {
        self.news.pop_front()
    }

    /// A session that is over.
    pub(crate) fn next_gone(&mut self) -> Option<Discriminator> {
        self.gone.pop_front()
    }

    /// How to reach a session's peer, and whether the session is Up.
    pub(crate) fn way(&self, discr: Discriminator) -> Option<(&BfdKey, bool)> {
        self.entries.get(&discr).map(|entry| (&entry.key, entry.session.state() == State::Up))
    }

    /// A packet has left, or why it has not; true if this is news.
    pub(crate) fn sent(&mut self, discr: Discriminator, problem: Option<String>) -> bool {
        let Some(entry) = self.entries.get_mut(&discr) else { return false };
        entry.packets_out += u64::from(problem.is_none());
        let news = entry.problem != problem;
        entry.problem = problem;
        news
    }

    fn check(&self, owner: &str, specs: &[BfdSpec]) -> Result<(), ErrorReply> {
        let invalid = |message: String| ErrorReply { code: Code::Invalid, message };
        let mut keys = BTreeSet::new();
        for spec in specs {
            let peer = spec.key.peer;
            if spec.multiplier == 0 || spec.min_tx_us == 0 {
                return Err(invalid(format!("{peer}: interval and multiplier are at least 1")));
            }
            if spec.key.local.is_some_and(|local| local.is_ipv4() != peer.is_ipv4()) {
                return Err(invalid(format!("{peer}: our address is of another family")));
            }
            if !keys.insert(&spec.key) {
                return Err(invalid(format!("{peer}: the same session twice")));
            }
            let other = self.by_key.get(&spec.key).and_then(|discr| self.entries.get(discr));
            if let Some(other) = other.filter(|other| other.owner != owner && other.leaving.is_none()) {
                return Err(invalid(format!("{peer}: {} has this session", other.owner)));
            }
        }
        Ok(())
    }

    fn want(&mut self, now: Time, caller: Caller, owner: &str, spec: BfdSpec) {
        let params = Params {
            desired_min_tx: Duration::from_micros(spec.min_tx_us.into()),
            required_min_rx: Duration::from_micros(spec.min_rx_us.into()),
            detect_mult: spec.multiplier,
        };
        let known = self.by_key.get(&spec.key).copied();
        let discr = known.unwrap_or_else(|| self.fresh_discriminator());
        let entry = self.entries.entry(discr).or_insert_with(|| Entry {
            key: spec.key.clone(),
            name: String::new(),
            owner: String::new(),
            caller,
            session: Session::new(discr, params),
            since: now,
            downs: 0,
            packets_in: 0,
            packets_out: 0,
            problem: None,
            leaving: None,
            armed: None,
        });
        entry.name = spec.name;
        owner.clone_into(&mut entry.owner);
        entry.caller = caller;
        entry.session.set_params(params);
        if entry.leaving.take().is_some() {
            entry.session.admin_up();
        }
        self.by_key.insert(spec.key, discr);
        self.serve(now, discr);
    }

    fn dismiss(&mut self, now: Time, which: impl Fn(&Entry) -> bool) {
        let unwanted: Vec<Discriminator> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.leaving.is_none() && which(entry))
            .map(|(discr, _)| *discr)
            .collect();
        for discr in unwanted {
            let Some(entry) = self.entries.get_mut(&discr) else { continue };
            let heard = entry.session.remote_discr().is_some();
            let farewell = entry.session.remote_detection_time().min(LONGEST_FAREWELL);
            entry.session.admin_down();
            entry.leaving = Some(if heard { now + farewell } else { now });
            self.serve(now, discr);
        }
    }

    fn bury(&mut self, discr: Discriminator) {
        if let Some(entry) = self.entries.remove(&discr) {
            self.by_key.remove(&entry.key);
            self.gone.push_back(discr);
        }
    }

    /// A nonzero number that no session has (RFC 5880 §6.3), and that nobody can guess.
    fn fresh_discriminator(&mut self) -> Discriminator {
        loop {
            let number = Discriminator::new((self.random.next() >> 32) as u32);
            if let Some(number) = number.filter(|number| !self.entries.contains_key(number)) {
                return number;
            }
        }
    }

    /// The session of a peer that does not know our number yet.
    fn find(&self, arrival: Arrival, index: &dyn Fn(&str) -> Option<u32>) -> Option<Discriminator> {
        let candidates =
            self.by_key.iter().filter(|(key, _)| key.peer == arrival.peer).filter_map(|(_, discr)| {
                let entry = self.entries.get(discr)?;
                entry.takes(arrival, index).then_some((entry.key.local.is_some(), *discr))
            });
        // One that names our address fits better than one that names none.
        candidates.max_by_key(|(exact, _)| *exact).map(|(_, discr)| discr)
    }

    /// Collects what a session wants done, and sets its timer.
    fn serve(&mut self, now: Time, discr: Discriminator) {
        let Some(entry) = self.entries.get_mut(&discr) else { return };
        while let Some(packet) = entry.session.poll_transmit(now, self.random.octet()) {
            self.packets.push_back((discr, packet));
        }
        let mut changed = false;
        while let Some(change) = entry.session.poll_change() {
            entry.note(now, change);
            changed = true;
        }
        let next = entry.session.poll_timeout().into_iter().chain(entry.leaving).min();
        if entry.armed != next {
            if let Some(old) = entry.armed {
                self.timers.remove(&(old, discr));
            }
            entry.armed = next;
            self.timers.extend(next.map(|next| (next, discr)));
        }
        let caller = self.owners.get(&entry.owner).and_then(|owner| owner.caller);
        if let Some(caller) = caller.filter(|_| changed && entry.leaving.is_none()) {
            self.news.push_back((caller, entry.view(now, None)));
        }
    }

    fn views(&self, now: Time, which: impl Fn(&Entry) -> bool) -> Vec<BfdView> {
        let entries = self.by_key.values().filter_map(|discr| self.entries.get(discr));
        let wanted = entries.filter(|entry| which(entry));
        wanted.map(|entry| entry.view(now, self.owners.get(&entry.owner).and_then(|o| o.until))).collect()
    }
}

impl Entry {
    /// A packet that came like this may be for it.
    fn takes(&self, arrival: Arrival, index: &dyn Fn(&str) -> Option<u32>) -> bool {
        let key = &self.key;
        key.peer == arrival.peer
            && key.multihop == arrival.multihop
            && key.local.is_none_or(|local| local == arrival.local)
            && key.interface.as_deref().is_none_or(|name| index(name) == Some(arrival.ifindex))
    }

    fn note(&mut self, now: Time, change: Change) {
        let (peer, name) = (self.key.peer, self.name.as_str());
        if change.from == change.to {
            tracing::info!(name, %peer, remote = %change.remote, "the peer's state changed");
            return;
        }
        let (from, to, why) = (change.from, change.to, change.diagnostic);
        if from == State::Up {
            self.downs += 1;
            tracing::warn!(name, %peer, %from, %to, %why, remote = %change.remote, "session down");
        } else {
            tracing::info!(name, %peer, %from, %to, "session");
        }
        self.since = now;
    }
}

/// SplitMix64.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn octet(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }
}

#[cfg(test)]
mod tests;
