//! Contradictions that types cannot rule out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use turnpike_bgp_wire::{Asn, LongLivedFamily, Prefix};

use super::{
    AddPath, Aggregate, Bfd, Config, ListenRange, Network, Part, Peer, PolicyChoice, Problem, RemoteAs, Rule,
    SendPaths,
};

/// Longest shutdown communication in octets (RFC 9003 §2).
const LONGEST_SHUTDOWN: usize = 255;
/// Twelve bits of seconds (RFC 4724 §3).
const LONGEST_RESTART: u16 = 4095;
const LONG_LIVED: &str = "the long-lived stale time has 24 bits (RFC 9494 §3.1)";
const LONG_LIVED_REMEDY: &str = "use at most 16777215 seconds";

/// Milliseconds between BFD packets: below, a scheduler's hiccup looks like a failure.
const SHORTEST_BFD: u32 = 10;
/// Beyond, BGP's own hold timer is as good.
const LONGEST_BFD: u32 = 60_000;

impl Config {
    /// Every contradiction within the file, without line numbers.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut found = Found(Vec::new());
        if self.asn == Some(Asn(0)) {
            found.add("asn", "AS 0 is never used (RFC 7607)", "give your own AS number, such as 65001");
        }
        if self.router_id.is_some_and(|id| id.to_u32() == 0) {
            found.add(
                "router_id",
                "0.0.0.0 is no BGP identifier (RFC 6286)",
                "use an IPv4 address of this host",
            );
        }
        if self.graceful_restart.restart_time > LONGEST_RESTART {
            let field = "graceful_restart.restart_time";
            found.add(field, "the restart time has twelve bits (RFC 4724 §3)", "use at most 4095 seconds");
        }
        if self.graceful_restart.long_lived_time > LongLivedFamily::LONGEST {
            let field = "graceful_restart.long_lived_time";
            found.add(field, LONG_LIVED, LONG_LIVED_REMEDY);
        }
        if self.mrt.size_mib == 0 || self.mrt.files == 0 {
            found.add("mrt", "the log has no room", "give size_mib and files at least 1, or updates = false");
        }
        for (index, station) in self.bmp.iter().enumerate() {
            let place = format!("bmp[{index}].station");
            if station.station.port() == 0 || station.station.ip().is_unspecified() {
                found.add(&place, "nobody can be reached there", "give the station's address and port");
            }
            if self.bmp.iter().take(index).any(|earlier| earlier == station) {
                found.add(&place, "this station is listed twice", "list it once");
            }
        }
        if self.kernel.table == 0 {
            found.add("kernel.table", "there is no routing table 0", "use 254 for the main table");
        }
        for (name, policy) in &self.policies {
            let place = format!("policies.{name}");
            if PolicyChoice::RESERVED.contains(&name.as_str()) {
                found.add(place.clone(), format!("`{name}` means something else"), "choose another name");
            }
            for (index, rule) in policy.rules.iter().enumerate() {
                self.check_sets(&format!("{place}.rule[{index}]"), rule, &mut found);
            }
        }
        check_peers("peer", &self.peers, self.asn, &mut found);
        for (index, range) in self.listen_ranges.iter().enumerate() {
            self.check_range(index, range, &mut found);
        }
        check_networks("network", &self.networks, &mut found);
        check_aggregates(&self.aggregates, &mut found);
        for (index, peer) in self.peers.iter().enumerate() {
            self.check_choices(&format!("peer[{index}]"), peer, &mut found);
        }
        found.0
    }

    fn check_choices(&self, place: &str, peer: &Peer, found: &mut Found) {
        for (direction, choice) in [("import", &peer.import), ("export", &peer.export)] {
            if let PolicyChoice::Named(name) = choice
                && !self.policies.contains_key(name)
            {
                found.add(
                    format!("{place}.{direction}"),
                    format!("there is no policy `{name}`"),
                    format!("define [policies.{name}], or use accept-all or reject-all"),
                );
            }
        }
    }

    /// Every set that a rule names must exist.
    fn check_sets(&self, place: &str, rule: &Rule, found: &mut Found) {
        let (when, set) = (&rule.when, &rule.set);
        let mut look = |field: &str, kind: &str, table: &str, names: &[String], known: &BTreeSet<&String>| {
            for name in names.iter().filter(|name| !known.contains(name)) {
                let message = format!("there is no {kind} set `{name}`");
                found.add(format!("{place}.{field}"), message, format!("define it in [{table}]"));
            }
        };
        let prefixes = self.prefix_sets.keys().collect();
        let communities = self.community_sets.keys().collect();
        let as_paths = self.as_path_sets.keys().collect();
        look("when.prefix_sets", "prefix", "prefix_sets", &when.prefix_sets, &prefixes);
        look("when.community_sets", "community", "community_sets", &when.community_sets, &communities);
        look("when.as_path_sets", "AS path", "as_path_sets", &when.as_path_sets, &as_paths);
        let removed = &set.remove_community_sets;
        look("set.remove_community_sets", "community", "community_sets", removed, &communities);
    }

    fn check_range(&self, index: usize, range: &ListenRange, found: &mut Found) {
        let list = format!("listen_range[{index}]");
        let place = |field: &str| format!("{list}.{field}");
        check_peer(&place, &range.peer, self.asn, found);
        self.check_choices(&list, &range.peer, found);
        if range.limit == 0 {
            found.add(place("limit"), "nobody could connect", "give the most peers at a time");
        }
        let link_local =
            matches!(range.prefix.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
        if range.peer.bfd.is_some() && link_local {
            let remedy = "give such peers a [[peer]] of their own, with `interface`";
            found.add(place("bfd"), "BFD with a link-local address needs to know the interface", remedy);
        }
        if range.peer.bfd.as_ref().is_some_and(|bfd| bfd.strict) {
            let remedy = "remove it, or give peers that must not be without BFD a [[peer]] of their own";
            found.add(place("bfd.strict"), "BFD begins with the session of a peer that nobody named", remedy);
        }
        if self.listen_ranges.iter().take(index).any(|other| other.prefix == range.prefix) {
            let message = format!("two listen ranges have the prefix {}", range.prefix);
            found.add(place("prefix"), message, "remove one of them");
        }
    }
}

