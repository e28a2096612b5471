//! Who got which address and who gave it back, for systems that grant access by address: a list, then each change.
//!
//! JSON lines on the agent's socket, each with a `resourceVersion`. A subscriber lists, then goes on from the version
//! that it has seen last; once that is no longer remembered (or the agent has been restarted) it hears `too-old` and
//! lists again. A change may be told twice, never left out. Subscribers may acknowledge what they have acted upon; ADD
//! waits for that where `gates.subscribers` says so, DEL never.

mod beginning;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use turnpike_agent_api::{Attachment, PodInfo};

use crate::agent::Agent;
use crate::books::PodState;
use crate::store::PodRecord;

pub(crate) use beginning::path;

/// Changes that are remembered: those of the busiest minutes of a node.
const REMEMBERED: usize = 4096;
/// A silent stream says so often that it lives, so that either side notices the other's end.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Subscribers at one time; each keeps a thread.
const SUBSCRIBERS: usize = 32;

/// A pod and its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Assignment {
    node: String,
    attachment: Attachment,
    pod: PodInfo,
    addresses: Vec<IpAddr>,
}

/// A subscriber that has not acknowledged what was waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Silent {
    name: String,
    /// What it has acknowledged last in this run of the agent.
    latest: Option<u64>,
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.latest {
            Some(latest) => write!(f, "{} (its latest is {latest})", self.name),
            None => write!(f, "{} (it has acknowledged nothing since the agent began)", self.name),
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
enum Line {
    /// Everything as it is.
    List { resource_version: u64, items: Vec<Assignment> },
    /// A pod has its addresses; its ADD is about to be answered.
    Assigned { resource_version: u64, item: Assignment },
    /// No packet of the pod bears them any more.
    Released { resource_version: u64, item: Assignment },
    /// Nothing happened.
    Heartbeat { resource_version: u64 },
    /// The version asked for is not remembered.
    TooOld { resource_version: u64, message: String },
}

/// The latest changes.
#[derive(Debug)]
pub(crate) struct Events {
    log: Mutex<Log>,
    grown: Condvar,
    acknowledged: Condvar,
}

#[derive(Debug)]
struct Log {
    /// Of the latest change.
    version: u64,
    lines: VecDeque<(u64, Line)>,
    subscribers: usize,
    /// What each has acted upon, by its name.
    acknowledged: BTreeMap<String, u64>,
}

impl Events {
    /// Nothing has happened yet; all versions of earlier runs are older than those of this one. Writes to the state folder.
    pub(crate) fn begin(state: &Path) -> Self {
        let log = Log {
            version: beginning::begin(state),
            lines: VecDeque::new(),
            subscribers: 0,
            acknowledged: BTreeMap::new(),
        };
        Self { log: Mutex::new(log), grown: Condvar::new(), acknowledged: Condvar::new() }
    }

    /// A pod has its addresses; the version under which that is told.
    pub(crate) fn assigned(&self, node: &str, record: &PodRecord) -> u64 {
        let item = assignment(node, record);
        self.push(|resource_version| Line::Assigned { resource_version, item })
    }

    /// A subscriber has acted upon everything up to a version.
    ///
    /// # Errors
    /// Nothing of that version has been told.
    pub(crate) fn acknowledge(&self, subscriber: &str, version: u64) -> Result<(), String> {
        let mut log = self.log();
        if version > log.version {
            return Err(format!(
                "resourceVersion {version} has not been told yet: the latest is {}",
                log.version
            ));
        }
        let known = log.acknowledged.entry(subscriber.to_owned()).or_default();
        *known = version.max(*known);
        self.acknowledged.notify_all();
        Ok(())
    }

    /// Waits until each of these has acknowledged a version; those that have not when the time is up.
    pub(crate) fn wait_acknowledged(
        &self,
        names: &[String],
        version: u64,
        patience: Duration,
    ) -> Vec<Silent> {
        let silent = |log: &Log| -> Vec<Silent> {
            let latest = names.iter().map(|name| (name, log.acknowledged.get(name).copied()));
            let late = latest.filter(|(_, latest)| latest.is_none_or(|known| known < version));
            late.map(|(name, latest)| Silent { name: name.clone(), latest }).collect()
        };
        let waited =
            self.acknowledged.wait_timeout_while(self.log(), patience, |log| !silent(log).is_empty());
        let (log, _) = waited.unwrap_or_else(PoisonError::into_inner);
        silent(&log)
    }

    /// A pod has given them up; the version under which that is told.
    pub(crate) fn released(&self, node: &str, record: &PodRecord) -> u64 {
        let item = assignment(node, record);
        self.push(|resource_version| Line::Released { resource_version, item })
    }

    /// The version up to which each of these has acknowledged everything; nothing if one has been silent.
    pub(crate) fn known_to_all(&self, names: &[String]) -> Option<u64> {
        let log = self.log();
        let known = names.iter().map(|name| log.acknowledged.get(name).copied());
        known.min().flatten()
    }

    /// Of the latest change.
    pub(crate) fn version(&self) -> u64 {
        self.log().version
    }

    fn push(&self, line: impl FnOnce(u64) -> Line) -> u64 {
        let mut log = self.log();
        log.version += 1;
        let version = log.version;
        log.lines.push_back((version, line(version)));
        if log.lines.len() > REMEMBERED {
            log.lines.pop_front();
        }
        self.grown.notify_all();
        version
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has happened since a version; `None` where that is not remembered.
    fn since(&self, version: u64) -> Option<Vec<(u64, Line)>> {
        let log = self.log();
        let first = log.lines.front().map_or(log.version + 1, |(first, _)| *first);
        if version > log.version || version + 1 < first {
            return None;
        }
        Some(log.lines.iter().filter(|(known, _)| *known > version).cloned().collect())
    }

    /// Waits until something has happened since a version, or a heartbeat is due.
    fn wait(&self, version: u64) {
        let log = self.log();
        // A wake-up for nothing is a heartbeat for nothing.
        drop(self.grown.wait_timeout_while(log, HEARTBEAT, |log| log.version <= version));
    }
}

fn assignment(node: &str, record: &PodRecord) -> Assignment {
    Assignment {
        node: node.to_owned(),
        attachment: record.attachment.clone(),
        pod: record.pod.clone(),
        addresses: record.addresses(),
    }
}

/// Writes the list (or what happened since a version) and, if asked, everything that happens until the subscriber
/// goes away.
pub(crate) fn stream(agent: &Agent, out: impl Write, since: Option<u64>, watch: bool) -> io::Result<()> {
    let events = &agent.events;
    {
        let mut log = events.log();
        if log.subscribers >= SUBSCRIBERS {
            return Err(io::Error::other(format!("{SUBSCRIBERS} subscribers are here already")));
        }
        log.subscribers += 1;
    }
    let result = tell(agent, out, since, watch);
    events.log().subscribers -= 1;
    result
}

fn tell(agent: &Agent, mut out: impl Write, since: Option<u64>, watch: bool) -> io::Result<()> {
    let events = &agent.events;
    let mut seen = match since {
        Some(version) => version,
        None => {
            // The version first: what happens meanwhile is told once more, and nothing is left out.
            let resource_version = events.log().version;
            line(&mut out, &Line::List { resource_version, items: items(agent) })?;
            resource_version
        }
    };
    loop {
        let Some(news) = events.since(seen) else {
            let message = "what happened since is not remembered; list again".to_owned();
            return line(&mut out, &Line::TooOld { resource_version: events.log().version, message });
        };
        for (version, news) in &news {
            line(&mut out, news)?;
            seen = *version;
        }
        if !watch {
            return Ok(());
        }
        events.wait(seen);
        if events.log().version <= seen {
            line(&mut out, &Line::Heartbeat { resource_version: seen })?;
        }
    }
}

fn items(agent: &Agent) -> Vec<Assignment> {
    let books = agent.books();
    let node = books.node().name.as_str();
    let ready = books.pods().values().filter(|entry| entry.state == PodState::Ready);
    ready.map(|entry| assignment(node, &entry.record)).collect()
}

fn line(out: &mut impl Write, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    out.write_all(&text)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::record;

    fn versions(events: &Events, since: u64) -> Option<Vec<u64>> {
        events.since(since).map(|news| news.iter().map(|(version, _)| *version).collect())
    }

    #[test]
    fn a_subscriber_goes_on_where_it_was_or_hears_that_this_is_too_old() {
        let folder = tempfile::tempdir().unwrap();
        let events = Events::begin(folder.path());
        let start = events.log().version;
        assert_eq!(versions(&events, start), Some(Vec::new()));
        events.assigned("n1", &record("a", "10.0.0.1"));
        events.released("n1", &record("a", "10.0.0.1"));
        assert_eq!(versions(&events, start), Some(vec![start + 1, start + 2]));
        assert_eq!(versions(&events, start + 1), Some(vec![start + 2]));
        assert_eq!(versions(&events, start - 1), None, "of an earlier run");
        assert_eq!(versions(&events, start + 3), None, "of a later one");
        for _ in 0..REMEMBERED {
            events.assigned("n1", &record("b", "10.0.0.2"));
        }
        assert_eq!(versions(&events, start), None, "forgotten");
        assert_eq!(versions(&events, start + 2).map(|news| news.len()), Some(REMEMBERED));
        let again = Events::begin(folder.path());
        assert!(again.version() > events.version());
        again.assigned("n1", &record("c", "10.0.0.3"));
        assert_eq!(versions(&again, events.version()), None, "of the run before");
    }

    #[test]
    fn who_is_waited_for_in_vain_is_named_with_what_it_has_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let events = Events::begin(folder.path());
        let names = ["authz", "audit", "late"].map(str::to_owned);
        let first = events.assigned("n1", &record("a", "10.0.0.1"));
        let second = events.assigned("n1", &record("b", "10.0.0.2"));
        events.acknowledge("authz", second).unwrap();
        events.acknowledge("late", first).unwrap();
        assert!(events.acknowledge("late", second + 1).unwrap_err().contains("has not been told yet"));
        let silent = events.wait_acknowledged(&names, second, Duration::ZERO);
        let words: Vec<String> = silent.iter().map(ToString::to_string).collect();
        let late = format!("late (its latest is {first})");
        assert_eq!(words, ["audit (it has acknowledged nothing since the agent began)", &late]);
    }

    #[test]
    fn a_line_is_what_subscribers_parse() {
        let line = Line::Assigned { resource_version: 7, item: assignment("n1", &record("a", "10.0.0.1")) };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(
            text,
            r#"{"type":"assigned","resourceVersion":7,"item":{"node":"n1","attachment":{"container_id":"a","ifname":"eth0"},"pod":{},"addresses":["10.0.0.1"]}}"#
        );
    }
}
