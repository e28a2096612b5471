//! AS_PATH (RFC 4271 §5.1.2), its two-octet form and AS4_PATH (RFC 6793).

mod pattern;

use std::fmt;

pub use pattern::{AsPathPattern, ParseAsPathPatternError};

use super::Fault;
use crate::Asn;
use crate::reader::Reader;

/// An AS path, held as its own four-octet wire form: valid by construction, cheap to compare and to copy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AsPath(Box<[u8]>);

/// Kinds of segments. Confederations (RFC 5065) are not spoken: their segments are malformed here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SegmentKind {
    /// AS_SET: unordered.
    Set,
    /// AS_SEQUENCE: ordered, the latest first.
    Sequence,
}

/// AS_CONFED_SEQUENCE and AS_CONFED_SET (RFC 5065 §3).
const CONFEDERATION: [u8; 2] = [3, 4];

impl SegmentKind {
    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(SegmentKind::Set),
            2 => Some(SegmentKind::Sequence),
            _ => None,
        }
    }

    const fn code(self) -> u8 {
        match self {
            SegmentKind::Set => 1,
            SegmentKind::Sequence => 2,
        }
    }
}

/// One segment of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// Its kind.
    pub kind: SegmentKind,
    octets: &'a [u8],
}

impl<'a> Segment<'a> {
    /// The AS numbers in order.
    pub fn asns(self) -> impl Iterator<Item = Asn> + 'a {
        self.octets.as_chunks::<4>().0.iter().map(|octets| Asn(u32::from_be_bytes(*octets)))
    }

    /// How many AS numbers.
    pub const fn count(self) -> usize {
        self.octets.len() / 4
    }

    /// What it adds to the length of the path: a set counts as one (RFC 4271 §9.1.2.2 a).
    const fn hops(self) -> usize {
        match self.kind {
            SegmentKind::Set => 1,
            SegmentKind::Sequence => self.count(),
        }
    }
}

impl AsPath {
    /// A path of one sequence (of several, where there are more than 255 numbers).
    pub fn sequence(asns: impl IntoIterator<Item = Asn>) -> Self {
        let asns: Vec<Asn> = asns.into_iter().collect();
        let mut octets = Vec::with_capacity(2 + asns.len() * 4);
        for chunk in asns.chunks(255) {
            push_segment(&mut octets, SegmentKind::Sequence, chunk.iter().copied());
        }
        AsPath(octets.into())
    }

    /// Decodes a value with AS numbers of four octets, or of two.
    pub(crate) fn decode(value: &[u8], four_octet: bool) -> Result<Self, Fault> {
        let width = if four_octet { 4 } else { 2 };
        let mut reader = Reader::new(value);
        let mut octets = Vec::with_capacity(if four_octet { value.len() } else { value.len() * 2 });
        while !reader.is_empty() {
            // RFC 7606 §7.2: type, overrun, underrun and empty segments.
            let kind = reader.u8().and_then(SegmentKind::from_code).ok_or(Fault::Segment)?;
            let count = reader.u8().filter(|count| *count > 0).ok_or(Fault::Segment)?;
            let numbers = reader.take(usize::from(count) * width).ok_or(Fault::Segment)?;
            octets.extend_from_slice(&[kind.code(), count]);
            if four_octet {
                octets.extend_from_slice(numbers);
            } else {
                octets.extend(numbers.as_chunks::<2>().0.iter().flat_map(|[high, low]| [0, 0, *high, *low]));
            }
        }
        let path = AsPath(octets.into());
        if path.asns().any(|asn| asn.0 == 0) {
            return Err(Fault::AsZero);
        }
        Ok(path)
    }

