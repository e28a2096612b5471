//! Sessions: one client's conversation with one real server, with its state and its end.
//!
//! Time is an input everywhere. Deadlines are rows of a heap; a session that lives on only changes its own
//! deadline, and the row is put back when it comes up too early.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    config::Timeouts,
    flow::{Flow, Protocol, Side},
    packet::TcpHeader,
    toa::{Toa, ToaInsertion},
};

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// TCP: the client has sent a SYN; the handshake is not over.
    Syn,
    /// TCP: both sides have acknowledged each other.
    Established,
    /// TCP: the client has closed.
    ClientClosed,
    /// TCP: the server has closed.
    ServerClosed,
    /// TCP: both have closed.
    TimeWait,
    /// TCP: one side has reset the connection.
    Reset,
    /// UDP.
    Udp,
}

impl SessionState {
    /// How long a session in this state lasts without packets.
    fn timeout(self, timeouts: &Timeouts) -> Duration {
        Timeouts::seconds(match self {
            Self::Syn => timeouts.syn,
            Self::Established => timeouts.established,
            Self::ClientClosed | Self::ServerClosed => timeouts.fin,
            Self::TimeWait => timeouts.time_wait,
            Self::Reset => timeouts.reset,
            Self::Udp => timeouts.udp,
        })
    }

    /// Whether a new SYN of the same client begins a new session.
    fn may_be_replaced(self) -> bool {
        matches!(self, Self::ClientClosed | Self::ServerClosed | Self::TimeWait | Self::Reset)
    }
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) protocol: Protocol,
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) real: SocketAddr,
    pub(super) toa: Option<Toa>,
    pub(super) state: SessionState,
    /// The sequence number of the first byte that the server sends, once its SYN was seen.
    server_first: Option<u32>,
    /// The largest packet that a router on the way to the server has said to pass.
    pub(super) path_mtu: Option<u16>,
    deadline: Duration,
    /// The earliest row of the heap that stands for this session.
    scheduled: Duration,
}

impl Session {
    pub(super) fn new(protocol: Protocol, ends: Ends, toa: Option<Toa>) -> Self {
        let Ends { client, vip, local, real } = ends;
        let state = match protocol {
            Protocol::Tcp => SessionState::Syn,
            Protocol::Udp => SessionState::Udp,
        };
        let (deadline, scheduled) = (Duration::ZERO, Duration::MAX);
        Self {
            protocol,
            client,
            vip,
            local,
            real,
            toa,
            state,
            server_first: None,
            path_mtu: None,
            deadline,
            scheduled,
        }
    }

    /// How long until the session ends if nothing else happens.
    pub(super) fn remaining(&self, now: Duration) -> Duration {
        self.deadline.saturating_sub(now)
    }

    /// What `sender`'s packets look like when they arrive.
    pub(super) fn arriving(&self, sender: Side) -> Flow {
        let (source, destination) = match sender {
            Side::Client => (self.client, self.vip),
            Side::Server => (self.real, self.local),
        };
        Flow { protocol: self.protocol, source, destination }
    }

    /// What `sender`'s packets look like when they leave.
    pub(super) fn leaving(&self, sender: Side) -> Flow {
        let (source, destination) = match sender {
            Side::Client => (self.local, self.real),
            Side::Server => (self.vip, self.client),
        };
        Flow { protocol: self.protocol, source, destination }
    }

    /// Follows the connection through one packet of `sender`.
    pub(super) fn observe(&mut self, sender: Side, tcp: &TcpHeader) {
        if sender == Side::Server && tcp.syn && tcp.ack && self.state == SessionState::Syn {
            self.server_first = Some(tcp.sequence.wrapping_add(1));
        }
        self.state = self.after(sender, tcp);
    }

    fn after(&self, sender: Side, tcp: &TcpHeader) -> SessionState {
        use SessionState::{ClientClosed, Established, Reset, ServerClosed, Syn, TimeWait, Udp};
        if tcp.rst {
            return Reset;
        }
        match (self.state, sender) {
            (Syn | Established, Side::Client) if tcp.fin => ClientClosed,
            (Syn | Established, Side::Server) if tcp.fin => ServerClosed,
            (ClientClosed, Side::Server) | (ServerClosed, Side::Client) if tcp.fin => TimeWait,
            (Syn, Side::Client) if tcp.ack && !tcp.syn && self.server_first.is_some() => Established,
            (state @ (Syn | Established | ClientClosed | ServerClosed | TimeWait | Reset | Udp), _) => state,
        }
    }

