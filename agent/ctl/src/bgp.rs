//! `turnpike bgp …`: asks turnpike-bgpd and shows the answer, as a table for people or as JSON.

mod audit;
mod bfd;
mod change;
mod check;
mod decision;
mod diff;
mod drain;
mod mrt;
mod operate;
mod peers;
mod policy;
mod rib;
mod status;
mod text;
mod watch;

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use turnpike_bgpd_api::bfd::show_bfd;
use turnpike_bgpd_api::{Client, Family, Prefix, Request, RibQuery, Select, Table};

use crate::{Global, Output};

/// How long bgpd may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Subcommands of `turnpike bgp`.
#[derive(Debug, Subcommand)]
pub(crate) enum BgpCommand {
    /// The daemon on one screen: configuration, sessions, next hops, kernel, mistakes.
    Status,
    /// BFD sessions, one a line. Asks turnpike-bfdd, which answers while turnpike-bgpd is away too.
    Bfd {
        /// turnpike-bfdd's socket.
        #[arg(long, default_value = turnpike_bgpd_api::bfd::DEFAULT_BFD_SOCKET)]
        bfdd_socket: PathBuf,
    },
    /// All peers, one a line.
    Peers,
    /// Everything about one peer; or keep it down, or let it up again.
    Peer {
        /// Its name or address.
        peer: String,
        /// Keep it down until `--enable`, over restarts too.
        #[arg(long, conflicts_with = "enable")]
        shutdown: bool,
        /// Text for the peer's operators (RFC 9003).
        #[arg(long, requires = "shutdown", default_value = "", hide_default_value = true)]
        message: String,
        /// Let it up again.
        #[arg(long)]
        enable: bool,
    },
    /// Check a configuration file, without turnpike-bgpd: every mistake with line, field and remedy.
    Check {
        /// The file.
        #[arg(default_value = turnpike_bgpd_api::DEFAULT_CONFIG)]
        file: PathBuf,
    },
    /// What a configuration file would change: sessions, and prefixes of every table. Changes nothing.
    Diff {
        /// The file.
        file: PathBuf,
        /// At most so many prefixes per table; all are counted.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Put a file in the place of turnpike-bgpd's configuration file, and into force.
    Apply {
        /// The file.
        file: PathBuf,
        /// Roll back after this time (`60s`, `5m`) unless `turnpike bgp confirm` comes; a restart rolls back, too.
        #[arg(long, value_name = "TIME", value_parser = change::duration)]
        confirm: Option<Duration>,
    },
    /// What was applied stays.
    Confirm,
    /// What was applied and not confirmed goes, now.
    Rollback,
    /// Read the configuration file again, after saying which sessions that resets.
    Reload {
        /// Only say it.
        #[arg(long)]
        dry_run: bool,
    },
    /// The operators' last changes: who, what, when.
    Audit {
        /// So many.
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: usize,
    },
    /// Ask a peer for everything again and tell it everything again, without ending the session.
    SoftReset {
        /// Its name or address.
        peer: String,
        /// Only ask (route refresh).
        #[arg(long = "in", conflicts_with = "outbound")]
        inbound: bool,
        /// Only tell.
        #[arg(long = "out")]
        outbound: bool,
    },
    /// Originate a prefix, over restarts too, until `withdraw`.
    Announce(operate::Announcement),
    /// Stop what `announce` began.
    Withdraw {
        /// The prefix.
        prefix: Prefix,
    },
    /// Leave in order: GRACEFUL_SHUTDOWN on everything, wait, withdraw, end the sessions, end turnpike-bgpd.
    Drain(drain::DrainOrder),
    /// Table dumps in MRT format.
    #[command(subcommand)]
    Mrt(mrt::MrtCommand),
    /// What happens, a line each, as it happens: sessions, best paths, changes by operators.
    Watch,
    /// Policies.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Paths: of everything, of a prefix, or for an address (the most specific prefix that holds it).
    Rib {
        /// Prefix or address.
        destination: Option<Destination>,
        /// What this peer (name or address) announced to us.
        #[arg(long = "in", value_name = "PEER", conflicts_with = "sent_to")]
        received_from: Option<String>,
        /// What we announce to this peer (name or address).
        #[arg(long = "out", value_name = "PEER")]
        sent_to: Option<String>,
        /// The prefix and everything inside.
        #[arg(long, requires = "destination")]
        longer: bool,
        /// One family only.
        #[arg(long)]
        family: Option<FamilyArg>,
        /// At most so many paths.
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// End turnpike-bgpd for good: peers are told and drop our paths, kernel routes go. For an upgrade send SIGTERM.
    Shutdown {
        /// Text for the peers' operators.
        #[arg(long, default_value = "", hide_default_value = true)]
        message: String,
    },
    /// Why a destination is routed as it is: all paths and where each one lost, next hops, kernel.
    Why {
        /// Prefix or address.
        destination: Destination,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FamilyArg {
    Ipv4,
    Ipv6,
}

impl From<FamilyArg> for Family {
    fn from(family: FamilyArg) -> Self {
        match family {
            FamilyArg::Ipv4 => Self::Ipv4,
            FamilyArg::Ipv6 => Self::Ipv6,
        }
    }
}

/// A prefix, or an address that some prefix holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    Prefix(Prefix),
    Address(IpAddr),
}

impl std::str::FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) => text.parse().map(Self::Prefix).map_err(|error| error.to_string()),
        }
    }
}

