//! Where hostile peers live, and a watcher that would notice if they hurt anybody else.
//!
//! ```text
//!  wild 192.0.2.2 ─────── 192.0.2.1 turnpike 198.51.100.1 ─────── 198.51.100.2 bird
//!  (and all of 198.18.0.0/16)       AS 65001                     AS 65001
//! ```
//!
//! Any address of 198.18.0.0/16 is the wild node's own, so that each hostile peer has one to itself. BIRD announces
//! twenty prefixes. The watcher, a talker on 192.0.2.2, reads all that the daemon says and keeps count.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow, ensure};
use turnpike_bgp_hostile::corpus::Session;
use turnpike_bgp_wire::{DecodeContext, Families, MessageType, Notification, Prefix, Update};
use turnpike_testbed::speakers::{Announcement, Kind, PeerConfig, Speaker, SpeakerConfig};
use turnpike_testbed::{Lab, Link, Node, poll_result};

use crate::daemon::{DEADLINE, Daemon};
use crate::talker::{Heard, Talker};

/// The daemon.
pub(crate) const DAEMON: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The wild node's first address, the watcher's.
pub(crate) const WILD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// What BIRD announces.
const PREFIXES: usize = 20;

/// An internal peer with both families.
pub(crate) const INTERNAL: Session = Session {
    internal: true,
    two_octet: false,
    extended_message: false,
    extended_next_hop: false,
    add_path: false,
    ipv4_only: false,
};

/// The number-th hostile peer's address.
pub(crate) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 1 + (number / 200) as u8, 1 + (number % 200) as u8)
}

/// The nodes, the daemon and its healthy peers.
pub(crate) struct Wild {
    pub(crate) node: Node,
    pub(crate) daemon: Daemon,
    pub(crate) watcher: Watcher,
    bird: Box<dyn Speaker>,
    _links: [Link; 2],
}

impl Wild {
    /// Starts everything; `peers` are tables of the daemon's configuration file.
    pub(crate) fn build(lab: &Lab, peers: &str) -> Result<Self> {
        let (own, node, bird) = (lab.node("turnpike")?, lab.node("wild")?, lab.node("bird")?);
        let links = [lab.link(&own, "eth0", &node, "eth0")?, lab.link(&own, "eth1", &bird, "eth0")?];
        own.addr("eth0", "192.0.2.1/24")?;
        own.addr("eth1", "198.51.100.1/24")?;
        node.addr("eth0", "192.0.2.2/24")?;
        bird.addr("eth0", "198.51.100.2/24")?;
        own.route("198.18.0.0/16 via 192.0.2.2")?;
        node.run(&["ip", "route", "add", "local", "198.18.0.0/16", "dev", "lo"])?;

        let config = format!(
            "asn = 65001\nrouter_id = \"192.0.2.1\"\n\
             [[peer]]\nname = \"bird\"\naddress = \"198.51.100.2\"\nremote_as = \"internal\"\nrr_client = true\n\
             connect_retry = 1\n\
             [[peer]]\nname = \"watcher\"\naddress = \"192.0.2.2\"\nremote_as = \"internal\"\nrr_client = true\n\
             passive = true\nhold_time = 0\n{peers}"
        );
        let daemon = Daemon::start(&own, &config)?;
        let mut config = SpeakerConfig::new(65001, Ipv4Addr::new(198, 51, 100, 2))
            .peer(PeerConfig::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 65001));
        for number in 0..PREFIXES {
            config = config.announce(Announcement::new(&format!("10.60.{number}.0/24"))?);
        }
        let bird = Kind::Bird.start(&bird, &config)?;
        daemon.wait_established("bird")?;
        let watcher = Watcher::start(&node)?;
        daemon.wait_established("watcher")?;
        let wild = Self { node, daemon, watcher, bird, _links: links };
        poll_result(DEADLINE, "BIRD's prefixes at the watcher", || {
            let held = wild.healthy_prefixes()?;
            ensure!(held == PREFIXES, "{held} of {PREFIXES}");
            Ok(())
        })?;
        Ok(wild)
    }

    /// Connects as the number-th hostile peer.
    pub(crate) fn talker(&self, number: usize, session: Session) -> Result<Talker> {
        Talker::connect(&self.node, address(number), DAEMON, session)
    }

    fn healthy_prefixes(&self) -> Result<usize> {
        let held = self.watcher.held()?;
        Ok(held.keys().filter(|prefix| healthy(**prefix)).count())
    }

    /// Fails if a healthy session has flapped, or a healthy prefix was ever withdrawn, since the start.
    pub(crate) fn check_healthy(&self) -> Result<()> {
        for name in ["bird", "watcher"] {
            let peer = self.daemon.peer(name)?;
            ensure!(peer.session.is_some() && peer.flaps == 0, "{name}: {peer:?}");
        }
        let session = self.bird.session(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)))?;
        ensure!(session.established, "BIRD says: {session:?}");
        let held = self.healthy_prefixes()?;
        ensure!(held == PREFIXES, "the watcher has {held} of BIRD's {PREFIXES} prefixes");
        Ok(())
    }
}

