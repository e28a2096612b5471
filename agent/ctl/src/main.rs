//! turnpike: the command line for turnpike-agent and turnpike-bgpd. Owns nothing; asks their sockets.

mod agent;
mod bgp;
mod bundle;
mod bw;
mod conntrack;
mod doctor;
mod ipam;
mod lb;
mod node;
mod pods;
mod pool;
mod routes;
mod status;
mod table;
mod toa;
mod trace;
mod why;

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
    /// The pods of this node: addresses, link, limits, host ports.
    Pods,
    /// One pod or address in plain words: address, block, link, route, limit, announcement, what is wrong.
    Why {
        /// `namespace/name`, name, container ID or its beginning, or an address.
        subject: String,
    },
    /// Look for known mistakes of this host, each with its remedy.
    Doctor(doctor::DoctorArgs),
    /// Addresses of this node.
    #[command(subcommand)]
    Ipam(ipam::IpamCommand),
    /// Pools: drain, retire, list.
    #[command(subcommand)]
    Pool(pool::PoolCommand),
    /// This node as a whole.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Bandwidth of pods and uplinks.
    #[command(subcommand)]
    Bw(bw::BwCommand),
    /// Load balancers in front of the pods.
    #[command(subcommand)]
    Lb(lb::LbCommand),
    /// Clients' addresses behind load balancers.
    #[command(subcommand)]
    Toa(toa::ToaCommand),
    /// The connection tracking table: how full, who fills it, what it refused.
    Conntrack,
    /// What would become of a packet between a pod and an address: station by station, with what decides.
    Trace(trace::TraceArgs),
    /// Static routes for routers that speak no BGP.
    #[command(subcommand)]
    Routes(routes::RoutesCommand),
    /// Collect this node's state and configuration in one file, secrets removed.
    SupportBundle(bundle::BundleArgs),
    /// Ask turnpike-bgpd: peers, paths, decisions.
    #[command(subcommand)]
    Bgp(bgp::BgpCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Status => status::run(&cli.global),
        Command::Pods => pods::run(&cli.global),
        Command::Why { subject } => why::run(&cli.global, subject),
        Command::Doctor(args) => doctor::run(&cli.global, args),
        Command::Ipam(command) => ipam::run(&cli.global, command),
        Command::Pool(command) => pool::run(&cli.global, command),
        Command::Node(command) => node::run(command),
        Command::Bw(command) => bw::run(&cli.global, command),
        Command::Lb(command) => lb::run(&cli.global, command),
        Command::Toa(command) => toa::run(&cli.global, command),
        Command::Conntrack => conntrack::run(&cli.global),
        Command::Trace(args) => trace::run(&cli.global, args),
        Command::Routes(command) => routes::run(&cli.global, command),
        Command::SupportBundle(args) => bundle::run(&cli.global, args),
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
