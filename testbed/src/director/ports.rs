//! Local ports: which source port a server sees for a new session.
//!
//! A 5-tuple towards a server must be unique, so every (protocol, local address, server) has its own pool. A
//! released port goes to the end of the queue: the time until its next use is as long as the pool allows,
//! because a server may still hold the old connection in TIME-WAIT.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
};

use super::{config::PortRange, flow::Protocol};

/// All pools of one director.
#[derive(Debug)]
pub(super) struct LocalPorts {
    addresses: Vec<IpAddr>,
    range: PortRange,
    /// How many ports after the first the pools begin.
    start: u32,
    /// Which local address is asked first for the next session.
    turn: usize,
    pools: HashMap<(Protocol, IpAddr, SocketAddr), Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    /// Ports handed out so far that had never been used before.
    fresh: u32,
    released: VecDeque<u16>,
}

impl LocalPorts {
    pub(super) fn new(addresses: Vec<IpAddr>, range: PortRange, seed: u64) -> Self {
        let size = u64::from(range.last.saturating_sub(range.first)) + 1;
        let start = u32::try_from(seed % size).unwrap_or_default();
        Self { addresses, range, start, turn: 0, pools: HashMap::new() }
    }

    /// A local address and port that no session uses towards `real`; `None` when all are taken.
    pub(super) fn allocate(&mut self, protocol: Protocol, real: SocketAddr) -> Option<SocketAddr> {
        let count = self.addresses.len();
        let first = self.turn;
        self.turn = self.turn.wrapping_add(1);
        for step in 0..count {
            let &address = self.addresses.get(first.wrapping_add(step) % count)?;
            if address.is_ipv4() != real.is_ipv4() {
                continue;
            }
            let pool = self.pools.entry((protocol, address, real)).or_default();
            if let Some(port) = pool.take(self.range, self.start) {
                return Some(SocketAddr::new(address, port));
            }
        }
        None
    }

    /// Gives a port back.
    pub(super) fn release(&mut self, protocol: Protocol, local: SocketAddr, real: SocketAddr) {
        if let Some(pool) = self.pools.get_mut(&(protocol, local.ip(), real)) {
            pool.released.push_back(local.port());
        }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

impl Pool {
    /// Never-used ports first, from `start` on and around; then the one that was released longest ago.
    fn take(&mut self, range: PortRange, start: u32) -> Option<u16> {
        let size = u32::from(range.last.checked_sub(range.first)?) + 1;
        if self.fresh < size {
            let offset = (start + self.fresh) % size;
            self.fresh += 1;
            return u16::try_from(u32::from(range.first) + offset).ok();
        }
        self.released.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const REAL: &str = "10.244.0.5:80";

    fn ports(addresses: &[&str], first: u16, last: u16, seed: u64) -> LocalPorts {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        LocalPorts::new(addresses, PortRange { first, last }, seed)
    }

    #[test]
    fn each_address_and_port_is_given_once_until_released() {
        let real = REAL.parse().unwrap();
        let mut ports = ports(&["10.9.1.1", "10.9.1.2", "fd00::1"], 2000, 2004, 3);
        let all: Vec<_> = std::iter::from_fn(|| ports.allocate(Protocol::Tcp, real)).collect();
        assert_eq!(all.len(), 10);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 10);
        assert!(all.iter().all(|local| (2000..=2004).contains(&local.port()) && local.is_ipv4()));
        assert!(all.iter().any(|local| local.ip() != all[0].ip()), "both addresses are used");
        ports.release(Protocol::Tcp, all[7], real);
        ports.release(Protocol::Tcp, all[1], real);
        assert_eq!(ports.allocate(Protocol::Tcp, real), Some(all[7]), "longest released first");
        assert_eq!(ports.allocate(Protocol::Tcp, real), Some(all[1]));
        assert_eq!(ports.allocate(Protocol::Tcp, real), None);
    }

    #[test]
    fn servers_and_protocols_have_pools_of_their_own() {
        let mut ports = ports(&["10.9.1.1"], 2000, 2000, 0);
        assert!(ports.allocate(Protocol::Tcp, REAL.parse().unwrap()).is_some());
        assert!(ports.allocate(Protocol::Udp, REAL.parse().unwrap()).is_some());
        assert!(ports.allocate(Protocol::Tcp, "10.244.0.5:81".parse().unwrap()).is_some());
        assert!(ports.allocate(Protocol::Tcp, REAL.parse().unwrap()).is_none());
    }

    #[test]
    fn the_whole_port_range_can_be_handed_out() {
        let mut ports = ports(&["10.9.1.1"], 1, 65_535, u64::MAX);
        let real = REAL.parse().unwrap();
        let all: HashSet<_> = std::iter::from_fn(|| ports.allocate(Protocol::Tcp, real)).collect();
        assert_eq!(all.len(), 65_535);
    }
}
