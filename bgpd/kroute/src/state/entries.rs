//! What is wanted and known of each prefix, in little memory: a table of routes may be a full one.

use std::collections::VecDeque;
use std::hash::Hash;

use hashbrown::HashMap;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::Entry;

/// Rooms that are not given back.
const SMALL: usize = 1024;

/// By family, because an IPv4 prefix takes a third of the room. In no order.
#[derive(Debug, Default)]
pub(super) struct Entries {
    v4: HashMap<Ipv4Network, Entry>,
    v6: HashMap<Ipv6Network, Entry>,
}

impl Entries {
    pub(super) fn get(&self, prefix: IpNetwork) -> Option<&Entry> {
        match prefix {
            IpNetwork::V4(prefix) => self.v4.get(&prefix),
            IpNetwork::V6(prefix) => self.v6.get(&prefix),
        }
    }

    pub(super) fn get_mut(&mut self, prefix: IpNetwork) -> Option<&mut Entry> {
        match prefix {
            IpNetwork::V4(prefix) => self.v4.get_mut(&prefix),
            IpNetwork::V6(prefix) => self.v6.get_mut(&prefix),
        }
    }

    /// The prefix's entry, made if there is none.
    pub(super) fn hold(&mut self, prefix: IpNetwork) -> &mut Entry {
        match prefix {
            IpNetwork::V4(prefix) => self.v4.entry(prefix).or_default(),
            IpNetwork::V6(prefix) => self.v6.entry(prefix).or_default(),
        }
    }

    pub(super) fn remove(&mut self, prefix: IpNetwork) {
        match prefix {
            IpNetwork::V4(prefix) => remove(&mut self.v4, &prefix),
            IpNetwork::V6(prefix) => remove(&mut self.v6, &prefix),
        }
    }

    /// The prefixes of the entries that `which` picks, in order.
    pub(super) fn which(&self, which: impl Fn(IpNetwork, &Entry) -> bool) -> Vec<IpNetwork> {
        let v4 = self.v4.iter().map(|(prefix, entry)| (IpNetwork::V4(*prefix), entry));
        let v6 = self.v6.iter().map(|(prefix, entry)| (IpNetwork::V6(*prefix), entry));
        let picked = v4.chain(v6).filter(|(prefix, entry)| which(*prefix, entry));
        let mut prefixes: Vec<IpNetwork> = picked.map(|(prefix, _)| prefix).collect();
        prefixes.sort_unstable();
        prefixes
    }

    /// The entries themselves, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Entry> {
        self.v4.values().chain(self.v6.values())
    }
}

fn remove<K: Hash + Eq>(map: &mut HashMap<K, Entry>, key: &K) {
    map.remove(key);
    if map.capacity() > SMALL && map.len() * 4 < map.capacity() {
        map.shrink_to(map.len() * 2);
    }
}

/// Prefixes that wait, first in, first out within a family.
#[derive(Debug, Default)]
pub(super) struct Queue {
    v4: VecDeque<Ipv4Network>,
    v6: VecDeque<Ipv6Network>,
}

impl Queue {
    pub(super) fn push(&mut self, prefix: IpNetwork) {
        match prefix {
            IpNetwork::V4(prefix) => self.v4.push_back(prefix),
            IpNetwork::V6(prefix) => self.v6.push_back(prefix),
        }
    }

    pub(super) fn pop(&mut self) -> Option<IpNetwork> {
        let next = self.v4.pop_front().map(IpNetwork::V4);
        let next = next.or_else(|| self.v6.pop_front().map(IpNetwork::V6));
        if next.is_none() {
            // The room of a whole table is not needed again soon.
            *self = Self::default();
        }
        next
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }
}
