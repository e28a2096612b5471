//! `turnpike trace`: one packet's way through this node, by the programs, maps and routes that are in force.
//!
//! Foreign firewalls are not asked: they are named by `turnpike doctor`.

mod steps;

use std::net::IpAddr;

use turnpike_agent_api::{ErrorReply, PlannedRoute, TraceReport, TraceRequest, TraceWay, code};
use turnpike_dataplane::{Dataplane, TracePacket, TraceTransport};
use turnpike_model::desired::DesiredState;

use crate::agent::Agent;
use crate::plane::Owner as _;

/// What the steps look at: the pod, and what is in force.
struct Scene {
    pod: String,
    host_link: String,
    desired: DesiredState,
    /// Names of the pods of this node by address.
    pods: std::collections::BTreeMap<IpAddr, String>,
    node: String,
}

/// Carries out `turnpike trace`.
pub(crate) fn trace(agent: &Agent, request: &TraceRequest) -> Result<TraceReport, ErrorReply> {
    let transport = |answer| match request.protocol.as_str() {
        "tcp" => Ok(TraceTransport::Tcp { answer }),
        "udp" => Ok(TraceTransport::Udp),
        "icmp" => Ok(TraceTransport::Icmp { answer }),
        other => Err(ErrorReply::new(code::INVALID_CONFIG, format!("`{other}` is no protocol to trace"))
            .with_details("tcp, udp or icmp")),
    };
    let (first, second) = (transport(false)?, transport(true)?);
    let entry = crate::lb::find_pod(agent, &request.pod)?;
    let family = |address: &IpAddr| address.is_ipv4() == request.peer.is_ipv4();
    let own = entry.record.addresses().into_iter().find(family).ok_or_else(|| {
        ErrorReply::new(code::INVALID_CONFIG, format!("the pod has no address of {}'s family", request.peer))
    })?;
    if request.source.is_some_and(|source| !family(&source)) {
        return Err(ErrorReply::new(code::INVALID_CONFIG, "the source is of another family than the peer"));
    }
    let scene = scene(agent, &entry.record.name(), &entry.record.host_link);
    let out = |from_server: bool, transport| TracePacket {
        source: request.source.unwrap_or(own),
        destination: request.peer,
        source_port: if from_server { request.port } else { request.client_port },
        destination_port: if from_server { request.client_port } else { request.port },
        transport,
    };
    let inwards = TracePacket {
        source: request.peer,
        destination: own,
        source_port: request.client_port,
        destination_port: request.port,
        transport: first,
    };
    let reverse = request.reverse;
    let (outwards, pod) = (if reverse { out(true, second) } else { out(false, first) }, scene.pod.clone());
    let follow = move |plane: &mut Dataplane| -> Vec<TraceWay> {
        let mut ways = Vec::new();
        if reverse {
            ways.push(steps::towards_pod(plane, &scene, &inwards));
        }
        ways.push(steps::from_pod(plane, &scene, &outwards));
        ways
    };
    let gone = |_| ErrorReply::new(code::TRY_AGAIN, "turnpike-agent is ending, try again later");
    Ok(TraceReport { pod, ways: agent.plane()?.call(follow).map_err(gone)? })
}

fn scene(agent: &Agent, pod: &str, host_link: &str) -> Scene {
    let desired = agent.desired();
    let books = agent.books();
    let names = books.pods().values().flat_map(|entry| {
        let name = entry.record.name();
        entry.record.addresses().into_iter().map(move |address| (address, name.clone()))
    });
    Scene {
        pod: pod.to_owned(),
        host_link: host_link.to_owned(),
        desired,
        pods: names.collect(),
        node: books.node().name.clone(),
    }
}

/// Every block and its node, in order of prefix.
pub(crate) fn routes(agent: &Agent) -> Vec<PlannedRoute> {
    let books = agent.books();
    let mut blocks: Vec<_> = books.resources().blocks.values().collect();
    blocks.sort_by_key(|block| block.cidr);
    let planned = blocks.into_iter().map(|block| PlannedRoute {
        prefix: block.cidr.to_string(),
        node: block.node.clone(),
        pool: block.pool.clone(),
    });
    planned.collect()
}
