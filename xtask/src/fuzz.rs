//! Fuzzing: `bgpd/fuzz` on nightly with libFuzzer. What the targets do is in `bgpd/hostile`; the committed inputs are
//! replayed on stable by `cargo xtask test`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::run::{cargo, command, output, run};
use crate::setup;

/// Longest input: several messages.
const MAX_LEN: u32 = 2000;
/// What an input may use, in MiB; the sanitizer's own share included.
const MEMORY: u32 = 2048;
/// How long one input may take, in seconds.
const TIMEOUT: u32 = 20;

/// `cargo xtask fuzz [target] [--seconds N] [--keep]`
pub(crate) fn fuzz(target: Option<&str>, seconds: u32, keep: bool) -> Result<()> {
    setup::fuzzer()?;
    let all = targets()?;
    let wanted: Vec<&String> =
        all.iter().filter(|name| target.is_none_or(|wanted| wanted == *name)).collect();
    if wanted.is_empty() {
        bail!("no such target; there are {}", all.join(", "));
    }
    for name in wanted {
        one(name, seconds)?;
        if keep {
            merge(name)?;
        }
    }
    println!("fuzz: no target failed");
    Ok(())
}

fn one(name: &str, seconds: u32) -> Result<()> {
    let found = found(name);
    fs::create_dir_all(&found)?;
    let mut fuzz = cargo_fuzz();
    fuzz.arg("run").args(["--fuzz-dir", "."]).arg(name).arg(&found).arg(committed(name)).arg("--");
    fuzz.arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LEN}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-timeout={TIMEOUT}"));
    run(&mut fuzz).with_context(|| {
        format!(
            "target {name} failed; the input is in bgpd/fuzz/artifacts/{name}: mend the code, then move it to \
             bgpd/fuzz/corpus/{name} so that `cargo xtask test` replays it"
        )
    })
}

/// libFuzzer's merge adds only inputs that reach what the committed ones do not.
fn merge(name: &str) -> Result<()> {
    let mut fuzz = cargo_fuzz();
    fuzz.arg("run").args(["--fuzz-dir", "."]).arg(name).arg(committed(name)).arg(found(name));
    run(fuzz.args(["--", "-merge=1"]))
}

/// Names of the targets: the files of `fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder().join("fuzz_targets"))?.flatten() {
        names.extend(entry.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn folder() -> PathBuf {
    paths::root().join("bgpd/fuzz")
}

fn committed(name: &str) -> PathBuf {
    folder().join("corpus").join(name)
}

/// Inputs found on this machine; they help the next run, and no one else.
fn found(name: &str) -> PathBuf {
    paths::target().join("fuzz/found").join(name)
}

fn cargo_fuzz() -> Command {
    let path = paths::tools().join("bin/cargo-fuzz");
    let program = if path.exists() { path } else { PathBuf::from("cargo-fuzz") };
    let mut fuzz = command(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" || name == "CARGO"
        {
            fuzz.env_remove(name);
        }
    }
    // The program is cargo's subcommand: its own name comes first.
    fuzz.arg("fuzz")
        .current_dir(folder())
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .env("CARGO_TARGET_DIR", paths::target().join("fuzz"));
    fuzz
}

/// True if `cargo fuzz` can be called without installing anything.
pub(crate) fn installed() -> bool {
    paths::tools().join("bin/cargo-fuzz").exists() || output(cargo().args(["fuzz", "--version"])).is_some()
}
