//! The translation itself: a packet and the time in, a packet or a reason out.
//!
//! One packet never makes more than one, so the caller lends the buffer. Nothing here reads a clock, a random
//! number or a socket; the seed of the local ports is an argument.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    config::{ConfigError, DirectorConfig, Service, validate_services},
    flow::{Flow, Protocol, Side},
    fragments::FragmentTable,
    icmp, options,
    packet::{self, Extent, Fragment, ICMP, ICMPV6, Ip, ParseError, TCP, TCP_HEADER, TcpHeader, UDP},
    ports::LocalPorts,
    schedule::Scheduler,
    session::{Ends, Session, SessionId, SessionTable},
    stats::{DirectorStats, DropReason, SessionView},
    toa::Toa,
};

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A client's packet (or an error about a server's) goes to a server.
    ToServer,
    /// A server's packet (or an error about a client's) goes to a client.
    ToClient,
    /// An answer of the director itself.
    Reply,
    /// Nothing goes out.
    Drop(DropReason),
}

impl Verdict {
    fn for_packet_of(sender: Side) -> Self {
        match sender {
            Side::Client => Self::ToServer,
            Side::Server => Self::ToClient,
        }
    }
}

impl From<ParseError> for DropReason {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Malformed => Self::Malformed,
            ParseError::Unsupported => Self::Unsupported,
        }
    }
}

#[derive(Debug)]
struct VirtualService {
    scheduler: Scheduler,
    toa: Option<Toa>,
}

/// A FULLNAT director without its sockets.
#[derive(Debug)]
pub struct Translator {
    services: HashMap<(Protocol, SocketAddr), VirtualService>,
    vips: HashSet<IpAddr>,
    sessions: SessionTable,
    ports: LocalPorts,
    fragments: FragmentTable,
    mtu: u16,
    max_sessions: usize,
    clamp_mss: bool,
    blank_client_toa: bool,
    stats: DirectorStats,
}

impl Translator {
    /// A director without sessions; `seed` chooses where local ports begin unless `config` does.
    ///
    /// # Errors
    /// What [`ConfigError`] lists.
    pub fn new(config: &DirectorConfig, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let seed = config.seed.unwrap_or(seed);
        let mut translator = Self {
            services: HashMap::new(),
            vips: HashSet::new(),
            sessions: SessionTable::new(config.timeouts),
            ports: LocalPorts::new(config.local_addresses.clone(), config.local_ports, seed),
            fragments: FragmentTable::new(seed),
            mtu: config.mtu,
            max_sessions: config.max_sessions,
            clamp_mss: config.clamp_mss,
            blank_client_toa: config.blank_client_toa,
            stats: DirectorStats::default(),
        };
        translator.set_services(&config.services);
        Ok(translator)
    }

    /// Replaces the virtual services. Sessions go on with the server and the TOA that they began with.
    ///
    /// # Errors
    /// What [`ConfigError`] lists; nothing has changed then.
    pub fn configure(&mut self, services: &[Service]) -> Result<(), ConfigError> {
        validate_services(services, self.ports.addresses())?;
        self.set_services(services);
        Ok(())
    }

    fn set_services(&mut self, services: &[Service]) {
        self.vips = services.iter().map(|service| service.vip.ip()).collect();
        self.services = services
            .iter()
            .map(|service| {
                let virtual_service =
                    VirtualService { scheduler: Scheduler::new(&service.reals), toa: service.toa };
                ((service.protocol, service.vip), virtual_service)
            })
            .collect();
    }

    /// Translates `packet` into `out`, whose old content goes. `out` is empty after [`Verdict::Drop`].
    ///
    /// `now` is the time since an arbitrary start and never runs backwards.
    pub fn handle(&mut self, now: Duration, packet: &[u8], out: &mut Vec<u8>) -> Verdict {
        self.expire(now);
        self.stats.received.add(packet.len());
        out.clear();
        let verdict = self.translate(now, packet, out).unwrap_or_else(Verdict::Drop);
        match verdict {
            Verdict::ToServer => self.stats.to_servers.add(out.len()),
            Verdict::ToClient => self.stats.to_clients.add(out.len()),
            Verdict::Reply => self.stats.echo_replies += 1,
            Verdict::Drop(reason) => {
                out.clear();
                *self.stats.dropped.entry(reason).or_default() += 1;
            }
        }
        verdict
    }

    /// Ends the sessions whose time has come.
    pub fn expire(&mut self, now: Duration) {
        while let Some(session) = self.sessions.pop_expired(now) {
            self.stats.sessions_expired += 1;
            self.ports.release(session.protocol, session.local, session.real);
        }
    }

