//! Where things are: the programs under test, the folder that labs write to, and the cgroup hierarchies.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// The path of a program of this workspace: `TURNPIKE_BIN_DIR` when set, else the folder that the running test
/// or program was built into.
///
/// # Errors
/// When it is not there; the error says how to build it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = binary_folder()?.join(name);
    ensure!(path.is_file(), "{} is missing: build it with `cargo build --workspace`", path.display());
    Ok(path)
}

/// The folder that [`binary`] looks in.
///
/// # Errors
/// When the running program's own path is unknown.
pub fn binary_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("TURNPIKE_BIN_DIR") {
        return Ok(PathBuf::from(folder));
    }
    let exe = std::env::current_exe().context("path of the running program")?;
    let folder = exe.parent().context("folder of the running program")?;
    // Tests are built into `deps`, examples into `examples`; both lie in the folder of the profile.
    let nested = folder.file_name().is_some_and(|name| name == "deps" || name == "examples");
    Ok(if nested { folder.parent().unwrap_or(folder) } else { folder }.to_path_buf())
}

/// The folder that holds one folder per lab: `TURNPIKE_LAB_DIR`, else `target/lab`.
pub(crate) fn labs_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("TURNPIKE_LAB_DIR") {
        return Ok(PathBuf::from(folder));
    }
    let profile = binary_folder()?;
    Ok(profile.parent().unwrap_or(&profile).join("lab"))
}

/// Folders of the host that a node must see even where it hides the rest (a clone under `/tmp`, say).
pub(crate) fn visible_folders() -> Result<Vec<OsString>> {
    let binaries = binary_folder()?;
    let mut folders = vec![labs_folder()?, binaries.clone()];
    // The workspace's own folder: programs may be links to others of its target folder.
    let workspace = binaries.ancestors().find(|folder| folder.join("Cargo.toml").is_file());
    folders.extend(workspace.map(Path::to_path_buf));
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders.dedup();
    // A folder inside another one comes with it.
    let all = folders.clone();
    folders.retain(|folder| !all.iter().any(|other| other != folder && folder.starts_with(other)));
    Ok(folders.into_iter().map(PathBuf::into_os_string).collect())
}

/// One line of `mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mount {
    pub(crate) root: String,
    pub(crate) point: PathBuf,
    pub(crate) kind: String,
}

/// The mounts that the calling thread sees.
pub(crate) fn mounts() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").context("read mountinfo")?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(3);
    let root = fields.next()?.to_owned();
    let point = PathBuf::from(fields.next()?.replace("\\040", " "));
    Some(Mount { root, point, kind: right.split(' ').next()?.to_owned() })
}

/// The root of the cgroup v2 hierarchy.
pub(crate) fn cgroup2_root() -> Result<PathBuf> {
    let found = mounts()?.into_iter().find(|mount| mount.kind == "cgroup2" && mount.root == "/");
    match found {
        Some(mount) => Ok(mount.point),
        None => bail!("no cgroup v2 hierarchy is mounted"),
    }
}

/// The roots of every cgroup hierarchy, version 2 first.
pub(crate) fn cgroup_roots() -> Result<Vec<PathBuf>> {
    let mut roots = vec![cgroup2_root()?];
    roots.extend(mounts()?.into_iter().filter(|mount| mount.kind == "cgroup").map(|mount| mount.point));
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_is_read_past_its_optional_fields() {
        let line = r"41 31 0:38 /a /mnt/with\040space rw,relatime shared:5 master:1 - cgroup2 cgroup2 rw";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.root, "/a");
        assert_eq!(mount.point, Path::new("/mnt/with space"));
        assert_eq!(mount.kind, "cgroup2");
    }
}
