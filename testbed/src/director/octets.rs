//! The one bounds-checked way to read and write bytes of a packet.
//!
//! Nothing else in the director touches a packet by offset, so a length that lies can at worst make a
//! read answer `None`.

/// The `N` bytes at `at`, or `None` where the packet ends before them.
pub(super) fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// The byte at `at`.
pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// The big-endian 16-bit word at `at`.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    get(bytes, at).map(u16::from_be_bytes)
}

/// The big-endian 32-bit word at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    get(bytes, at).map(u32::from_be_bytes)
}

/// Overwrites the bytes at `at`; `None` (and no change) where they do not fit.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(at..at.checked_add(value.len())?)?.copy_from_slice(value);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_stop_at_the_end() {
        let mut bytes = [1, 2, 3, 4];
        assert_eq!(u16_at(&bytes, 2), Some(0x0304));
        assert_eq!(u16_at(&bytes, 3), None);
        assert_eq!(u32_at(&bytes, 0), Some(0x0102_0304));
        assert_eq!(get::<1>(&bytes, usize::MAX), None);
        assert_eq!(put(&mut bytes, 3, &[9, 9]), None);
        assert_eq!(put(&mut bytes, usize::MAX, &[9]), None);
        assert_eq!(put(&mut bytes, 2, &[9, 8]), Some(()));
        assert_eq!(bytes, [1, 2, 9, 8]);
    }
}
