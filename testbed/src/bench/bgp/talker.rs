//! A BGP speaker that says what it was given and counts what it hears: generator and sink of the bench.
//!
//! All talkers of a run live in one thread. Hold times are long enough that nobody needs a KEEPALIVE during a run, but
//! for those whose pulse is what the run is about.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};
use turnpike_bgp_wire::{
    Asn, Capability, Family, Framer, GracefulRestartCapability, MessageType, Notification, Open, RouterId,
    encode_keepalive,
};

use super::routes::{Places, Seen, announced};

/// Hold time of every session in seconds: longer than any run.
pub(super) const HOLD_TIME: u16 = 900;
/// How long a session may take to come up, with attempts that the daemon refuses because it is not ready.
const SESSION_DEADLINE: Duration = Duration::from_secs(60);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const READ_SIZE: usize = 256 * 1024;

/// What one talker says and expects.
pub(super) struct Script {
    pub(super) asn: u32,
    pub(super) address: Ipv4Addr,
    /// UPDATEs to send.
    pub(super) says: Vec<u8>,
    /// Prefixes that it does not expect: its own.
    pub(super) own: std::ops::Range<u32>,
    /// How many different others it expects.
    pub(super) wants: usize,
    /// Seconds that it proposes; below [`HOLD_TIME`] it sends KEEPALIVEs three times as often.
    pub(super) hold_time: u16,
    /// It keeps the daemon's paths over a restart (RFC 4724).
    pub(super) graceful: bool,
}

/// A talker's KEEPALIVEs, and the daemon's.
struct Pulse {
    every: Duration,
    next: Instant,
    heard: Instant,
    /// The longest time without a word from the daemon.
    silence: Duration,
}

/// A talker with an Established session.
pub(super) struct Talker {
    address: Ipv4Addr,
    stream: TcpStream,
    framer: Framer,
    says: Vec<u8>,
    said: usize,
    seen: Seen,
    wants: usize,
    pulse: Option<Pulse>,
}

impl Talker {
    /// Connects from the calling thread's network namespace until the daemon takes the session.
    pub(super) fn establish(script: Script, daemon: Ipv4Addr, places: &Places) -> Result<Self> {
        let what = format!("a session of {} with the daemon", script.address);
        let (stream, framer) = crate::poll_result(SESSION_DEADLINE, &what, || handshake(&script, daemon))?;
        stream.set_nonblocking(true)?;
        let seen = Seen::new(places.len(), script.own);
        let now = Instant::now();
        let every = Duration::from_secs(u64::from(script.hold_time)) / 3;
        let pulse = (script.hold_time < HOLD_TIME).then_some(Pulse {
            every,
            next: now + every,
            heard: now,
            silence: Duration::ZERO,
        });
        Ok(Self {
            address: script.address,
            stream,
            framer,
            says: script.says,
            said: 0,
            seen,
            wants: script.wants,
            pulse,
        })
    }

