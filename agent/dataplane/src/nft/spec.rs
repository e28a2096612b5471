//! What our nftables table holds: sets, chains, rules as plain values, compared and hashed before they are written.

use crate::endpoint::fnv1a;

/// The whole table. An empty one is no table at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TableSpec {
    pub(crate) sets: Vec<SetSpec>,
    pub(crate) chains: Vec<ChainSpec>,
}

impl TableSpec {
    /// True where there is nothing to enforce.
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty()
    }

    /// The chain of that name.
    pub(crate) fn chain(&self, name: &str) -> Option<&ChainSpec> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// The set of that name.
    pub(crate) fn set(&self, name: &str) -> Option<&SetSpec> {
        self.sets.iter().find(|set| set.name == name)
    }
}

/// The type of one field of a set's key, with the number that nft(8) lists it under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    Icmp,
    Icmpv6,
}

impl Field {
    /// `enum datatypes` of nft(8): only for people who list the set.
    fn datatype(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Icmp => 14,
            Self::Icmpv6 => 29,
        }
    }

    /// Bytes that count.
    pub(crate) fn length(self) -> u32 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
            Self::Protocol | Self::Icmp | Self::Icmpv6 => 1,
            Self::Port => 2,
        }
    }
}

/// How a set is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetKind {
    /// Exact keys.
    Hash,
    /// Ranges of single-field keys.
    Ranges,
    /// Ranges in each field of a concatenation.
    ConcatRanges,
    /// Filled by rules; entries expire after so many milliseconds unused.
    Dynamic { timeout_ms: u64, size: u32 },
    /// Exact keys, each with a value of these fields.
    Map(&'static [Field]),
}

/// A set. Elements of [`SetKind::Dynamic`] belong to the packets, not to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetSpec {
    pub(crate) name: &'static str,
    pub(crate) kind: SetKind,
    pub(crate) fields: Vec<Field>,
    pub(crate) elements: Vec<Element>,
}

impl SetSpec {
    /// Flags of `enum nft_set_flags`.
    pub(crate) fn flags(&self) -> u32 {
        const INTERVAL: u32 = 0x4;
        const MAP: u32 = 0x8;
        const TIMEOUT: u32 = 0x10;
        const EVAL: u32 = 0x20;
        const CONCAT: u32 = 0x80;
        match self.kind {
            SetKind::Hash => 0,
            SetKind::Ranges => INTERVAL,
            SetKind::ConcatRanges => INTERVAL | CONCAT,
            SetKind::Dynamic { .. } => TIMEOUT | EVAL,
            SetKind::Map(_) => MAP,
        }
    }

    /// nft(8)'s number for the key's type; six bits for each field of a concatenation.
    pub(crate) fn key_type(&self) -> u32 {
        datatype_of(&self.fields)
    }

    /// Bytes of a key; every field of a concatenation is padded to four.
    pub(crate) fn key_length(&self) -> u32 {
        length_of(&self.fields)
    }

    /// The same two of a map's values.
    pub(crate) fn value_definition(&self) -> Option<(u32, u32)> {
        match self.kind {
            SetKind::Map(fields) => Some((datatype_of(fields), length_of(fields))),
            _ => None,
        }
    }
}

fn datatype_of(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |all, field| (all << 6) | field.datatype())
}

fn length_of(fields: &[Field]) -> u32 {
    match fields {
        [single] => single.length(),
        fields => fields.iter().map(|field| field.length().next_multiple_of(4)).sum(),
    }
}

/// One element, or one boundary of a range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    /// Last key of the range, in sets of concatenated ranges.
    pub(crate) key_end: Option<Vec<u8>>,
    /// In sets of ranges: this key is the first one behind a range.
    pub(crate) range_end: bool,
    /// In maps: what the key leads to.
    pub(crate) value: Option<Vec<u8>>,
}

impl Element {
    /// An exact key.
    pub(crate) fn exact(key: Vec<u8>) -> Self {
        Self { key, key_end: None, range_end: false, value: None }
    }

