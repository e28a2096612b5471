//! turnpike-agent: addresses, links, routes and limits of a node's pods.
//!
//! Sources (a folder of YAML) → `turnpike-calc` (what it demands) → `turnpike-dataplane` (the kernel). Requests of
//! `turnpike-cni` change the books of pods, durably before they are answered. See agent/DESIGN.md.

mod agent;
mod audit;
mod bandwidth;
mod bgp;
mod books;
mod clock;
mod config;
mod drain;
mod events;
mod failpoint;
mod gates;
mod gateways;
mod holds;
mod install;
mod ipam;
mod keeper;
mod lb;
mod locks;
mod metrics;
mod plane;
mod privileges;
mod progress;
mod replace;
mod server;
mod source;
mod status;
mod store;
mod trace;
mod uninstall;
mod verbs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::agent::Agent;
use crate::config::Config;
use crate::plane::Plane;

/// The per-node agent of Turnpike.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Configuration file.
    #[arg(long, global = true, default_value = "/etc/turnpike/agent.toml")]
    config: PathBuf,
    /// Logs as JSON lines.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent (the default).
    Run,
    /// Check the configuration and the resources it names, and say what is wrong.
    Validate,
    /// Print the JSON schema of all resources.
    Schema,
    /// Put turnpike-cni and its conflist where the container runtime looks, and see whether it loads them.
    InstallCni(install::InstallArgs),
    /// Remove everything of the agent's from this node: links, routes, nftables, eBPF, state. Pods lose their network.
    Uninstall,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("TURNPIKE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if cli.log_json {
        logs.json().init();
    } else {
        logs.with_ansi(false).init();
    }
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> anyhow::Result<()> {
    let config = || Config::load(&cli.config);
    match &cli.command {
        None | Some(Command::Run) => run(config()?),
        Some(Command::Validate) => validate(&config()?),
        Some(Command::Schema) => {
            print!("{}", schema()?);
            Ok(())
        }
        Some(Command::InstallCni(args)) => install::install(&config()?, args),
        Some(Command::Uninstall) => uninstall::uninstall(&config()?),
    }
}

fn schema() -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(&turnpike_model::schema::json_schema())? + "\n")
}

fn validate(config: &Config) -> anyhow::Result<()> {
    match source::read_folder(&config.paths.resources) {
        Ok(resources) => {
            println!("{} resources in {}: good", resources.len(), config.paths.resources.display());
            Ok(())
        }
        Err(errors) => {
            for error in &errors {
                println!("{error}");
            }
            anyhow::bail!("{} mistakes", errors.len());
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    privileges::drop_others()?;
    let agent = Arc::new(Agent::open(config)?);
    tracing::info!(node = agent.books().node().name, version = env!("CARGO_PKG_VERSION"), "starting");
    source::load_at_start(&agent);
    let owner: Arc<dyn plane::Owner> = Arc::<Agent>::clone(&agent);
    let (plane, thread) =
        Plane::start(agent.config.dataplane(), owner).context("cannot open the data plane")?;
    agent.set_plane(plane.clone());
    keeper::drain_spool(&agent);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(Arc::clone(&agent)));
    // Requests under way are finished; then the data plane's thread, with what they asked of it.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    bandwidth::keep_history(&agent);
    plane.stop();
    if thread.join().is_err() {
        tracing::error!("the data plane's thread ended badly");
    }
    tracing::info!("stopped; what is in the kernel stays");
    result
}

async fn serve(agent: Arc<Agent>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let address = agent.config.listen.metrics;
    let http = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen at {address} for metrics"))?;
    let listener = server::bind(&agent.config.paths.socket)?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(keeper::keep(Arc::clone(&agent)));
    tasks.spawn(gateways::follow(Arc::clone(&agent)));
    tasks.spawn(source::watch(Arc::clone(&agent)));
    tasks.spawn(bandwidth::sample(Arc::clone(&agent)));
    tasks.spawn(bandwidth::end_trials(Arc::clone(&agent)));
    tasks.spawn(server::serve(Arc::clone(&agent), listener));
    if agent.config.bgpd.enabled {
        tasks.spawn(bgp::hand_over(Arc::clone(&agent)));
    }
    if let Some(address) = agent.config.listen.pods {
        let http = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen at {address} for pods"))?;
        let router = metrics::router_for_pods(Arc::clone(&agent));
        tasks.spawn(async move {
            if let Err(error) = axum::serve(http, router).await {
                tracing::error!(%error, "HTTP for pods ended");
            }
        });
    }
    let router = metrics::router(Arc::clone(&agent));
    tasks.spawn(async move {
        if let Err(error) = axum::serve(http, router).await {
            tracing::error!(%error, "HTTP ended");
        }
    });
    tracing::info!(socket = %agent.config.paths.socket.display(), metrics = %address, "ready");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "the service manager cannot be told that the agent is ready");
    }
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM"),
        _ = interrupt.recv() => tracing::info!("SIGINT"),
        Some(ended) = tasks.join_next() => anyhow::bail!("a part of the agent ended: {ended:?}"),
    }
    let socket = &agent.config.paths.socket;
    if let Err(error) = std::fs::remove_file(socket) {
        tracing::warn!(%error, "the socket cannot be removed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schema_in_deploy_is_the_one_that_the_agent_prints() {
        let file =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/resources.schema.json");
        let in_deploy = std::fs::read_to_string(file).unwrap();
        let remedy = "run: turnpike-agent schema > deploy/resources.schema.json";
        assert!(in_deploy == super::schema().unwrap(), "{remedy}");
    }

    #[test]
    fn the_conflist_in_deploy_offers_what_runtimes_choose_from() {
        let text = include_str!("../../../deploy/10-turnpike.conflist");
        let conflist: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(conflist["cniVersion"], "1.0.0", "containerd 1.6 takes this one");
        assert_eq!(conflist["cniVersions"], serde_json::json!(["0.4.0", "1.0.0", "1.1.0"]));
        let plugin = &conflist["plugins"][0];
        assert_eq!(plugin["type"], "turnpike-cni");
        for capability in [
            "bandwidth",
            "portMappings",
            "ips",
            "mac",
            "dns",
            "aliases",
            "io.kubernetes.cri.pod-annotations",
            "cgroupPath",
        ] {
            assert_eq!(plugin["capabilities"][capability], true, "{capability}");
        }
    }
}
