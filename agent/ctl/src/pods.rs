//! `turnpike pods`: the pods of this node.

use std::process::ExitCode;

use anyhow::Result;
use turnpike_agent_api::{Attachment, PodInfo, PodStatus};

use crate::Global;
use crate::agent::{show, status};
use crate::table::{duration, rate, table};

/// Carries out `turnpike pods`.
pub(crate) fn run(global: &Global) -> Result<ExitCode> {
    show(global.output, &status(&global.agent_socket)?.pods, |pods| render(pods))?;
    Ok(ExitCode::SUCCESS)
}

/// Namespace and name where known, else the beginning of the container ID.
pub(crate) fn pod_name(pod: &PodInfo, attachment: &Attachment) -> String {
    match (&pod.namespace, &pod.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => attachment.container_id.chars().take(12).collect(),
    }
}

fn render(pods: &[PodStatus]) -> String {
    if pods.is_empty() {
        return "no pod has an address on this node\n".to_owned();
    }
    let rows: Vec<_> = pods
        .iter()
        .map(|pod| {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            [
                pod_name(&pod.pod, &pod.attachment),
                addresses.join(","),
                pod.host_link.clone(),
                rate(pod.to_workload),
                rate(pod.from_workload),
                if pod.host_ports.is_empty() { "-".to_owned() } else { pod.host_ports.join(",") },
                pod.state.clone(),
                duration(pod.age_s),
                pod.attachment.container_id.chars().take(12).collect(),
            ]
        })
        .collect();
    let heading =
        ["POD", "ADDRESSES", "LINK", "INGRESS", "EGRESS", "HOST PORTS", "STATE", "AGE", "CONTAINER"];
    table(heading, &rows)
}
