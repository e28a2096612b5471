//! turnpike: the command line for turnpike-agent and turnpike-bgpd. Owns nothing; asks their sockets.

mod bgp;
mod bw;
mod node;
mod status;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Shows and steers Turnpike on this node.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
struct Global {
    /// turnpike-agent's socket.
    #[arg(long, global = true, default_value = turnpike_agent_api::DEFAULT_SOCKET)]
    agent_socket: PathBuf,
    /// turnpike-bgpd's socket.
    #[arg(long, global = true, default_value = turnpike_bgpd_api::DEFAULT_SOCKET)]
    bgpd_socket: PathBuf,
    /// For people, or for programs.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// This node in one screen: agent, pools, pods, limits, peers, and what is wrong.
    Status,
    /// This node as a whole.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Bandwidth of pods and uplinks.
    #[command(subcommand)]
    Bw(bw::BwCommand),
    /// Ask turnpike-bgpd: peers, paths, decisions.
    #[command(subcommand)]
    Bgp(bgp::BgpCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Status => status::run(&cli.global),
        Command::Node(command) => node::run(command),
        Command::Bw(command) => bw::run(&cli.global, command),
        Command::Bgp(command) => bgp::run(&cli.global, command),
    };
    match result {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("turnpike: {error:#}");
            ExitCode::FAILURE
        }
    }
}
