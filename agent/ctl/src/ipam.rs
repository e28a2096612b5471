//! `turnpike ipam`: addresses of this node.

use std::io::BufRead;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use turnpike_agent_api::{
    AddressStatus, Client, Collected, IpamBook, IpamFinding, IpamReply, IpamRequest, Reply, Request,
};

use crate::Global;
use crate::agent::{TIMEOUT, ask, print, show};
use crate::pods::pod_name;
use crate::table::{duration, table};

/// What can be asked and done about addresses.
#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// Pools, blocks, and every address that was ever handed out, with its holder or its rest.
    Show,
    /// Compare the agent's memory, its books on disk and the kernel. Fails if they differ.
    Check,
    /// Give up pods that are dead by the kernel's word: link gone, earlier boot, DEL not finished.
    Gc {
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Who has which address and, with --watch, who gets and gives back one, as JSON lines.
    Events {
        /// Stay, and hear of each change.
        #[arg(long)]
        watch: bool,
        /// Go on behind this resourceVersion instead of beginning with the list.
        #[arg(long)]
        since: Option<u64>,
    },
    /// Say that a subscriber has acted upon every event up to a resourceVersion; an ADD may be waiting for it.
    Acknowledge {
        /// Who, as `gates.subscribers.names` in agent.toml has it.
        subscriber: String,
        /// Up to where.
        version: u64,
    },
    /// Free one address: end its rest, or give up the dead pod that holds it. A living pod keeps its own.
    Release {
        /// Which.
        address: IpAddr,
    },
}

