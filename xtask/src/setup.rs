//! What the machine must have, and how it gets it. Every step looks first, says what it does and why, and starts
//! no service: a package that brings a daemon must never open a port on a stranger's host.

mod bpf;
mod packages;

use anyhow::{Result, bail};

pub(crate) use bpf::Toolchain;

use crate::fuzz;
use crate::paths;
use crate::run::{self, cargo, need_root, output};

/// All that any command needs.
pub(crate) fn everything() -> Result<()> {
    for_lab()?;
    for_check()?;
    runner()?;
    println!("setup: this machine has all that Turnpike's commands need");
    Ok(())
}

/// Compilers and libraries for the workspace, and the eBPF toolchain.
pub(crate) fn for_build() -> Result<Toolchain> {
    packages::install(packages::BUILD)?;
    bpf::toolchain()
}

/// Build, plus the real programs that the lab runs beside ours.
pub(crate) fn for_lab() -> Result<Toolchain> {
    packages::install(&[packages::BUILD, packages::LAB].concat())?;
    bpf::toolchain()
}

/// Build, plus an emulator and what unpacks other kernels: `cargo xtask lab kernels` alone needs them.
pub(crate) fn for_kernels() -> Result<()> {
    need_root("a guest that reads this machine's files")?;
    packages::install(packages::BUILD)?;
    packages::install(packages::KERNELS)?;
    runner()
}

/// Build, plus rustfmt and clippy.
pub(crate) fn for_check() -> Result<()> {
    packages::install(packages::BUILD)?;
    for tool in ["fmt", "clippy"] {
        if output(cargo().args([tool, "--version"])).is_none() {
            let component = if tool == "fmt" { "rustfmt" } else { tool };
            println!("setup: adding {component}, which `cargo xtask check` calls");
            run::run(run::command("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}

/// What `cargo xtask fuzz` needs: a nightly compiler, and cargo-fuzz, which is built into target/tools.
pub(crate) fn fuzzer() -> Result<()> {
    packages::install(packages::BUILD)?;
    if output(run::command("rustup").args(["which", "--toolchain", "nightly", "rustc"])).is_none() {
        println!(
            "setup: adding the nightly toolchain, without which libFuzzer cannot see what its inputs reach"
        );
        run::run(run::command("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))?;
    }
    if !fuzz::installed() {
        println!("setup: building cargo-fuzz (once, some minutes)");
        let mut install = cargo();
        install.args(["install", "cargo-fuzz", "--version", "^0.13", "--locked", "--root"]);
        run::run(install.arg(paths::tools()))?;
    }
    Ok(())
}

/// The test runner: found, or built into target/tools.
pub(crate) fn runner() -> Result<()> {
    if output(cargo().args(["nextest", "--version"])).is_some()
        || paths::tools().join("bin/cargo-nextest").exists()
    {
        return Ok(());
    }
    println!("setup: building cargo-nextest, which runs the lab tests one at a time (once, some minutes)");
    let mut install = cargo();
    install.args(["install", "cargo-nextest", "--version", "^0.9", "--locked", "--root"]).arg(paths::tools());
    run::run(&mut install)?;
    if !paths::tools().join("bin/cargo-nextest").exists() {
        bail!("cargo-nextest was installed but is not in {}", paths::tools().join("bin").display());
    }
    Ok(())
}
