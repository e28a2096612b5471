//! `turnpike bw`: limits, rates and queues of this node's pods.

mod text;
mod top;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use turnpike_agent_api::{BwPod, BwReply, BwReport, BwRequest, Client, Reply, Request};

use crate::{Global, Output};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
const OTHER_RELEASE: &str = "turnpike-agent answered something else; install the same release of both";

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
    /// Hold a NodeBandwidth against the recorded history: who would have been held back, how often, by how much.
    Plan {
        /// The file; nothing is changed.
        #[arg(short, long)]
        file: PathBuf,
    },
    /// Put a NodeBandwidth in force on this node; it is taken back by itself unless it is confirmed in time.
    Apply {
        /// The file, with one NodeBandwidth.
        #[arg(short, long)]
        file: PathBuf,
        /// Time for `turnpike bw confirm`, like 60s or 5m; 0 applies it for good.
        #[arg(long, value_parser = seconds)]
        confirm: u64,
    },
    /// Let what is on trial stay.
    Confirm,
    /// Take what is on trial back now.
    Rollback,
}

/// `60s`, `5m`, `1h`, or plain seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no duration; write 60s, 5m or 1h");
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| wrong())?;
    let scale = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    number.checked_mul(scale).ok_or_else(wrong)
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
        BwCommand::Plan { file } => {
            let (file, yaml) = read(file)?;
            let reply = ask(socket, BwRequest::Plan { file, yaml })?;
            print_answer(global, &reply)?;
        }
        BwCommand::Apply { file, confirm } => {
            let (file, yaml) = read(file)?;
            let request = BwRequest::Apply { file, yaml, confirm_s: *confirm, who: who() };
            print_answer(global, &ask(socket, request)?)?;
        }
        BwCommand::Confirm => print_answer(global, &ask(socket, BwRequest::Confirm { who: who() })?)?,
        BwCommand::Rollback => print_answer(global, &ask(socket, BwRequest::RollBack { who: who() })?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_answer(global: &Global, reply: &BwReply) -> anyhow::Result<()> {
    match (global.output, reply) {
        (Output::Json, BwReply::Plan(plan)) => println!("{}", serde_json::to_string_pretty(plan)?),
        (Output::Json, BwReply::Trial(trial)) => println!("{}", serde_json::to_string_pretty(trial)?),
        (Output::Text, BwReply::Plan(plan)) => print!("{}", text::plan(plan)),
        (Output::Text, BwReply::Trial(trial)) => print!("{}", text::trial(trial)),
        (_, BwReply::Report(_)) => bail!(OTHER_RELEASE),
    }
    Ok(())
}

/// The file's name for messages, and its text; `-` is standard input.
fn read(file: &Path) -> anyhow::Result<(String, String)> {
    let name = file.display().to_string();
    let text =
        if name == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.with_context(|| format!("cannot read {name}"))?;
    Ok((name, text))
}

/// Who sits there, as far as the environment tells: the agent only knows that it is root.
fn who() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    name.unwrap_or_else(|| "root".to_owned())
}

fn report(socket: &Path) -> anyhow::Result<BwReport> {
    match ask(socket, BwRequest::Report)? {
        BwReply::Report(report) => Ok(report),
        BwReply::Plan(_) | BwReply::Trial(_) => bail!(OTHER_RELEASE),
    }
}

fn ask(socket: &Path, request: BwRequest) -> anyhow::Result<BwReply> {
    match Client::connect(socket)?.request(&Request::Bw(request), &[], TIMEOUT)? {
        Reply::Bw(reply) => Ok(*reply),
        Reply::Error(error) if error.details.is_empty() => bail!("{}", error.message),
        Reply::Error(error) => bail!("{}; {}", error.message, error.details),
        _ => bail!(OTHER_RELEASE),
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
