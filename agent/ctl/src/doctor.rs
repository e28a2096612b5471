//! `turnpike doctor`: the mistakes of a host that are known to break pods' networks, each with its remedy.
//!
//! `gather` reads facts and judges nothing; `checks` judges facts and reads nothing.

mod checks;
mod facts;
mod gather;

use std::process::ExitCode;

use anyhow::Result;

use crate::Global;
use crate::agent::show;

use checks::{Check, Verdict};

/// Where things are, for nodes that keep them elsewhere.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Folder of the runtime's network configurations.
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: std::path::PathBuf,
    /// Folder of the runtime's network plugins.
    #[arg(long, default_value = "/opt/cni/bin")]
    cni_bin_dir: std::path::PathBuf,
    /// The agent's route protocol number.
    #[arg(long, default_value_t = 201)]
    route_protocol: u8,
    /// Show only what is not good.
    #[arg(short, long)]
    quiet: bool,
}

/// Carries out `turnpike doctor`. It fails if a check does; a warning is none.
pub(crate) fn run(global: &Global, args: &DoctorArgs) -> Result<ExitCode> {
    let facts = gather::gather(global, args);
    let mut checks = checks::all(&facts);
    if args.quiet {
        checks.retain(|check| check.verdict != Verdict::Good);
    }
    show(global.output, &checks, |checks| render(checks))?;
    let failed = checks.iter().any(|check| check.verdict == Verdict::Bad);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn render(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let mark = match check.verdict {
            Verdict::Good => "good",
            Verdict::Warn => "WARN",
            Verdict::Bad => "BAD ",
            Verdict::Unknown => "?   ",
        };
        text.push_str(&format!("{mark}  {:18} {}\n", check.name, check.found));
        if let Some(remedy) = &check.remedy {
            text.push_str(&format!("      {:18} → {remedy}\n", ""));
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let (bad, warn) = (count(Verdict::Bad), count(Verdict::Warn));
    text.push_str(&format!("{} looked at, {bad} bad, {warn} to think about\n", checks.len()));
    text
}
