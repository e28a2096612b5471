//! What one AS is to another.

use anyhow::{Context as _, Result, ensure};
use turnpike_bgpd_api::config::{Aggregate, LocalAs};
use turnpike_bgpd_api::{Asn, Role};

use super::Pair;
use crate::ours::network;
use crate::peers::Kind;
use crate::terms::{OUR_V4, THEIR_V4, Terms};

/// Around [`OUR_V4`], and around nothing of the peer's.
const AROUND: &str = "10.48.0.0/14";
/// The AS number that we have besides the one that the peer knows.
const RENAMED: u32 = 65009;

pub(crate) fn roles(kind: Kind) -> Result<()> {
    for (ours, theirs) in [(Role::Customer, Role::Provider), (Role::Provider, Role::Customer)] {
        let terms = Terms { their_role: Some(theirs), ..Terms::v4() };
        let pair = Pair::start_with("roles", kind, terms, |config| {
            let peer = config.peers.first_mut().context("our peer")?;
            (peer.role, peer.role_strict) = (Some(ours), true);
            Ok(())
        })?;
        pair.wait_up()?;
        // Whoever lets a path down says so in it, and whoever takes it from above without a word adds it.
        let path = pair.ours.wait_path(THEIR_V4[0])?;
        let down = (theirs == Role::Provider).then_some(Asn(pair.terms.their_as));
        ensure!(path.only_to_customer == down, "{ours}: OTC is {:?}", path.only_to_customer);
        let spelled = pair.peer.otc(pair.terms.our_as);
        let said = pair.peer.wait_route(OUR_V4, &[])?;
        let marked = said.contains(&spelled);
        ensure!(marked == (ours == Role::Provider), "{ours}: looked for {spelled:?} in\n{said}");
        pair.finish()?;
    }
    let terms = Terms { their_role: Some(Role::Provider), ..Terms::v4() };
    let pair = Pair::start_with("roles", kind, terms, |config| {
        config.peers.first_mut().context("our peer")?.role = Some(Role::Peer);
        Ok(())
    })?;
    pair.ours.wait_notification(&["Role Mismatch"])?;
    pair.finish()
}

pub(crate) fn local_as(kind: Kind) -> Result<()> {
    let pair = Pair::start_with("local-as", kind, Terms::v4(), |config| {
        let known = config.asn.replace(Asn(RENAMED)).context("our AS number")?;
        let peer = config.peers.first_mut().context("our peer")?;
        peer.local_as = Some(LocalAs { asn: known, no_prepend: false, replace_as: false });
        Ok(())
    })?;
    pair.wait_up()?;
    pair.peer.wait_route(OUR_V4, &[&format!("{} {RENAMED}", pair.terms.our_as)])?;
    pair.ours.wait_path(THEIR_V4[0])?;
    let path = pair.ours.best(THEIR_V4[0])?.context("their prefix is not used")?;
    let wanted = format!("{} {}", pair.terms.our_as, pair.terms.their_as);
    ensure!(path.as_path == wanted, "the AS_PATH is {}", path.as_path);
    pair.finish()
}

pub(crate) fn aggregates(kind: Kind) -> Result<()> {
    let around = |summary_only| -> Result<Aggregate> {
        Ok(Aggregate {
            prefix: AROUND.parse()?,
            summary_only,
            med: None,
            local_pref: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
        })
    };
    let mut kept = None;
    let pair = Pair::start_with("aggregates", kind, Terms::v4(), |config| {
        config.aggregates.push(around(true)?);
        kept = Some(config.clone());
        Ok(())
    })?;
    let mut config = kept.context("our configuration")?;
    pair.wait_up()?;
    let said = pair.peer.wait_route(AROUND, &[&pair.terms.our_as.to_string()])?;
    let said = said.to_lowercase();
    ensure!(said.contains("atomic") || said.contains("aggregat"), "nothing says that it is one:\n{said}");
    ensure!(pair.peer.route(OUR_V4)?.trim().is_empty(), "what is inside has been told, too");

    config.aggregates = vec![around(false)?];
    pair.ours.reload(&config)?;
    pair.peer.wait_route(OUR_V4, &[])?;
    config.networks = vec![network("10.9.0.0/16", &pair.terms)?];
    pair.ours.reload(&config)?;
    pair.peer.wait_no_route(AROUND)?;
    pair.finish()
}
