//! The demo as a program; `cargo xtask demo` builds everything and runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    match turnpike_testbed::demo::tell() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
