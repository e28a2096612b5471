//! ADD: an address, durable; then link, routes and limits, in force; then the reply.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use turnpike_agent_api::{AddReply, AddRequest, ErrorReply, code};
use turnpike_calc::{
    AskedAddresses, AskedLimits, AskedPort, IpamError, RuntimeBandwidth, WishError, asked_addresses,
    asked_limits, asked_ports,
};
use turnpike_dataplane::AttachReport;
use turnpike_model::desired::{EndpointId, HostPort};

use crate::agent::Agent;
use crate::books::{PodState, Refusal, Reservation, Wanted, host_link, is_damaged};
use crate::clock;
use crate::failpoint;
use crate::gates::{self, Mode};
use crate::store::{NetnsId, PodRecord};

use super::{dataplane_error, del, endpoint_id, missing_netns, plane_gone};

/// IPv4 gateway in every pod: its neighbour entry is permanent, so nobody needs to answer for it.
const GATEWAY_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);
/// IPv6 gateway in every pod: the link-local address of the host side's MAC address.
const GATEWAY_V6: std::net::Ipv6Addr =
    std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// Says that a pod's servers shall see load balancers' addresses.
const TOA_ANNOTATION: &str = "turnpike.io/toa";
/// Says that what a pod exchanges with load balancers shall be filtered and tracked.
const BYPASS_ANNOTATION: &str = "turnpike.io/lb-bypass";

/// Carries out ADD. Idempotent: a repeated ADD of the same container and namespace gets the same answer.
pub(super) fn add(
    agent: &Agent,
    request: AddRequest,
    netns: Option<OwnedFd>,
) -> Result<AddReply, ErrorReply> {
    let netns = netns.ok_or_else(missing_netns)?;
    let identity = identify(&netns)?;
    let asked = limits(&request)?;
    let wanted = Wanted {
        host_ports: host_ports(&request)?,
        addresses: addresses(&request)?,
        pod: request.pod.clone(),
    };
    let gate = gates::asked(&request.annotations)?;
    let balancer = Balancer {
        toa_off: is_off(&request, TOA_ANNOTATION, "for the load balancer's address")?,
        bypass_off: is_off(&request, BYPASS_ANNOTATION, "to keep load balancers' traffic in netfilter")?,
    };
    let asked = (asked, balancer, asked_mac(&request)?);
    let id = endpoint_id(&request.attachment);
    let _guard = agent.locks.lock(&id);
    del::execute_spooled(agent, &request.attachment);
    if is_removing(agent, &id) {
        del::remove(agent, &id)?;
    }
    clear_link_name(agent, &id)?;
    let door = netns.try_clone().map_err(|error| {
        ErrorReply::new(code::NETNS, format!("the network namespace is unusable: {error}"))
    })?;
    match existing(agent, &id) {
        Some(record) => {
            let reply = again(agent, &id, record.clone(), identity, netns)?;
            // Of what was told before nobody knows whether it was acknowledged: it is told again, if somebody waits.
            let waits = agent.config.gates.subscribers.mode != Mode::Off;
            pass_gates(agent, &record, gate, &door, waits)?;
            Ok(reply)
        }
        None => {
            let (record, reply) = fresh(agent, &id, &request, &wanted, asked, (identity, netns))?;
            if let Err(error) = pass_gates(agent, &record, gate, &door, true) {
                // The runtime begins anew, with another container.
                if let Err(error) = del::remove(agent, &id) {
                    agent.note_error(format!("take {} back", record.host_link), &error);
                }
                return Err(error);
            }
            Ok(reply)
        }
    }
}

/// The pod is attached and has not been started: what it shall wait for.
fn pass_gates(
    agent: &Agent,
    record: &PodRecord,
    gate: Mode,
    netns: &OwnedFd,
    tell: bool,
) -> Result<(), ErrorReply> {
    gates::gateway(agent, record, gate, netns)?;
    if !tell {
        return Ok(());
    }
    let node = agent.books().node().name.clone();
    let version = agent.events.assigned(&node, record);
    gates::subscribers(agent, record, version)
}

