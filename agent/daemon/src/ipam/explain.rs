//! `turnpike why POD|IP`: all that the agent knows of one pod or address, in plain words.

use std::net::IpAddr;

use turnpike_agent_api::{ErrorReply, Explanation, Fact, code};
use turnpike_calc::Known;
use turnpike_model::desired::{BitsPerSecond, DesiredState, EndpointId, HostPort, LbSource, Protocol};

use crate::agent::Agent;
use crate::books::{Books, PodEntry};
use crate::clock;
use crate::keeper::link_exists;
use crate::status;

/// Explains a pod (`namespace/name`, name, container ID or its beginning) or an address.
pub(super) fn explain(agent: &Agent, subject: &str) -> Result<Explanation, ErrorReply> {
    let found = find(&agent.books(), subject)?;
    let node = agent.books().node().name.clone();
    let mut explanation = Explanation {
        node,
        subject: subject.to_owned(),
        pod: None,
        facts: Vec::new(),
        addresses: Vec::new(),
        last_errors: Vec::new(),
    };
    match found {
        Found::Pod(id) => pod(agent, &id, &mut explanation),
        Found::Address(address) => {
            explanation.facts = address_facts(&agent.books(), address);
            explanation.addresses.push(address);
        }
    }
    let report = status::report(agent);
    let about_it = |text: &str| {
        let container = explanation.pod.as_ref().map(|pod| pod.attachment.container_id.as_str());
        container.is_some_and(|id| text.contains(id))
            || explanation.pod.as_ref().is_some_and(|pod| text.contains(&pod.host_link))
            || explanation.addresses.iter().any(|address| names(text, *address))
    };
    let problems =
        report.problems.iter().filter(|problem| about_it(&problem.subject) || about_it(&problem.message));
    let problems: Vec<Fact> =
        problems.map(|problem| bad("problem", format!("{}: {}", problem.subject, problem.message))).collect();
    let errors = report.last_errors.into_iter();
    explanation.last_errors =
        errors.filter(|error| about_it(&error.subject) || about_it(&error.message)).collect();
    explanation.facts.extend(problems);
    Ok(explanation)
}

enum Found {
    Pod(EndpointId),
    Address(IpAddr),
}

fn find(books: &Books, subject: &str) -> Result<Found, ErrorReply> {
    if let Ok(address) = subject.parse() {
        let holder = books.ipam().holder(address).cloned();
        return Ok(holder.filter(|id| books.pod(id).is_some()).map_or(Found::Address(address), Found::Pod));
    }
    let matches: Vec<&EndpointId> = books
        .pods()
        .iter()
        .filter(|(id, entry)| {
            let named = entry.record.pod.name.as_deref() == Some(subject);
            named || entry.record.name() == subject || id.container_id.starts_with(subject)
        })
        .map(|(id, _)| id)
        .collect();
    match matches.as_slice() {
        [one] => Ok(Found::Pod((*one).clone())),
        [] => Err(ErrorReply::new(
            code::UNKNOWN_CONTAINER,
            format!("no pod of node {} is called `{subject}`", books.node().name),
        )
        .with_details("`turnpike pods` lists them; ask on the node that the pod runs on")),
        several => Err(ErrorReply::new(
            code::UNKNOWN_CONTAINER,
            format!("{} pods of this node are called `{subject}`", several.len()),
        )
        .with_details("write namespace/name, or more of the container ID")),
    }
}

fn names(text: &str, address: IpAddr) -> bool {
    let address = address.to_string();
    text.split(|c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':')).any(|word| word == address)
}

fn good(about: &str, text: impl Into<String>) -> Fact {
    Fact { about: about.to_owned(), text: text.into(), good: true }
}

fn bad(about: &str, text: impl Into<String>) -> Fact {
    Fact { about: about.to_owned(), text: text.into(), good: false }
}

