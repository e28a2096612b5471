//! The routers of the demo's data centre: two different route reflectors, a ToR and two gateways.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use super::topology::Network;
use crate::speakers::{Announcement, GracefulRestart, Kind, PeerConfig, Speaker, SpeakerConfig};

/// The data centre's AS, and the other one's.
pub(super) const AS: u32 = 65001;
pub(super) const OTHER_AS: u32 = 65002;

/// One running daemon for each.
pub(super) struct Routers {
    pub(super) rr1: Box<dyn Speaker>,
    pub(super) rr2: Box<dyn Speaker>,
    pub(super) tor: Box<dyn Speaker>,
    pub(super) gw1: Box<dyn Speaker>,
    pub(super) gw2: Box<dyn Speaker>,
}

/// Both addresses of a box.
type Pair = [&'static str; 2];

const NODE1: Pair = ["10.1.1.11", "fd00:1:1::11"];
const NODE2: Pair = ["10.1.2.12", "fd00:1:2::12"];
const TOR: Pair = ["10.1.3.1", "fd00:1:3::1"];
const GW1: Pair = ["10.1.4.2", "fd00:1:4::2"];
const RR1: Pair = ["10.1.3.21", "fd00:1:3::21"];
const RR2: Pair = ["10.1.3.22", "fd00:1:3::22"];
const GW1_OUT: Pair = ["10.3.0.1", "fd00:3::1"];
const GW2_OUT: Pair = ["10.3.0.2", "fd00:3::2"];

impl Routers {
    /// Starts them; sessions with the nodes come up when those do.
    pub(super) fn start(network: &Network) -> Result<Self> {
        let reflector = |id: u8| {
            let mut config =
                SpeakerConfig::new(AS, Ipv4Addr::new(10, 1, 3, id)).cluster_id(Ipv4Addr::new(10, 1, 3, 0));
            for client in [NODE1, NODE2, TOR, GW1] {
                config = peers(config, client, AS, PeerConfig::rr_client)?;
            }
            Ok::<_, anyhow::Error>(config)
        };
        let client = |config: SpeakerConfig, local: Pair, adjust: fn(PeerConfig) -> PeerConfig| {
            [RR1, RR2]
                .into_iter()
                .try_fold(config, |config, reflector| from(config, local, reflector, AS, adjust))
        };
        let tor = client(SpeakerConfig::new(AS, Ipv4Addr::new(10, 1, 3, 1)).kernel(), TOR, |peer| peer)?;
        let gw1 = SpeakerConfig::new(AS, Ipv4Addr::new(10, 1, 4, 2)).kernel();
        let gw1 = client(gw1, GW1, PeerConfig::next_hop_self)?;
        let gw1 = from(gw1, GW1_OUT, GW2_OUT, OTHER_AS, |peer| peer)?
            .announce(Announcement::new("10.1.0.0/16")?)
            .announce(Announcement::new("fd00:1::/32")?);
        let gw2 = SpeakerConfig::new(OTHER_AS, Ipv4Addr::new(10, 3, 0, 2)).kernel();
        let gw2 = from(gw2, GW2_OUT, GW1_OUT, AS, |peer| peer)?
            .announce(Announcement::new("10.2.0.0/16")?)
            .announce(Announcement::new("fd00:2::/32")?);
        Ok(Self {
            rr1: Kind::Bird.start(&network.rr1, &reflector(21)?)?,
            rr2: Kind::Turnpike.start(&network.rr2, &reflector(22)?)?,
            tor: Kind::Frr.start(&network.tor, &tor)?,
            gw1: Kind::Frr.start(&network.gw1, &gw1)?,
            gw2: Kind::Frr.start(&network.gw2, &gw2)?,
        })
    }
}

fn peers(
    config: SpeakerConfig,
    remote: Pair,
    asn: u32,
    adjust: fn(PeerConfig) -> PeerConfig,
) -> Result<SpeakerConfig> {
    remote.into_iter().try_fold(config, |config, address| {
        let peer = PeerConfig::new(address.parse::<IpAddr>()?, asn);
        Ok(config.peer(adjust(peer.graceful_restart(GracefulRestart::Restarting(120)))))
    })
}

fn from(
    config: SpeakerConfig,
    local: Pair,
    remote: Pair,
    asn: u32,
    adjust: fn(PeerConfig) -> PeerConfig,
) -> Result<SpeakerConfig> {
    local.into_iter().zip(remote).try_fold(config, |config, (local, remote)| {
        let peer = PeerConfig::new(remote.parse::<IpAddr>()?, asn).local_address(local.parse::<IpAddr>()?);
        Ok(config.peer(adjust(peer.graceful_restart(GracefulRestart::Restarting(120)))))
    })
}
