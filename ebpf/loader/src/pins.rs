//! The layout of the pin folder, and its removal.
//!
//! `maps-vN/NAME` for maps of ABI version N, `links/…` for attachments. A TCX or cgroup attachment is a pinned link;
//! a clsact one, which cannot be pinned, is recorded by a pin of its program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};
use turnpike_ebpf_abi::ABI_VERSION;

use crate::attach;
use crate::error::Error;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPFFS: FsType = FsType(0xcafe_4a11);

/// The pin folder of one installation.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Names the folder without touching it.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Makes the folders; fails when they are not on a bpffs.
    pub(crate) fn create(&self) -> Result<(), Error> {
        for folder in [self.maps(), self.links()] {
            let parent = existing_ancestor(&folder);
            let kind = statfs(parent).map_err(|error| {
                Error::system(format!("look at the file system of {}", parent.display()), error)
            })?;
            if kind.filesystem_type() != BPFFS {
                return Err(Error::NotBpffs { path: self.root.clone() });
            }
            fs::create_dir_all(&folder)
                .map_err(|error| Error::system(format!("make the folder {}", folder.display()), error))?;
        }
        Ok(())
    }

    /// Where maps of this version are pinned.
    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join(format!("maps-v{ABI_VERSION}"))
    }

    /// Where attachments are recorded.
    pub(crate) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Names of the pins in `links`, in order; none when the folder is not there.
    pub(crate) fn link_names(&self) -> Result<Vec<String>, Error> {
        let folder = self.links();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::system(format!("list {}", folder.display()), error)),
        };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }
}

/// The nearest folder upwards that exists.
fn existing_ancestor(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(path)
}

/// Removes a pin; one that is not there is no error.
pub(crate) fn unpin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::system(format!("remove the pin {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Detaches every program recorded under the pin folder and removes the folder with its maps, of all versions.
///
/// Goes on after an error; nothing to remove is no error.
///
/// # Errors
/// Everything that could not be removed.
pub fn remove_all(root: &Path) -> Result<(), Vec<Error>> {
    let pins = Pins::new(root);
    let mut errors = Vec::new();
    match pins.link_names() {
        Ok(names) => {
            errors.extend(names.iter().filter_map(|name| attach::remove_record(&pins, name).err()));
        }
        Err(error) => errors.push(error),
    }
    if errors.is_empty()
        && let Err(error) = fs::remove_dir_all(root)
        && error.kind() != io::ErrorKind::NotFound
    {
        errors.push(Error::system(format!("remove {}", root.display()), error));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
