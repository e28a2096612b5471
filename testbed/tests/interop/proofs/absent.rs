//! What we cannot yet: the peer can, offers it, and says that we do not.

use anyhow::{Context as _, Result, ensure};

use super::Pair;
use crate::peers::{Kind, Word};
use crate::terms::{OUR_V4, Terms};

pub(crate) fn long_lived(kind: Kind) -> Result<()> {
    let terms = Terms { restarting: true, long_lived: true, ..Terms::v4() };
    not_offered("llgr", kind, terms, Word::LongLived)
}

fn not_offered(name: &str, kind: Kind, terms: Terms, word: Word) -> Result<()> {
    let pair = Pair::start(name, kind, terms)?;
    pair.wait_up()?;
    pair.peer.wait_route(OUR_V4, &[])?;
    let said = pair.peer.neighbor()?;
    let spelled = pair.peer.spells(word).with_context(|| format!("it never says {word:?}"))?;
    ensure!(!said.contains(spelled), "we can by now, the table should say so. The peer says\n{said}");
    pair.finish()
}