fn existing(agent: &Agent, id: &EndpointId) -> Option<PodRecord> {
    agent.books().pod(id).map(|entry| entry.record.clone())
}

/// A damaged record may stand for this very container: it makes room, for the runtime begins anew. Any other pod of
/// the same link name has the same hash by chance, and is left alone.
fn clear_link_name(agent: &Agent, id: &EndpointId) -> Result<(), ErrorReply> {
    let link = host_link(id);
    let holder = agent.books().by_host_link(&link).filter(|holder| *holder != id).cloned();
    match holder {
        None => Ok(()),
        Some(holder) if is_damaged(&holder) => del::remove(agent, &holder),
        Some(holder) => {
            let message = format!("the link name {link} belongs to container {}", holder.container_id);
            Err(ErrorReply::new(code::ALREADY_ATTACHED, message)
                .with_details("start the pod again: it gets another ID"))
        }
    }
}

fn is_removing(agent: &Agent, id: &EndpointId) -> bool {
    agent.books().pod(id).is_some_and(|entry| entry.state == PodState::Removing)
}

fn fresh(
    agent: &Agent,
    id: &EndpointId,
    request: &AddRequest,
    wanted: &Wanted,
    (asked, balancer, mac): (AskedLimits, Balancer, Option<[u8; 6]>),
    (identity, netns): (NetnsId, OwnedFd),
) -> Result<(PodRecord, AddReply), ErrorReply> {
    let link = host_link(id);
    let mtu = agent.health().mtu;
    let created = agent.stamp();
    let draft = |leases| PodRecord {
        format: PodRecord::FORMAT,
        attachment: request.attachment.clone(),
        network: request.network.clone(),
        pod: request.pod.clone(),
        host_link: link,
        leases,
        mtu,
        asked,
        host_ports: Vec::new(),
        toa_off: balancer.toa_off,
        bypass_off: balancer.bypass_off,
        mac,
        netns_path: request.netns_path.clone(),
        netns: identity,
        created,
        released: None,
        unused: false,
    };
    let Reservation { record, obsolete } =
        agent.books().reserve(id, wanted, clock::now(), draft).map_err(no_place)?;
    failpoint::reach("add-reserved");
    if let Err(error) = agent.persist(&record) {
        agent.books().release(id, &record, clock::now());
        return Err(error);
    }
    failpoint::reach("add-stored");
    let report = match attach(agent, id, &record, netns) {
        Ok(report) => report,
        Err(error) => {
            roll_back(agent, id, record);
            return Err(error);
        }
    };
    failpoint::reach("add-attached");
    forget(agent, &obsolete);
    if !report.problems.is_empty() || agent.stands_out(&record) {
        agent.changed();
    }
    tracing::info!(
        container = id.container_id,
        pod = request.pod.name,
        namespace = request.pod.namespace,
        addresses = ?record.addresses(),
        link = record.host_link,
        "pod attached"
    );
    let reply = reply(&record, &report);
    Ok((record, reply))
}

/// The runtime, or turnpike-cni after a lost reply, asks once more: same namespace, same answer.
fn again(
    agent: &Agent,
    id: &EndpointId,
    mut record: PodRecord,
    identity: NetnsId,
    netns: OwnedFd,
) -> Result<AddReply, ErrorReply> {
    let same_namespace = record.netns == identity && record.created.boot_id == agent.boot_id;
    if !same_namespace {
        if crate::keeper::link_exists(&record.host_link) {
            let message = format!(
                "{} of container {} is attached already, in another network namespace ({})",
                id.ifname, id.container_id, record.netns_path
            );
            return Err(ErrorReply::new(code::ALREADY_ATTACHED, message)
                .with_details(format!("its host link {} is alive; DEL it first", record.host_link)));
        }
        record.netns = identity;
        record.created = agent.stamp();
        agent.persist(&record)?;
        if let Some(entry) = agent.books().pod_mut(id) {
            entry.record = record.clone();
        }
    }
    tracing::info!(container = id.container_id, link = record.host_link, "ADD repeated");
    let report = attach(agent, id, &record, netns)?;
    agent.changed();
    Ok(reply(&record, &report))
}

