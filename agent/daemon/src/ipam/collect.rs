//! `turnpike ipam gc`: pods that are dead by the kernel's word. Unlike CNI GC there is no runtime's list here, so a
//! pod is given up only when its host link is gone or its DEL has come.

use turnpike_agent_api::{Attachment, Collected};
use turnpike_model::desired::EndpointId;

use crate::agent::Agent;
use crate::books::{PodEntry, PodState};
use crate::keeper::{self, link_exists};
use crate::verbs;

/// Looks at all pods; reclaims the dead ones unless it is a dry run.
pub(super) fn collect(agent: &Agent, dry_run: bool) -> Vec<Collected> {
    let pods: Vec<(EndpointId, PodEntry)> =
        agent.books().pods().iter().map(|(id, entry)| (id.clone(), entry.clone())).collect();
    pods.into_iter()
        .filter_map(|(id, entry)| {
            let reason = evidence(agent, &entry)?;
            let outcome = if dry_run { verdict(agent, &entry).to_owned() } else { reclaim(agent, &id) };
            Some(Collected {
                attachment: Attachment { container_id: id.container_id, ifname: id.ifname },
                pod: entry.record.name(),
                addresses: entry.record.addresses(),
                reason,
                outcome,
            })
        })
        .collect()
}

fn evidence(agent: &Agent, entry: &PodEntry) -> Option<String> {
    let link = &entry.record.host_link;
    if entry.state == PodState::Removing {
        return Some(format!("its DEL has come, and {link} could not be removed then"));
    }
    if entry.state == PodState::Attaching || link_exists(link) {
        return None;
    }
    Some(match entry.record.created.boot_id == agent.boot_id {
        true => format!("its link {link} is gone"),
        false => "it is of an earlier boot".to_owned(),
    })
}

/// What a round would do now: two looks are needed before a link counts as gone.
fn verdict(agent: &Agent, entry: &PodEntry) -> &'static str {
    let sure = entry.state == PodState::Removing
        || entry.missing_since.is_some()
        || entry.record.created.boot_id != agent.boot_id;
    if sure { "would be reclaimed" } else { "kept: seen so for the first time" }
}

fn reclaim(agent: &Agent, id: &EndpointId) -> String {
    let Some(_guard) = agent.locks.try_lock(id) else { return "kept: somebody works on it".to_owned() };
    let exists = agent.books().pod(id).is_some_and(|entry| link_exists(&entry.record.host_link));
    if !keeper::is_to_go(agent, id, exists) {
        return "kept: seen so for the first time; run gc again in 10 s".to_owned();
    }
    if let Err(error) = agent.audit("ipam gc", &id.container_id, "reclaimed") {
        return format!("failed: {}", error.message);
    }
    match verbs::remove(agent, id) {
        Ok(()) => "reclaimed".to_owned(),
        Err(error) => format!("failed: {}", error.message),
    }
}
