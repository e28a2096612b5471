//! Desired state from a folder of YAML: read as a whole, checked as a whole, put in force as a whole.
//!
//! A mistake anywhere keeps the last good state in force, also over a restart (a copy is kept in the state folder),
//! and is named with file, line, field and remedy.

mod edit;
mod located;
mod pool;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::{RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use turnpike_calc::{Time, validate};
use turnpike_model::resource::{Resource, ResourceId, Resources};

use crate::agent::Agent;
use crate::clock;
use crate::keeper;
use crate::replace;

pub(crate) use pool::set_pool_state;
pub(crate) use yaml::Document;

/// After a change in the folder, quiet for so long means that the writer is done.
const QUIET: Duration = Duration::from_millis(100);
/// Version of the last good state's file.
const FORMAT: u32 = 1;

/// A mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceError {
    pub(crate) file: PathBuf,
    /// From 1; 0 when it is about the whole file.
    pub(crate) line: u64,
    /// Path of the field, like `spec.cidr`; may be empty.
    pub(crate) field: String,
    pub(crate) message: String,
    pub(crate) remedy: String,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// How the source does.
#[derive(Debug, Clone, Default)]
pub(crate) struct SourceState {
    /// Mistakes of the folder's present content; empty when it is in force.
    pub(crate) errors: Vec<String>,
    /// When the state in force was read.
    pub(crate) loaded_at: Option<Time>,
    /// The state in force is the copy of an earlier run.
    pub(crate) from_copy: bool,
    fingerprint: Option<Fingerprint>,
}

/// Names, sizes and times of the files: what a change would change.
type Fingerprint = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// Reads and checks the folder.
pub(crate) fn read_folder(folder: &Path) -> Result<Resources, Vec<SourceError>> {
    let whole = |message: String, remedy: &str| SourceError {
        file: folder.to_owned(),
        line: 0,
        field: String::new(),
        message,
        remedy: remedy.to_owned(),
    };
    let files = list(folder).map_err(|error| {
        vec![whole(format!("cannot be listed: {error}"), "create it, or set paths.resources in agent.toml")]
    })?;
    if files.is_empty() {
        // A folder that is not mounted, or emptied by mistake, must not take everything away.
        let message = "holds no *.yaml file".to_owned();
        return Err(vec![whole(
            message,
            "to have no resources on purpose, put a file without documents there",
        )]);
    }
    let mut errors = Vec::new();
    let mut resources = Resources::default();
    let mut origins: BTreeMap<ResourceId, Document> = BTreeMap::new();
    for file in files.keys() {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("cannot be read: {error}");
                errors.push(SourceError {
                    file: file.clone(),
                    ..whole(message, "check its permissions and encoding")
                });
                continue;
            }
        };
        for document in yaml::split(file, &text) {
            match document.parse() {
                Ok((id, resource)) => {
                    if resources.insert(resource) {
                        origins.insert(id, document);
                    } else {
                        errors.push(duplicate(&id, &document, origins.get(&id)));
                    }
                }
                Err(error) => errors.push(error),
            }
        }
    }
    if errors.is_empty() {
        errors.extend(validate(&resources).into_iter().map(|issue| match origins.get(&issue.resource) {
            Some(document) => document.error_at(&issue.field, issue.message, issue.remedy),
            None => whole(issue.message, &issue.remedy),
        }));
    }
    if errors.is_empty() { Ok(resources) } else { Err(errors) }
}

/// The resources of one text, each by itself, as if it were a file of the folder.
pub(crate) fn parse_text(file: &Path, text: &str) -> Result<Vec<Resource>, SourceError> {
    yaml::split(file, text).iter().map(|document| document.parse().map(|(_, resource)| resource)).collect()
}

/// Files of the folder that hold the `NodeBandwidth` of this name, each with its number of resources.
pub(crate) fn files_with_bandwidth(folder: &Path, name: &str) -> Vec<(PathBuf, usize)> {
    let holds = |resource: &Resource| matches!(resource, Resource::NodeBandwidth(object) if object.metadata.name == name);
    let files = list(folder).unwrap_or_default().into_keys();
    files
        .filter_map(|file| {
            let resources = parse_text(&file, &fs::read_to_string(&file).ok()?).ok()?;
            resources.iter().any(holds).then_some((file, resources.len()))
        })
        .collect()
}

