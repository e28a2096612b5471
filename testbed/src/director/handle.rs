//! A director on a lab node.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::{
    config::{DirectorConfig, Service},
    control::ask,
    stats::{DirectorStats, Request, Response, SessionView},
};
use crate::{Node, Process, binary, poll_result};

/// How long a director may take to come up.
const START: Duration = Duration::from_secs(20);

/// A running director; it ends when this is dropped.
pub struct Director {
    process: Process,
    /// The control socket as the host sees it.
    control: PathBuf,
}

impl Director {
    /// Starts the `director` binary on `node` and waits until it translates.
    ///
    /// The node keeps what [`serve`](super::serve()) sets up: the TUN device, a route into it for every VIP and
    /// local address, forwarding, and proxy entries where asked for. Routers need routes to these addresses
    /// via the node unless [`DirectorConfig::proxy_neighbours_on`] makes them neighbours.
    ///
    /// # Errors
    /// When the configuration is refused or anything cannot be set up; the error holds the log's end.
    pub fn start(node: &Node, config: &DirectorConfig) -> Result<Self> {
        let file = format!("/run/director-{}.json", config.tun);
        node.write_file(&file, serde_json::to_string_pretty(config)?)?;
        let mut command = node.command(binary("director")?)?;
        command.arg("--config").arg(&file);
        let process = node.spawn(&format!("director-{}", config.tun), command)?;
        let director = Self { process, control: node.path(&config.control)? };
        poll_result(START, "the director answers", || match director.process.try_wait()? {
            // Said at once, and not after the deadline.
            Some(status) => {
                Ok(Err(anyhow::anyhow!("the director ended ({status}): {}", director.process.log())))
            }
            None => director.stats().map(Ok),
        })??;
        Ok(director)
    }

    /// The counters.
    ///
    /// # Errors
    /// When the director does not answer.
    pub fn stats(&self) -> Result<DirectorStats> {
        match ask(&self.control, &Request::Stats)? {
            Response::Stats(stats) => Ok(*stats),
            other => bail!("the director answers a request for counters with {other:?}"),
        }
    }

    /// The sessions.
    ///
    /// # Errors
    /// When the director does not answer.
    pub fn sessions(&self) -> Result<Vec<SessionView>> {
        match ask(&self.control, &Request::Sessions)? {
            Response::Sessions(sessions) => Ok(sessions),
            other => bail!("the director answers a request for sessions with {other:?}"),
        }
    }

    /// Replaces the virtual services, so that servers can come and go; sessions go on as they began.
    ///
    /// # Errors
    /// When the director refuses, with its reason.
    pub fn configure(&self, services: &[Service]) -> Result<()> {
        match ask(&self.control, &Request::Configure(services.to_vec()))? {
            Response::Configured => Ok(()),
            other => bail!("the director answers new services with {other:?}"),
        }
    }

    /// The process, for its log and for tests that kill it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends the director; its device and routes go with it.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(self) -> Result<()> {
        self.process.stop().map(drop).context("stop the director")
    }
}