impl Destination {
    fn select(self, longer: bool) -> Select {
        match self {
            Self::Prefix(prefix) if longer => Select::Within(prefix),
            Self::Prefix(prefix) => Select::Exact(prefix),
            Self::Address(address) => Select::Longest(address),
        }
    }
}

/// Runs `turnpike bgp`.
pub(crate) fn run(global: &Global, command: &BgpCommand) -> Result<ExitCode> {
    let client = || Client::connect(&global.bgpd_socket, PATIENCE);
    match command {
        BgpCommand::Status => show(global.output, &client()?.status()?, status::render),
        BgpCommand::Peers => show(global.output, &client()?.peers(None)?, |peers| peers::list(peers)),
        BgpCommand::Peer { peer, shutdown: true, message, .. } => {
            operate::hold(global, &mut client()?, peer, Some(message))
        }
        BgpCommand::Peer { peer, enable: true, .. } => operate::hold(global, &mut client()?, peer, None),
        BgpCommand::Peer { peer, .. } => {
            let found = client()?.peers(Some(peer))?;
            let [view] = found.as_slice() else { bail!("there is no peer `{peer}`") };
            show(global.output, view, peers::detail)
        }
        BgpCommand::Shutdown { message } => {
            client()?.request(&Request::Shutdown { message: message.clone() })?;
            Ok(ExitCode::SUCCESS)
        }
        BgpCommand::Bfd { bfdd_socket } => {
            show(global.output, &show_bfd(bfdd_socket, PATIENCE)?, |sessions| bfd::render(sessions))
        }
        BgpCommand::Rib { .. } => show_rib(global, command, &mut client()?),
        BgpCommand::Why { destination } => {
            show(global.output, &client()?.why(destination.select(false))?, decision::render)
        }
        BgpCommand::Check { file } => check::run(global, file),
        BgpCommand::Diff { file, limit } => change::diff(global, &mut client()?, file, *limit),
        BgpCommand::Apply { file, confirm } => change::apply(global, &mut client()?, file, *confirm),
        BgpCommand::Confirm => change::finish(global, &mut client()?, &Request::Confirm),
        BgpCommand::Rollback => change::finish(global, &mut client()?, &Request::Rollback),
        BgpCommand::Reload { dry_run } => change::reload(global, &mut client()?, *dry_run),
        BgpCommand::Audit { limit } => audit::run(global, &mut client()?, *limit),
        BgpCommand::SoftReset { peer, inbound, outbound } => {
            operate::soft_reset(global, &mut client()?, peer, (*inbound, *outbound))
        }
        BgpCommand::Announce(announcement) => operate::announce(global, &mut client()?, announcement),
        BgpCommand::Withdraw { prefix } => operate::withdraw(global, &mut client()?, *prefix),
        BgpCommand::Drain(order) => drain::run(global, &mut client()?, order),
        BgpCommand::Mrt(mrt::MrtCommand::Dump { to }) => mrt::dump(global, &mut client()?, to.as_deref()),
        BgpCommand::Watch => watch::run(global, &mut client()?),
        BgpCommand::Policy(policy::PolicyCommand::Test(test)) => policy::run(global, &mut client()?, test),
    }
}

fn show_rib(global: &Global, command: &BgpCommand, client: &mut Client) -> Result<ExitCode> {
    let BgpCommand::Rib { destination, received_from, sent_to, longer, family, limit } = command else {
        return Ok(ExitCode::FAILURE);
    };
    let table = match (received_from, sent_to) {
        (Some(peer), _) => Table::In(peer.clone()),
        (None, Some(peer)) => Table::Out(peer.clone()),
        (None, None) => Table::Loc,
    };
    let selections: Vec<Select> = match (destination, family) {
        (Some(destination), _) => vec![destination.select(*longer)],
        (None, Some(family)) => vec![Select::Family((*family).into())],
        (None, None) => Family::ALL.into_iter().map(Select::Family).collect(),
    };
    let mut paths = Vec::new();
    for select in selections {
        let limit = limit.saturating_sub(paths.len());
        paths.extend(client.rib(RibQuery { table: table.clone(), select, after: None, limit })?);
    }
    show(global.output, &paths, |paths| rib::render(paths))
}

fn show<T: Serialize>(output: Output, value: &T, render: impl FnOnce(&T) -> String) -> Result<ExitCode> {
    let text = match output {
        Output::Text => render(value),
        Output::Json => serde_json::to_string_pretty(value)? + "\n",
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("cannot write the answer")?,
    }
    Ok(ExitCode::SUCCESS)
}
