//! turnpike-bfdd: keeps BFD sessions (RFC 5880, 5881, 5883) for turnpike-bgpd, and outlives its restarts.
//!
//! One thread and one `poll`. The sessions themselves are in `turnpike-bfd`, who wants which is in [`table`]; this
//! process adds sockets, the clock and random numbers. It knows nothing of BGP.

mod args;
mod control;
mod engine;
mod net;
mod table;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::args::Args;
use crate::control::Control;
use crate::engine::Engine;
use crate::net::Inlets;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block().context("cannot block signals")?;
    let signals =
        SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).context("signalfd")?;
    let inlets = Inlets::open()?;
    let control = Control::open(&args.socket)?;
    info!(version = env!("CARGO_PKG_VERSION"), socket = %args.socket.display(), "turnpike-bfdd runs");
    let engine = Engine::new(args.orphan_time(), inlets, control, signals)?;
    if let Err(failure) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(%failure, "the service manager cannot be told that turnpike-bfdd runs");
    }
    engine.run()
}
