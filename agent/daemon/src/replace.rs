//! Files that are exchanged as a whole: nobody ever reads half of one, whenever its writer dies.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where the next content stands before it takes its place. Hidden: it is no file of its own to whoever reads the folder.
pub(crate) fn draft(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.new"))
}

/// Exchanges a file for all readers. After a power cut it may be the old one, or damaged: for what is of this boot only.
pub(crate) fn at_once(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = draft(path);
    fs::write(&draft, content)?;
    fs::rename(draft, path)
}

/// Exchanges a file so that a power cut leaves the old content or the new, and the new one once this has returned. It
/// keeps the permissions of what is there.
pub(crate) fn durably(path: &Path, content: &[u8]) -> io::Result<()> {
    durably_with(path, content, fs::metadata(path).ok().map(|present| present.permissions()))
}

/// The same with these permissions, from before anything is in it.
pub(crate) fn durably_with(path: &Path, content: &[u8], permissions: Option<Permissions>) -> io::Result<()> {
    let draft = draft(path);
    let mut file = File::create(&draft)?;
    if let Some(permissions) = permissions {
        file.set_permissions(permissions)?;
    }
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&draft, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_exchanged_with_its_permissions_and_no_draft_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pools.yaml");
        durably_with(&path, b"one", Some(Permissions::from_mode(0o640))).unwrap();
        durably(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        at_once(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_exchanged_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pools.yaml");
        fs::write(&path, "one").unwrap();
        fs::create_dir(draft(&path)).unwrap();
        durably(&path, b"two").unwrap_err();
        at_once(&path, b"two").unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }
}
