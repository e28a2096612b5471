//! Telling others what peers say: BMP stations (RFC 7854) and dumps of the RIB (RFC 6396).
//!
//! The engine encodes and queues, and never waits: each station has a task and a queue bounded in octets. A station that
//! does not keep up loses its stream and gets a new one from the beginning, because BMP knows no other way to catch up.
//! The table itself is walked a piece at a time, while there is room, between the engine's other work.

mod dump;
mod log;
mod station;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{info, warn};
use turnpike_bgp_core::{DownReason, MonitoredSession, PeerId, Place, Speaker, WalkedPath};
use turnpike_bgp_wire::bmp::{self, PeerDown};
use turnpike_bgp_wire::{EncodeContext, Family, MAX_EXTENDED_MESSAGE, Nlri, encode_end_of_rib, encode_reach};
use turnpike_bgpd_api::view::StationView;
use turnpike_bgpd_api::{Asn, BmpStation, Config};

pub(crate) use dump::{Dump, Dumped};
use log::Log;
use station::News;

/// Octets that may wait for a station; more, and its stream ends.
const MOST_QUEUED: usize = 16 * 1024 * 1024;
/// The walk through the table goes on while less waits.
const ROOM: usize = 1024 * 1024;
/// Prefixes of one piece of a walk.
const PIECE: usize = 128;
/// For sessions that we ended without a NOTIFICATION, and not for an event of RFC 4271 §8.1.
const NO_EVENT: u16 = 0;

/// All stations.
#[derive(Debug)]
pub(crate) struct Monitoring {
    stations: BTreeMap<SocketAddr, Station>,
    dump: Option<Dump>,
    log: Option<Log>,
    /// Sessions that are up, for the log.
    sessions: BTreeMap<PeerId, MonitoredSession>,
    local_as: Asn,
    news: (mpsc::UnboundedSender<News>, mpsc::UnboundedReceiver<News>),
}

#[derive(Debug)]
struct Station {
    task: AbortHandle,
    /// The configuration does not name it any more: its task ends with the connection.
    gone: Arc<AtomicBool>,
    stream: Option<Stream>,
    problem: Option<String>,
    streams: u64,
    overflows: u64,
    messages: u64,
}

/// A connection with a station, as far as the engine is concerned. Dropping it closes the connection.
#[derive(Debug)]
struct Stream {
    queue: mpsc::UnboundedSender<Bytes>,
    queued: Arc<AtomicUsize>,
    /// Where the walk through the table goes on; `None` when the station has seen all of it.
    walk: Option<Place>,
    /// Sessions that the station knows to be up.
    sessions: BTreeMap<PeerId, MonitoredSession>,
    began: Duration,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            stations: BTreeMap::new(),
            dump: None,
            log: None,
            sessions: BTreeMap::new(),
            local_as: Asn(0),
            news: mpsc::unbounded_channel(),
        }
    }
}

impl Monitoring {
    /// Brings stations and log to those of the configuration; must be called within the runtime.
    pub(crate) fn configure(&mut self, file: &Config, local_as: Option<Asn>) {
        self.local_as = local_as.unwrap_or(Asn(0));
        if !file.mrt.updates {
            self.log = None;
        } else if !self.log.as_ref().is_some_and(|log| log.has(&file.mrt)) {
            self.log = Some(Log::start(&file.state.dir, &file.mrt));
        }
        let wanted = &file.bmp;
        self.stations.retain(|address, station| {
            let stays = wanted.iter().any(|wanted| wanted.station == *address);
            if !stays {
                station.farewell();
            }
            stays
        });
        for BmpStation { station: address } in wanted {
            self.stations.entry(*address).or_insert_with(|| {
                let gone = Arc::new(AtomicBool::new(false));
                let run = station::run(*address, self.news.0.clone(), Arc::clone(&gone));
                let task = tokio::spawn(run).abort_handle();
                Station { task, gone, stream: None, problem: None, streams: 0, overflows: 0, messages: 0 }
            });
        }
    }

