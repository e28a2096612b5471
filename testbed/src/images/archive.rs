//! Layers and images as tar files: the docker-archive form (`manifest.json`, a config, one tar for each layer),
//! which containerd, podman and docker all import.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::rootfs::{Entry, Rootfs};

/// Raised when this file writes an image differently from the same sources.
const FORMAT: u32 = 1;

/// How a container of the image runs unless told otherwise.
#[derive(Debug, Clone)]
pub(super) struct ImageConfig {
    pub(super) command: Vec<String>,
    pub(super) env: Vec<String>,
}

impl ImageConfig {
    fn to_json(&self, layers: &[String]) -> serde_json::Value {
        let ids: Vec<String> = layers.iter().map(|digest| format!("sha256:{digest}")).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": { "Cmd": self.command, "Env": self.env, "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": ids },
            "history": [],
        })
    }
}

/// A digest of all that an archive is made from, short enough for a file name. The host's files count with their
/// path, size and time of change, not with their content.
pub(super) fn digest_of_sources(layers: &[Rootfs], config: &ImageConfig) -> Result<String> {
    let mut sum = Sha256::new();
    sum.update(format!("{FORMAT} {}", config.to_json(&[])));
    for (path, entry) in layers.iter().flat_map(Rootfs::entries) {
        sum.update(format!("\n{} {entry:?}", path.display()));
        if let Entry::File { source, .. } = entry {
            let found = fs::metadata(source).with_context(|| format!("stat {}", source.display()))?;
            sum.update(format!(" {} {}.{}", found.len(), found.mtime(), found.mtime_nsec()));
        }
    }
    Ok(hex(&sum.finalize()).chars().take(16).collect())
}

/// Writes the archive beside `path`, then moves it there: a reader sees all of it or nothing.
pub(super) fn write(path: &Path, reference: &str, layers: &[Rootfs], config: &ImageConfig) -> Result<()> {
    let folder = path.parent().context("an archive lies in a folder")?;
    let mut target = tempfile::NamedTempFile::new_in(folder)?;
    let mut archive = Builder::new(target.as_file_mut());
    let mut digests = Vec::new();
    for layer in layers {
        let bytes = layer_bytes(layer)?;
        let digest = hex(&Sha256::digest(&bytes));
        append(&mut archive, &format!("{digest}.tar"), &bytes, 0o644)?;
        digests.push(digest);
    }
    let config = serde_json::to_vec(&config.to_json(&digests))?;
    let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
    append(&mut archive, &config_name, &config, 0o644)?;
    let files: Vec<String> = digests.iter().map(|digest| format!("{digest}.tar")).collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": [reference], "Layers": files }]);
    append(&mut archive, "manifest.json", &serde_json::to_vec(&manifest)?, 0o644)?;
    archive.into_inner()?.flush()?;
    target.persist(path)?;
    Ok(())
}

/// The same entries always give the same bytes: no times, all owned by root.
fn layer_bytes(layer: &Rootfs) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (path, entry) in layer.entries() {
        let name = path.to_str().context("a path in an image is UTF-8")?;
        match entry {
            Entry::Folder { mode } => {
                let mut header = header(EntryType::Directory, *mode, 0);
                tar.append_data(&mut header, format!("{name}/"), std::io::empty())?;
            }
            Entry::Link { target } => {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                tar.append_link(&mut header, name, target)?;
            }
            Entry::Text { content } => append(&mut tar, name, content.as_bytes(), 0o644)?,
            Entry::File { source, mode } => {
                let file = File::open(source).with_context(|| format!("open {}", source.display()))?;
                let mut header = header(EntryType::Regular, *mode, file.metadata()?.len());
                tar.append_data(&mut header, name, file)?;
            }
        }
    }
    Ok(tar.into_inner()?)
}

fn append<W: std::io::Write>(tar: &mut Builder<W>, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let mut header = header(EntryType::Regular, mode, u64::try_from(bytes.len())?);
    Ok(tar.append_data(&mut header, name, bytes)?)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The architecture in Go's words, which image configs use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