fn duplicate(id: &ResourceId, document: &Document, first: Option<&Document>) -> SourceError {
    let place =
        first.map(|first| format!(" in {}:{}", first.file().display(), first.line_of("metadata.name")));
    let message = format!("{id} is there already{}", place.unwrap_or_default());
    document.error_at("metadata.name", message, "give each resource of a kind its own name".to_owned())
}

/// Resource files: `*.yaml` and `*.yml`, without hidden ones, which editors leave behind.
fn list(folder: &Path) -> io::Result<Fingerprint> {
    let mut files = Fingerprint::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if hidden || !yaml {
            continue;
        }
        let metadata = fs::metadata(&path)?;
        files.insert(path, (metadata.len(), metadata.modified().ok()));
    }
    Ok(files)
}

/// Reads the folder and puts it in force, if it is good. Blocks.
pub(crate) fn reload(agent: &Agent) {
    let folder = &agent.config.paths.resources;
    let fingerprint = list(folder).ok();
    match read_folder(folder) {
        Ok(resources) => {
            let count = resources.len();
            if let Err(error) = save_copy(&agent.config.paths.state, &resources) {
                tracing::error!(%error, "the copy of the last good resources cannot be written");
            }
            agent.books().set_resources(resources);
            {
                let mut health = agent.health();
                let loaded_at = Some(clock::now());
                health.source = SourceState { loaded_at, fingerprint, ..SourceState::default() };
            }
            tracing::info!(count, folder = %folder.display(), "resources in force");
            agent.changed();
        }
        Err(errors) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let mut health = agent.health();
            if health.source.errors != errors {
                for error in &errors {
                    tracing::error!("resources refused, the last good state stays: {error}");
                }
            }
            health.source.errors = errors;
            health.source.fingerprint = fingerprint;
        }
    }
}

/// The first read. When the folder is not good, the copy of an earlier run is put in force.
pub(crate) fn load_at_start(agent: &Agent) {
    reload(agent);
    let nothing_in_force = agent.health().source.loaded_at.is_none();
    if !nothing_in_force {
        return;
    }
    match load_copy(&agent.config.paths.state) {
        Ok(Some(resources)) => {
            tracing::warn!(count = resources.len(), "the last good resources of an earlier run are in force");
            agent.books().set_resources(resources);
            let mut health = agent.health();
            health.source.loaded_at = Some(clock::now());
            health.source.from_copy = true;
        }
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "the copy of the last good resources is of no use"),
    }
}

/// Follows the folder's changes until the agent ends.
pub(crate) async fn watch(agent: Arc<Agent>) {
    let (sender, mut events) = tokio::sync::mpsc::channel(64);
    let folder = agent.config.paths.resources.clone();
    let notice = move |event: notify::Result<notify::Event>| {
        // Our own reading is an access, too; heeding it would never end.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // A full channel means that a reload is due anyway.
        let _ = sender.try_send(());
    };
    let watcher = notify::recommended_watcher(notice).and_then(|mut watcher| {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    if let Err(error) = &watcher {
        tracing::warn!(%error, "the resource folder cannot be watched; it is looked at every few seconds instead");
    }
    let mut interval = tokio::time::interval(keeper::INTERVAL);
    loop {
        tokio::select! {
            Some(()) = events.recv() => {
                while tokio::time::timeout(QUIET, events.recv()).await.is_ok_and(|event| event.is_some()) {}
            }
            _ = interval.tick() => {}
        }
        let agent = Arc::clone(&agent);
        let work = tokio::task::spawn_blocking(move || {
            if list(&agent.config.paths.resources).ok() != agent.health().source.fingerprint {
                reload(&agent);
            }
        });
        if work.await.is_err() {
            tracing::error!("reading the resources failed");
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Copy<R> {
    format: u32,
    resources: R,
}

fn copy_path(state: &Path) -> PathBuf {
    state.join("resources.json")
}

fn save_copy(state: &Path, resources: &Resources) -> io::Result<()> {
    let path = copy_path(state);
    let text = serde_json::to_vec_pretty(&Copy { format: FORMAT, resources })?;
    if fs::read(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    replace::durably(&path, &text)
}

fn load_copy(state: &Path) -> io::Result<Option<Resources>> {
    let text = match fs::read(copy_path(state)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let copy: Copy<Resources> = serde_json::from_slice(&text)?;
    if copy.format != FORMAT {
        return Err(io::Error::other(format!("format {} is another release's", copy.format)));
    }
    Ok(Some(copy.resources))
}

#[cfg(test)]
mod tests;
