//! How full the connection tracking table is, who fills it, and what it had to refuse.
//!
//! Asks the kernel by ctnetlink: the same figures as `/proc/net/stat/nf_conntrack`, which not every kernel has. The
//! table itself is read only up to a bound, so that a table of millions costs no more than one of thousands.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::netlink::attr;
use crate::netlink::{Netlink, Request};

use super::{GET, HEADER, TUPLE_IP, TUPLE_ORIGINAL, TUPLE_REPLY};

const GET_STATS_CPU: u16 = (1 << 8) | 4;
const GET_STATS: u16 = (1 << 8) | 5;
const GLOBAL_ENTRIES: u16 = 1;
const GLOBAL_MAX: u16 = 2;
/// `CTA_STATS_…` of linux/netfilter/nfnetlink_conntrack.h that are still counted, with names for people.
const PER_CPU: [(u16, &str); 9] = [
    (2, "found"),
    (4, "invalid"),
    (9, "insert_failed"),
    (10, "drop"),
    (11, "early_drop"),
    (12, "error"),
    (13, "search_restart"),
    (14, "clash_resolve"),
    (15, "chain_too_long"),
];

/// The connection tracking table of this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConntrackUsage {
    /// Entries now.
    pub entries: u64,
    /// Entries that fit (`net.netfilter.nf_conntrack_max`).
    pub max: u64,
    /// Events since boot by name, summed over CPUs: `found`, `invalid`, `insert_failed`, `drop`, `early_drop`,
    /// `error`, `search_restart`, `clash_resolve`, `chain_too_long`.
    pub events: BTreeMap<&'static str, u64>,
}

/// How many entries name an address, in the part of the table that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConntrackByAddress {
    /// Entries by address; an entry between two of the addresses counts for both.
    pub entries: BTreeMap<IpAddr, u64>,
    /// Entries that were read.
    pub read: u64,
    /// The table was read to its end.
    pub complete: bool,
}

impl ConntrackUsage {
    /// Asks the kernel, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's words: it has no connection tracking, or not enough privileges.
    pub fn read() -> Result<Self, String> {
        let mut netlink = open()?;
        let mut usage = Self::default();
        let body = || vec![0; HEADER];
        let totals = netlink
            .get(&Request { kind: GET_STATS, flags: 0, body: body() })
            .map_err(|refusal| refusal.words())?;
        let attributes = totals.body.get(HEADER..).unwrap_or_default();
        usage.entries = attr::find_be32(attributes, GLOBAL_ENTRIES).unwrap_or_default().into();
        usage.max = attr::find_be32(attributes, GLOBAL_MAX).unwrap_or_default().into();
        let cpus = netlink
            .dump(&Request { kind: GET_STATS_CPU, flags: 0, body: body() })
            .map_err(|refusal| refusal.words())?;
        for cpu in &cpus {
            let attributes = cpu.body.get(HEADER..).unwrap_or_default();
            for (kind, name) in PER_CPU {
                let value = attr::find_be32(attributes, kind).unwrap_or_default();
                let sum = usage.events.entry(name).or_default();
                *sum = sum.saturating_add(value.into());
            }
        }
        Ok(usage)
    }
}

impl ConntrackByAddress {
    /// Counts the entries of each of `addresses` among the first `bound` entries of the table.
    ///
    /// # Errors
    /// As for [`ConntrackUsage::read`].
    pub fn read(addresses: &[IpAddr], bound: u64) -> Result<Self, String> {
        let mut counted = Self { complete: true, ..Self::default() };
        let wanted: BTreeMap<Vec<u8>, IpAddr> =
            addresses.iter().map(|address| (octets(*address), *address)).collect();
        counted.entries.extend(addresses.iter().map(|address| (*address, 0)));
        for family in [libc::AF_INET, libc::AF_INET6] {
            // A socket for each: the one that ends a dump early is thrown away with what is still under way.
            let mut netlink = open()?;
            let body = vec![u8::try_from(family).unwrap_or_default(), 0, 0, 0];
            let complete = netlink
                .dump_until(&Request { kind: GET, flags: 0, body }, |body| {
                    counted.read = counted.read.saturating_add(1);
                    for address in parties(body, &wanted) {
                        let count = counted.entries.entry(address).or_default();
                        *count = count.saturating_add(1);
                    }
                    counted.read < bound
                })
                .map_err(|refusal| refusal.words())?;
            counted.complete &= complete;
            if !complete {
                break;
            }
        }
        Ok(counted)
    }
}

fn open() -> Result<Netlink, String> {
    Netlink::open(libc::NETLINK_NETFILTER).map_err(|error| format!("open a conntrack socket: {error}"))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The wanted addresses that an entry names, each once.
fn parties(entry: &[u8], wanted: &BTreeMap<Vec<u8>, IpAddr>) -> Vec<IpAddr> {
    let attributes = entry.get(HEADER..).unwrap_or_default();
    let mut named: Vec<IpAddr> = [TUPLE_ORIGINAL, TUPLE_REPLY]
        .iter()
        .filter_map(|tuple| attr::find(attributes, *tuple))
        .filter_map(|tuple| attr::find(tuple, TUPLE_IP))
        .flat_map(attr::iter)
        .filter_map(|(_, value)| wanted.get(value).copied())
        .collect();
    named.sort_unstable();
    named.dedup();
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::Attributes;

    #[test]
    fn an_entry_counts_once_for_each_address_that_it_names() {
        let pod: IpAddr = "10.244.1.5".parse().unwrap();
        let other: IpAddr = "10.244.1.6".parse().unwrap();
        let wanted = BTreeMap::from([(octets(pod), pod), (octets(other), other)]);
        let tuple = |from: [u8; 4], to: [u8; 4]| {
            let ips = Attributes::default().put(1, &from).put(2, &to);
            Attributes::default().nest(TUPLE_IP, &ips)
        };
        let list = Attributes::default()
            .nest(TUPLE_ORIGINAL, &tuple([10, 244, 1, 5], [192, 0, 2, 1]))
            .nest(TUPLE_REPLY, &tuple([192, 0, 2, 1], [10, 244, 1, 5]));
        let mut entry = vec![0; HEADER];
        entry.extend(list.bytes());
        assert_eq!(parties(&entry, &wanted), [pod]);
        assert_eq!(parties(&[], &wanted), [] as [IpAddr; 0]);
    }
}
