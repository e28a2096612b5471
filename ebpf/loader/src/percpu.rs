//! A pinned per-CPU hash of counters: user space makes and removes entries, programs count, readers see the sums.

#![expect(
    unsafe_code,
    reason = "counters are read as the kernel lays them out: words, one copy for each CPU"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use turnpike_ebpf_abi::Plain;

use crate::error::Error;
use crate::sys;

/// How often, and how long each time, a new entry waits for the kernel's memory.
const REFILL_ATTEMPTS: u32 = 200;
const REFILL: Duration = Duration::from_millis(1);

/// Counters by key. `V` consists of `u64` counters and nothing else.
#[derive(Debug)]
pub struct Tallies<K, V> {
    fd: OwnedFd,
    path: PathBuf,
    cpus: usize,
    entry: PhantomData<fn(K) -> V>,
}

impl<K: Plain + Ord, V: Plain> Tallies<K, V> {
    const WORDS: usize = {
        assert!(size_of::<V>().is_multiple_of(8) && align_of::<V>() == 8, "a value of u64 counters");
        size_of::<V>() / 8
    };

    /// Opens a pin and checks its layout.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |what: &str, error| Error::system(format!("{what} {}", path.display()), error);
        let fd = sys::obj_get(path).map_err(|error| failed("open", error))?;
        let info = sys::map_info(fd.as_fd()).map_err(|error| failed("describe", error))?;
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
        let cpus = aya::util::nr_cpus()
            .map_err(|(what, error)| Error::system(format!("count the CPUs ({what})"), error))?;
        Ok(Self { fd, path: path.into(), cpus, entry: PhantomData })
    }

    /// The sum over all CPUs; `None` when the key is not there.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        let mut words = vec![0; Self::WORDS * self.cpus];
        let there = sys::map_lookup_words(self.fd.as_fd(), key, &mut words)
            .map_err(|error| self.error("read", error))?;
        if !there {
            return Ok(None);
        }
        let mut sums = vec![0_u64; Self::WORDS];
        for copy in words.chunks(Self::WORDS) {
            for (sum, word) in sums.iter_mut().zip(copy) {
                *sum = sum.wrapping_add(*word);
            }
        }
        // SAFETY: `sums` has the size and alignment of `V`, and `Plain` types accept every bit pattern.
        Ok(Some(unsafe { sums.as_ptr().cast::<V>().read() }))
    }

    /// Begins to count under a key, at zero; nothing when it counts already.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn begin(&self, key: &K) -> Result<(), Error> {
        let zeroes = vec![0; Self::WORDS * self.cpus];
        let mut attempt = 0;
        loop {
            match sys::map_create_words(self.fd.as_fd(), key, &zeroes) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => return Ok(()),
                // The kernel refills its stock of per-CPU memory in the background; many keys at once empty it.
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && attempt < REFILL_ATTEMPTS => {
                    attempt += 1;
                    std::thread::sleep(REFILL);
                }
                other => return other.map_err(|error| self.error("write", error)),
            }
        }
    }

    /// Forgets a key; false when it was not there.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn end(&self, key: &K) -> Result<bool, Error> {
        sys::map_delete(self.fd.as_fd(), key).map_err(|error| self.error("remove from", error))
    }

    /// Counts under exactly these keys; those that stay keep their counts.
    ///
    /// # Errors
    /// The first error after all keys were tried.
    pub fn keep(&self, desired: &BTreeSet<K>) -> Result<(), Error> {
        let actual = self.keys()?;
        let mut results: Vec<_> = desired.difference(&actual).map(|key| self.begin(key)).collect();
        results.extend(actual.difference(desired).map(|key| self.end(key).map(drop)));
        results.into_iter().collect()
    }

    /// All sums by key.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn entries(&self) -> Result<BTreeMap<K, V>, Error> {
        let mut entries = BTreeMap::new();
        for key in self.keys()? {
            if let Some(value) = self.get(&key)? {
                entries.insert(key, value);
            }
        }
        Ok(entries)
    }

    /// Only user space makes and removes entries, so the walk cannot be led astray.
    fn keys(&self) -> Result<BTreeSet<K>, Error> {
        let mut keys = BTreeSet::new();
        let mut last: Option<K> = None;
        while let Some(key) =
            sys::map_next_key(self.fd.as_fd(), last.as_ref()).map_err(|error| self.error("walk", error))?
        {
            if !keys.insert(key) {
                break;
            }
            last = Some(key);
        }
        Ok(keys)
    }

    fn error(&self, what: &str, error: std::io::Error) -> Error {
        Error::system(format!("{what} {}", self.path.display()), error)
    }
}
