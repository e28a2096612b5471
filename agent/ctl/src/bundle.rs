//! `turnpike support-bundle`: this node's state and configuration in one file, for somebody who was not there.
//!
//! Each collector has its own deadline, and what fails is written down in the bundle: a daemon that hangs, or a
//! program that is not installed, never keeps the rest from being collected. Secrets do not get in: values of keys
//! that name one are removed from configurations, and wherever else the same text appears, that is removed, too.

mod collect;
mod secrets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::Global;

use collect::Outcome;
use secrets::Secrets;

/// What goes where.
#[derive(Debug, Clone, Args)]
pub(crate) struct BundleArgs {
    /// File to write; turnpike-HOST-SECONDS.tar.gz in the present folder unless given.
    #[arg(short = 'f', long, value_name = "FILE.tar.gz")]
    file: Option<PathBuf>,
    /// Folder of the configuration.
    #[arg(long, default_value = "/etc/turnpike")]
    config: PathBuf,
    /// Seconds that each collector may take.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

/// Carries out `turnpike support-bundle`. Collectors that fail are told, and are no failure of the command.
pub(crate) fn run(global: &Global, args: &BundleArgs) -> Result<ExitCode> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let name = format!("turnpike-{}-{seconds}", host.trim());
    let file = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let work = Work::new(&name)?;
    let mut secrets = Secrets::default();
    let mut outcomes = collect::configuration(&work.inside, &args.config, &mut secrets);
    outcomes.extend(collect::commands(&work.inside, global, args.timeout, &secrets));
    fs::write(work.inside.join("INDEX.txt"), index(&outcomes))?;
    pack(&work, &name, &file)?;
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    println!("{}: {} parts, {failed} could not be had (see INDEX.txt in it)", file.display(), outcomes.len());
    Ok(ExitCode::SUCCESS)
}

fn index(outcomes: &[Outcome]) -> String {
    let line = |outcome: &Outcome| {
        let state =
            outcome.failure.as_deref().map_or_else(|| "ok".to_owned(), |why| format!("FAILED: {why}"));
        format!("{:32} {:8} {state}   ({})\n", outcome.name, format!("{} ms", outcome.took_ms), outcome.what)
    };
    outcomes.iter().map(line).collect()
}

/// A folder that only root can read and that goes away at the end.
struct Work {
    outside: PathBuf,
    inside: PathBuf,
}

impl Work {
    fn new(name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let outside = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        make(&outside).with_context(|| format!("cannot make {}", outside.display()))?;
        let work = Self { inside: outside.join(name), outside };
        make(&work.inside).with_context(|| format!("cannot make {}", work.inside.display()))?;
        Ok(work)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.outside) {
            eprintln!("turnpike: {} is left: {error}", self.outside.display());
        }
    }
}

fn pack(work: &Work, name: &str, file: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let place = || format!("cannot write {}", file.display());
    let out = fs::File::options().write(true).create_new(true).mode(0o600).open(file).with_context(place)?;
    let status = Command::new("tar")
        .args(["-cz", "-C"])
        .arg(&work.outside)
        .arg(name)
        .stdout(out)
        .status()
        .context("cannot run tar")?;
    ensure!(status.success(), "tar ended with {status}");
    Ok(())
}
