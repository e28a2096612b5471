//! Route reflection, each side in turn between the other and a third speaker of ours.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use turnpike_bgpd_api::RouterId;
use turnpike_bgpd_api::config::Config;

use super::Pair;
use crate::ours::{Ours, config, network};
use crate::peers::Kind;
use crate::terms::{Lan, OUR_V4, THEIR_V4, THIRD_V4, Terms};

pub(crate) fn both_ways(kind: Kind) -> Result<()> {
    we_reflect(kind)?;
    they_reflect(kind)
}

fn we_reflect(kind: Kind) -> Result<()> {
    let terms = Terms::internal();
    let lan = Lan::new("interop-reflector")?;
    let third = third(&lan, &terms, terms.ours())?;
    let pair = Pair::start_in(lan, kind, terms, |config| {
        let mut client = config.peers.first().context("our peer")?.clone();
        client.name = Some("third".to_owned());
        client.address = Terms::internal().third();
        config.peers.push(client);
        config.peers.iter_mut().for_each(|peer| peer.rr_client = true);
        Ok(())
    })?;
    pair.wait_up()?;
    pair.peer.wait_route(THIRD_V4, &["10.1.3.3", "10.0.0.3", "10.0.0.1"])?;
    let path = third.wait_path(THEIR_V4[0])?;
    reflected(&path, [10, 0, 0, 2], [10, 0, 0, 1])?;
    drop(third);
    pair.finish()
}

fn they_reflect(kind: Kind) -> Result<()> {
    let terms = Terms { they_reflect: true, ..Terms::internal() };
    let lan = Lan::new("interop-client")?;
    let third = third(&lan, &terms, terms.theirs())?;
    let pair = Pair::start_in(lan, kind, terms, |_| Ok(()))?;
    pair.wait_up()?;
    reflected(&pair.ours.wait_path(THIRD_V4)?, [10, 0, 0, 3], [10, 0, 0, 2])?;
    reflected(&third.wait_path(OUR_V4)?, [10, 0, 0, 1], [10, 0, 0, 2])?;
    drop(third);
    pair.finish()
}

/// A third speaker with one peer.
pub(super) fn third(lan: &Lan, terms: &Terms, peer: IpAddr) -> Result<Ours> {
    Ours::start(&lan.third, &third_config(terms, peer)?)
}

pub(super) fn third_config(terms: &Terms, peer: IpAddr) -> Result<Config> {
    let mut config = config(terms)?;
    config.router_id = Some(RouterId([10, 0, 0, 3].into()));
    config.networks = vec![network(THIRD_V4, terms)?];
    config.peers.first_mut().context("a peer")?.address = peer;
    Ok(config)
}

fn reflected(path: &turnpike_bgpd_api::view::PathView, originator: [u8; 4], cluster: [u8; 4]) -> Result<()> {
    ensure!(
        path.originator_id == Some(RouterId(originator.into())),
        "ORIGINATOR_ID {:?}",
        path.originator_id
    );
    ensure!(path.cluster_list == [RouterId(cluster.into())], "CLUSTER_LIST {:?}", path.cluster_list);
    Ok(())
}
