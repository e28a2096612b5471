//! The RIBs: what peers told us, what we chose, what we tell peers.
//!
//! One table per family holds every path of a prefix together (Adj-RIBs-In and Loc-RIB at once, the best path
//! first). Peers that are to be told the same form a group with one Adj-RIB-Out; see `rib/group.rs`. Changes only
//! mark prefixes; [`Rib::step`] does the work in bounded pieces and queues [`RibOutput`]s. While selection is
//! deferred after a restart (RFC 4724 §4.1), only what we originate is decided on and told.

mod aggregates;
mod attrs;
mod decide;
mod dests;
mod export;
mod flush;
mod group;
mod import;
mod install;
mod leaks;
mod long_lived;
mod nexthops;
mod peer;
mod pending;
mod policy;
mod probe;
mod snapshot;
mod table;
mod told;
mod view;
mod walk;

use std::collections::VecDeque;

use bytes::Bytes;
use turnpike_bgp_wire::{Asn, Family, Notification, PerFamily, Prefix, Prefix4, Prefix6, RouterId, Update};

pub(crate) use nexthops::NexthopSets;
pub(crate) use peer::{RibPeer, SessionFacts};
pub use probe::{Probe, ProbeAnswer, ProbeRule, probe};
pub use snapshot::{Comparison, PeerTable, PrefixChange, Snapshot, TableChange};
pub use walk::{Place, Walked, WalkedPath};

use crate::config::{Config, Multipath, PrefixRule};
use crate::input::Resolution;
use crate::output::{Nexthop, RouteChange};
use crate::query::{PathView, PeerId, Select, Table};
use crate::time::Time;
use attrs::Interner;
use nexthops::Nexthops;
use policy::{Policies, PrefixMatcher};
use table::FamilyRib;

/// What the RIBs want done.
#[derive(Debug)]
pub(crate) enum RibOutput {
    /// UPDATEs for a peer.
    Send {
        peer: PeerId,
        bytes: Bytes,
        messages: usize,
    },
    /// End-of-RIB went into the queue before this.
    EndOfRibSent {
        peer: PeerId,
        family: Family,
    },
    Route(RouteChange),
    Track(Nexthop),
    Untrack(Nexthop),
    /// End the peer's session.
    Fail {
        peer: PeerId,
        notification: Notification,
    },
    /// Over its limit, for the first time in the session.
    OverLimit {
        peer: PeerId,
        family: Family,
        limit: u32,
    },
    /// Further paths of the prefix were dropped, for the first time in the session.
    Crowded {
        peer: PeerId,
        prefix: Prefix,
        limit: usize,
    },
    /// There is room again for what was discarded.
    AskAgain {
        peer: PeerId,
        family: Family,
    },
    /// Attributes too large for the peer's messages.
    TooLarge {
        peer: PeerId,
        prefix: Prefix,
    },
    /// Its best path may be another one; told while somebody watches.
    Best(Prefix),
}

/// What both families share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) local: LocalFacts,
    pub(crate) peers: Vec<Option<RibPeer>>,
    attrs: Interner,
    nexthops: Nexthops,
    sets: NexthopSets,
    policies: Policies,
    node: Option<NodeGuard>,
    /// What is told to nobody because an aggregate stands for it.
    summaries: PrefixMatcher,
    pub(crate) out: VecDeque<RibOutput>,
    /// Of the step that is being made.
    now: Time,
    /// Selection is deferred.
    pub(crate) holding: bool,
    /// Our own prefixes are in: End-of-RIB may be sent.
    pub(crate) may_end: bool,
    /// Somebody wants to know of changes of best paths.
    pub(crate) watched: bool,
}

/// What the RIBs need to know of ourselves.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct LocalFacts {
    pub(crate) asn: Asn,
    pub(crate) router_id: RouterId,
    pub(crate) cluster_id: RouterId,
    pub(crate) multipath: Multipath,
    pub(crate) addresses: PerFamily<Option<std::net::IpAddr>>,
    pub(crate) unsent_limit: usize,
    pub(crate) graceful_shutdown: bool,
}

