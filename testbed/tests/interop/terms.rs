//! What a session of the matrix is about, for both sides, whoever they are.
//!
//! ```text
//! ours  10.1.3.1, fd00:1:3::1 ──┐
//! peer  10.1.3.2, fd00:1:3::2 ──┼── switch
//! third 10.1.3.3, fd00:1:3::3 ──┘            (turnpike-bgpd, only where routes are reflected)
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;
use turnpike_bgpd_api::Role;
use turnpike_testbed::{Lab, Node};

/// For everything that takes its time. Generous: some daemons wait for half a minute before they connect again.
pub(crate) const DEADLINE: Duration = Duration::from_secs(45);

/// What we announce.
pub(crate) const OUR_V4: &str = "10.50.0.0/16";
pub(crate) const OUR_V6: &str = "fd00:50::/48";
/// What the peer announces.
pub(crate) const THEIR_V4: [&str; 3] = ["10.60.0.0/16", "10.61.0.0/16", "10.62.0.0/16"];
pub(crate) const THEIR_V6: &str = "fd00:60::/48";
/// What the third speaker announces.
pub(crate) const THIRD_V4: &str = "10.70.0.0/16";

/// The terms of a session.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// The session runs over IPv6.
    pub(crate) over_v6: bool,
    /// It carries IPv4 prefixes.
    pub(crate) ipv4: bool,
    /// It carries IPv6 prefixes.
    pub(crate) ipv6: bool,
    pub(crate) our_as: u32,
    pub(crate) their_as: u32,
    pub(crate) their_id: Ipv4Addr,
    /// IPv4 prefixes over IPv6 next hops (RFC 8950).
    pub(crate) next_hop_v6: bool,
    /// Restarts keep routes (RFC 4724).
    pub(crate) restarting: bool,
    /// The peer's TCP-MD5 password.
    pub(crate) password: Option<&'static str>,
    /// The peer sends with TTL 255 and wants the same (RFC 5082).
    pub(crate) gtsm: bool,
    /// The peer takes so many prefixes of ours and no more.
    pub(crate) their_limit: Option<u32>,
    pub(crate) hold_time: u16,
    /// The peer reflects between us and the third speaker.
    pub(crate) they_reflect: bool,
    /// The peer asks for BFD.
    pub(crate) bfd: bool,
    /// The peer announces several paths of a prefix and wants to hear several (RFC 7911).
    pub(crate) add_path: bool,
    /// The peer keeps stale routes for long (RFC 9494), and its restart time is a second.
    pub(crate) long_lived: bool,
    /// So long the peer waits for a connection, in seconds; `None`: as short as it can.
    pub(crate) their_patience: Option<u16>,
    /// What the peer says that it is to us (RFC 9234).
    pub(crate) their_role: Option<Role>,
    /// What the peer announces.
    pub(crate) prefixes: Vec<&'static str>,
}

impl Terms {
    /// External, over IPv4, for IPv4.
    pub(crate) fn v4() -> Self {
        Self {
            over_v6: false,
            ipv4: true,
            ipv6: false,
            our_as: 65001,
            their_as: 65002,
            their_id: Ipv4Addr::new(10, 0, 0, 2),
            next_hop_v6: false,
            restarting: false,
            password: None,
            gtsm: false,
            their_limit: None,
            hold_time: 90,
            they_reflect: false,
            bfd: false,
            add_path: false,
            long_lived: false,
            their_patience: None,
            their_role: None,
            prefixes: vec![THEIR_V4[0]],
        }
    }

    /// External, over IPv6, for IPv6.
    pub(crate) fn v6() -> Self {
        Self { over_v6: true, ipv4: false, ipv6: true, prefixes: vec![THEIR_V6], ..Self::v4() }
    }

    /// Internal, over IPv4, for IPv4.
    pub(crate) fn internal() -> Self {
        Self { their_as: 65001, ..Self::v4() }
    }

    /// Our address.
    pub(crate) fn ours(&self) -> IpAddr {
        self.address(1)
    }

    /// The peer's.
    pub(crate) fn theirs(&self) -> IpAddr {
        self.address(2)
    }

    /// The third speaker's.
    pub(crate) fn third(&self) -> IpAddr {
        self.address(3)
    }

    fn address(&self, host: u8) -> IpAddr {
        if self.over_v6 {
            Ipv6Addr::new(0xfd00, 1, 3, 0, 0, 0, 0, host.into()).into()
        } else {
            Ipv4Addr::new(10, 1, 3, host).into()
        }
    }

    /// What the peer's prefixes carry, `65002:1:2`.
    pub(crate) fn their_large(&self) -> [u32; 3] {
        [self.their_as, 1, 2]
    }

    /// The families by their names in most configurations.
    pub(crate) fn families(&self) -> impl Iterator<Item = &'static str> {
        [("ipv4", self.ipv4), ("ipv6", self.ipv6)].into_iter().filter(|(_, on)| *on).map(|(name, _)| name)
    }
}

/// Whether a prefix is of IPv4.
pub(crate) fn is_v4(prefix: &str) -> bool {
    !prefix.contains(':')
}

/// The nodes.
pub(crate) struct Lan {
    pub(crate) lab: Lab,
    pub(crate) ours: Node,
    pub(crate) peer: Node,
    pub(crate) third: Node,
}

impl Lan {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let switch = lab.node("switch")?;
        let member = |number: u8, name: &str| -> Result<Node> {
            let node = lab.node(name)?;
            let _ = lab.link(&switch, &format!("p{number}"), &node, "eth0")?;
            node.sysctl("net.ipv6.conf.eth0.accept_dad", "0")?;
            node.addr("eth0", &format!("10.1.3.{number}/24"))?;
            node.addr("eth0", &format!("fd00:1:3::{number}/64"))?;
            Ok(node)
        };
        let (ours, peer, third) = (member(1, "ours")?, member(2, "peer")?, member(3, "third")?);
        switch.bridge("br0", &["p1", "p2", "p3"])?;
        Ok(Self { lab, ours, peer, third })
    }
}
