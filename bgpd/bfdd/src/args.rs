//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Keeps BFD sessions for turnpike-bgpd, and outlives its restarts.
///
/// SIGTERM tells every peer that its session is down by an administrator's wish, which is no path failure, and ends.
#[derive(Debug, Clone, Parser)]
#[command(name = "turnpike-bfdd", version)]
pub(crate) struct Args {
    /// Control socket.
    #[arg(long, default_value = turnpike_bgpd_api::bfd::DEFAULT_BFD_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Seconds for which sessions go on without the program that wanted them. Longer than any restart of bgpd.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    orphan_time: u32,
}

impl Args {
    pub(crate) fn orphan_time(&self) -> Duration {
        Duration::from_secs(self.orphan_time.into())
    }
}