    /// Whether a packet of the client is one that carries TOA.
    ///
    /// "Until server data is acknowledged" is exactly "while the acknowledgement number is the server's
    /// first": a client that has taken one byte acknowledges more.
    pub(super) fn toa_due(&self, tcp: &TcpHeader) -> Option<Toa> {
        let toa = self.toa?;
        let due = match (tcp.rst, tcp.syn) {
            (true, _) => false,
            (false, true) => !tcp.ack && toa.insertion == ToaInsertion::Alibaba,
            (false, false) => tcp.ack && self.server_first == Some(tcp.acknowledgement),
        };
        due.then_some(toa)
    }
}

/// The four ends of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) real: SocketAddr,
}

/// Names a session as long as it lives; a later session in the same slot has another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId {
    slot: usize,
    generation: u64,
}

/// All sessions, found by either flow and ended by time.
#[derive(Debug)]
pub(super) struct SessionTable {
    slots: Vec<Option<(u64, Session)>>,
    vacant: Vec<usize>,
    flows: HashMap<Flow, (SessionId, Side)>,
    deadlines: BinaryHeap<Reverse<(Duration, SessionId)>>,
    timeouts: Timeouts,
    generation: u64,
}

impl SessionTable {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            flows: HashMap::new(),
            deadlines: BinaryHeap::new(),
            timeouts,
            generation: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// The session that a packet of `flow` belongs to, and who sent it.
    pub(super) fn find(&self, flow: &Flow) -> Option<(SessionId, Side)> {
        self.flows.get(flow).copied()
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        match self.slots.get(id.slot)? {
            Some((generation, session)) if *generation == id.generation => Some(session),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        match self.slots.get_mut(id.slot)? {
            Some((generation, session)) if *generation == id.generation => Some(session),
            _ => None,
        }
    }

    /// All sessions, in the order of their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().flatten().map(|(_, session)| session)
    }

    /// Adds a session that ends unless packets follow.
    pub(super) fn insert(&mut self, now: Duration, session: Session) -> SessionId {
        self.generation += 1;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let id = SessionId { slot, generation: self.generation };
        for side in [Side::Client, Side::Server] {
            self.flows.insert(session.arriving(side), (id, side));
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some((self.generation, session));
        }
        self.touch(now, id);
        id
    }

    /// Puts the end of a session off by the timeout of its state.
    ///
    /// A reset is not checked against the window, so it only shortens the timeout: a connection that a forged
    /// one was meant to end keeps its session for as long as it talks.
    pub(super) fn touch(&mut self, now: Duration, id: SessionId) {
        let timeouts = self.timeouts;
        let Some(session) = self.get_mut(id) else { return };
        let deadline = now + session.state.timeout(&timeouts);
        session.deadline = deadline;
        if deadline < session.scheduled {
            session.scheduled = deadline;
            self.deadlines.push(Reverse((deadline, id)));
        }
    }

    /// Whether a SYN of the client begins a new session in place of this one.
    pub(super) fn may_be_replaced(&self, id: SessionId) -> bool {
        self.get(id).is_some_and(|session| session.state.may_be_replaced())
    }

    /// Takes a session out.
    pub(super) fn remove(&mut self, id: SessionId) -> Option<Session> {
        self.get(id)?;
        let (_, session) = self.slots.get_mut(id.slot)?.take()?;
        self.vacant.push(id.slot);
        for side in [Side::Client, Side::Server] {
            self.flows.remove(&session.arriving(side));
        }
        Some(session)
    }

    /// When the next session may end; never later than it does.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Takes out one session whose time has come.
    pub(super) fn pop_expired(&mut self, now: Duration) -> Option<Session> {
        while let Some(&Reverse((due, id))) = self.deadlines.peek() {
            if due > now {
                return None;
            }
            self.deadlines.pop();
            let Some(session) = self.get_mut(id) else { continue };
            if session.deadline <= now {
                return self.remove(id);
            }
            if session.scheduled == due {
                session.scheduled = session.deadline;
                let row = Reverse((session.deadline, id));
                self.deadlines.push(row);
            }
        }
        None
    }
}