/// Carries out `turnpike ipam …`.
pub(crate) fn run(global: &Global, command: &IpamCommand) -> Result<ExitCode> {
    let request = match command {
        IpamCommand::Show => IpamRequest::Show,
        IpamCommand::Check => IpamRequest::Check,
        IpamCommand::Gc { dry_run } => IpamRequest::Gc { dry_run: *dry_run },
        IpamCommand::Acknowledge { subscriber, version } => {
            return acknowledge(global, subscriber, *version);
        }
        IpamCommand::Events { watch, since } => return events(global, *since, *watch),
        IpamCommand::Release { address } => IpamRequest::Release { address: *address },
    };
    match ask(&global.agent_socket, request)? {
        IpamReply::Book(book) => show(global.output, &book, render_book)?,
        IpamReply::Findings { findings, looked_at } => {
            show(global.output, &findings, |findings| render_findings(findings, looked_at))?;
            return Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        IpamReply::Collected { pods } => show(global.output, &pods, |pods| render_collected(pods))?,
        IpamReply::Done { message } => show(global.output, &message, |message| format!("{message}\n"))?,
        IpamReply::Explained(_) => bail!("turnpike-agent answered something else"),
    }
    Ok(ExitCode::SUCCESS)
}

fn acknowledge(global: &Global, subscriber: &str, version: u64) -> Result<ExitCode> {
    let request = Request::Acknowledge { subscriber: subscriber.to_owned(), version };
    match Client::connect(&global.agent_socket)?.request(&request, &[], TIMEOUT)? {
        Reply::Done => Ok(ExitCode::SUCCESS),
        Reply::Error(error) => Err(error.into()),
        _ => bail!("turnpike-agent answered something else; install the same release of both"),
    }
}

/// Copies the stream, line by line, until either side ends.
fn events(global: &Global, since: Option<u64>, watch: bool) -> Result<ExitCode> {
    let stream = Client::connect(&global.agent_socket)?.events(since, watch)?;
    for line in stream.lines() {
        print(&format!("{}\n", line?))?;
    }
    // A watched stream ends with the agent, or because what was asked for is too old.
    Ok(if watch { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn render_book(book: &IpamBook) -> String {
    let used = |used: u64, total: u64| format!("{used}/{total}");
    let pools: Vec<_> = book
        .pools
        .iter()
        .map(|pool| {
            let (used, resting) = (used(pool.used, pool.total), pool.cooling.to_string());
            [pool.name.clone(), pool.cidr.clone(), pool.state.clone(), used, resting]
        })
        .collect();
    let blocks: Vec<_> = book
        .blocks
        .iter()
        .map(|block| {
            let (used, resting) = (used(block.used, block.total), block.cooling.to_string());
            [block.cidr.clone(), block.pool.clone(), used, resting]
        })
        .collect();
    let addresses: Vec<_> = book.addresses.iter().map(address).collect();
    format!(
        "node {}\n\npools\n{}\nblocks\n{}\naddresses ({})\n{}",
        book.node,
        table(["NAME", "CIDR", "STATE", "USED HERE", "RESTING"], &pools),
        table(["CIDR", "POOL", "USED", "RESTING"], &blocks),
        addresses.len(),
        table(["ADDRESS", "STATE", "HANDED OUT", "POD", "BLOCK"], &addresses),
    )
}

fn address(address: &AddressStatus) -> [String; 5] {
    let state = match address.rests_s {
        // In cooldown it rests; held back for its subscribers it is unacknowledged, for so long at most.
        Some(seconds) if address.state == "resting" => format!("rests {}", duration(seconds)),
        Some(seconds) => format!("{} {}", address.state, duration(seconds)),
        None => address.state.clone(),
    };
    let pod = address.holder.as_ref().map(|holder| pod_name(&address.pod, holder)).unwrap_or_default();
    let block = address.block.clone().unwrap_or_else(|| "none".to_owned());
    [address.address.to_string(), state, format!("{}x", address.generation), pod, block]
}

fn render_findings(findings: &[IpamFinding], looked_at: usize) -> String {
    if findings.is_empty() {
        return format!("good: books, disk and kernel agree ({looked_at} pods and addresses looked at)\n");
    }
    findings
        .iter()
        .map(|finding| format!("BAD {}: {}; {}\n", finding.subject, finding.message, finding.remedy))
        .collect()
}

fn render_collected(pods: &[Collected]) -> String {
    if pods.is_empty() {
        return "nothing to reclaim: every pod's link is there\n".to_owned();
    }
    let rows: Vec<_> = pods
        .iter()
        .map(|pod| {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            [pod.pod.clone(), addresses.join(","), pod.reason.clone(), pod.outcome.clone()]
        })
        .collect();
    table(["POD", "ADDRESSES", "WHY", "OUTCOME"], &rows)
}

#[cfg(test)]
mod tests {
    use turnpike_agent_api::{Attachment, BlockStatus, PodInfo, PoolStatus};

    use super::*;

    #[test]
    fn the_books_fit_on_a_screen() {
        let holder = Attachment { container_id: "0123456789abcdef".into(), ifname: "eth0".into() };
        let pod = PodInfo { namespace: Some("shop".into()), name: Some("web".into()), uid: None };
        let blank = AddressStatus {
            address: "10.244.1.2".parse().unwrap(),
            state: "held".into(),
            generation: 2,
            block: Some("10.244.1.0/26".into()),
            holder: Some(holder),
            pod,
            rests_s: None,
        };
        let resting = AddressStatus {
            address: "10.244.1.3".parse().unwrap(),
            state: "resting".into(),
            holder: None,
            rests_s: Some(75),
            block: None,
            ..blank.clone()
        };
        let book = IpamBook {
            node: "n1".into(),
            pools: vec![PoolStatus {
                name: "v4".into(),
                cidr: "10.244.0.0/16".into(),
                state: "Active".into(),
                used: 1,
                cooling: 1,
                total: 62,
            }],
            blocks: vec![BlockStatus {
                cidr: "10.244.1.0/26".into(),
                pool: "v4".into(),
                used: 1,
                cooling: 1,
                total: 62,
            }],
            addresses: vec![blank, resting],
        };
        let wanted = "\
node n1

pools
  NAME  CIDR           STATE   USED HERE  RESTING
  v4    10.244.0.0/16  Active  1/62       1

blocks
  CIDR           POOL  USED  RESTING
  10.244.1.0/26  v4    1/62  1

addresses (2)
  ADDRESS     STATE        HANDED OUT  POD       BLOCK
  10.244.1.2  held         2x          shop/web  10.244.1.0/26
  10.244.1.3  rests 1m15s  2x                    none
";
        assert_eq!(render_book(&book), wanted);
    }
}
