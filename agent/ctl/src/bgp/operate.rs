//! What operators do by hand.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use turnpike_bgpd_api::{Client, Community, LargeCommunity, Network, Prefix, Reply, Request};

use super::show;
use crate::Global;

/// A prefix to originate.
#[derive(Debug, Args)]
pub(crate) struct Announcement {
    /// The prefix.
    prefix: Prefix,
    /// COMMUNITIES (`65001:7`, `no-export`); may be given several times.
    #[arg(long)]
    community: Vec<Community>,
    /// LARGE_COMMUNITIES (`65001:1:2`); may be given several times.
    #[arg(long)]
    large_community: Vec<LargeCommunity>,
    /// MULTI_EXIT_DISC.
    #[arg(long)]
    med: Option<u32>,
    /// LOCAL_PREF inside the AS.
    #[arg(long)]
    local_pref: Option<u32>,
    /// Keep a blackhole route for it in the kernel.
    #[arg(long)]
    blackhole: bool,
}

/// Shows what came of a change of the operator's part.
fn pushed(global: &Global, client: &mut Client, request: &Request, done: &str) -> Result<ExitCode> {
    let Reply::Pushed { refused } = client.request(request)? else {
        bail!("turnpike-bgpd answered something else than was asked");
    };
    let taken = refused.is_empty();
    show(global.output, &refused, |refused| match taken {
        true => format!("{done}\n"),
        false => refused.iter().map(|piece| format!("not taken: {piece}\n")).collect(),
    })?;
    Ok(if taken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `turnpike bgp announce`.
pub(super) fn announce(global: &Global, client: &mut Client, from: &Announcement) -> Result<ExitCode> {
    let network = Network {
        blackhole: from.blackhole,
        med: from.med,
        local_pref: from.local_pref,
        communities: from.community.clone(),
        large_communities: from.large_community.clone(),
        ..Network::new(from.prefix)
    };
    pushed(global, client, &Request::Announce { network }, &format!("announcing {}", from.prefix))
}

/// `turnpike bgp withdraw`.
pub(super) fn withdraw(global: &Global, client: &mut Client, prefix: Prefix) -> Result<ExitCode> {
    pushed(global, client, &Request::Withdraw { prefix }, &format!("no longer announcing {prefix}"))
}

/// `turnpike bgp peer NAME --shutdown` and `--enable`.
pub(super) fn hold(
    global: &Global,
    client: &mut Client,
    peer: &str,
    message: Option<&String>,
) -> Result<ExitCode> {
    let done = match message {
        Some(_) => format!("{peer} is kept down until `turnpike bgp peer {peer} --enable`"),
        None => format!("{peer} may come up"),
    };
    let request = Request::Hold { peer: peer.to_owned(), message: message.cloned() };
    pushed(global, client, &request, &done)
}

/// `turnpike bgp soft-reset`.
pub(super) fn soft_reset(
    global: &Global,
    client: &mut Client,
    peer: &str,
    (inbound, outbound): (bool, bool),
) -> Result<ExitCode> {
    let both = !inbound && !outbound;
    let request =
        Request::SoftReset { peer: peer.to_owned(), inbound: inbound || both, outbound: outbound || both };
    let Reply::Done { notes } = client.request(&request)? else {
        bail!("turnpike-bgpd answered something else than was asked");
    };
    show(global.output, &notes, |notes| notes.iter().map(|note| format!("{note}\n")).collect())
}
