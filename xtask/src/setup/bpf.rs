//! The eBPF toolchain: a rustc that can build `core` for the BPF target, and a bpf-linker with the same LLVM.
//!
//! Order: `TURNPIKE_BPF_RUSTC` (with `TURNPIKE_BPF_LINKER`) · a nightly with rust-src, when a bpf-linker is on the
//! PATH · Debian's rustc-web with rust-web-src, for which bpf-linker is built against Debian's LLVM.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages;
use crate::paths;
use crate::run::{self, cargo, output};

/// bpf-linker's release that is known to work with the pinned aya.
const LINKER_VERSION: &str = "0.13.0";

/// What builds `ebpf/programs`.
pub(crate) struct Toolchain {
    /// The compiler; its core source lies in its own sysroot.
    pub(crate) rustc: PathBuf,
    /// The linker that emits BPF objects with BTF.
    pub(crate) linker: PathBuf,
}

/// Finds the toolchain, or installs it.
pub(super) fn toolchain() -> Result<Toolchain> {
    if let Some(rustc) = env::var_os("TURNPIKE_BPF_RUSTC") {
        let linker =
            env::var_os("TURNPIKE_BPF_LINKER").context("TURNPIKE_BPF_RUSTC needs TURNPIKE_BPF_LINKER")?;
        return Ok(Toolchain { rustc: rustc.into(), linker: linker.into() });
    }
    if let (Some(rustc), Some(linker)) = (nightly(), on_path("bpf-linker")) {
        return Ok(Toolchain { rustc, linker });
    }
    debian()
}

fn nightly() -> Option<PathBuf> {
    let rustc = output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]))?;
    let rustc = PathBuf::from(rustc.trim());
    has_core_source(&rustc).then_some(rustc)
}

fn debian() -> Result<Toolchain> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    if !has_core_source(&rustc) {
        packages::install(packages::BPF)?;
    }
    if !has_core_source(&rustc) {
        bail!(
            "no rustc with its core source for the eBPF programs; either `rustup toolchain install nightly -c \
             rust-src` and `cargo install bpf-linker`, or Debian's rustc-web and rust-web-src"
        );
    }
    let linker = paths::tools().join("bin/bpf-linker");
    if !linker.exists() {
        build_linker(&rustc)?;
    }
    Ok(Toolchain { rustc, linker })
}

fn has_core_source(rustc: &Path) -> bool {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"])).unwrap_or_default();
    Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// bpf-linker must read the bitcode that this rustc writes: same LLVM major.
fn build_linker(rustc: &Path) -> Result<()> {
    let verbose = output(Command::new(rustc).arg("-vV")).context("rustc -vV failed")?;
    let llvm =
        verbose.lines().find_map(|l| l.strip_prefix("LLVM version: ")).context("rustc names no LLVM")?;
    let major = llvm.split('.').next().unwrap_or(llvm);
    let prefix = llvm_prefix(major)?;
    println!("setup: building bpf-linker {LINKER_VERSION} against LLVM {major} (once, about a minute)");
    let mut install = cargo();
    install
        .env("LLVM_PREFIX", prefix)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--no-default-features"])
        .args(["--features", &format!("llvm-{major}"), "--root"])
        .arg(paths::tools());
    run::run(&mut install)
}

/// Debian has only the versioned library; the linker's build looks for `lib/libLLVM.so` under a prefix.
fn llvm_prefix(major: &str) -> Result<PathBuf> {
    let dir = Path::new("/usr/lib/x86_64-linux-gnu");
    let wanted = format!("libLLVM.so.{major}");
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let library = entries
        .flatten()
        .map(|e| e.path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&wanted)))
        .with_context(|| format!("no {wanted}* in {}: it comes with rustc-web", dir.display()))?;
    let prefix = paths::tools().join("llvm");
    fs::create_dir_all(prefix.join("lib"))?;
    let link = prefix.join("lib/libLLVM.so");
    if fs::symlink_metadata(&link).is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(library, link)?;
    Ok(prefix)
}
