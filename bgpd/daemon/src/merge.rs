//! One configuration out of the file and the parts that other programs pushed.
//!
//! Pure: what has to be looked up (passwords, interfaces, addresses) comes in through [`Lookup`]. The file wins over
//! parts and an earlier owner (by name) over a later one; what loses is named in the loser's [`PartView::refused`].

mod convert;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use turnpike_bgp_core::config as core;
use turnpike_bgpd_api::config::{Addresses, ListenRange};
use turnpike_bgpd_api::view::PartView;
use turnpike_bgpd_api::{Asn, Config, Network, Part, Peer, Prefix, RouterId};

use crate::bfd::Wish;
use crate::connection::Transport;

/// The file's name among owners.
pub(crate) const FILE: &str = "file";

/// What the merge has to ask the host.
pub(crate) trait Lookup {
    /// The first line of a password file.
    fn password(&self, path: &Path) -> Result<Vec<u8>, String>;
    /// The number of an interface.
    fn interface(&self, name: &str) -> Option<u32>;
    /// The BGP identifier when nobody gives one.
    fn router_id(&self) -> Option<RouterId>;
    /// Our addresses as next hops, for sessions over the other family.
    fn addresses(&self, router_id: RouterId) -> Addresses;
}

/// The whole, and where its pieces came from.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// For the speaker; `None` while the AS number or the identifier is unknown.
    pub(crate) core: Option<core::Config>,
    /// How to connect, by peer address.
    pub(crate) transports: BTreeMap<IpAddr, Transport>,
    /// How connections out of a listen range are treated, and what the peers that they make are like.
    pub(crate) ranges: Vec<(ListenRange, Transport)>,
    /// Who configured a peer, by its address.
    pub(crate) owners: BTreeMap<IpAddr, String>,
    /// The peers as they were written, by address.
    pub(crate) peers: BTreeMap<IpAddr, Peer>,
    /// Who announces a network.
    pub(crate) network_owners: BTreeMap<Prefix, String>,
    /// Owners of parts that speak for a cluster node: their networks are pod blocks.
    pub(crate) node_parts: BTreeSet<String>,
    /// BFD sessions that go with peers, by peer address.
    pub(crate) bfd: BTreeMap<IpAddr, Wish>,
    /// Own prefixes that get a blackhole route.
    pub(crate) blackholes: BTreeSet<Prefix>,
    /// The owners' contributions, the file first.
    pub(crate) parts: Vec<PartView>,
    /// Expected owners that have not said anything.
    pub(crate) waiting_for: Vec<String>,
    /// What keeps the speaker from starting.
    pub(crate) missing: Option<String>,
}

impl Merged {
    /// How a connection from this address is treated; `None` for a stranger's.
    pub(crate) fn transport(&self, address: IpAddr) -> Option<&Transport> {
        self.transports.get(&address).or_else(|| self.range(address).map(|(_, transport)| transport))
    }

    fn range(&self, address: IpAddr) -> Option<&(ListenRange, Transport)> {
        let fitting = self.ranges.iter().filter(|(range, _)| range.prefix.contains(address));
        fitting.max_by_key(|(range, _)| range.prefix.prefix_len())
    }

    /// The BFD session that goes with a peer out of a listen range.
    pub(crate) fn guest_bfd(&self, address: IpAddr, name: &str) -> Option<Wish> {
        let (range, transport) = self.range(address)?;
        let guest = Peer { address, name: Some(name.to_owned()), ..range.peer.clone() };
        Wish::of(&guest, transport.ttl)
    }

    /// Listen ranges whose peers have BFD.
    pub(crate) fn bfd_ranges(&self) -> Vec<Prefix> {
        let ranges = self.ranges.iter().map(|(range, _)| range);
        ranges.filter(|range| range.peer.bfd.is_some()).map(|range| range.prefix).collect()
    }

    /// Nothing can be taken from anyone yet.
    fn without(mut self, reason: &str, parts: &BTreeMap<String, Part>) -> Self {
        let view = |owner: &str| PartView { owner: owner.to_owned(), ..PartView::default() };
        self.parts = std::iter::once(FILE).chain(parts.keys().map(String::as_str)).map(view).collect();
        self.missing = Some(reason.to_owned());
        self
    }
}

