//! `turnpike pool`: the life of a pool, Active → Draining → Retired.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use serde::Serialize;
use turnpike_agent_api::{AddressStatus, IpamBook, IpamReply, IpamRequest};

use crate::agent::{ask, print, show};
use crate::pods::pod_name;
use crate::table::table;
use crate::{Global, Output};

/// Between two looks at a draining pool.
const LOOK: Duration = Duration::from_secs(1);

/// What can be done with a pool.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Pools that this node may use, and how far they are used here.
    List,
    /// Give no more addresses out of the pool; its pods keep theirs. Writes the resource file.
    Drain {
        /// The pool.
        name: String,
        /// Stay, and show who still lives in it, until nobody does.
        #[arg(long)]
        watch: bool,
        /// Even if new pods of this node get no address of that family then.
        #[arg(long)]
        force: bool,
    },
    /// Give addresses out of the pool again. Writes the resource file.
    Activate {
        /// The pool.
        name: String,
    },
    /// As draining, and blocks without pods are no longer announced. Writes the resource file.
    Retire {
        /// The pool.
        name: String,
        /// Even if new pods of this node get no address of that family then.
        #[arg(long)]
        force: bool,
    },
}

/// Carries out `turnpike pool …`.
pub(crate) fn run(global: &Global, command: &PoolCommand) -> Result<ExitCode> {
    match command {
        PoolCommand::List => show(global.output, &book(global)?.pools, |pools| {
            let rows: Vec<_> = pools
                .iter()
                .map(|pool| {
                    let used = format!("{}/{}", pool.used, pool.total);
                    [pool.name.clone(), pool.cidr.clone(), pool.state.clone(), used, pool.cooling.to_string()]
                })
                .collect();
            table(["NAME", "CIDR", "STATE", "USED HERE", "RESTING"], &rows)
        })?,
        PoolCommand::Drain { name, watch, force } => {
            set_state(global, name, "Draining", *force)?;
            if *watch {
                follow(global, name)?;
            }
        }
        PoolCommand::Activate { name } => set_state(global, name, "Active", false)?,
        PoolCommand::Retire { name, force } => set_state(global, name, "Retired", *force)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn book(global: &Global) -> Result<IpamBook> {
    match ask(&global.agent_socket, IpamRequest::Show)? {
        IpamReply::Book(book) => Ok(book),
        _ => bail!("turnpike-agent answered something else; install the same release of both"),
    }
}

fn set_state(global: &Global, pool: &str, state: &str, force: bool) -> Result<()> {
    let request = IpamRequest::SetPoolState { pool: pool.to_owned(), state: state.to_owned(), force };
    match ask(&global.agent_socket, request)? {
        IpamReply::Done { message } if global.output == Output::Text => print(&format!("{message}\n")),
        _ => Ok(()),
    }
}

/// How far a pool has drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Progress {
    pool: String,
    state: String,
    /// Pods that live in it, with their addresses.
    pods: BTreeMap<String, Vec<String>>,
}

/// One line for each change, until the last pod is gone.
fn follow(global: &Global, pool: &str) -> Result<()> {
    let mut last = None;
    loop {
        let progress = progress(&book(global)?, pool)?;
        let done = progress.pods.is_empty();
        if last.as_ref() != Some(&progress) {
            match global.output {
                Output::Json => print(&format!("{}\n", serde_json::to_string(&progress)?))?,
                Output::Text => print(&render(&progress))?,
            }
            last = Some(progress);
        }
        if done {
            return Ok(());
        }
        sleep(LOOK);
    }
}

fn progress(book: &IpamBook, pool: &str) -> Result<Progress> {
    let Some(status) = book.pools.iter().find(|known| known.name == pool) else {
        bail!("node {} knows no pool {pool}", book.node);
    };
    let blocks: Vec<&str> =
        book.blocks.iter().filter(|block| block.pool == pool).map(|block| block.cidr.as_str()).collect();
    let lives_there =
        |address: &&AddressStatus| address.block.as_deref().is_some_and(|block| blocks.contains(&block));
    let mut pods: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for address in book.addresses.iter().filter(lives_there) {
        if let Some(holder) = &address.holder {
            pods.entry(pod_name(&address.pod, holder)).or_default().push(address.address.to_string());
        }
    }
    Ok(Progress { pool: pool.to_owned(), state: status.state.clone(), pods })
}

fn render(progress: &Progress) -> String {
    let Progress { pool, state, pods } = progress;
    if pods.is_empty() {
        return format!("pool {pool} is {state}, and no pod of this node lives in it any more\n");
    }
    let names: Vec<String> =
        pods.iter().take(5).map(|(pod, addresses)| format!("{pod} {}", addresses.join(","))).collect();
    let more = if pods.len() > 5 { ", …" } else { "" };
    format!(
        "pool {pool} is {state}: {} pods of this node live in it: {}{more}\n",
        pods.len(),
        names.join(", ")
    )
}
