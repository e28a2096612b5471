//! What operators ask about addresses and do to them: `turnpike ipam`, `turnpike pool`, `turnpike why`.
//!
//! Nothing here touches an address that a living pod has. What changes something is written to the audit log first.

mod check;
mod collect;
mod explain;

use std::net::IpAddr;

use turnpike_agent_api::{AddressStatus, ErrorReply, IpamBook, IpamReply, IpamRequest, code};
use turnpike_calc::Known;

use crate::agent::Agent;
use crate::clock;
use crate::source;
use crate::status;
use crate::verbs;

/// Answers one request.
pub(crate) fn answer(agent: &Agent, request: IpamRequest) -> Result<IpamReply, ErrorReply> {
    match request {
        IpamRequest::Show => Ok(IpamReply::Book(book(agent))),
        IpamRequest::Check => Ok(check::check(agent)),
        IpamRequest::Gc { dry_run } => Ok(IpamReply::Collected { pods: collect::collect(agent, dry_run) }),
        IpamRequest::Release { address } => {
            release(agent, address).map(|message| IpamReply::Done { message })
        }
        IpamRequest::SetPoolState { pool, state, force } => {
            source::set_pool_state(agent, &pool, &state, force).map(|message| IpamReply::Done { message })
        }
        IpamRequest::Explain { subject } => {
            explain::explain(agent, &subject).map(|explanation| IpamReply::Explained(Box::new(explanation)))
        }
    }
}

/// For people who read logs.
pub(crate) fn describe(request: &IpamRequest) -> String {
    match request {
        IpamRequest::Show => "show".to_owned(),
        IpamRequest::Check => "check".to_owned(),
        IpamRequest::Gc { dry_run } => format!("gc dry_run={dry_run}"),
        IpamRequest::Release { address } => format!("release {address}"),
        IpamRequest::SetPoolState { pool, state, .. } => format!("pool {pool} {state}"),
        IpamRequest::Explain { subject } => format!("why {subject}"),
    }
}

fn book(agent: &Agent) -> IpamBook {
    let report = status::report(agent);
    let now = clock::now();
    let books = agent.books();
    let addresses = books
        .ipam()
        .known(now)
        .map(|(address, generation, known)| {
            let block = books.block_of(address).map(|block| block.prefix.to_string());
            let blank = AddressStatus {
                address,
                state: "free".to_owned(),
                generation,
                block,
                holder: None,
                pod: turnpike_agent_api::PodInfo::default(),
                rests_s: None,
            };
            match known {
                Known::Held(owner) => {
                    let record = books.pod(owner).map(|entry| &entry.record);
                    AddressStatus {
                        state: "held".to_owned(),
                        holder: Some(turnpike_agent_api::Attachment {
                            container_id: owner.container_id.clone(),
                            ifname: owner.ifname.clone(),
                        }),
                        pod: record.map(|record| record.pod.clone()).unwrap_or_default(),
                        ..blank
                    }
                }
                Known::Resting(left) => {
                    AddressStatus { state: "resting".to_owned(), rests_s: Some(left.as_secs() + 1), ..blank }
                }
                Known::Unheard(left) => AddressStatus {
                    state: "unacknowledged".to_owned(),
                    rests_s: Some(left.as_secs() + 1),
                    ..blank
                },
                Known::Rested => blank,
            }
        })
        .collect();
    IpamBook { node: report.node, pools: report.pools, blocks: report.blocks, addresses }
}

/// Frees an address by an operator's word: one that rests may be handed out at once, one of a dead pod goes with all
/// that is left of it. A living pod keeps its own.
fn release(agent: &Agent, address: IpAddr) -> Result<String, ErrorReply> {
    let refuse = |message: String, remedy: &str| {
        Err(ErrorReply::new(code::INVALID_CONFIG, message).with_details(remedy))
    };
    let Some(id) = agent.books().ipam().holder(address).cloned() else {
        return end_rest(agent, address);
    };
    let _guard = agent.locks.lock(&id);
    let Some((name, link)) =
        agent.books().pod(&id).map(|entry| (entry.record.name(), entry.record.host_link.clone()))
    else {
        return refuse(format!("{address} is being given up already"), "look again: turnpike ipam show");
    };
    if crate::keeper::link_exists(&link) {
        let message = format!("{address} belongs to pod {name}, whose link {link} is alive");
        return refuse(message, "delete the pod; its address is free then, after its rest");
    }
    agent.audit("ipam release", &format!("{address} held by {name}"), "released")?;
    verbs::remove(agent, &id)?;
    Ok(format!("{address} of dead pod {name} is released; it rests before another pod gets it"))
}

fn end_rest(agent: &Agent, address: IpAddr) -> Result<String, ErrorReply> {
    let file = agent.books().resting_record(address, clock::now());
    let Some(file) = file else {
        let message = format!("{address} is neither held nor resting: there is nothing to release");
        return Err(ErrorReply::new(code::INVALID_CONFIG, message)
            .with_details("turnpike ipam show lists every address that was ever handed out"));
    };
    agent.audit("ipam release", &format!("{address} resting"), "free at once")?;
    let mut record = agent.store.read(&file).map_err(|error| {
        ErrorReply::new(code::STORE, format!("the record {file} cannot be read: {error}"))
    })?;
    for lease in record.leases.iter_mut().filter(|lease| lease.address == address) {
        lease.rested = true;
    }
    agent.persist(&record)?;
    agent.books().end_rest(address);
    Ok(format!("{address} may be handed out at once"))
}
