//! `turnpike bw apply --confirm`: a `NodeBandwidth` on trial, taken back unless somebody confirms it in time.
//!
//! What the file was before is written down durably before the file is changed, so that a trial ends in time however
//! often the agent is restarted meanwhile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use turnpike_agent_api::{BwTrial, ErrorReply, code};

use crate::agent::Agent;
use crate::clock::{self, Stamp};
use crate::replace;
use crate::source;

use super::{audit, plan};

/// Version of the record.
const FORMAT: u32 = 1;
/// How often the end is looked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// Longest trial: what nobody confirms for a day is no trial.
const LONGEST_S: u64 = 86_400;

/// A change that is not confirmed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trial {
    format: u32,
    name: String,
    /// File of the resources folder.
    file: PathBuf,
    /// Its content before; `None` where there was no such file.
    before: Option<String>,
    after: String,
    started: Stamp,
    confirm_s: u64,
    who: String,
}

impl Trial {
    /// Seconds until it ends; `None` when it is over.
    fn left(&self, present: &Stamp) -> Option<u64> {
        let age = clock::now().saturating_sub(self.started.on_time_line(present));
        Duration::from_secs(self.confirm_s).checked_sub(age).map(|left| left.as_secs())
    }
}

/// Puts a `NodeBandwidth` in force; on trial for `confirm_s` seconds, unless that is 0.
pub(super) fn apply(
    agent: &Agent,
    (file, text): (&str, &str),
    confirm_s: u64,
    who: &str,
) -> Result<BwTrial, ErrorReply> {
    let (name, spec) = plan::parse(file, text)?;
    plan::with_resource(agent, &name, &spec)?;
    if confirm_s > LONGEST_S {
        let message = format!("a trial of {confirm_s} s is too long");
        return Err(ErrorReply::new(code::INVALID_CONFIG, message)
            .with_details("give --confirm at most 24h, or --confirm 0 to apply for good"));
    }
    let mut pending = agent.bandwidth.trial();
    if let Some(trial) = pending.as_ref() {
        let message = format!("NodeBandwidth/{} is on trial already, by {}", trial.name, trial.who);
        return Err(ErrorReply::new(code::TRY_AGAIN, message)
            .with_details("end it with `turnpike bw confirm` or `turnpike bw rollback` first"));
    }
    let folder = &agent.config.paths.resources;
    let place = place_of(folder, &name)?;
    let before = match fs::read_to_string(&place) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unwritable(&place, &error)),
    };
    let trial = Trial {
        format: FORMAT,
        name,
        file: place,
        before,
        after: text.to_owned(),
        started: agent.stamp(),
        confirm_s,
        who: who.to_owned(),
    };
    if confirm_s > 0 {
        let record = record_path(agent);
        remember(&record, &trial).map_err(|error| unwritable(&record, &error))?;
    }
    if let Err(error) = replace::durably(&trial.file, text.as_bytes()) {
        forget(agent);
        return Err(unwritable(&trial.file, &error));
    }
    audit::note(agent, "apply", who, &trial.audit());
    source::reload(agent);
    let answer = trial.answer(confirm_s);
    if confirm_s > 0 {
        *pending = Some(trial);
    }
    Ok(answer)
}

/// Ends the trial: the change stays.
pub(super) fn confirm(agent: &Agent, who: &str) -> Result<BwTrial, ErrorReply> {
    let mut pending = agent.bandwidth.trial();
    let trial = pending.take().ok_or_else(nothing_pending)?;
    forget(agent);
    audit::note(agent, "confirm", who, &trial.audit());
    Ok(trial.answer(0))
}

/// Ends the trial: what was before comes back.
pub(super) fn roll_back(agent: &Agent, who: &str) -> Result<BwTrial, ErrorReply> {
    let mut pending = agent.bandwidth.trial();
    let trial = pending.as_ref().ok_or_else(nothing_pending)?;
    undo(agent, trial, "rollback", who).map_err(|error| unwritable(&trial.file, &error))?;
    let answer = trial.answer(0);
    *pending = None;
    Ok(answer)
}

/// The trial under way.
pub(super) fn pending(agent: &Agent) -> Option<BwTrial> {
    let present = agent.stamp();
    agent.bandwidth.trial().as_ref().map(|trial| trial.answer(trial.left(&present).unwrap_or(0)))
}