    /// A key and what it leads to.
    pub(crate) fn pair(key: Vec<u8>, value: Vec<u8>) -> Self {
        Self { value: Some(value), ..Self::exact(key) }
    }
}

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) hook: Hook,
    /// `NF_IP_PRI_…`.
    pub(crate) priority: i32,
    pub(crate) kind: BaseKind,
}

/// The netfilter hooks that we use; the numbers are `NF_INET_…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A base chain's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BaseKind {
    Filter,
    Nat,
}

impl BaseKind {
    /// The kernel's name of the type.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// A chain and its rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainSpec {
    pub(crate) name: &'static str,
    /// `None`: entered by jumps only.
    pub(crate) base: Option<Base>,
    pub(crate) rules: Vec<RuleSpec>,
}

/// A rule and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleSpec {
    /// For people; at most 100 bytes.
    pub(crate) purpose: String,
    pub(crate) expressions: Vec<Expr>,
}

impl RuleSpec {
    /// The rule's comment in the kernel: purpose and a hash of the content, by which a rule of ours is recognised
    /// without decoding it. Bump `CONTENT` when the same expressions are encoded differently.
    pub(crate) fn comment(&self) -> String {
        const CONTENT: &str = "1";
        let hash = fnv1a(format!("{CONTENT}{:?}", self.expressions).as_bytes());
        format!("{} #{hash:016x}", self.purpose)
    }
}

/// A 4-byte register of the nftables virtual machine (`NFT_REG32_00` and on).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reg(pub(crate) u32);

/// From where a payload offset counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    Network,
    Transport,
}

/// Packet metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    NfProto,
    L4Proto,
    /// Name of the interface that the packet came in by, in 16 bytes.
    InputName,
    /// Name of the interface that it leaves by, in 16 bytes.
    OutputName,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Loads metadata.
    Meta(Meta, Reg),
    /// Loads `length` bytes at `offset`.
    Payload { header: Header, offset: u32, length: u32, into: Reg },
    /// Loads the conntrack state as a bit mask.
    CtState(Reg),
    /// `into = (from & mask)`.
    Mask { reg: Reg, mask: Vec<u8> },
    /// Goes on where the register equals (or does not equal) the bytes.
    Cmp { reg: Reg, equal: bool, bytes: Vec<u8> },
    /// Goes on where the register's key is (or is not) in the set.
    Lookup { reg: Reg, set: &'static str, found: bool },
    /// Replaces the register's key by what the map has for it; ends the rule where that is nothing.
    Translate { reg: Reg, map: &'static str },
    /// Loads the routing type (`RTN_…`) of the destination.
    DestinationType(Reg),
    /// Destination becomes the address and port in the registers.
    Dnat { nfproto: u8, address: Reg, port: Reg },
    /// Adds the key to a dynamic set or renews its timeout.
    Remember { reg: Reg, set: &'static str },
    /// Counts packets and bytes.
    Counter,
    /// Takes the packet past conntrack.
    Notrack,
    /// Source becomes the outgoing interface's address; port chosen at random.
    Masquerade,
    /// Ends this base chain, the packet goes on.
    Accept,
    /// Ends the packet.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Into another chain and back.
    Jump(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rules_comment_changes_with_its_content_only() {
        let rule = RuleSpec { purpose: "a".to_owned(), expressions: vec![Expr::Counter, Expr::Notrack] };
        let same = rule.clone();
        let other = RuleSpec { purpose: "a".to_owned(), expressions: vec![Expr::Notrack] };
        assert_eq!(rule.comment(), same.comment());
        assert_ne!(rule.comment(), other.comment());
    }

    #[test]
    fn concatenated_keys_are_padded_field_by_field() {
        let set = SetSpec {
            name: "x",
            kind: SetKind::ConcatRanges,
            fields: vec![Field::Ipv4, Field::Protocol, Field::Port],
            elements: vec![],
        };
        assert_eq!((set.key_length(), set.key_type()), (12, (7 << 12) | (12 << 6) | 13));
    }
}
