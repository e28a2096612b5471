//! What turnpike-bgpd tells monitoring stations (BMP, RFC 7854) and writes to files (MRT, RFC 6396), read by bgpkit-parser.
//!
//! ```text
//! station ── near 10.1.3.1 AS 65001 ── far 10.1.3.2 AS 65002
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bgpkit_parser::models::{BgpElem, ElemType};
use bgpkit_parser::parser::bmp::messages::{BmpMessageBody, PeerDownReason};
use bgpkit_parser::{BgpkitParser, Elementor, parse_bmp_msg};
use bytes::Bytes;
use nix::sys::signal::Signal;
use turnpike_bgpd_api::DEFAULT_STATE_DIR;
use turnpike_testbed::{Lab, Node, binary, poll_result};

use crate::daemon::{DEADLINE, Daemon};

const STATION: &str = "10.1.3.1:5000";

const NEAR: &str = "\
asn = 65001
router_id = \"10.0.0.1\"
[kernel]
enabled = false
[mrt]
updates = true
[[bmp]]
station = \"10.1.3.1:5000\"
[[peer]]
name = \"far\"
address = \"10.1.3.2\"
remote_as = 65002
connect_retry = 1
import = \"reject-all\"
export = \"accept-all\"
";

const FAR: &str = "\
asn = 65002
router_id = \"10.0.0.2\"
[kernel]
enabled = false
[[peer]]
name = \"near\"
address = \"10.1.3.1\"
remote_as = 65001
connect_retry = 1
import = \"accept-all\"
export = \"accept-all\"
[addresses]
ipv6 = \"fd00:1:3::2\"
[[network]]
prefix = \"10.9.0.0/24\"
med = 7
[[network]]
prefix = \"fd00:9::/48\"
";

struct Pair {
    near_node: Node,
    far_node: Node,
    near: Daemon,
    far: Daemon,
}

fn start(lab: &Lab) -> Result<Pair> {
    let (near_node, far_node) = (lab.node("near")?, lab.node("far")?);
    lab.link(&near_node, "eth0", &far_node, "eth0")?;
    near_node.addr("eth0", "10.1.3.1/24")?;
    far_node.addr("eth0", "10.1.3.2/24")?;
    let near = Daemon::start(&near_node, NEAR)?;
    let far = Daemon::start(&far_node, FAR)?;
    near.wait_established("far")?;
    Ok(Pair { near_node, far_node, near, far })
}

fn turnpike(node: &Node, words: &[&str]) -> Result<String> {
    let program = binary("turnpike")?;
    let mut argv = vec![program.to_str().context("UTF-8")?, "bgp"];
    argv.extend(words);
    node.text(&argv)
}

/// What a station knows after all messages so far.
#[derive(Debug, Default)]
struct Seen {
    initiated: bool,
    up: BTreeSet<IpAddr>,
    downs: Vec<PeerDownReason>,
    routes: BTreeMap<String, String>,
    ends_of_rib: usize,
}

/// The station's end of a connection.
struct Station {
    stream: TcpStream,
    buffer: Vec<u8>,
    seen: Seen,
}

impl Station {
    fn accept(listener: &TcpListener) -> Result<Self> {
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self { stream, buffer: Vec::new(), seen: Seen::default() })
    }

    /// Reads on until the station knows what is wanted.
    fn wait(&mut self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !wanted(&self.seen) {
            ensure!(begun.elapsed() < DEADLINE, "waited for {what}: {:?}", self.seen);
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => anyhow::bail!("the stream ended before {what}: {:?}", self.seen),
                Ok(count) => self.buffer.extend(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            self.take_messages()?;
        }
        Ok(())
    }

    fn take_messages(&mut self) -> Result<()> {
        while let Some(length) = self.buffer.get(1..5) {
            let length = u32::from_be_bytes(length.try_into()?) as usize;
            if self.buffer.len() < length {
                return Ok(());
            }
            let mut message = Bytes::from(self.buffer.drain(..length).collect::<Vec<u8>>());
            let message = parse_bmp_msg(&mut message).map_err(|error| anyhow::anyhow!("{error:?}"))?;
            self.take(message.per_peer_header, message.message_body);
        }
        Ok(())
    }

    fn take(
        &mut self,
        header: Option<bgpkit_parser::parser::bmp::messages::BmpPerPeerHeader>,
        body: BmpMessageBody,
    ) {
        let seen = &mut self.seen;
        match (body, header) {
            (BmpMessageBody::InitiationMessage(_), None) => seen.initiated = true,
            (BmpMessageBody::PeerUpNotification(up), Some(header)) => {
                assert_eq!(up.local_addr.to_string(), "10.1.3.1");
                assert_eq!(header.peer_asn.to_u32(), 65002);
                seen.up.insert(header.peer_ip);
            }
            (BmpMessageBody::PeerDownNotification(down), Some(header)) => {
                assert!(seen.up.remove(&header.peer_ip), "down before up");
                seen.routes.clear();
                seen.downs.push(down.reason);
            }
            (BmpMessageBody::RouteMonitoring(route), Some(header)) => {
                assert!(seen.up.contains(&header.peer_ip), "a route before its session");
                let (peer, asn) = (&header.peer_ip, &header.peer_asn);
                let elements = Elementor::bgp_to_elems(route.bgp_message, header.timestamp, peer, asn);
                seen.ends_of_rib += usize::from(elements.is_empty());
                for element in elements {
                    let prefix = element.prefix.to_string();
                    match element.elem_type {
                        ElemType::ANNOUNCE => seen.routes.insert(prefix, as_path(&element)),
                        ElemType::WITHDRAW => seen.routes.remove(&prefix),
                    };
                }
            }
            (other, _) => panic!("not expected: {other:?}"),
        }
    }
}