/// Merges.
pub(crate) fn merge(file: &Config, parts: &BTreeMap<String, Part>, lookup: &dyn Lookup) -> Merged {
    let node_parts = parts.values().filter(|part| part.node.is_some()).map(|part| part.owner.clone());
    let merged = Merged {
        node_parts: node_parts.collect(),
        waiting_for: file.parts.expect.iter().filter(|owner| !parts.contains_key(*owner)).cloned().collect(),
        ..Merged::default()
    };
    let asn = file.asn.or_else(|| parts.values().find_map(|part| part.asn));
    let Some(asn) = asn else {
        return merged.without("no AS number: neither the file nor a part gives one", parts);
    };
    let router_id = file
        .router_id
        .or_else(|| parts.values().find_map(|part| part.router_id))
        .or_else(|| lookup.router_id());
    let Some(router_id) = router_id else {
        let reason = "no router_id: the host has no IPv4 address to use; set router_id in the file";
        return merged.without(reason, parts);
    };

    let mut whole = convert::skeleton(file, asn, router_id, &lookup.addresses(router_id));
    whole.complete = merged.waiting_for.is_empty();
    let file_part = Contribution {
        owner: FILE,
        asn: None,
        router_id: None,
        peers: &file.peers,
        networks: &file.networks,
    };
    let pushed = parts.values().map(|part| Contribution {
        owner: &part.owner,
        asn: part.asn,
        router_id: part.router_id,
        peers: &part.peers,
        networks: &part.networks,
    });
    let held = parts.values().flat_map(|part| part.held.clone()).collect();
    let long_lived = file.graceful_restart.long_lived_time;
    let mut merger =
        Merger { whole, merged, names: BTreeSet::new(), held, asn, router_id, long_lived, lookup };
    for contribution in std::iter::once(file_part).chain(pushed) {
        merger.add(&contribution);
    }
    for range in &file.listen_ranges {
        merger.add_range(range);
    }
    let Merger { mut whole, mut merged, .. } = merger;
    let nodes = std::iter::once(&file.node).chain(parts.values().map(|part| &part.node));
    whole.node = convert::node(nodes.flatten());
    if !whole.complete && whole.node.is_none() {
        // Whoever is expected may yet say that this is a node: until then nothing comes in that a node would refuse.
        whole.node = Some(core::NodeRole::default());
    }
    merged.core = Some(whole);
    merged
}

struct Contribution<'a> {
    owner: &'a str,
    asn: Option<Asn>,
    router_id: Option<RouterId>,
    peers: &'a [Peer],
    networks: &'a [Network],
}

struct Merger<'a> {
    whole: core::Config,
    merged: Merged,
    names: BTreeSet<String>,
    /// Peers that are kept down, with the text for their operators.
    held: BTreeMap<IpAddr, String>,
    asn: Asn,
    router_id: RouterId,
    /// Long-lived stale time of peers that have none of their own, in seconds.
    long_lived: u32,
    lookup: &'a dyn Lookup,
}