fn attach(
    agent: &Agent,
    id: &EndpointId,
    record: &PodRecord,
    netns: OwnedFd,
) -> Result<AttachReport, ErrorReply> {
    let endpoint = agent.books().endpoint(record);
    let started = Instant::now();
    let (waited, attached) = agent
        .plane()?
        .call(move |dataplane| (started.elapsed(), dataplane.attach(&endpoint, netns.as_fd())))
        .map_err(plane_gone)?;
    tracing::debug!(link = record.host_link, ?waited, total = ?started.elapsed(), "data plane done");
    let attached = attached.map_err(|error| dataplane_error(&error))?;
    for problem in &attached.problems {
        tracing::warn!(link = record.host_link, subject = problem.subject, "{}", problem.message);
    }
    if let Some(entry) = agent.books().pod_mut(id) {
        entry.state = PodState::Ready;
        entry.missing_since = None;
    }
    Ok(attached)
}

/// The addresses were durable, and no packet bore them.
fn roll_back(agent: &Agent, id: &EndpointId, mut record: PodRecord) {
    record.released = Some(agent.stamp());
    record.unused = true;
    if let Err(error) = agent.persist(&record) {
        // The books on disk still hold the addresses: so do those in memory, until the keeper succeeds.
        tracing::error!(
            link = record.host_link,
            "addresses of a failed ADD stay reserved: {}",
            error.message
        );
        if let Some(entry) = agent.books().pod_mut(id) {
            entry.state = PodState::Removing;
        }
        return;
    }
    agent.books().release(id, &record, clock::now());
    agent.changed();
}

/// Removes records that the new one makes superfluous. A file that stays is only untidy.
fn forget(agent: &Agent, obsolete: &[String]) {
    for file in obsolete {
        if let Err(error) = agent.store.remove(file) {
            tracing::warn!(file, %error, "a superfluous record cannot be removed");
        }
    }
    agent.books().forget(obsolete);
}

fn reply(record: &PodRecord, report: &AttachReport) -> AddReply {
    let addresses = record.addresses();
    let gateways = addresses
        .iter()
        .map(|address| if address.is_ipv6() { GATEWAY_V6.into() } else { GATEWAY_V4.into() })
        .collect();
    AddReply {
        host_link: record.host_link.clone(),
        host_mac: mac(report.host_mac),
        pod_mac: mac(report.pod_mac),
        mtu: report.mtu,
        addresses,
        gateways,
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn limits(request: &AddRequest) -> Result<AskedLimits, ErrorReply> {
    let runtime = request.bandwidth.map(|bandwidth| RuntimeBandwidth {
        ingress_rate: bandwidth.ingress_rate,
        egress_rate: bandwidth.egress_rate,
    });
    asked_limits(&request.annotations, runtime).map_err(|error| {
        ErrorReply::new(code::INVALID_CONFIG, format!("the bandwidth asked for is unusable: {error}"))
    })
}

fn host_ports(request: &AddRequest) -> Result<Vec<HostPort>, ErrorReply> {
    let asked = request.port_mappings.iter().map(|port| AskedPort {
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: &port.protocol,
        host_ip: &port.host_ip,
    });
    asked_ports(asked).map_err(|error| {
        ErrorReply::new(code::INVALID_CONFIG, format!("the host ports asked for are unusable: {error}"))
    })
}

fn addresses(request: &AddRequest) -> Result<AskedAddresses, ErrorReply> {
    asked_addresses(&request.annotations, &request.ips).map_err(|error| {
        ErrorReply::new(code::INVALID_CONFIG, format!("the addresses asked for are unusable: {error}"))
    })
}

/// The MAC address that the runtime asks for: six bytes in hexadecimal, of one interface, not zero.
fn asked_mac(request: &AddRequest) -> Result<Option<[u8; 6]>, ErrorReply> {
    let Some(text) = request.mac.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let refuse = |why: &str| {
        Err(ErrorReply::new(code::INVALID_CONFIG, format!("the MAC address `{text}` {why}")).with_details(
            "write it like 02:00:5e:10:00:01, or leave it out: then the pod gets one of its own",
        ))
    };
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).map(|part| u8::from_str_radix(part, 16));
        let Some(Ok(value)) = part else { return refuse("is not six bytes in hexadecimal") };
        *byte = value;
    }
    match mac {
        _ if parts.next().is_some() => refuse("is not six bytes in hexadecimal"),
        [0, 0, 0, 0, 0, 0] => refuse("is zero"),
        [first, ..] if first & 1 != 0 => refuse("is a group's (multicast or broadcast)"),
        [0xee, 0xee, 0xee, 0xee, 0xee, 0xee] => refuse("is the node's own end of the link"),
        _ => Ok(Some(mac)),
    }
}

