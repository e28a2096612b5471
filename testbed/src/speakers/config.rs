//! What a speaker is told, whichever it is.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use ipnetwork::IpNetwork;

/// The whole configuration of a speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Its autonomous system.
    pub asn: u32,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
    /// RFC 4456 §7; the router id where absent. Only matters with peers that are clients.
    pub cluster_id: Option<Ipv4Addr>,
    /// Its peers.
    pub peers: Vec<PeerConfig>,
    /// What it originates.
    pub announce: Vec<Announcement>,
    /// Whether best paths become routes of the kernel.
    pub kernel: bool,
}

impl SpeakerConfig {
    /// A speaker without peers and announcements that writes no kernel routes.
    #[must_use]
    pub fn new(asn: u32, router_id: Ipv4Addr) -> Self {
        Self { asn, router_id, cluster_id: None, peers: Vec::new(), announce: Vec::new(), kernel: false }
    }

    /// With one more peer.
    #[must_use]
    pub fn peer(mut self, peer: PeerConfig) -> Self {
        self.peers.push(peer);
        self
    }

    /// With one more prefix announced.
    #[must_use]
    pub fn announce(mut self, announcement: impl Into<Announcement>) -> Self {
        self.announce.push(announcement.into());
        self
    }

    /// With its best paths in the kernel.
    #[must_use]
    pub fn kernel(mut self) -> Self {
        self.kernel = true;
        self
    }

    /// With a cluster id.
    #[must_use]
    pub fn cluster_id(mut self, id: Ipv4Addr) -> Self {
        self.cluster_id = Some(id);
        self
    }
}

/// A peer of a speaker. Import and export policy is "all" everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its address.
    pub address: IpAddr,
    /// Its autonomous system; the same as the speaker's for iBGP.
    pub remote_asn: u32,
    /// Our end of the connection; the kernel's choice where absent.
    pub local_address: Option<IpAddr>,
    /// Whether routes of iBGP peers are reflected to it and its own to them (RFC 4456).
    pub rr_client: bool,
    /// Whether what it is sent names the speaker as the next hop. Reflected routes keep theirs.
    pub next_hop_self: bool,
    /// Whether an eBGP peer may be more than a hop away. iBGP peers always may.
    pub multihop: bool,
    /// RFC 4724.
    pub graceful_restart: GracefulRestart,
    /// Which families the session carries.
    pub families: Families,
    /// Proposed hold time in seconds; keepalives are sent at a third of it.
    pub hold_time: u16,
    /// A BFD session beside the BGP session: over one hop for eBGP peers unless `multihop`, over several for iBGP peers.
    pub bfd: Option<Bfd>,
}

/// RFC 5880, as configured at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bfd {
    /// Milliseconds between packets, wanted in both directions.
    pub interval_ms: u32,
    /// So many missing packets in a row are a failure.
    pub multiplier: u8,
    /// No BGP session before the BFD session is up. Only turnpike-bgpd knows this among the daemons here.
    pub strict: bool,
}

impl PeerConfig {
    /// A peer of the family of its address, aware of graceful restart, with a hold time of 90 s.
    #[must_use]
    pub fn new(address: impl Into<IpAddr>, remote_asn: u32) -> Self {
        let address = address.into();
        Self {
            address,
            remote_asn,
            local_address: None,
            rr_client: false,
            next_hop_self: false,
            multihop: false,
            graceful_restart: GracefulRestart::Aware,
            families: Families { ipv4: address.is_ipv4(), ipv6: address.is_ipv6() },
            hold_time: 90,
            bfd: None,
        }
    }

    /// Connecting from this address.
    #[must_use]
    pub fn local_address(mut self, address: impl Into<IpAddr>) -> Self {
        self.local_address = Some(address.into());
        self
    }

    /// As a client of this route reflector.
    #[must_use]
    pub fn rr_client(mut self) -> Self {
        self.rr_client = true;
        self
    }

    /// Being told this speaker as the next hop.
    #[must_use]
    pub fn next_hop_self(mut self) -> Self {
        self.next_hop_self = true;
        self
    }

    /// Possibly more than a hop away.
    #[must_use]
    pub fn multihop(mut self) -> Self {
        self.multihop = true;
        self
    }

    /// With this role in graceful restart.
    #[must_use]
    pub fn graceful_restart(mut self, role: GracefulRestart) -> Self {
        self.graceful_restart = role;
        self
    }

    /// With a BFD session.
    #[must_use]
    pub fn bfd(mut self, interval_ms: u32, multiplier: u8) -> Self {
        self.bfd = Some(Bfd { interval_ms, multiplier, strict: false });
        self
    }

    /// With no BGP session before the BFD session is up, where there is one.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.bfd.iter_mut().for_each(|bfd| bfd.strict = true);
        self
    }

    /// With this hold time, in seconds.
    #[must_use]
    pub fn hold_time(mut self, seconds: u16) -> Self {
        self.hold_time = seconds;
        self
    }
}

/// RFC 4724, as seen from the speaker that is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GracefulRestart {
    /// The capability is not sent.
    Off,
    /// Helps a peer that restarts (§4.2) and does not ask for help itself.
    Aware,
    /// Both §4.1 and §4.2, with this restart time in seconds.
    Restarting(u16),
}

/// The families of a session, both unicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

/// A prefix that a speaker originates, with origin IGP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The prefix.
    pub prefix: IpNetwork,
    /// RFC 1997 communities.
    pub communities: Vec<(u16, u16)>,
    /// MULTI_EXIT_DISC. Where absent, a daemon sends what it does by default (FRR 0, others none).
    pub med: Option<u32>,
}

impl From<IpNetwork> for Announcement {
    fn from(prefix: IpNetwork) -> Self {
        Self { prefix, communities: Vec::new(), med: None }
    }
}

impl Announcement {
    /// A prefix from text such as `10.244.1.0/26`.
    ///
    /// # Errors
    /// When it is no prefix.
    pub fn new(prefix: &str) -> Result<Self> {
        let parsed: IpNetwork = prefix.parse().with_context(|| format!("prefix {prefix:?}"))?;
        Ok(Self::from(parsed))
    }

    /// With one more community.
    #[must_use]
    pub fn community(mut self, high: u16, low: u16) -> Self {
        self.communities.push((high, low));
        self
    }

    /// With a MED.
    #[must_use]
    pub fn med(mut self, med: u32) -> Self {
        self.med = Some(med);
        self
    }
}