    /// True while somebody wants UPDATEs as they come.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.stations.is_empty() || self.log.is_some()
    }

    /// The next thing that [`Self::take`] should know of.
    pub(crate) async fn next(&mut self) -> Option<News> {
        self.news.1.recv().await
    }

    /// Takes in what became of a connection.
    pub(crate) fn take(&mut self, news: News, speaker: Option<&Speaker>, name: &str) {
        match news {
            News::Connected { station, queue, queued } => {
                let Some(held) = self.stations.get_mut(&station) else { return };
                info!(%station, "BMP station connected");
                held.problem = None;
                held.streams += 1;
                held.stream = Some(Stream {
                    queue,
                    queued,
                    walk: Some(Place::default()),
                    sessions: BTreeMap::new(),
                    began: now(),
                });
                held.greet(name);
                let peers = speaker.map(Speaker::peers).unwrap_or_default();
                for peer in peers.iter().filter(|peer| peer.session.is_some()) {
                    if let Some(session) = speaker.and_then(|speaker| speaker.monitored(peer.id)) {
                        held.peer_up(&session);
                    }
                }
            }
            News::Lost { station, problem } => {
                let Some(held) = self.stations.get_mut(&station) else { return };
                if held.problem.as_ref() != Some(&problem) {
                    warn!(%station, problem, "BMP station lost");
                }
                held.stream = None;
                held.problem = Some(problem);
            }
            // The walk goes on with the engine's next round.
            News::Room => {}
        }
    }

    /// A session is up.
    pub(crate) fn session_up(&mut self, session: &MonitoredSession) {
        self.sessions.insert(session.peer, session.clone());
        if let Some(log) = &self.log {
            log.state(self.local_as, session, true);
        }
        self.stations.values_mut().for_each(|station| station.peer_up(session));
    }

    /// A session has ended; `notification` is the last one to or from the peer, if that ended it.
    pub(crate) fn session_down(&mut self, peer: PeerId, reason: &DownReason, notification: &[u8]) {
        let reason = match reason {
            DownReason::Sent(_) if !notification.is_empty() => PeerDown::Sent(notification),
            DownReason::Received(_) | DownReason::Ended(_) if !notification.is_empty() => {
                PeerDown::Received(notification)
            }
            DownReason::Sent(_) | DownReason::Restarting => PeerDown::Local(NO_EVENT),
            DownReason::Transport(_) | DownReason::Replaced => PeerDown::Remote,
            DownReason::Received(_) | DownReason::Ended(_) => PeerDown::Remote,
        };
        if let Some(session) = self.sessions.remove(&peer)
            && let Some(log) = &self.log
        {
            log.state(self.local_as, &session, false);
        }
        for station in self.stations.values_mut() {
            let known = station.stream.as_mut().and_then(|stream| stream.sessions.remove(&peer));
            if let Some(session) = known {
                station.send(|out| bmp::encode_peer_down(&monitored(&session), now(), reason, out));
            }
        }
    }

    /// An UPDATE has come.
    pub(crate) fn received(&mut self, peer: PeerId, message: &[u8]) {
        if let Some(session) = self.sessions.get(&peer)
            && let Some(log) = &self.log
        {
            log.update(self.local_as, session, message);
        }
        for station in self.stations.values_mut() {
            let known = station.stream.as_ref().and_then(|stream| stream.sessions.get(&peer));
            let Some(session) = known.map(monitored) else { continue };
            let form = session.four_octet_as;
            station.send(|out| bmp::encode_route_monitoring(&session, now(), form, message, out));
        }
    }

    /// True until the file of a dump is in place.
    pub(crate) fn is_dumping(&self) -> bool {
        self.dump.as_ref().is_some_and(|dump| !dump.is_over())
    }

    /// Walks the table for a dump from now on.
    pub(crate) fn feed(&mut self, dump: Dump) {
        self.dump = Some(dump);
    }

    /// Where a dump tells that it has room.
    pub(crate) fn room(&self) -> mpsc::UnboundedSender<News> {
        self.news.0.clone()
    }

    /// Goes on with the walks that have room; true if there is more to do at once.
    pub(crate) fn walk(&mut self, speaker: &Speaker) -> bool {
        let mut more = false;
        for station in self.stations.values_mut() {
            more |= station.walk(speaker);
        }
        if let Some(dump) = &mut self.dump {
            more |= dump.walk(speaker);
            if dump.is_over() {
                self.dump = None;
            }
        }
        more
    }

    /// Records that the log could not keep.
    pub(crate) fn lost(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::lost)
    }

    /// What operators see.
    pub(crate) fn view(&self) -> Vec<StationView> {
        let view = |(address, station): (&SocketAddr, &Station)| StationView {
            station: *address,
            connected_for: station.stream.as_ref().map(|stream| now().saturating_sub(stream.began).as_secs()),
            in_step: station.stream.as_ref().is_some_and(|stream| stream.walk.is_none()),
            queued: station.stream.as_ref().map_or(0, |stream| stream.queued.load(Ordering::Relaxed) as u64),
            messages: station.messages,
            streams: station.streams,
            overflows: station.overflows,
            problem: station.problem.clone(),
        };
        self.stations.iter().map(view).collect()
    }
}

impl Station {
    fn greet(&mut self, name: &str) {
        let description = concat!("turnpike-bgpd ", env!("CARGO_PKG_VERSION"));
        self.send(|out| bmp::encode_initiation(description, name, out));
    }

