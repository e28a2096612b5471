//! `director --config FILE`: the lab's stand-in for an LVS director in FULLNAT mode.

use std::{ffi::OsStr, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use turnpike_testbed::director::{DirectorConfig, serve};

/// A user-space FULLNAT director for the lab: a stand-in, not LVS.
///
/// It makes a TUN device, leads the configured VIPs and local addresses into it, and translates until it is
/// ended. It needs root, or CAP_NET_ADMIN and a writable /proc/sys.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration: TOML where the name ends in `.toml`, else JSON.
    #[arg(long)]
    config: PathBuf,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let Arguments { config } = Arguments::parse();
    let shown = config.display();
    let text = fs::read_to_string(&config).with_context(|| format!("read {shown}"))?;
    let parsed: DirectorConfig = if config.extension() == Some(OsStr::new("toml")) {
        toml::from_str(&text).with_context(|| format!("understand {shown}"))?
    } else {
        serde_json::from_str(&text).with_context(|| format!("understand {shown}"))?
    };
    serve(&parsed)
}
