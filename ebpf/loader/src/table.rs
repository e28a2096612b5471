//! A pinned map with typed keys and values.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use turnpike_ebpf_abi::Plain;

use crate::error::Error;
use crate::sys;

/// How often a walk over a map that changes underneath may start again.
const MAX_RESTARTS: usize = 8;
/// `enum bpf_map_type`: hash and LRU hash. Their entries can be read many at a time.
const HASHES: [u32; 2] = [1, 9];
/// Entries of a first batch.
const BATCH: u32 = 1024;
/// Of a last one: no bucket holds more.
const LARGEST_BATCH: u32 = 1 << 20;

/// A hash or trie of the kernel. Independent of the [`crate::Programs`] that opened it.
#[derive(Debug)]
pub struct Table<K, V> {
    fd: OwnedFd,
    path: PathBuf,
    hash: bool,
    entry: PhantomData<fn(K) -> V>,
}

/// What [`Table::reconcile`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// Entries written: new or different.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
}

impl<K: Plain + Ord, V: Plain + PartialEq> Table<K, V> {
    /// Opens a pin and checks its layout.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let fd =
            sys::obj_get(path).map_err(|error| Error::system(format!("open {}", path.display()), error))?;
        let info = sys::map_info(fd.as_fd())
            .map_err(|error| Error::system(format!("describe {}", path.display()), error))?;
        let fits = |found: u32, want: usize| usize::try_from(found).is_ok_and(|found| found == want);
        if !fits(info.key_size, size_of::<K>()) || !fits(info.value_size, size_of::<V>()) {
            return Err(Error::Layout {
                path: path.into(),
                key: info.key_size,
                value: info.value_size,
                want_key: size_of::<K>(),
                want_value: size_of::<V>(),
            });
        }
        let hash = HASHES.contains(&info.map_type);
        Ok(Self { fd, path: path.into(), hash, entry: PhantomData })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        sys::map_lookup(self.fd.as_fd(), key).map_err(|error| self.error("read", error))
    }

    /// Writes an entry, new or not.
    ///
    /// # Errors
    /// When the system call fails; `E2BIG` in its source means that the map is full.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), Error> {
        sys::map_update(self.fd.as_fd(), key, value, false).map_err(|error| self.error("write", error))
    }

    /// Writes an entry unless the key is there; true when it was written.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn insert_new(&self, key: &K, value: &V) -> Result<bool, Error> {
        match sys::map_update(self.fd.as_fd(), key, value, true) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(self.error("write", error)),
        }
    }

    /// Removes an entry; false when it was not there.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn remove(&self, key: &K) -> Result<bool, Error> {
        sys::map_delete(self.fd.as_fd(), key).map_err(|error| self.error("remove from", error))
    }

    /// All entries, in key order. Entries that come or go meanwhile may or may not be among them.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn entries(&self) -> Result<BTreeMap<K, V>, Error> {
        if self.hash
            && let Some(entries) = self.entries_in_batches()?
        {
            return Ok(entries);
        }
        self.entries_one_by_one()
    }

    /// A few system calls, however many entries; `None` where the kernel cannot.
    fn entries_in_batches(&self) -> Result<Option<BTreeMap<K, V>>, Error> {
        let (mut entries, mut from, mut most) = (BTreeMap::new(), None, BATCH);
        loop {
            match sys::map_lookup_batch::<K, V>(self.fd.as_fd(), from, most) {
                Ok(batch) => {
                    entries.extend(batch.entries);
                    let Some(next) = batch.next else { return Ok(Some(entries)) };
                    from = Some(next);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && most < LARGEST_BATCH => most *= 2,
                // Before Linux 5.6 there is no such command.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
                Err(error) => return Err(self.error("read", error)),
            }
        }
    }

    fn entries_one_by_one(&self) -> Result<BTreeMap<K, V>, Error> {
        let mut entries = BTreeMap::new();
        let mut restarts = 0;
        let mut last: Option<K> = None;
        while let Some(key) =
            sys::map_next_key(self.fd.as_fd(), last.as_ref()).map_err(|error| self.error("walk", error))?
        {
            if entries.contains_key(&key) {
                // The key we stood on was removed: the kernel began again.
                restarts += 1;
                if restarts > MAX_RESTARTS {
                    break;
                }
            }
            if let Some(value) = self.get(&key)? {
                entries.insert(key, value);
            }
            last = Some(key);
        }
        Ok(entries)
    }

    /// Makes the map hold exactly `desired`, writing only what differs: new and changed entries first, then removals.
    ///
    /// # Errors
    /// The first error after all entries were tried.
    pub fn reconcile(&self, desired: &BTreeMap<K, V>) -> Result<Changes, Error> {
        let actual = self.entries()?;
        let mut changes = Changes::default();
        let mut failed = None;
        for (key, value) in desired {
            if actual.get(key) != Some(value) {
                match self.insert(key, value) {
                    Ok(()) => changes.written += 1,
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        for key in actual.keys().filter(|key| !desired.contains_key(key)) {
            match self.remove(key) {
                Ok(_) => changes.removed += 1,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(changes), Err)
    }

    fn error(&self, verb: &str, error: std::io::Error) -> Error {
        Error::system(format!("{verb} the map {}", self.path.display()), error)
    }
}
