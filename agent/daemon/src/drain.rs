//! Remembers which load-balancer sources drain, over restarts too.
//!
//! `turnpike-calc` decides; here is the file (`drain.json` in the state folder), written when something changes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use turnpike_calc::{Drain, Draining, Time};
use turnpike_model::desired::{DesiredState, LbSource};

use crate::clock::{self, Stamp};
use crate::replace;

/// Version of the file's format.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    last: std::collections::BTreeMap<String, LbSource>,
    draining: Vec<Draining<Stamp>>,
}

/// The draining sources of this node.
#[derive(Debug)]
pub(crate) struct DrainBook {
    path: PathBuf,
    state: Mutex<Drain>,
}

/// The file in the state folder.
pub(crate) fn path(state: &Path) -> PathBuf {
    state.join("drain.json")
}

impl DrainBook {
    /// Reads what an earlier run left. A file that cannot be read is no reason not to start: nothing drains then.
    pub(crate) fn open(path: PathBuf, present: &Stamp) -> Self {
        let state = match read(&path) {
            Ok(Some(record)) => Drain {
                last: record.last,
                draining: record.draining.into_iter().map(|one| placed(one, present)).collect(),
            },
            Ok(None) => Drain::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "draining sources are forgotten");
                Drain::default()
            }
        };
        Self { path, state: Mutex::new(state) }
    }

    /// Adds what drains to what is wanted.
    pub(crate) fn merge(&self, desired: &mut DesiredState, present: &Stamp) {
        let now = clock::now();
        let mut state = self.lock();
        if state.step(&desired.lb_sources, now) {
            for one in &state.draining {
                tracing::info!(source = one.name, cidrs = ?one.source.cidrs, "a load-balancer source drains");
            }
            if let Err(error) = self.write(&state, now, present) {
                tracing::warn!(path = %self.path.display(), %error, "a restart would forget draining sources");
            }
        }
        desired.lb_sources = state.in_force(&desired.lb_sources);
    }

    /// Seconds until the draining source of this name in the desired state is over.
    pub(crate) fn remaining(&self, name: &str) -> Option<u64> {
        let state = self.lock();
        let number: usize = name.rsplit_once(" (draining ")?.1.trim_end_matches(')').parse().ok()?;
        let one = state.draining.get(number)?;
        Some(one.ends().saturating_sub(clock::now()).as_secs())
    }

    fn lock(&self) -> MutexGuard<'_, Drain> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &Drain, now: Time, present: &Stamp) -> io::Result<()> {
        let stamp = |since: Time| {
            let age = u64::try_from(now.saturating_sub(since).as_nanos()).unwrap_or(u64::MAX);
            Stamp {
                boot_id: present.boot_id.clone(),
                boottime_ns: present.boottime_ns.saturating_sub(age),
                unix_s: present.unix_s.saturating_sub(age / 1_000_000_000),
            }
        };
        let draining = state.draining.iter().map(|one| Draining {
            name: one.name.clone(),
            source: one.source.clone(),
            since: stamp(one.since),
        });
        let record = Record { format: FORMAT, last: state.last.clone(), draining: draining.collect() };
        replace::durably(&self.path, &serde_json::to_vec_pretty(&record)?)
    }
}

fn read(path: &Path) -> io::Result<Option<Record>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let record: Record = serde_json::from_slice(&bytes)?;
    if record.format != FORMAT {
        return Err(io::Error::other(format!("format {} is not known here", record.format)));
    }
    Ok(Some(record))
}

fn placed(one: Draining<Stamp>, present: &Stamp) -> Draining<Time> {
    Draining { name: one.name, source: one.source, since: one.since.on_time_line(present) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootId;

    #[test]
    fn a_restart_goes_on_draining_and_a_source_removed_meanwhile_begins_to() {
        let folder = tempfile::tempdir().unwrap();
        let present = Stamp::now(&BootId("b".to_owned()));
        let path = folder.path().join("drain.json");
        let source = LbSource {
            cidrs: ["10.9.1.0/24".parse().unwrap()].into(),
            bypass: true,
            drain_s: 900,
            ..LbSource::default()
        };
        let mut wanted = DesiredState::default();
        wanted.lb_sources.insert("lvs".to_owned(), source);
        DrainBook::open(path.clone(), &present).merge(&mut wanted.clone(), &present);
        for _ in 0..2 {
            let book = DrainBook::open(path.clone(), &present);
            let mut nothing = DesiredState::default();
            book.merge(&mut nothing, &present);
            let name = nothing.lb_sources.keys().next().unwrap();
            assert!(book.remaining(name).unwrap() <= 900, "{name}");
            assert_eq!(nothing.lb_sources.len(), 1);
        }
        for unix_s in [0, u64::MAX] {
            let booted = Stamp { boot_id: BootId("c".to_owned()), unix_s, ..present.clone() };
            let book = DrainBook::open(path.clone(), &booted);
            assert_eq!(book.lock().draining.first().unwrap().since, Time::ZERO, "it began before the boot");
        }
        std::fs::write(&path, "{").unwrap();
        let mut nothing = DesiredState::default();
        DrainBook::open(path, &present).merge(&mut nothing, &present);
        assert!(nothing.lb_sources.is_empty(), "a damaged file is no reason not to start");
    }
}
