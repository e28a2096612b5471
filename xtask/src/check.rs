//! `cargo xtask check`: what a reviewer should not have to look for.

mod arrows;
mod licences;
mod sizes;

use anyhow::{Result, bail};
use cargo_metadata::{Metadata, MetadataCommand};

use crate::paths;
use crate::run::{cargo, run};
use crate::setup;

/// All checks; reports every finding of the quick ones before it fails.
pub(crate) fn all() -> Result<()> {
    setup::for_check()?;
    run(cargo().args(["fmt", "--all", "--check"]))?;
    for folder in ["bgpd/fuzz", "ebpf/programs"] {
        run(cargo().args(["fmt", "--check"]).current_dir(paths::root().join(folder)))?;
    }
    let metadata = MetadataCommand::new().manifest_path(paths::root().join("Cargo.toml")).exec()?;
    findings(&metadata)?;
    run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    let mut doc = cargo();
    doc.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"]);
    run(&mut doc)?;
    println!("check: formatting, arrows, purity, licences, sizes, lints and documentation are in order");
    Ok(())
}

fn findings(metadata: &Metadata) -> Result<()> {
    let mut found = arrows::upward(metadata);
    found.extend(arrows::impure(metadata)?);
    found.extend(licences::unknown(metadata));
    found.extend(sizes::too_long()?);
    for finding in &found {
        eprintln!("check: {finding}");
    }
    if !found.is_empty() {
        bail!("{} findings", found.len());
    }
    Ok(())
}
