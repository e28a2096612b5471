//! A table of the default-free zone for the bench: the test data of a published crate, which cargo fetches, checks
//! and keeps. It is a manifest of its own, so that the workspace builds and locks nothing of that crate.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use cargo_metadata::MetadataCommand;

use crate::paths;

const CRATE: &str = "rotonda-store";
/// Exact: another version may hold another table.
const VERSION: &str = "0.5.0";
const FILE: &str = "data/uniq_pfx_asn_dfz_rnd.csv";

/// The table's path; the first time needs the network.
pub(crate) fn find() -> Result<PathBuf> {
    let folder = paths::target().join("bench-table");
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("src/lib.rs"), "")?;
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[package]\nname = \"bench-table\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
             [dependencies]\n{CRATE} = \"={VERSION}\"\n"
        ),
    )?;
    let metadata = MetadataCommand::new()
        .manifest_path(folder.join("Cargo.toml"))
        .exec()
        .with_context(|| format!("cannot fetch the crate {CRATE}, whose test data is the table"))?;
    let package = metadata.packages.iter().find(|package| package.name.as_str() == CRATE);
    let manifest = package.map(|package| package.manifest_path.clone().into_std_path_buf());
    let path = manifest.context("the crate is not there")?.with_file_name("").join(FILE);
    ensure!(path.is_file(), "{} is missing", path.display());
    Ok(path)
}