impl Part {
    /// Every contradiction within the part; whether its policies exist is for the whole to say.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut found = Found(Vec::new());
        let word = !self.owner.is_empty()
            && self.owner.len() <= 64
            && !self.owner.starts_with('.')
            && self.owner.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !word || self.owner == "file" {
            found.add(
                "owner",
                format!("`{}` cannot be an owner", self.owner),
                "use 1 to 64 letters, digits, `-`, `_` or `.`, and not `file`",
            );
        }
        if self.asn == Some(Asn(0)) {
            found.add("asn", "AS 0 is never used (RFC 7607)", "give your own AS number");
        }
        if self.router_id.is_some_and(|id| id.to_u32() == 0) {
            found.add(
                "router_id",
                "0.0.0.0 is no BGP identifier (RFC 6286)",
                "use an IPv4 address of this host",
            );
        }
        check_peers("peers", &self.peers, self.asn, &mut found);
        check_networks("networks", &self.networks, &mut found);
        for (address, text) in self.held.iter().filter(|(_, text)| text.len() > LONGEST_SHUTDOWN) {
            let message =
                format!("{} octets; a shutdown communication has at most 255 (RFC 9003 §2)", text.len());
            found.add(format!("held.{address}"), message, "shorten it");
        }
        found.0
    }
}

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Problem {
            line: None,
            field: field.into(),
            message: message.into(),
            remedy: Some(remedy.into()),
        });
    }
}

fn check_peers(list: &str, peers: &[Peer], own: Option<Asn>, found: &mut Found) {
    let mut names = BTreeSet::new();
    let mut addresses: BTreeSet<(IpAddr, Option<&str>)> = BTreeSet::new();
    for (index, peer) in peers.iter().enumerate() {
        let place = |field: &str| format!("{list}[{index}].{field}");
        if !names.insert(peer.label()) {
            found.add(
                place("name"),
                format!("two peers are called `{}`", peer.label()),
                "choose another name",
            );
        }
        if !addresses.insert((peer.address, peer.interface.as_deref())) {
            let message = format!("two peers have the address {}", peer.address);
            found.add(place("address"), message, "remove one of them");
        }
        check_peer(&place, peer, own, found);
    }
}

fn check_peer(place: &dyn Fn(&str) -> String, peer: &Peer, own: Option<Asn>, found: &mut Found) {
    if matches!(peer.hold_time, 1 | 2) {
        let message = "RFC 4271 §4.2 allows 0 or at least 3 seconds";
        found.add(place("hold_time"), message, "use 3 or more; 90 is usual");
    }
    if peer.families.is_empty() {
        found.add(place("families"), "a session without a family carries nothing", "name ipv4, ipv6 or both");
    }
    check_local_as(place, peer, own, found);
    let internal = peer.remote_as.is_internal(own);
    // A number is judged once ours is known.
    let auto = peer.remote_as == RemoteAs::Auto;
    let maybe_external = internal == Some(false) || auto;
    if peer.rr_client && maybe_external {
        let message = "a route reflector client must be known to be internal (RFC 4456)";
        found.add(place("rr_client"), message, "say `remote_as = \"internal\"`, or remove it");
    }
    if peer.ttl == Some(0) {
        found.add(place("ttl"), "packets with TTL 0 never leave", "use 1 to 255");
    }
    if peer.ttl_security == Some(0) {
        found.add(place("ttl_security"), "a peer is at least one hop away", "use 1 if directly connected");
    }
    if peer.ttl.is_some() && peer.ttl_security.is_some() {
        let message = "with ttl_security the TTL is always 255 (RFC 5082)";
        found.add(place("ttl"), message, "remove ttl");
    }
    if peer.shutdown.as_ref().is_some_and(|text| text.len() > LONGEST_SHUTDOWN) {
        let message = "a shutdown communication has at most 255 octets (RFC 9003 §2)";
        found.add(place("shutdown"), message, "shorten it");
    }
    let link_local = matches!(peer.address, IpAddr::V6(address) if address.is_unicast_link_local());
    if link_local != peer.interface.is_some() {
        let (message, remedy) = if link_local {
            ("a link-local address needs its interface", "add `interface = \"…\"`")
        } else {
            ("only a link-local address has an interface", "remove it")
        };
        found.add(place("interface"), message, remedy);
    }
    if peer.long_lived_time.is_some_and(|time| time > LongLivedFamily::LONGEST) {
        found.add(place("long_lived_time"), LONG_LIVED, LONG_LIVED_REMEDY);
    }
    if peer.long_lived_fallback && maybe_external {
        let message = "only an internal peer can be told of them without RFC 9494 (§4.6)";
        found.add(place("long_lived_fallback"), message, "remove it");
    }
    if let Some(add_path) = &peer.add_path {
        check_add_path(place, peer, add_path, found);
    }
    if let Some(bfd) = &peer.bfd {
        check_bfd(place, bfd, found);
    }
    if peer.local_address.is_some_and(|local| local.is_ipv4() != peer.address.is_ipv4()) {
        let message = "our address and the peer's are of different families";
        found.add(place("local_address"), message, "give an address of the same family");
    }
}