fn healthy(prefix: Prefix) -> bool {
    "10.60.0.0/16".parse::<Prefix>().is_ok_and(|range| range.covers(prefix))
}

type Table = BTreeMap<Prefix, Option<u32>>;

/// Reads all that a session brings, on a thread of its own: prefixes with their MED.
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    ask: mpsc::Sender<mpsc::Sender<Table>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Watcher {
    fn start(node: &Node) -> Result<Self> {
        let mut talker = Talker::connect(node, WILD, DAEMON, INTERNAL)?;
        talker.establish(0)?;
        Ok(Self::watch(talker, INTERNAL))
    }

    /// Takes over an established session.
    pub(crate) fn watch(mut talker: Talker, session: Session) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ask, asked) = mpsc::channel::<mpsc::Sender<Table>>();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut table = Table::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Some(heard) = talker.hear()? {
                    note(heard, &session.decode_context(), &mut table)?;
                }
                while let Ok(answer) = asked.try_recv() {
                    let _ = answer.send(table.clone());
                }
            }
            Ok(())
        });
        Self { stop, ask, thread: Some(thread) }
    }

    /// What it holds now; an error if the session has ended or a healthy prefix was withdrawn.
    pub(crate) fn held(&self) -> Result<Table> {
        let (answer, answered) = mpsc::channel();
        let gone = || anyhow!("the watcher has stopped; ask it to finish for the reason");
        self.ask.send(answer).map_err(|_| gone())?;
        answered.recv_timeout(DEADLINE).map_err(|_| gone())
    }

    /// Ends it; what went wrong.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the watcher panicked"))?
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("watcher: {error:#}");
        }
    }
}

fn note(heard: Heard, context: &DecodeContext, table: &mut Table) -> Result<()> {
    let (kind, body) = match heard {
        Heard::End => return Err(anyhow!("the daemon ended a healthy session")),
        Heard::Message(kind, body) => (kind, body),
    };
    match kind {
        MessageType::Notification => {
            let words = Notification::decode(&body).map(|words| words.to_string());
            Err(anyhow!("a healthy session got {words:?}"))
        }
        MessageType::Update => {
            let context = DecodeContext { families: Families::BOTH, ..*context };
            let update =
                Update::decode(&body, &context).map_err(|error| anyhow!("a broken UPDATE: {error}"))?;
            ensure!(update.problems.is_empty(), "a malformed UPDATE: {:?}", update.problems);
            for nlri in &update.unreach {
                ensure!(!healthy(nlri.prefix), "{} was withdrawn", nlri.prefix);
                table.remove(&nlri.prefix);
            }
            table.extend(update.announced().map(|prefix| (prefix, update.attributes.med)));
            Ok(())
        }
        _ => Ok(()),
    }
    .context("the watcher")
}
