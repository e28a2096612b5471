//! Sysctls of the calling thread's network namespace, written only where they differ.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::DataplaneError;

const ROOT: &str = "/proc/sys/";
const NET: &str = "net/";

thread_local! {
    /// `/proc/sys/net` of this thread's namespace, which it does not leave once it has asked for a sysctl. By the whole path the
    /// kernel compares the `net` of every namespace of the node (`proc_sys_compare`): an ADD would take longer with each pod.
    static FOLDER: OnceCell<File> = const { OnceCell::new() };
}

fn open(key: &str, flags: OFlag) -> io::Result<File> {
    let Some(below) = key.strip_prefix(NET) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no sysctl of a network namespace"));
    };
    FOLDER.with(|folder| {
        if folder.get().is_none() {
            // Nobody else sets it in between: it is this thread's.
            let _ = folder.set(File::open(format!("{ROOT}{NET}"))?);
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
