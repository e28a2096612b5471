//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Turnpike's BGP speaker and route reflector.
///
/// SIGHUP reads the configuration again, as does any change of the file. SIGTERM ends the process for a restart:
/// peers keep our paths (graceful restart) and kernel routes stay.
#[derive(Debug, Clone, Parser)]
#[command(name = "turnpike-bgpd", version)]
pub(crate) struct Args {
    /// Configuration file.
    #[arg(short, long, default_value = turnpike_bgpd_api::DEFAULT_CONFIG)]
    pub(crate) config: PathBuf,
    /// Control socket, in the place of the file's `control.socket`.
    #[arg(long)]
    pub(crate) socket: Option<PathBuf>,
    /// Folder for what must survive the daemon, in the place of the file's `state.dir`.
    #[arg(long)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Address for metrics and health, in the place of the file's `metrics.listen`.
    #[arg(long)]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// SIGTERM ends for good: peers are told (CEASE) and kernel routes are removed.
    #[arg(long)]
    pub(crate) no_graceful: bool,
    /// Check the configuration file and exit.
    #[arg(long)]
    pub(crate) check: bool,
    /// Form of the log on standard error; what is logged is RUST_LOG's affair (`info` unless set).
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// Forms of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}
