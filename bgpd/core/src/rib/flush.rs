//! Packing changes into UPDATEs and handing them to the members of a group.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use turnpike_bgp_wire::{
    Family, Nlri, RouteRefresh, RouteRefreshKind, encode_end_of_rib, encode_reach, encode_unreach,
};

use super::attrs::{ByAddress, PathAttrs};
use super::export::GroupKey;
use super::table::{Origination, TablePrefix};
use super::told::Advert;
use super::{RibOutput, Shared};
use crate::query::PeerId;

/// Prefixes with the same attributes from the same source.
struct Bucket {
    attrs: Arc<PathAttrs>,
    from: Origination,
    nlri: Vec<Nlri>,
}

/// Changes on their way to peers, sorted so that few messages carry them.
pub(super) struct Packer {
    buckets: Vec<Bucket>,
    index: HashMap<(*const PathAttrs, Origination), usize, ByAddress>,
    /// Withdrawn from everybody but the source of the path that was told before.
    withdrawn: BTreeMap<Origination, Vec<Nlri>>,
    /// Withdrawn from one peer alone: the new path came from it, the old one did not.
    withdrawn_from: BTreeMap<PeerId, Vec<Nlri>>,
}

/// UPDATEs one after the other, in segments that go to everybody but one. However many sources there are, a peer is
/// sent what stands before its own segment and what stands behind it.
struct Segments {
    bytes: Bytes,
    /// In the order of what they leave out.
    ends: Vec<Segment>,
}

struct Segment {
    except: Origination,
    /// Where it ends: octets and messages so far.
    octets: usize,
    messages: usize,
}

impl Segments {
    fn join(parts: BTreeMap<Origination, (Vec<u8>, usize)>) -> Self {
        let mut whole = Vec::new();
        let mut messages = 0;
        let mut ends = Vec::with_capacity(parts.len());
        for (except, (bytes, count)) in parts.into_iter().filter(|(_, (_, count))| *count > 0) {
            if whole.is_empty() {
                whole = bytes;
            } else {
                whole.extend_from_slice(&bytes);
            }
            messages += count;
            ends.push(Segment { except, octets: whole.len(), messages });
        }
        Self { bytes: whole.into(), ends }
    }

    /// What this peer is told, with the number of messages.
    fn of(&self, peer: PeerId) -> impl Iterator<Item = (Bytes, usize)> {
        let end = |index: usize| match index.checked_sub(1).and_then(|before| self.ends.get(before)) {
            Some(segment) => (segment.octets, segment.messages),
            None => (0, 0),
        };
        let last = self.ends.len();
        let own = self.ends.binary_search_by_key(&peer.into(), |segment| segment.except);
        let spans = match own {
            Ok(own) => [(0, own), (own + 1, last)],
            Err(_) => [(0, last), (last, last)],
        };
        let part = move |(from, to)| {
            let ((from, before), (to, messages)) = (end(from), end(to));
            (self.bytes.slice(from..to), messages - before)
        };
        spans.into_iter().map(part).filter(|(_, messages)| *messages > 0)
    }
}

impl Packer {
    pub(super) fn new() -> Self {
        Self {
            buckets: Vec::new(),
            index: HashMap::default(),
            withdrawn: BTreeMap::new(),
            withdrawn_from: BTreeMap::new(),
        }
    }

    /// Takes in what happened to one slot.
    pub(super) fn change<P: TablePrefix>(&mut self, prefix: P, old: Option<&Advert>, new: Option<&Advert>) {
        let nlri = |advert: &Advert| Nlri { prefix: prefix.into(), path_id: advert.path_id() };
        match (old, new) {
            (_, Some(new)) => {
                let nlri = nlri(new);
                let place = (Arc::as_ptr(&new.attrs), new.from);
                let buckets = &mut self.buckets;
                let at = *self.index.entry(place).or_insert_with(|| {
                    buckets.push(Bucket { attrs: Arc::clone(&new.attrs), from: new.from, nlri: Vec::new() });
                    buckets.len() - 1
                });
                if let Some(bucket) = self.buckets.get_mut(at) {
                    bucket.nlri.push(nlri);
                }
                let lost_by = new.from.peer().filter(|_| old.is_some_and(|old| old.from != new.from));
                if let Some(peer) = lost_by {
                    self.withdrawn_from.entry(peer).or_default().push(nlri);
                }
            }
            (Some(old), None) => self.withdrawn.entry(old.from).or_default().push(nlri(old)),
            (None, None) => {}
        }
    }

