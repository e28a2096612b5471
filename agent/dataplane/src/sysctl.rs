//! Sysctls of the calling thread's network namespace, written only where they differ.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::DataplaneError;

const ROOT: &str = "/proc/sys/";
const NET: &str = "net/";

/// Namespaces whose `net` is looked up in one procfs.
const LOOKUPS: u32 = 16;

thread_local! {
    /// `/proc/sys/net` of this thread's namespace, which it does not leave once it has asked for a sysctl.
    static FOLDER: OnceCell<File> = const { OnceCell::new() };
}

/// A procfs of our own, mounted nowhere, and how often it was used. A procfs keeps the `net` of every namespace that anybody
/// has looked up in it in one chain and compares them one by one (`proc_sys_compare`), as long as the namespaces live: in
/// /proc an ADD takes longer with each pod of the node. So there is a fresh one now and then.
static PROCFS: Mutex<Option<(OwnedFd, u32)>> = Mutex::new(None);

/// Opens `/proc/sys/net` as the calling thread's namespace has it.
fn net_folder() -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut procfs = PROCFS.lock().unwrap_or_else(PoisonError::into_inner);
    let (own, lookups) = match procfs.take().filter(|(_, lookups)| *lookups < LOOKUPS) {
        Some(known) => known,
        None => match new_procfs() {
            Ok(own) => (own, 0),
            // Before Linux 5.2, or where a mount is not allowed.
            Err(error) => {
                tracing::trace!(%error, "no procfs of our own");
                return File::open(format!("{ROOT}{NET}"));
            }
        },
    };
    let folder = openat(&own, "sys/net", flags, Mode::empty());
    *procfs = Some((own, lookups + 1));
    Ok(File::from(folder?))
}

fn new_procfs() -> io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn open(key: &str, flags: OFlag) -> io::Result<File> {
    let Some(below) = key.strip_prefix(NET) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no sysctl of a network namespace"));
    };
    FOLDER.with(|folder| {
        if folder.get().is_none() {
            // Nobody else sets it in between: it is this thread's.
            let _ = folder.set(net_folder()?);
        }
        let folder = folder.get().ok_or(io::ErrorKind::NotFound)?;
        Ok(File::from(openat(folder, below, flags | OFlag::O_CLOEXEC, Mode::empty())?))
    })
}

/// Reads a value; `None` where the kernel has no such key (IPv6 switched off at boot).
pub(crate) fn read(key: &str) -> Result<Option<String>, DataplaneError> {
    let mut text = String::new();
    match open(key, OFlag::O_RDONLY).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataplaneError::Sysctl { key: key.to_owned(), source }),
    }
}

/// Writes a value unless it is in force already; answers whether it wrote. A missing key is an error.
pub(crate) fn ensure(key: &str, value: &str) -> Result<bool, DataplaneError> {
    if read(key)?.as_deref() == Some(value) {
        return Ok(false);
    }
    open(key, OFlag::O_WRONLY)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map(|()| true)
        .map_err(|source| DataplaneError::Sysctl { key: key.to_owned(), source })
}

/// True where the kernel speaks IPv6 in this namespace.
pub(crate) fn has_ipv6() -> bool {
    matches!(read("net/ipv6/conf/all/disable_ipv6"), Ok(Some(_)))
}

/// Names of the interfaces that have a `conf` folder of the family (`ipv4`, `ipv6`), without `all` and `default`.
pub(crate) fn interfaces(family: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("{ROOT}net/{family}/conf")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "all" && name != "default")
        .collect();
    names.sort();
    names
}
