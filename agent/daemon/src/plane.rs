//! The thread that owns the data plane.
//!
//! Jobs (attach, check, detach) run in the order in which they come. An apply is only asked for; it runs when no job
//! waits, or when it has waited long enough, with the desired state as it is then: never with an older one, which
//! would take a newer pod's link for a leftover. What the watch is concerned about is looked into in its turn, too, so
//! that it is never judged in the middle of an attachment.
//!
//! A pod that comes or goes asks for no apply: its own job has done all, but for the links of those that went, which are
//! swept together.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use turnpike_dataplane::{
    Concern, Dataplane, DataplaneConfig, DataplaneError, NodeFacts, OwnPorts, Problem, Watch,
};
use turnpike_model::desired::DesiredState;

/// Applies, and sweeps, are this far apart while changes keep coming.
const THROTTLE: Duration = Duration::from_millis(200);
/// An apply asked for waits no longer than this, however many jobs come.
const PATIENCE: Duration = Duration::from_secs(1);
/// Without any change the node is compared with its desired state this often.
const RESYNC: Duration = Duration::from_secs(30);

/// Makes the desired state, and hears what an apply found.
pub(crate) trait Owner: Send + Sync {
    /// The state to bring about, now.
    fn desired(&self) -> DesiredState;
    /// The outcome: problems, and facts read beforehand.
    fn applied(&self, facts: Result<NodeFacts, DataplaneError>, problems: Vec<Problem>, took: Duration);
}

enum Message {
    Job(Box<dyn FnOnce(&mut Dataplane) + Send>),
    Look(Concern),
    Sweep,
    Apply,
    Stop,
}

/// What is to be done when there is time for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Nothing,
    Sweep,
    Apply,
}

/// The thread's handle; clones talk to the same thread.
#[derive(Debug, Clone)]
pub(crate) struct Plane {
    sender: Sender<Message>,
}

/// The data plane's thread is gone: the agent is about to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data plane has stopped")]
pub(crate) struct PlaneGone;

impl Plane {
    /// Opens the data plane on a thread of its own, and applies the desired state once before it returns.
    pub(crate) fn start(
        config: DataplaneConfig,
        owner: std::sync::Arc<dyn Owner>,
    ) -> anyhow::Result<(Self, JoinHandle<()>)> {
        let (sender, receiver) = channel();
        let (opened, open_result) = channel();
        let watched = config.clone();
        let thread = std::thread::Builder::new().name("dataplane".to_owned()).spawn(move || {
            match Dataplane::new(config) {
                Ok(mut dataplane) => {
                    apply(&mut dataplane, owner.as_ref());
                    if opened.send(Ok(dataplane.own_ports())).is_ok() {
                        serve(&mut dataplane, &receiver, owner.as_ref());
                    }
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        })?;
        let own = open_result.recv()??;
        let plane = Self { sender };
        plane.mend_what_others_break(&watched, own)?;
        Ok((plane, thread))
    }

    /// Asks for a look whenever something of ours may have been taken away. The thread ends with the process.
    fn mend_what_others_break(&self, config: &DataplaneConfig, own: OwnPorts) -> anyhow::Result<()> {
        let mut watch = Watch::open(config, own)?;
        let plane = self.clone();
        std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            loop {
                match watch.wait(RESYNC) {
                    // When the thread is gone the agent is about to end.
                    Ok(concerns) => concerns.into_iter().for_each(|concern| {
                        let _ = plane.sender.send(Message::Look(concern));
                    }),
                    Err(error) => {
                        tracing::warn!(%error, "changes by others are mended every {RESYNC:?} only");
                        return;
                    }
                }
            }
        })?;
        Ok(())
    }

