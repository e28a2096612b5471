//! The proofs, one function for each cell that says "works".

pub(crate) mod ases;
pub(crate) mod reflect;
pub(crate) mod restart;
pub(crate) mod routes;
pub(crate) mod security;
pub(crate) mod sessions;
pub(crate) mod several;

use anyhow::Result;
use turnpike_bgpd_api::config::Config;

use crate::ours::{Ours, config};
use crate::peers::{Kind, Peer, Word};
use crate::terms::{Lan, Terms};

/// Both sides, running.
struct Pair {
    terms: Terms,
    /// Before the network, which ends what still runs.
    peer: Box<dyn Peer>,
    ours: Ours,
    lan: Lan,
}

impl Pair {
    /// Starts both sides under the same terms.
    fn start(name: &str, kind: Kind, terms: Terms) -> Result<Self> {
        Self::start_with(name, kind, terms, |_| Ok(()))
    }

    /// The same with something changed on our side.
    fn start_with(
        name: &str,
        kind: Kind,
        terms: Terms,
        change: impl FnOnce(&mut Config) -> Result<()>,
    ) -> Result<Self> {
        Self::start_in(Lan::new(&format!("interop-{name}"))?, kind, terms, change)
    }

    /// The same in a network that is there already.
    fn start_in(
        lan: Lan,
        kind: Kind,
        terms: Terms,
        change: impl FnOnce(&mut Config) -> Result<()>,
    ) -> Result<Self> {
        let mut config = config(&terms)?;
        change(&mut config)?;
        let ours = Ours::start(&lan.ours, &config)?;
        let peer = kind.start(&lan.peer, &terms)?;
        Ok(Self { terms, peer, ours, lan })
    }

    /// Waits until both sides say that the session is established.
    fn wait_up(&self) -> Result<()> {
        self.ours.wait_up()?;
        self.peer.wait_word(Word::Established)
    }

    /// Ends everything; anything left behind is an error.
    fn finish(self) -> Result<()> {
        let Self { peer, ours, lan, .. } = self;
        drop((peer, ours));
        lan.lab.finish()
    }
}
