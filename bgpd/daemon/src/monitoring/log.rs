//! A log of what peers say, in MRT format (RFC 6396 BGP4MP): UPDATEs as they come, and sessions that come and go.
//!
//! `mrt/updates.mrt` in the state folder, and the files before it as `updates.1.mrt` and so on: a bounded number of bounded
//! size. A thread writes; what it cannot keep up with is lost, counted, and told.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use tracing::{error, warn};
use turnpike_bgp_core::MonitoredSession;
use turnpike_bgp_wire::mrt::{MrtSession, encode_message, encode_state_change};
use turnpike_bgp_wire::{Asn, Family};
use turnpike_bgpd_api::config::Mrt;

use super::{MOST_QUEUED, now};

/// The engine's end of the log. Dropping it ends the writer, which writes what it was given first.
#[derive(Debug)]
pub(super) struct Log {
    settings: Mrt,
    records: Sender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

impl Log {
    pub(super) fn start(folder: &Path, settings: &Mrt) -> Self {
        let (records, queue) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let lost = Arc::new(AtomicU64::new(0));
        let mut file = Rotating { folder: folder.join("mrt"), settings: settings.clone(), open: None };
        let taken = Arc::clone(&queued);
        let failed = Arc::clone(&lost);
        let writer = move || write(&mut file, &queue, &taken, &failed);
        if let Err(error) = std::thread::Builder::new().name("mrt".to_owned()).spawn(writer) {
            error!(%error, "the log of UPDATEs cannot be written");
        }
        Self { settings: settings.clone(), records, queued, lost }
    }

    pub(super) fn has(&self, settings: &Mrt) -> bool {
        self.settings == *settings
    }

    /// Records that could not be kept.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn state(&self, local_as: Asn, session: &MonitoredSession, up: bool) {
        let at = if up { now().saturating_sub(session.age) } else { now() };
        self.send(|out| encode_state_change(&ends(local_as, session), at, up, out));
    }

    pub(super) fn update(&self, local_as: Asn, session: &MonitoredSession, message: &[u8]) {
        // The format has one flag for all NLRI of a record; sessions rarely have path identifiers in one family alone.
        let add_path = Family::ALL.into_iter().any(|family| session.add_path.contains(family));
        let form = (session.four_octet_as, add_path);
        self.send(|out| encode_message(&ends(local_as, session), form, now(), message, out));
    }

    fn send(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.queued.load(Ordering::Relaxed) > MOST_QUEUED {
            self.lose();
            return;
        }
        let mut out = Vec::new();
        encode(&mut out);
        self.queued.fetch_add(out.len(), Ordering::Relaxed);
        if self.records.send(out).is_err() {
            self.lose();
        }
    }

    fn lose(&self) {
        if self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!("the disk does not keep up with the log of UPDATEs: some are lost");
        }
    }
}

fn ends(local_as: Asn, session: &MonitoredSession) -> MrtSession {
    MrtSession {
        peer_as: session.asn,
        local_as,
        peer: session.remote.ip().to_canonical(),
        local: session.local.ip().to_canonical(),
    }
}

fn write(file: &mut Rotating, queue: &Receiver<Vec<u8>>, queued: &AtomicUsize, lost: &AtomicU64) {
    let mut failing = false;
    while let Ok(record) = queue.recv() {
        let written = file.append(&record);
        queued.fetch_sub(record.len(), Ordering::Relaxed);
        if let Err(error) = &written {
            lost.fetch_add(1, Ordering::Relaxed);
            if !failing {
                error!(folder = %file.folder.display(), %error, "the log of UPDATEs cannot be written");
            }
            file.open = None;
        }
        failing = written.is_err();
    }
}

struct Rotating {
    folder: PathBuf,
    settings: Mrt,
    /// The file, and its octets.
    open: Option<(File, u64)>,
}

impl Rotating {
    fn append(&mut self, record: &[u8]) -> std::io::Result<()> {
        let most = u64::from(self.settings.size_mib) << 20;
        let len = record.len() as u64;
        if self.open.is_none() {
            fs::create_dir_all(&self.folder)?;
            let file = File::options().create(true).append(true).open(self.path(0))?;
            let size = file.metadata()?.len();
            self.open = Some((file, size));
        }
        if self.open.as_ref().is_some_and(|(_, size)| *size > 0 && size + len > most) {
            self.open = None;
            self.shift()?;
            self.open = Some((File::create(self.path(0))?, 0));
        }
        if let Some((file, size)) = &mut self.open {
            file.write_all(record)?;
            *size += len;
        }
        Ok(())
    }

    /// Each file takes the next one's name; the last one goes.
    fn shift(&self) -> std::io::Result<()> {
        for number in (1..self.settings.files).rev() {
            match fs::rename(self.path(number - 1), self.path(number)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, number: u32) -> PathBuf {
        match number {
            0 => self.folder.join("updates.mrt"),
            number => self.folder.join(format!("updates.{number}.mrt")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Mrt { updates: true, size_mib: 1, files: 3 };
        let mut file = Rotating { folder: folder.path().join("mrt"), settings, open: None };
        for number in 0..20_u8 {
            file.append(&vec![number; 300 << 10]).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(folder.path().join("mrt"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["updates.1.mrt", "updates.2.mrt", "updates.mrt"]);
        for number in 0..3 {
            assert!(fs::metadata(file.path(number)).unwrap().len() <= 1 << 20);
        }
        assert_eq!(fs::read(file.path(0)).unwrap().last(), Some(&19));
        // Another process goes on where this one stopped.
        let mut next = Rotating { folder: file.folder.clone(), settings: file.settings.clone(), open: None };
        next.append(&[20]).unwrap();
        assert_eq!(fs::read(file.path(0)).unwrap().last(), Some(&20));
    }
}
