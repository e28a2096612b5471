//! Routes and their attributes.

use anyhow::{Context as _, Result, ensure};
use turnpike_bgpd_api::config::{MaxPrefix, MaxPrefixAction};
use turnpike_bgpd_api::{Community, LargeCommunity};
use turnpike_testbed::poll_result;

use super::Pair;
use crate::ours::{config, our_large};
use crate::peers::{Kind, Word};
use crate::terms::{DEADLINE, OUR_V4, OUR_V6, THEIR_V4, THEIR_V6, Terms};

pub(crate) fn ipv4(kind: Kind) -> Result<()> {
    exchange("v4", kind, Terms::v4(), OUR_V4, THEIR_V4[0])
}

pub(crate) fn ipv6(kind: Kind) -> Result<()> {
    exchange("v6", kind, Terms::v6(), OUR_V6, THEIR_V6)
}

pub(crate) fn next_hop_v6(kind: Kind) -> Result<()> {
    let terms = Terms { over_v6: true, next_hop_v6: true, ..Terms::v4() };
    exchange("rfc8950", kind, terms, OUR_V4, THEIR_V4[0])
}

pub(crate) fn four_octet_as(kind: Kind) -> Result<()> {
    let terms = Terms { our_as: 4_200_000_001, their_as: 4_200_000_002, ..Terms::v4() };
    exchange("as4", kind, terms, OUR_V4, THEIR_V4[0])
}

/// A prefix each way, and back again.
fn exchange(name: &str, kind: Kind, terms: Terms, our: &str, their: &'static str) -> Result<()> {
    let mut pair = Pair::start(name, kind, terms)?;
    pair.wait_up()?;
    let terms = &pair.terms;
    pair.peer.wait_route(our, &[&terms.ours().to_string(), &terms.our_as.to_string()])?;
    let path = pair.ours.wait_path(their)?;
    ensure!(path.next_hop == Some(terms.theirs()), "the next hop is {:?}", path.next_hop);
    ensure!(path.as_path == terms.their_as.to_string(), "the AS_PATH is {}", path.as_path);
    ensure!(path.best, "it is not used: {:?}", path.why);
    let wide = [(terms.next_hop_v6, Word::ExtendedNextHop), (terms.our_as > 65535, Word::FourOctetAs)];
    for (_, word) in wide.iter().filter(|(on, _)| *on) {
        pair.peer.wait_word(*word)?;
    }

    pair.peer.withdraw(their)?;
    pair.ours.wait_no_path(their)?;
    let mut silent = config(terms)?;
    silent.networks.clear();
    pair.ours.reload(&silent)?;
    pair.peer.wait_no_route(our)?;
    ensure!(pair.ours.peer()?.flaps == 0, "the session has flapped: {:?}", pair.ours.peer()?.last_error);
    pair.finish()
}

pub(crate) fn large_communities(kind: Kind) -> Result<()> {
    let pair = Pair::start("large", kind, Terms::v4())?;
    pair.wait_up()?;
    let ours = our_large(&pair.terms);
    let spelled = pair.peer.large([ours.global, ours.local1, ours.local2]);
    pair.peer.wait_route(OUR_V4, &[&spelled])?;
    let path = pair.ours.wait_path(THEIR_V4[0])?;
    let found = path.large_communities.first().context("no large community")?;
    ensure!([found.global, found.local1, found.local2] == pair.terms.their_large(), "it is {found}");
    pair.finish()
}

/// Communities of four octets and large ones of twelve, 4600 octets together. FRR shows at most 8 KiB of either.
const MANY: u16 = 700;
const MANY_LARGE: u32 = 150;

pub(crate) fn extended_messages(kind: Kind) -> Result<()> {
    let pair = Pair::start_with("extended", kind, Terms::v4(), |config| {
        let network = config.networks.first_mut().context("our network")?;
        network.communities = (0..MANY).map(|low| Community::new(65001, low)).collect();
        network.large_communities = (0..MANY_LARGE)
            .map(|number| LargeCommunity { global: 65001, local1: 9, local2: number })
            .collect();
        Ok(())
    })?;
    pair.wait_up()?;
    let session = pair.ours.wait_up()?;
    ensure!(
        session.capabilities.iter().any(|word| word == "extended message"),
        "the peer does not offer it: {:?}",
        session.capabilities
    );
    pair.peer.wait_word(Word::ExtendedMessage)?;
    let large = (0..MANY_LARGE).map(|number| pair.peer.large([65001, 9, number]));
    let all: Vec<String> = (0..MANY).map(|low| pair.peer.community(65001, low)).chain(large).collect();
    pair.peer.wait_route(OUR_V4, &all.iter().map(String::as_str).collect::<Vec<_>>())?;
    pair.finish()
}

pub(crate) fn refresh(kind: Kind) -> Result<()> {
    // Internal: FRR tells an external peer its own prefixes again, and they count against the limit.
    let terms = Terms { prefixes: THEIR_V4.to_vec(), ..Terms::internal() };
    let mut pair = Pair::start_with("refresh", kind, terms, |config| {
        let peer = config.peers.first_mut().context("our peer")?;
        peer.max_prefix = Some(MaxPrefix { limit: 2, action: MaxPrefixAction::Discard });
        Ok(())
    })?;
    pair.wait_up()?;
    pair.peer.wait_word(Word::RouteRefresh)?;
    pair.peer.wait_route(OUR_V4, &[])?;

    // They ask.
    let before = settled(&pair)?;
    pair.peer.ask_again()?;
    poll_result(DEADLINE, "our table to be told again", || {
        let now = pair.ours.peer()?.updates_out;
        ensure!(now > before, "{now} UPDATEs, as before");
        Ok(())
    })?;
    pair.peer.wait_route(OUR_V4, &[])?;

    // We ask: one of three was dropped, and there is room for it when another goes.
    let held = || -> Result<Vec<&str>> {
        let paths = THEIR_V4.iter().map(|prefix| Ok((*prefix, pair.ours.path(prefix)?.is_some())));
        let paths: Vec<(&str, bool)> = paths.collect::<Result<_>>()?;
        Ok(paths.into_iter().filter_map(|(prefix, held)| held.then_some(prefix)).collect())
    };
    let two = poll_result(DEADLINE, "two of three prefixes", || {
        let held = held()?;
        ensure!(held.len() == 2, "they are {held:?}");
        Ok(held)
    })?;
    let dropped = THEIR_V4.into_iter().find(|prefix| !two.contains(prefix)).context("a dropped one")?;
    let gone = *two.first().context("a held one")?;
    pair.peer.withdraw(gone)?;
    pair.ours.wait_no_path(gone)?;
    pair.ours.wait_path(dropped)?;
    ensure!(pair.ours.peer()?.flaps == 0, "the session has flapped");
    pair.finish()
}

/// How many UPDATEs we have sent once the peer has said and heard End-of-RIB.
fn settled(pair: &Pair) -> Result<u64> {
    poll_result(DEADLINE, "our End-of-RIB", || {
        let peer = pair.ours.peer()?;
        let session = peer.session.context("no session")?;
        ensure!(session.end_of_rib_sent == session.families, "it is not sent");
        Ok(peer.updates_out)
    })
}