    /// When [`Self::expire`] is worth calling next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.sessions.next_deadline()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> DirectorStats {
        DirectorStats { sessions: self.sessions.len(), ..self.stats.clone() }
    }

    /// The sessions, in no order that means anything.
    #[must_use]
    pub fn sessions(&self, now: Duration) -> Vec<SessionView> {
        self.sessions
            .iter()
            .map(|session| SessionView {
                protocol: session.protocol,
                client: session.client,
                vip: session.vip,
                local: session.local,
                real: session.real,
                state: session.state,
                remaining: session.remaining(now).as_secs(),
            })
            .collect()
    }

    fn translate(&mut self, now: Duration, packet: &[u8], out: &mut Vec<u8>) -> Result<Verdict, DropReason> {
        let ip = Ip::parse(packet, Extent::Whole)?;
        out.extend_from_slice(packet.get(..ip.length).ok_or(DropReason::Malformed)?);
        if self.owns(ip.source) {
            return Err(DropReason::NotOurs);
        }
        if let Some(fragment) = ip.fragment.filter(|fragment| !fragment.first) {
            return self.later_fragment(now, &ip, &fragment, out);
        }
        match ip.protocol {
            TCP | UDP => self.transport(now, &ip, out),
            ICMP | ICMPV6 => self.icmp(&ip, out),
            _ => Err(DropReason::Unsupported),
        }
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.vips.contains(&address) || self.ports.contains(address)
    }

    fn transport(&mut self, now: Duration, ip: &Ip, out: &mut Vec<u8>) -> Result<Verdict, DropReason> {
        let flow = ip.flow(out)?;
        let tcp = match flow.protocol {
            Protocol::Tcp => Some(TcpHeader::parse(out, ip)?),
            Protocol::Udp => {
                packet::check_udp(out, ip)?;
                None
            }
        };
        let (id, sender) = self.session_of(now, &flow, tcp.as_ref())?;
        let session = self.sessions.get_mut(id).ok_or(DropReason::NoSession)?;
        if let Some(tcp) = &tcp {
            session.observe(sender, tcp);
        }
        let leaving = session.leaving(sender);
        ip.readdress(out, &leaving).ok_or(DropReason::Malformed)?;
        if let Some(fragment) = &ip.fragment {
            let renamed = self.fragments.begin(now, ip, fragment, sender, &leaving);
            let renamed = renamed.ok_or(DropReason::Fragment)?;
            ip.reidentify(out, fragment, renamed.identification).ok_or(DropReason::Malformed)?;
        }
        if let Some(tcp) = &tcp {
            match sender {
                Side::Client => self.tell_client(id, ip, tcp, out)?,
                Side::Server => self.leave_room(id, ip, tcp, out),
            }
        }
        self.sessions.touch(now, id);
        Ok(Verdict::for_packet_of(sender))
    }

    /// The session that a packet belongs to, begun if the packet may begin one.
    fn session_of(
        &mut self,
        now: Duration,
        flow: &Flow,
        tcp: Option<&TcpHeader>,
    ) -> Result<(SessionId, Side), DropReason> {
        if let Some((id, sender)) = self.sessions.find(flow) {
            let again = sender == Side::Client && tcp.is_some_and(TcpHeader::opens);
            if !(again && self.sessions.may_be_replaced(id)) {
                return Ok((id, sender));
            }
            if let Some(old) = self.sessions.remove(id) {
                self.stats.sessions_replaced += 1;
                self.ports.release(old.protocol, old.local, old.real);
            }
        }
        let id = self.open(now, flow, tcp)?;
        Ok((id, Side::Client))
    }

    fn open(&mut self, now: Duration, flow: &Flow, tcp: Option<&TcpHeader>) -> Result<SessionId, DropReason> {
        let Some(service) = self.services.get_mut(&(flow.protocol, flow.destination)) else {
            let address = flow.destination.ip();
            return Err(match (self.vips.contains(&address), self.ports.contains(address)) {
                (true, _) => DropReason::NoService,
                (_, true) => DropReason::NoSession,
                _ => DropReason::NotOurs,
            });
        };
        if tcp.is_some_and(|tcp| !tcp.opens()) {
            return Err(DropReason::NoSession);
        }
        if self.sessions.len() >= self.max_sessions {
            return Err(DropReason::TableFull);
        }
        let real = service.scheduler.next().ok_or(DropReason::NoReal)?;
        let local = self.ports.allocate(flow.protocol, real).ok_or(DropReason::NoLocalPort)?;
        let ends = Ends { client: flow.source, vip: flow.destination, local, real };
        self.stats.sessions_created += 1;
        *self.stats.sessions_by_real.entry(real).or_default() += 1;
        Ok(self.sessions.insert(now, Session::new(flow.protocol, ends, service.toa)))
    }

    /// Tells the server who the client is, where this packet should and can.
    fn tell_client(
        &mut self,
        id: SessionId,
        ip: &Ip,
        tcp: &TcpHeader,
        out: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        let session = self.sessions.get(id).ok_or(DropReason::NoSession)?;
        let Some(toa) = session.toa else { return Ok(()) };
        if self.blank_client_toa
            && let Some(kind) = toa.format.kind(session.client)
        {
            self.stats.toa.blanked += options::blank(out, ip, tcp, kind);
        }
        let Some(toa) = session.toa_due(tcp) else { return Ok(()) };
        let counters = &mut self.stats.toa;
        if ip.fragment.is_some() {
            counters.skipped_fragment += 1;
            return Ok(());
        }
        let Some(option) = toa.format.option(session.client) else {
            counters.skipped_family += 1;
            return Ok(());
        };
        let mtu = session.path_mtu.map_or(self.mtu, |mtu| mtu.min(self.mtu));
        match options::insert(out, ip, tcp, &option, usize::from(mtu)) {
            Some(options::Insertion::Done) => counters.inserted += 1,
            Some(options::Insertion::NoRoom) => counters.skipped_room += 1,
            Some(options::Insertion::TooLong) => counters.skipped_mtu += 1,
            None => return Err(DropReason::Malformed),
        }
        Ok(())
    }

    /// Lowers the MSS that a server announces, so that the client's full segments leave room for the option.
    fn leave_room(&mut self, id: SessionId, ip: &Ip, tcp: &TcpHeader, out: &mut [u8]) {
        if !(self.clamp_mss && tcp.syn && tcp.ack) {
            return;
        }
        let option = self
            .sessions
            .get(id)
            .and_then(|session| session.toa?.format.option(session.client))
            .map(|option| option.as_slice().len());
        let Some(option) = option else { return };
        let headers = if ip.source.is_ipv4() { 20 } else { 40 } + TCP_HEADER + option;
        let limit = usize::from(self.mtu).saturating_sub(headers);
        if u16::try_from(limit).is_ok_and(|limit| options::clamp_mss(out, ip, tcp, limit)) {
            self.stats.mss_clamped += 1;
        }
    }

    fn later_fragment(
        &mut self,
        now: Duration,
        ip: &Ip,
        fragment: &Fragment,
        out: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let renamed = self.fragments.find(now, ip, fragment).ok_or(DropReason::Fragment)?;
        ip.readdress_header(out, renamed.source, renamed.destination).ok_or(DropReason::Malformed)?;
        ip.reidentify(out, fragment, renamed.identification).ok_or(DropReason::Malformed)?;
        self.stats.fragments += 1;
        Ok(Verdict::for_packet_of(renamed.sender))
    }

    fn icmp(&mut self, ip: &Ip, out: &mut [u8]) -> Result<Verdict, DropReason> {
        if ip.fragment.is_some() {
            return Err(DropReason::Fragment);
        }
        let names_mtu = match icmp::parse(out, ip)? {
            icmp::Message::EchoRequest if self.owns(ip.destination) => {
                icmp::reply_to_echo(out, ip).ok_or(DropReason::Malformed)?;
                return Ok(Verdict::Reply);
            }
            icmp::Message::EchoRequest => return Err(DropReason::NotOurs),
            icmp::Message::Error { names_mtu } => names_mtu,
        };
        let (inner, answer) = icmp::quoted(out, ip)?;
        let (id, sender) = self.sessions.find(&answer).ok_or(DropReason::NoSession)?;
        let session = self.sessions.get_mut(id).ok_or(DropReason::NoSession)?;
        if names_mtu && sender == Side::Server {
            learn_mtu(session, out, ip, &inner);
        }
        icmp::translate(out, ip, &inner, session, sender).ok_or(DropReason::Malformed)?;
        self.stats.icmp_errors += 1;
        Ok(Verdict::for_packet_of(sender))
    }
}

/// Remembers what fits towards the server, and tells the client what fits with the option: the packet that
/// was too big may have been small enough when the client sent it.
fn learn_mtu(session: &mut Session, out: &mut [u8], ip: &Ip, inner: &Ip) {
    let smallest = if ip.source.is_ipv4() { 576 } else { 1280 };
    let Some(mtu) = icmp::mtu(out, ip).filter(|&mtu| mtu >= smallest) else { return };
    session.path_mtu = Some(session.path_mtu.map_or(mtu, |known| known.min(mtu)));
    let Some(option) = session.toa.and_then(|toa| toa.format.option(session.client)) else { return };
    let option = option.as_slice();
    if !icmp::quotes_option(out, ip, inner, option) {
        return;
    }
    let room = u16::try_from(option.len()).ok().and_then(|length| mtu.checked_sub(length));
    if let Some(room) = room.filter(|&room| room >= smallest) {
        // Cannot miss: the old value was read from the same place.
        let _written = icmp::set_mtu(out, ip, room);
    }
}