    /// Runs `work` on the data plane's thread and waits for its answer.
    pub(crate) fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Dataplane) -> R + Send + 'static,
    ) -> Result<R, PlaneGone> {
        let (answer, result) = channel();
        let job = Box::new(move |dataplane: &mut Dataplane| {
            // A caller that does not wait any more needs no answer.
            let _ = answer.send(work(dataplane));
        });
        self.sender.send(Message::Job(job)).map_err(|_| PlaneGone)?;
        result.recv().map_err(|_| PlaneGone)
    }

    /// Like [`Self::call`], for callers that must not block; costs no thread.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Dataplane) -> R + Send + 'static,
    ) -> Result<R, PlaneGone> {
        let (answer, result) = tokio::sync::oneshot::channel();
        let job = Box::new(move |dataplane: &mut Dataplane| drop(answer.send(work(dataplane))));
        self.sender.send(Message::Job(job)).map_err(|_| PlaneGone)?;
        result.await.map_err(|_| PlaneGone)
    }

    /// Asks for an apply soon.
    pub(crate) fn request_apply(&self) {
        // When the thread is gone the agent is about to end, and start again with an apply.
        let _ = self.sender.send(Message::Apply);
    }

    /// Has what cut-off pods left deleted soon.
    pub(crate) fn request_sweep(&self) {
        // As for an apply.
        let _ = self.sender.send(Message::Sweep);
    }

    /// Ends the thread once the jobs before this are done. What is in the kernel stays.
    pub(crate) fn stop(&self) {
        let _ = self.sender.send(Message::Stop);
    }
}

fn serve(dataplane: &mut Dataplane, receiver: &Receiver<Message>, owner: &dyn Owner) {
    let mut agenda = Agenda { due: Due::Nothing, last: Instant::now(), applied: Instant::now() };
    loop {
        // What a limit that holds traffic back still lacks is made between jobs.
        let wanted = dataplane.wants_queues();
        let wait = match agenda.due {
            _ if wanted => Duration::ZERO,
            Due::Nothing => RESYNC.saturating_sub(agenda.applied.elapsed()),
            Due::Sweep | Due::Apply => THROTTLE.saturating_sub(agenda.last.elapsed()),
        };
        match receiver.recv_timeout(wait) {
            Ok(Message::Job(job)) => {
                job(dataplane);
                agenda.carry_out_if_late(dataplane, owner);
            }
            Ok(Message::Look(concern)) => {
                if let Some(what) = dataplane.must_mend(&concern) {
                    tracing::debug!(what, "the kernel has changed");
                    agenda.due = Due::Apply;
                }
                agenda.carry_out_if_late(dataplane, owner);
            }
            Ok(Message::Sweep) => agenda.due = agenda.due.max(Due::Sweep),
            Ok(Message::Apply) => agenda.due = Due::Apply,
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if wanted => dataplane.complete_queues(),
            Err(RecvTimeoutError::Timeout) => agenda.carry_out(dataplane, owner),
        }
    }
}

/// When what is due is done.
struct Agenda {
    due: Due,
    /// When something was carried out last.
    last: Instant,
    /// When that was an apply.
    applied: Instant,
}

impl Agenda {
    /// Jobs keep coming: what is due waits for them no longer than it may.
    fn carry_out_if_late(&mut self, dataplane: &mut Dataplane, owner: &dyn Owner) {
        if self.due != Due::Nothing && self.last.elapsed() > PATIENCE {
            self.carry_out(dataplane, owner);
        }
    }

    /// Where nothing is due it is time for a comparison.
    fn carry_out(&mut self, dataplane: &mut Dataplane, owner: &dyn Owner) {
        if self.due == Due::Sweep && self.applied.elapsed() < RESYNC {
            // Where a sweep fails an apply tries again, and says what is in the way.
            self.due = if dataplane.sweep().is_ok() { Due::Nothing } else { Due::Apply };
        } else {
            apply(dataplane, owner);
            self.due = Due::Nothing;
            self.applied = Instant::now();
        }
        self.last = Instant::now();
    }
}

fn apply(dataplane: &mut Dataplane, owner: &dyn Owner) {
    let started = Instant::now();
    let facts = dataplane.facts();
    let problems = dataplane.apply(&owner.desired());
    owner.applied(facts, problems, started.elapsed());
}
