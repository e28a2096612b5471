//! Hands this node's part to turnpike-bgpd: peers, blocks, and what may be learned.
//!
//! bgpd keeps the part over its own restarts. It is pushed once the data plane stands, when it changes, and again when
//! bgpd says that it has not got it. ADD never waits for this.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use turnpike_bgpd_api::config::{NextHop, Node, PolicyChoice, PrefixRule, RemoteAs};
use turnpike_bgpd_api::{Asn, Client, ClientError, Network, Part, Peer, RouterId};
use turnpike_model::bgp::{BgpPeerSpec, NextHopMode};
use turnpike_model::desired::BgpPart;

use crate::agent::{Agent, BgpDelivery};

/// Under which bgpd knows our part.
pub(crate) const OWNER: &str = "turnpike-agent";
/// Longest wait for bgpd's answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Without a change bgpd is asked this often whether it still has the part.
const LOOK: Duration = Duration::from_secs(5);

/// Pushes until the agent ends.
pub(crate) async fn hand_over(agent: Arc<Agent>) {
    loop {
        let work = tokio::task::spawn_blocking({
            let agent = Arc::clone(&agent);
            move || round(&agent)
        });
        if work.await.is_err() {
            tracing::error!("handing the node's part to bgpd failed");
        }
        tokio::select! {
            () = agent.bgp_changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn round(agent: &Agent) {
    // Traffic that comes before routes, rules and programs stand would be lost, or bounced back (calico#11523). What a bgpd
    // has from an agent before this one stays.
    if agent.health().last_apply.is_none() {
        agent.health().bgp.error = Some("waits for the data plane's first round".to_owned());
        return;
    }
    let wanted = agent.books().node_state().bgp;
    let before = agent.health().bgp.clone();
    let after = match deliver(&agent.config.bgpd.socket, &wanted, &before) {
        Ok(Some(refused)) => {
            tracing::info!(
                networks = wanted.networks.len(),
                peers = wanted.peers.len(),
                "bgpd has the node's part"
            );
            for piece in &refused {
                tracing::warn!("bgpd does not take: {piece}");
            }
            BgpDelivery { delivered: Some(wanted), error: None, refused }
        }
        Ok(None) => BgpDelivery { error: None, ..before },
        Err(error) => {
            let error = error.to_string();
            if before.error.as_ref() != Some(&error) {
                tracing::warn!("bgpd has not got the node's part: {error}");
            }
            BgpDelivery { error: Some(error), ..before }
        }
    };
    agent.health().bgp = after;
}

/// Pushes the part unless bgpd has it. `Some` tells that it was pushed, and what was refused.
fn deliver(
    socket: &Path,
    wanted: &BgpPart,
    before: &BgpDelivery,
) -> Result<Option<Vec<String>>, ClientError> {
    let mut client = Client::connect(socket, TIMEOUT)?;
    if before.delivered.as_ref() == Some(wanted) {
        let parts = client.status()?.parts;
        if parts.iter().any(|part| part.owner == OWNER) {
            return Ok(None);
        }
    }
    client.push(part(wanted)).map(Some)
}

/// Takes our part back, when the node is given up.
pub(crate) fn withdraw(socket: &Path) -> Result<(), ClientError> {
    let mut client = Client::connect(socket, TIMEOUT)?;
    client.request(&turnpike_bgpd_api::Request::Drop { owner: OWNER.to_owned() }).map(drop)
}

fn part(wanted: &BgpPart) -> Part {
    let accept = wanted.accept.iter().map(|(pool, longest)| PrefixRule {
        prefix: (*pool).into(),
        ge: None,
        le: Some(*longest),
    });
    Part {
        owner: OWNER.to_owned(),
        asn: wanted.asn.map(Asn),
        router_id: wanted.router_id.map(RouterId::from),
        node: Some(Node { accept: accept.collect() }),
        peers: wanted.peers.iter().map(|(name, spec)| peer(name, spec)).collect(),
        networks: wanted.networks.iter().map(|block| Network::new((*block).into())).collect(),
        ..Part::default()
    }
}

fn peer(name: &str, spec: &BgpPeerSpec) -> Peer {
    let mut peer = Peer::new(spec.peer_address, RemoteAs::Number(Asn(spec.as_number)));
    peer.name = Some(name.to_owned());
    peer.local_address = spec.source_address;
    peer.port = spec.port.unwrap_or(peer.port);
    peer.ttl = spec.multihop_ttl;
    peer.password_file = spec.password_file.as_ref().map(Into::into);
    peer.hold_time = spec.hold_time.unwrap_or(peer.hold_time);
    peer.next_hop = match spec.next_hop {
        NextHopMode::Standard => NextHop::Auto,
        NextHopMode::SelfAddress => NextHop::SelfExternal,
        NextHopMode::Unchanged => NextHop::Unchanged,
    };
    peer.import = policy(spec.import_policy.as_deref());
    peer.export = policy(spec.export_policy.as_deref());
    peer
}

fn policy(name: Option<&str>) -> PolicyChoice {
    match name {
        None | Some("default") => PolicyChoice::Default,
        Some("accept-all") => PolicyChoice::AcceptAll,
        Some("reject-all") => PolicyChoice::RejectAll,
        Some(name) => PolicyChoice::Named(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_pools_and_peers_become_bgpds_terms() {
        let spec: BgpPeerSpec = serde_json::from_str(
            r#"{"peerAddress":"10.1.3.21","asNumber":65001,"nextHop":"Self","holdTime":30,"importPolicy":"accept-all"}"#,
        )
        .unwrap();
        let wanted = BgpPart {
            asn: Some(65001),
            router_id: Some([10, 1, 1, 11].into()),
            peers: [("rr1".to_owned(), spec)].into(),
            networks: ["10.244.1.0/26".parse().unwrap()].into(),
            accept: [("10.244.0.0/16".parse().unwrap(), 26)].into(),
        };
        let part = part(&wanted);
        assert_eq!(part.node.unwrap().accept[0].to_string(), "10.244.0.0/16 le 26");
        assert_eq!(part.networks[0].prefix.to_string(), "10.244.1.0/26");
        assert!(!part.networks[0].blackhole, "the agent keeps the blackhole itself");
        let peer = &part.peers[0];
        assert_eq!((peer.label().as_str(), peer.hold_time, peer.port), ("rr1", 30, 179));
        assert_eq!((peer.next_hop, &peer.import), (NextHop::SelfExternal, &PolicyChoice::AcceptAll));
    }
}
