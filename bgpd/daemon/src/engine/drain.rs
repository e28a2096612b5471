//! Leaving in order (RFC 8326): mark everything as about to go, wait until traffic has gone elsewhere, withdraw, and
//! only then end the sessions. The opposite of a restart, which nobody shall notice.

mod moment;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{error, info};
use turnpike_bgpd_api::view::Caller;
use turnpike_bgpd_api::{Drain, ErrorReply, Reply};

use self::moment::Moment;
use super::requests::conflict;
use super::{Engine, Stop};
use crate::audit::Change;
use crate::disk::Done;
use crate::merge::Merged;

/// Between the withdrawals and the end of the sessions: peers must have taken them in.
const WITHDRAWING: Duration = Duration::from_secs(5);

/// How far a drain is.
#[derive(Debug)]
pub(super) struct Draining {
    order: Drain,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Everything carries GRACEFUL_SHUTDOWN.
    Marked { until: Instant },
    /// Networks are withdrawn; without a moment: they stay so.
    Withdrawn { until: Option<Instant> },
}

/// A drain on disk: a restart goes on with it, so that no peer hears of us as if nothing were going on.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    order: Drain,
    /// Networks are withdrawn already.
    withdrawn: bool,
    /// When they are to be.
    #[serde(flatten)]
    withdraw: Moment,
}

fn record_path(state: &Path) -> PathBuf {
    state.join("drain.json")
}

impl Draining {
    /// The drain that an earlier process was at.
    pub(super) fn resume(state: &Path) -> Option<Self> {
        let path = record_path(state);
        let read = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            other => other.map_err(|error| error.to_string()),
        };
        let record: Result<Record, String> =
            read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
        let Record { order, withdrawn, withdraw } = record
            .inspect_err(|error| error!(path = %path.display(), error, "a drain is forgotten: its record cannot be read"))
            .ok()?;
        let phase = if withdrawn {
            Phase::Withdrawn { until: (!order.keep_blocks).then(|| Instant::now() + WITHDRAWING) }
        } else {
            // A clock that was set over a boot makes the wait no longer than it was to be.
            let left = withdraw.left(&Moment::now()).min(order.wait.into());
            Phase::Marked { until: Instant::now() + Duration::from_secs(left) }
        };
        info!("a drain goes on");
        Some(Self { order, phase })
    }

    fn record(&self) -> Record {
        let left = match self.phase {
            Phase::Marked { until } => until.saturating_duration_since(Instant::now()).as_secs(),
            Phase::Withdrawn { .. } => 0,
        };
        let withdrawn = matches!(self.phase, Phase::Withdrawn { .. });
        Record { order: self.order.clone(), withdrawn, withdraw: Moment::now().after(left) }
    }

    /// When to go on.
    pub(super) const fn alarm(&self) -> Option<Instant> {
        match self.phase {
            Phase::Marked { until } => Some(until),
            Phase::Withdrawn { until } => until,
        }
    }

    pub(super) fn in_words(&self) -> String {
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).as_secs();
        match self.phase {
            Phase::Marked { until } => {
                format!("everything carries GRACEFUL_SHUTDOWN; withdrawing in {} s", left(until))
            }
            Phase::Withdrawn { until: Some(until) } => {
                format!("networks are withdrawn; sessions end in {} s", left(until))
            }
            Phase::Withdrawn { until: None } => {
                "networks are withdrawn; sessions and pod blocks stay, the least preferred".to_owned()
            }
        }
    }

    /// What a drain makes of the configuration. Blocks of a node's part (the one that says what a node accepts) stay:
    /// pods live in them.
    fn bend(&self, merged: &mut Merged) {
        let Some(core) = &mut merged.core else { return };
        core.graceful_shutdown = true;
        if matches!(self.phase, Phase::Withdrawn { .. }) {
            let owners = &merged.network_owners;
            let stays = |owner: &String| merged.node_parts.contains(owner);
            core.networks.retain(|network| owners.get(&network.prefix).is_some_and(stays));
        }
    }
}

