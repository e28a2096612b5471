//! DEL: idempotent, best effort, and never a reason for a pod to stay.

use std::path::Path;

use turnpike_agent_api::{Attachment, DelRequest, ErrorReply, SpoolError, read_spool, spool_path};
use turnpike_model::desired::EndpointId;

use crate::agent::Agent;
use crate::books::{PodState, host_link};
use crate::clock;
use crate::{failpoint, holds};

use super::{endpoint_id, plane_gone};

/// Carries out DEL. An attachment that is not known is gone already.
pub(super) fn del(agent: &Agent, request: &DelRequest) -> Result<(), ErrorReply> {
    let id = known_id(agent, &request.attachment);
    let guard = agent.locks.lock(&id);
    let result = remove(agent, &id);
    discard_spooled(agent, &request.attachment);
    drop(guard);
    failpoint::reach("del-released");
    // What could not be removed now is the keeper's: the pod's end does not wait for it.
    if let Err(error) = result {
        agent.note_error(format!("DEL {}", id.container_id), &error);
    }
    Ok(())
}

/// The entry of the attachment; a damaged record is found by the host link's name.
fn known_id(agent: &Agent, attachment: &Attachment) -> EndpointId {
    let id = endpoint_id(attachment);
    let books = agent.books();
    if books.pod(&id).is_none()
        && let Some(damaged) = books.by_host_link(&host_link(&id))
    {
        return damaged.clone();
    }
    id
}

/// Takes a pod off the network, then gives its addresses back. The caller holds the interface's lock.
///
/// Its link is deleted soon, together with others, and in any case before a pod gets one of the addresses:
/// the kernel takes long for it, and the pod's end need not wait.
///
/// # Errors
/// Something is still there; the entry stays, marked as being removed, and its addresses with it.
pub(crate) fn remove(agent: &Agent, id: &EndpointId) -> Result<(), ErrorReply> {
    let Some(mut record) = agent.books().pod_mut(id).map(|entry| {
        entry.state = PodState::Removing;
        entry.record.clone()
    }) else {
        return Ok(());
    };
    let mut stands_out = agent.stands_out(&record);
    let link = record.host_link.clone();
    let cut_off = agent.plane()?.call(move |dataplane| dataplane.cut_off(&link)).map_err(plane_gone)?;
    if let Err(error) = cut_off {
        // The link is what counts: without it no packet bears the addresses.
        if crate::keeper::link_exists(&record.host_link) {
            return Err(super::dataplane_error(&error));
        }
        tracing::warn!(link = record.host_link, %error, "the link is gone, something of it is not");
        stands_out = true;
    }
    failpoint::reach("del-detached");
    // Whatever comes of the record: the pod is not in the desired state any more, and its link goes.
    agent.pod_cut_off();
    record.released = Some(agent.stamp());
    agent.persist(&record)?;
    agent.books().release(id, &record, clock::now());
    if stands_out {
        agent.changed();
    }
    holds::released(agent, &record);
    tracing::info!(container = id.container_id, addresses = ?record.addresses(), link = record.host_link, "pod removed");
    Ok(())
}

/// Executes an older DEL of the same name that still waits on disk, before a new ADD. The caller holds the lock.
pub(super) fn execute_spooled(agent: &Agent, attachment: &Attachment) {
    let path = spool_path(&agent.config.spool(), attachment);
    if path.exists() {
        carry_out(agent, &path, attachment);
    }
}

fn discard_spooled(agent: &Agent, attachment: &Attachment) {
    let path = spool_path(&agent.config.spool(), attachment);
    if path.exists() {
        discard(&path);
    }
}

/// Executes one spool file.
pub(crate) fn execute_spool(agent: &Agent, path: &Path) {
    match read_spool(path) {
        Ok(entry) => {
            let attachment = entry.request.attachment;
            let id = known_id(agent, &attachment);
            let _guard = agent.locks.lock(&id);
            carry_out(agent, path, &attachment);
        }
        Err(SpoolError::Corrupt { path, message }) => {
            tracing::error!(path = %path.display(), "spooled DEL is damaged and set aside: {message}");
            if let Err(error) = std::fs::rename(&path, path.with_extension("corrupt")) {
                tracing::error!(path = %path.display(), %error, "it cannot be set aside");
            }
        }
        // Somebody else was quicker, or the disk is in trouble: the next round sees.
        Err(error) => tracing::debug!(%error, "spooled DEL not read"),
    }
}

fn carry_out(agent: &Agent, path: &Path, attachment: &Attachment) {
    let Ok(entry) = read_spool(path) else { return };
    let id = known_id(agent, attachment);
    let is_older = agent.books().pod(&id).is_some_and(|pod| {
        let created = &pod.record.created;
        created.boot_id.0 != entry.boot_id || created.boottime_ns <= entry.boottime_ns
    });
    if is_older && let Err(error) = remove(agent, &id) {
        tracing::warn!(container = id.container_id, "spooled DEL not finished: {error}");
        return;
    }
    tracing::info!(container = attachment.container_id, "spooled DEL executed");
    discard(path);
}

fn discard(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "spool file cannot be removed");
    }
}
