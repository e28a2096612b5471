//! The shell around the core: a TUN device, a clock and the control socket, in one loop.

use std::{
    hash::{BuildHasher as _, RandomState},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::tun::Tun;

use super::{
    config::DirectorConfig,
    control::{Control, Job},
    network::Network,
    stats::{Request, Response},
    translate::{Translator, Verdict},
};

/// Packets handled between two looks at the control socket.
const BATCH: usize = 256;
/// The loop wakes at least this often, in milliseconds.
const IDLE: u16 = 60_000;

/// Runs a director until the process is ended. The control socket answers once packets are translated.
///
/// # Errors
/// When the configuration contradicts itself, or the device, routes or control socket cannot be made.
pub fn serve(config: &DirectorConfig) -> Result<()> {
    let seed = RandomState::new().hash_one(());
    let translator = Translator::new(config, seed)?;
    let tun = Tun::open(&config.tun).with_context(|| format!("create TUN device {}", config.tun))?;
    let network = Network::set_up(config)?;
    let control = Control::listen(&config.control)?;
    tracing::info!(tun = config.tun, services = config.services.len(), "director is up");
    Shell { translator, tun, network, control, start: Instant::now() }.run()
}

struct Shell {
    translator: Translator,
    tun: Tun,
    network: Network,
    control: Control,
    start: Instant,
}

impl Shell {
    fn run(mut self) -> Result<()> {
        let mut packet = vec![0; 1 << 16];
        let mut out = Vec::with_capacity(1 << 16);
        loop {
            self.wait()?;
            for _ in 0..BATCH {
                let Some(length) = self.tun.receive(&mut packet).context("read from the TUN device")? else {
                    break;
                };
                self.forward(packet.get(..length).unwrap_or_default(), &mut out);
            }
            self.control.drain();
            while let Ok(Job { request, reply }) = self.control.jobs.try_recv() {
                // Nobody waits any more where this fails.
                let _gone = reply.send(self.obey(request));
            }
        }
    }

    /// Waits for a packet, a request, or the end of a session.
    fn wait(&mut self) -> Result<()> {
        let now = self.start.elapsed();
        self.translator.expire(now);
        let timeout = self.translator.poll_timeout().map_or(PollTimeout::from(IDLE), |end| {
            // One more, so that the time has come when the wait is over.
            let wait = end.saturating_sub(now) + Duration::from_millis(1);
            PollTimeout::from(u16::try_from(wait.as_millis()).map_or(IDLE, |wait| wait.min(IDLE)))
        });
        let mut files = [
            PollFd::new(self.tun.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.control.wake.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut files, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("poll"),
        }
    }

    fn forward(&mut self, packet: &[u8], out: &mut Vec<u8>) {
        match self.translator.handle(self.start.elapsed(), packet, out) {
            Verdict::Drop(reason) => tracing::trace!(?reason, length = packet.len(), "dropped"),
            Verdict::ToServer | Verdict::ToClient | Verdict::Reply => {
                if let Err(error) = self.tun.send(out) {
                    tracing::warn!(%error, length = out.len(), "the kernel refuses a packet");
                }
            }
        }
    }

    fn obey(&mut self, request: Request) -> Response {
        match request {
            Request::Stats => Response::Stats(Box::new(self.translator.stats())),
            Request::Sessions => Response::Sessions(self.translator.sessions(self.start.elapsed())),
            Request::Configure(services) => {
                let done = self.translator.configure(&services).map_err(anyhow::Error::from);
                match done.and_then(|()| self.network.route_services(&services)) {
                    Ok(()) => Response::Configured,
                    Err(error) => Response::Refused(format!("{error:#}")),
                }
            }
        }
    }
}
