//! IP fragments: those after the first have no ports, so they follow what their first fragment was given.
//!
//! Checksums need no reassembly: they are updated by difference, and the difference of a datagram lies in its
//! first fragment. The identification is replaced, because datagrams of many clients leave from one local
//! address and their own numbers may collide there. A later fragment that overtakes its first is dropped.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use super::{
    flow::{Flow, Side},
    packet::{Fragment, Ip},
};

/// RFC 791 §3.2 and RFC 8200 §4.5 let a reassembly last up to a minute; Linux waits 30 s.
const LIFETIME: Duration = Duration::from_secs(30);
const MAX_DATAGRAMS: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    identification: u32,
}

/// What the fragments of one datagram become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Renamed {
    pub(super) sender: Side,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) identification: u32,
}

/// The datagrams whose first fragment was seen.
#[derive(Debug)]
pub(super) struct FragmentTable {
    datagrams: HashMap<Key, (Renamed, Duration)>,
    /// In the order of their ends, as all live equally long.
    ends: VecDeque<(Duration, Key)>,
    next: u32,
}

impl FragmentTable {
    pub(super) fn new(seed: u64) -> Self {
        let [.., a, b, c, d] = seed.to_be_bytes();
        Self { datagrams: HashMap::new(), ends: VecDeque::new(), next: u32::from_be_bytes([a, b, c, d]) }
    }

    /// Remembers what a first fragment becomes and answers with its new identification.
    pub(super) fn begin(
        &mut self,
        now: Duration,
        ip: &Ip,
        fragment: &Fragment,
        sender: Side,
        leaving: &Flow,
    ) -> Option<Renamed> {
        self.expire(now);
        let key = key(ip, fragment);
        let (source, destination) = (leaving.source.ip(), leaving.destination.ip());
        if let Some((known, _)) = self.datagrams.get(&key) {
            // The first fragment again (duplicated on the way).
            if (known.source, known.destination) == (source, destination) {
                return Some(*known);
            }
        } else if self.datagrams.len() >= MAX_DATAGRAMS {
            return None;
        }
        self.next = self.next.wrapping_add(1);
        let renamed = Renamed { sender, source, destination, identification: self.next };
        let end = now + LIFETIME;
        self.datagrams.insert(key, (renamed, end));
        self.ends.push_back((end, key));
        Some(renamed)
    }

    /// What a later fragment becomes.
    pub(super) fn find(&mut self, now: Duration, ip: &Ip, fragment: &Fragment) -> Option<Renamed> {
        self.expire(now);
        self.datagrams.get(&key(ip, fragment)).map(|(renamed, _)| *renamed)
    }

    fn expire(&mut self, now: Duration) {
        while let Some((end, key)) = self.ends.front().copied() {
            if end > now {
                return;
            }
            self.ends.pop_front();
            // A key that was used again ends later.
            if self.datagrams.get(&key).is_some_and(|(_, last)| *last <= now) {
                self.datagrams.remove(&key);
            }
        }
    }
}

fn key(ip: &Ip, fragment: &Fragment) -> Key {
    Key {
        source: ip.source,
        destination: ip.destination,
        protocol: ip.protocol,
        identification: fragment.identification,
    }
}
