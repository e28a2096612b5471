//! Several paths of one prefix, each side in turn as the one that knows them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use turnpike_bgpd_api::config::{AddPath, SendPaths};
use turnpike_testbed::poll_result;

use super::Pair;
use super::reflect::{third, third_config};
use crate::ours::{Ours, network};
use crate::peers::{Kind, Word};
use crate::terms::{DEADLINE, Lan, THEIR_V4, THIRD_V4, Terms};

pub(crate) fn both_ways(kind: Kind) -> Result<()> {
    we_send(kind)?;
    they_send(kind)
}

/// We and the third speaker announce the same prefix; as its reflector we tell the peer both paths.
fn we_send(kind: Kind) -> Result<()> {
    let terms = Terms { add_path: true, ..Terms::internal() };
    let lan = Lan::new("interop-several-out")?;
    let third = third(&lan, &terms, terms.ours())?;
    let pair = Pair::start_in(lan, kind, terms, |config| {
        config.networks.push(network(THIRD_V4, &Terms::internal())?);
        let mut client = config.peers.first().context("our peer")?.clone();
        client.name = Some("third".to_owned());
        client.address = Terms::internal().third();
        config.peers.push(client);
        config.peers.iter_mut().for_each(|peer| peer.rr_client = true);
        config.peers.first_mut().context("our peer")?.add_path = wanted();
        Ok(())
    })?;
    pair.wait_up()?;
    pair.peer.wait_word(Word::AddPath)?;
    pair.peer.wait_route(THIRD_V4, &["10.1.3.1", "10.1.3.3"])?;

    // The third speaker's path goes by its identifier, ours stays.
    let mut silent = third_config(&pair.terms, pair.terms.ours())?;
    silent.networks.clear();
    third.reload(&silent)?;
    poll_result(DEADLINE, "the third speaker's path to leave the peer", || {
        let said = pair.peer.route(THIRD_V4)?;
        ensure!(said.contains("10.1.3.1") && !said.contains("10.1.3.3"), "it says\n{said}");
        Ok(())
    })?;
    ensure!(pair.ours.peer()?.flaps == 0, "the session has flapped: {:?}", pair.ours.peer()?.last_error);
    drop(third);
    pair.finish()
}

/// The peer announces a prefix, hears the same from the third speaker, and tells us both paths.
fn they_send(kind: Kind) -> Result<()> {
    let prefixes = vec![THEIR_V4[0], THIRD_V4];
    let terms = Terms { add_path: true, they_reflect: true, prefixes, ..Terms::internal() };
    let lan = Lan::new("interop-several-in")?;
    let third = third(&lan, &terms, terms.theirs())?;
    let mut pair = Pair::start_in(lan, kind, terms, |config| {
        config.peers.first_mut().context("our peer")?.add_path = wanted();
        Ok(())
    })?;
    pair.wait_up()?;
    let (theirs, thirds) = (pair.terms.theirs(), pair.terms.third());
    wait_hops(&pair.ours, &[theirs, thirds])?;
    pair.peer.withdraw(THIRD_V4)?;
    wait_hops(&pair.ours, &[thirds])?;
    ensure!(pair.ours.peer()?.flaps == 0, "the session has flapped: {:?}", pair.ours.peer()?.last_error);
    drop(third);
    pair.finish()
}

fn wanted() -> Option<AddPath> {
    Some(AddPath { receive: true, send: SendPaths::All, families: None })
}

/// Waits until we hold exactly one path of the peer for each of these next hops, each with its own identifier.
fn wait_hops(ours: &Ours, hops: &[IpAddr]) -> Result<()> {
    poll_result(DEADLINE, &format!("paths of {THIRD_V4} over {hops:?}"), || {
        let paths = ours.paths(THIRD_V4)?;
        let found: BTreeSet<IpAddr> = paths.iter().filter_map(|path| path.next_hop).collect();
        let ids: BTreeSet<u32> = paths.iter().filter_map(|path| path.path_id).collect();
        let wanted: BTreeSet<IpAddr> = hops.iter().copied().collect();
        ensure!(found == wanted && paths.len() == hops.len(), "they are {paths:?}");
        ensure!(ids.len() == hops.len(), "their identifiers are {ids:?}");
        Ok(())
    })
}
