//! Bandwidth as people watch it: counters are read once a second, and rates kept for a while.

mod audit;
mod history;
mod metrics;
mod plan;
pub(crate) mod report;
mod trial;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use turnpike_agent_api::{BwReply, BwRequest, ErrorReply};
use turnpike_calc::{Meter, Reading, Series, Time};
use turnpike_dataplane::{PodUsage, QueueUsage, UsageSample};

use crate::agent::Agent;
use crate::clock;

pub(crate) use history::{keep as keep_history, path as history_path};
pub(crate) use metrics::Metrics;
pub(crate) use trial::{path as trial_path, watch as end_trials};

/// Between two readings of the counters.
const INTERVAL: Duration = Duration::from_secs(1);
/// Readings after which the history is kept for a next run.
const KEEP_AFTER: u32 = 60;

/// What was read last, the rates until then, and a change on trial.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    seen: Mutex<Seen>,
    trial: Mutex<Option<trial::Trial>>,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) meter: Meter,
    pub(crate) latest: UsageSample,
}

impl Monitor {
    /// Taken after the books, never before; held for moments only.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken before all other locks: it is held while a trial is put in force or taken back.
    fn trial(&self) -> MutexGuard<'_, Option<trial::Trial>> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False where there is none for sure. Never blocks.
    fn may_have_trial(&self) -> bool {
        self.trial.try_lock().map_or(true, |trial| trial.is_some())
    }

    fn record(&self, now: Time, sample: UsageSample) {
        // In the order of series, which saves sorting them.
        let mut readings = Vec::with_capacity(2 * sample.pods.len() + 2 * sample.uplinks.len());
        let pods = |series: fn(String) -> Series, of: fn(&PodUsage) -> &QueueUsage| {
            sample.pods.iter().map(move |(link, usage)| (series(link.to_string()), reading(of(usage))))
        };
        readings.extend(pods(Series::ToPod, |usage| &usage.to_workload));
        readings.extend(pods(Series::FromPod, |usage| &usage.from_workload));
        for uplink in &sample.uplinks {
            let link = |bytes| Reading { bytes, counter: 0 };
            readings.push((Series::UplinkOut(uplink.name.clone()), link(uplink.sent)));
            readings.push((Series::UplinkIn(uplink.name.clone()), link(uplink.received)));
            for (number, class) in &uplink.classes {
                readings.push((Series::Class(uplink.name.clone(), *number), reading(&class.usage)));
            }
        }
        let mut seen = self.seen();
        seen.meter.record(now, readings);
        seen.latest = sample;
    }
}

fn reading(usage: &QueueUsage) -> Reading {
    Reading { bytes: usage.bytes, counter: u32::from(usage.queued) }
}

/// Reads the counters once a second until the agent ends.
pub(crate) async fn sample(agent: Arc<Agent>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut failing = false;
    let mut unkept = 0;
    history::resume(&agent);
    loop {
        interval.tick().await;
        unkept = (unkept + 1) % KEEP_AFTER;
        let failure = read(&agent).await.err();
        if unkept == 0 && failure.is_none() {
            let agent = Arc::clone(&agent);
            if tokio::task::spawn_blocking(move || history::keep(&agent)).await.is_err() {
                tracing::error!("keeping the history failed");
            }
        }
        match &failure {
            Some(error) if !failing => tracing::warn!(error, "the counters cannot be read"),
            None if failing => tracing::info!("the counters can be read again"),
            _ => {}
        }
        failing = failure.is_some();
    }
}

async fn read(agent: &Agent) -> Result<(), String> {
    let plane = agent.plane().map_err(|error| error.to_string())?;
    let sample = plane.ask(turnpike_dataplane::Dataplane::usage).await.map_err(|error| error.to_string())?;
    agent.progress.turned(crate::progress::Loop::Bandwidth);
    agent.bandwidth.record(clock::now(), sample.map_err(|error| error.to_string())?);
    Ok(())
}

/// Answers `turnpike bw`.
pub(crate) fn answer(agent: &Agent, request: &BwRequest) -> Result<BwReply, ErrorReply> {
    match request {
        BwRequest::Report => Ok(BwReply::Report(report::report(agent))),
        BwRequest::Plan { file, yaml } => plan::plan(agent, file, yaml).map(BwReply::Plan),
        BwRequest::Apply { file, yaml, confirm_s, who } => {
            trial::apply(agent, (file.as_str(), yaml.as_str()), *confirm_s, who).map(BwReply::Trial)
        }
        BwRequest::Confirm { who } => trial::confirm(agent, who).map(BwReply::Trial),
        BwRequest::RollBack { who } => trial::roll_back(agent, who).map(BwReply::Trial),
    }
}
