//! Files that are tried on, applied, confirmed and rolled back.
//!
//! Reading, writing and comparing happen beside the engine; what comes of it returns as a [`Job`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, warn};
use turnpike_bgpd_api::view::{Caller, PendingView};
use turnpike_bgpd_api::{Code, Config, ErrorReply, PolicyTest, Reply, Request, config};

use super::Engine;
use super::configure::keep_fixed;
use super::requests::{conflict, internal, invalid};
use crate::audit::{self, Change};
use crate::merge::Merged;
use crate::pending;

/// What a text was read for.
#[derive(Debug)]
pub(super) enum Purpose {
    Diff { limit: usize },
    Apply { confirm: Option<u32> },
    PolicyTest(Box<PolicyTest>),
}

/// A request that waits for something beside the engine.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) reply: oneshot::Sender<Reply>,
    pub(super) who: Option<Caller>,
}

/// What has been done beside the engine.
#[derive(Debug)]
pub(super) enum Job {
    Parsed {
        purpose: Purpose,
        text: String,
        result: Result<Box<Config>, String>,
        waiting: Waiting,
    },
    Exchanged {
        text: String,
        file: Box<Config>,
        confirm: Option<u32>,
        former: Result<String, String>,
        waiting: Waiting,
    },
    Restored {
        result: Result<(), String>,
        pending: Box<Pending>,
        reason: String,
        waiting: Option<Waiting>,
    },
    /// Answered already.
    Nothing,
}

/// A configuration in force that waits for its confirmation.
#[derive(Debug)]
pub(super) struct Pending {
    until: Instant,
    /// The text that goes back into the file.
    former: String,
    applied: String,
    /// What was in force.
    file: Config,
    who: Option<Caller>,
}

impl Pending {
    pub(super) const fn alarm(&self) -> Instant {
        self.until
    }

