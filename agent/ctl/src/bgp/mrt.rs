//! `turnpike bgp mrt dump`: everything that peers have announced, in a file that bgpdump and its kin read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::json;
use turnpike_bgpd_api::{Client, Reply, Request};

use super::show;
use crate::Global;

/// Subcommands of `turnpike bgp mrt`.
#[derive(Debug, Subcommand)]
pub(crate) enum MrtCommand {
    /// Write what all peers have announced, before policy, in MRT format (RFC 6396 TABLE_DUMP_V2).
    Dump {
        /// Copy it to this file; without, it stays where turnpike-bgpd puts it until the next dump.
        to: Option<PathBuf>,
    },
}

/// Dumps, and copies the file where it is wanted.
pub(super) fn dump(global: &Global, client: &mut Client, to: Option<&Path>) -> Result<ExitCode> {
    let Reply::Dumped { path, prefixes, paths } = client.request(&Request::MrtDump)? else {
        bail!("turnpike-bgpd gave an answer that does not fit; is it of another release?");
    };
    if let Some(to) = to {
        fs::copy(&path, to).with_context(|| format!("copy {} to {}", path.display(), to.display()))?;
    }
    let file = to.unwrap_or(&path);
    let value = json!({ "file": file, "prefixes": prefixes, "paths": paths });
    show(global.output, &value, |_| format!("{}: {prefixes} prefixes, {paths} paths\n", file.display()))
}