/// What the pod's author wants none of.
#[derive(Clone, Copy)]
struct Balancer {
    toa_off: bool,
    bypass_off: bool,
}

/// Whether the pod's author switches something off; `purpose` says what for.
fn is_off(request: &AddRequest, annotation: &str, purpose: &str) -> Result<bool, ErrorReply> {
    match request.annotations.get(annotation).map(String::as_str) {
        None | Some("on") => Ok(false),
        Some("off") => Ok(true),
        Some(other) => {
            let message = format!("the annotation {annotation} is `{other}`");
            Err(ErrorReply::new(code::INVALID_CONFIG, message)
                .with_details(format!("write \"off\" {purpose}, or leave it out")))
        }
    }
}

fn no_place(refusal: Refusal) -> ErrorReply {
    let (code, remedy) = match &refusal {
        Refusal::Address(IpamError::AlreadyHeld(_)) => (code::ALREADY_ATTACHED, ""),
        Refusal::Address(IpamError::NotHere(_)) => (
            code::ADDRESS_TAKEN,
            "`turnpike why ADDRESS` says whose block it is in; a fixed address ties the pod to that block's node",
        ),
        Refusal::Address(IpamError::Resting { .. }) => {
            (code::TRY_AGAIN, "wait, or: turnpike ipam release ADDRESS")
        }
        Refusal::AddressTaken { .. } => {
            (code::ADDRESS_TAKEN, "ask for another address, or end the other pod first")
        }
        Refusal::Wish(WishError::NotGranted { .. }) => {
            (code::INVALID_CONFIG, "add it to spec.reservations of its IPPool, with this namespace")
        }
        Refusal::Wish(_) => (code::INVALID_CONFIG, ""),
        Refusal::Address(_) => (
            code::EXHAUSTED,
            "`turnpike status` shows pools and blocks; add an IPBlock for this node to get more",
        ),
        Refusal::PortTaken { .. } => {
            (code::PORT_TAKEN, "choose another hostPort or hostIP, or end the other pod first")
        }
        Refusal::NoFamily { .. } => (code::INVALID_CONFIG, "leave hostIP out, or add a pool of that family"),
    };
    ErrorReply::new(code, refusal.to_string()).with_details(remedy)
}

/// Which namespace this is; the host's own is refused, whoever opened it.
fn identify(netns: &OwnedFd) -> Result<NetnsId, ErrorReply> {
    let unusable = |error: std::io::Error| {
        ErrorReply::new(code::NETNS, format!("the network namespace is unusable: {error}"))
    };
    let theirs = netns.try_clone().and_then(|file| File::from(file).metadata()).map_err(unusable)?;
    let ours = std::fs::metadata("/proc/self/ns/net").map_err(unusable)?;
    let identity = NetnsId { dev: theirs.dev(), ino: theirs.ino() };
    if (ours.dev(), ours.ino()) == (identity.dev, identity.ino) {
        return Err(ErrorReply::new(code::NETNS, "the network namespace is the host's own"));
    }
    Ok(identity)
}
