//! What all parts of the agent share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context;
use turnpike_agent_api::{ErrorReply, ProblemStatus, code};
use turnpike_calc::Time;
use turnpike_dataplane::{DataplaneError, NodeFacts, Problem, Severity};
use turnpike_model::desired::{BgpPart, DesiredState};

use crate::audit;
use crate::bandwidth::Monitor;
use crate::books::{Books, salvage};
use crate::clock::{self, BootId, Stamp};
use crate::config::Config;
use crate::drain::{self, DrainBook};
use crate::events::Events;
use crate::failpoint;
use crate::gateways::{self, Gateways};
use crate::holds::Holds;
use crate::locks::Locks;
use crate::metrics::Metrics;
use crate::plane::{Owner, Plane};
use crate::progress::{Loop, Progress};
use crate::source::SourceState;
use crate::store::{Loaded, PodRecord, Store};

/// Ethernet's MTU, until the data plane has said better.
const FALLBACK_MTU: u32 = 1500;
/// How many of the latest errors are kept for `turnpike status`.
const ERRORS_KEPT: usize = 10;
/// An unwritable store makes the node NotReady after this time, not at the first hiccup.
const STORE_GRACE: Duration = Duration::from_secs(60);

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) boot_id: BootId,
    pub(crate) started: Time,
    pub(crate) store: Store,
    pub(crate) locks: Locks,
    pub(crate) metrics: Metrics,
    pub(crate) bandwidth: Monitor,
    pub(crate) events: Events,
    pub(crate) holds: Holds,
    pub(crate) drain: DrainBook,
    pub(crate) progress: Progress,
    books: Mutex<Books>,
    health: Mutex<Health>,
    plane: OnceLock<Plane>,
    bgp_wake: tokio::sync::Notify,
}

/// What is known about how well things go.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) mtu: u32,
    pub(crate) mtu_reason: String,
    pub(crate) source: SourceState,
    pub(crate) bgp: BgpDelivery,
    pub(crate) store_failing_since: Option<Time>,
    pub(crate) damaged: Vec<String>,
    pub(crate) last_apply: Option<Duration>,
    pub(crate) gateways: Gateways,
    problems: BTreeMap<(String, String), (Severity, Time)>,
    errors: VecDeque<(Time, String, ErrorReply)>,
}

/// How the hand-over to bgpd goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct BgpDelivery {
    pub(crate) delivered: Option<BgpPart>,
    pub(crate) error: Option<String>,
    /// What bgpd would not take, and why.
    pub(crate) refused: Vec<String>,
}

impl Agent {
    /// Opens the store and reads the books; the kernel is not touched yet.
    pub(crate) fn open(config: Config) -> anyhow::Result<Self> {
        let node = config.node()?;
        let boot_id = BootId::current().context("cannot read the boot ID")?;
        let state = &config.paths.state;
        let store =
            Store::open(state).with_context(|| format!("cannot open the books in {}", state.display()))?;
        let loaded = store.load().with_context(|| format!("cannot read the books in {}", state.display()))?;
        let present = Stamp::now(&boot_id);
        let mut books = Books::new(node, config.cooldown(), config.hold_of_released());
        let mut damaged = Vec::new();
        let records = bring_back(&store, loaded, &present, &mut damaged);
        damaged.extend(books.restore(records, &present));
        for complaint in &damaged {
            tracing::error!("{complaint}");
        }
        let health = Health {
            mtu: config.network.mtu.unwrap_or(FALLBACK_MTU),
            mtu_reason: String::new(),
            source: SourceState::default(),
            bgp: BgpDelivery::default(),
            store_failing_since: None,
            damaged,
            last_apply: None,
            gateways: Gateways::default(),
            problems: BTreeMap::new(),
            errors: VecDeque::new(),
        };
        let events = Events::begin(state);
        Ok(Self {
            started: clock::now(),
            boot_id,
            store,
            locks: Locks::default(),
            metrics: Metrics::default(),
            bandwidth: Monitor::default(),
            holds: Holds::resume(events.version(), books.unheard(clock::now())),
            events,
            progress: Progress::default(),
            drain: DrainBook::open(drain::path(state), &present),
            books: Mutex::new(books),
            health: Mutex::new(health),
            plane: OnceLock::new(),
            bgp_wake: tokio::sync::Notify::new(),
            config,
        })
    }

    /// The books. Held for moments only, never over I/O.
    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How well things go. Taken after the books, never before.
    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The data plane; set once, before anything is served.
    pub(crate) fn set_plane(&self, plane: Plane) {
        if self.plane.set(plane).is_err() {
            tracing::error!("the data plane was started twice");
        }
    }

