//! `turnpike ipam check`: do memory, disk and kernel say the same?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use turnpike_agent_api::{IpamFinding, IpamReply};
use turnpike_calc::Known;

use crate::agent::Agent;
use crate::books::{Books, PodState, endpoint_id};
use crate::clock;
use crate::keeper;
use crate::store::PodRecord;

/// Compares all three. Read only.
pub(super) fn check(agent: &Agent) -> IpamReply {
    let mut findings = Vec::new();
    let on_disk = disk(agent, &mut findings);
    let links = keeper::links();
    let books = agent.books();
    memory(&books, &mut findings);
    pods(&books, &on_disk, &links, &mut findings);
    strays(&books, &on_disk, &links, &mut findings);
    let looked_at = books.pods().len() + books.ipam().known(clock::now()).count();
    IpamReply::Findings { findings, looked_at }
}

fn finding(subject: impl Into<String>, message: impl Into<String>, remedy: &str) -> IpamFinding {
    IpamFinding { subject: subject.into(), message: message.into(), remedy: remedy.to_owned() }
}

fn disk(agent: &Agent, findings: &mut Vec<IpamFinding>) -> BTreeMap<String, PodRecord> {
    let loaded = match agent.store.peek() {
        Ok(loaded) => loaded,
        Err(error) => {
            let message = format!("the books on disk cannot be read: {error}");
            let remedy = "look at the disk: space, mount options, errors";
            findings.push(finding("store", message, remedy));
            return BTreeMap::new();
        }
    };
    for corrupt in loaded.corrupt {
        findings.push(finding(
            corrupt.path.display().to_string(),
            format!("the record is damaged: {}", corrupt.message),
            "recreate the pod; its address stays out of use until then",
        ));
    }
    let live = loaded.records.into_iter().filter(|record| record.released.is_none());
    live.map(|record| (record.file_name(), record)).collect()
}

/// Addresses held by nobody that the books know.
fn memory(books: &Books, findings: &mut Vec<IpamFinding>) {
    for (address, _, known) in books.ipam().known(clock::now()) {
        let Known::Held(owner) = known else { continue };
        let listed = books.pod(owner).is_some_and(|entry| entry.record.addresses().contains(&address));
        if !listed {
            let message = format!("it is held by container {}, which is in no book", owner.container_id);
            findings.push(finding(address.to_string(), message, "restart turnpike-agent, and report this"));
        }
        if books.block_of(address).is_none() {
            findings.push(finding(
                address.to_string(),
                "it is in use, but lies in no IPBlock of this node",
                "restore the IPBlock, or recreate the pod",
            ));
        }
    }
}

fn pods(
    books: &Books,
    on_disk: &BTreeMap<String, PodRecord>,
    links: &BTreeSet<String>,
    findings: &mut Vec<IpamFinding>,
) {
    let mut seen: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (id, entry) in books.pods() {
        let (record, name) = (&entry.record, entry.record.name());
        for address in record.addresses() {
            if let Some(other) = seen.insert(address, name.clone()) {
                let message = format!("{address} is in the books of {other}, too");
                findings.push(finding(&name, message, "recreate both pods"));
            }
            if books.ipam().holder(address) != Some(id) {
                let message = format!("{address} is not its own in the address table");
                findings.push(finding(&name, message, "recreate the pod"));
            }
        }
        // Between its ADD and its end a pod may be in one place only.
        if entry.state != PodState::Ready {
            continue;
        }
        if on_disk.get(&record.file_name()).is_none_or(|stored| stored.leases != record.leases) {
            let message = "its record on disk is missing or differs";
            findings.push(finding(&name, message, "recreate the pod; a restart would forget its address"));
        }
        if !links.contains(&record.host_link) {
            let message = format!("its link {} is not there", record.host_link);
            findings.push(finding(&name, message, "recreate the pod, or: turnpike ipam gc"));
        }
    }
}

/// Links and records of pods that are in no book.
fn strays(
    books: &Books,
    on_disk: &BTreeMap<String, PodRecord>,
    links: &BTreeSet<String>,
    findings: &mut Vec<IpamFinding>,
) {
    let known: BTreeSet<&str> = books.pods().values().map(|entry| entry.record.host_link.as_str()).collect();
    let ours = |link: &&String| link.starts_with("tpk") && !link.starts_with("tpki");
    for link in links.iter().filter(ours).filter(|link| !known.contains(link.as_str())) {
        let message = "a link of ours that no pod has";
        findings.push(finding(link, message, "the agent removes it with its next look, within 30 s"));
    }
    for (file, record) in on_disk {
        if books.pod(&endpoint_id(record)).is_none() {
            let message = "a live record that the agent does not know";
            findings.push(finding(file, message, "restart turnpike-agent"));
        }
    }
}