    /// Decodes the value of an AS4_PATH. Confederation segments, which old speakers may have let through, are dropped
    /// and the rest counts (RFC 6793 §6).
    pub(crate) fn decode_as4(value: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(value);
        let mut kept = Vec::with_capacity(value.len());
        while !reader.is_empty() {
            let kind = reader.u8().ok_or(Fault::Segment)?;
            let count = reader.u8().ok_or(Fault::Segment)?;
            let numbers = reader.take(usize::from(count) * 4).ok_or(Fault::Segment)?;
            if !CONFEDERATION.contains(&kind) {
                kept.extend_from_slice(&[kind, count]);
                kept.extend_from_slice(numbers);
            }
        }
        Self::decode(&kept, true)
    }

    /// Appends the value with AS numbers of four octets, or of two with AS_TRANS for what does not fit.
    pub(crate) fn encode(&self, four_octet: bool, out: &mut Vec<u8>) {
        if four_octet {
            out.extend_from_slice(&self.0);
            return;
        }
        for segment in self.segments() {
            out.extend_from_slice(&[segment.kind.code(), segment.count() as u8]);
            out.extend(segment.asns().flat_map(|asn| asn.as_u16_or_trans().to_be_bytes()));
        }
    }

    /// True if the two-octet form loses something.
    pub(crate) fn needs_four_octets(&self) -> bool {
        self.asns().any(|asn| asn.0 > 0xffff)
    }

    /// The four-octet wire form.
    pub const fn as_octets(&self) -> &[u8] {
        &self.0
    }

    /// The segments in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let mut reader = Reader::new(&self.0);
        std::iter::from_fn(move || {
            let kind = SegmentKind::from_code(reader.u8()?)?;
            let count = reader.u8()?;
            Some(Segment { kind, octets: reader.take(usize::from(count) * 4)? })
        })
    }

    /// Every AS number, sets included.
    pub fn asns(&self) -> impl Iterator<Item = Asn> {
        self.segments().flat_map(Segment::asns)
    }

    /// Length for the decision process: a set counts as one.
    pub fn hops(&self) -> usize {
        self.segments().map(Segment::hops).sum()
    }

    /// True for a path that never left its AS.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The AS that the path came from last: the leftmost one, if it stands in a sequence.
    pub fn neighbour(&self) -> Option<Asn> {
        let first = self.segments().next()?;
        match first.kind {
            SegmentKind::Sequence => first.asns().next(),
            SegmentKind::Set => None,
        }
    }

    /// The AS that originated the path: the rightmost one, if it stands in a sequence.
    pub fn origin(&self) -> Option<Asn> {
        let last = self.segments().last()?;
        match last.kind {
            SegmentKind::Sequence => last.asns().last(),
            SegmentKind::Set => None,
        }
    }

    /// How often an AS stands in the path.
    pub fn count(&self, asn: Asn) -> usize {
        self.asns().filter(|other| *other == asn).count()
    }

    /// The path with `asn` put in front so many times (RFC 4271 §5.1.2 b).
    #[must_use]
    pub fn prepended(&self, asn: Asn, times: usize) -> Self {
        if times == 0 {
            return self.clone();
        }
        let mut front: Vec<Asn> = std::iter::repeat_n(asn, times).collect();
        let mut rest: &[u8] = &self.0;
        if let Some(first) = self.segments().next()
            && first.kind == SegmentKind::Sequence
            && first.count() + times <= 255
        {
            front.extend(first.asns());
            rest = self.0.get(2 + first.octets.len()..).unwrap_or_default();
        }
        let mut octets = AsPath::sequence(front).0.into_vec();
        octets.extend_from_slice(rest);
        AsPath(octets.into())
    }

    /// Puts the true numbers of an AS4_PATH behind what two-octet speakers put in front (RFC 6793 §4.2.3).
    #[must_use]
    pub(crate) fn merged_with_as4(&self, as4: &AsPath) -> Self {
        let Some(mut leading) = self.hops().checked_sub(as4.hops()) else { return self.clone() };
        let mut octets = Vec::with_capacity(self.0.len() + as4.0.len());
        for segment in self.segments() {
            if leading == 0 {
                break;
            }
            let whole = segment.hops() <= leading;
            let keep = if whole { segment.count() } else { leading };
            push_segment(&mut octets, segment.kind, segment.asns().take(keep));
            leading -= segment.hops().min(leading);
        }
        octets.extend_from_slice(&as4.0);
        AsPath(octets.into())
    }
}

