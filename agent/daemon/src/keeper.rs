//! What has to be looked after without being asked: spooled DELs, pods whose link vanished, the heartbeat.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use turnpike_agent_api::heartbeat_path;
use turnpike_model::desired::EndpointId;

use crate::agent::Agent;
use crate::books::PodState;
use crate::clock;
use crate::verbs;

/// Between two rounds, and so between the two observations that a reclaim needs.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// True when the host has a link of that name.
pub(crate) fn link_exists(name: &str) -> bool {
    any_socket().is_some_and(|socket| has_link(&socket, name))
}

/// Any socket of this network namespace can be asked for the index of an interface.
fn any_socket() -> Option<OwnedFd> {
    rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).ok()
}

fn has_link(socket: &OwnedFd, name: &str) -> bool {
    rustix::net::netdevice::name_to_index(socket, name).is_ok()
}

/// Names of all links of this network namespace.
pub(crate) fn links() -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned());
    names.collect()
}

/// One round. Blocks.
pub(crate) fn round(agent: &Agent) {
    beat(agent);
    drain_spool(agent);
    observe(agent);
    agent.progress.turned(crate::progress::Loop::Keeper);
    if agent.health().store_failing_since.is_some() {
        agent.note_store(agent.store.probe().err().map(|error| error.to_string()));
    }
}

/// Rounds until the agent ends.
pub(crate) async fn keep(agent: Arc<Agent>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let agent = Arc::clone(&agent);
        if tokio::task::spawn_blocking(move || round(&agent)).await.is_err() {
            tracing::error!("a round of the keeper failed");
        }
    }
}

/// Tells turnpike-cni's STATUS that an agent which cannot be reached is only being restarted.
fn beat(agent: &Agent) {
    let socket = &agent.config.paths.socket;
    if let Err(error) = turnpike_agent_api::beat(socket) {
        tracing::warn!(path = %heartbeat_path(socket).display(), %error, "heartbeat not written");
    }
}

/// Executes all DELs that came while no agent answered.
pub(crate) fn drain_spool(agent: &Agent) {
    let Ok(entries) = std::fs::read_dir(agent.config.spool()) else { return };
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    for path in paths {
        verbs::execute_spool(agent, &path);
    }
}

/// Looks for pods whose host link is not there. One of an earlier boot is dead; any other is given up when a second
/// look, a round later, finds it missing still.
fn observe(agent: &Agent) {
    let pods: Vec<(EndpointId, String)> = {
        let books = agent.books();
        books.pods().iter().map(|(id, entry)| (id.clone(), entry.record.host_link.clone())).collect()
    };
    let Some(socket) = any_socket() else { return };
    for (id, link) in pods {
        // Somebody works on it: it is not forgotten.
        let Some(_guard) = agent.locks.try_lock(&id) else { continue };
        if is_to_go(agent, &id, has_link(&socket, &link))
            && let Err(error) = verbs::remove(agent, &id)
        {
            tracing::warn!(container = id.container_id, "cannot be reclaimed yet: {error}");
        }
    }
}

/// True when a pod is to be given up; keeps in mind that its link was not there.
pub(crate) fn is_to_go(agent: &Agent, id: &EndpointId, exists: bool) -> bool {
    let now = clock::now();
    let mut books = agent.books();
    let Some(entry) = books.pod_mut(id) else { return false };
    if entry.state == PodState::Removing {
        return true;
    }
    if exists {
        entry.missing_since = None;
        return false;
    }
    if entry.record.created.boot_id != agent.boot_id {
        tracing::info!(container = id.container_id, "pod of an earlier boot: reclaimed");
        return true;
    }
    match entry.missing_since {
        Some(_) => {
            tracing::warn!(
                container = id.container_id,
                link = entry.record.host_link,
                "host link gone: reclaimed"
            );
            true
        }
        None => {
            tracing::warn!(container = id.container_id, link = entry.record.host_link, "host link not there");
            entry.missing_since = Some(now);
            false
        }
    }
}
