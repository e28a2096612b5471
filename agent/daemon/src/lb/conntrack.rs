//! The connection tracking table: how full, who fills it, what it refused.

use std::collections::BTreeMap;
use std::net::IpAddr;

use turnpike_agent_api::{ConntrackPod, ConntrackReport, PodInfo};
use turnpike_dataplane::{ConntrackByAddress, ConntrackUsage};

use crate::agent::Agent;

/// Entries read at the most to find the top pods: about 50 ms of work.
const BOUND: u64 = 200_000;
/// Pods listed.
const TOP: usize = 10;

/// Asks the kernel; on the caller's thread, for the data plane's has pods to attach.
pub(crate) fn report(agent: &Agent) -> ConntrackReport {
    let mut report = ConntrackReport::default();
    match ConntrackUsage::read() {
        Ok(usage) => {
            report.entries = usage.entries;
            report.max = usage.max;
            report.events = usage.events.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        }
        Err(error) => {
            report.error = Some(error);
            return report;
        }
    }
    let mut pods: Vec<ConntrackPod> = Vec::new();
    for entry in agent.books().pods().values() {
        pods.push(ConntrackPod {
            pod: entry.record.pod.clone(),
            container_id: entry.record.attachment.container_id.clone(),
            addresses: entry.record.addresses(),
            entries: 0,
        });
    }
    let addresses: Vec<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
    match ConntrackByAddress::read(&addresses, BOUND) {
        Ok(counted) => {
            report.read = counted.read;
            report.complete = counted.complete;
            report.pods = top(pods, &counted.entries);
        }
        Err(error) => report.error = Some(error),
    }
    report
}

fn top(mut pods: Vec<ConntrackPod>, counted: &BTreeMap<IpAddr, u64>) -> Vec<ConntrackPod> {
    for pod in &mut pods {
        pod.entries = pod.addresses.iter().filter_map(|address| counted.get(address)).sum();
    }
    pods.retain(|pod| pod.entries > 0);
    let name = |pod: &PodInfo| (pod.namespace.clone(), pod.name.clone());
    pods.sort_by_key(|one| (std::cmp::Reverse(one.entries), name(&one.pod)));
    pods.truncate(TOP);
    pods
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_pods_come_first_and_idle_ones_not_at_all() {
        let pod = |name: &str, address: &str| ConntrackPod {
            pod: PodInfo { name: Some(name.to_owned()), ..PodInfo::default() },
            container_id: name.to_owned(),
            addresses: vec![address.parse().unwrap()],
            entries: 0,
        };
        let pods = vec![pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), pod("c", "10.0.0.3")];
        let counted = BTreeMap::from([("10.0.0.1".parse().unwrap(), 3), ("10.0.0.2".parse().unwrap(), 9)]);
        let names: Vec<String> = top(pods, &counted).into_iter().map(|pod| pod.container_id).collect();
        assert_eq!(names, ["b", "a"]);
    }
}