/// Appends one segment of at most 255 numbers.
fn push_segment(octets: &mut Vec<u8>, kind: SegmentKind, asns: impl Iterator<Item = Asn>) {
    let at = octets.len();
    octets.extend_from_slice(&[kind.code(), 0]);
    octets.extend(asns.flat_map(|asn| asn.0.to_be_bytes()));
    let count = ((octets.len() - at - 2) / 4) as u8;
    if let Some(field) = octets.get_mut(at + 1) {
        *field = count;
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for segment in self.segments() {
            let (open, close) = match segment.kind {
                SegmentKind::Sequence => ("", ""),
                SegmentKind::Set => ("{", "}"),
            };
            write!(f, "{gap}{open}")?;
            for (index, asn) in segment.asns().enumerate() {
                let space = if index == 0 { "" } else { " " };
                write!(f, "{space}{asn}")?;
            }
            f.write_str(close)?;
            gap = " ";
        }
        Ok(())
    }
}

impl fmt::Debug for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(segments: &[(u8, &[u32])]) -> AsPath {
        let mut octets = Vec::new();
        for (kind, asns) in segments {
            octets.extend_from_slice(&[*kind, asns.len() as u8]);
            octets.extend(asns.iter().flat_map(|asn| asn.to_be_bytes()));
        }
        AsPath::decode(&octets, true).unwrap()
    }

    #[test]
    fn a_set_counts_as_one_hop() {
        let path = path(&[(2, &[65001, 65002]), (1, &[1, 2, 3])]);
        assert_eq!(path.to_string(), "65001 65002 {1 2 3}");
        assert_eq!((path.hops(), path.neighbour(), path.origin()), (3, Some(Asn(65001)), None));
    }

    #[test]
    fn prepending_extends_the_first_sequence_until_it_is_full() {
        assert_eq!(AsPath::default().prepended(Asn(1), 2).to_string(), "1 1");
        let full = AsPath::sequence((1..=255).map(Asn));
        let longer = full.prepended(Asn(9), 1);
        assert_eq!((longer.segments().count(), longer.hops()), (2, 256));
        let set = path(&[(1, &[7, 8])]).prepended(Asn(9), 1);
        assert_eq!(set.to_string(), "9 {7 8}");
    }

    #[test]
    fn two_octet_speakers_in_between_lose_no_numbers() {
        // RFC 6793 §4.2.3: 23456 stands for what only AS4_PATH knows.
        let as4 = path(&[(2, &[70000, 65002, 80000])]);
        let seen = path(&[(2, &[100, 200, 23456, 65002, 23456])]);
        assert_eq!(seen.merged_with_as4(&as4).to_string(), "100 200 70000 65002 80000");
        let shorter = path(&[(2, &[100])]);
        assert_eq!(shorter.merged_with_as4(&as4), shorter);
        let with_set = path(&[(2, &[100]), (1, &[5, 6]), (2, &[23456])]);
        assert_eq!(with_set.merged_with_as4(&path(&[(2, &[70000])])).to_string(), "100 {5 6} 70000");
    }

    #[test]
    fn malformed_paths_are_told_apart() {
        // RFC 7606 §7.2 and RFC 7607.
        for bad in [&[3, 1, 0, 0, 0, 1][..], &[2, 0], &[2], &[2, 2, 0, 0, 0, 1], &[2, 1, 0, 0, 0, 1, 2]] {
            assert_eq!(AsPath::decode(bad, true), Err(Fault::Segment), "{bad:?}");
        }
        assert_eq!(AsPath::decode(&[2, 1, 0, 0, 0, 0], true), Err(Fault::AsZero));
    }
}
