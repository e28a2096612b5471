//! The requests of the socket, one function each. They block; each runs on a thread of its own.

mod add;
mod check;
mod del;
mod gc;

use std::os::fd::OwnedFd;
use std::time::Instant;

use turnpike_agent_api::{Attachment, ErrorReply, Reply, Request, code};
use turnpike_dataplane::DataplaneError;
use turnpike_model::desired::EndpointId;

use crate::agent::Agent;

pub(crate) use del::{execute_spool, remove};

/// Answers one request. `netns` is the open file that came with it, if any.
pub(crate) fn answer(agent: &Agent, request: Request, netns: Option<OwnedFd>) -> Reply {
    let started = Instant::now();
    let (verb, what) = describe(&request);
    let result = match request {
        Request::Add(request) => add::add(agent, *request, netns).map(Reply::Added),
        Request::Del(request) => del::del(agent, &request).map(|()| Reply::Done),
        Request::Check(request) => check::check(agent, &request, netns).map(|()| Reply::Done),
        Request::Events { .. } => Err(ErrorReply::new(code::PROTOCOL, "events are a stream, not an answer")),
        Request::Acknowledge { subscriber, version } => agent
            .events
            .acknowledge(&subscriber, version)
            .map(|()| crate::holds::acknowledged(agent))
            .map(|()| Reply::Done)
            .map_err(|message| ErrorReply::new(code::PROTOCOL, message)),
        Request::Ready => agent.ready().map(|()| Reply::Done),
        Request::Gc(request) => gc::gc(agent, &request).map(|()| Reply::Done),
        Request::Ipam(request) => {
            crate::ipam::answer(agent, request).map(|reply| Reply::Ipam(Box::new(reply)))
        }
        Request::Status => Ok(Reply::Status(Box::new(crate::status::report(agent)))),
        Request::Bw(request) => {
            crate::bandwidth::answer(agent, &request).map(|reply| Reply::Bw(Box::new(reply)))
        }
        Request::LbFlows => crate::lb::flows(agent).map(|report| Reply::LbFlows(Box::new(report))),
        Request::ToaCheck(request) => {
            crate::lb::toa_check(agent, &request).map(|report| Reply::Toa(Box::new(report)))
        }
        Request::Trace(request) => {
            crate::trace::trace(agent, &request).map(|report| Reply::Trace(Box::new(report)))
        }
        Request::Routes => Ok(Reply::Routes { routes: crate::trace::routes(agent) }),
        Request::Conntrack => Ok(Reply::Conntrack(Box::new(crate::lb::conntrack(agent)))),
    };
    agent.metrics.request(verb, result.is_ok(), started.elapsed());
    match result {
        Ok(reply) => {
            tracing::debug!(verb, what, took = ?started.elapsed(), "done");
            reply
        }
        Err(error) if verb == "STATUS" => {
            // Asked every few seconds, and its reason stands in the status anyway.
            tracing::debug!(verb, code = error.code, "{}", error.message);
            Reply::Error(error)
        }
        Err(error) => {
            tracing::warn!(verb, what, code = error.code, details = error.details, "{}", error.message);
            agent.note_error(format!("{verb} {what}").trim().to_owned(), &error);
            Reply::Error(error)
        }
    }
}

fn describe(request: &Request) -> (&'static str, String) {
    let name = |attachment: &Attachment| format!("{}/{}", attachment.container_id, attachment.ifname);
    match request {
        Request::Add(request) => ("ADD", name(&request.attachment)),
        Request::Del(request) => ("DEL", name(&request.attachment)),
        Request::Check(request) => ("CHECK", name(&request.attachment)),
        Request::Ready => ("STATUS", String::new()),
        Request::Gc(request) => ("GC", request.network.clone()),
        Request::Status => ("status", String::new()),
        Request::Bw(_) => ("bw", String::new()),
        Request::Events { .. } => ("events", String::new()),
        Request::Acknowledge { subscriber, .. } => ("acknowledge", subscriber.clone()),
        Request::Ipam(request) => ("ipam", crate::ipam::describe(request)),
        Request::LbFlows => ("lb flows", String::new()),
        Request::ToaCheck(request) => ("toa check", request.pod.clone()),
        Request::Trace(request) => ("trace", request.pod.clone()),
        Request::Routes => ("routes", String::new()),
        Request::Conntrack => ("conntrack", String::new()),
    }
}

fn endpoint_id(attachment: &Attachment) -> EndpointId {
    EndpointId { container_id: attachment.container_id.clone(), ifname: attachment.ifname.clone() }
}

fn plane_gone(_: crate::plane::PlaneGone) -> ErrorReply {
    ErrorReply::new(code::TRY_AGAIN, "turnpike-agent is ending, try again later")
}

fn missing_netns() -> ErrorReply {
    ErrorReply::new(code::PROTOCOL, "the request came without a network namespace")
}

/// The CNI code of a data plane's refusal.
fn dataplane_error(error: &DataplaneError) -> ErrorReply {
    let code = match error {
        DataplaneError::HostNetns | DataplaneError::EnterNetns(_) => code::NETNS,
        DataplaneError::PodLinkExists { .. } => code::ALREADY_ATTACHED,
        DataplaneError::BadEndpoint { .. } => code::INVALID_CONFIG,
        _ => code::DATAPLANE,
    };
    let mut details = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        details = error.to_string();
        cause = error.source();
    }
    ErrorReply::new(code, format!("the pod's link cannot be made: {error}")).with_details(details)
}