impl LocalFacts {
    fn of(config: &Config) -> Self {
        Self {
            asn: config.asn,
            router_id: config.router_id,
            cluster_id: config.cluster_id(),
            multipath: config.multipath,
            addresses: PerFamily {
                ipv4: config.addresses.ipv4.map(Into::into),
                ipv6: config.addresses.ipv6.map(Into::into),
            },
            unsent_limit: config.unsent_limit,
            graceful_shutdown: config.graceful_shutdown,
        }
    }
}

/// Prefixes strictly inside aggregates that stand for them.
fn summaries(config: &Config) -> PrefixMatcher {
    let inside =
        config.aggregates.iter().filter(|aggregate| aggregate.summary_only).filter_map(|aggregate| {
            let prefix = aggregate.network.prefix;
            let longer = prefix.prefix_len() + 1;
            (longer <= prefix.family().max_len()).then_some(PrefixRule { prefix, ge: Some(longer), le: None })
        });
    PrefixMatcher::new(&inside.collect::<Vec<PrefixRule>>())
}

/// The node role, ready for use.
#[derive(Debug)]
struct NodeGuard {
    accept: PrefixMatcher,
    own: PrefixMatcher,
}

/// All RIBs.
#[derive(Debug)]
pub(crate) struct Rib {
    v4: FamilyRib<Prefix4>,
    v6: FamilyRib<Prefix6>,
    pub(crate) shared: Shared,
}

/// Calls the same method on the table of a family.
macro_rules! on_family {
    ($rib:expr, $family:expr, $method:ident($($arg:expr),*)) => {
        match $family {
            Family::Ipv4 => $rib.v4.$method(&mut $rib.shared, $($arg),*),
            Family::Ipv6 => $rib.v6.$method(&mut $rib.shared, $($arg),*),
        }
    };
}

impl Rib {
    pub(crate) fn new(config: &Config) -> Self {
        let mut rib = Self {
            v4: FamilyRib::default(),
            v6: FamilyRib::default(),
            shared: Shared {
                local: LocalFacts::of(config),
                peers: Vec::new(),
                attrs: Interner::default(),
                nexthops: Nexthops::default(),
                sets: NexthopSets::default(),
                policies: Policies::compile(config),
                node: NodeGuard::of(config),
                summaries: summaries(config),
                out: VecDeque::new(),
                now: Time::default(),
                holding: false,
                may_end: false,
                watched: false,
            },
        };
        rib.v4.set_networks(&mut rib.shared, &[], &config.networks);
        rib.v6.set_networks(&mut rib.shared, &[], &config.networks);
        rib.v4.set_aggregates(&mut rib.shared, &config.aggregates);
        rib.v6.set_aggregates(&mut rib.shared, &config.aggregates);
        rib
    }

    /// Takes over everything but peers from a new configuration and works out anew what depends on it.
    pub(crate) fn configure(&mut self, old: &Config, new: &Config) {
        let shared = &mut self.shared;
        let policies_changed = !old.same_policies(new);
        let node_changed = old.node != new.node || new.node.is_some() && old.networks != new.networks;
        let local = LocalFacts::of(new);
        let local_changed = local != shared.local;
        shared.local = local;
        if policies_changed {
            shared.policies = Policies::compile(new);
        }
        if node_changed {
            shared.node = NodeGuard::of(new);
        }
        if old.networks != new.networks {
            self.v4.set_networks(shared, &old.networks, &new.networks);
            self.v6.set_networks(shared, &old.networks, &new.networks);
        }
        let aggregates_changed =
            old.aggregates != new.aggregates || (old.asn, old.router_id) != (new.asn, new.router_id);
        if aggregates_changed {
            shared.summaries = summaries(new);
            self.v4.set_aggregates(shared, &new.aggregates);
            self.v6.set_aggregates(shared, &new.aggregates);
        }
        if policies_changed || node_changed {
            self.v4.import_again(shared, None);
            self.v6.import_again(shared, None);
        }
        if policies_changed || local_changed || aggregates_changed {
            self.everything_dirty();
        }
    }

