//! Reading the configuration file beside the engine: a large one takes long, and KEEPALIVEs must not wait.

use std::path::Path;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use turnpike_bgpd_api::{Config, Reply, config};

/// The file as it was read, and those who want to know what becomes of it.
pub(super) struct Loaded {
    pub(super) result: Result<Config, String>,
    pub(super) waiting: Vec<oneshot::Sender<Reply>>,
}

/// One reading at a time, so that an older content never comes after a newer one.
#[derive(Debug, Default)]
pub(super) struct Loading {
    task: JoinSet<Result<Config, String>>,
    waiting: Vec<oneshot::Sender<Reply>>,
    /// Asked for while reading: what was read may be old by now.
    again: Option<(std::path::PathBuf, Vec<oneshot::Sender<Reply>>)>,
}

impl Loading {
    /// Reads the file, now or after the present reading.
    pub(super) fn begin(&mut self, path: &Path, reply: Option<oneshot::Sender<Reply>>) {
        if !self.task.is_empty() {
            self.again.get_or_insert_with(|| (path.to_owned(), Vec::new())).1.extend(reply);
            return;
        }
        self.waiting.extend(reply);
        let path = path.to_owned();
        self.task.spawn_blocking(move || config::load(&path).map_err(|problems| problems.to_string()));
    }

    /// The next file that has been read; `None` while nothing is being read.
    pub(super) async fn finished(&mut self) -> Option<Loaded> {
        let result = self.task.join_next().await?;
        let result = result.unwrap_or_else(|_| Err("reading the configuration panicked".to_owned()));
        let waiting = std::mem::take(&mut self.waiting);
        if let Some((path, replies)) = self.again.take() {
            self.begin(&path, None);
            self.waiting = replies;
        }
        Some(Loaded { result, waiting })
    }
}
