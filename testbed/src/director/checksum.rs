//! Internet checksums, whole (RFC 1071) and by difference (RFC 1624 §3, equation 3).
//!
//! Translated packets are updated by difference, never recomputed: a segment that arrived damaged leaves
//! damaged, so that its receiver and not the director decides about it, and the cost does not grow with
//! the payload.

/// What a rewrite does to a one's complement sum, collected over all fields that change.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Change(u64);

impl Change {
    /// `old` becomes `new` at `offset` bytes from where the summed data begins (its parity matters).
    pub(super) fn replace(&mut self, offset: usize, old: &[u8], new: &[u8]) {
        self.0 += raw_sum_inverted(offset, old) + raw_sum(offset, new);
    }

    /// `new` is put in at `offset`; what follows moves by an even number of bytes.
    pub(super) fn insert(&mut self, offset: usize, new: &[u8]) {
        self.0 += raw_sum(offset, new);
    }

    /// The checksum field after the change.
    pub(super) fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }
}

/// The checksum of `data`, behind the words already in `start` (a pseudo-header, or 0).
pub(super) fn of(start: u64, data: &[u8]) -> u16 {
    !fold(start + raw_sum(0, data))
}

/// Whether data that contains its checksum adds up to "all ones".
pub(super) fn is_valid(start: u64, data: &[u8]) -> bool {
    fold(start + raw_sum(0, data)) == 0xffff
}

/// The sum of the bytes as big-endian 16-bit words, unfolded; `offset` says which half of a word is first.
pub(super) fn raw_sum(offset: usize, data: &[u8]) -> u64 {
    let mut sums = [0_u64; 2];
    for pair in data.chunks(2) {
        if let [first, rest @ ..] = pair {
            sums[0] += u64::from(*first);
            sums[1] += rest.first().map_or(0, |&second| u64::from(second));
        }
    }
    let [first, second] = sums;
    if offset.is_multiple_of(2) { (first << 8) + second } else { first + (second << 8) }
}

/// The sum of the complements of the words, where bytes outside `data` count as unchanged.
fn raw_sum_inverted(offset: usize, data: &[u8]) -> u64 {
    u64::from(!fold(raw_sum(offset, data)))
}

fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071_section_3_adds_up() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(of(0, &data), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4_gives_zero_and_not_minus_zero() {
        // HC = 0xDD2F, m = 0x5555, m' = 0x3285: equation 3 answers 0x0000.
        let mut change = Change::default();
        change.replace(0, &[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(change.apply(0xdd2f), 0x0000);
    }

    proptest! {
        #[test]
        fn a_replacement_anywhere_keeps_a_valid_sum_valid(
            mut data in proptest::collection::vec(any::<u8>(), 40..200),
            at in 2_usize..30,
            new in proptest::collection::vec(any::<u8>(), 1..10),
        ) {
            data[0] = 0;
            data[1] = 0;
            data[39] |= 1; // a sum of zero cannot be written as a checksum of zero
            let checksum = of(0, &data);
            let mut change = Change::default();
            change.replace(at, &data[at..at + new.len()], &new);
            data[at..at + new.len()].copy_from_slice(&new);
            data[..2].copy_from_slice(&change.apply(checksum).to_be_bytes());
            prop_assert!(is_valid(0, &data));
        }

        #[test]
        fn an_insertion_keeps_a_valid_sum_valid(
            mut data in proptest::collection::vec(any::<u8>(), 40..200),
            words in proptest::collection::vec(any::<[u8; 4]>(), 1..5),
        ) {
            data[0] = 0;
            data[1] = 0;
            data[39] |= 1;
            let checksum = of(0, &data);
            let new: Vec<u8> = words.concat();
            let mut change = Change::default();
            change.insert(20, &new);
            data.splice(20..20, new);
            data[..2].copy_from_slice(&change.apply(checksum).to_be_bytes());
            prop_assert!(is_valid(0, &data));
        }
    }
}
