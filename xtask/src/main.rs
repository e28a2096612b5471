//! The project's commands: `cargo xtask setup|build|check|test|fuzz|lab|demo|bench|dist`.
//!
//! Thin by intent: each command prepares what it needs (see [`setup`]) and then calls cargo or a program of the
//! workspace. Nothing here knows networking.

mod build;
mod check;
mod dist;
mod fuzz;
mod kernels;
mod paths;
mod run;
mod setup;
mod table;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, check, test and show Turnpike")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the machine lacks (idempotent; starts no service).
    Setup,
    /// Build the eBPF object, the workspace and the static CNI binary.
    Build {
        /// Optimised programs, as shipped.
        #[arg(long)]
        release: bool,
    },
    /// Formatting, lints, documentation, arrows, purity, sizes, licences.
    Check,
    /// Unit, property, replay and lab tests.
    Test {
        /// Every scale and seed count.
        #[arg(long)]
        full: bool,
        /// Only tests whose name contains this.
        filter: Vec<String>,
    },
    /// Feed random input to the BGP decoders and sessions, with libFuzzer on nightly.
    Fuzz {
        /// Which target; none runs all, one after the other.
        target: Option<String>,
        /// Seconds for each target.
        #[arg(long, default_value_t = 120)]
        seconds: u32,
        /// Afterwards, add what covers new ground to the committed inputs.
        #[arg(long)]
        keep: bool,
    },
    /// Run one lab test (or list them), or `kernels`: the eBPF programs on other kernels, in QEMU.
    Lab {
        /// Part of the test's name; none lists all.
        name: Option<String>,
        /// With `kernels`: 5.10, 6.1, 6.12 or newest; none runs them all.
        kernel: Option<String>,
        /// Leave the lab up and print how to enter each node.
        #[arg(long)]
        keep: bool,
    },
    /// The main job, told as a story: exits non-zero when a claim fails.
    Demo {
        /// Leave the data centre up at the end of the story.
        #[arg(long)]
        keep: bool,
    },
    /// Measure beside the peers and print a table.
    Bench {
        /// Which table (none prints all), then its options: see `cargo xtask bench -- --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The files of a release: an archive with programs, deployment and documentation, and its checksum.
    Dist,
}

fn main() -> ExitCode {
    match obey(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(command: Command) -> Result<()> {
    match command {
        Command::Setup => setup::everything(),
        Command::Build { release } => {
            build::all(if release { build::Profile::Release } else { build::Profile::Dev })
        }
        Command::Check => check::all(),
        Command::Test { full, filter } => test::test(full, &filter),
        Command::Fuzz { target, seconds, keep } => fuzz::fuzz(target.as_deref(), seconds, keep),
        Command::Lab { name: Some(name), kernel, .. } if name == "kernels" => {
            kernels::matrix(kernel.as_deref())
        }
        Command::Lab { name, keep, .. } => test::lab(name.as_deref(), keep),
        Command::Demo { keep } => test::demo(keep),
        Command::Bench { args } => test::bench(&args),
        Command::Dist => dist::dist(),
    }
}
