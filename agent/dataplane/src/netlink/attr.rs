//! Netlink attributes (type, length, value) in and out, for messages that netlink-packet-route does not know:
//! TBF, u32 and mirred options, nftables sets, conntrack entries.

/// `NLA_F_NESTED`: the value is a list of attributes.
const NESTED: u16 = 0x8000;
/// Everything but the two flag bits of a type.
const TYPE_MASK: u16 = 0x3fff;

/// A list of attributes being built.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// Appends an attribute with a raw value.
    pub(crate) fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a number in host byte order (rtnetlink).
    pub(crate) fn put_u64(self, kind: u16, value: u64) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a number in network byte order (nftables, conntrack).
    pub(crate) fn put_be32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Appends a text with its final NUL.
    pub(crate) fn put_text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Appends a nested list.
    pub(crate) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.put(kind | NESTED, &inner.0)
    }

    /// The encoded list.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Walks a list of attributes: types without flag bits, values without padding. Stops at the first malformed one.
pub(crate) fn iter(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a type.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    iter(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A number in host byte order.
pub(crate) fn find_u32(bytes: &[u8], kind: u16) -> Option<u32> {
    u32_at(find(bytes, kind)?, 0)
}

/// A number in network byte order.
pub(crate) fn find_be32(bytes: &[u8], kind: u16) -> Option<u32> {
    find_u32(bytes, kind).map(u32::from_be)
}

/// A text attribute's value up to its NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// Two bytes in host order at an offset.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let end = offset.checked_add(2)?;
    bytes.get(offset..end)?.try_into().ok().map(u16::from_ne_bytes)
}

/// Four bytes in host order at an offset.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    bytes.get(offset..end)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Eight bytes in host order at an offset.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let end = offset.checked_add(8)?;
    bytes.get(offset..end)?.try_into().ok().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found() {
        let inner = Attributes::default().put(1, &7_u32.to_ne_bytes()).put_text(2, "tbf");
        let list = Attributes::default().put(9, &[1]).nest(3, &inner);
        let nested = find(list.bytes(), 3).unwrap();
        assert_eq!(find_u32(nested, 1), Some(7));
        assert_eq!(text(find(nested, 2).unwrap()), "tbf");
        assert_eq!(find(list.bytes(), 9), Some(&[1][..]));
        assert_eq!(find(list.bytes(), 4), None);
    }

    #[test]
    fn a_lying_length_ends_the_walk() {
        assert_eq!(iter(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(iter(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(iter(&[4, 0, 1, 0, 0]).count(), 1);
    }
}