fn check_add_path(place: &dyn Fn(&str) -> String, peer: &Peer, add_path: &AddPath, found: &mut Found) {
    if !add_path.receive && add_path.send == SendPaths::Best {
        let message = "neither several paths received nor several sent (RFC 7911 §4)";
        found.add(place("add_path"), message, "say `receive = true`, `send = \"all\"` or both, or remove it");
    }
    let stray = add_path.families.iter().flatten().find(|family| !peer.families.contains(family));
    if let Some(family) = stray {
        let message = format!("the session does not carry {family}");
        found.add(place("add_path.families"), message, "name families of the peer, or leave it out for all");
    }
}

fn check_bfd(place: &dyn Fn(&str) -> String, bfd: &Bfd, found: &mut Found) {
    if !(SHORTEST_BFD..=LONGEST_BFD).contains(&bfd.interval_ms) {
        let remedy = format!("use {SHORTEST_BFD} to {LONGEST_BFD} milliseconds; 300 is usual");
        found.add(place("bfd.interval_ms"), "no sensible interval between BFD packets", remedy);
    }
    if bfd.multiplier == 0 {
        let message = "a multiplier of zero is no detection time (RFC 5880 §4.1)";
        found.add(place("bfd.multiplier"), message, "use 3");
    }
}

fn check_networks(list: &str, networks: &[Network], found: &mut Found) {
    let mut seen: BTreeSet<Prefix> = BTreeSet::new();
    for (index, network) in networks.iter().enumerate() {
        if !seen.insert(network.prefix) {
            let message = format!("{} is listed twice", network.prefix);
            found.add(format!("{list}[{index}].prefix"), message, "remove one of them");
        }
    }
}

fn check_aggregates(aggregates: &[Aggregate], found: &mut Found) {
    let mut seen: BTreeSet<Prefix> = BTreeSet::new();
    for (index, prefix) in aggregates.iter().map(|aggregate| aggregate.prefix).enumerate() {
        let place = || format!("aggregate[{index}].prefix");
        if !seen.insert(prefix) {
            found.add(place(), format!("{prefix} is listed twice"), "remove one of them");
        }
        if prefix.prefix_len() == prefix.family().max_len() {
            let message = format!("nothing can be inside {prefix}");
            found.add(place(), message, "give a shorter prefix, or make it a [[network]]");
        }
    }
}

fn check_local_as(place: &dyn Fn(&str) -> String, peer: &Peer, own: Option<Asn>, found: &mut Found) {
    let internal = peer.remote_as.is_internal(own) == Some(true);
    if peer.remote_as == RemoteAs::Auto && (peer.local_as.is_some() || peer.role.is_some()) {
        let field = if peer.local_as.is_some() { "local_as" } else { "role" };
        let message = "only an external peer can have it, and `auto` may make an internal one";
        found.add(place(field), message, "give the peer's own remote_as, or `\"external\"`");
    }
    if internal && peer.local_as.is_some() {
        let message = "an internal peer has the same AS as we have";
        found.add(place("local_as"), message, "remove it, or give the peer's own remote_as");
    }
    if internal && peer.role.is_some() {
        let message = "roles are what one AS is to another (RFC 9234 §4)";
        found.add(place("role"), message, "remove it, or give the peer's own remote_as");
    }
    if peer.role_strict && peer.role.is_none() {
        found.add(place("role_strict"), "there is no role to insist on", "give a role, or remove it");
    }
    if let Some(other) = peer.local_as {
        let theirs = matches!(peer.remote_as, RemoteAs::Number(asn) if asn == other.asn);
        if other.asn.0 == 0 || Some(other.asn) == own || theirs {
            let message = format!("{} is no other AS number than those of both sides", other.asn);
            found.add(place("local_as"), message, "give the number that the peer knows us by, or remove it");
        }
    }
}
