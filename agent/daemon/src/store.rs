//! The durable books: one file for each pod interface.
//!
//! A record is written to a temporary file, fsynced, renamed, and its folder fsynced (once for all who wait for that);
//! only then does ADD reply. A DEL turns the record into a released one, which keeps its addresses' generations and
//! cooldowns until other records take these addresses over. The file's name holds host link and addresses, so that even
//! a record whose content is damaged keeps its addresses out of other pods' hands.

mod group;

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use turnpike_agent_api::{Attachment, PodInfo};
use turnpike_calc::AskedLimits;
use turnpike_model::desired::{Block, HostPort};

use crate::clock::Stamp;
use crate::failpoint;

use group::GroupCommit;

/// Version of the records' format.
const FORMAT: u32 = 1;
const EXTENSION: &str = "json";

/// One address of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    pub(crate) address: IpAddr,
    pub(crate) generation: u64,
    /// Block that it came from; not known of a damaged record.
    #[serde(default)]
    pub(crate) block: Option<Block>,
    /// Of a released address: an operator has ended its rest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) rested: bool,
}

/// Identity of a network namespace: device and inode of its nsfs file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetnsId {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

/// A pod interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) format: u32,
    pub(crate) attachment: Attachment,
    pub(crate) network: String,
    pub(crate) pod: PodInfo,
    pub(crate) host_link: String,
    pub(crate) leases: Vec<LeaseRecord>,
    pub(crate) mtu: u32,
    pub(crate) asked: AskedLimits,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) host_ports: Vec<HostPort>,
    /// The pod wants no client addresses from load balancers.
    #[serde(default)]
    pub(crate) toa_off: bool,
    /// The pod wants what it exchanges with load balancers filtered and tracked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) bypass_off: bool,
    /// MAC address that the runtime asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) netns_path: String,
    pub(crate) netns: NetnsId,
    pub(crate) created: Stamp,
    /// Set by DEL: from then on the record only remembers its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) released: Option<Stamp>,
    /// Set beside `released` when no packet ever bore the addresses.
    #[serde(default)]
    pub(crate) unused: bool,
}

impl PodRecord {
    pub(crate) const FORMAT: u32 = FORMAT;

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.leases.iter().map(|lease| lease.address).collect()
    }

    /// The pod for people: namespace and name where known, or the container.
    pub(crate) fn name(&self) -> String {
        match (&self.pod.namespace, &self.pod.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => self.attachment.container_id.clone(),
        }
    }

    pub(crate) fn file_name(&self) -> String {
        let mut name = self.host_link.clone();
        for lease in &self.leases {
            name.push('@');
            name.push_str(&lease.address.to_string());
        }
        format!("{name}.{EXTENSION}")
    }
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Corrupt {
    /// The file, for the operator.
    pub(crate) path: PathBuf,
    /// Why.
    pub(crate) message: String,
    /// Host link, from the file's name.
    pub(crate) host_link: Option<String>,
    /// Addresses, from the file's name.
    pub(crate) addresses: Vec<IpAddr>,
}

/// What the folder holds.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) records: Vec<PodRecord>,
    pub(crate) corrupt: Vec<Corrupt>,
}

/// The folder of records. One agent at a time has it: see `lock`.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    /// Of the renames in the folder.
    renames: GroupCommit,
    _lock: File,
}

impl Store {
    /// Opens the books below the state folder, and keeps other agents out of them.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("pods");
        fs::create_dir_all(&folder)?;
        let lock = File::options().create(true).truncate(false).write(true).open(state.join("lock"))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { folder, renames: GroupCommit::default(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another turnpike-agent uses {}", state.display()),
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads all records; files of a cut write are removed, damaged ones are named.
    pub(crate) fn load(&self) -> io::Result<Loaded> {
        for path in self.paths("tmp")? {
            fs::remove_file(&path)?;
        }
        self.peek()
    }

    /// Reads all records and changes nothing.
    pub(crate) fn peek(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        for path in self.paths(EXTENSION)? {
            match read_record(&path) {
                Ok(record) => loaded.records.push(record),
                // Its pod went on while we looked.
                Err(_) if !path.exists() => {}
                Err(message) => loaded.corrupt.push(corrupt(path, message)),
            }
        }
        Ok(loaded)
    }

    /// Reads one record.
    pub(crate) fn read(&self, file_name: &str) -> Result<PodRecord, String> {
        read_record(&self.folder.join(file_name))
    }

    fn paths(&self, extension: &str) -> io::Result<Vec<PathBuf>> {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|found| found == extension));
        paths.sort();
        Ok(paths)
    }