impl Merger<'_> {
    fn add(&mut self, part: &Contribution<'_>) {
        let mut view = PartView { owner: part.owner.to_owned(), peers: 0, networks: 0, refused: Vec::new() };
        if let Some(asn) = part.asn.filter(|asn| *asn != self.asn) {
            view.refused.push(format!("AS {asn}: the AS number is {}", self.asn));
        }
        if let Some(id) = part.router_id.filter(|id| *id != self.router_id) {
            view.refused.push(format!("router id {id}: it is {}", self.router_id));
        }
        for peer in part.peers {
            // Whoever holds a peer down holds it whoever it belongs to; a shutdown of its own owner comes first.
            let held = self.held.get(&peer.address).filter(|_| peer.shutdown.is_none());
            let held = held.map(|text| Peer { shutdown: Some(text.clone()), ..peer.clone() });
            let peer = held.as_ref().unwrap_or(peer);
            match self.add_peer(part.owner, peer) {
                Ok(()) => view.peers += 1,
                Err(reason) => view.refused.push(format!("peer {}: {reason}", peer.label())),
            }
        }
        for network in part.networks {
            if self.add_network(part.owner, network) {
                view.networks += 1;
            } else {
                view.refused.push(format!("network {}: another owner announces it", network.prefix));
            }
        }
        self.merged.parts.push(view);
    }

    fn add_peer(&mut self, owner: &str, peer: &Peer) -> Result<(), String> {
        if let Some(other) = self.merged.owners.get(&peer.address) {
            return Err(format!("{} has a peer with this address", owner_in_words(other)));
        }
        if self.names.contains(&peer.label()) {
            return Err("another peer has this name".to_owned());
        }
        for (direction, choice) in [("import", &peer.import), ("export", &peer.export)] {
            if let turnpike_bgpd_api::config::PolicyChoice::Named(name) = choice
                && !self.whole.policies.contains_key(name)
            {
                return Err(format!("{direction}: there is no policy `{name}`"));
            }
        }
        let remote_as = convert::remote_as(peer.remote_as, self.asn);
        let internal = remote_as.is_internal(self.asn) == Some(true);
        if peer.rr_client && !internal {
            return Err("a route reflector client must be known to be internal".to_owned());
        }
        let scope = match &peer.interface {
            None => 0,
            Some(name) => {
                self.lookup.interface(name).ok_or_else(|| format!("there is no interface {name}"))?
            }
        };
        // Never without the password: the session would be open to anyone.
        let md5 = peer.password_file.as_deref().map(|path| self.lookup.password(path)).transpose()?;
        let transport = convert::transport(peer, internal, md5);
        self.whole.peers.push(convert::peer(peer, remote_as, scope, transport.ttl, self.long_lived));
        self.names.insert(peer.label());
        self.merged.bfd.extend(Wish::of(peer, transport.ttl).map(|wish| (peer.address, wish)));
        self.merged.transports.insert(peer.address, transport);
        self.merged.owners.insert(peer.address, owner.to_owned());
        self.merged.peers.insert(peer.address, peer.clone());
        Ok(())
    }

    /// Ranges stand in the file alone, whose part is the first.
    fn add_range(&mut self, range: &ListenRange) {
        let remote_as = convert::remote_as(range.peer.remote_as, self.asn);
        let internal = remote_as.is_internal(self.asn) == Some(true);
        // Never without the password: the sessions would be open to anyone.
        let md5 = range.peer.password_file.as_deref().map(|path| self.lookup.password(path)).transpose();
        let refused = match md5 {
            Ok(_) if range.peer.rr_client && !internal => {
                "route reflector clients must be known to be internal".to_owned()
            }
            Ok(md5) => {
                let transport = convert::transport(&range.peer, internal, md5);
                self.whole.listen_ranges.push(core::ListenRange {
                    prefix: range.prefix,
                    limit: range.limit,
                    peer: convert::range_peer(range, remote_as, transport.ttl, self.long_lived),
                });
                self.merged.ranges.push((range.clone(), transport));
                return;
            }
            Err(reason) => reason,
        };
        if let Some(view) = self.merged.parts.first_mut() {
            view.refused.push(format!("listen range {}: {refused}", range.prefix));
        }
    }

    fn add_network(&mut self, owner: &str, network: &Network) -> bool {
        if self.merged.network_owners.contains_key(&network.prefix) {
            return false;
        }
        self.merged.network_owners.insert(network.prefix, owner.to_owned());
        if network.blackhole {
            self.merged.blackholes.insert(network.prefix);
        }
        self.whole.networks.push(convert::network(network));
        true
    }
}

fn owner_in_words(owner: &str) -> String {
    if owner == FILE { "the file".to_owned() } else { format!("the part of {owner}") }
}

#[cfg(test)]
mod tests {
    use turnpike_bgpd_api::config::{Parts, RemoteAs};

    use super::*;

    struct Host;

    impl Lookup for Host {
        fn password(&self, path: &Path) -> Result<Vec<u8>, String> {
            Err(format!("{}: no such file", path.display()))
        }

        fn interface(&self, name: &str) -> Option<u32> {
            (name == "eth0").then_some(2)
        }

        fn router_id(&self) -> Option<RouterId> {
            Some(RouterId::from_u32(0x0a01_010b))
        }

        fn addresses(&self, _: RouterId) -> Addresses {
            Addresses { ipv4: Some([10, 1, 1, 11].into()), ipv6: "fd00:1:1::11".parse().ok() }
        }
    }

