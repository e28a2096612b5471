//! The thread that owns the data plane.
//!
//! Jobs (attach, check, detach) run in the order in which they come. An apply is only asked for; it runs when no job
//! waits, or when it has waited long enough, with the desired state as it is then: never with an older one, which
//! would take a newer pod's link for a leftover.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use turnpike_dataplane::{Dataplane, DataplaneConfig, DataplaneError, NodeFacts, Problem, Watch};
use turnpike_model::desired::DesiredState;

/// Applies are this far apart while changes keep coming.
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
    Apply,
    Stop,
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
                    if opened.send(Ok(())).is_ok() {
                        serve(&mut dataplane, &receiver, owner.as_ref());
                    }
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        })?;
        open_result.recv()??;
        let plane = Self { sender };
        plane.mend_what_others_break(&watched)?;
        Ok((plane, thread))
    }

    /// Asks for an apply whenever something of ours is taken away. The thread ends with the process.
    fn mend_what_others_break(&self, config: &DataplaneConfig) -> anyhow::Result<()> {
        let mut watch = Watch::open(config)?;
        let plane = self.clone();
        std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            loop {
                match watch.wait(RESYNC) {
                    Ok(Some(what)) => {
                        tracing::debug!(what, "the kernel has changed");
                        plane.request_apply();
                    }
                    Ok(None) => {}
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

    /// Ends the thread once the jobs before this are done. What is in the kernel stays.
    pub(crate) fn stop(&self) {
        let _ = self.sender.send(Message::Stop);
    }
}

fn serve(dataplane: &mut Dataplane, receiver: &Receiver<Message>, owner: &dyn Owner) {
    let mut last = Instant::now();
    let mut dirty = false;
    loop {
        let wait = if dirty { THROTTLE } else { RESYNC };
        match receiver.recv_timeout(wait.saturating_sub(last.elapsed())) {
            Ok(Message::Job(job)) => {
                job(dataplane);
                if !(dirty && last.elapsed() > PATIENCE) {
                    continue;
                }
            }
            Ok(Message::Apply) => {
                dirty = true;
                continue;
            }
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        dirty = false;
        apply(dataplane, owner);
        last = Instant::now();
    }
}

fn apply(dataplane: &mut Dataplane, owner: &dyn Owner) {
    let started = Instant::now();
    let facts = dataplane.facts();
    let problems = dataplane.apply(&owner.desired());
    owner.applied(facts, problems, started.elapsed());
}
