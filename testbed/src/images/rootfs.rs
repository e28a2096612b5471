//! The files of one layer, by their path in the image.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// One thing in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Folder { mode: u32 },
    File { source: PathBuf, mode: u32 },
    Text { content: String },
    Link { target: String },
}

/// A layer's entries, keyed by their relative path; a folder sorts before what is in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Rootfs {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Rootfs {
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_path(), entry))
    }

    /// Adds a folder, and those above it.
    pub(super) fn folder(&mut self, path: &str, mode: u32) {
        self.insert(Path::new(path), Entry::Folder { mode });
    }

    /// Adds a small text file, readable by all.
    pub(super) fn text(&mut self, path: &str, content: &str) {
        self.insert(Path::new(path), Entry::Text { content: content.to_owned() });
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.insert(Path::new(path), Entry::Link { target: target.to_owned() });
    }

    /// Adds the content of the host's `source` (symbolic links followed) at `path`.
    pub(super) fn file(&mut self, path: &str, source: &str) -> Result<()> {
        let source = fs::canonicalize(source).with_context(|| format!("find {source}"))?;
        let mode = fs::metadata(&source)?.permissions().mode() & 0o777;
        self.insert(Path::new(path), Entry::File { source, mode });
        Ok(())
    }

    /// Adds the host's program at its own path, with every library that the loader would open for it.
    pub(super) fn program(&mut self, path: &str) -> Result<()> {
        self.file(relative(path), path)?;
        self.libraries(path)
    }

    /// Adds the host's folder at its own path, except the names that `keep` refuses.
    pub(super) fn tree(&mut self, path: &str, keep: impl Fn(&str) -> bool + Copy) -> Result<()> {
        self.folder(relative(path), 0o755);
        for entry in fs::read_dir(path).with_context(|| format!("list {path}"))? {
            let entry = entry?.path();
            let (Some(name), Some(text)) = (entry.file_name().and_then(|name| name.to_str()), entry.to_str())
            else {
                continue;
            };
            if !keep(name) {
                continue;
            }
            // A link that leads nowhere belongs to a package that is not installed.
            match fs::metadata(&entry) {
                Ok(found) if found.is_dir() => self.tree(text, keep)?,
                Ok(_) => self.file(relative(text), text)?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Adds the libraries of every shared object that lies under `folder` already.
    pub(super) fn libraries_of_tree(&mut self, folder: &str) -> Result<()> {
        let objects: Vec<PathBuf> = self
            .entries
            .iter()
            .filter(|(path, _)| path.starts_with(folder) && path.extension().is_some_and(|kind| kind == "so"))
            .filter_map(|(_, entry)| match entry {
                Entry::File { source, .. } => Some(source.clone()),
                _ => None,
            })
            .collect();
        objects.iter().try_for_each(|object| self.libraries(&object.to_string_lossy()))
    }

    fn libraries(&mut self, program: &str) -> Result<()> {
        for library in loaded(&output("/usr/bin/ldd", &[program])?) {
            self.file(relative(&library), &library)?;
        }
        Ok(())
    }

    fn insert(&mut self, path: &Path, entry: Entry) {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            self.entries.entry(parent.to_path_buf()).or_insert(Entry::Folder { mode: 0o755 });
        }
        self.entries.insert(path.to_path_buf(), entry);
    }
}

/// What a command of the host says on stdout.
pub(super) fn output(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| format!("run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {args:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// The paths in the output of ldd: `name => path (address)`, or `path (address)` for the loader itself.
fn loaded(text: &str) -> Vec<String> {
    let path = |line: &str| {
        let wanted = line.split_once("=>").map_or(line, |(_, path)| path);
        wanted.split_whitespace().next().filter(|path| path.starts_with('/')).map(str::to_owned)
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd_without_the_kernels_own() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x7fdc)\n\t\
                    /lib64/ld-linux-x86-64.so.2 (0x7fdd)\n";
        assert_eq!(loaded(text), ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn a_folder_comes_before_what_is_in_it() {
        let mut root = Rootfs::default();
        root.text("etc/nginx/nginx.conf", "");
        root.link("bin/sh", "busybox");
        let paths: Vec<_> = root.entries().map(|(path, _)| path.to_string_lossy().into_owned()).collect();
        assert_eq!(paths, ["bin", "bin/sh", "etc", "etc/nginx", "etc/nginx/nginx.conf"]);
    }
}