    pub(super) fn view(&self) -> PendingView {
        PendingView {
            seconds: self.until.saturating_duration_since(Instant::now()).as_secs(),
            by: self.who.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// A file as it would be in force.
pub(super) struct Planned {
    pub(super) file: Config,
    pub(super) merged: Merged,
    /// Sections that only a restart changes.
    pub(super) fixed: Vec<&'static str>,
}

impl Engine {
    /// Reads a text beside the engine; without one, the file as it stands on disk.
    pub(super) fn read_text(&mut self, text: Option<String>, purpose: Purpose, waiting: Waiting) {
        let path = self.path.clone();
        self.jobs.spawn_blocking(move || {
            let text = match text {
                Some(text) => Ok(text),
                None => {
                    std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
                }
            };
            let result =
                text.clone().and_then(|text| config::parse(&text).map(Box::new).map_err(|all| lines(&all)));
            Job::Parsed { purpose, text: text.unwrap_or_default(), result, waiting }
        });
    }

    pub(super) fn take_job(&mut self, job: Job) {
        match job {
            Job::Parsed { purpose, text, result, waiting } => match result {
                Err(problem) => {
                    let _ = waiting.reply.send(invalid(&[problem]));
                }
                Ok(file) => self.take_parsed(purpose, text, *file, waiting),
            },
            Job::Exchanged { text, file, confirm, former, waiting } => {
                self.take_exchanged(text, *file, confirm, former, waiting);
            }
            Job::Restored { result, pending, reason, waiting } => {
                self.take_restored(result, *pending, &reason, waiting);
            }
            Job::Nothing => {}
        }
    }

    fn take_parsed(&mut self, purpose: Purpose, text: String, file: Config, waiting: Waiting) {
        match purpose {
            Purpose::Diff { limit } => self.diff(file, limit, waiting),
            Purpose::Apply { confirm } => self.apply(text, file, confirm, waiting),
            Purpose::PolicyTest(test) => {
                let reply =
                    self.plan(file).and_then(|planned| self.policy_test(&test, planned.merged.core.as_ref()));
                let _ = waiting.reply.send(reply.unwrap_or_else(Reply::Error));
            }
        }
    }

    /// What a file would be in the place of the present one.
    pub(super) fn plan(&self, mut file: Config) -> Result<Planned, ErrorReply> {
        let fixed = keep_fixed(&mut file, &self.file);
        let merged = self.merged_from(&file, self.store.parts());
        let errors: Vec<String> =
            merged.core.iter().flat_map(|core| core.check()).map(|error| error.to_string()).collect();
        if errors.is_empty() {
            return Ok(Planned { file, merged, fixed });
        }
        Err(ErrorReply { code: Code::Invalid, message: errors.join("; ") })
    }

    fn apply(&mut self, text: String, file: Config, confirm: Option<u32>, waiting: Waiting) {
        let planned = match self.plan(file) {
            Ok(planned) => planned,
            Err(error) => {
                let _ = waiting.reply.send(Reply::Error(error));
                return;
            }
        };
        let against = if self.pending.is_some() {
            Some(
                "another configuration waits for its confirmation: confirm it or roll it back first"
                    .to_owned(),
            )
        } else if !planned.fixed.is_empty() {
            let fixed = planned.fixed.join(", ");
            Some(format!(
                "{fixed}: only a restart changes these; change them in the file and restart turnpike-bgpd"
            ))
        } else {
            None
        };
        if let Some(reason) = against {
            let _ = waiting.reply.send(Reply::Error(conflict(reason)));
            return;
        }
        let (path, state_dir) = (self.path.clone(), self.file.state.dir.clone());
        self.jobs.spawn_blocking(move || {
            let unconfirmed = confirm.map(|_| state_dir.as_path());
            let former = pending::exchange(&path, &text, unconfirmed, waiting.who.as_ref());
            let former = former.map_err(|error| format!("{error:#}"));
            Job::Exchanged { text, file: Box::new(planned.file), confirm, former, waiting }
        });
    }

    fn take_exchanged(
        &mut self,
        text: String,
        file: Config,
        confirm: Option<u32>,
        former: Result<String, String>,
        waiting: Waiting,
    ) {
        let former = match former {
            Ok(former) => former,
            Err(error) => {
                let _ = waiting.reply.send(internal(format!("nothing is changed: {error}")));
                return;
            }
        };
        let before = self.file.clone();
        let seconds = Duration::from_secs(confirm.unwrap_or_default().into());
        let held = Pending {
            until: Instant::now() + seconds,
            former: former.clone(),
            applied: text.clone(),
            file: before,
            who: waiting.who.clone(),
        };
        if let Err(problem) = self.bring_file_into_force(file) {
            error!(problem, "configuration refused; the last good one stays in force");
            return self.restore(held, format!("refused: {problem}"), Some(waiting));
        }
        let detail = match confirm {
            Some(seconds) => format!("rolled back in {seconds} s unless confirmed"),
            None => "for good".to_owned(),
        };
        self.pending = confirm.map(|_| held);
        let change =
            Change { what: "apply", detail, before: Value::String(former), after: Value::String(text) };
        self.note(waiting.who, change);
        let _ = waiting.reply.send(self.applied(Vec::new()));
    }

    fn applied(&self, notes: Vec<String>) -> Reply {
        Reply::Applied { pending: self.pending.as_ref().map(Pending::view), notes }
    }

    pub(super) fn confirm(&mut self, waiting: Waiting) {
        let Some(held) = self.pending.take() else {
            let _ = waiting.reply.send(Reply::Error(conflict("nothing waits for a confirmation".to_owned())));
            return;
        };
        let state_dir = self.file.state.dir.clone();
        let change = Change {
            what: "confirm",
            detail: "what was applied stays".to_owned(),
            before: Value::String(held.former),
            after: Value::String(held.applied),
        };
        self.note(waiting.who, change);
        let reply = self.applied(vec!["what was applied stays".to_owned()]);
        self.jobs.spawn_blocking(move || {
            let reply = match pending::forget(&state_dir) {
                Ok(()) => reply,
                Err(error) => internal(format!("in force, but a restart would roll back: {error:#}")),
            };
            let _ = waiting.reply.send(reply);
            Job::Nothing
        });
    }

    /// Rolls back by request.
    pub(super) fn roll_back(&mut self, waiting: Waiting) {
        match self.pending.take() {
            Some(held) => self.restore(held, "asked for".to_owned(), Some(waiting)),
            None => {
                let _ =
                    waiting.reply.send(Reply::Error(conflict("nothing waits for a confirmation".to_owned())));
            }
        }
    }

    /// The time for a confirmation is over.
    pub(super) fn roll_back_unconfirmed(&mut self) {
        if let Some(held) = self.pending.take() {
            warn!("the configuration was not confirmed in time: rolling back");
            self.restore(held, "not confirmed in time".to_owned(), None);
        }
    }

    /// Puts the former text back into the file, then the former configuration into force.
    fn restore(&mut self, held: Pending, reason: String, waiting: Option<Waiting>) {
        let (path, state_dir) = (self.path.clone(), self.file.state.dir.clone());
        self.jobs.spawn_blocking(move || {
            let result =
                pending::restore(&path, &held.former, &state_dir).map_err(|error| format!("{error:#}"));
            Job::Restored { result, pending: Box::new(held), reason, waiting }
        });
    }

    fn take_restored(
        &mut self,
        result: Result<(), String>,
        held: Pending,
        reason: &str,
        waiting: Option<Waiting>,
    ) {
        let mut problems: Vec<String> = result.err().into_iter().collect();
        problems.extend(self.bring_file_into_force(held.file).err());
        let who = waiting.as_ref().and_then(|waiting| waiting.who.clone());
        let change = Change {
            what: "rollback",
            detail: reason.to_owned(),
            before: Value::String(held.applied),
            after: Value::String(held.former),
        };
        self.note(who, change);
        for problem in &problems {
            error!(problem, "rolling back");
        }
        let Some(waiting) = waiting else { return };
        let reply = match (problems.is_empty(), reason.strip_prefix("refused: ")) {
            (true, None) => self.applied(vec!["the former configuration is in force again".to_owned()]),
            (true, Some(problem)) => invalid(&[format!("nothing is changed: {problem}")]),
            (false, _) => internal(problems.join("; ")),
        };
        let _ = waiting.reply.send(reply);
    }

    /// The operators' last changes, read beside the engine.
    pub(super) fn show_audit(&mut self, limit: usize, waiting: Waiting) {
        let path = self.audit.path().to_owned();
        self.jobs.spawn_blocking(move || {
            let _ = waiting.reply.send(match audit::read(&path, limit) {
                Ok(entries) => Reply::Audit { entries },
                Err(error) => internal(format!("{}: {error}", path.display())),
            });
            Job::Nothing
        });
    }

    /// Requests about files, which are answered later.
    pub(super) fn take_change(&mut self, request: Request, waiting: Waiting) {
        match request {
            Request::Diff { text, limit } => self.read_text(text, Purpose::Diff { limit }, waiting),
            Request::Apply { text, confirm } => {
                self.read_text(Some(text), Purpose::Apply { confirm }, waiting);
            }
            Request::Confirm => self.confirm(waiting),
            Request::Rollback => self.roll_back(waiting),
            Request::Audit { limit } => self.show_audit(limit, waiting),
            _ => {}
        }
    }

    /// File and parts as one, as far as a drain lets them.
    pub(super) fn merged_from(
        &self,
        file: &Config,
        parts: &BTreeMap<String, turnpike_bgpd_api::Part>,
    ) -> Merged {
        self.drained(crate::merge::merge(file, parts, &self.host))
    }
}

fn lines(problems: &[config::Problem]) -> String {
    let line = |problem: &config::Problem| match problem.line {
        Some(line) => format!("line {line}: {problem}"),
        None => problem.to_string(),
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}
