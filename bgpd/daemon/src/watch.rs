//! Watches the configuration file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Editors write a file in several steps; what counts is its content afterwards.
const SETTLE: Duration = Duration::from_millis(200);

/// Sends a message some moments after the last change of `file`. The folder is watched, because editors replace the
/// file by renaming another over it. Watching ends when the returned value is dropped.
pub(crate) fn watch(file: &Path, changed: mpsc::Sender<()>) -> Result<RecommendedWatcher> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = file.file_name().context("the configuration has no file name")?.to_owned();
    let (raw, mut settled) = mpsc::unbounded_channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let concerns = event.paths.iter().any(|path| path.file_name() == Some(&name));
        if concerns && !matches!(event.kind, EventKind::Access(_)) {
            let _ = raw.send(());
        }
    })
    .context("cannot watch files")?;
    watcher
        .watch(&folder, RecursiveMode::NonRecursive)
        .with_context(|| format!("cannot watch {}", folder.display()))?;
    tokio::spawn(async move {
        while settled.recv().await.is_some() {
            while let Ok(Some(())) = tokio::time::timeout(SETTLE, settled.recv()).await {}
            if changed.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(watcher)
}
