//! DELs that wait on disk while the agent is down.
//!
//! One file for each attachment, named by the attachment, written by rename and fsynced: a DEL repeated is one file,
//! and an ADD can see with one look whether an older DEL of the same name still waits.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::message::{Attachment, DelRequest};

/// Version of the files' format.
const SPOOL_FORMAT: u32 = 1;

/// A DEL that nobody has executed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolEntry {
    /// Version of this format.
    pub format: u32,
    /// The request.
    pub request: DelRequest,
    /// Boot ID at the time.
    pub boot_id: String,
    /// CLOCK_BOOTTIME in nanoseconds at the time: an attachment made later in the same boot is another one.
    pub boottime_ns: u64,
}

/// A spool file that cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The content makes no sense.
    #[error("{path}: not a spooled DEL: {message}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

impl SpoolEntry {
    /// A DEL as of now.
    #[must_use]
    pub fn now(request: DelRequest) -> Self {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            format: SPOOL_FORMAT,
            request,
            boot_id: boot_id.trim().to_owned(),
            boottime_ns: u64::try_from(clock::boottime().as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// The file of an attachment's DEL.
#[must_use]
pub fn spool_path(folder: &Path, attachment: &Attachment) -> PathBuf {
    // FNV-1a over both names with a separator that neither may contain.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let separator = [0_u8];
    for byte in attachment.container_id.bytes().chain(separator).chain(attachment.ifname.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let stem: String = attachment.container_id.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    folder.join(format!("{stem}-{hash:016x}.json"))
}

/// Writes an entry durably: when this returns, a power cut does not lose it.
///
/// # Errors
/// The file system refused.
pub fn spool(folder: &Path, entry: &SpoolEntry) -> Result<PathBuf, SpoolError> {
    let path = spool_path(folder, &entry.request.attachment);
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(entry)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    };
    match write() {
        Ok(()) => Ok(path),
        Err(source) => {
            // The half-written file is of no use; that it may not be there is no news.
            let _ = fs::remove_file(&temporary);
            Err(SpoolError::Io { path, source })
        }
    }
}

/// Reads one spool file.
///
/// # Errors
/// It cannot be read, or is not one of ours.
pub fn read_spool(path: &Path) -> Result<SpoolEntry, SpoolError> {
    let bytes = fs::read(path).map_err(|source| SpoolError::Io { path: path.to_owned(), source })?;
    let corrupt = |message: String| SpoolError::Corrupt { path: path.to_owned(), message };
    let entry: SpoolEntry = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
    if entry.format != SPOOL_FORMAT {
        return Err(corrupt(format!("format {} is another release's", entry.format)));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(container_id: &str) -> DelRequest {
        let attachment = Attachment { container_id: container_id.into(), ifname: "eth0".into() };
        DelRequest { attachment, network: "turnpike".into() }
    }

    #[test]
    fn a_spooled_del_reads_back_and_repeats_are_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let spool_folder = folder.path().join("spool");
        let entry = SpoolEntry::now(request("abc"));
        let path = spool(&spool_folder, &entry).unwrap();
        spool(&spool_folder, &entry).unwrap();
        spool(&spool_folder, &SpoolEntry::now(request("abd"))).unwrap();
        assert_eq!(read_spool(&path).unwrap(), entry);
        assert_eq!(fs::read_dir(&spool_folder).unwrap().count(), 2);
        assert!(!entry.boot_id.is_empty() && entry.boottime_ns > 0);
    }

    #[test]
    fn names_are_safe_whatever_the_container_id_holds() {
        let path = spool_path(Path::new("/s"), &request("../../etc/x.y").attachment);
        assert_eq!(path.parent(), Some(Path::new("/s")));
    }

    #[test]
    fn a_corrupt_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        fs::write(&path, "{").unwrap();
        assert!(read_spool(&path).unwrap_err().to_string().contains("x.json"));
    }
}