    /// A peer exists from now on. Replaces what was known of it; its paths are judged again if its import changed.
    pub(crate) fn set_peer(&mut self, peer: RibPeer) {
        let id = peer.id;
        let (again, role_changed) = match self.shared.peer_mut(id) {
            Some(held) => {
                let changed = (held.import != peer.import, held.client != peer.client);
                held.take_config_of(peer);
                changed
            }
            None => {
                self.shared.put(peer);
                (false, false)
            }
        };
        if again {
            self.v4.import_again(&mut self.shared, Some(id));
            self.v6.import_again(&mut self.shared, Some(id));
        }
        self.v4.regroup(&mut self.shared, id);
        self.v6.regroup(&mut self.shared, id);
        if role_changed {
            self.everything_dirty();
        }
    }

    /// Has everything decided on and told again, as far as the outcome differs.
    fn everything_dirty(&mut self) {
        self.v4.everything_dirty(&mut self.shared);
        self.v6.everything_dirty(&mut self.shared);
    }

    /// The peer and all its paths are gone for good.
    pub(crate) fn remove_peer(&mut self, peer: PeerId) {
        self.peer_down(peer);
        for family in Family::ALL {
            self.drop_paths(peer, family);
        }
        self.shared.remove(peer);
    }

    /// A session is Established: its paths are told apart from those of earlier ones, and we begin to announce.
    pub(crate) fn peer_up(&mut self, peer: PeerId, session: SessionFacts) {
        let families = session.families;
        let mut renamed = false;
        if self.shared.peer(peer).is_some_and(|held| held.is_internal(session.asn) != held.internal) {
            // A peer that has moved into our AS, or out of it: its old paths were judged as what it no longer is.
            for family in Family::ALL {
                self.drop_paths(peer, family);
            }
        }
        if let Some(held) = self.shared.peer_mut(peer) {
            // Paths kept from before carry the old identifier in what was made of them.
            renamed = held.router_id != session.router_id && held.received != PerFamily::default();
            held.begin(session);
        }
        if renamed {
            self.everything_dirty();
        }
        for family in families.members() {
            on_family!(self, family, join(peer));
        }
    }

    /// The session has ended; the paths stay until they are swept or dropped.
    pub(crate) fn peer_down(&mut self, peer: PeerId) {
        for family in Family::ALL {
            on_family!(self, family, leave(peer));
        }
        if let Some(held) = self.shared.peer_mut(peer) {
            held.session = None;
            held.unsent = 0;
        }
    }

    /// Removes the peer's paths that its present session has not announced; answers how many.
    pub(crate) fn sweep(&mut self, peer: PeerId, family: Family) -> usize {
        self.end_long_lived(peer, family);
        on_family!(self, family, remove_paths(peer, true))
    }

    /// Removes all of the peer's paths of a family; answers how many.
    pub(crate) fn drop_paths(&mut self, peer: PeerId, family: Family) -> usize {
        self.end_long_lived(peer, family);
        on_family!(self, family, remove_paths(peer, false))
    }

    fn end_long_lived(&mut self, peer: PeerId, family: Family) {
        if let Some(held) = self.shared.peer_mut(peer) {
            held.set_long_lived(family, false);
        }
    }

    /// Everything the peer sends from now on counts as new: what is not repeated can be swept.
    pub(crate) fn begin_refresh(&mut self, peer: PeerId, family: Family) {
        if let Some(held) = self.shared.peer_mut(peer) {
            held.next_generation(family);
        }
    }

    /// The peer asks for everything again.
    pub(crate) fn refresh(&mut self, peer: PeerId, family: Family) {
        on_family!(self, family, send_again(peer));
    }

    pub(crate) fn update(&mut self, peer: PeerId, update: Update) {
        for nlri in &update.unreach {
            match nlri.prefix {
                Prefix::V4(prefix) => self.v4.withdraw(&mut self.shared, peer, prefix, nlri.path_id),
                Prefix::V6(prefix) => self.v6.withdraw(&mut self.shared, peer, prefix, nlri.path_id),
            }
        }
        let mut attributes = Some(update.attributes);
        let last = update.reach.len().saturating_sub(1);
        for (index, reach) in update.reach.into_iter().enumerate() {
            let attributes = if index == last { attributes.take() } else { attributes.clone() };
            let Some(attributes) = attributes else { continue };
            on_family!(self, reach.family, announce(peer, attributes, reach.next_hop, &reach.nlri));
        }
    }