    /// The longest time without a word from the daemon, for those with a pulse.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.pulse.as_ref().map(|pulse| pulse.silence.max(pulse.heard.elapsed()))
    }

    /// Sends a KEEPALIVE when it is time.
    fn beat(&mut self) {
        let Some(pulse) = &mut self.pulse else { return };
        if pulse.next <= Instant::now() {
            pulse.next += pulse.every;
            encode_keepalive(&mut self.says);
        }
    }

    fn has_said_all(&self) -> bool {
        self.said == self.says.len()
    }

    fn is_content(&self) -> bool {
        self.has_said_all() && self.seen.count() >= self.wants
    }

    fn turn(&mut self, events: PollFlags, buffer: &mut [u8], places: &Places) -> Result<()> {
        if events.contains(PollFlags::POLLOUT) {
            self.speak()?;
        }
        if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            self.listen(buffer, places)?;
        }
        Ok(())
    }

    fn speak(&mut self) -> Result<()> {
        while let Some(rest) = self.says.get(self.said..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(written) => self.said += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("the daemon does not take UPDATEs"),
            }
        }
        Ok(())
    }

    /// Takes in one buffer: others have their turn too.
    fn listen(&mut self, buffer: &mut [u8], places: &Places) -> Result<()> {
        let count = match self.stream.read(buffer) {
            Ok(0) => bail!("the daemon closed the session of {}", self.address),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("the daemon's session broke"),
        };
        if let Some(pulse) = &mut self.pulse {
            pulse.silence = pulse.silence.max(pulse.heard.elapsed());
            pulse.heard = Instant::now();
        }
        self.framer.push(buffer.get(..count).unwrap_or_default());
        self.take_messages(places)
    }

    fn take_messages(&mut self, places: &Places) -> Result<()> {
        let fault = |notification: Notification| anyhow::anyhow!("the daemon sends nonsense: {notification}");
        while let Some(frame) = self.framer.next_frame().map_err(fault)? {
            match frame.kind {
                MessageType::Update => announced(frame.body, |prefix| {
                    if let Some(place) = places.of(prefix) {
                        self.seen.note(place);
                    }
                })?,
                MessageType::Notification => {
                    let told = Notification::decode(frame.body).map(|told| told.to_string());
                    bail!("the daemon sent {} a NOTIFICATION: {told:?}", self.address);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Lets talkers speak and listen until all are content and `also` agrees; the moment when the talkers were. A talker
/// with a pulse that loses its session leaves; any other's loss is an error.
pub(super) fn converse(
    talkers: &mut Vec<Talker>,
    places: &Places,
    deadline: Duration,
    mut also: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begun = Instant::now();
    let mut buffer = vec![0; READ_SIZE];
    let mut content_at = None;
    for talker in talkers.iter_mut() {
        talker.take_messages(places)?;
    }
    loop {
        if content_at.is_none() && talkers.iter().all(Talker::is_content) {
            content_at = Some(begun.elapsed());
        }
        if let Some(at) = content_at
            && also()?
        {
            return Ok(at);
        }
        if begun.elapsed() > deadline {
            let short: Vec<String> = talkers
                .iter()
                .filter(|talker| !talker.is_content())
                .take(3)
                .map(|talker| format!("{} has {} of {}", talker.address, talker.seen.count(), talker.wants))
                .collect();
            bail!("not done after {deadline:?}: {}", short.join(", "));
        }
        talkers.iter_mut().for_each(Talker::beat);
        let ready = wait(talkers, Duration::from_millis(50))?;
        let mut lost = Vec::new();
        for (number, (talker, events)) in talkers.iter_mut().zip(ready).enumerate() {
            match talker.turn(events, &mut buffer, places) {
                Err(_) if talker.pulse.is_some() => lost.push(number),
                done => done?,
            }
        }
        for number in lost.into_iter().rev() {
            talkers.swap_remove(number);
        }
    }
}

fn wait(talkers: &[Talker], at_most: Duration) -> Result<Vec<PollFlags>> {
    let interest = |talker: &Talker| match talker.has_said_all() {
        true => PollFlags::POLLIN,
        false => PollFlags::POLLIN | PollFlags::POLLOUT,
    };
    let mut waits: Vec<PollFd<'_>> =
        talkers.iter().map(|talker| PollFd::new(talker.stream.as_fd(), interest(talker))).collect();
    poll(&mut waits, PollTimeout::try_from(at_most)?)?;
    Ok(waits.iter().map(|wait| wait.revents().unwrap_or(PollFlags::empty())).collect())
}

/// One attempt, up to our KEEPALIVE's answer.
fn handshake(script: &Script, daemon: Ipv4Addr) -> Result<(TcpStream, Framer)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((script.address, 0)).into())?;
    socket.connect_timeout(&SocketAddr::V4(SocketAddrV4::new(daemon, 179)).into(), HANDSHAKE_TIMEOUT)?;
    socket.set_tcp_nodelay(true)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let mut open = Open {
        asn: Asn(script.asn),
        hold_time: script.hold_time,
        router_id: RouterId(script.address),
        capabilities: vec![
            Capability::Multiprotocol(Family::Ipv4.code()),
            Capability::RouteRefresh,
            Capability::FourOctetAs(Asn(script.asn)),
        ],
    };
    if script.graceful {
        open.capabilities.push(Capability::GracefulRestart(GracefulRestartCapability {
            restart_time: 120,
            families: vec![(Family::Ipv4.code(), true)],
            ..GracefulRestartCapability::default()
        }));
    }
    let mut bytes = Vec::new();
    open.encode(&mut bytes);
    stream.write_all(&bytes)?;
    let mut framer = Framer::new();
    expect(&mut stream, &mut framer, MessageType::Open)?;
    bytes.clear();
    encode_keepalive(&mut bytes);
    stream.write_all(&bytes)?;
    expect(&mut stream, &mut framer, MessageType::Keepalive)?;
    Ok((stream, framer))
}

fn expect(stream: &mut TcpStream, framer: &mut Framer, wanted: MessageType) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let fault = |notification: Notification| anyhow::anyhow!("{notification}");
        if let Some(frame) = framer.next_frame().map_err(fault)? {
            if frame.kind == MessageType::Notification {
                bail!("refused: {:?}", Notification::decode(frame.body).map(|told| told.to_string()));
            }
            ensure!(frame.kind == wanted, "{:?} came instead of {wanted:?}", frame.kind);
            return Ok(());
        }
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "closed during the handshake");
        framer.push(buffer.get(..count).unwrap_or_default());
    }
}