    fn peer(name: &str, address: &str) -> Peer {
        Peer { name: Some(name.to_owned()), ..Peer::new(address.parse().unwrap(), RemoteAs::Internal) }
    }

    fn agent() -> Part {
        Part {
            owner: "turnpike-agent".to_owned(),
            asn: Some(Asn(65001)),
            peers: vec![peer("rr1", "10.1.3.21"), peer("rr2", "10.1.3.22")],
            networks: vec![Network::new("10.244.1.0/26".parse().unwrap())],
            ..Part::default()
        }
    }

    fn merge_with(file: &Config, part: Part) -> Merged {
        merge(file, &BTreeMap::from([(part.owner.clone(), part)]), &Host)
    }

    #[test]
    fn without_an_as_number_there_is_no_speaker_yet() {
        let file = Config {
            parts: Parts { expect: BTreeSet::from(["turnpike-agent".to_owned()]) },
            ..Config::default()
        };
        let merged = merge(&file, &BTreeMap::new(), &Host);
        assert!(merged.core.is_none() && merged.missing.is_some());
        assert_eq!(merged.waiting_for, ["turnpike-agent"]);
        assert_eq!(merged.parts[0].owner, FILE);

        let core = merge_with(&file, agent()).core.unwrap();
        assert_eq!((core.asn, core.router_id.to_string()), (Asn(65001), "10.1.1.11".to_owned()));
        assert!(core.complete);
        assert_eq!(core.addresses.ipv6, "fd00:1:1::11".parse().ok());
    }

    #[test]
    fn an_expected_owner_that_is_silent_keeps_the_configuration_incomplete() {
        let expect = BTreeSet::from(["turnpike-agent".to_owned(), "vip".to_owned()]);
        let file = Config { asn: Some(Asn(65001)), parts: Parts { expect }, ..Config::default() };
        let merged = merge_with(&file, agent());
        assert_eq!(merged.waiting_for, ["vip"]);
        let core = merged.core.unwrap();
        assert!(!core.complete);
        assert_eq!(core.node, Some(core::NodeRole::default()), "closed until everybody has spoken");
    }

    #[test]
    fn the_file_wins_and_the_loser_is_named() {
        let mut own = peer("mine", "10.1.3.21");
        own.hold_time = 9;
        let file = Config { asn: Some(Asn(65009)), peers: vec![own], ..Config::default() };
        let merged = merge_with(&file, agent());
        let core = merged.core.unwrap();
        assert_eq!(core.asn, Asn(65009));
        let names: Vec<&str> = core.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["mine", "rr2"]);
        assert_eq!(core.peers[0].hold_time.as_secs(), 9);
        assert_eq!(
            merged.parts[1].refused,
            ["AS 65001: the AS number is 65009", "peer rr1: the file has a peer with this address"]
        );
        assert_eq!((merged.parts[1].peers, merged.parts[1].networks), (1, 1));
        assert_eq!(core.check(), []);
    }

    #[test]
    fn a_peer_whose_password_cannot_be_read_stays_out() {
        let mut own = peer("secret", "10.1.3.21");
        own.password_file = Some("/etc/turnpike/none".into());
        let file = Config { asn: Some(Asn(65001)), peers: vec![own], ..Config::default() };
        let merged = merge(&file, &BTreeMap::new(), &Host);
        assert!(merged.core.unwrap().peers.is_empty());
        assert_eq!(merged.parts[0].refused, ["peer secret: /etc/turnpike/none: no such file"]);
    }

    #[test]
    fn ttl_follows_the_kind_of_peer_and_gtsm() {
        let mut external = peer("gw", "10.1.4.2");
        external.remote_as = RemoteAs::Number(Asn(65002));
        let mut secured = peer("tor", "10.1.1.1");
        secured.ttl_security = Some(1);
        let file = Config { asn: Some(Asn(65001)), peers: vec![external, secured], ..Config::default() };
        let merged = merge(&file, &BTreeMap::new(), &Host);
        let transport = |address: &str| merged.transports[&address.parse::<IpAddr>().unwrap()].clone();
        assert_eq!((transport("10.1.4.2").ttl, transport("10.1.4.2").min_ttl), (1, None));
        assert_eq!((transport("10.1.1.1").ttl, transport("10.1.1.1").min_ttl), (255, Some(255)));
    }
}