    pub(crate) fn resolve(&mut self, nexthop: Nexthop, resolution: Resolution) {
        let news = self.shared.nexthops.resolve(nexthop, resolution);
        self.v4.take_news(news);
        self.v6.take_news(news);
    }

    /// Bytes of a peer's UPDATEs have left.
    pub(crate) fn sent(&mut self, peer: PeerId, bytes: usize) {
        if let Some(held) = self.shared.peer_mut(peer) {
            held.unsent = held.unsent.saturating_sub(bytes);
        }
    }

    /// Does a piece of the pending work; `false` if there was none.
    pub(crate) fn step(&mut self, now: Time) -> bool {
        self.shared.now = now;
        // All decisions come first, so that changes of both families are packed as fully as possible.
        let decided = match self.shared.holding {
            true => self.v4.decide_local(&mut self.shared) || self.v6.decide_local(&mut self.shared),
            false => self.v4.decide_some(&mut self.shared) || self.v6.decide_some(&mut self.shared),
        };
        decided || self.v4.tell_some(&mut self.shared) || self.v6.tell_some(&mut self.shared)
    }

    /// When there is something to do although nothing has come in.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.v4.next_telling().into_iter().chain(self.v6.next_telling()).min()
    }

    /// No prefix is waiting for a decision.
    pub(crate) fn is_decided(&self) -> bool {
        self.v4.is_decided() && self.v6.is_decided()
    }

    /// Paths of a table.
    pub(crate) fn view(
        &self,
        table: Table,
        select: Select,
        after: Option<Prefix>,
        limit: usize,
    ) -> Vec<PathView> {
        match select.family() {
            Family::Ipv4 => self.v4.view(&self.shared, table, select, after, limit),
            Family::Ipv6 => self.v6.view(&self.shared, table, select, after, limit),
        }
    }

    /// Prefixes announced to a peer.
    pub(crate) fn advertised(&self, peer: PeerId) -> PerFamily<usize> {
        PerFamily { ipv4: self.v4.advertised(peer), ipv6: self.v6.advertised(peer) }
    }

    /// Prefixes with a best path.
    pub(crate) fn prefixes(&self) -> PerFamily<usize> {
        PerFamily { ipv4: self.v4.reachable, ipv6: self.v6.reachable }
    }

    /// All paths held.
    pub(crate) fn paths(&self) -> PerFamily<usize> {
        PerFamily { ipv4: self.v4.held, ipv6: self.v6.held }
    }

    /// Every next hop under watch has been reported on.
    pub(crate) fn all_resolved(&self) -> bool {
        self.shared.nexthops.all_known()
    }

    pub(crate) fn attribute_sets(&self) -> usize {
        self.shared.attrs.len()
    }

    pub(crate) fn nexthops(&self) -> usize {
        self.shared.nexthops.len()
    }
}

impl Shared {
    pub(crate) fn peer(&self, peer: PeerId) -> Option<&RibPeer> {
        self.peers.get(peer.0 as usize)?.as_ref()
    }

    pub(crate) fn peer_mut(&mut self, peer: PeerId) -> Option<&mut RibPeer> {
        self.peers.get_mut(peer.0 as usize)?.as_mut()
    }

    /// There is room for more UPDATEs on the way to the peer.
    fn has_room(&self, peer: PeerId) -> bool {
        self.peer(peer).is_some_and(|held| held.unsent < self.local.unsent_limit)
    }

    fn put(&mut self, peer: RibPeer) {
        let index = peer.id.0 as usize;
        if self.peers.len() <= index {
            self.peers.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.peers.get_mut(index) {
            *slot = Some(peer);
        }
    }

    fn remove(&mut self, peer: PeerId) {
        if let Some(slot) = self.peers.get_mut(peer.0 as usize) {
            *slot = None;
        }
    }
}
