//! Sysctls of the calling thread's network namespace, written only where they differ.

use std::{fs, io};

use crate::DataplaneError;

const ROOT: &str = "/proc/sys/";

/// Reads a value; `None` where the kernel has no such key (IPv6 switched off at boot).
pub(crate) fn read(key: &str) -> Result<Option<String>, DataplaneError> {
    match fs::read_to_string(format!("{ROOT}{key}")) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataplaneError::Sysctl { key: key.to_owned(), source }),
    }
}

/// Writes a value unless it is in force already; answers whether it wrote. A missing key is an error.
pub(crate) fn ensure(key: &str, value: &str) -> Result<bool, DataplaneError> {
    if read(key)?.as_deref() == Some(value) {
        return Ok(false);
    }
    fs::write(format!("{ROOT}{key}"), value)
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
