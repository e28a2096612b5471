//! A turnpike-bgpd with a configuration of its own wording.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use turnpike_bgpd_api::view::{PeerView, StatusView};
use turnpike_bgpd_api::{Client, DEFAULT_CONFIG, DEFAULT_SOCKET};
use turnpike_testbed::{Node, Process, binary, poll_result};

/// For everything that takes its time.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A running daemon, or one that was killed and can be started again.
pub(crate) struct Daemon {
    node: Node,
    process: Process,
}

impl Daemon {
    /// What its HTTP server answers at a path, head and body.
    pub(crate) fn http(&self, path: &str) -> Result<String> {
        let mut stream = self.node.in_netns(|| TcpStream::connect("127.0.0.1:9472"))??;
        // The Connection header ends the answer with the connection.
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes the file, starts the daemon and waits until it answers.
    pub(crate) fn start(node: &Node, config: &str) -> Result<Self> {
        node.write_file(DEFAULT_CONFIG, config)?;
        let process = launch(node, &[])?;
        let daemon = Self { node: node.clone(), process };
        daemon.wait_answer()?;
        Ok(daemon)
    }

    /// Starts a daemon that is expected to give up; what it says.
    pub(crate) fn start_in_vain(node: &Node, config: &str) -> Result<String> {
        node.write_file(DEFAULT_CONFIG, config)?;
        let process = launch(node, &[])?;
        let status = process.wait_exit(DEADLINE)?;
        ensure!(!status.success(), "it ended well");
        Ok(process.log())
    }

    fn wait_answer(&self) -> Result<()> {
        poll_result(DEADLINE, &format!("turnpike-bgpd in {}", self.node.name()), || {
            match self.process.try_wait()? {
                Some(status) => Ok(Err(anyhow!("turnpike-bgpd ended, {status}:\n{}", self.process.log()))),
                None => self.client()?.status().map(|_| Ok(())).context("status"),
            }
        })?
    }

    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.node.path(DEFAULT_SOCKET)?, Duration::from_secs(10))?)
    }

    /// Its pid in the host's pid namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn status(&self) -> Result<StatusView> {
        Ok(self.client()?.status()?)
    }

    pub(crate) fn peer(&self, name: &str) -> Result<PeerView> {
        self.client()?.peers(Some(name))?.pop().with_context(|| format!("no peer {name}"))
    }

    /// Waits until a session is established.
    pub(crate) fn wait_established(&self, name: &str) -> Result<()> {
        poll_result(DEADLINE, &format!("session {name} of {}", self.node.name()), || {
            let peer = self.peer(name)?;
            ensure!(peer.session.is_some(), "{} {:?}", peer.state, peer.last_error);
            Ok(())
        })
    }

    /// Ends it with a signal and waits for its end.
    pub(crate) fn end(&self, signal: Signal) -> Result<()> {
        self.process.kill(signal)?;
        self.process.wait_exit(DEADLINE).map(drop)
    }

    /// Starts it again.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.start_again_with(&[])
    }

    /// The same, with this in its environment, and in nobody else's on the way to it.
    pub(crate) fn start_again_with(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        self.process = launch(&self.node, environment)?;
        self.wait_answer()
    }
}

fn launch(node: &Node, environment: &[(&str, &str)]) -> Result<Process> {
    let mut command = node.command("env")?;
    command.args(environment.iter().map(|(name, value)| format!("{name}={value}")));
    command.arg(binary("turnpike-bgpd")?).args(["--config", DEFAULT_CONFIG]);
    command.env("RUST_LOG", "info,turnpike_bgpd=debug");
    node.spawn("turnpike-bgpd", command)
}
