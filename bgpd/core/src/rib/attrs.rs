//! Attribute sets, each held once.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::Arc;

use smallvec::SmallVec;
use turnpike_bgp_wire::{Asn, Attributes, Community, LargeCommunity, NextHop, RouterId};

/// Attributes and next hop of a path, with what is asked for most often worked out.
#[derive(Debug)]
pub(crate) struct PathAttrs {
    pub(crate) attributes: Attributes,
    /// `None`: we originate the path.
    pub(crate) next_hop: Option<NextHop>,
    pub(super) hops: u32,
    pub(super) neighbour: Option<Asn>,
    /// LLGR_STALE is among its communities (RFC 9494).
    pub(super) long_lived: bool,
    hash: u64,
}

impl PathAttrs {
    fn new(attributes: Attributes, next_hop: Option<NextHop>, hasher: &RandomState) -> Self {
        let hops = attributes.as_path.hops() as u32;
        let neighbour = attributes.as_path.neighbour();
        let long_lived = attributes.communities.contains(&Community::LLGR_STALE);
        // The parts that differ most often, as one run of octets: hashing field by field costs several times more.
        let mut octets: SmallVec<[u8; 256]> = SmallVec::new();
        octets.extend_from_slice(attributes.as_path.as_octets());
        for number in [attributes.med, attributes.local_pref, attributes.originator_id.map(RouterId::to_u32)]
        {
            octets.extend_from_slice(&number.unwrap_or(u32::MAX).to_be_bytes());
        }
        attributes
            .communities
            .iter()
            .for_each(|community| octets.extend_from_slice(&community.0.to_be_bytes()));
        attributes.cluster_list.iter().for_each(|id| octets.extend_from_slice(&id.0.octets()));
        attributes.extended_communities.iter().for_each(|community| octets.extend_from_slice(&community.0));
        for community in &attributes.large_communities {
            let LargeCommunity { global, local1, local2 } = community;
            [global, local1, local2].iter().for_each(|part| octets.extend_from_slice(&part.to_be_bytes()));
        }
        attributes.unknown.iter().for_each(|attribute| octets.extend_from_slice(&attribute.value));
        let hash = hasher.hash_one((octets.as_slice(), next_hop));
        Self { attributes, next_hop, hops, neighbour, long_lived, hash }
    }
}

impl PartialEq for PathAttrs {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.next_hop == other.next_hop && self.attributes == other.attributes
    }
}

impl Eq for PathAttrs {}

impl Hash for PathAttrs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Hashes addresses of attribute sets, for maps that live as long as one piece of work: no peer chooses the keys, and
/// there is one for every prefix told.
#[derive(Debug, Default)]
pub(super) struct AddressHasher(u64);

/// See [`AddressHasher`].
pub(super) type ByAddress = BuildHasherDefault<AddressHasher>;

impl AddressHasher {
    fn mix(&mut self, number: u64) {
        self.0 = self.0.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for AddressHasher {
    /// The product's high bits are the well mixed ones, and tables look at the low ones.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }
}

/// Equal sets share one allocation, so that equality is a comparison of pointers.
#[derive(Debug, Default)]
pub(super) struct Interner {
    hasher: RandomState,
    sets: HashSet<Arc<PathAttrs>>,
    /// Size at which sets that nobody holds any more are looked for.
    purge_at: usize,
}

impl Interner {
    pub(super) fn intern(&mut self, attributes: Attributes, next_hop: Option<NextHop>) -> Arc<PathAttrs> {
        let set = PathAttrs::new(attributes, next_hop, &self.hasher);
        if let Some(held) = self.sets.get(&set) {
            return Arc::clone(held);
        }
        if self.sets.len() >= self.purge_at {
            self.purge();
        }
        let set = Arc::new(set);
        self.sets.insert(Arc::clone(&set));
        set
    }

    /// Frees what nobody holds. Its cost is spread over the growth that led to it.
    fn purge(&mut self) {
        self.sets.retain(|set| Arc::strong_count(set) > 1);
        self.purge_at = (self.sets.len() * 2).max(1024);
    }

    /// Sets that somebody holds.
    pub(super) fn len(&self) -> usize {
        self.sets.iter().filter(|set| Arc::strong_count(set) > 1).count()
    }
}
