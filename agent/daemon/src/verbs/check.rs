//! CHECK: is the attachment what ADD made?

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use turnpike_agent_api::{CheckRequest, ErrorReply, code};

use crate::agent::Agent;

use super::{dataplane_error, endpoint_id, missing_netns, plane_gone};

/// Carries out CHECK.
pub(super) fn check(agent: &Agent, request: &CheckRequest, netns: Option<OwnedFd>) -> Result<(), ErrorReply> {
    let netns = netns.ok_or_else(missing_netns)?;
    let id = endpoint_id(&request.attachment);
    let _guard = agent.locks.lock(&id);
    let (record, endpoint) = {
        let books = agent.books();
        let Some(entry) = books.pod(&id) else {
            let message = format!("container {} has no {} here", id.container_id, id.ifname);
            return Err(ErrorReply::new(code::UNKNOWN_CONTAINER, message));
        };
        (entry.record.clone(), books.endpoint(&entry.record))
    };
    let (ours, theirs): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
        (record.addresses().into_iter().collect(), request.addresses.iter().copied().collect());
    if !theirs.is_empty() && ours != theirs {
        let details = format!("prevResult says {theirs:?}, the agent's books {ours:?}");
        return Err(ErrorReply::new(code::CHECK_FAILED, "the pod's addresses are not what ADD gave")
            .with_details(details));
    }
    let findings = agent
        .plane()?
        .call(move |dataplane| dataplane.check(&endpoint, netns.as_fd()))
        .map_err(plane_gone)?
        .map_err(|error| dataplane_error(&error))?;
    if findings.is_empty() {
        return Ok(());
    }
    let details: Vec<String> = findings.iter().map(ToString::to_string).collect();
    Err(ErrorReply::new(code::CHECK_FAILED, "the attachment is not what ADD made")
        .with_details(details.join("; ")))
}
