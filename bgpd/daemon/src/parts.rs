//! Parts of the configuration that other programs pushed, kept on disk.
//!
//! After a SIGKILL the agent's prefixes must be known at once: a speaker that says End-of-RIB without them makes its
//! peers withdraw them although forwarding never stopped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tracing::warn;
use turnpike_bgpd_api::Part;

use crate::disk::{Disk, Done};

/// Version of the files' content.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored<T> {
    format: u32,
    part: T,
}

/// All parts, in memory and on disk.
#[derive(Debug)]
pub(crate) struct PartStore {
    dir: PathBuf,
    parts: BTreeMap<String, Part>,
}

impl PartStore {
    /// Reads what is there; a file that cannot be understood is set aside, not deleted.
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let dir = state_dir.join("parts");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut parts = BTreeMap::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(part) => {
                    parts.insert(part.owner.clone(), part);
                }
                Err(error) => {
                    warn!(path = %path.display(), error = format!("{error:#}"), "part set aside");
                    let _ = fs::rename(&path, path.with_extension("json.bad"));
                }
            }
        }
        Ok(Self { dir, parts })
    }

    /// The parts by owner.
    pub(crate) fn parts(&self) -> &BTreeMap<String, Part> {
        &self.parts
    }

    /// Keeps a part in the place of its owner's former one, in memory at once.
    pub(crate) fn keep(&mut self, part: Part, disk: &Disk) -> Result<Done> {
        let json = serde_json::to_vec_pretty(&Stored { format: FORMAT, part: &part })?;
        let done = disk.replace(self.path(&part.owner), json);
        self.parts.insert(part.owner.clone(), part);
        Ok(done)
    }

    /// Forgets an owner's part; `None` if there was none.
    pub(crate) fn forget(&mut self, owner: &str, disk: &Disk) -> Option<Done> {
        self.parts.remove(owner)?;
        Some(disk.remove(self.path(owner)))
    }

    /// Owners are words without separators: [`Part::check`] has seen to it.
    fn path(&self, owner: &str) -> PathBuf {
        self.dir.join(format!("{owner}.json"))
    }
}

fn read(path: &Path) -> Result<Part> {
    let stored: Stored<serde_json::Value> = serde_json::from_slice(&fs::read(path)?)?;
    anyhow::ensure!(stored.format == FORMAT, "it has format {}, this release knows {FORMAT}", stored.format);
    let part: Part = serde_json::from_value(stored.part)?;
    let problems = part.check();
    anyhow::ensure!(problems.is_empty(), "{}", join(&problems));
    Ok(part)
}

pub(crate) fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_outlive_the_store_and_bad_files_are_set_aside() {
        let dir = std::env::temp_dir().join(format!("turnpike-parts-{}", std::process::id()));
        let part = Part { owner: "turnpike-agent".to_owned(), ..Part::default() };
        let disk = Disk::start().unwrap();
        let mut store = PartStore::open(&dir).unwrap();
        store.keep(part.clone(), &disk).unwrap().blocking_recv().unwrap().unwrap();
        fs::write(dir.join("parts/other.json"), b"{\"format\":7,\"part\":{\"owner\":\"other\"}}").unwrap();

        let mut again = PartStore::open(&dir).unwrap();
        assert_eq!(again.parts().values().collect::<Vec<_>>(), [&part]);
        assert!(dir.join("parts/other.json.bad").exists());
        again.forget("turnpike-agent", &disk).unwrap().blocking_recv().unwrap().unwrap();
        assert!(again.forget("turnpike-agent", &disk).is_none());
        assert!(PartStore::open(&dir).unwrap().parts().is_empty());
        fs::remove_dir_all(&dir).unwrap();
    }
}
