//! A configuration that was applied and waits for its confirmation, on disk.
//!
//! The record is written before the file is touched and removed after the confirmation or the rollback. A start that
//! finds one rolls back: whoever applied it may have lost the way to this host with it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;
use turnpike_bgpd_api::view::Caller;

use crate::audit::{Audit, Change};
use crate::disk;

/// Version of the record.
const FORMAT: u32 = 1;

/// What a rollback needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    /// The configuration file.
    path: PathBuf,
    /// What it held before.
    pub(crate) former: String,
    /// What it holds since.
    pub(crate) applied: String,
    pub(crate) who: Option<Caller>,
}

fn place(state_dir: &Path) -> PathBuf {
    state_dir.join("unconfirmed.json")
}

/// Puts `text` in the place of the configuration file's; what was there. With `unconfirmed` the record is on disk
/// first.
pub(crate) fn exchange(
    path: &Path,
    text: &str,
    unconfirmed: Option<&Path>,
    who: Option<&Caller>,
) -> Result<String> {
    let former = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    if let Some(state_dir) = unconfirmed {
        let record = Record {
            format: FORMAT,
            path: path.to_owned(),
            former: former.clone(),
            applied: text.to_owned(),
            who: who.cloned(),
        };
        let place = place(state_dir);
        disk::replace(&place, &serde_json::to_vec(&record)?)
            .with_context(|| format!("cannot write {}", place.display()))?;
    }
    if let Err(error) = write(path, text) {
        unconfirmed.map_or(Ok(()), forget)?;
        return Err(error).with_context(|| format!("cannot write {}", path.display()));
    }
    Ok(former)
}

/// Puts the former text back. What stood there is kept beside it, so that nobody's work is lost.
pub(crate) fn restore(path: &Path, former: &str, state_dir: &Path) -> Result<()> {
    let present = fs::read_to_string(path).unwrap_or_default();
    let aside = path.with_extension("rolled-back");
    write_new(&aside, &present).with_context(|| format!("cannot write {}", aside.display()))?;
    write(path, former).with_context(|| format!("cannot write {}", path.display()))?;
    forget(state_dir)
}

/// Confirmed, or rolled back.
pub(crate) fn forget(state_dir: &Path) -> Result<()> {
    let place = place(state_dir);
    disk::remove(&place).with_context(|| format!("cannot remove {}", place.display()))
}

/// Rolls back what an earlier process left unconfirmed; true if it did.
pub(crate) fn recover(state_dir: &Path, path: &Path) -> Result<bool> {
    let place = place(state_dir);
    let bytes = match fs::read(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.with_context(|| format!("cannot read {}", place.display()))?,
    };
    let record: Record = match serde_json::from_slice(&bytes) {
        Ok(record) => record,
        Err(error) => {
            warn!(path = %place.display(), %error, "unconfirmed configuration set aside");
            fs::rename(&place, place.with_extension("json.bad"))?;
            return Ok(false);
        }
    };
    if record.format != FORMAT || record.path != path {
        return Ok(false);
    }
    restore(path, &record.former, state_dir)?;
    warn!(path = %path.display(), "the configuration was not confirmed before the restart: rolled back");
    Audit::new(state_dir).note_now(Change {
        what: "rollback",
        detail: "not confirmed before the daemon was restarted".to_owned(),
        before: Value::String(record.applied),
        after: Value::String(record.former),
    })?;
    Ok(true)
}

/// Replaces a file's content and keeps its mode, owner aside. A link stays a link.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let real = fs::canonicalize(path)?;
    let mode = fs::metadata(&real)?.permissions();
    disk::replace(&real, text.as_bytes())?;
    fs::set_permissions(&real, mode)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_rolls_back_what_was_not_confirmed_and_only_that() {
        let dir = std::env::temp_dir().join(format!("turnpike-pending-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("bgpd.toml");
        fs::write(&path, "one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

        assert!(!recover(&dir, &path).unwrap());
        assert_eq!(exchange(&path, "two", Some(&dir), None).unwrap(), "one");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert!(!recover(&dir, Path::new("/another/file")).unwrap(), "another daemon's record");
        assert!(recover(&dir, &path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(fs::read_to_string(dir.join("bgpd.rolled-back")).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!recover(&dir, &path).unwrap(), "once");

        exchange(&path, "three", Some(&dir), None).unwrap();
        forget(&dir).unwrap();
        assert!(!recover(&dir, &path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        let audit = crate::audit::read(Audit::new(&dir).path(), 10).unwrap();
        assert_eq!(audit.iter().map(|entry| entry.what.as_str()).collect::<Vec<_>>(), ["rollback"]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