impl Engine {
    /// Lets a drain that is under way have its say in a configuration.
    pub(super) fn drained(&self, mut merged: Merged) -> Merged {
        if let Some(draining) = &self.draining {
            draining.bend(&mut merged);
        }
        merged
    }

    /// Begins a drain, or calls it off; the reply may go out once that is on disk.
    pub(super) fn drain(&mut self, order: Drain, who: Option<Caller>) -> Result<(Reply, Done), ErrorReply> {
        if order.cancel {
            return self.call_off(who);
        }
        let speaker = self.speaker()?;
        let lonely = speaker.clients_without_another_reflector();
        if !lonely.is_empty() && !order.force {
            return Err(conflict(format!(
                "we may be the last reflector of {}: no other reflector has told us of a path of theirs. Let the \
                 reflectors peer with each other so that this can be known, or say --force",
                lonely.join(", ")
            )));
        }
        let steps = steps(&order, speaker.view().established);
        let detail = steps.join("; ");
        let after = json!(order);
        self.draining = Some(Draining {
            phase: Phase::Marked { until: Instant::now() + Duration::from_secs(order.wait.into()) },
            order,
        });
        let done = self.keep_drain();
        self.bend_now();
        self.note(who, Change { what: "drain", detail, before: Value::Null, after });
        Ok((Reply::Draining { steps }, done))
    }

    /// Writes down how far the drain is, or that there is none.
    fn keep_drain(&self) -> Done {
        let path = record_path(&self.file.state.dir);
        match self.draining.as_ref().map(|draining| serde_json::to_vec(&draining.record())) {
            Some(Ok(record)) => self.disk.replace(path, record),
            // Numbers, texts and flags can be written.
            Some(Err(_)) | None => self.disk.remove(path),
        }
    }

    fn call_off(&mut self, who: Option<Caller>) -> Result<(Reply, Done), ErrorReply> {
        let Some(draining) = self.draining.take() else {
            return Err(conflict("nothing is being drained".to_owned()));
        };
        let before = json!(draining.in_words());
        let done = self.keep_drain();
        self.bend_now();
        let detail = "everything is announced as before".to_owned();
        let steps = vec![detail.clone()];
        self.note(who, Change { what: "drain-cancel", detail, before, after: Value::Null });
        Ok((Reply::Draining { steps }, done))
    }

    /// The moment has come for the next step.
    pub(super) fn drain_on(&mut self) {
        let Some(draining) = &mut self.draining else { return };
        match draining.phase {
            Phase::Marked { .. } => {
                let until = (!draining.order.keep_blocks).then(|| Instant::now() + WITHDRAWING);
                draining.phase = Phase::Withdrawn { until };
                info!("draining: networks are withdrawn");
                // A failed write is logged where it happens: a restart would begin the wait anew.
                drop(self.keep_drain());
                self.bend_now();
            }
            Phase::Withdrawn { until: Some(_) } => {
                let message = draining.order.message.clone();
                info!("draining: sessions end");
                // It has come to its end: the next start is like any other.
                self.draining = None;
                drop(self.keep_drain());
                self.ending = Some(Stop::Final { message });
            }
            Phase::Withdrawn { until: None } => {}
        }
    }

    fn bend_now(&mut self) {
        if let Err(problems) = self.configure() {
            error!(problems = problems.join("; "), "draining: the configuration is refused");
        }
    }
}

fn steps(order: &Drain, sessions: usize) -> Vec<String> {
    let mut steps = vec![
        format!("now: everything told to {sessions} peers carries GRACEFUL_SHUTDOWN (RFC 8326)"),
        format!("in {} s: networks are withdrawn, pod blocks stay", order.wait),
    ];
    steps.push(match order.keep_blocks {
        true => "sessions stay until another drain, or shutdown, ends them".to_owned(),
        false => format!(
            "in {} s: sessions end with a hard reset, kernel routes go, turnpike-bgpd ends",
            u64::from(order.wait) + WITHDRAWING.as_secs()
        ),
    });
    steps
}
