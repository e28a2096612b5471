//! turnpike-cni: what the container runtime starts for every pod.
//!
//! Owns nothing and decides nothing: it parses the runtime's call (environment and stdin), makes one request to
//! turnpike-agent, and prints the answer in the caller's dialect (CNI specification 0.3.0 to 1.1.0). It opens the
//! pod's network namespace itself and passes the open file. While the agent is down ADD waits a little and DEL is
//! spooled to disk, so a pod's end never depends on the agent.

mod config;
mod environment;
mod error;
mod result;
mod verbs;
mod version;

use std::io::{Read, Write};
use std::process::ExitCode;

use turnpike_agent_api::code;

use crate::environment::{Command, Environment};
use crate::error::CniError;
use crate::version::CniVersion;

/// Longest stdin that is read: annotations of a pod are at most 256 KiB.
const MAX_STDIN: u64 = 8 << 20;

fn main() -> ExitCode {
    let environment = Environment::from_process();
    let (output, exit) = match run(&environment) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err((version, error)) => (Some(error.to_json(version)), ExitCode::FAILURE),
    };
    let mut stdout = std::io::stdout();
    match output.map(|json| writeln!(stdout, "{json}")) {
        None | Some(Ok(())) => exit,
        Some(Err(_)) => ExitCode::FAILURE,
    }
}

/// What to print on success; an error comes with the version in whose dialect it is to be told.
fn run(environment: &Environment) -> Result<Option<serde_json::Value>, (CniVersion, CniError)> {
    let latest = CniVersion::LATEST;
    let command = environment.command().map_err(|error| (latest, error))?;
    if command == Command::Version {
        return Ok(Some(version::report()));
    }
    let stdin = read_stdin().map_err(|error| (latest, error))?;
    let config = config::NetConf::parse(&stdin).map_err(|error| (latest, error))?;
    let version = config.version().map_err(|error| (latest, error))?;
    verbs::execute(command, environment, &config, version).map_err(|error| (version, error))
}

fn read_stdin() -> Result<Vec<u8>, CniError> {
    let mut stdin = Vec::new();
    std::io::stdin()
        .take(MAX_STDIN + 1)
        .read_to_end(&mut stdin)
        .map_err(|error| CniError::new(code::IO, "cannot read stdin", error.to_string()))?;
    if stdin.len() as u64 > MAX_STDIN {
        return Err(CniError::new(code::DECODE, "stdin is too long", format!("more than {MAX_STDIN} bytes")));
    }
    Ok(stdin)
}
