//! `turnpike why POD|IP`: one pod or address, in plain words: the agent's books, the kernel, and bgpd's announcements.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use turnpike_agent_api::{Explanation, Fact, IpamReply, IpamRequest};
use turnpike_bgpd_api::{Client, ClientError, RibQuery, Select, Table};

use crate::Global;
use crate::agent::{ask, show};
use crate::pods::pod_name;
use crate::table::duration;

/// Longest wait for bgpd.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct Why {
    #[serde(flatten)]
    agent: Explanation,
    bgp: Vec<Fact>,
}

/// Carries out `turnpike why`. It fails where something is not as it should be.
pub(crate) fn run(global: &Global, subject: &str) -> Result<ExitCode> {
    let request = IpamRequest::Explain { subject: subject.to_owned() };
    let IpamReply::Explained(agent) = ask(&global.agent_socket, request)? else {
        bail!("turnpike-agent answered something else; install the same release of both");
    };
    let bgp = agent.addresses.iter().map(|address| announced(global, *address)).collect();
    let why = Why { agent: *agent, bgp };
    show(global.output, &why, render)?;
    let good = why.agent.facts.iter().chain(&why.bgp).all(|fact| fact.good);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What bgpd says of the block around an address.
fn announced(global: &Global, address: IpAddr) -> Fact {
    let fact = |good: bool, text: String| Fact { about: "announced".to_owned(), text, good };
    match ask_bgpd(global, address) {
        Ok(Some((prefix, _, peers))) if peers.is_empty() => fact(
            false,
            format!("{address} is in {prefix}, which bgpd tells NO peer; look at: turnpike bgp peers"),
        ),
        Ok(Some((prefix, true, peers))) => {
            fact(true, format!("{address} is in our {prefix}, announced to {}", peers.join(", ")))
        }
        Ok(Some((prefix, false, peers))) => fact(
            true,
            format!("{address} is in {prefix}, learned from BGP and passed on to {}", peers.join(", ")),
        ),
        Ok(None) => {
            fact(false, format!("bgpd knows no path to {address}: nobody outside this node is told of it"))
        }
        // A node without bgpd announces by other means, or by none.
        Err(error) => fact(true, format!("bgpd was not asked: {error}")),
    }
}

/// Prefix, whether it is our own, and the peers that are told of it.
fn ask_bgpd(global: &Global, address: IpAddr) -> Result<Option<(String, bool, Vec<String>)>, ClientError> {
    let mut client = Client::connect(&global.bgpd_socket, TIMEOUT)?;
    let decision = client.why(Select::Longest(address))?;
    let Some(prefix) = decision.prefix else { return Ok(None) };
    let own = decision.paths.iter().any(|path| path.from.is_none());
    let mut told = Vec::new();
    for peer in client.peers(None)? {
        let table = Table::Out(peer.address.to_string());
        let query = RibQuery { table, select: Select::Exact(prefix), after: None, limit: 1 };
        if client.rib(query).is_ok_and(|paths| !paths.is_empty()) {
            told.push(format!("{} ({})", peer.name, peer.address));
        }
    }
    Ok(Some((prefix.to_string(), own, told)))
}

fn render(why: &Why) -> String {
    let agent = &why.agent;
    let mut text = match &agent.pod {
        Some(pod) => format!(
            "pod {} on node {}: {}, container {}, since {}\n",
            pod_name(&pod.pod, &pod.attachment),
            agent.node,
            pod.state,
            pod.attachment.container_id,
            duration(pod.age_s)
        ),
        None => format!("{} seen from node {}\n", agent.subject, agent.node),
    };
    for fact in agent.facts.iter().chain(&why.bgp) {
        let mark = if fact.good { "  " } else { "! " };
        text.push_str(&format!("{mark}{:13} {}\n", fact.about, fact.text));
    }
    for error in &agent.last_errors {
        let ago = duration(error.age_s);
        text.push_str(&format!("! {:13} {}: {} ({ago} ago)\n", "last error", error.subject, error.message));
    }
    text
}
