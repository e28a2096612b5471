//! What talkers say: UPDATEs encoded before the clock runs; and how they know what they have heard.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use turnpike_bgp_wire::{
    AsPath, Asn, Attributes, EncodeContext, Family, NextHop, Nlri, Origin, Prefix, Prefix4, encode_reach,
};

/// Host routes are numbered from here.
const FIRST: u32 = u32::from_be_bytes([20, 0, 0, 0]);
/// Host routes with the same attributes: what one node of a cluster might announce.
const SHARED_BY: u32 = 1000;
/// Transit networks that the real table's paths are spread over.
const TRANSITS: u32 = 50;

/// A prefix as a talker counts it: address and length.
pub(super) type Heard = (u32, u8);

/// Numbers for prefixes, so that hearing one is setting a bit.
pub(super) enum Places {
    /// So many host routes from [`FIRST`] on.
    Hosts(u32),
    /// Any prefixes.
    Table(HashMap<Heard, u32>),
}

impl Places {
    pub(super) fn len(&self) -> usize {
        match self {
            Places::Hosts(count) => *count as usize,
            Places::Table(places) => places.len(),
        }
    }

    pub(super) fn of(&self, (bits, len): Heard) -> Option<u32> {
        match self {
            Places::Hosts(count) => bits.checked_sub(FIRST).filter(|place| len == 32 && place < count),
            Places::Table(places) => places.get(&(bits, len)).copied(),
        }
    }
}

/// Which prefixes were heard.
pub(super) struct Seen {
    words: Vec<u64>,
    count: usize,
}

impl Seen {
    /// None but `own`, which do not count.
    pub(super) fn new(places: usize, own: Range<u32>) -> Self {
        let mut seen = Self { words: vec![0; places.div_ceil(64)], count: 0 };
        own.for_each(|place| seen.note(place));
        seen.count = 0;
        seen
    }

    pub(super) fn note(&mut self, place: u32) {
        if let Some(word) = self.words.get_mut(place as usize / 64) {
            let bit = 1 << (place % 64);
            self.count += usize::from(*word & bit == 0);
            *word |= bit;
        }
    }

    pub(super) const fn count(&self) -> usize {
        self.count
    }
}

/// Calls `each` for every IPv4 prefix announced in the body of an UPDATE.
pub(super) fn announced(body: &[u8], mut each: impl FnMut(Heard)) -> Result<()> {
    let field = |bytes: &[u8]| bytes.first_chunk::<2>().map(|len| 2 + usize::from(u16::from_be_bytes(*len)));
    let behind = |bytes: &'_ [u8]| field(bytes).and_then(|len| bytes.len().checked_sub(len));
    let attributes = behind(body).and_then(|left| body.get(body.len() - left..)).context("a short UPDATE")?;
    let left = behind(attributes).context("a short UPDATE")?;
    let mut nlri = attributes.get(attributes.len() - left..).unwrap_or_default();
    while let Some((len, rest)) = nlri.split_first() {
        let octets = usize::from(len.div_ceil(8));
        let (address, later) = rest.split_at_checked(octets).context("a broken prefix")?;
        let mut bits = [0; 4];
        bits.get_mut(..octets).context("a prefix too long")?.copy_from_slice(address);
        each((u32::from_be_bytes(bits), *len));
        nlri = later;
    }
    Ok(())
}

/// Host routes of a speaker, a thousand to a set of attributes. An external speaker's AS path begins with its AS.
pub(super) fn hosts(range: Range<u32>, speaker: Ipv4Addr, external: Option<u32>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for first in range.clone().step_by(SHARED_BY as usize) {
        let path = external.into_iter().flat_map(|asn| [Asn(asn), Asn(4_200_000_000 + first / SHARED_BY)]);
        let attributes = Attributes {
            origin: Origin::Igp,
            as_path: AsPath::sequence(path),
            local_pref: external.is_none().then_some(100),
            ..Attributes::default()
        };
        let last = range.end.min(first + SHARED_BY);
        let nlri: Vec<Nlri> =
            (first..last).filter_map(|number| Some(Nlri::new(Prefix4::new(FIRST + number, 32)?))).collect();
        encode(&attributes, speaker, &nlri, &mut out)?;
    }
    Ok(out)
}

/// A table as the default-free zone has it: prefixes by the AS that originates them.
pub(super) struct Table {
    by_origin: BTreeMap<u32, Vec<Prefix4>>,
}

impl Table {
    /// Reads lines of `network,length,asn`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let mut by_origin: BTreeMap<u32, Vec<Prefix4>> = BTreeMap::new();
        for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
            let (prefix, asn) =
                parse(line).with_context(|| format!("line {line:?} of {}", path.display()))?;
            // Not every daemon takes 0.0.0.0/1, which is in there by somebody's mistake.
            if prefix.prefix_len() >= 8 {
                by_origin.entry(asn).or_default().push(prefix);
            }
        }
        ensure!(!by_origin.is_empty(), "{} holds no prefixes", path.display());
        Ok(Self { by_origin })
    }

    pub(super) fn places(&self) -> Places {
        // Some prefixes have several origins.
        let all: BTreeSet<Heard> =
            self.by_origin.values().flatten().map(|prefix| (prefix.bits(), prefix.prefix_len())).collect();
        Places::Table(all.into_iter().zip(0..).collect())
    }

    /// UPDATEs of an external speaker that knows the whole table through its transits.
    pub(super) fn says(&self, speaker: Ipv4Addr, asn: u32) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (origin, prefixes) in &self.by_origin {
            let transit = 4_200_100_000 + origin % TRANSITS;
            let attributes = Attributes {
                origin: Origin::Igp,
                as_path: AsPath::sequence([Asn(asn), Asn(transit), Asn((*origin).max(1))]),
                ..Attributes::default()
            };
            let nlri: Vec<Nlri> = prefixes.iter().copied().map(Nlri::new).collect();
            encode(&attributes, speaker, &nlri, &mut out)?;
        }
        Ok(out)
    }
}

fn parse(line: &str) -> Option<(Prefix4, u32)> {
    let mut fields = line.split(',');
    let address: Ipv4Addr = fields.next()?.parse().ok()?;
    let len = fields.next()?.parse().ok()?;
    let asn = fields.next()?.trim().parse().ok()?;
    Some((Prefix4::new(address.to_bits(), len)?, asn))
}

fn encode(attributes: &Attributes, speaker: Ipv4Addr, nlri: &[Nlri], out: &mut Vec<u8>) -> Result<()> {
    debug_assert!(nlri.iter().all(|nlri| matches!(nlri.prefix, Prefix::V4(_))));
    encode_reach(attributes, Family::Ipv4, NextHop::V4(speaker), nlri, &EncodeContext::default(), out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let says = hosts(500..3000, Ipv4Addr::new(10, 0, 0, 1), Some(65001)).unwrap();
        let places = Places::Hosts(4000);
        let mut seen = Seen::new(places.len(), 0..600);
        let mut framer = turnpike_bgp_wire::Framer::new();
        framer.push(&says);
        while let Some(frame) = framer.next_frame().unwrap() {
            announced(frame.body, |heard| seen.note(places.of(heard).unwrap())).unwrap();
        }
        assert_eq!((framer.pending(), seen.count()), (0, 2400));
    }

    #[test]
    fn a_broken_update_is_an_error_and_no_panic() {
        for body in [&[][..], &[0], &[0, 9], &[0, 0, 0], &[0, 0, 0, 0, 33, 1, 2, 3, 4], &[0, 0, 0, 0, 24, 1]]
        {
            assert!(announced(body, |_| {}).is_err(), "{body:?}");
        }
    }
}
