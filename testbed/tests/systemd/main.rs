//! The units of deploy/systemd under a real systemd, on a node installed by the commands of README.md.
//!
//! ```text
//!   node1 10.1.1.11 ── 10.1.1.1 tor 10.1.3.1 ──┬── rr1 (BIRD) 10.1.3.21
//!         fd00:1:1::11                         └── rr2 (BIRD) 10.1.3.22
//!   systemd and the units in node1; the pods' blocks are those of deploy/resources
//! ```

#![cfg(test)]

mod drain;
mod node;
mod site;

use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);
