//! Sysctls of one link, as the kernel tells them with the link itself: a dump of all links costs less than opening a
//! dozen files for each.

use crate::netlink::attr;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;

/// A sysctl that exists for each link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LinkSysctl {
    /// `net/ipv4/conf/LINK/…`
    V4(V4),
    /// `net/ipv6/conf/LINK/…`
    V6(V6),
    /// `net/ipv4/neigh/LINK/proxy_delay`, which a link's message does not tell.
    ProxyDelay,
}

/// Places in `IFLA_INET_CONF`: `IPV4_DEVCONF_…` of linux/ip.h, less one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum V4 {
    Forwarding = 0,
    ProxyArp = 2,
    RpFilter = 7,
    AcceptLocal = 22,
    RouteLocalnet = 25,
}

/// Places in `IFLA_INET6_CONF`: `DEVCONF_…` of linux/ipv6.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum V6 {
    Forwarding = 0,
    AcceptRa = 3,
    DisableIpv6 = 26,
    AcceptDad = 27,
    AddrGenMode = 47,
}

impl LinkSysctl {
    /// Its path below /proc/sys.
    pub(crate) fn key(self, link: &str) -> String {
        let (folder, name) = match self {
            Self::V4(V4::Forwarding) => ("ipv4/conf", "forwarding"),
            Self::V4(V4::ProxyArp) => ("ipv4/conf", "proxy_arp"),
            Self::V4(V4::RpFilter) => ("ipv4/conf", "rp_filter"),
            Self::V4(V4::AcceptLocal) => ("ipv4/conf", "accept_local"),
            Self::V4(V4::RouteLocalnet) => ("ipv4/conf", "route_localnet"),
            Self::ProxyDelay => ("ipv4/neigh", "proxy_delay"),
            Self::V6(V6::Forwarding) => ("ipv6/conf", "forwarding"),
            Self::V6(V6::AcceptRa) => ("ipv6/conf", "accept_ra"),
            Self::V6(V6::DisableIpv6) => ("ipv6/conf", "disable_ipv6"),
            Self::V6(V6::AcceptDad) => ("ipv6/conf", "accept_dad"),
            Self::V6(V6::AddrGenMode) => ("ipv6/conf", "addr_gen_mode"),
        };
        format!("net/{folder}/{link}/{name}")
    }
}

/// What a link's message told of its sysctls; nothing where the kernel did not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Devconf {
    v4: Option<[u32; 5]>,
    v6: Option<[u32; 5]>,
}

const ALL_V4: [V4; 5] = [V4::Forwarding, V4::ProxyArp, V4::RpFilter, V4::AcceptLocal, V4::RouteLocalnet];
const ALL_V6: [V6; 5] = [V6::Forwarding, V6::AcceptRa, V6::DisableIpv6, V6::AcceptDad, V6::AddrGenMode];

impl Devconf {
    /// From the value of a link's `IFLA_AF_SPEC`.
    pub(crate) fn parse(families: &[u8]) -> Self {
        let conf = |family, conf| attr::find(attr::find(families, family)?, conf);
        Self {
            v4: conf(AF_INET, IFLA_INET_CONF).and_then(|all| pick(all, ALL_V4.map(|name| name as usize))),
            v6: conf(AF_INET6, IFLA_INET6_CONF).and_then(|all| pick(all, ALL_V6.map(|name| name as usize))),
        }
    }

    /// The value; `None` where the kernel did not tell, and a file in /proc/sys may.
    pub(crate) fn get(&self, sysctl: LinkSysctl) -> Option<u32> {
        let value = |told: &Option<[u32; 5]>, at: Option<usize>| told.as_ref()?.get(at?).copied();
        match sysctl {
            LinkSysctl::V4(name) => value(&self.v4, ALL_V4.iter().position(|other| *other == name)),
            LinkSysctl::V6(name) => value(&self.v6, ALL_V6.iter().position(|other| *other == name)),
            LinkSysctl::ProxyDelay => None,
        }
    }

    /// True where the link speaks IPv6, whether or not that is switched off on it.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.v6.is_some()
    }
}

/// `None` where the kernel's list is too short to have them all.
fn pick(all: &[u8], places: [usize; 5]) -> Option<[u32; 5]> {
    let mut picked = [0; 5];
    for (value, place) in picked.iter_mut().zip(places) {
        *value = attr::u32_at(all, place.checked_mul(4)?)?;
    }
    Some(picked)
}