    /// The configuration does not name it any more.
    fn farewell(&mut self) {
        self.send(bmp::encode_termination);
        self.gone.store(true, Ordering::Relaxed);
        if self.stream.take().is_none() {
            self.task.abort();
        }
    }

    fn peer_up(&mut self, session: &MonitoredSession) {
        let Some(stream) = &mut self.stream else { return };
        // It may have been told with the table already, while the event waited.
        let same = |known: &MonitoredSession| {
            (known.local, known.remote, &known.opens) == (session.local, session.remote, &session.opens)
        };
        if stream.sessions.get(&session.peer).is_some_and(same) {
            return;
        }
        stream.sessions.insert(session.peer, session.clone());
        let (sent, received) = (&session.opens.0, &session.opens.1);
        let at = now().saturating_sub(session.age);
        let ends = (session.local, session.remote);
        self.send(|out| bmp::encode_peer_up(&monitored(session), at, ends, (sent, received), out));
    }

    /// Queues what `encode` appends, as one message or several; too much ends the stream.
    fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(stream) = &self.stream else { return };
        let mut out = Vec::new();
        encode(&mut out);
        let queued = stream.queued.fetch_add(out.len(), Ordering::Relaxed) + out.len();
        self.messages += 1;
        if queued > MOST_QUEUED {
            warn!(queued, "a BMP station does not keep up: its stream begins anew");
            self.overflows += 1;
            self.stream = None;
        } else if stream.queue.send(out.into()).is_err() {
            self.stream = None;
        }
    }

    fn walk(&mut self, speaker: &Speaker) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let Some(place) = stream.walk.filter(|_| stream.queued.load(Ordering::Relaxed) < ROOM) else {
            return false;
        };
        let (found, next) = speaker.walk(place, PIECE);
        stream.walk = next;
        let mut out = Vec::new();
        let mut messages = 0;
        for walked in &found {
            for path in walked.paths.iter().filter(|path| !path.stale) {
                if let Some(session) = stream.sessions.get(&path.from) {
                    let nlri = Nlri { prefix: walked.prefix, path_id: path.path_id };
                    messages += u64::from(encode_path(session, path, nlri, &mut out));
                }
            }
        }
        if next.is_none() {
            for session in stream.sessions.values() {
                for family in session.families.members() {
                    let mut marker = Vec::new();
                    encode_end_of_rib(family, &mut marker);
                    let peer = monitored(session);
                    bmp::encode_route_monitoring(&peer, now(), true, &marker, &mut out);
                    messages += 1;
                }
            }
        }
        if !out.is_empty() {
            self.messages += messages.saturating_sub(1);
            self.send(|queue| *queue = out);
        }
        true
    }
}

/// One path of the table as an UPDATE of the peer; false if it has no next hop, and so came from nobody.
fn encode_path(session: &MonitoredSession, path: &WalkedPath, nlri: Nlri, out: &mut Vec<u8>) -> bool {
    let Some(next_hop) = path.next_hop() else { return false };
    let context = EncodeContext {
        four_octet_as: true,
        add_path_ipv4: session.add_path.contains(Family::Ipv4),
        add_path_ipv6: session.add_path.contains(Family::Ipv6),
        max_message: MAX_EXTENDED_MESSAGE,
    };
    let mut update = Vec::with_capacity(128);
    let encoded =
        encode_reach(path.attributes(), nlri.prefix.family(), next_hop, &[nlri], &context, &mut update);
    if encoded.is_err() {
        return false;
    }
    bmp::encode_route_monitoring(&monitored(session), now(), true, &update, out);
    true
}

fn monitored(session: &MonitoredSession) -> bmp::MonitoredPeer {
    bmp::MonitoredPeer {
        address: session.remote.ip().to_canonical(),
        asn: session.asn,
        router_id: session.router_id,
        four_octet_as: session.four_octet_as,
    }
}

/// Since the Unix epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_station_that_does_not_keep_up_loses_its_stream_and_no_more_is_queued() {
        let (queue, mut waiting) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
        let stream = Stream {
            queue,
            queued: Arc::clone(&queued),
            walk: None,
            sessions: BTreeMap::new(),
            began: now(),
        };
        let mut station = Station {
            task,
            gone: Arc::default(),
            stream: Some(stream),
            problem: None,
            streams: 1,
            overflows: 0,
            messages: 0,
        };
        let mut rounds = 0;
        while station.stream.is_some() {
            station.send(|out| out.resize(1 << 20, 0));
            rounds += 1;
        }
        assert_eq!((rounds, station.overflows), (17, 1));
        station.send(|out| out.resize(1 << 20, 0));
        let mut octets = 0;
        while let Some(bytes) = waiting.recv().await {
            octets += bytes.len();
        }
        assert_eq!(octets, MOST_QUEUED);
    }
}
