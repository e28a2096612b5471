//! The recorded rates over a restart of the agent.
//!
//! `bandwidth-history.json` beside the socket: for this boot only, written now and then and at the end. It is not worth a
//! disk's wear, and nobody misses it but people who look back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use turnpike_calc::{Meter, Past};

use crate::agent::Agent;
use crate::clock::{self, BootId};
use crate::replace;

/// Version of the file's format.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    boot_id: BootId,
    past: Past,
}

/// The file that belongs to a socket.
pub(crate) fn path(socket: &Path) -> PathBuf {
    socket.with_file_name("bandwidth-history.json")
}

/// Goes on from what an earlier run left.
pub(super) fn resume(agent: &Agent) {
    match read(&path(&agent.config.paths.socket)) {
        Ok(Some(record)) if record.boot_id == agent.boot_id => {
            let mut seen = agent.bandwidth.seen();
            if seen.meter.read_at().is_none() {
                seen.meter = Meter::resume(record.past, clock::now());
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the bandwidth history begins anew"),
    }
}

/// Leaves the rates for the next run.
pub(crate) fn keep(agent: &Agent) {
    let Some(past) = agent.bandwidth.seen().meter.past() else { return };
    let record = Record { format: FORMAT, boot_id: agent.boot_id.clone(), past };
    if let Err(error) = write(&path(&agent.config.paths.socket), &record) {
        tracing::warn!(%error, "the bandwidth history would not survive a restart");
    }
}

fn read(path: &Path) -> io::Result<Option<Record>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let record: Record = serde_json::from_slice(&text)?;
    Ok((record.format == FORMAT).then_some(record))
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    replace::at_once(path, &serde_json::to_vec(record)?)
}
