//! Makes sure that there is a bpffs to pin into.

use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// The usual place; others are the operator's to mount.
const USUAL: &str = "/sys/fs/bpf";

/// Mounts a bpffs at the usual place where `folder` lies below it and none is there; answers whether it did.
///
/// # Errors
/// The mount failed.
pub(crate) fn ensure(folder: &Path) -> io::Result<bool> {
    let usual = Path::new(USUAL);
    if !folder.starts_with(usual) || !usual.is_dir() {
        return Ok(false);
    }
    if statfs(usual)?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(false);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), usual, Some("bpf"), flags, Some("mode=700"))?;
    Ok(true)
}