fn pod(agent: &Agent, id: &EndpointId, explanation: &mut Explanation) {
    let report = status::report(agent);
    explanation.pod = report
        .pods
        .into_iter()
        .find(|pod| pod.attachment.container_id == id.container_id && pod.attachment.ifname == id.ifname);
    let (entry, desired, ours) = {
        let books = agent.books();
        let Some(entry) = books.pod(id).cloned() else { return };
        let ours: Vec<Fact> =
            entry.record.addresses().iter().flat_map(|address| address_facts(&books, *address)).collect();
        (entry, books.node_state().desired, ours)
    };
    explanation.addresses = entry.record.addresses();
    explanation.facts.extend(ours);
    explanation.facts.extend(kernel(agent, &entry));
    explanation.facts.extend(limits(agent, &entry, &desired));
    explanation.facts.extend(entry.record.host_ports.iter().map(|port| good("host port", port_words(port))));
    explanation.facts.extend(load_balancers(&entry, &desired));
    explanation.facts.extend(masquerade(&entry, &desired));
}

/// Where an address comes from, and who has it.
fn address_facts(books: &Books, address: IpAddr) -> Vec<Fact> {
    let known = books.ipam().known(clock::now()).find(|(known, _, _)| *known == address);
    let mut facts = vec![match known {
        Some((_, generation, Known::Held(owner))) => {
            let name = books.pod(owner).map(|entry| entry.record.name()).unwrap_or_default();
            good("address", format!("{address} belongs to pod {name}; it was handed out {generation} times"))
        }
        Some((_, _, Known::Resting(left))) => {
            let text =
                format!("{address} rests for {} s more before another pod gets it", left.as_secs() + 1);
            good("address", text)
        }
        Some((_, _, Known::Unheard(left))) => {
            let seconds = left.as_secs() + 1;
            good(
                "address",
                format!("{address} waits for subscribers to acknowledge its release, {seconds} s at most"),
            )
        }
        Some((_, _, Known::Rested)) => {
            good("address", format!("{address} is free; a pod of this node had it"))
        }
        None => good("address", format!("{address} was never handed out on this node")),
    }];
    facts.push(block_fact(books, address));
    facts
}

fn block_fact(books: &Books, address: IpAddr) -> Fact {
    let resources = books.resources();
    let block = resources.blocks.iter().find(|(_, block)| block.cidr.holds(address));
    let pool = resources.pools.iter().find(|(_, pool)| pool.cidr.holds(address));
    match (block, pool) {
        (Some((name, block)), _) => {
            let state = resources.pools.get(&block.pool).map(|pool| format!("{:?}", pool.state));
            let state = state.unwrap_or_else(|| "missing".to_owned());
            let text = format!(
                "IPBlock/{name} {} of pool {} ({state}) belongs to node {}",
                block.cidr, block.pool, block.node
            );
            if block.node == books.node().name {
                good("block", text)
            } else {
                bad("block", text + ", not to this one")
            }
        }
        (None, Some((name, pool))) => {
            bad("block", format!("pool {name} ({}) has it, but no node owns a block with it", pool.cidr))
        }
        (None, None) => bad("block", "no pool has it: it is no pod address of this cluster"),
    }
}

fn kernel(agent: &Agent, entry: &PodEntry) -> Vec<Fact> {
    let link = &entry.record.host_link;
    let mut facts = vec![if link_exists(link) {
        good("link", format!("{link} is there, MTU {}", entry.record.mtu))
    } else {
        bad("link", format!("{link} is NOT there: the pod has no network; delete it so that it is made anew"))
    }];
    let addresses = entry.record.addresses();
    let asked = addresses.clone();
    let holders = agent.plane().ok().and_then(|plane| {
        plane.call(move |dataplane| asked.iter().map(|ip| dataplane.routed_to(*ip)).collect::<Vec<_>>()).ok()
    });
    for (address, holder) in addresses.iter().zip(holders.unwrap_or_default()) {
        facts.push(match holder {
            Some(name) if name == *link => good("route", format!("the node routes {address} to {link}")),
            Some(name) => bad("route", format!("the node routes {address} to {name}, not to {link}")),
            None => bad("route", format!("the node has NO route of its own to {address}")),
        });
    }
    facts
}

