//! Benches: ours beside the peers in one run, told as ratios. `cargo xtask bench [name]`.
//!
//! Machines are small, shared and noisy: runs alternate, medians count, and only ratios are worth quoting.

mod bandwidth;
mod bgp;
mod cni;
mod datapath;
mod pod;
mod rows;
mod toa;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;

/// What to measure and how.
#[derive(Debug, Default, Parser)]
#[command(name = "cargo xtask bench", about = "Measure beside the peers and print a table")]
pub struct Options {
    /// Which bench, `bandwidth`, `bgp`, `cni`, `datapath` or `toa`; none runs all.
    pub name: Option<String>,
    /// Write the rows of one bench to this file, too.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Every case with every daemon, five times, however long it takes.
    #[arg(long)]
    pub full: bool,
    /// Only cases of `bandwidth` (of its full set), `bgp` or `cni` whose name contains this; may repeat.
    #[arg(long)]
    pub case: Vec<String>,
    /// Only daemons of `bgp`, peers of `bandwidth`, whose name contains this; may repeat.
    #[arg(long)]
    pub daemon: Vec<String>,
    /// Runs of each daemon in each case of `bgp`, of each way in the others.
    #[arg(long)]
    pub runs: Option<usize>,
    /// Serve at this port instead, for `toa`.
    #[arg(long, hide = true, requires = "toa_cgroup")]
    pub toa_server: Option<u16>,
    /// The cgroup of that server.
    #[arg(long, hide = true)]
    pub toa_cgroup: Option<PathBuf>,
}

/// Runs one bench, or all.
///
/// # Errors
/// When there is none of that name, or it cannot run.
pub fn run(options: &Options) -> Result<()> {
    if let (Some(port), Some(cgroup)) = (options.toa_server, &options.toa_cgroup) {
        return toa::serve(port, cgroup);
    }
    match options.name.as_deref() {
        None => {
            cni::run(&Options::default())?;
            datapath::run(&Options::default())?;
            toa::run(&Options::default())?;
            bandwidth::run(&Options::default())?;
            bgp::run(options)
        }
        Some("bandwidth") => bandwidth::run(options),
        Some("bgp") => bgp::run(options),
        Some("cni") => cni::run(options),
        Some("datapath") => datapath::run(options),
        Some("toa") => toa::run(options),
        Some(other) => bail!("there is no bench {other:?}; there are: bandwidth, bgp, cni, datapath, toa"),
    }
}