fn as_path(element: &BgpElem) -> String {
    element.as_path.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn listen(node: &Node) -> Result<TcpListener> {
    node.in_netns(|| TcpListener::bind(STATION))?.context("the station's port")
}

/// Verifies: a station that comes late is told of the session, of every path before policy, of both ends of RIB, and then
/// of changes as they come: new and withdrawn paths, the session's end with its NOTIFICATION, and its return. Lost, it is
/// connected again and told everything again. Configuration takes stations in and out.
#[test]
fn a_station_follows_sessions_and_paths() -> Result<()> {
    let lab = Lab::new("bgp-bmp")?;
    let pair = start(&lab)?;
    poll_result(DEADLINE, "a refused connection to be told", || {
        let status = pair.near.status()?;
        let station = status.stations.first().context("no station")?;
        ensure!(station.problem.is_some() && station.connected_for.is_none(), "{station:?}");
        Ok(())
    })?;
    let listener = listen(&pair.near_node)?;
    let mut station = Station::accept(&listener)?;
    let far: IpAddr = "10.1.3.2".parse()?;
    station.wait("the table", |seen| {
        seen.initiated && seen.up.contains(&far) && seen.routes.len() == 2 && seen.ends_of_rib >= 2
    })?;
    assert_eq!(station.seen.routes["10.9.0.0/24"], "65002");
    assert_eq!(station.seen.routes["fd00:9::/48"], "65002");
    turnpike(&pair.far_node, &["announce", "10.8.0.0/16"])?;
    station.wait("a new path", |seen| seen.routes.contains_key("10.8.0.0/16"))?;
    turnpike(&pair.far_node, &["withdraw", "10.8.0.0/16"])?;
    station.wait("its end", |seen| !seen.routes.contains_key("10.8.0.0/16"))?;
    turnpike(&pair.far_node, &["peer", "near", "--shutdown"])?;
    station.wait("the session's end", |seen| seen.up.is_empty())?;
    assert_eq!(station.seen.downs, [PeerDownReason::RemoteSystemClosedNotificationPduFollows]);
    turnpike(&pair.far_node, &["peer", "near", "--enable"])?;
    station.wait("its return", |seen| seen.up.contains(&far) && seen.routes.len() == 2)?;
    let status = turnpike(&pair.near_node, &["status"])?;
    assert!(status.contains("10.1.3.1:5000: connected for"), "{status}");
    drop(station);
    let mut again = Station::accept(&listener)?;
    again.wait("the table once more", |seen| seen.routes.len() == 2 && seen.ends_of_rib >= 2)?;
    let without = NEAR.replace("[[bmp]]\nstation = \"10.1.3.1:5000\"\n", "");
    pair.near_node.write_file(turnpike_bgpd_api::DEFAULT_CONFIG, &without)?;
    turnpike(&pair.near_node, &["reload"])?;
    poll_result(DEADLINE, "the station to be let go", || {
        let stations = pair.near.status()?.stations;
        ensure!(stations.is_empty(), "{stations:?}");
        Ok(())
    })?;
    drop((again, listener));
    lab.finish()
}

/// Verifies: a station that never reads costs no session and no path; another reads on.
#[test]
fn a_station_that_never_reads_delays_nobody() -> Result<()> {
    let lab = Lab::new("bgp-bmp-deaf")?;
    let pair = start(&lab)?;
    let deaf = listen(&pair.near_node)?;
    let both = format!("{NEAR}[[bmp]]\nstation = \"10.1.3.1:5001\"\n");
    pair.near_node.write_file(turnpike_bgpd_api::DEFAULT_CONFIG, &both)?;
    let reading = pair.near_node.in_netns(|| TcpListener::bind("10.1.3.1:5001"))??;
    turnpike(&pair.near_node, &["reload"])?;
    let (_silent, _) = deaf.accept()?;
    let mut station = Station::accept(&reading)?;
    let networks: String = (0..4000)
        .map(|n| format!("[[network]]\nprefix = \"10.{}.{}.0/24\"\n", 100 + n / 256, n % 256))
        .collect();
    pair.far_node.write_file(turnpike_bgpd_api::DEFAULT_CONFIG, format!("{FAR}{networks}"))?;
    turnpike(&pair.far_node, &["reload"])?;
    station.wait("all paths", |seen| seen.routes.len() == 4002)?;
    let peer = pair.near.peer("far")?;
    assert_eq!((peer.flaps, peer.received.ipv4), (0, 4001));
    lab.finish()
}

/// Verifies: a dump holds every path that peers have announced, refused ones too, with peers and attributes; the log holds
/// sessions and UPDATEs in their order, and goes on after a restart.
#[test]
fn dumps_and_logs_are_read_by_others() -> Result<()> {
    let lab = Lab::new("bgp-mrt")?;
    let mut pair = start(&lab)?;
    poll_result(DEADLINE, "the table", || {
        let received = pair.near.peer("far")?.received;
        ensure!((received.ipv4, received.ipv6) == (1, 1), "{received:?}");
        Ok(())
    })?;
    let told = turnpike(&pair.near_node, &["mrt", "dump", "/tmp/rib.mrt"])?;
    assert_eq!(told, "/tmp/rib.mrt: 2 prefixes, 2 paths\n");
    let mut found = elements(&pair.near_node, "/tmp/rib.mrt")?;
    found.sort_by_key(|element| element.prefix.to_string());
    let lines: Vec<String> = found
        .iter()
        .map(|element| {
            // The reader says 0 for "none".
            let med = element.med.filter(|med| *med != 0);
            let med = med.map(|med| format!(" med {med}")).unwrap_or_default();
            let next_hop = element.next_hop.map(|hop| hop.to_string()).unwrap_or_default();
            let path = as_path(element);
            format!(
                "{} from {} {} via {next_hop} path {path}{med}",
                element.prefix, element.peer_ip, element.peer_asn
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            "10.9.0.0/24 from 10.1.3.2 65002 via 10.1.3.2 path 65002 med 7",
            "fd00:9::/48 from 10.1.3.2 65002 via fd00:1:3::2 path 65002",
        ]
    );
    // Two at once: each is done whole, or refused.
    let ask = || turnpike(&pair.near_node, &["mrt", "dump"]);
    let outcomes =
        std::thread::scope(|scope| [scope.spawn(ask), scope.spawn(ask)].map(|one| one.join().unwrap()));
    assert!(outcomes.iter().any(Result::is_ok), "{outcomes:?}");
    for outcome in outcomes {
        let told = outcome.unwrap_or_else(|error| error.to_string());
        assert!(told.contains("2 prefixes, 2 paths") || told.contains("a dump is under way"), "{told}");
    }
    assert_eq!(elements(&pair.near_node, &format!("{DEFAULT_STATE_DIR}/mrt/rib.mrt"))?.len(), 2);
    turnpike(&pair.far_node, &["announce", "10.8.0.0/16"])?;
    turnpike(&pair.far_node, &["withdraw", "10.8.0.0/16"])?;
    let log = format!("{DEFAULT_STATE_DIR}/mrt/updates.mrt");
    let of_new = |elements: &[BgpElem]| -> Vec<ElemType> {
        let new = elements.iter().filter(|element| element.prefix.to_string() == "10.8.0.0/16");
        new.map(|element| element.elem_type).collect()
    };
    poll_result(DEADLINE, "the log", || {
        let found = of_new(&elements(&pair.near_node, &log)?);
        // Announced and withdrawn in one breath it may never have been told.
        ensure!(matches!(found.last(), None | Some(ElemType::WITHDRAW)), "{found:?}");
        ensure!(elements(&pair.near_node, &log)?.len() >= 2, "not all is in it");
        Ok(())
    })?;
    let before = elements(&pair.near_node, &log)?.len();
    pair.near.end(Signal::SIGKILL)?;
    pair.near.start_again()?;
    pair.near.wait_established("far")?;
    poll_result(DEADLINE, "the log after a restart", || {
        let now = elements(&pair.near_node, &log)?.len();
        ensure!(now >= before + 2, "{before}, then {now}");
        Ok(())
    })?;
    pair.far.end(Signal::SIGTERM)?;
    lab.finish()
}

fn elements(node: &Node, path: &str) -> Result<Vec<BgpElem>> {
    let bytes = std::fs::read(node.path(path)?)?;
    Ok(BgpkitParser::from_reader(Cursor::new(bytes)).into_iter().collect())
}
