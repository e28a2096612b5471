//! The other side: a daemon that writes its own configuration from the [`Terms`] and is asked in its own words.

mod bird;
mod exabgp;
mod frr;
mod gobgp;
mod openbgpd;

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use turnpike_testbed::{Node, Process, poll_result};

use crate::terms::{DEADLINE, Terms};

/// A column of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bird,
    Frr,
    GoBgp,
    OpenBgpd,
    ExaBgp,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Bird, Self::Frr, Self::GoBgp, Self::OpenBgpd, Self::ExaBgp];

    /// Writes the configuration and starts the daemon.
    pub(crate) fn start(self, node: &Node, terms: &Terms) -> Result<Box<dyn Peer>> {
        Ok(match self {
            Self::Bird => Box::new(bird::Bird::start(node, terms)?),
            Self::Frr => Box::new(frr::Frr::start(node, terms)?),
            Self::GoBgp => Box::new(gobgp::GoBgp::start(node, terms)?),
            Self::OpenBgpd => Box::new(openbgpd::OpenBgpd::start(node, terms)?),
            Self::ExaBgp => Box::new(exabgp::ExaBgp::start(node, terms)?),
        })
    }

    /// The Debian package, and how its version is asked for.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Bird => "bird2",
            Self::Frr => "frr",
            Self::GoBgp => "gobgpd",
            Self::OpenBgpd => "openbgpd",
            Self::ExaBgp => "exabgp",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
            Self::GoBgp => "GoBGP",
            Self::OpenBgpd => "OpenBGPD",
            Self::ExaBgp => "ExaBGP",
        })
    }
}

/// What is looked for in what a daemon says of its peer, which is us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// The session is established.
    Established,
    /// We announced the capability: RFC 8950.
    ExtendedNextHop,
    /// RFC 7911.
    AddPath,
    /// RFC 6793.
    FourOctetAs,
    /// RFC 4724.
    GracefulRestart,
    /// RFC 9494.
    LongLived,
    /// RFC 2918.
    RouteRefresh,
    /// RFC 8654.
    ExtendedMessage,
    /// BFD's session is Up.
    BfdUp,
    /// We ended the session: RFC 4486, Maximum Number of Prefixes Reached.
    MaxPrefix,
    /// We ended the session: Administrative Shutdown.
    Shutdown,
    /// We ended the session: Hold Timer Expired.
    HoldReceived,
    /// It ended the session: Hold Timer Expired.
    HoldSent,
}

/// A running peer.
pub(crate) trait Peer {
    /// Everything it says of its neighbour, which is us: state, capabilities, last error; its log where it tells some of
    /// this only there.
    fn neighbor(&self) -> Result<String>;

    /// How it spells a word there; `None` where it never says such a thing.
    fn spells(&self, word: Word) -> Option<&'static str>;

    /// Everything it says of its path for a prefix; empty if it has none.
    fn route(&self, prefix: &str) -> Result<String>;

    /// How it spells a large community.
    fn large(&self, value: [u32; 3]) -> String {
        value.map(|number| number.to_string()).join(":")
    }

    /// How it spells a community.
    fn community(&self, high: u16, low: u16) -> String {
        format!("{high}:{low}")
    }

    /// How it spells an OTC attribute (RFC 9234).
    fn otc(&self, asn: u32) -> String {
        format!("otc {asn}")
    }

    /// Announces a prefix no longer.
    fn withdraw(&mut self, prefix: &str) -> Result<()>;

    /// Asks us for our routes again.
    fn ask_again(&mut self) -> Result<()>;

    /// Shuts the session down with a message (RFC 9003).
    fn shut_down(&mut self, message: &str) -> Result<()>;

    /// The daemon that speaks BGP.
    fn process(&self) -> Result<&Process>;

    /// All processes of it that have a part in the session.
    fn pids(&self) -> Result<Vec<u32>> {
        Ok(vec![self.process()?.pid()])
    }

    /// Sends them a signal.
    fn signal(&self, signal: Signal) -> Result<()> {
        for pid in self.pids()? {
            kill(Pid::from_raw(pid.try_into()?), signal)
                .with_context(|| format!("send {signal} to {pid}"))?;
        }
        Ok(())
    }

    /// SIGKILL.
    fn kill(&mut self) -> Result<()>;

    /// Starts it again, as a restart in the sense of RFC 4724 where the terms say so.
    fn start_again(&mut self) -> Result<()>;

    /// Waits until it says a word of us.
    fn wait_word(&self, word: Word) -> Result<()> {
        let text = self.spells(word).with_context(|| format!("it never says {word:?}"))?;
        self.wait_says(text)
    }

    /// Waits until it says one of these words of us.
    fn wait_one_of(&self, words: &[Word]) -> Result<()> {
        poll_result(DEADLINE, &format!("the peer to say one of {words:?} of us"), || {
            let said = self.neighbor()?;
            let found = words.iter().filter_map(|word| self.spells(*word)).any(|text| said.contains(text));
            ensure!(found, "it says\n{said}");
            Ok(())
        })
    }

    /// Waits until it no longer says a word of us.
    fn wait_not(&self, word: Word) -> Result<()> {
        let text = self.spells(word).with_context(|| format!("it never says {word:?}"))?;
        poll_result(DEADLINE, &format!("the peer to say {text:?} of us no longer"), || {
            let said = self.neighbor()?;
            ensure!(!said.contains(text), "it says\n{said}");
            Ok(())
        })
    }

    /// Waits until it says a text of us.
    fn wait_says(&self, text: &str) -> Result<()> {
        poll_result(DEADLINE, &format!("the peer to say {text:?} of us"), || {
            let said = self.neighbor()?;
            ensure!(said.contains(text), "it says\n{said}");
            Ok(())
        })
    }

    /// Waits until its path for a prefix is there, with these texts in what it says of it.
    fn wait_route(&self, prefix: &str, texts: &[&str]) -> Result<String> {
        poll_result(DEADLINE, &format!("{prefix} with {texts:?} to reach the peer"), || {
            let said = self.route(prefix)?;
            ensure!(!said.trim().is_empty(), "it has no such path");
            ensure!(texts.iter().all(|text| said.contains(text)), "it says\n{said}");
            Ok(said)
        })
    }

    fn wait_no_route(&self, prefix: &str) -> Result<()> {
        poll_result(DEADLINE, &format!("{prefix} to leave the peer"), || {
            let said = self.route(prefix)?;
            ensure!(said.trim().is_empty(), "it says\n{said}");
            Ok(())
        })
    }
}
