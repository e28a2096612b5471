//! A dump of everything that peers have announced, in MRT format (RFC 6396 TABLE_DUMP_V2): `mrt/rib.mrt` in the state
//! folder, put in the place of the former one when it is whole.
//!
//! The engine hands pieces of its walk to a thread that writes; a slow disk slows the walk down, and nothing else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, oneshot};
use turnpike_bgp_core::{PeerId, Place, Speaker, Walked};
use turnpike_bgp_wire::RouterId;
use turnpike_bgp_wire::mrt::{MrtPath, MrtPeer, encode_peer_index, encode_rib};

use super::{News, now};

/// Prefixes of one piece.
const PIECE: usize = 512;
/// Pieces that may wait for the disk.
const PIECES: usize = 8;

/// A dump under way, as the engine holds it.
#[derive(Debug)]
pub(crate) struct Dump {
    pieces: Option<mpsc::Sender<Vec<Walked>>>,
    place: Place,
    /// Held by the writer until the file is in place, or it has given up.
    writer: Weak<()>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dumped {
    /// The file.
    pub(crate) path: PathBuf,
    /// Prefixes in it.
    pub(crate) prefixes: u64,
    /// Paths in it.
    pub(crate) paths: u64,
}

impl Dump {
    /// Starts the writer; what comes of it is told to `done`.
    pub(crate) fn start(
        folder: &Path,
        speaker: &Speaker,
        room: mpsc::UnboundedSender<News>,
        done: oneshot::Sender<Result<Dumped>>,
    ) -> Self {
        let (pieces, queue) = mpsc::channel(PIECES);
        let collector = speaker.config().router_id;
        let peers = index(speaker);
        let folder = folder.join("mrt");
        let running = Arc::new(());
        let writer = Arc::downgrade(&running);
        tokio::task::spawn_blocking(move || {
            let dumped = write(&folder, collector, &peers, queue, &room);
            drop(running);
            // Nobody may be waiting any more.
            let _ = done.send(dumped);
        });
        Self { pieces: Some(pieces), place: Place::default(), writer }
    }

    /// The writer has ended.
    pub(super) fn is_over(&self) -> bool {
        self.writer.strong_count() == 0
    }

    /// Hands over pieces while there is room; true if there is more to do at once.
    pub(super) fn walk(&mut self, speaker: &Speaker) -> bool {
        let Some(Ok(permit)) = self.pieces.as_ref().map(mpsc::Sender::try_reserve) else { return false };
        let (found, next) = speaker.walk(self.place, PIECE);
        permit.send(found);
        match next {
            Some(place) => self.place = place,
            None => self.pieces = None,
        }
        next.is_some()
    }
}

/// Every peer with its place in the index.
fn index(speaker: &Speaker) -> Vec<(PeerId, MrtPeer)> {
    let of = |peer: turnpike_bgp_core::query::PeerView| {
        let router_id =
            peer.session.as_ref().map_or(RouterId(Ipv4Addr::UNSPECIFIED), |session| session.router_id);
        (peer.id, MrtPeer { address: peer.remote, asn: peer.remote_as, router_id })
    };
    speaker.peers().into_iter().map(of).take(usize::from(u16::MAX)).collect()
}

fn write(
    folder: &Path,
    collector: RouterId,
    peers: &[(PeerId, MrtPeer)],
    mut queue: mpsc::Receiver<Vec<Walked>>,
    room: &mpsc::UnboundedSender<News>,
) -> Result<Dumped> {
    let (path, draft) = (folder.join("rib.mrt"), folder.join("rib.mrt.new"));
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let file = File::create(&draft).with_context(|| format!("make {}", draft.display()))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let at = now();
    let places: BTreeMap<PeerId, u16> = peers.iter().map(|(id, _)| *id).zip(0..).collect();
    let list: Vec<MrtPeer> = peers.iter().map(|(_, peer)| peer.clone()).collect();
    let mut out = Vec::new();
    encode_peer_index(collector, &list, at, &mut out);
    let mut dumped = Dumped { path: path.clone(), prefixes: 0, paths: 0 };
    while let Some(piece) = queue.blocking_recv() {
        // An engine that has gone needs no room.
        let _ = room.send(News::Room);
        for walked in &piece {
            let paths: Vec<MrtPath<'_>> = walked
                .paths
                .iter()
                .filter_map(|path| {
                    let peer = *places.get(&path.from)?;
                    let (attributes, next_hop) = (path.attributes(), path.next_hop());
                    Some(MrtPath { peer, path_id: path.path_id, attributes, next_hop })
                })
                .collect();
            if paths.is_empty() {
                continue;
            }
            let sequence = u32::try_from(dumped.prefixes).unwrap_or(u32::MAX);
            encode_rib(sequence, walked.prefix, &paths, at, &mut out);
            dumped.prefixes += 1;
            dumped.paths += paths.len() as u64;
        }
        file.write_all(&out).with_context(|| format!("write {}", draft.display()))?;
        out.clear();
    }
    file.write_all(&out).with_context(|| format!("write {}", draft.display()))?;
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all().with_context(|| format!("write {}", draft.display()))?;
    fs::rename(&draft, &path).with_context(|| format!("put {} in place", path.display()))?;
    Ok(dumped)
}
