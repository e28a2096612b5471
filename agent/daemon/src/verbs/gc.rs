//! GC: reclaims what the runtime no longer knows.
//!
//! Two runtimes can share a node, and each only lists its own attachments: a pod in whose namespace processes live
//! is not taken for garbage, whatever the list says.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use turnpike_agent_api::{ErrorReply, GcRequest, code};
use turnpike_model::desired::EndpointId;

use crate::agent::Agent;
use crate::store::NetnsId;

use super::{del, endpoint_id};

/// Carries out GC: goes on after errors, and reports them all.
pub(super) fn gc(agent: &Agent, request: &GcRequest) -> Result<(), ErrorReply> {
    let valid: BTreeSet<EndpointId> = request.valid.iter().map(endpoint_id).collect();
    let candidates: Vec<(EndpointId, NetnsId)> = agent
        .books()
        .pods()
        .iter()
        .filter(|(id, entry)| !valid.contains(*id) && entry.record.network == request.network)
        .map(|(id, entry)| (id.clone(), entry.record.netns))
        .collect();
    if candidates.is_empty() {
        return Ok(());
    }
    let alive = namespaces_with_processes();
    let mut failures = Vec::new();
    for (id, netns) in candidates {
        if alive.contains(&(netns.dev, netns.ino)) {
            tracing::warn!(container = id.container_id, "GC would remove a pod with live processes: kept");
            continue;
        }
        let _guard = agent.locks.lock(&id);
        match del::remove(agent, &id) {
            Ok(()) => tracing::info!(container = id.container_id, "reclaimed by GC"),
            Err(error) => failures.push(format!("{}: {error}", id.container_id)),
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    let message = format!("{} attachments could not be reclaimed", failures.len());
    Err(ErrorReply::new(code::GC_INCOMPLETE, message).with_details(failures.join("; ")))
}

/// Network namespaces that some process is in.
fn namespaces_with_processes() -> BTreeSet<(u64, u64)> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    processes
        .filter_map(Result::ok)
        .filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
        })
        .filter_map(|entry| std::fs::metadata(entry.path().join("ns/net")).ok())
        .map(|netns| (netns.dev(), netns.ino()))
        .collect()
}