    /// Withdraws a slot, whatever was told before.
    pub(super) fn withdraw<P: TablePrefix>(&mut self, prefix: P, path_id: u32) {
        let nlri = Nlri { prefix: prefix.into(), path_id };
        self.withdrawn.entry(Origination::LOCAL).or_default().push(nlri);
    }

    /// Encodes everything once and sends it to the audience, which is in order.
    pub(super) fn send(self, key: &GroupKey, audience: &[PeerId], shared: &mut Shared) {
        if audience.is_empty() {
            return;
        }
        let alone: Vec<(PeerId, Vec<Nlri>)> =
            self.withdrawn_from.iter().map(|(peer, nlri)| (*peer, nlri.clone())).collect();
        let segments = self.encode(key, audience, shared);
        for peer in audience {
            for (bytes, messages) in segments.of(*peer) {
                shared.send(*peer, bytes, messages);
            }
        }
        for (peer, nlri) in alone.into_iter().filter(|(peer, _)| audience.binary_search(peer).is_ok()) {
            let mut bytes = Vec::new();
            let messages = encode_unreach(key.family, &nlri, &key.encode, &mut bytes);
            shared.send(peer, bytes.into(), messages);
        }
    }

    fn encode(mut self, key: &GroupKey, audience: &[PeerId], shared: &mut Shared) -> Segments {
        // One segment for each source; buckets keep their order inside it.
        self.buckets.sort_by_key(|bucket| bucket.from);
        let mut parts: BTreeMap<Origination, (Vec<u8>, usize)> = BTreeMap::new();
        for bucket in self.buckets {
            let (bytes, messages) = parts.entry(bucket.from).or_default();
            let Some(next_hop) = bucket.attrs.next_hop else { continue };
            let attributes = &bucket.attrs.attributes;
            match encode_reach(attributes, key.family, next_hop, &bucket.nlri, &key.encode, bytes) {
                Ok(count) => *messages += count,
                Err(_) => {
                    // RFC 8654 §5: a path that does not fit is not announced, and what was announced before goes.
                    let told = audience.iter().filter(|peer| bucket.from != (**peer).into());
                    for (peer, nlri) in told.flat_map(|peer| bucket.nlri.iter().map(move |nlri| (peer, nlri)))
                    {
                        shared.out.push_back(RibOutput::TooLarge { peer: *peer, prefix: nlri.prefix });
                    }
                    self.withdrawn.entry(bucket.from).or_default().extend(bucket.nlri);
                }
            }
        }
        for (from, nlri) in self.withdrawn {
            let (bytes, messages) = parts.entry(from).or_default();
            *messages += encode_unreach(key.family, &nlri, &key.encode, bytes);
        }
        Segments::join(parts)
    }
}

impl Shared {
    fn send(&mut self, peer: PeerId, bytes: Bytes, messages: usize) {
        if let Some(held) = self.peer_mut(peer) {
            held.unsent += bytes.len();
            self.out.push_back(RibOutput::Send { peer, bytes, messages });
        }
    }
}

/// BoRR or EoRR (RFC 7313).
pub(super) fn send_refresh_marker(peer: PeerId, family: Family, begin: bool, shared: &mut Shared) {
    let kind = if begin { RouteRefreshKind::Begin } else { RouteRefreshKind::End };
    let mut bytes = Vec::new();
    RouteRefresh { family: family.code(), kind }.encode(&mut bytes);
    shared.send(peer, bytes.into(), 1);
}

pub(super) fn send_end_of_rib(peer: PeerId, family: Family, shared: &mut Shared) {
    let mut bytes = Vec::new();
    encode_end_of_rib(family, &mut bytes);
    shared.send(peer, bytes.into(), 1);
}
