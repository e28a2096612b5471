//! `cargo xtask lab kernels`: the eBPF programs and their traffic tests on other kernels than this machine's.
//!
//! Debian's kernels (packages of four releases, fetched by apt with a configuration of its own below `target/kernels`)
//! boot in QEMU, without KVM. The guest sees this machine's files read-only over 9p and runs the very test binaries that
//! `cargo xtask test` runs here; then an agent starts there and `turnpike status` says in words what the kernel lacks.
//!
//! Leaves out: other architectures, the CNI plugin and containerd (they ask nothing new of the kernel).

mod guest;
mod packages;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::run::output;
use crate::test::nextest;
use crate::{build, paths, setup};

use packages::Kernel;

/// Which release of Debian has which kernel; the last is the newest that there is.
const RELEASES: [(&str, &str); 4] =
    [("5.10", "bullseye"), ("6.1", "bookworm"), ("6.12", "trixie"), ("newest", "sid")];

/// Test binaries, their paths below the target folder.
struct Tests {
    /// The loader's.
    programs: PathBuf,
    /// The data plane's.
    dataplane: PathBuf,
}

/// What a guest found.
struct Outcome {
    /// `uname -r`.
    release: String,
    passed: u32,
    failed: u32,
    /// How `turnpike lb flows` says the programs are attached.
    attached: String,
    /// What `turnpike status` lists as a problem of the programs.
    lacks: Vec<String>,
}

/// Boots each kernel, or the one that is asked for, and prints a table; fails when a test failed anywhere.
pub(crate) fn matrix(only: Option<&str>) -> Result<()> {
    let wanted: Vec<_> =
        RELEASES.into_iter().filter(|(name, _)| only.is_none_or(|only| only == *name)).collect();
    ensure!(!wanted.is_empty(), "no such kernel; there are {}", RELEASES.map(|(name, _)| name).join(", "));
    setup::for_kernels()?;
    // All of them before the long build: a mirror that lacks one tells soon.
    let mut kernels = Vec::new();
    for (name, suite) in wanted {
        println!("kernels: {name} from {suite}");
        let kernel = Kernel::fetch(suite)
            .with_context(|| format!("cannot fetch kernel {name}, linux-image-amd64 of Debian {suite}"))?;
        if name != "newest" && !kernel.release.starts_with(&format!("{name}.")) {
            bail!("Debian {suite} has kernel {}, not {name}", kernel.release);
        }
        kernels.push(kernel);
    }
    let tests = test_binaries()?;
    let mut lines = Vec::new();
    let mut failures = Vec::new();
    for kernel in &kernels {
        println!("kernels: booting {}", kernel.release);
        let outcome = guest::examine(kernel, &tests).with_context(|| format!("kernel {}", kernel.release))?;
        lines.push(row(&outcome));
        if outcome.failed > 0 {
            failures.push(format!("{} ({})", outcome.release, kernel.log().display()));
        }
    }
    println!("\n| kernel | tests passed | attached by | `turnpike status` says |\n|---|---|---|---|");
    println!("{}", lines.join("\n"));
    ensure!(failures.is_empty(), "tests failed on {}", failures.join(", "));
    Ok(())
}

fn row(outcome: &Outcome) -> String {
    let lacks = if outcome.lacks.is_empty() { "no problem".to_owned() } else { outcome.lacks.join("; ") };
    let Outcome { release, passed, failed, attached, .. } = outcome;
    format!("| {release} | {passed} of {} | {attached} | {lacks} |", passed + failed)
}

/// The test binaries as nextest knows them, built now.
fn test_binaries() -> Result<Tests> {
    build::all(build::Profile::Dev)?;
    let mut list = nextest();
    list.args(["list", "--workspace", "--locked", "--test", "kernel"]);
    list.args(["--list-type", "binaries-only", "--message-format", "json"]);
    let text = output(&mut list).context("cargo nextest cannot list the test binaries")?;
    let known: serde_json::Value = serde_json::from_str(&text).context("nextest's list")?;
    let inside = |package: &str| {
        let path = known
            .pointer(&format!("/rust-binaries/{package}::kernel/binary-path"))
            .and_then(serde_json::Value::as_str)
            .with_context(|| format!("nextest knows no test binary of {package}"))?;
        // The guest sees the target folder alone.
        let path = PathBuf::from(path);
        let inside =
            path.strip_prefix(paths::target()).context("a test binary outside of the target folder")?;
        Ok::<_, anyhow::Error>(inside.to_owned())
    };
    Ok(Tests { programs: inside("turnpike-ebpf-loader")?, dataplane: inside("turnpike-dataplane")? })
}