fn limits(agent: &Agent, entry: &PodEntry, desired: &DesiredState) -> Vec<Fact> {
    let Some(endpoint) = desired.endpoints.get(&super::super::books::endpoint_id(&entry.record)) else {
        return Vec::new();
    };
    let wanted = endpoint.clone();
    let in_force = agent.plane().ok().and_then(|plane| {
        plane.call(move |dataplane| dataplane.limits_in_force(&wanted).ok()).ok().flatten()
    });
    let asked = &entry.record.asked;
    [
        (
            "receives",
            asked.to_workload,
            endpoint.limits.to_workload,
            in_force.as_ref().map(|found| found.to_workload),
        ),
        (
            "sends",
            asked.from_workload,
            endpoint.limits.from_workload,
            in_force.as_ref().map(|found| found.from_workload),
        ),
    ]
    .into_iter()
    .map(|(verb, asked, granted, found)| limit_fact(verb, asked, granted, found.flatten()))
    .collect()
}

fn limit_fact(
    verb: &str,
    asked: Option<BitsPerSecond>,
    granted: Option<BitsPerSecond>,
    found: Option<BitsPerSecond>,
) -> Fact {
    let Some(rate) = granted else { return good("limit", format!("it {verb} without a limit")) };
    let why = match asked {
        Some(asked) if asked == rate => "as it asks".to_owned(),
        Some(asked) => {
            format!("it asks for {} bit/s and may have less; `turnpike bw show` names who decides", asked.0)
        }
        None => "the node's default or ceiling".to_owned(),
    };
    let text = format!("it {verb} at most {} bit/s: {why}", rate.0);
    if found == granted { good("limit", text) } else { bad("limit", text + "; it is NOT in force") }
}

fn port_words(port: &HostPort) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let place = port.host_ip.map_or_else(|| "every address of the node".to_owned(), |ip| ip.to_string());
    format!("{protocol} port {} at {place} leads to its port {}", port.host_port, port.container_port)
}

fn load_balancers(entry: &PodEntry, desired: &DesiredState) -> Vec<Fact> {
    let record = &entry.record;
    let namespace = record.pod.namespace.as_deref().unwrap_or_default();
    let words = |(name, source): (&String, &LbSource)| {
        if !source.is_for(namespace) {
            let text = format!("{name} is not for namespace `{namespace}`: through conntrack, no TOA");
            return good("load balancer", text);
        }
        let ranges: Vec<String> = source.cidrs.iter().map(ToString::to_string).collect();
        let way = match (source.bypass, record.bypass_off) {
            (true, false) => "past conntrack",
            (true, true) => "through conntrack, as its annotation turnpike.io/lb-bypass asks",
            (false, _) => "through conntrack",
        };
        let toa = if source.toa.is_some() && !record.toa_off {
            ", the client's address is taken from TOA"
        } else {
            ""
        };
        let uoa = if source.uoa && !record.toa_off { ", that of UDP sessions from UOA" } else { "" };
        let ports: Vec<String> =
            source.ports.iter().map(|port| format!("{:?} {}", port.protocol, port.port)).collect();
        let ports = if ports.is_empty() { "every TCP port".to_owned() } else { ports.join(", ") };
        good("load balancer", format!("{name}: from {} to {ports} goes {way}{toa}{uoa}", ranges.join(", ")))
    };
    desired.lb_sources.iter().map(words).collect()
}

fn masquerade(entry: &PodEntry, desired: &DesiredState) -> Vec<Fact> {
    let addresses = entry.record.addresses();
    let concerned = desired.masquerade.iter().filter(|rule| {
        rule.sources.iter().any(|source| addresses.iter().any(|address| source.contains(*address)))
    });
    concerned
        .map(|rule| {
            let except: Vec<String> = rule.except_to.iter().map(ToString::to_string).collect();
            good(
                "masquerade",
                format!("towards {} it shows its own address, beyond them the node's", except.join(", ")),
            )
        })
        .collect()
}
