//! Names and numbers derived from an endpoint: the same after every restart, without being stored.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use turnpike_model::desired::Endpoint;

use crate::DataplaneError;
use crate::links::Mac;

/// MAC address of every host side: pods' neighbour entries name it, so that a pod can move its link without ARP.
pub(crate) const HOST_MAC: Mac = [0xee; 6];
/// What pods route to; answered by a permanent neighbour entry, never by ARP.
pub(crate) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The EUI-64 link-local address of [`HOST_MAC`].
pub(crate) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// Every link of ours begins with this.
pub(crate) const LINK_PREFIX: &str = "tpk";
/// Every ifb of ours begins with one of these, for what a pod sends and for what it receives; host links go on with a
/// hexadecimal digit.
pub(crate) const IFB_PREFIX: &str = "tpki";
pub(crate) const IFB_TO_POD_PREFIX: &str = "tpkj";
/// Longest interface name that the kernel takes.
const NAME_LIMIT: usize = 15;
/// Smallest MTU that IPv6 works with, RFC 8200 §5.
const MIN_MTU_V6: u32 = 1280;
/// Smallest MTU that IPv4 works with, RFC 791 §3.2.
const MIN_MTU_V4: u32 = 68;

/// The ifb that queues what a pod sends, named after its host link.
pub(crate) fn ifb_name(host_link: &str) -> String {
    named_after(host_link, IFB_PREFIX)
}

/// The ifb that queues what a pod with exempt ranges receives.
pub(crate) fn to_pod_ifb_name(host_link: &str) -> String {
    named_after(host_link, IFB_TO_POD_PREFIX)
}

/// Names of all links that a pod may have: the host link, and both ifbs.
pub(crate) fn links_of(host_link: &str) -> [String; 3] {
    [host_link.to_owned(), ifb_name(host_link), to_pod_ifb_name(host_link)]
}

/// Whether what the pod receives is queued there, and not on the host link.
pub(crate) fn queues_at_ifb(endpoint: &Endpoint) -> bool {
    endpoint.limits.to_workload.is_some() && !endpoint.exempt.is_empty()
}

fn named_after(host_link: &str, prefix: &str) -> String {
    let tail = host_link.strip_prefix(LINK_PREFIX).unwrap_or(host_link);
    prefix.chars().chain(tail.chars()).take(NAME_LIMIT).collect()
}

/// The pod's MAC address: as the runtime asked, else derived.
pub(crate) fn mac_of(endpoint: &Endpoint) -> Mac {
    endpoint.mac.unwrap_or_else(|| pod_mac(&endpoint.host_link))
}

/// The derived MAC address: locally administered, unicast, derived from the host link's name, so that the host's
/// neighbour entries can be put back without entering the pod.
pub(crate) fn pod_mac(host_link: &str) -> Mac {
    let hash = fnv1a(host_link.as_bytes());
    let [_, _, a, b, c, d, e, f] = hash.to_be_bytes();
    [(a & 0xfc) | 0x02, b, c, d, e, f]
}

/// The link-local address that a pod's end gets: EUI-64 of its MAC, RFC 4291 appendix A.
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let interface = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let prefix = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];
    Ipv6Addr::from_bits(
        (u128::from(u64::from_be_bytes(prefix)) << 64) | u128::from(u64::from_be_bytes(interface)),
    )
}

/// FNV-1a, 64 bits: a fixed hash, where std's may change between releases.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// An address as a prefix of one: /32 or /128.
pub(crate) fn host_prefix(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// The gateway of the address's family.
pub(crate) fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() }
}

fn is_ifb(link: &str) -> bool {
    [IFB_PREFIX, IFB_TO_POD_PREFIX].iter().any(|prefix| link.starts_with(prefix))
}

/// Refuses an endpoint that no kernel object can be made of.
pub(crate) fn validate(endpoint: &Endpoint) -> Result<(), DataplaneError> {
    let bad = |message: String| {
        Err(DataplaneError::BadEndpoint {
            id: format!("{}/{}", endpoint.id.container_id, endpoint.id.ifname),
            message,
        })
    };
    let (link, ifname) = (&endpoint.host_link, &endpoint.id.ifname);
    if !link.starts_with(LINK_PREFIX) || is_ifb(link) || link.len() > NAME_LIMIT {
        return bad(format!("host link {link:?} is not {LINK_PREFIX} and at most 12 further characters"));
    }
    let sound = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':' && byte != b'%';
    for name in [link, ifname] {
        if name.is_empty() || name.len() > NAME_LIMIT || name == "lo" || !name.bytes().all(sound) {
            return bad(format!("{name:?} is no interface name"));
        }
    }
    let count = |v4| endpoint.addresses.iter().filter(|address| address.is_ipv4() == v4).count();
    if endpoint.addresses.is_empty() || count(true) > 1 || count(false) > 1 {
        return bad("needs one address, or one of each family".to_owned());
    }
    if endpoint.mac.is_some_and(|mac| mac == [0; 6] || mac[0] & 1 != 0) {
        return bad("its MAC address is zero, or a group's".to_owned());
    }
    let least = if count(false) > 0 { MIN_MTU_V6 } else { MIN_MTU_V4 };
    if endpoint.mtu < least || endpoint.mtu > 65535 {
        return bad(format!("MTU {} is outside {least}..=65535", endpoint.mtu));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v6_gateway_is_the_eui64_of_the_host_mac() {
        assert_eq!(link_local(HOST_MAC), GATEWAY_V6);
    }

    #[test]
    fn derived_names_fit_and_differ_from_host_links() {
        let name = ifb_name("tpk0123456789ab");
        assert_eq!(name, "tpki0123456789a");
        assert!(name.len() <= NAME_LIMIT);
        assert_eq!(to_pod_ifb_name("tpk0123456789ab"), "tpkj0123456789a");
        assert!(!is_ifb("tpk0123456789ab"));
    }

    #[test]
    fn a_pods_mac_is_unicast_and_locally_administered() {
        for link in ["tpk0", "tpk1", "tpkffffffffffff"] {
            assert_eq!(pod_mac(link)[0] & 3, 2);
        }
        assert_ne!(pod_mac("tpk0"), pod_mac("tpk1"));
    }
}
