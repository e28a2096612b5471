//! Long files are named, so that they are split while that is cheap. (Long functions are clippy's `too_many_lines`.)

use std::fs;

use anyhow::Result;

use super::arrows::rust_files;
use crate::paths;

/// Lines that a file may have.
const MOST: usize = 800;
/// From here on a file is mentioned.
const MANY: usize = 600;

/// Files over the limit; files near it are printed.
pub(super) fn too_long() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for top in ["agent", "bgpd", "ebpf", "testbed", "xtask"] {
        for file in rust_files(&paths::root().join(top))? {
            let lines = fs::read_to_string(&file)?.lines().count();
            let name = file.strip_prefix(paths::root()).unwrap_or(&file).display().to_string();
            if lines > MOST {
                found.push(format!("{name} has {lines} lines, more than {MOST}: split it"));
            } else if lines > MANY {
                println!("check: {name} has {lines} lines");
            }
        }
    }
    Ok(found)
}