    /// Makes a record durable. When this returns, a power cut does not lose it.
    pub(crate) fn write(&self, record: &PodRecord) -> io::Result<()> {
        let name = record.file_name();
        let temporary = self.folder.join(format!("{name}.tmp"));
        let result = (|| {
            let mut file = File::create(&temporary)?;
            let mut text = serde_json::to_vec_pretty(record)?;
            text.push(b'\n');
            file.write_all(&text)?;
            failpoint::reach("store-written");
            file.sync_all()?;
            failpoint::reach("store-synced");
            fs::rename(&temporary, self.folder.join(&name))?;
            failpoint::reach("store-renamed");
            self.renames.run(|| File::open(&self.folder)?.sync_all())
        })();
        if result.is_err() {
            // Of no use any more; the next start would remove it, too.
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    /// Forgets a record whose addresses others have taken over. Not fsynced: should it come back, its lower
    /// generations say that it is old.
    pub(crate) fn remove(&self, file_name: &str) -> io::Result<()> {
        match fs::remove_file(self.folder.join(file_name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Sets a damaged record aside, for the operator to look at.
    pub(crate) fn quarantine(&self, corrupt: &Corrupt) -> io::Result<PathBuf> {
        let aside = corrupt.path.with_extension("corrupt");
        fs::rename(&corrupt.path, &aside)?;
        Ok(aside)
    }

    /// Writes and removes a small file: can the store be written?
    pub(crate) fn probe(&self) -> io::Result<()> {
        let path = self.folder.join("probe.tmp");
        let mut file = File::create(&path)?;
        file.write_all(b"probe")?;
        file.sync_all()?;
        fs::remove_file(&path)
    }
}

fn read_record(path: &Path) -> Result<PodRecord, String> {
    #[derive(Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let format: FormatOnly = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if format.format != FORMAT {
        return Err(format!("format {} is another release's, this one reads {FORMAT}", format.format));
    }
    let record: PodRecord = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let expected = record.file_name();
    if path.file_name().and_then(|name| name.to_str()) != Some(expected.as_str()) {
        return Err(format!("its content belongs into a file named {expected}"));
    }
    Ok(record)
}

fn corrupt(path: PathBuf, message: String) -> Corrupt {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    let mut parts = stem.split('@');
    let host_link = parts.next().filter(|link| link.starts_with("tpk")).map(str::to_owned);
    let addresses = parts.filter_map(|part| part.parse().ok()).collect();
    Corrupt { path, message, host_link, addresses }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::BootId;

    pub(crate) fn record(container_id: &str, address: &str) -> PodRecord {
        let lease =
            LeaseRecord { address: address.parse().unwrap(), generation: 1, block: None, rested: false };
        PodRecord {
            format: FORMAT,
            attachment: Attachment { container_id: container_id.into(), ifname: "eth0".into() },
            network: "turnpike".into(),
            pod: PodInfo::default(),
            host_link: format!("tpk{container_id}"),
            leases: vec![lease],
            mtu: 1500,
            asked: AskedLimits::default(),
            host_ports: Vec::new(),
            toa_off: false,
            bypass_off: false,
            mac: None,
            netns_path: "/run/netns/x".into(),
            netns: NetnsId { dev: 4, ino: 1 },
            created: Stamp::now(&BootId("b".into())),
            released: None,
            unused: false,
        }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (one, two) = (record("a", "10.0.0.1"), record("b", "fd00::2"));
        store.write(&one).unwrap();
        store.write(&two).unwrap();
        store.write(&two).unwrap();
        drop(store);
        let loaded = Store::open(folder.path()).unwrap().load().unwrap();
        assert_eq!(loaded.records, [one, two]);
        assert!(loaded.corrupt.is_empty());
    }

    #[test]
    fn records_written_at_once_are_all_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut records: Vec<_> = (10..60).map(|n| record(&n.to_string(), &format!("10.0.0.{n}"))).collect();
        std::thread::scope(|scope| {
            let writers: Vec<_> = records.iter().map(|record| scope.spawn(|| store.write(record))).collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap().unwrap());
        });
        let mut loaded = store.load().unwrap().records;
        loaded.sort_by(|a, b| a.host_link.cmp(&b.host_link));
        records.sort_by(|a, b| a.host_link.cmp(&b.host_link));
        assert_eq!(loaded, records);
    }

    #[test]
    fn a_damaged_record_is_named_and_still_tells_its_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.write(&record("a", "10.0.0.1")).unwrap();
        store.write(&record("b", "10.0.0.2")).unwrap();
        let path = folder.path().join("pods/tpkb@10.0.0.2.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        fs::write(folder.path().join("pods/tpkc@10.0.0.3.json.tmp"), "{").unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.records.len(), 1);
        let corrupt = &loaded.corrupt[0];
        assert_eq!(corrupt.host_link.as_deref(), Some("tpkb"));
        assert_eq!(corrupt.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(store.quarantine(corrupt).unwrap().extension().unwrap(), "corrupt");
        assert!(store.load().unwrap().corrupt.is_empty());
        assert_eq!(fs::read_dir(folder.path().join("pods")).unwrap().count(), 2, "the cut write is gone");
    }

    #[test]
    fn a_record_of_another_release_is_not_guessed_at() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut newer = record("a", "10.0.0.1");
        newer.format = 2;
        store.write(&newer).unwrap();
        assert!(store.load().unwrap().corrupt[0].message.contains("format 2"));
    }

    #[test]
    fn two_agents_cannot_share_the_books() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Store::open(folder.path()).unwrap();
        assert_eq!(Store::open(folder.path()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
