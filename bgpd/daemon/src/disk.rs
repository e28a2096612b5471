//! Writes to disk, in order, on a thread of their own: an fsync can take seconds, and a KEEPALIVE must not wait.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;
use tracing::error;

/// Octets at which a file that is appended to is full: years of an operator's work.
const FULL: u64 = 8 << 20;

/// Tells how a write went; dropped with the thread.
pub(crate) type Done = oneshot::Receiver<io::Result<()>>;

#[derive(Debug)]
enum Work {
    Replace { path: PathBuf, content: Vec<u8> },
    Append { path: PathBuf, content: Vec<u8> },
    Remove { path: PathBuf },
}

/// The queue to the thread. Dropping it waits until everything is written.
#[derive(Debug)]
pub(crate) struct Disk {
    queue: Option<mpsc::Sender<(Work, oneshot::Sender<io::Result<()>>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    pub(crate) fn start() -> Result<Self> {
        let (queue, work) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || write_all(&work))
            .context("cannot start the disk thread")?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Puts `content` in the place of a file's; after a crash the old or the new one is there.
    pub(crate) fn replace(&self, path: PathBuf, content: Vec<u8>) -> Done {
        self.hand_over(Work::Replace { path, content })
    }

    /// Puts `content` behind what a file holds; readable by the owner only if it is new.
    pub(crate) fn append(&self, path: PathBuf, content: Vec<u8>) -> Done {
        self.hand_over(Work::Append { path, content })
    }

    /// Removes a file, which may be missing.
    pub(crate) fn remove(&self, path: PathBuf) -> Done {
        self.hand_over(Work::Remove { path })
    }

    fn hand_over(&self, work: Work) -> Done {
        let (done, outcome) = oneshot::channel();
        if let Some(queue) = &self.queue {
            // Without the thread the outcome's sender is dropped, which tells.
            let _ = queue.send((work, done));
        }
        outcome
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(work: &mpsc::Receiver<(Work, oneshot::Sender<io::Result<()>>)>) {
    while let Ok((work, done)) = work.recv() {
        let (path, result) = match work {
            Work::Replace { path, content } => {
                let result = replace(&path, &content);
                (path, result)
            }
            Work::Append { path, content } => {
                let result = append(&path, &content);
                (path, result)
            }
            Work::Remove { path } => {
                let result = remove(&path);
                (path, result)
            }
        };
        if let Err(failure) = &result {
            error!(path = %path.display(), %failure, "cannot write");
        }
        // Whoever asked may not care.
        let _ = done.send(result);
    }
}

/// See [`Disk::replace`].
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(path)
}

/// See [`Disk::append`].
pub(crate) fn append(path: &Path, content: &[u8]) -> io::Result<()> {
    append_within(path, content, FULL)
}

/// A file with `full` octets or more becomes the former one, in place of the one before it.
fn append_within(path: &Path, content: &[u8], full: u64) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() >= full) {
        fs::rename(path, former(path))?;
        sync_dir(path)?;
    }
    let mut file = File::options().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_data()
}

/// Where a full file goes.
pub(crate) fn former(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(path),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_takes_two_files_at_the_most() {
        let dir = std::env::temp_dir().join(format!("turnpike-append-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("audit.jsonl");
        for line in 0..10 {
            append_within(&path, format!("{line}\n").as_bytes(), 6).unwrap();
        }
        assert_eq!(fs::read_to_string(former(&path)).unwrap(), "6\n7\n8\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "9\n");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        fs::remove_dir_all(&dir).unwrap();
    }
}