    pub(crate) fn plane(&self) -> Result<&Plane, ErrorReply> {
        self.plane.get().ok_or_else(|| ErrorReply::new(code::TRY_AGAIN, "turnpike-agent is still starting"))
    }

    /// Something that the desired state depends on has changed.
    pub(crate) fn changed(&self) {
        if let Some(plane) = self.plane.get() {
            plane.request_apply();
        }
        self.bgp_wake.notify_one();
    }

    /// True where the desired state of the node, or what people are told of it, depends on this pod for more than its link.
    /// Other pods come and go without an apply: ADD and DEL have done all that an apply would do.
    pub(crate) fn stands_out(&self, record: &PodRecord) -> bool {
        let by_itself = self.books().stands_out(record);
        by_itself || self.health().has_problem_with(&record.host_link)
    }

    /// A pod is off the network: what is left is its links.
    pub(crate) fn pod_cut_off(&self) {
        if let Some(plane) = self.plane.get() {
            plane.request_sweep();
        }
    }

    /// Resolves when bgpd's part may have changed.
    pub(crate) async fn bgp_changed(&self) {
        self.bgp_wake.notified().await;
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::now(&self.boot_id)
    }

    /// Writes a record, and keeps in mind whether the store can be written.
    pub(crate) fn persist(&self, record: &PodRecord) -> Result<(), ErrorReply> {
        let result = self.store.write(record);
        self.note_store(result.as_ref().err().map(ToString::to_string));
        result.map_err(|error| {
            ErrorReply::new(code::STORE, format!("the agent's store cannot be written: {error}"))
                .with_details(format!(
                    "look at {}: free space, mount options, disk errors",
                    self.config.paths.state.display()
                ))
        })
    }

    /// Writes down what an operator changes, before it is changed.
    pub(crate) fn audit(&self, what: &str, before: &str, after: &str) -> Result<(), ErrorReply> {
        tracing::info!(what, before, after, "an operator's change");
        let state = &self.config.paths.state;
        audit::append(state, &self.stamp(), what, before, after).map_err(|error| {
            ErrorReply::new(code::STORE, format!("the audit log cannot be written: {error}"))
                .with_details(format!("look at {}: free space, mount options", state.display()))
        })
    }

    /// Hears whether the store could be written.
    pub(crate) fn note_store(&self, error: Option<String>) {
        let mut health = self.health();
        match error {
            Some(error) => {
                tracing::error!(%error, "the store cannot be written");
                health.store_failing_since.get_or_insert_with(clock::now);
            }
            None => health.store_failing_since = None,
        }
    }

    /// Keeps a failed request in mind for `turnpike status`.
    pub(crate) fn note_error(&self, what: String, error: &ErrorReply) {
        let mut health = self.health();
        health.errors.push_front((clock::now(), what, error.clone()));
        health.errors.truncate(ERRORS_KEPT);
    }

    /// Looks whether the node's gateways answer.
    pub(crate) fn look_at_gateways(&self) {
        let found =
            self.plane().ok().and_then(|plane| plane.call(turnpike_dataplane::Dataplane::gateways).ok());
        match found {
            Some(Ok(found)) => {
                let found = gateways::ping(found, self.config.readiness.ping);
                self.health().gateways.heard(found, clock::now());
            }
            Some(Err(error)) => tracing::debug!(%error, "the gateways cannot be looked at"),
            None => {}
        }
        self.progress.turned(Loop::Gateways);
    }

    /// Can ADD work? Never false for what passes by itself: an exhausted pool, a stale source, a peer that is down.
    pub(crate) fn ready(&self) -> Result<(), ErrorReply> {
        self.plane()?;
        self.has_addresses()?;
        let failing = self.health().store_failing_since;
        match failing.filter(|since| clock::now().saturating_sub(*since) > STORE_GRACE) {
            Some(_) => Err(ErrorReply::new(code::NOT_AVAILABLE, "the agent's store cannot be written")
                .with_details(format!("look at {}", self.config.paths.state.display()))),
            None => Ok(()),
        }
    }
}

impl Agent {
    /// A node that was never given a block cannot start pods. One that has pods is not called NotReady for a block
    /// that disappeared: that would evict them.
    fn has_addresses(&self) -> Result<(), ErrorReply> {
        let books = self.books();
        match books.ipam().plan().lacks_blocks() {
            Some(error) if books.pods().is_empty() => {
                Err(ErrorReply::new(code::NOT_AVAILABLE, error.to_string())
                    .with_details("`turnpike status` shows which resources are in force"))
            }
            _ => Ok(()),
        }
    }
}