/// Takes up a trial of an earlier run, and ends trials in time, until the agent ends.
pub(crate) async fn watch(agent: Arc<Agent>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    take_up(&agent);
    loop {
        interval.tick().await;
        if !agent.bandwidth.may_have_trial() {
            continue;
        }
        let agent = Arc::clone(&agent);
        if tokio::task::spawn_blocking(move || expire(&agent)).await.is_err() {
            tracing::error!("looking after the trial failed");
        }
    }
}

fn take_up(agent: &Agent) {
    let path = record_path(agent);
    match fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice::<Trial>(&bytes) {
            Ok(trial) if trial.format == FORMAT => *agent.bandwidth.trial() = Some(trial),
            Ok(trial) => {
                tracing::error!(path = %path.display(), format = trial.format, "a trial of another release")
            }
            Err(error) => tracing::error!(path = %path.display(), %error, "the trial's record is damaged"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(path = %path.display(), %error, "the trial's record cannot be read"),
    }
}

fn expire(agent: &Agent) {
    let mut pending = agent.bandwidth.trial();
    let Some(trial) = pending.as_ref().filter(|trial| trial.left(&agent.stamp()).is_none()) else { return };
    match undo(agent, trial, "expired", "turnpike-agent") {
        Ok(()) => *pending = None,
        Err(error) => {
            tracing::error!(file = %trial.file.display(), %error, "a trial cannot be taken back yet")
        }
    }
}

/// Puts the file back, unless somebody else has changed it since: then theirs stays.
fn undo(agent: &Agent, trial: &Trial, action: &str, who: &str) -> io::Result<()> {
    let present = fs::read_to_string(&trial.file).ok();
    if present.as_deref() == Some(&trial.after) {
        match &trial.before {
            Some(before) => replace::durably(&trial.file, before.as_bytes())?,
            None => fs::remove_file(&trial.file)?,
        }
        tracing::info!(resource = trial.name, action, "NodeBandwidth taken back");
        audit::note(agent, action, who, &trial.audit().reversed());
        source::reload(agent);
    } else {
        tracing::warn!(file = %trial.file.display(), "changed by somebody else during the trial: it stays");
        let found = audit::Change { before: Some(trial.after.clone()), after: present, ..trial.audit() };
        audit::note(agent, "left-to-others", who, &found);
    }
    forget(agent);
    Ok(())
}

impl Trial {
    fn audit(&self) -> audit::Change {
        audit::Change {
            resource: format!("NodeBandwidth/{}", self.name),
            before: self.before.clone(),
            after: Some(self.after.clone()),
        }
    }

    fn answer(&self, left_s: u64) -> BwTrial {
        BwTrial {
            resource: format!("NodeBandwidth/{}", self.name),
            file: self.file.display().to_string(),
            left_s,
            who: self.who.clone(),
        }
    }
}

/// The file that holds this resource, or the one that shall.
fn place_of(folder: &Path, name: &str) -> Result<PathBuf, ErrorReply> {
    match source::files_with_bandwidth(folder, name).into_iter().next() {
        None => Ok(folder.join(format!("nodebandwidth-{name}.yaml"))),
        Some((file, 1)) => Ok(file),
        Some((file, _)) => {
            let message = format!("NodeBandwidth/{name} shares {} with other resources", file.display());
            Err(ErrorReply::new(code::INVALID_CONFIG, message)
                .with_details("move it to a file of its own there, then apply again"))
        }
    }
}

fn nothing_pending() -> ErrorReply {
    ErrorReply::new(code::INVALID_CONFIG, "nothing is on trial").with_details(
        "it was confirmed, or its time was over and it was taken back; see audit.log in the state folder",
    )
}

fn unwritable(path: &Path, error: &io::Error) -> ErrorReply {
    ErrorReply::new(code::STORE, format!("{} cannot be written: {error}", path.display()))
        .with_details("nothing was changed; is the folder read-only?")
}

/// The record in the state folder.
pub(crate) fn path(state: &Path) -> PathBuf {
    state.join("bandwidth-trial.json")
}

fn record_path(agent: &Agent) -> PathBuf {
    path(&agent.config.paths.state)
}

fn remember(path: &Path, trial: &Trial) -> io::Result<()> {
    replace::durably(path, &serde_json::to_vec_pretty(trial)?)
}

fn forget(agent: &Agent) {
    let path = record_path(agent);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(path = %path.display(), %error, "the trial's record cannot be removed");
    }
}
