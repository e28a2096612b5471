//! eBPF object first (the loader embeds it), then the workspace, then the static CNI binary.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::run::{cargo, run};
use crate::setup::{self, Toolchain};

/// Which optimisation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As tested.
    Dev,
    /// As shipped.
    Release,
}

/// Everything.
pub(crate) fn all(profile: Profile) -> Result<()> {
    let toolchain = setup::for_build()?;
    ebpf(&toolchain)?;
    workspace(profile)?;
    cni()?;
    collect(profile)
}

/// `ebpf/programs` for the BPF target, copied to where the loader's build script looks.
pub(crate) fn ebpf(toolchain: &Toolchain) -> Result<()> {
    let out = paths::target().join("bpf/build");
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
    ];
    let mut build = cargo();
    build
        .current_dir(paths::root().join("ebpf/programs"))
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("RUSTC_WRAPPER", "")
        .env_remove("RUSTUP_TOOLCHAIN")
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "-Zbuild-std=core",
            "--target=bpfel-unknown-none",
        ])
        .arg("--target-dir")
        .arg(&out);
    run(&mut build)?;
    let built = out.join("bpfel-unknown-none/release/turnpike-ebpf");
    let wanted = paths::ebpf_object();
    let bytes = fs::read(&built).with_context(|| format!("the build left no {}", built.display()))?;
    // Only a change may touch the file: cargo rebuilds the loader when its time moves.
    if fs::read(&wanted).ok().as_deref() != Some(&bytes) {
        let fresh = wanted.with_extension("new");
        fs::write(&fresh, bytes)?;
        fs::rename(&fresh, &wanted)?;
    }
    Ok(())
}

fn workspace(profile: Profile) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--workspace", "--locked"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    run(&mut build)
}

/// Static, so that it starts fast and runs on any node's libc. Flags go to this crate alone: RUSTFLAGS for the
/// whole workspace would break proc-macros.
fn cni() -> Result<()> {
    let mut build = cargo();
    build.args([
        "rustc",
        "-p",
        "turnpike-cni",
        "--profile",
        "cni",
        "--locked",
        "--",
        "-C",
        "target-feature=+crt-static",
    ]);
    run(&mut build)
}

/// Links every program into one folder.
fn collect(profile: Profile) -> Result<()> {
    let folder = if profile == Profile::Release { "release" } else { "debug" };
    let bin = paths::bin();
    fs::create_dir_all(&bin)?;
    let built = paths::target().join(folder);
    let mut programs: Vec<(String, PathBuf)> = Vec::new();
    for entry in fs::read_dir(&built)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && !name.contains('.') && name != "xtask" {
            programs.push((name, entry.path()));
        }
    }
    programs.retain(|(name, _)| name != "turnpike-cni");
    programs.push(("turnpike-cni".to_owned(), paths::target().join("cni/turnpike-cni")));
    for (name, path) in programs {
        let link = bin.join(&name);
        if fs::symlink_metadata(&link).is_ok() {
            fs::remove_file(&link)?;
        }
        symlink(&path, &link)?;
    }
    let size = fs::metadata(bin.join("turnpike-cni"))?.len();
    if size > 2 << 20 {
        bail!("turnpike-cni has {size} bytes; it may have {} at the most", 2 << 20);
    }
    println!("build: programs are in {}; turnpike-cni has {} KiB", bin.display(), size >> 10);
    Ok(())
}
