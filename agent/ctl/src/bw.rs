//! `turnpike bw`: limits, rates and queues of this node's pods.

mod text;
mod top;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use turnpike_agent_api::{BwPod, BwReply, BwReport, BwRequest, Client, Reply, Request};

use crate::{Global, Output};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What can be asked about bandwidth.
#[derive(Debug, Subcommand)]
pub(crate) enum BwCommand {
    /// One pod: its limits, which source decided each, rates and queues.
    Show {
        /// The pod's name, namespace/name, address, container ID (or its beginning) or host link.
        pod: String,
    },
    /// All pods and the uplinks, live; q ends it.
    Top {
        /// Print it once and end. Also where the output is no terminal, and with -o json.
        #[arg(long)]
        once: bool,
    },
}

/// Carries out `turnpike bw …`.
pub(crate) fn run(global: &Global, command: &BwCommand) -> anyhow::Result<ExitCode> {
    let socket = &global.agent_socket;
    match command {
        BwCommand::Show { pod } => {
            let report = report(socket)?;
            let pod = find(&report, pod)?;
            match global.output {
                Output::Json => println!("{}", serde_json::to_string_pretty(pod)?),
                Output::Text => print!("{}", text::show(pod)),
            }
        }
        BwCommand::Top { once } => match global.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&report(socket)?)?),
            Output::Text if *once || !top::is_terminal() => print!("{}", text::top(&report(socket)?)),
            Output::Text => top::run(|| report(socket))?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn report(socket: &Path) -> anyhow::Result<BwReport> {
    match ask(socket, BwRequest::Report)? {
        BwReply::Report(report) => Ok(report),
    }
}

fn ask(socket: &Path, request: BwRequest) -> anyhow::Result<BwReply> {
    match Client::connect(socket)?.request(&Request::Bw(request), &[], TIMEOUT)? {
        Reply::Bw(reply) => Ok(*reply),
        Reply::Error(error) if error.details.is_empty() => bail!("{}", error.message),
        Reply::Error(error) => bail!("{}; {}", error.message, error.details),
        _ => bail!("turnpike-agent answered something else; install the same release of both"),
    }
}

/// The one pod that is meant.
fn find<'a>(report: &'a BwReport, wanted: &str) -> anyhow::Result<&'a BwPod> {
    let found: Vec<&BwPod> = report.pods.iter().filter(|pod| is_meant(pod, wanted)).collect();
    match found.as_slice() {
        [pod] => Ok(pod),
        [] => bail!("no pod of node {} is called {wanted}; `turnpike bw top --once` lists them", report.node),
        several => {
            let names: Vec<String> = several.iter().map(|pod| text::name(pod)).collect();
            bail!("{wanted} may be any of: {}; give the namespace, too, or an address", names.join(", "))
        }
    }
}

fn is_meant(pod: &BwPod, wanted: &str) -> bool {
    /// Of a container ID at least so many characters, or half a cluster would be meant.
    const LEAST_ID: usize = 6;
    let name = pod.pod.name.as_deref().unwrap_or_default();
    let container = &pod.attachment.container_id;
    (!name.is_empty() && (name == wanted || text::name(pod) == wanted))
        || pod.host_link == wanted
        || pod.addresses.iter().any(|address| address.to_string() == wanted)
        || container == wanted
        || (wanted.len() >= LEAST_ID && container.starts_with(wanted))
}

#[cfg(test)]
mod tests;
