//! `turnpike node`: what concerns the node as a whole.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::Subcommand;

/// What can be done with the node.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Remove everything of turnpike-agent's from this node: links, routes, nftables, eBPF, state. Pods lose their
    /// network; stop the agent first.
    Reset {
        /// The agent's configuration file.
        #[arg(long, default_value = "/etc/turnpike/agent.toml")]
        config: PathBuf,
    },
}

/// Carries out `turnpike node …`.
pub(crate) fn run(command: &NodeCommand) -> anyhow::Result<ExitCode> {
    match command {
        NodeCommand::Reset { config } => {
            let agent = agent_binary()?;
            let status = Command::new(&agent)
                .arg("--config")
                .arg(config)
                .arg("uninstall")
                .status()
                .with_context(|| format!("cannot run {}", agent.display()))?;
            Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// The agent beside this program, or the one that PATH leads to: only it knows what is its own.
fn agent_binary() -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe().context("cannot find myself")?.with_file_name("turnpike-agent");
    Ok(if beside.exists() { beside } else { PathBuf::from("turnpike-agent") })
}
