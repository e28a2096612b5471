//! Rows of a bench for people and programs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Comparison {
    /// What was done.
    pub(super) case: String,
    /// What was measured, with its unit.
    pub(super) metric: String,
    /// Our value.
    pub(super) ours: f64,
    /// Beside whom.
    pub(super) peer: String,
    /// The peer's value.
    pub(super) peer_value: f64,
    /// Ours over the peer's.
    pub(super) ratio: f64,
}

impl Comparison {
    pub(super) fn new(case: &str, metric: &str, ours: f64, peer: &str, peer_value: f64) -> Self {
        let ratio = if peer_value == 0.0 { f64::NAN } else { ours / peer_value };
        Self {
            case: case.to_owned(),
            metric: metric.to_owned(),
            ours,
            peer: peer.to_owned(),
            peer_value,
            ratio,
        }
    }
}

/// Prints a table, and writes the rows to `json` where asked for.
pub(super) fn tell(title: &str, rows: &[Comparison], json: Option<&Path>) -> Result<()> {
    println!("\n{title}\n");
    println!("| case | metric | ours | peer | peer's | ratio |\n|---|---|---|---|---|---|");
    for row in rows {
        let Comparison { case, metric, ours, peer, peer_value, ratio } = row;
        println!("| {case} | {metric} | {ours:.1} | {peer} | {peer_value:.1} | {ratio:.2} |");
    }
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(rows)? + "\n";
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
