//! The benches as a program; `cargo xtask bench` builds optimised programs and runs it.

use std::process::ExitCode;

use clap::Parser as _;
use turnpike_testbed::bench::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
