//! Asking turnpike-agent, and showing what it answers.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use turnpike_agent_api::{Client, IpamReply, IpamRequest, Reply, Request, StatusReport};

use crate::Output;

/// Longest wait for an answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// One question about addresses or pods.
pub(crate) fn ask(socket: &Path, request: IpamRequest) -> Result<IpamReply> {
    match Client::connect(socket)?.request(&Request::Ipam(request), &[], TIMEOUT)? {
        Reply::Ipam(reply) => Ok(*reply),
        Reply::Error(error) if error.details.is_empty() => Err(error.into()),
        Reply::Error(error) => bail!("{error}; {}", error.details),
        _ => bail!("turnpike-agent answered something else; install the same release of both"),
    }
}

/// The agent's whole status.
pub(crate) fn status(socket: &Path) -> Result<StatusReport> {
    match Client::connect(socket)?.request(&Request::Status, &[], TIMEOUT)? {
        Reply::Status(report) => Ok(*report),
        Reply::Error(error) => Err(error.into()),
        _ => bail!("turnpike-agent answered something else; install the same release of both"),
    }
}

/// Prints for people or for programs.
pub(crate) fn show<T: Serialize>(output: Output, value: &T, render: impl FnOnce(&T) -> String) -> Result<()> {
    let text = match output {
        Output::Text => render(value),
        Output::Json => serde_json::to_string_pretty(value)? + "\n",
    };
    print(&text)
}

/// Prints; a reader of a pipe who has seen enough is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("cannot write the answer"),
    }
}
