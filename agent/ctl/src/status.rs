//! `turnpike status`: the node in one screen.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use turnpike_agent_api::{Client as AgentClient, Health, Reply, Request, StatusReport};
use turnpike_bgpd_api::view::{PeerView, StatusView};
use turnpike_bgpd_api::{Client as BgpdClient, ClientError as BgpdError};

use crate::{Global, Output};

mod text;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Both daemons' answers, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct NodeStatus {
    agent: Option<StatusReport>,
    agent_error: Option<String>,
    bgpd: Option<BgpdStatus>,
    bgpd_error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct BgpdStatus {
    #[serde(flatten)]
    daemon: StatusView,
    peer_list: Vec<PeerView>,
}

/// Carries out `turnpike status`. It fails when the agent cannot do its work.
pub(crate) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let (agent, agent_error) = split(ask_agent(&global.agent_socket));
    let (bgpd, bgpd_error) = split(ask_bgpd(&global.bgpd_socket));
    let status = NodeStatus { agent, agent_error, bgpd, bgpd_error };
    match global.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Text => print!("{}", text::render(&status)),
    }
    let ready = status.agent.is_some_and(|agent| agent.health == Health::Ready);
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn split<T, E: std::fmt::Display>(answer: Result<T, E>) -> (Option<T>, Option<String>) {
    match answer {
        Ok(answer) => (Some(answer), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

fn ask_agent(socket: &Path) -> anyhow::Result<StatusReport> {
    match AgentClient::connect(socket)?.request(&Request::Status, &[], TIMEOUT) {
        Ok(Reply::Status(report)) => Ok(*report),
        Ok(Reply::Error(error)) => Err(error.into()),
        Ok(_) => anyhow::bail!("turnpike-agent answered something else; install the same release of both"),
        Err(error) => Err(error.into()),
    }
}

fn ask_bgpd(socket: &Path) -> Result<BgpdStatus, BgpdError> {
    let mut client = BgpdClient::connect(socket, TIMEOUT)?;
    Ok(BgpdStatus { daemon: client.status()?, peer_list: client.peers(None)? })
}