impl Health {
    /// What is wrong now, for people.
    pub(crate) fn problems(&self, now: Time) -> Vec<ProblemStatus> {
        let standing = self.problems.iter().map(|((subject, message), (severity, since))| ProblemStatus {
            severity: match severity {
                Severity::Degraded => "degraded",
                Severity::Failed => "failed",
            }
            .to_owned(),
            subject: subject.clone(),
            message: message.clone(),
            age_s: now.saturating_sub(*since).as_secs(),
        });
        let damaged = self.damaged.iter().map(|message| ProblemStatus {
            severity: "failed".to_owned(),
            subject: "store".to_owned(),
            message: message.clone(),
            age_s: 0,
        });
        standing.chain(damaged).collect()
    }

    /// The latest errors, newest first.
    pub(crate) fn errors(&self, now: Time) -> Vec<ProblemStatus> {
        self.errors
            .iter()
            .map(|(at, what, error)| ProblemStatus {
                severity: "failed".to_owned(),
                subject: what.clone(),
                message: [error.to_string(), error.details.clone()].join(" ").trim().to_owned(),
                age_s: now.saturating_sub(*at).as_secs(),
            })
            .collect()
    }

    /// True while something is said of this link, or of an ifb of it: those have eleven of its twelve digits.
    fn has_problem_with(&self, link: &str) -> bool {
        let digits = link.get(3..14).unwrap_or(link);
        self.problems.keys().any(|(subject, message)| subject.contains(digits) || message.contains(digits))
    }

    fn set_problems(&mut self, problems: Vec<Problem>, now: Time) {
        let mut standing = BTreeMap::new();
        for problem in problems {
            let key = (problem.subject, problem.message);
            let since = match self.problems.get(&key) {
                Some((_, since)) => *since,
                None => {
                    tracing::warn!(subject = key.0, severity = ?problem.severity, "{}", key.1);
                    now
                }
            };
            standing.insert(key, (problem.severity, since));
        }
        for (subject, message) in self.problems.keys().filter(|key| !standing.contains_key(key)) {
            tracing::info!(subject, "solved: {message}");
        }
        self.problems = standing;
    }
}

impl Owner for Agent {
    fn desired(&self) -> DesiredState {
        let mut desired = self.books().node_state().desired;
        self.drain.merge(&mut desired, &self.stamp());
        desired
    }

    fn applied(&self, facts: Result<NodeFacts, DataplaneError>, problems: Vec<Problem>, took: Duration) {
        let mut all = problems;
        {
            let books = self.books();
            // A link that its ADD is about to make is not missing.
            all.retain(|problem| !books.is_attaching(&problem.subject));
            all.extend(books.node_state().issues.into_iter().map(|issue| Problem {
                severity: Severity::Degraded,
                subject: format!("{} {}", issue.resource, issue.field),
                message: format!("{}; {}", issue.message, issue.remedy),
            }));
        }
        let now = clock::now();
        let mut health = self.health();
        match facts {
            Ok(facts) => {
                let reason = facts.mtu.rule.to_string();
                if (health.mtu, &health.mtu_reason) != (facts.mtu.mtu, &reason) {
                    tracing::info!(mtu = facts.mtu.mtu, reason, "MTU of new pod links");
                }
                health.mtu = facts.mtu.mtu;
                health.mtu_reason = reason;
            }
            Err(error) => all.push(Problem {
                severity: Severity::Failed,
                subject: "uplinks".to_owned(),
                message: error.to_string(),
            }),
        }
        health.set_problems(all, now);
        let first = health.last_apply.is_none();
        if first {
            failpoint::reach("applied-first");
        }
        health.last_apply = Some(took);
        drop(health);
        self.metrics.applied();
        if first {
            self.bgp_wake.notify_one();
        }
        self.progress.turned(Loop::Dataplane);
        tracing::debug!(?took, "applied");
    }
}

/// Records as they were, and what can be saved of damaged ones.
fn bring_back(store: &Store, loaded: Loaded, present: &Stamp, damaged: &mut Vec<String>) -> Vec<PodRecord> {
    let mut records = loaded.records;
    for corrupt in loaded.corrupt {
        let path = corrupt.path.display();
        let outcome = match salvage(&corrupt, present, FALLBACK_MTU) {
            Some(record) => {
                let written = store.quarantine(&corrupt).and_then(|_| store.write(&record));
                records.push(record);
                match written {
                    Ok(()) => "its link and addresses are kept until the pod is gone".to_owned(),
                    Err(error) => format!("its link and addresses are kept, but not durably: {error}"),
                }
            }
            None => "nothing of it could be saved; move the file away".to_owned(),
        };
        damaged.push(format!("{path} is damaged ({}): {outcome}", corrupt.message));
    }
    records
}
