//! turnpike-bgpd: Turnpike's BGP speaker and route reflector.
//!
//! A tokio shell around `turnpike-bgp-core`: sockets, timers, the kernel, the control socket. See `bgpd/DESIGN.md`.

mod args;
mod audit;
mod bfd;
mod clock;
mod connection;
mod control;
mod disk;
mod engine;
mod host;
mod kernel;
mod listener;
mod merge;
mod metrics;
mod monitoring;
mod parts;
mod pending;
mod privileges;
mod propagation;
mod restart;
mod sockopt;
mod views;
mod watch;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;
use turnpike_bgpd_api::{Config, config};
use turnpike_kroute::Owner;

use crate::args::{Args, LogFormat};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::engine::{Channels, Engine, Parts, Stop};
use crate::host::Host;
use crate::kernel::Kernel;
use crate::parts::PartStore;
use crate::propagation::Propagation;
use crate::restart::RestartRecord;

/// Requests that may wait for the engine.
const REQUEST_QUEUE: usize = 16;
/// Threads for connections and callers; the engine has the main thread, kernel routes another.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    log_to_stderr(args.log_format);
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

fn run(args: Args) -> Result<()> {
    if args.check {
        config::load(&args.config)?;
        println!("{}: in order", args.config.display());
        return Ok(());
    }
    let mut file = load(&args)?;
    override_with(&mut file, &args);
    privileges::drop_others()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(args, file))
}

/// Reads the file, after a rollback of what was applied and not confirmed before.
fn load(args: &Args) -> Result<Config> {
    let loaded = config::load(&args.config);
    let given = args.state_dir.clone().or_else(|| Some(loaded.as_ref().ok()?.state.dir.clone()));
    let state_dir = given.unwrap_or_else(|| turnpike_bgpd_api::DEFAULT_STATE_DIR.into());
    if pending::recover(&state_dir, &args.config)? {
        return Ok(config::load(&args.config)?);
    }
    Ok(loaded?)
}

fn override_with(file: &mut Config, args: &Args) {
    if let Some(socket) = &args.socket {
        file.control.socket.clone_from(socket);
    }
    if let Some(dir) = &args.state_dir {
        file.state.dir.clone_from(dir);
    }
    if let Some(listen) = args.metrics_listen {
        file.metrics.listen = listen;
    }
}

async fn serve(args: Args, file: Config) -> Result<()> {
    let clock = Clock::start();
    // Before anything that an early signal should end in an orderly way.
    let signals = Signals::new()?;
    let store = PartStore::open(&file.state.dir)?;
    let record = RestartRecord::open(&file.state.dir)?;
    let (asks_in, asks) = mpsc::channel(REQUEST_QUEUE);
    let propagation = Propagation::histogram();
    let _socket = control::serve(&file.control.socket, asks_in.clone())?;
    let (kernel_in, kernel_events) = mpsc::unbounded_channel();
    let kernel = Kernel::start(owner(&file), kernel_in)?;
    if file.metrics.enabled {
        metrics::serve(file.metrics.listen, asks_in, propagation.clone()).await?;
    }

    let (reload_in, reload) = mpsc::channel(1);
    let watcher = watch::watch(&args.config, reload_in.clone());
    if let Err(failure) = &watcher {
        warn!("{failure:#}; only SIGHUP reloads the configuration");
    }
    let (stop_in, stop) = mpsc::channel(1);
    tokio::spawn(signals.forward(reload_in, stop_in, args.no_graceful));

    let parts = Parts {
        host: Host::new(&file.state.dir),
        path: args.config,
        file,
        disk: Disk::start()?,
        store,
        record,
        kernel,
        kernel_events,
        propagation: Propagation::into(propagation),
    };
    let engine = Engine::start(parts, clock)?;
    info!(version = env!("CARGO_PKG_VERSION"), "turnpike-bgpd runs");
    if let Err(failure) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(%failure, "the service manager cannot be told that turnpike-bgpd runs");
    }
    engine.run(Channels { asks, reload, stop }).await;
    Ok(())
}

fn owner(file: &Config) -> Owner {
    Owner {
        protocol: file.kernel.protocol,
        table: file.kernel.table,
        metric: file.kernel.metric,
        ..Owner::BGPD
    }
}

/// The signals that mean something to us.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let get = |kind| signal(kind).context("cannot receive signals");
        Ok(Self {
            hangup: get(SignalKind::hangup())?,
            terminate: get(SignalKind::terminate())?,
            interrupt: get(SignalKind::interrupt())?,
        })
    }

    async fn forward(mut self, reload: mpsc::Sender<()>, stop: mpsc::Sender<Stop>, for_good: bool) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    if reload.send(()).await.is_err() {
                        return;
                    }
                }
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
            }
        }
        let stop_how = if for_good { Stop::Final { message: String::new() } } else { Stop::Restart };
        let _ = stop.send(stop_how).await;
    }
}
